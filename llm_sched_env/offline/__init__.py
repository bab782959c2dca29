"""Recorded episodes of a policy as Minari datasets (extra ``offline``)."""
