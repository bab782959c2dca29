"""Random instances and request streams, for properties of every sample path."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from llm_sched_env.model.instance import Hardware, Instance, Prices, RequestClass
from llm_sched_env.simulation.state.layout import RequestStream


@st.composite
def instances(draw: st.DrawFn) -> Instance:
    classes = [
        RequestClass(
            f"class {k}",
            draw(st.sampled_from([50.0, 400.0, 3000.0])),
            draw(st.sampled_from([10.0, 100.0, 900.0])),
            draw(st.floats(0.05, 3.0)),
            draw(st.sampled_from([0.0, 0.05, 0.5, 20.0])),
        )
        for k in range(draw(st.integers(1, 3)))
    ]
    alpha = draw(st.sampled_from([0.0, 0.0174]))
    gamma = draw(st.sampled_from([10.0, 45.45, 100.0]))
    affine = alpha <= 1.0 / gamma and draw(st.booleans())
    hardware = Hardware(
        alpha=alpha,
        beta=draw(st.sampled_from([6.2e-5, 1e-3])),
        gamma=gamma,
        chunk_tokens=draw(st.sampled_from([64, 256])),
        batch_slots=draw(st.integers(2, 6)),
        iteration_law="affine" if affine else "two-speed",
        chunking=draw(st.sampled_from(["exact", "ceil"])),
        kv_tokens=draw(st.sampled_from([None, None, 700, 4000])),
    )
    return Instance("random", tuple(classes), hardware, Prices(0.1, 0.2))


@st.composite
def streams(draw: st.DrawFn, instance: Instance, n_gpus: int) -> RequestStream:
    """Any lengths, 0 included, and arrivals that may coincide."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    size = draw(st.integers(1, 150))
    rate = n_gpus * float(instance.arrival_rates.sum()) * draw(st.sampled_from([0.3, 1.0, 5.0]))
    arrivals = np.cumsum(rng.exponential(1.0 / rate, size))
    if draw(st.booleans()):
        arrivals = np.floor(arrivals * rate / 3) * 3 / rate
    classes = rng.integers(0, instance.n_classes, size).astype(np.int32)

    def lengths(means: np.ndarray) -> np.ndarray:
        kind = draw(st.sampled_from(["exponential", "equal", "with zeros"]))
        if kind == "equal":
            return means[classes]
        drawn = rng.exponential(means[classes])
        return np.where(rng.random(size) < 0.3, 0.0, drawn) if kind == "with zeros" else drawn

    return RequestStream(
        arrivals, classes, lengths(instance.prompt_tokens), lengths(instance.output_tokens)
    )
