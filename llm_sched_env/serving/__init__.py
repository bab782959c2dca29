"""A small continuous-batching engine under the simulator's scheduler (extra ``serving``)."""
