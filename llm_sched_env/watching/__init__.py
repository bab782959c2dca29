"""Clusters in the terminal, live: ``llmsched watch``."""
