"""``sli-aware`` and ``general-sli-aware``: whose decodes are served, and where that leads."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.stats import chisquare

import llm_sched_env as lse
from llm_sched_env.errors import ConfigurationError
from llm_sched_env.model.instance import Hardware, Instance, Prices, RequestClass
from llm_sched_env.planning import DecodeFairness, FluidPlan, plan
from llm_sched_env.policies.registry import resolve_policy
from llm_sched_env.simulation.scheduling.rules import DispatchRule
from llm_sched_env.simulation.simulation import Simulation
from llm_sched_env.simulation.state.layout import DECODE_START, PREFILL_END, RequestStream

WEIGHTED = DispatchRule("occupancy", "weighted-randomized", "static")
# gamma tau_mix = 0.5: mixed GPUs are the faster ones, so prefills are cheap and decodes wait.
FAST_MIXING = Hardware(alpha=0.0125, beta=0.0, gamma=40.0, chunk_tokens=256, batch_slots=16)


def patient(n_classes: int) -> Instance:
    """Prompts of no length, long answers and nobody who gives up: every line of decodes grows."""
    classes = [RequestClass(f"class {k}", 1.0, 4000.0, 1.0, 0.0) for k in range(n_classes)]
    hardware = Hardware(alpha=0.01, beta=0.0, gamma=50.0, chunk_tokens=256, batch_slots=4)
    return Instance("patient", tuple(classes), hardware, Prices(0.1, 0.2))


def crowd(n_classes: int, each: int, output_tokens: float) -> RequestStream:
    """Requests of all classes at once, with equal answers of no prompt."""
    size = n_classes * each
    return RequestStream(
        np.zeros(size),
        np.tile(np.arange(n_classes, dtype=np.int32), each),
        np.zeros(size),
        np.full(size, output_tokens),
    )


@pytest.mark.parametrize("pool", ["solo", "mixed"])
def test_classes_of_full_lines_are_served_in_proportion_to_their_weights(pool: str) -> None:
    """While no line is empty each freed slot draws its class; one of weight 0 gets nothing."""
    own, other = np.array([1.0, 0.0, 5.0, 2.0]), np.array([3.0, 1.0, 1.0, 1.0])
    weights = np.stack([own, other] if pool == "solo" else [other, own])
    stream = crowd(4, 4000, 100.0)
    solo = float(pool == "solo")
    controls = np.array([1.0] * 4 + [solo] * 4 + [2.0])
    cluster = Simulation(
        patient(4), WEIGHTED, controls, 4, np.random.SeedSequence(5),
        stream=stream, log_events=150_000, weights=weights,
    )  # fmt: skip
    cluster.run(np.inf)
    events = cluster.events()
    prefilled = np.flatnonzero(events["kind"] == PREFILL_END)[-1]
    starts = np.flatnonzero(events["kind"] == DECODE_START)
    classes = stream.request_class[events["index"][starts]]
    of_class = [starts[classes == i] for i in range(4)]
    # From when all have been prefilled until the first line is empty.
    first, last = prefilled, min(places[-1] for places in (of_class[i] for i in (0, 2, 3)))
    counts = np.array([((places > first) & (places < last)).sum() for places in of_class])
    assert counts[1] == 0
    assert counts.sum() > 3000
    served = counts[own > 0]
    assert chisquare(served, served.sum() * own[own > 0] / own.sum()).pvalue > 0.001
    assert chisquare(served).pvalue < 1e-6  # power: they are not served alike
    # Then those of weight 0, in order.
    last_places = events["index"][of_class[1]]
    assert (np.diff(last_places) > 0).all()
    assert of_class[1][-1] == starts[-1]


def distance(policy: str, fluid: FluidPlan, n_gpus: int, pricing: str = "bundled") -> float:
    """Sum over classes and pools of |y - y*|, decodes per GPU."""
    slos = [DecodeFairness(limit=level.limit) for level in fluid.slos.values()]
    result = lse.evaluate(
        policy, fluid.instance, n_gpus, pricing=pricing, slos=slos,
        horizon=400.0, warmup=100.0, replications=2, seed=1,
    )  # fmt: skip
    gaps = [result.occupancy[name] - getattr(fluid, name) for name in ("y_mixed", "y_solo")]
    return float(np.abs(gaps).sum())


def test_sli_aware_tracks_the_decodes_of_its_plan_by_class() -> None:
    """6.2: of the split of a plan with service levels gate-and-route knows nothing."""
    fluid = plan("base", slos=[DecodeFairness(limit=3.8)])
    near = [distance("sli-aware", fluid, n) for n in (20, 500)]
    far = [distance("gate-and-route", fluid, n) for n in (20, 500)]
    assert near[1] < 0.55
    assert near[1] < near[0]
    assert min(far) > 3.0


@pytest.mark.parametrize(
    ("instance", "pricing"),
    [
        (lse.presets.overload(), "separate"),
        (dataclasses.replace(lse.presets.overload(), hardware=FAST_MIXING), "bundled"),
    ],
    ids=["separate charging", "gamma tau_mix < (B-1)/B"],
)
def test_general_sli_aware_tracks_a_plan_in_which_decodes_wait(
    instance: Instance, pricing: str
) -> None:
    """Section 13: q_d* > 0. With one line per pool every class waits, whatever the plan says."""
    fluid = plan(instance, pricing)
    assert fluid.q_decode.max() > 5
    general, plain = (
        distance(policy, fluid, 300, pricing) for policy in ("general-sli-aware", "sli-aware")
    )
    assert general < 0.7
    assert plain > 3.0


def test_general_sli_aware_earns_the_bound_where_sli_aware_does_not() -> None:
    """Charged at completion, it matters whose decodes wait."""
    instance = dataclasses.replace(lse.presets.overload(), hardware=FAST_MIXING)
    scores = {
        policy: lse.evaluate(policy, instance, 300, horizon=400.0, warmup=100.0, replications=2)
        for policy in ("general-sli-aware", "sli-aware")
    }
    assert scores["general-sli-aware"].score.mean > 0.97
    assert scores["sli-aware"].score.mean < 0.75


def test_a_cluster_may_start_at_a_plan_in_which_decodes_wait() -> None:
    """The waiting join their class's lines; the run goes on from there, and from a snapshot."""
    fluid = plan("overload", "separate")
    n = 40
    cluster = Simulation(
        fluid.instance, WEIGHTED, fluid.controls(n), n, np.random.SeedSequence(2),
        fluid.occupancy, weights=fluid.decode_weights,
    )  # fmt: skip
    start = cluster.metrics().inside
    assert start == pytest.approx(n * fluid.occupancy.sum(axis=0), abs=6)
    waiting = cluster.state.classes["q_decode"] / n
    assert waiting == pytest.approx(fluid.q_decode, abs=0.3)
    saved = cluster.snapshot()
    cluster.run(40.0)
    once = cluster.snapshot()
    cluster.restore(saved)
    cluster.run(40.0)
    again = cluster.snapshot()
    assert all(a.tobytes() == b.tobytes() for a, b in zip(once, again, strict=True))
    assert cluster.metrics().counts["completed"].sum() > 500


def test_names() -> None:
    assert resolve_policy("sli-aware")[1] == DispatchRule("occupancy", "randomized", "static")
    assert resolve_policy("general-sli-aware")[1] == WEIGHTED


@pytest.mark.parametrize("weights", [None, np.ones(2), -np.ones((2, 2)), np.full((2, 2), np.nan)])
def test_bad_weights_are_one_clear_line(weights: np.ndarray | None) -> None:
    fluid = plan("base")
    with pytest.raises(ConfigurationError, match=r"weights: got .* shape \(2, 2\)") as caught:
        Simulation(
            fluid.instance, WEIGHTED, fluid.controls(3), 3, np.random.SeedSequence(0),
            weights=weights,
        )  # fmt: skip
    assert "\n" not in str(caught.value)


def test_weights_are_the_plans_completions_in_each_pool() -> None:
    fluid = plan("base", slos=[DecodeFairness(limit=3.8)])
    solo, mixed = fluid.decode_weights
    instance = fluid.instance
    np.testing.assert_allclose(solo + mixed, instance.arrival_rates * fluid.admission_fraction)
    np.testing.assert_allclose(solo / (solo + mixed), fluid.solo_probability)
    assert mixed[1] == 0.0  # the solver's noise is no weight
