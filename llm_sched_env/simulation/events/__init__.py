"""What happens next: arrivals, completions, abandonments, decisions."""
