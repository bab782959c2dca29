"""The arrays that simulated clusters are made of, and how a run begins."""
