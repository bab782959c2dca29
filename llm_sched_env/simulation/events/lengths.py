"""Prompt and output lengths: draw k of a class's distribution.

A length is a function of the stream's key and the request's number. Exponential lengths take
one draw; the other kinds start a stream of their own at it, as long as they need. A paired output
length was observed with the prompt and is found by the prompt's draw.
"""

from __future__ import annotations

import math

import numpy as np

from llm_sched_env.simulation.events.random_streams import (
    exponential,
    random_below,
    random_bits,
    uniform,
)
from llm_sched_env.simulation.runtime.compiled import compiled, compiled_apart

EXPONENTIAL, DETERMINISTIC, LOG_NORMAL, GAMMA, EMPIRICAL, PAIRED = range(6)


@compiled
def _normal(key: np.uint64, counter: int) -> float:
    """A standard normal variable from draws ``counter`` and ``counter + 1`` (Box and Muller)."""
    radius = math.sqrt(2.0 * exponential(key, counter))
    return radius * math.cos(2.0 * math.pi * uniform(key, counter + 1))


@compiled
def _gamma(key: np.uint64, shape: float) -> float:
    """A gamma variable of scale 1 (Marsaglia and Tsang, ACM TOMS 2000)."""
    boost = 1.0
    if shape < 1.0:
        boost = uniform(key, 0) ** (1.0 / shape)
        shape += 1.0
    d = shape - 1.0 / 3.0
    c = 1.0 / math.sqrt(9.0 * d)
    counter = 1
    while True:
        x = _normal(key, counter)
        v = (1.0 + c * x) ** 3
        log_u = -exponential(key, counter + 2)
        if v > 0.0 and log_u < 0.5 * x * x + d - d * v + d * math.log(v):
            return boost * d * v
        counter += 3


@compiled_apart
def _other_length(
    kind: int, scale: float, shape: float, values: np.ndarray, key: np.uint64, counter: int
) -> float:
    if kind == DETERMINISTIC:
        return scale
    own_key = random_bits(key, counter)
    if kind == LOG_NORMAL:
        return math.exp(scale + shape * _normal(own_key, 0))
    if kind == GAMMA:
        return scale * _gamma(own_key, shape)
    return values[random_below(own_key, 0, len(values))]


@compiled
def draw_length(
    lengths: np.ndarray, values: np.ndarray, i: int, key: np.uint64, counter: int
) -> float:
    """Draw ``counter`` of class i's length, tokens.

    Args:
        lengths: shape (I,), LENGTHS. ``scale`` and ``shape_parameter`` are the mean
            (exponential, deterministic), log-mean and log-deviation (log-normal), or the gamma's.
        values: observed lengths of all empirical distributions.
        i: the class.
        key: of the stream of prompts or outputs.
        counter: number of the draw.
    """
    law = lengths[i]
    if law.kind == EXPONENTIAL:
        return exponential(key, counter) * law.scale
    own = values[law.first : law.first + law.count]
    return _other_length(law.kind, law.scale, law.shape_parameter, own, key, counter)
