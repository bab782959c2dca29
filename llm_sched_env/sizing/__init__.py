"""How many GPUs a workload needs, and which settings serve it best."""
