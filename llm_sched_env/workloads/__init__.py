"""Real workloads: traces of requests."""
