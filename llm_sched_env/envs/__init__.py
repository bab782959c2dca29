"""Gymnasium environments: fixed-step and event-driven control, vector forms, SB3 adapters."""
