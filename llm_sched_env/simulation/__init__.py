"""The compiled engine: state, event loop, dispatch rules, request streams, metrics.

Importing this package compiles nothing; :mod:`llm_sched_env.simulation.simulation` does.
"""
