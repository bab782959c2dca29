"""Compilation of the engine, and the threads that run it."""
