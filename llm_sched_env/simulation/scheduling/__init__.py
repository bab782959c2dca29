"""Scheduling in the engine: gates, routers, pools, dispatch rules."""
