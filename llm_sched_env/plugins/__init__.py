"""Loading what users name by import path, and saying where their exceptions arose."""
