"""The leaderboard: every policy on the same instances and sizes."""
