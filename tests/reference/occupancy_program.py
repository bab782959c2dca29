"""The fluid programs (40) and (42), written out from the paper for scipy; two speeds only."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linprog

from llm_sched_env.model.instance import Instance


def fluid_value(instance: Instance, pricing: str) -> float:
    """R* over x, y_m, y_s per class; queues take what is left over."""
    hardware, prices, n = instance.hardware, instance.prices, instance.n_classes
    slots, tau = hardware.batch_slots, hardware.alpha + hardware.beta * hardware.chunk_tokens
    chunks = np.array([c.mean_prefill_iterations(hardware.chunk_tokens) for c in instance.classes])
    if hardware.chunking == "exact":
        chunks = instance.prompt_tokens / hardware.chunk_tokens
    p, d = instance.prompt_tokens, instance.output_tokens
    mu_p, mu_m, mu_s = 1 / (chunks * tau), 1 / (d * tau), hardware.gamma / d
    one, zero, empty = np.ones(n), np.zeros(n), np.zeros((n, n))
    rows = np.vstack(
        [
            np.concatenate([one, zero, zero]),
            np.concatenate([(1 - slots) * one, one, zero]),
            np.concatenate([slots * one, zero, one]),
            np.hstack([np.diag(mu_p), empty, empty]),
            np.hstack([-np.diag(mu_p), np.diag(mu_m), np.diag(mu_s)]),
        ]
    )
    levels = np.concatenate([[1.0, 0.0, slots], instance.arrival_rates, zero])
    w = prices.prefill * p + prices.decode * d
    gains = np.concatenate([zero, w * mu_m, w * mu_s])
    if pricing == "separate":
        gains = np.concatenate(
            [prices.prefill * p * mu_p, prices.decode * d * mu_m, prices.decode * d * mu_s]
        )
    found = linprog(-gains, A_ub=rows, b_ub=levels, method="highs")
    assert found.status == 0
    return float(-found.fun)
