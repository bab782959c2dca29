"""Every policy on the same instances and sizes."""
