"""Trainings of agents side by side."""
