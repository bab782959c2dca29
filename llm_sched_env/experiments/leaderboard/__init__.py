"""The leaderboard: every policy on the same instances, sizes and requests."""
