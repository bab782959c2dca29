"""Results into documentation pages."""
