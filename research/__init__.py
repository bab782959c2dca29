"""Studies of the paper and of this project, the leaderboard, and the training of rules."""
