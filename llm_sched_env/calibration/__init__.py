"""From measured iteration times to a hardware file."""
