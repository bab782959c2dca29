"""Train a router by an evolution strategy on a task that routes arrivals."""
