"""Evaluate policies over replications, and compare and report the results."""
