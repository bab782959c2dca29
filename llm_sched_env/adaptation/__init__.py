"""Choosing a cluster's operating point hour by hour, with offline data of a simulator.

``llmsched adapt``; docs/bandits.md has the method and what came out.
"""
