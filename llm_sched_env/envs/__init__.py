"""Gymnasium environments: interval control, its native vector form and the SB3 adapter."""
