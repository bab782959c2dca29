"""What trained rules are trained on: in the stated ranges, and the same every time."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

import llm_sched_env as lse
from llm_sched_env.planning import plan
from llm_sched_env.planning.class_profile import class_profile
from llm_sched_env.planning.slot_prices import critical_scale
from llm_sched_env.planning.slot_ranks import slot_ranks
from llm_sched_env.presets import PATIENCE_RATE
from research.rule_training.scenarios import (
    AROUND_PRESETS,
    BURSTS,
    DIURNAL,
    LOADS,
    READING,
    READING_SHARE,
    SIZES,
    STEADY,
    TRAFFIC,
    WRITING,
    TrainingScenario,
    random_scenario,
)

NUMBERS = range(200)
PRESETS = (lse.presets.base(), lse.presets.dolly15k())
SCENARIOS = [random_scenario(number) for number in NUMBERS]


def traffic(scenario: TrainingScenario) -> str:
    if scenario.instance.modulation is not None:
        return BURSTS
    profiles = [c.arrival_profile for c in scenario.instance.classes]
    assert all(p is None for p in profiles) or all(p is not None for p in profiles)
    return STEADY if profiles[0] is None else DIURNAL


def test_a_scenario_depends_on_number_and_seed_alone() -> None:
    for number in (17, 3, 1_000_003):
        again = random_scenario(number)
        if number < len(SCENARIOS):
            assert again == SCENARIOS[number]
        assert again == random_scenario(number, 0) != random_scenario(number, 1)
    assert len({str(s.instance.to_dict()["classes"]) for s in SCENARIOS}) == len(SCENARIOS)


def test_kinds_of_traffic_and_sizes() -> None:
    kinds = Counter(traffic(s) for s in SCENARIOS)
    assert set(kinds) == set(TRAFFIC)
    assert sum(TRAFFIC.values()) == pytest.approx(1.0)
    for kind, share in TRAFFIC.items():
        deviation = np.sqrt(len(SCENARIOS) * share * (1 - share))
        assert abs(kinds[kind] - share * len(SCENARIOS)) < 4 * deviation
        assert all(s.instance.name.endswith(kind) for s in SCENARIOS if traffic(s) == kind)
    sizes = Counter(s.n_gpus for s in SCENARIOS)
    assert set(sizes) == set(SIZES)
    assert sum(sizes[n] for n in SIZES[:4]) > sum(sizes[n] for n in SIZES[4:])


def around(scenario: TrainingScenario) -> lse.Instance | None:
    """The preset whose classes a scenario has."""
    names = [c.name for c in scenario.instance.classes]
    found = [p for p in PRESETS if [c.name for c in p.classes] == names]
    return found[0] if found else None


def test_loads_and_times() -> None:
    loads = [1 / critical_scale(scenario.instance) for scenario in SCENARIOS]
    assert all(0 < scenario.warmup < scenario.horizon for scenario in SCENARIOS)
    assert LOADS[0] * (1 - 1e-9) <= min(loads) < 1.1 * LOADS[0]
    assert 0.9 * LOADS[1] < max(loads) <= LOADS[1] * (1 + 1e-9)


def within(instance: lse.Instance, ranges: tuple[tuple[float, float], ...]) -> bool:
    lengths = (instance.prompt_tokens, instance.output_tokens)
    return all(
        ((low <= tokens) & (tokens <= high)).all()
        for (low, high), tokens in zip(ranges, lengths, strict=True)
    )


def test_ranges_of_random_mixes() -> None:
    mixes = [s.instance for s in SCENARIOS if around(s) is None]
    deviation = np.sqrt(len(SCENARIOS) * AROUND_PRESETS * (1 - AROUND_PRESETS))
    assert abs(len(mixes) - (1 - AROUND_PRESETS) * len(SCENARIOS)) < 4 * deviation
    reading = sum(within(instance, READING) for instance in mixes)
    deviation = np.sqrt(len(mixes) * READING_SHARE * (1 - READING_SHARE))
    assert abs(reading - READING_SHARE * len(mixes)) < 4 * deviation
    for instance in mixes:
        hardware = instance.hardware
        assert 2 <= instance.n_classes <= 12
        assert within(instance, WRITING) or within(instance, READING)
        assert ((instance.patience_rates >= 0.03) & (instance.patience_rates <= 0.3)).all()
        assert 0.015 <= hardware.alpha <= 0.02
        assert 1e-5 <= hardware.beta <= 3e-4
        assert 20.0 <= hardware.gamma <= 50.0
        assert hardware.batch_slots in {8, 16, 32}


def test_ranges_around_presets() -> None:
    pairs = [(s.instance, known) for s in SCENARIOS if (known := around(s)) is not None]
    assert {known.name for _, known in pairs} == {preset.name for preset in PRESETS}
    for name in ("prompt_tokens", "output_tokens"):
        ratios = [np.log(getattr(own, name) / getattr(known, name)) for own, known in pairs]
        deviations = np.concatenate(ratios) / 0.3
        # Standard normal: mean and deviation to about four standard errors.
        assert abs(deviations.mean()) < 4 / np.sqrt(len(deviations))
        assert abs(deviations.std() - 1) < 3 / np.sqrt(len(deviations))
    for own, known in pairs:
        assert 0.8 <= own.hardware.gamma / known.hardware.gamma <= 1.2
        assert abs(np.log(own.hardware.beta / known.hardware.beta)) <= 0.5
        assert (np.abs(np.log(own.patience_rates / PATIENCE_RATE)) <= 0.7 + 1e-12).all()


def test_every_scenario_has_a_plan_and_a_profile() -> None:
    for scenario in SCENARIOS:
        fluid = plan(scenario.instance)
        assert 0 < fluid.value < np.inf
        assert np.isfinite(class_profile(fluid, scenario.n_gpus).features).all()
        assert np.isfinite(slot_ranks(fluid, scenario.n_gpus)).all()
