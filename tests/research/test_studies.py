"""The studies themselves: instances drawn, optima compared with, and every quick run."""

from __future__ import annotations

import csv

import numpy as np
import pytest

import llm_sched_env as lse
from llm_sched_env.errors import ConfigurationError
from llm_sched_env.evaluation.executor import Executor
from research.framework.registry import STUDIES
from research.framework.study_files import StudyRun
from research.setups.random_instances import RANGES, random_instance, slowest_decode
from research.studies import fluid_paths
from research.studies.occupancy import one_sided_split

# Random instances


def test_random_instances_lie_in_the_ranges_of_the_paper_and_fill_them():
    instances = [random_instance(k) for k in range(200)]
    drawn = {
        name: np.array([getattr(i.hardware, name) for i in instances])
        if name in {"alpha", "beta", "gamma"}
        else np.array([[getattr(c, name) for c in i.classes] for i in instances])
        for name in RANGES
    }
    for name, (low, high) in RANGES.items():
        values = (drawn[name] - low) / (high - low)
        assert ((values >= 0) & (values <= 1)).all(), name
        # Uniform: mean 1/2 with a standard deviation of at most 0.021.
        assert values.mean() == pytest.approx(0.5, abs=0.08), name
        assert values.std() == pytest.approx(12**-0.5, abs=0.05), name
    classes = drawn["prompt_tokens"]
    assert abs(np.corrcoef(classes.T)[0, 1]) < 0.25


def test_a_random_instance_is_known_by_its_number_and_seed():
    first = random_instance(3)
    assert first == random_instance(3)
    assert first == lse.Instance.from_dict(first.to_dict())
    others = [random_instance(4), random_instance(3, seed=1)]
    assert all(other.hardware != first.hardware for other in others)
    assert all(other.classes != first.classes for other in others)
    hardware = lse.presets.base().hardware
    assert (first.hardware.chunk_tokens, first.hardware.batch_slots) == (256, 16)
    assert slowest_decode(lse.presets.base()) == pytest.approx(1000 * hardware.tau_mixed)


def test_many_classes_arrive_as_often_as_two():
    for n_classes in (1, 2, 7, 16):
        drawn = [random_instance(k, 5, n_classes) for k in range(200)]
        assert all(len(instance.classes) == n_classes for instance in drawn)
        totals = np.array([instance.arrival_rates.sum() for instance in drawn])
        assert ((totals >= 0.5) & (totals <= 1.0)).all()
        assert totals.mean() == pytest.approx(0.75, abs=0.05)
        lengths = np.concatenate([instance.prompt_tokens for instance in drawn])
        assert lengths.mean() == pytest.approx(1600, rel=0.1)
        assert len({instance.name for instance in drawn}) == 200
    assert random_instance(3, 5, 2) == random_instance(3, 5)
    assert random_instance(3, 5, 3).name != random_instance(3, 5).name
    with pytest.raises(ConfigurationError, match="n_classes"):
        random_instance(3, 5, 0)


@pytest.mark.core
def test_what_two_classes_draw_is_published():
    """Results on these instances are in the documentation: they may not change."""
    instance = random_instance(3, 2026)
    assert instance.name == "random-2026-3"
    rng = np.random.default_rng(np.random.SeedSequence(2026, spawn_key=(3,)))
    alpha, beta, gamma = (rng.uniform(*RANGES[name]) for name in ("alpha", "beta", "gamma"))
    assert (instance.hardware.alpha, instance.hardware.beta) == (alpha, beta)
    assert instance.hardware.gamma == gamma
    for name in ("prompt_tokens", "output_tokens", "arrival_rate"):
        for request_class in instance.classes:
            assert getattr(request_class, name) == rng.uniform(*RANGES[name])


# What the plan is compared with


@pytest.mark.parametrize("name", ["base", "overload"])
def test_the_one_sided_split_is_another_optimum(name):
    plan = lse.plan(name)
    instance, (mixed, solo) = plan.instance, one_sided_split(plan)
    slots, x = instance.hardware.batch_slots, plan.x.sum()
    assert (mixed >= 0).all()
    assert (solo >= -1e-12).all()
    assert mixed.sum() <= (slots - 1) * x + 1e-9
    assert solo.sum() <= slots * (1 - x) + 1e-9
    completed = instance.mixed_decode_rates * mixed + instance.solo_decode_rates * solo
    np.testing.assert_allclose(completed, instance.prefill_rates * plan.x)
    assert instance.bundled_revenues @ completed == pytest.approx(plan.value)
    # One-sided: the second class is in mixed slots only if the first has no decode elsewhere.
    assert mixed[1] == pytest.approx(0.0) or solo[0] == pytest.approx(0.0)
    assert np.abs(mixed - plan.y_mixed).max() > 0.05


def test_sample_paths_start_where_the_fluid_does_and_are_near_it_on_a_large_cluster():
    for router in fluid_paths.ROUTERS:
        path = fluid_paths._sample_path(router, 3000, seed=1)
        fluid = fluid_paths._fluid(router, 3000)
        np.testing.assert_array_equal(path[0], fluid_paths.BACKLOG)
        start = np.array(fluid_paths.BACKLOG).sum(axis=0)
        np.testing.assert_allclose(fluid[0].sum(axis=0), start, atol=1e-9)
        # 20 s, before the classes meet at the pool's edge: a few standard deviations, n^(-1/2).
        assert 0.0 < np.abs(path - fluid)[1:80].max() < 10 * 3000**-0.5


# Every study


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("quick")


@pytest.mark.slow
@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
def test_a_quick_run_of_every_study(study, folder):
    pytest.importorskip("matplotlib")
    findings = StudyRun(study, folder, quick=True).run(Executor(1))
    # What a study claims under a condition only, it may not claim of so short runs.
    assert findings.claims or findings.table
    for claim in findings.claims:
        assert claim.outcome in {"agrees", "differs", "undecided"}
        assert np.isfinite(claim.estimate.mean)
    with (folder / f"{study.name}.csv").open() as file:
        assert len(list(csv.reader(file))) > 3
    assert 5_000 < (folder / f"{study.name}.png").stat().st_size < 150_000
    assert f"## {study.title}" in (folder / "paper.md").read_text()
