"""The corrected rule: the engine against its twin, and against trunk reservation."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest
from corrected_reference_simulator import CorrectedReferenceSimulator
from reference_cases import assert_same_log, general_instance

import llm_sched_env as lse
from llm_sched_env.agents.learned_rule import corrected_rule
from llm_sched_env.errors import ConfigurationError
from llm_sched_env.model.priority_network import (
    CLASS_FEATURES,
    CORRECTIONS,
    STATE_FEATURES,
    RankCorrection,
    weight_shapes,
)
from llm_sched_env.planning import FluidPlan, plan
from llm_sched_env.planning.class_profile import class_profile
from llm_sched_env.planning.slot_ranks import slot_ranks
from llm_sched_env.policies.rolling_horizon import parameters_of_plan
from llm_sched_env.simulation.scheduling.rules import DispatchRule
from llm_sched_env.simulation.simulation import Simulation, SimulationBatch
from llm_sched_env.simulation.state.layout import ARRIVE, DECODE_START, PREFILL_START

ARRIVALS = 300
HIDDEN = 5
TRUNK = DispatchRule("bid-price", "bid-price", "dynamic")
# Numbers that decide are of the order of 1; rounding, also of event times, is below this.
DISTINCT = 1e-9


@dataclass(frozen=True)
class Case:
    """An instance on a cluster."""

    name: str
    n_gpus: int
    pricing: str = "bundled"
    slots: int | None = None  # B, if not the instance's own

    def label(self) -> str:
        few = "" if self.slots is None else f"-{self.slots}-slots"
        return f"{self.name}-{self.n_gpus}-{self.pricing}{few}"

    @property
    def plan(self) -> FluidPlan:
        return planned(self.name, self.pricing, self.slots)

    @property
    def horizon(self) -> float:
        return ARRIVALS / (self.n_gpus * float(self.plan.instance.arrival_rates.sum()))

    def simulation(self, rule: DispatchRule, seed: int = 3) -> Simulation:
        fluid = self.plan
        corrected = rule.correction is not None
        return Simulation(
            instance_of(self.name, self.slots), rule, fluid.controls(self.n_gpus), self.n_gpus,
            np.random.SeedSequence(seed),
            log_events=10 * ARRIVALS,
            ranks=slot_ranks(fluid, self.n_gpus),
            profile=class_profile(fluid, self.n_gpus) if corrected else None,
        )  # fmt: skip

    def log(self, rule: DispatchRule, seed: int = 3) -> bytes:
        simulation = self.simulation(rule, seed)
        simulation.run(self.horizon)
        return simulation.events().tobytes()

    def twin(
        self, network: RankCorrection, pools: str, seed: int = 3
    ) -> CorrectedReferenceSimulator:
        fluid, n = self.plan, self.n_gpus
        return CorrectedReferenceSimulator(
            network,
            class_profile(fluid, n),
            instance_of(self.name, self.slots),
            DispatchRule("bid-price", "bid-price", pools),
            fluid.controls(n),
            n,
            np.random.SeedSequence(seed),
            ranks=slot_ranks(fluid, n),
        )


def instance_of(name: str, slots: int | None) -> lse.Instance:
    """A preset or a kind of general instance; ``kv-day`` has a KV limit and changing traffic."""
    if name == "kv-day":
        limit = general_instance("kv").hardware.kv_tokens
        instance = general_instance("day")
        instance = replace(instance, hardware=replace(instance.hardware, kv_tokens=limit))
    elif name in lse.presets.PRESETS:
        instance = lse.presets.PRESETS[name]()
    else:
        instance = general_instance(name)
    if slots is None:
        return instance
    return replace(instance, hardware=replace(instance.hardware, batch_slots=slots))


@cache
def planned(name: str, pricing: str, slots: int | None) -> FluidPlan:
    return plan(instance_of(name, slots), pricing)


def random_network(seed: int, hidden: int = HIDDEN) -> RankCorrection:
    """Corrections of about the size of what they correct, often larger."""
    rng = np.random.default_rng(seed)
    sizes = {"static": 0.7, "state": 0.7, "output": 0.6, "gain": 0.1}
    return RankCorrection(
        **{name: rng.normal(0.0, sizes[name], s) for name, s in weight_shapes(hidden).items()}
    )


TWIN_CASES = [
    Case("overload", 5),
    Case("overload", 7, "separate"),
    Case("dolly15k", 3),
    Case("lengths", 4),
    Case("affine", 3),
    Case("kv", 4),
    Case("day", 4),
    Case("kv-day", 3),
]


@pytest.mark.parametrize("case", TWIN_CASES, ids=Case.label)
@pytest.mark.parametrize("seed", [1, 2])
def test_same_log_as_the_twin(case: Case, seed: int) -> None:
    network, pools = random_network(seed), "static" if seed == 2 and case.n_gpus == 5 else "dynamic"
    rule = DispatchRule("bid-price", "bid-price", pools, correction=network)
    simulation, twin = case.simulation(rule), case.twin(network, pools)
    for part in (0.3, 0.35, 1.0):
        simulation.run(part * case.horizon)
        twin.run(part * case.horizon)
    assert_same_log(simulation, twin, at_least=ARRIVALS)
    assert DISTINCT < twin.closest < math.inf  # some numbers were compared, none nearly equal
    seen = np.array(twin.seen)
    assert len(seen) > 100
    assert np.abs(seen).max() <= 1.0


@pytest.mark.parametrize("case", [Case("overload", 5), Case("kv-day", 3)], ids=Case.label)
def test_same_log_as_the_twin_under_plans_that_change(case: Case) -> None:
    network = random_network(4)
    rule = DispatchRule("bid-price", "bid-price", "dynamic", correction=network)
    simulation, twin = case.simulation(rule), case.twin(network, "dynamic")
    for k, part in enumerate((0.2, 0.5, 0.6, 1.0)):
        simulation.run(part * case.horizon)
        twin.run(part * case.horizon)
        other = plan(scaled_by_class(case.plan.instance, 0.5 + 0.5 * k, 1.5 - 0.4 * k))
        replan(simulation.batch, other)
        twin.replan(other)
    assert_same_log(simulation, twin, at_least=ARRIVALS)
    assert twin.closest > DISTINCT


def scaled_by_class(instance: lse.Instance, first: float, others: float) -> lse.Instance:
    """Arrival rates times a factor for the first class, and another one for the others."""
    factors = [first] + [others] * (instance.n_classes - 1)
    classes = tuple(
        replace(c, arrival_rate=f * c.arrival_rate, arrival_profile=None)
        for c, f in zip(instance.classes, factors, strict=True)
    )
    hardware = replace(instance.hardware, kv_tokens=None)
    return replace(instance, classes=classes, hardware=hardware, modulation=None)


def replan(batch: SimulationBatch, fluid: FluidPlan) -> None:
    batch.replan(
        fluid.controls(batch.n_gpus),
        fluid.instance.arrival_rates,
        **parameters_of_plan(batch.rule, fluid, batch.n_gpus),
    )


@pytest.mark.parametrize("corrected", [False, True])
def test_replanning_for_the_same_plan_changes_nothing(corrected: bool) -> None:
    case = Case("overload", 5)
    rule = replace(TRUNK, correction=random_network(1) if corrected else None)
    simulation = case.simulation(rule)
    for part in (0.3, 0.5, 1.0):
        simulation.run(part * case.horizon)
        replan(simulation.batch, case.plan)
    assert simulation.events().tobytes() == case.log(rule)


def test_a_cluster_that_starts_anew_has_the_first_plan_again() -> None:
    case = Case("overload", 5)
    rule = replace(TRUNK, correction=random_network(1))
    simulation = case.simulation(rule, seed=1)
    replan(simulation.batch, plan(scaled_by_class(case.plan.instance, 0.3, 2.0)))
    simulation.run(case.horizon)
    fluid = case.plan
    simulation.batch.start(0, np.random.SeedSequence(3), fluid.controls(case.n_gpus))
    assert len(simulation.events()) == 0
    simulation.run(case.horizon)
    assert simulation.events().tobytes() == case.log(rule)


def without(network: RankCorrection, part: str, place: int) -> RankCorrection:
    """The network without an output, or blind to a feature."""
    weights = {name: np.array(getattr(network, name)) for name in weight_shapes(1)}
    if part == "output":
        weights[part][place] = 0.0
    else:
        weights[part][..., place] = 0.0
    return RankCorrection(**weights)


PARTS = {
    "output": CORRECTIONS,
    "state": STATE_FEATURES,
    "static": CLASS_FEATURES,
    "gain": CLASS_FEATURES,
}


@pytest.mark.parametrize("part", PARTS)
def test_every_correction_and_every_feature_changes_what_the_twin_checks(part: str) -> None:
    """Else the comparison above could pass over a number that decides nothing."""
    networks = [random_network(k) for k in (1, 2, 3)]
    logs = {
        (case, k): case.log(corrected_rule(network))
        for case in TWIN_CASES
        for k, network in enumerate(networks)
    }
    for place, name in enumerate(PARTS[part]):
        # Elsewhere nothing else is foreseen than is planned.
        cases = [case for case in TWIN_CASES if "foreseen" not in name or case.name == "day"]
        assert any(
            case.log(corrected_rule(without(network, part, place))) != logs[case, k]
            for case in cases
            for k, network in enumerate(networks)
        ), name


# Against trunk reservation.

TRUNK_CASES = [
    *TWIN_CASES,
    Case("overload", 1),
    Case("overload", 20),
    Case("overload", 20, "separate"),
    Case("dolly15k", 1, "separate"),
    Case("base", 20, "separate"),
    Case("overload", 6, slots=3),
    Case("base", 3, "separate", slots=5),
]


@pytest.mark.parametrize("case", TRUNK_CASES, ids=Case.label)
def test_without_weights_it_is_trunk_reservation(case: Case) -> None:
    """To the last bit, also where only hidden units have weights."""
    shapes = weight_shapes(HIDDEN)
    nothing = {name: np.zeros(shapes[name]) for name in ("output", "gain")}
    blind = replace(random_network(1), **nothing)
    for pools in ("dynamic", "static"):
        trunk = replace(TRUNK, pools=pools)
        expected = case.log(trunk)
        assert len(expected) > ARRIVALS * 32
        for network in (RankCorrection.none(), blind):
            assert case.log(replace(trunk, correction=network)) == expected


def test_prefills_that_precede_decodes_are_among_the_cases() -> None:
    precedes = [slot_ranks(case.plan, case.n_gpus).precedes_decodes for case in TRUNK_CASES]
    assert sum(rows.any() for rows in precedes) >= 3
    assert any((case.plan.q_decode > 0).any() for case in TRUNK_CASES)


def test_a_correction_of_nothing_earns_what_trunk_reservation_earns() -> None:
    settings = {"horizon": 100.0, "warmup": 20.0, "replications": 2}
    for pricing in ("bundled", "separate"):
        plain, blind = (
            lse.evaluate(rule, "overload", 5, pricing=pricing, **settings)
            for rule in ("trunk-reservation", corrected_rule(RankCorrection.none()))
        )
        assert plain.scores == blind.scores


# Clusters in batches, snapshots.


@pytest.mark.parametrize("case", [Case("overload", 5), Case("day", 4)], ids=Case.label)
def test_a_snapshot_continues_alike(case: Case) -> None:
    """It holds estimates, what was foreseen, and the network."""
    rule, other_rule = corrected_rule(random_network(1)), corrected_rule(random_network(2))
    pause = 0.4 * case.horizon
    simulation, other = case.simulation(rule), case.simulation(other_rule, seed=4)
    simulation.run(pause)
    saved, logged = simulation.snapshot(), len(simulation.events())
    other.run(0.7 * case.horizon)
    simulation.run(case.horizon)
    expected = simulation.events()[logged:].tobytes()
    assert len(expected) > 0
    for target in (simulation, other):
        target.restore(saved)
        target.run(case.horizon)
        assert target.events()[logged:].tobytes() == expected


def batch_of(case: Case, networks: list[RankCorrection], threads: int) -> SimulationBatch:
    fluid, n = case.plan, case.n_gpus
    batch = SimulationBatch(
        fluid.instance, corrected_rule(networks[0]), n, len(networks),
        log_events=10 * ARRIVALS, threads=threads,
        ranks=slot_ranks(fluid, n), profile=class_profile(fluid, n),
    )  # fmt: skip
    for k, network in enumerate(networks):
        batch.start(k, np.random.SeedSequence(k), fluid.controls(n))
        batch.correct(k, network)
    return batch


@pytest.mark.parametrize("threads", [1, 3])
def test_rows_with_networks_of_their_own_run_as_if_alone(threads: int) -> None:
    case = Case("overload", 5)
    networks = [random_network(k) for k in range(6)]
    batch = batch_of(case, networks, threads)
    batch.run(np.full(6, case.horizon / 2))
    batch.run(np.full(6, case.horizon), rows=(0, 3))
    batch.run(np.full(6, case.horizon), rows=(3, 6))
    logs = [batch.events(k).tobytes() for k in range(6)]
    assert logs == [case.log(corrected_rule(network), k) for k, network in enumerate(networks)]
    # Started anew, a row has the network of the rule.
    seed = np.random.SeedSequence(4)
    batch.start(4, seed, case.plan.controls(case.n_gpus))
    batch.run(np.full(6, case.horizon), rows=(4, 5))
    assert batch.events(4).tobytes() == case.log(corrected_rule(networks[0]), 4) != logs[4]
    assert batch.events(5).tobytes() == logs[5]


def assert_one_line(error: pytest.ExceptionInfo[ConfigurationError], *words: str) -> None:
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 250
    for word in ("got", "expected", *words):
        assert word in message


def test_bad_networks_are_refused_in_one_line() -> None:
    shapes = weight_shapes(3)
    good = {name: np.zeros(shape) for name, shape in shapes.items()}
    for name, wrong in (
        ("static", np.zeros((3, 2))),
        ("state", np.zeros((4, len(STATE_FEATURES)))),
        ("state", np.full(shapes["state"], np.nan)),
        ("output", np.zeros(5)),
        ("output", np.zeros((3, 4))),
        ("output", np.full(shapes["output"], np.inf)),
    ):
        with pytest.raises(ConfigurationError) as error:
            RankCorrection(**{**good, name: wrong})
        assert_one_line(error, "weights")
    with pytest.raises(ConfigurationError) as error:
        RankCorrection.none(0)
    assert_one_line(error, "H >= 1")
    with pytest.raises(ConfigurationError) as error:
        RankCorrection.from_parameters(np.zeros(7), 3)
    assert_one_line(error, "3 hidden units")
    with pytest.raises(ConfigurationError) as error:
        DispatchRule("credit", "solo-first", "dynamic", correction=random_network(1))
    assert_one_line(error, "router bid-price")


def test_parameters_are_the_weights_and_cannot_be_changed() -> None:
    network = random_network(1)
    again = RankCorrection.from_parameters(network.parameters, HIDDEN)
    for name in weight_shapes(1):
        np.testing.assert_array_equal(getattr(again, name), getattr(network, name))
        with pytest.raises(ValueError, match="read-only"):
            getattr(network, name)[0, 0] = 1.0


def test_bad_batches_are_refused_in_one_line() -> None:
    case = Case("overload", 5)
    fluid, rule = case.plan, corrected_rule(random_network(1))
    ranks, profile = slot_ranks(fluid, 5), class_profile(fluid, 5)
    for wrong in (None, class_profile(Case("dolly15k", 5).plan, 5)):
        with pytest.raises(ConfigurationError) as error:
            SimulationBatch(fluid.instance, rule, 5, ranks=ranks, profile=wrong)
        assert_one_line(error, "profile", "2 classes")
    batch = SimulationBatch(fluid.instance, rule, 5, ranks=ranks, profile=profile)
    with pytest.raises(ConfigurationError) as error:
        batch.correct(0, random_network(1, hidden=HIDDEN + 2))
    assert_one_line(error, f"{HIDDEN + 2} hidden units", f"one of {HIDDEN},")
    plain = SimulationBatch(fluid.instance, TRUNK, 5, ranks=ranks)
    with pytest.raises(ConfigurationError) as error:
        plain.correct(0, random_network(1))
    assert_one_line(error, "none")


def test_a_snapshot_with_other_hidden_units_is_refused_whole() -> None:
    case = Case("overload", 5)
    other = case.simulation(corrected_rule(random_network(1, hidden=HIDDEN + 2)))
    other.run(case.horizon)
    simulation = case.simulation(corrected_rule(random_network(1)))
    before = [array.tobytes() for array in simulation.snapshot()]
    with pytest.raises(ConfigurationError) as error:
        simulation.restore(other.snapshot())
    assert_one_line(error, "hidden units")
    assert [array.tobytes() for array in simulation.snapshot()] == before


# What it does not see.


@pytest.mark.parametrize(
    "case", [Case("overload", 5), Case("dolly15k", 3), Case("day", 4)], ids=str
)
def test_true_lengths_and_patience_never_reach_a_decision(case: Case) -> None:
    """Other lengths and patience of all who are present: nothing changes until one ends."""
    rule, decisions, different = corrected_rule(random_network(1)), 0, 0
    simulation, other = case.simulation(rule), case.simulation(rule)
    for time in np.linspace(0.1, 0.95, 80) * case.horizon:
        simulation.run(time)
        other.restore(simulation.snapshot())
        start, present = len(simulation.events()), simulation.events()["index"].max()
        change_what_is_hidden(other)
        later = time + 0.05 * case.horizon
        other.run(later)
        ahead = case.simulation(rule)
        ahead.restore(simulation.snapshot())
        ahead.run(later)
        log, changed = ahead.events()[start:], other.events()[start:]
        observed = ~np.isin(log["kind"], UNOBSERVED) & (log["index"] <= present)
        first = int(np.argmax(observed)) if observed.any() else len(log)
        assert log[:first].tobytes() == changed[:first].tobytes()
        decisions += int((log["kind"][:first] != ARRIVE).sum())
        different += log.tobytes() != changed.tobytes()
    assert decisions > 10
    assert different > 70  # of 80: what was changed matters, once it is seen


UNOBSERVED = (ARRIVE, PREFILL_START, DECODE_START)
"""Events that say nothing about lengths and patience."""


def change_what_is_hidden(cluster: Simulation) -> None:
    state = cluster.state
    state.requests["prompt_tokens"] *= 2
    state.requests["output_tokens"] *= 2
    state.decode_marks[:] += 1e6
    state.gpus["prefill_mark"] += 1e6
    state.completion_times[:] += 1e6
    state.patience_keys[:] += 1e6
