"""The events of a simulation: arrivals, completions, abandonments, decisions."""
