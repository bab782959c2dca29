"""The KV-admissible workload: arrival rates and mean lengths of the requests that fit.

A request whose prompt and output together exceed the KV tokens of a GPU is rejected on arrival.
The rest arrives less often and is shorter, and it is this rest that is planned for and billed.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from llm_sched_env.errors import ConfigurationError
from llm_sched_env.model.hardware import Hardware
from llm_sched_env.model.instance import Instance, RequestClass
from llm_sched_env.model.length_distributions import EXPONENTIAL
from llm_sched_env.model.length_moments import continuous_law, partial_moments, whole_units

# Gauss-Legendre nodes on each of so many equal parts of the probabilities of prompt lengths.
_NODES, _PARTS = 16, 64
# Ends of chunks at which parts are cut; beyond, so many chunks make one more or less small.
_MOST_CHUNKS = 4096


def fitting_requests(instance: Instance) -> Instance:
    """The instance of the requests that are not rejected; itself without a KV limit.

    Whole iterations per request, if any, are those of the first group of GPUs.

    Rates and means are those of the requests that fit; length distributions, which only shape
    what is drawn, are left out.

    Raises:
        ConfigurationError: if no request of any class fits, or those of a class have no tokens.
    """
    hardware = instance.groups[0].hardware
    if hardware.kv_tokens is None:
        return instance
    classes = tuple(_fitting_class(c, hardware) for c in instance.classes)
    if not any(c.arrival_rate > 0 for c in classes):
        raise ConfigurationError(
            "hardware kv_tokens",
            hardware.kv_tokens,
            "room for some request",
            "raise it or shorten the lengths",
        )
    return dataclasses.replace(instance, classes=classes)


def _fitting_class(own: RequestClass, hardware: Hardware) -> RequestClass:
    """The class without what does not fit; with its iterations where they are whole."""
    assert hardware.kv_tokens is not None
    limit = float(hardware.kv_tokens)
    if own.observed_lengths is not None:
        return _fitting_rows(own, limit)
    prompts, weights = prompt_quantiles(own, hardware)
    room = np.maximum(limit - prompts, 0.0)
    share, tokens = partial_moments(own.output_lengths, own.output_tokens, room)
    fits = float(weights @ share)
    plain = dataclasses.replace(own, prompt_lengths=EXPONENTIAL, output_lengths=EXPONENTIAL)
    if fits <= 0.0:
        return dataclasses.replace(plain, arrival_rate=0.0)
    means = float(weights @ (share * prompts)) / fits, float(weights @ tokens) / fits
    _require_tokens(own, means)
    chunks = decode = None
    if hardware.whole_chunks:
        chunks = float(weights @ (share * np.ceil(prompts / hardware.chunk_tokens))) / fits
    if hardware.whole_iterations:
        whole = whole_units(own.output_lengths, own.output_tokens, 1.0, room)
        decode = float(weights @ whole.mean) / fits
    return dataclasses.replace(
        plain,
        arrival_rate=own.arrival_rate * fits,
        prompt_tokens=means[0],
        output_tokens=means[1],
        prefill_iterations=chunks,
        decode_iterations=decode,
    )


def _fitting_rows(own: RequestClass, limit: float) -> RequestClass:
    """Of observed requests, those that fit."""
    assert own.observed_lengths is not None
    fits = own.observed_lengths.within(limit)
    if not fits.any():
        return dataclasses.replace(own, arrival_rate=0.0)
    lengths = own.observed_lengths.picked(fits)
    means = float(lengths.prompt_tokens.mean()), float(lengths.output_tokens.mean())
    _require_tokens(own, means)
    return dataclasses.replace(
        own,
        arrival_rate=own.arrival_rate * float(fits.mean()),
        prompt_tokens=means[0],
        output_tokens=means[1],
        observed_lengths=lengths,
    )


def _require_tokens(own: RequestClass, means: tuple[float, float]) -> None:
    """Raise ConfigurationError if requests that fit have no prompts or no outputs: no rates."""
    for what, mean in zip(("prompt", "output"), means, strict=True):
        if mean <= 0.0:
            raise ConfigurationError(
                f"class {own.name!r}: mean {what} tokens of requests that fit into the KV limit",
                mean,
                "a number > 0",
                "raise hardware kv_tokens or drop requests without tokens",
            )


def prompt_quantiles(own: RequestClass, hardware: Hardware) -> tuple[np.ndarray, np.ndarray]:
    """Prompt lengths up to the KV limit and their probabilities; both of shape (K,).

    With whole chunks none straddles an end of a chunk.
    """
    assert hardware.kv_tokens is not None
    limit = float(hardware.kv_tokens)
    law, mean = own.prompt_lengths, own.prompt_tokens
    if law.values is not None:
        values = np.array(law.values)
        fitting = values[values <= limit]
        return fitting, np.full(len(fitting), 1.0 / len(values))
    if law.kind == "deterministic":
        return np.array([mean]), np.array([1.0 if mean <= limit else 0.0])
    below, _ = partial_moments(law, mean, np.array([limit]))
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    # Quantiles grow without bound near probability 1 when the limit is wide: nodes crowd there.
    cuts = np.arange(_PARTS + 1) / _PARTS
    if hardware.whole_chunks:
        chunk = hardware.chunk_tokens
        ends = chunk * np.arange(1, min(_MOST_CHUNKS, int(limit / chunk) + 1))
        shares = partial_moments(law, mean, ends.astype(float))[0] / below[0]
        cuts = np.unique(np.concatenate([cuts, 1.0 - np.maximum(0.0, 1.0 - shares) ** 0.25]))
    widths = np.diff(cuts)[:, None]
    t = (cuts[:-1, None] + (nodes + 1.0) / 2.0 * widths).ravel()
    probabilities = below[0] * (1.0 - (1.0 - t) ** 4)
    weights = (weights / 2.0 * widths).ravel() * below[0] * 4.0 * (1.0 - t) ** 3
    return np.minimum(continuous_law(law, mean).ppf(probabilities), limit), weights
