"""Studies of section 6.4 and 5.1: what they compute, against closed forms and other derivations."""

from __future__ import annotations

import csv
import dataclasses
import json
import math

import numpy as np
import pytest

import llm_sched_env as lse
from llm_sched_env.model.instance import Hardware, Instance, Prices, RequestClass
from llm_sched_env.planning import TPOT, DecodeFairness, PrefillFairness, plan
from llm_sched_env.presets import base, dolly15k, overload
from research.framework.row_selection import column, selected
from research.setups.changed_instances import with_classes, with_hardware
from research.setups.compared_workloads import LAWS, MEANS, scaled_workload, with_output_law
from research.setups.trace_lengths import fitted_lengths, length_cells
from research.studies import (
    hardware,
    memory_speed,
    pricing,
    shadow_prices,
    sli_convergence,
)
from research.studies.workload_effects import planned_classes

PREFILL, DECODE, TIME = "prefill-fairness", "decode-fairness", "tpot"


def one_class(prompt: float, output: float) -> Instance:
    """A class of which there is always more, on hardware without a fixed part of the prefill."""
    hardware_ = Hardware(alpha=0.0, beta=1e-4, gamma=50.0, chunk_tokens=256, batch_slots=16)
    classes = (RequestClass("only", prompt, output, 1e4, 0.1),)
    return Instance("one class", classes, hardware_, Prices(0.1, 0.2))


DECODES_ONLY, PREFILLS_ONLY = one_class(1e-3, 1000.0), one_class(1000.0, 1e-3)


# Rows


def test_rows_are_selected_by_their_values():
    rows = [{"a": 1, "b": 2.0}, {"a": 2, "b": 3.0}, {"a": 1, "b": 4.0, "c": "x"}]
    assert selected(rows, a=1) == [rows[0], rows[2]]
    assert selected(rows, c="x") == [rows[2]]
    np.testing.assert_array_equal(column(rows, "b", a=1), [2.0, 4.0])
    with pytest.raises(ValueError, match="none with"):
        column(rows, "b", a=3)


# Shadow prices


def test_half_the_prefill_gap_costs_prefills_of_the_class_that_earns_least_per_second():
    """The second class gives way: a unit of x less of it costs its w mu_p."""
    instance = base()
    row = shadow_prices.limited(instance, PREFILL, 0.5)
    worth = instance.bundled_revenues * instance.prefill_rates
    assert row["dual"] == pytest.approx(worth[1], rel=1e-9)
    assert 1 - row["share"] == pytest.approx(0.2607, abs=1e-4)
    assert row["limit"] == pytest.approx(np.ptp(plan(instance).x) / 2)


@pytest.mark.parametrize("level", [PREFILL, DECODE, TIME])
@pytest.mark.parametrize("fraction", [0.03, 0.4, 0.93, 1.2])
def test_shadow_prices_are_derivatives_of_the_value(level, fraction):
    """By a central difference in steps a thousand times those of the study."""
    row = shadow_prices.limited(base(), level, fraction)
    kinds = {PREFILL: PrefillFairness, DECODE: DecodeFairness, TIME: TPOT}
    step = 1e-3 * row["limit"] if level != TIME else 2e-6
    values = [
        plan("base", slos=[kinds[level](limit=row["limit"] + h)]).revenue_rate
        for h in (-step, step)
    ]
    assert row["dual"] == pytest.approx((values[1] - values[0]) / (2 * step), rel=1e-3, abs=1e-6)
    assert shadow_prices.outside(row) < 1e-6


def test_a_wrong_price_is_outside_its_difference_quotients():
    row = {"dual": 2.0, "left quotient": 3.0, "right quotient": 1.0, "scale": 10.0}
    assert shadow_prices.outside(row) == 0.0
    assert shadow_prices.outside(row | {"dual": 0.5}) == pytest.approx(0.05)
    assert shadow_prices.outside(row | {"dual": 4.0}) == pytest.approx(0.1)


@pytest.mark.parametrize("make", [base, overload, dolly15k])
def test_the_price_of_the_time_per_token_ends_in_a_closed_form(make):
    instance = make()
    end = shadow_prices.price_of_time_at_its_end(instance)
    just_above = instance.hardware.tau_solo * (1 + 1e-6)
    fluid = plan(instance, slos=[TPOT(limit=just_above)])
    assert fluid.slos[TIME].dual == pytest.approx(end, rel=1e-4)
    # Revenue starts at 0 there, so it is the price times the way.
    way = just_above - instance.hardware.tau_solo
    assert fluid.revenue_rate == pytest.approx(end * way, rel=1e-4)


def test_penalties_lead_to_the_frontier_and_to_its_ends():
    instance = base()
    _, free = shadow_prices.attainable(instance, PREFILL)
    per_unit = plan(instance).value / free
    worth = float((instance.bundled_revenues * instance.prefill_rates)[1])
    dear, cheap = (
        shadow_prices.penalised(instance, PREFILL, factor * worth / per_unit)
        for factor in (1.01, 0.5)
    )
    assert dear["attained"] == pytest.approx(0.0, abs=1e-9)
    assert cheap["attained"] == pytest.approx(free)
    middle = shadow_prices.penalised(instance, PREFILL, 0.99 * worth / per_unit)
    assert 0.01 < middle["attained"] < free - 0.01
    assert middle["share"] == pytest.approx(middle["frontier"], abs=1e-6)


def test_more_levels_never_earn_more():
    shares = {
        levels: shadow_prices.combined(base(), levels)["share"]
        for levels in [(PREFILL,), (DECODE,), (PREFILL, DECODE), (PREFILL, DECODE, TIME)]
    }
    assert shares[PREFILL, DECODE] <= min(shares[PREFILL,], shares[DECODE,])
    assert shares[PREFILL, DECODE, TIME] <= shares[PREFILL, DECODE]


# Hardware


@pytest.mark.parametrize("instance", [base(), overload(), base().scaled(0.3), dolly15k()])
def test_slots_for_all_are_those_with_which_the_plan_admits_everyone(instance):
    needed = hardware.slots_for_all(instance)
    for slots, served in ((math.ceil(needed), True), (math.ceil(needed) - 1, False)):
        fluid = plan(with_hardware(instance, batch_slots=slots))
        assert (fluid.admission_fraction == 1.0).all() == served


def test_no_number_of_slots_serves_more_prefills_than_there_is_time_for():
    assert hardware.slots_for_all(base().scaled(5.0)) == math.inf
    fluid = plan(with_hardware(base().scaled(5.0), batch_slots=1000))
    assert fluid.admission_fraction.min() < 1.0


def test_elasticities_of_a_cluster_that_only_decodes_or_only_prefills():
    """Decodes earn c_d gamma B, prefills w C / (P beta C): one factor each."""
    for parameter, wanted in (("gamma", 1.0), ("batch_slots", 1.0), ("beta", 0.0)):
        found, _ = hardware.elasticity(DECODES_ONLY, parameter)
        assert found == pytest.approx(wanted, abs=2e-3), parameter
    for parameter, wanted in (("gamma", 0.0), ("batch_slots", 0.0), ("beta", -1.0)):
        found, _ = hardware.elasticity(PREFILLS_ONLY, parameter)
        assert found == pytest.approx(wanted, abs=2e-3), parameter
    assert hardware.elasticity(DECODES_ONLY, "gamma")[1] == pytest.approx(-1.0, abs=2e-3)
    # Where everyone is served nothing earns more.
    assert hardware.elasticity(base().scaled(0.2), "gamma")[0] == pytest.approx(0.0, abs=1e-9)


def test_memory_and_speed_are_worth_what_they_limit():
    assert memory_speed.worths(DECODES_ONLY) == pytest.approx((1.0, 0.0), abs=2e-3)
    assert memory_speed.worths(PREFILLS_ONLY) == pytest.approx((0.0, 1.0), abs=2e-3)
    assert memory_speed.doubling_gains(DECODES_ONLY) == pytest.approx((1.0, 0.0), abs=5e-3)
    assert memory_speed.doubling_gains(PREFILLS_ONLY) == pytest.approx((0.0, 1.0), abs=5e-3)
    assert memory_speed.changed("base", 8, 1e-4).hardware == dataclasses.replace(
        base().hardware, batch_slots=8, beta=1e-4
    )


# Prices


@pytest.mark.parametrize("kind", ["bundled", "separate"])
@pytest.mark.parametrize("name", ["base", "dolly15k"])
def test_tokens_of_a_plan_are_billed_at_its_value(kind, name):
    values = []
    for ratio in (0.0, 0.25, 0.5, 0.75, 1.0):
        fluid = plan(pricing.priced(name, ratio), kind)
        rows = [pricing.planned_tokens(fluid)]
        assert pricing.billed(rows, kind, ratio)[0] == pytest.approx(fluid.value, rel=1e-9)
        values.append(fluid.value)
    # The greatest of functions that are linear in the price.
    assert (np.diff(values, 2) >= -1e-9 * max(values)).all()
    assert max(values) in {values[0], values[-1]}


def test_a_run_is_billed_what_the_evaluation_reports():
    instance = pricing.priced("base", 0.6)
    result = lse.evaluate(
        "gate-and-route", instance, 5, horizon=200.0, warmup=50.0, replications=2, seed=3
    )
    rows = [pricing.served_tokens(instance, result)]
    for kind in ("bundled", "separate"):
        reported = getattr(result, f"{kind}_revenue_rate").mean
        assert pricing.billed(rows, kind, 0.6)[0] == pytest.approx(reported, rel=1e-12)
    prices = instance.prices
    assert prices.prefill + prices.decode == pytest.approx(pricing.TOTAL)
    assert pricing.priced("base", pricing.PAPER_RATIO).prices.decode == pytest.approx(0.2)


# Workloads


@pytest.mark.parametrize("mean", MEANS)
def test_scaled_workloads_scale_one_mean(mean):
    changed = scaled_workload("base", mean, 3.0)
    for old, new in zip(base().classes, changed.classes, strict=True):
        assert getattr(new, mean) == 3.0 * getattr(old, mean)
        assert dataclasses.replace(new, **{mean: getattr(old, mean)}) == old
    if mean == "arrival_rate":
        assert plan(scaled_workload("base", mean, 2.0)).value == plan("overload").value


@pytest.mark.parametrize("law", LAWS)
def test_laws_change_lengths_and_neither_means_nor_the_plan(law):
    changed = with_output_law("base", law)
    assert plan(changed).value == plan("base").value
    assert {c.output_lengths for c in changed.classes} == {LAWS[law]}
    assert with_classes(changed, lambda _: {"output_lengths": LAWS["exponential"]}) == base()
    assert Instance.from_dict(changed.to_dict()) == changed


def test_classes_with_a_positive_bid_are_admitted_whole():
    rows = planned_classes("dolly15k")
    assert len(rows) == 8
    for row in rows:
        wanted = 1.0 if row["bid"] > 0 else 0.0
        assert row["admitted"] == pytest.approx(wanted) or row["bid"] == 0.0
    assert sum(0 < row["admitted"] < 1 for row in rows) == 1


def test_traces_are_fitted_where_they_are_and_known_by_content(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLM_SCHED_DATA", str(tmp_path))
    assert length_cells(resamples=20, seed=0) == []
    rng = np.random.default_rng(0)
    for name, draw in (
        ("conv", lambda: rng.exponential(200)),
        ("code", lambda: rng.uniform(90, 110)),
    ):
        lines = [
            f"2023-11-16 18:15:{k / 10:010.7f},100,{max(1, round(draw()))}" for k in range(500)
        ]
        header = "TIMESTAMP,ContextTokens,GeneratedTokens"
        path = tmp_path / f"AzureLLMInferenceTrace_{name}.csv"
        path.write_text("\n".join([header, *lines]) + "\n")
    (cell,) = length_cells(resamples=20, seed=0)
    assert json.loads(json.dumps(cell)) == cell
    rows = fitted_lengths(cell)
    exponential = {row["class"]: row for row in rows if row["law"] == "exponential"}
    assert exponential["conv"]["kl"] < 0.1 < 1.0 < exponential["code"]["kl"]
    assert exponential["conv"]["kl low"] <= exponential["conv"]["kl"]
    path.write_text(path.read_text().replace(",100,", ",101,"))
    assert length_cells(resamples=20, seed=0)[0]["sha256"] != cell["sha256"]


# Service levels in clusters


def test_distances_from_a_plan_are_relative_and_by_class():
    fluid = sli_convergence.planned("decode fairness")
    rows = [
        {"seed": seed, "y_mixed": float(m), "y_solo": float(s) + shift * sign}
        for seed, shift in enumerate((0.0, 1.0))
        for m, s, sign in zip(fluid.y_mixed, fluid.y_solo, (1, -1), strict=True)
    ]
    total = fluid.y_mixed.sum() + fluid.y_solo.sum()
    np.testing.assert_allclose(sli_convergence.distances(rows, fluid), [0.0, 2.0 / total])


def test_the_cases_are_what_they_are_for():
    for name in ("decode fairness", "decode fairness and TPOT"):
        fluid = sli_convergence.planned(name)
        assert fluid.slos[DECODE].value == pytest.approx(fluid.slos[DECODE].limit)
        assert fluid.q_decode.max() == 0
    assert fluid.slos[TIME].dual > 0
    assert sli_convergence.planned("decodes that wait").q_decode.min() > 1


# Command line


def test_shadow_prices_through_the_command_line(run, run_research, tmp_path):
    pytest.importorskip("matplotlib")
    arguments = ("experiment", "shadow-prices", "--quick", "--jobs", "1", "--out", tmp_path)
    code, text, _ = run_research(*arguments, "--json")
    assert code == 0
    claims = json.loads(text)["shadow-prices"]
    assert all(claim["outcome"] == "agrees" for claim in claims)
    with (tmp_path / "shadow-prices.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["form"] == "limit"]
    row = next(row for row in rows if (row["level"], row["fraction"]) == (TIME, "0.5"))
    code, text, _ = run("plan", "--slo", f"{TIME}@limit={row['limit']}", "--json")
    found = json.loads(text)
    assert found["slos"][TIME]["dual"] == float(row["dual"])
    assert found["revenue_rate"] / found["value"] == float(row["share"])
