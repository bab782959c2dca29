"""Fit hardware files to measured iteration times."""
