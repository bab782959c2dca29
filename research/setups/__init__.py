"""Instances, traffic and runs that several studies share."""
