"""Training of the rule ``learned`` and of its per-scenario variants."""
