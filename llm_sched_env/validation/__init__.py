"""Measured runs replayed in the simulator, and how far apart the two are."""
