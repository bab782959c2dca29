"""The arrays that hold simulated clusters, and their initial state."""
