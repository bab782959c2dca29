"""What a request asks of a GPU on average: iterations, prompt tokens and context read.

These are the moments of lengths by which iterations are accounted for (docs/model.md): with a KV
limit those of the requests that fit, prompt and output taken together.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from llm_sched_env.model.hardware import Hardware
from llm_sched_env.model.instance import RequestClass
from llm_sched_env.model.kv_admission import prompt_quantiles
from llm_sched_env.model.length_moments import partial_moments, partial_squares, whole_units


class RequestWork(NamedTuple):
    """Means over the requests of a class.

    Attributes:
        prompt_tokens: E[P], tokens.
        output_tokens: E[D], tokens.
        prefill_iterations: P / C, or ceil(P / C) with whole chunks.
        prefill_tokens: prompt tokens that these take time for: P, or C ceil(P / C) if padded.
        prefill_context: the sum of c (h + c/2) over them: half the square of these tokens, and
            those that a cache has times them.
        decode_iterations: D, or ceil(D) with whole iterations.
        decode_context: tokens that the decode attends to, summed over its iterations.
    """

    prompt_tokens: float
    output_tokens: float
    prefill_iterations: float
    prefill_tokens: float
    prefill_context: float
    decode_iterations: float
    decode_context: float


class _Moments(NamedTuple):
    """Of prompts P, what is left of them to prefill, its chunks, outputs D, iterations N."""

    p: float
    left: float
    left_square: float
    reused_left: float
    k: float
    k_square: float
    d: float
    n: float
    n_square: float
    p_n: float


@lru_cache(maxsize=1024)
def request_work(own: RequestClass, hardware: Hardware) -> RequestWork:
    """The work of a class's requests; of those that fit, if the hardware has a KV limit.

    A decode of whole iterations attends to P + k tokens in its k-th, so to
    P N + N (N + 1) / 2 in all; one whose context grows steadily to P D + D^2 / 2.
    """
    if own.observed_lengths is not None:
        found = _of_rows(own, hardware)
    elif hardware.kv_tokens is None:
        found = _of_independent(own, hardware)
    else:
        found = _of_fitting(own, hardware) or _of_independent(own, hardware)
    chunk = float(hardware.chunk_tokens)
    padded = hardware.padded_chunks
    steps = found.n if hardware.whole_iterations else 0.0
    return RequestWork(
        prompt_tokens=found.p,
        output_tokens=found.d,
        prefill_iterations=found.k if hardware.whole_chunks else found.left / chunk,
        prefill_tokens=chunk * found.k if padded else found.left,
        prefill_context=(
            # Whatever is reused: with padded chunks more of it may take longer.
            chunk**2 * found.k_square / 2.0
            if padded
            else found.left_square / 2.0 + found.reused_left
        ),
        decode_iterations=found.n,
        decode_context=found.p_n + (found.n_square + steps) / 2.0,
    )


def _of_rows(own: RequestClass, hardware: Hardware) -> _Moments:
    """Of observed requests, each equally likely."""
    assert own.observed_lengths is not None
    rows = own.observed_lengths
    if hardware.kv_tokens is not None and rows.within(hardware.kv_tokens).any():
        rows = rows.picked(rows.within(hardware.kv_tokens))
    p, d, reused = rows.prompt_tokens, rows.output_tokens, rows.reused
    left = p - reused
    k, n = np.ceil(left / hardware.chunk_tokens), np.ceil(d) if hardware.whole_iterations else d
    columns = (p, left, left**2, reused * left, k, k**2, d, n, n**2, p * n)
    return _Moments(*(float(column.mean()) for column in columns))


def _of_independent(own: RequestClass, hardware: Hardware) -> _Moments:
    """Of prompts and outputs that know nothing of each other."""
    every = np.array([np.inf])
    prompts, outputs = own.prompt_lengths, own.output_lengths
    p, d = own.prompt_tokens, own.output_tokens
    k = whole_units(prompts, p, hardware.chunk_tokens, every)
    n, n_square = d, float(partial_squares(outputs, d, every)[0])
    if hardware.whole_iterations:
        n, n_square = (float(moment[0]) for moment in whole_units(outputs, d, 1.0, every))
    p_square = float(partial_squares(prompts, p, every)[0])
    chunks = float(k.mean[0]), float(k.square[0])
    return _Moments(p, p, p_square, 0.0, *chunks, d, n, n_square, p * n)


def _of_fitting(own: RequestClass, hardware: Hardware) -> _Moments | None:
    """Of the requests that fit below the KV limit; None if there is none."""
    assert hardware.kv_tokens is not None
    p, weights = prompt_quantiles(own, hardware)
    room = np.maximum(hardware.kv_tokens - p, 0.0)
    outputs, mean = own.output_lengths, own.output_tokens
    share, d = partial_moments(outputs, mean, room)
    n, n_square = d, partial_squares(outputs, mean, room)
    if hardware.whole_iterations:
        n, n_square = whole_units(outputs, mean, 1.0, room)
    k = np.ceil(p / hardware.chunk_tokens)
    columns = (
        *(share * p, share * p, share * p**2, 0.0 * share),
        *(share * k, share * k**2, d, n, n_square, p * n),
    )
    fits = float(weights @ share)
    if fits <= 0.0:
        return None
    return _Moments(*(float(weights @ column) / fits for column in columns))
