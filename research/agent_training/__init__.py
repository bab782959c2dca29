"""Compare trainings of agents."""
