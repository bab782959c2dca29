"""Every policy on the registered tasks: headroom, and who closes it."""
