"""Replications of a policy, what they measure, and how results are compared and shown."""
