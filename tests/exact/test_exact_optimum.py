"""The exact optimum against a linear program, closed forms, the engine and itself."""

from __future__ import annotations

import dataclasses
import json
import math
from itertools import pairwise

import numpy as np
import pytest
from decision_program import ALL_CASES, DecisionProgram

import llm_sched_env as lse
from llm_sched_env.errors import ConfigurationError, PlanError
from llm_sched_env.exact import (
    Action,
    ClusterState,
    Gpu,
    optimum,
    rule_bounds,
    tiny_system,
)
from llm_sched_env.exact.count_rules import trunk_reservation
from llm_sched_env.exact.disagreement import disagreement
from llm_sched_env.exact.shrunk import merged_halves, shrunk
from llm_sched_env.exact.stationary import stationary_law
from llm_sched_env.exact.value_iteration import LOST, Sweep, iterate
from llm_sched_env.planning.slot_ranks import slot_ranks
from research.studies.exact_optimum import ExactOptimum

IDLE = -1


def small(slots=2, load=1.5, gamma=None):
    chosen = shrunk(lse.presets.base(), slots, load)
    if gamma is None:
        return chosen
    hardware = dataclasses.replace(chosen.hardware, gamma=gamma)
    return dataclasses.replace(chosen, hardware=hardware)


def one_class(patience_rate=0.5):
    """A class that is paid for its prompts; its answers take half a millisecond of a slot."""
    request_class = lse.RequestClass("only", 3000.0, 0.02, 3.0, patience_rate)
    return dataclasses.replace(small(3), classes=(request_class,), prices=lse.Prices(0.1, 0.0))


def impatient(instance, patience_rate):
    """Fewer wait, so that short queues are long enough."""
    classes = [dataclasses.replace(c, patience_rate=patience_rate) for c in instance.classes]
    return dataclasses.replace(instance, classes=tuple(classes))


def bursty(instance, seconds=3.0):
    """The first class, then the second comes four times as often, in turn by chance."""
    leave = 1.0 / seconds
    chain = lse.ArrivalModulation(
        ((1.0, 1.0), (4.0, 1.0), (1.0, 4.0)),
        ((0.0, 0.5 * leave, 0.2 * leave), (leave, 0.0, 0.0), (0.6 * leave, 0.4 * leave, 0.0)),
    )
    return dataclasses.replace(instance, modulation=chain)


def lost_value(system, **arguments):
    found = iterate(Sweep(system, LOST, **arguments), 1e-9)
    return found.least / system.n_gpus


@pytest.mark.parametrize(("pricing", "random_gpu", "decode_limit"), ALL_CASES)
@pytest.mark.parametrize("gamma", [None, pytest.param(12.0, marks=pytest.mark.extended)])
def test_value_iteration_agrees_with_the_linear_program(pricing, random_gpu, decode_limit, gamma):
    """gamma 12: decodes are more than twice as slow alone as beside a prefill."""
    instance = small(gamma=gamma)
    program = DecisionProgram(instance, 2, 1, decode_limit, pricing, random_gpu)
    system = tiny_system(instance, 2, pricing, queue_limit=1, decode_limit=decode_limit)
    assert lost_value(system, random_gpu=random_gpu) == pytest.approx(program.solve(), rel=1e-8)


def test_linear_program_of_one_gpu_with_three_slots():
    instance = small(slots=3, load=2.0)
    system = tiny_system(instance, 1, queue_limit=3, decode_limit=1)
    program = DecisionProgram(instance, 1, 3, 1, "bundled", random_gpu=False)
    assert lost_value(system) == pytest.approx(program.solve(), rel=1e-8)


@pytest.mark.parametrize(
    ("pricing", "random_gpu", "n_gpus", "decode_limit"),
    [("bundled", True, 2, 0), ("separate", False, 2, 0), ("bundled", False, 1, 1),
     ("separate", False, 1, 2)],
)  # fmt: skip
def test_under_bursts_too_value_iteration_agrees_with_the_linear_program(
    pricing, random_gpu, n_gpus, decode_limit
):
    instance = bursty(small())
    program = DecisionProgram(instance, n_gpus, 1, decode_limit, pricing, random_gpu)
    system = tiny_system(instance, n_gpus, pricing, queue_limit=1, decode_limit=decode_limit)
    bursts = lost_value(system, random_gpu=random_gpu)
    assert bursts == pytest.approx(program.solve(), rel=1e-8)
    steady = tiny_system(small(), n_gpus, pricing, queue_limit=1, decode_limit=decode_limit)
    assert bursts < 0.99 * lost_value(steady, random_gpu=random_gpu)


def test_bursts_that_change_nothing_change_nothing():
    chain = lse.ArrivalModulation((2.0, 2.0), ((0.0, 0.1), (0.3, 0.0)))
    instance = small(2, load=2.0)
    arguments = {"queue_limit": 3, "decode_limit": 1, "tolerance": 1e-9}
    plain, modulated = (
        optimum(chosen, 1, **arguments)
        for chosen in (instance, dataclasses.replace(instance, modulation=chain))
    )
    assert modulated.system.n_states == 2 * plain.system.n_states
    assert modulated.bounds.lower == pytest.approx(plain.bounds.lower, rel=1e-8)
    assert modulated.bounds.upper == pytest.approx(plain.bounds.upper, rel=1e-8)


def test_slow_bursts_earn_the_mean_of_their_states():
    """Each lasts a hundred times as long as a request: its own optimum, as often as it is there."""
    instance = bursty(small(2), seconds=2000.0)
    chain = instance.modulation
    arguments = {"queue_limit": 3, "decode_limit": 0}
    value = lost_value(tiny_system(instance, 1, **arguments))
    own = []
    for rates in chain.relative_rates(2):
        classes = [
            dataclasses.replace(c, arrival_rate=c.arrival_rate * rate)
            for c, rate in zip(instance.classes, rates, strict=True)
        ]
        steady = dataclasses.replace(instance, classes=tuple(classes), modulation=None)
        own.append(lost_value(tiny_system(steady, 1, **arguments)))
    assert max(own) > 1.1 * min(own)
    assert value == pytest.approx(chain.stationary_probabilities @ own, rel=2e-3)


@pytest.mark.parametrize("n_gpus", [1, 2])
def test_prefill_alone_is_a_birth_and_death_chain(n_gpus):
    """Without decodes a GPU is a server: M/M/n with abandonment, 6 of them waiting at most."""
    instance, limit = one_class(), 6
    up = 3.0 * n_gpus
    mu, theta = float(instance.prefill_rates[0]), 0.5
    deaths = [
        min(k, n_gpus) * mu + max(0, k - n_gpus) * theta for k in range(1, n_gpus + limit + 1)
    ]
    law = np.cumprod([1.0, *(up / down for down in deaths)])
    law /= law.sum()
    served = mu * sum(min(k, n_gpus) * p for k, p in enumerate(law))
    system = tiny_system(instance, n_gpus, "separate", queue_limit=limit, decode_limit=0)
    revenue = served / n_gpus * instance.bundled_revenues[0]
    assert lost_value(system) == pytest.approx(revenue, rel=1e-6)


def test_bounds_hold_the_endless_queue():
    """The chain above with a queue that never ends in practice, 60 waiting."""
    instance = one_class(patience_rate=0.8)
    up, mu, theta = 3.0, float(instance.prefill_rates[0]), 0.8
    law = np.cumprod([1.0, *(up / (mu + k * theta) for k in range(60))])
    revenue = mu * (1.0 - 1.0 / law.sum()) * instance.bundled_revenues[0]
    widths = []
    for limit in (1, 2, 4, 8, 12):
        arguments = {"queue_limit": limit, "decode_limit": 0, "tolerance": 1e-8}
        bounds = optimum(instance, 1, "separate", **arguments).bounds
        assert bounds.lower * (1 - 1e-6) < revenue < bounds.upper * (1 + 1e-6)
        widths.append(bounds.upper - bounds.lower)
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < 1e-4 * revenue < widths[0]


@pytest.mark.parametrize(("slots", "n_gpus", "gamma"), [(2, 2, None), (3, 1, None), (3, 1, 12.0)])
def test_bounds_nest_and_close(slots, n_gpus, gamma):
    instance = small(slots, gamma=gamma)
    bound = [
        optimum(instance, n_gpus, queue_limit=limit, decode_limit=0).bounds for limit in (2, 4, 8)
    ]
    for wide, narrow in pairwise(bound):
        assert wide.lower < narrow.lower < narrow.upper <= wide.upper
    assert bound[2].upper - bound[2].lower < 0.3 * (bound[0].upper - bound[0].lower)
    assert bound[2].upper < lse.plan(instance).value


@pytest.mark.extended
def test_more_may_wait_earns_more_and_any_buffer_bounds_it():
    instance = small(2, gamma=12.0)
    value = [optimum(instance, 1, queue_limit=5, decode_limit=limit) for limit in (0, 1, 2, 6)]
    lower = [best.bounds.lower for best in value]
    assert lower == sorted(lower)
    assert lower[1] > 1.002 * lower[0]
    # Two slots: the last one is allowed enough to bound every buffer.
    assert value[0].any_buffer == value[0].fluid_bound
    assert value[3].bounds.lower < value[3].bounds.upper < value[3].any_buffer
    assert value[3].any_buffer < value[3].fluid_bound
    larger = optimum(instance, 1, queue_limit=5, decode_limit=8)
    assert larger.bounds.upper < larger.any_buffer < value[3].any_buffer


@pytest.mark.parametrize("pricing", ["bundled", "separate"])
def test_no_rule_beats_the_optimum(pricing):
    instance = small(2, load=2.0)
    fluid_plan = lse.plan(instance, pricing)
    best = optimum(instance, 2, pricing, queue_limit=4, decode_limit=0, gpu_choice="random")
    free = optimum(instance, 2, pricing, queue_limit=4, decode_limit=0)
    assert best.bounds.lower <= free.bounds.lower * (1 + 1e-7)
    assert free.bounds.lower < free.bounds.upper <= fluid_plan.value
    ranks = slot_ranks(fluid_plan, 2)
    earned = [lost_value(best.system, actions=trunk_reservation(best.system, ranks))]
    for reserve in range(5):
        ranks = ranks._replace(
            reserve=np.where(ranks.priority > 0, 0.0, reserve),
            precedes_decodes=np.full(len(ranks.reserve), float(reserve % 2)),
        )
        actions = trunk_reservation(best.system, ranks)
        earned.append(lost_value(best.system, actions=actions))
    assert max(earned) < best.bounds.lower
    # Where prompts are billed at once every class has a bid, and nobody yields.
    assert pricing == "separate" or max(earned) - min(earned) > 0.02 * best.bounds.lower


@pytest.mark.extended
@pytest.mark.parametrize(
    ("instance", "n_gpus", "pricing", "queue_limit", "decode_limit"),
    [
        (small(3, load=2.0), 1, "bundled", 20, 0),
        (small(2, load=2.0), 2, "bundled", 20, 0),
        (impatient(small(3, load=1.0, gamma=12.0), 1.0), 1, "bundled", 6, 8),
        pytest.param(
            *(impatient(small(3, load=0.8), 0.5), 1, "separate", 9, 8), marks=pytest.mark.extended
        ),
        (bursty(impatient(small(3), 0.4)), 1, "bundled", 20, 0),
    ],
    ids=["one GPU", "two GPUs", "faster beside a prefill", "separate", "bursts"],
)
def test_trunk_reservation_earns_what_the_engine_measures(
    instance, n_gpus, pricing, queue_limit, decode_limit
):
    system = tiny_system(
        instance, n_gpus, pricing, queue_limit=queue_limit, decode_limit=decode_limit
    )
    ranks = slot_ranks(lse.plan(instance, pricing), n_gpus)
    # Decodes wait for a reserve, or while prefills precede, in the latter two alone.
    yields = [*ranks.decode_reserve, *ranks.precedes_decodes]
    assert any(yields) == (decode_limit > 0)
    bounds = rule_bounds(system, trunk_reservation(system, ranks), tolerance=1e-4)
    assert bounds.upper - bounds.lower < 2e-3 * bounds.lower
    result = lse.evaluate(
        "trunk-reservation",
        instance,
        n_gpus,
        pricing=pricing,
        horizon=5_500,
        warmup=500,
        replications=40,
        seed=3,
    )
    scores = np.array(result.scores) * result.bound
    error = scores.std(ddof=1) / math.sqrt(len(scores))
    assert bounds.lower - 4 * error < scores.mean() < bounds.upper + 4 * error
    assert error < 4e-3 * bounds.lower


def simulated_revenue(best, seconds, seed):
    """Revenue per GPU and second of the optimal policy, event by event, queues without end."""
    program = DecisionProgram(
        best.system.instance, best.system.n_gpus, 10**9, 0, "bundled", random_gpu=False
    )
    n_classes, rng = len(program.classes), np.random.default_rng(seed)
    none = (0,) * n_classes
    state = (((None, none),) * program.n_gpus, none, none, 0)
    clock = earned = 0.0
    while clock < seconds:
        rates, bills, after = zip(*program.events(state), strict=True)
        total = sum(rates)
        clock += rng.exponential(1.0 / total)
        k = int(np.searchsorted(np.cumsum(rates), rng.uniform(0.0, total)))
        earned += bills[k]
        state = after[k]
        while (action := best.policy.action(seen(state))).kind != "wait":
            state = acted(program, state, action)
    return earned / clock / program.n_gpus


def seen(state):
    gpus = [Gpu(IDLE if prefill is None else prefill, decodes) for prefill, decodes in state[0]]
    return ClusterState(gpus, *state[1:])


def acted(program, state, action):
    """The state after an action of the policy, by the program's own reading of what is possible."""
    gpus, waiting, prefilled, traffic = state
    i, (prefill, decodes) = action.request_class, action.gpu
    old = (None if prefill == IDLE else prefill, decodes)
    if action.kind == "admit":
        new, queues = (i, decodes), (minus(waiting, i), prefilled)
    else:
        assert (prefill == IDLE) == (action.kind == "solo")
        new, queues = (old[0], minus(decodes, i, -1)), (waiting, minus(prefilled, i))
    position = gpus.index(old)
    order = sorted(
        [*gpus[:position], new, *gpus[position + 1 :]],
        key=lambda own: (-1 if own[0] is None else own[0], own[1]),
    )
    after = (tuple(order), *queues, traffic)
    assert [after] in list(program.actions(state))
    return after


def minus(counts, i, change=1):
    return tuple(c - change * (k == i) for k, c in enumerate(counts))


@pytest.mark.extended
@pytest.mark.parametrize("instance", [small(2, load=2.0), bursty(small(2))], ids=["", "bursts"])
def test_the_policy_earns_its_bound_in_a_simulation_of_its_own(instance):
    best = optimum(instance, 2, queue_limit=14, decode_limit=0, tolerance=1e-5)
    runs = np.array([simulated_revenue(best, 150.0, seed) for seed in range(12)])
    error = runs.std(ddof=1) / math.sqrt(len(runs))
    assert best.bounds.lower - 4 * error < runs.mean() < best.bounds.upper + 4 * error
    assert error < 0.05 * best.bounds.lower


def test_the_optimal_policy_sees_bursts():
    """A slot that is left for the better class while it comes in a burst, and used otherwise."""
    policy = optimum(bursty(small(3, load=0.5), 30.0), 1, queue_limit=8, decode_limit=0).policy
    kinds = [
        policy.action(ClusterState([Gpu(IDLE, (2, 0))], (1, 0), (0, 0), traffic)).kind
        for traffic in range(3)
    ]
    assert kinds == ["admit", "admit", "wait"]
    with pytest.raises(ConfigurationError, match="traffic: got 3, expected an integer from 0"):
        policy.action(ClusterState([Gpu(IDLE, (2, 0))], (1, 0), (0, 0), 3))


def test_optimal_reserve_depends_on_who_holds_the_slots():
    """One free slot, the lower class waits: long decodes hold the others, or short ones."""
    policy = optimum(small(4, load=1.5), 1, queue_limit=8, decode_limit=0).policy
    for decodes, kind in (((3, 0), "wait"), ((0, 3), "admit")):
        assert policy.action(ClusterState([Gpu(IDLE, decodes)], (3, 0), (0, 0))).kind == kind
    admitted = policy.action(ClusterState([Gpu(IDLE, (1, 2))], (3, 1), (0, 0)))
    assert admitted == Action("admit", 1, Gpu(IDLE, (1, 2)))
    assert admitted.number(2) == 2
    assert Action("wait").number(2) == 0
    assert Action("mixed", 1).number(2) == 6
    # Requests beyond the limit are not seen.
    assert policy.action(ClusterState([Gpu(IDLE, (1, 2))], (300, 1), (0, 0))) == admitted


def test_differences_sum_to_the_gap():
    instance = small(2, load=2.0)
    best = optimum(instance, 2, queue_limit=5, decode_limit=0, gpu_choice="random", tolerance=1e-10)
    ranks = slot_ranks(lse.plan(instance), 2)
    for reserves in (ranks.reserve, np.array([2.0, 0.0])):
        ranks = ranks._replace(reserve=reserves)
        actions = trunk_reservation(best.system, ranks)
        found = disagreement(best, actions)
        gap = best.bounds.lower - lost_value(best.system, actions=actions)
        assert found.gap == pytest.approx(gap, abs=1e-6 * best.bounds.lower)
        assert found.gap == pytest.approx(sum(d.cost for d in found.differences))
        assert 0 < found.decisions_differ < 1
        assert 0 <= found.holds_back < 1
    assert disagreement(best, best.policy.actions).differences == ()


@pytest.mark.parametrize("instance", [small(2, load=2.0), bursty(small(2))], ids=["", "bursts"])
@pytest.mark.parametrize("random_gpu", [False, True])
def test_stationary_law_earns_the_value(instance, random_gpu):
    system = tiny_system(instance, 2, queue_limit=3, decode_limit=1)
    solution = iterate(Sweep(system, LOST, random_gpu=random_gpu), 1e-10)
    law = stationary_law(system, solution.choices, random_gpu=random_gpu)
    assert law.time.sum() == pytest.approx(1.0)
    revenue = float((law.time @ system.cluster_tables.revenue).sum())
    assert revenue == pytest.approx(solution.least, rel=1e-7)
    # Nobody is lost but arrivals at full queues: what enters service leaves it.
    events = float((law.time @ system.cluster_rates).sum())
    assert law.visits.sum() > events


def test_one_gpu_leaves_nothing_to_choose():
    values = [
        optimum(small(3), 1, queue_limit=3, decode_limit=1, gpu_choice=choice).bounds.lower
        for choice in ("free", "random")
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-9)


def test_shrinking_keeps_load_and_revenue():
    base, tiny = lse.presets.base(), small(4, load=1.0)
    slots = tiny.hardware.batch_slots / base.hardware.batch_slots
    np.testing.assert_allclose(tiny.bundled_revenues, base.bundled_revenues)
    np.testing.assert_allclose(tiny.solo_decode_rates * slots, base.solo_decode_rates)
    np.testing.assert_allclose(tiny.prefill_rates, base.prefill_rates)
    np.testing.assert_allclose(small(4, load=2.0).arrival_rates, 2 * base.arrival_rates)


@pytest.mark.parametrize("name", ["dolly15k", "bursts-dolly"])
def test_merged_halves_bring_the_same_work(name):
    instance = lse.presets.resolve_instance(name)
    halves = merged_halves(instance)
    assert [c.name for c in halves.classes] == ["writing", "reading"]
    writes = instance.output_tokens > instance.prompt_tokens
    times = [np.ones(instance.n_classes)]
    if instance.modulation is not None:
        times = instance.modulation.relative_rates(instance.n_classes)
    for tokens in ("prompt_tokens", "output_tokens"):
        for state, relative in enumerate(times):
            brought = instance.arrival_rates * relative * getattr(instance, tokens)
            own = halves.arrival_rates * getattr(halves, tokens)
            if halves.modulation is not None:
                own = own * halves.modulation.relative_rates(2)[state]
            np.testing.assert_allclose(own, [brought[writes].sum(), brought[~writes].sum()])
    assert lse.plan(halves).value == pytest.approx(lse.plan(instance).value, rel=0.02)


def test_halves_of_one_kind_are_one_class():
    base = lse.presets.base()
    writers = dataclasses.replace(base, classes=base.classes[:1])
    (only,) = merged_halves(writers).classes
    assert only == dataclasses.replace(base.classes[0], name="writing")
    with pytest.raises(ConfigurationError, match="Markov model only"):
        merged_halves(lse.presets.resolve_instance("daily"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_gpus": 0}, "n_gpus: got 0"),
        ({"queue_limit": 0}, "queue_limit: got 0"),
        ({"decode_limit": -1}, "decode_limit: got -1"),
        ({"gpu_choice": "best"}, "gpu_choice: got 'best'"),
        ({"pricing": "free"}, "pricing: got 'free'"),
        ({"tolerance": 0.0}, "tolerance: got 0.0"),
        ({"instance": "base", "n_gpus": 3}, " states and "),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        optimum(**({"instance": small(), "n_gpus": 1, "queue_limit": 2} | arguments))


def test_instances_that_are_no_markov_chain_are_refused():
    chosen = small()
    fixed = lse.LengthDistribution("deterministic")
    classes = (dataclasses.replace(chosen.classes[0], output_lengths=fixed), chosen.classes[1])
    hardware = dataclasses.replace(chosen.hardware, chunking="ceil")
    for changed, field in ((classes, "classes"), (hardware, "hardware")):
        with pytest.raises(ConfigurationError, match="Markov model only"):
            optimum(dataclasses.replace(chosen, **{field: changed}), 1)


def test_states_that_cannot_be_are_refused():
    policy = optimum(small(), 1, queue_limit=2, decode_limit=0).policy
    for state, message in (
        (ClusterState([Gpu(IDLE, (2, 1))], (0, 0), (0, 0)), "state gpus"),
        (ClusterState([], (0, 0), (0, 0)), "state gpus"),
        (ClusterState([Gpu(IDLE, (0, 0))], (-1, 0), (0, 0)), "state q_prefill"),
        (ClusterState([Gpu(IDLE, (0, 0))], (0, 0), (1, 1)), "state queues"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            policy.action(state)
    best = optimum(small(), 1, queue_limit=2, decode_limit=0)
    with pytest.raises(ConfigurationError, match="gpu_choice"):
        disagreement(best, best.policy.actions)
    with pytest.raises(ConfigurationError, match="ranks"):
        trunk_reservation(best.system, np.zeros((5, 3)))


def test_an_iteration_that_does_not_converge_says_so(monkeypatch):
    monkeypatch.setattr("llm_sched_env.exact.value_iteration._MOST_SWEEPS", 3)
    with pytest.raises(PlanError, match="raise the tolerance"):
        optimum(small(), 1, queue_limit=2, decode_limit=0)


def test_command(run):
    arguments = ("optimum", "--instance", "base", "--slots", "2", "--gpus", "1")
    code, out, err = run(*arguments, "--queue-limit", "3", "--json")
    assert code == 0
    data = json.loads(out)
    assert data["lower"] < data["upper"] < data["bound"]
    assert data["trunk_reservation"][0] < data["upper"]
    assert "prefilled requests wait" in err
    assert "trunk-reservation" in run(*arguments, "--queue-limit", "3")[1]
    code, _, err = run(*arguments, "--queue-limit", "none")
    assert code == 2
    code, out, _ = run(
        "optimum", "--instance", "bursts-dolly", "--halves", "--slots", "2", "--gpus", "1",
        "--queue-limit", "3", "--json",
    )  # fmt: skip
    assert code == 0
    assert json.loads(out)["instance"] == "bursts-dolly-halves-B2"
    assert json.loads(out)["states"] == 3 * 4**2 * 3 * 12
    code, _, err = run("optimum", "--gpus", "9")
    assert code == 2
    assert " states and " in err


def test_rows_of_the_study_agree_with_one_another():
    study = ExactOptimum()
    cell = study.cells(quick=True, seed=5)[1] | {"horizon": 700.0, "replications": 2}
    rows = study.compute(cell)
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    assert len({tuple(row) for row in rows}) == 1
    found = {
        row["name"]: row for row in rows if row["method"] == "exact" and row["kind"] != "region"
    }
    assert found["trunk-reservation"]["lower"] < found["optimum"]["upper"]
    gap = sum(row["lower"] for row in rows if row["kind"] == "difference")
    assert gap == pytest.approx(found["gap"]["lower"], rel=0.02)
    assert len(study.findings(rows).claims) == 4
