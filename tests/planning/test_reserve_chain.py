"""How many slots to keep free: the chain against its generator and a simulation-free optimum."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import llm_sched_env as lse
from llm_sched_env.model.priority_network import CLASS_FEATURES
from llm_sched_env.planning.class_profile import class_profile
from llm_sched_env.planning.reserve_chain import best_kept_slots
from llm_sched_env.planning.slot_prices import slot_prices
from llm_sched_env.planning.slot_ranks import slot_bids, slot_ranks

FEATURE = CLASS_FEATURES.index("prefill reserve with giving up")


def cost(
    kept: int, arrivals: float, releases: float, patience: float, loss: float, price: float
) -> float:
    """From the stationary law, solved from the generator; state z: z - kept > 0 wait."""
    size = kept + 1 + int(40 + 12 * np.sqrt(arrivals / max(patience, 1e-9))) % 4000
    generator = np.zeros((size, size))
    for z in range(size):
        if z + 1 < size:
            generator[z, z + 1] = arrivals
        if z > 0:
            generator[z, z - 1] = releases + patience * max(0, z - kept)
    generator -= np.diag(generator.sum(axis=1))
    equations = np.vstack([generator.T, np.ones(size)])
    law = np.linalg.lstsq(equations, np.append(np.zeros(size), 1.0), rcond=None)[0]
    z = np.arange(size)
    return float(law @ (price * np.maximum(kept - z, 0) + loss * np.maximum(z - kept, 0)))


@pytest.mark.extended
@given(
    releases=st.floats(0.5, 20.0),
    ratio=st.floats(0.1, 0.97),
    patience=st.floats(0.03, 1.0),
    loss=st.floats(0.01, 10.0),
)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_no_other_number_costs_less(releases, ratio, patience, loss):
    arguments = (ratio * releases, releases, patience, loss, 1.0)
    found = best_kept_slots(*arguments, 25)
    costs = [cost(kept, *arguments) for kept in range(26)]
    assert costs[found] <= min(costs) * (1.0 + 1e-7)


def test_without_giving_up_it_is_the_formula_of_the_reserve() -> None:
    """The optimum r of slot_ranks.py, to the integer beside it: patience is 0, the loss is not."""
    for ratio in (0.3, 0.6, 0.9):
        for loss in (0.5, 3.0, 20.0):
            formula = np.log1p(loss) / -np.log(ratio) - 1.0
            found = best_kept_slots(ratio, 1.0, 0.0, loss, 1.0, 1000)
            assert abs(found - max(formula, 0.0)) <= 1.0
            assert best_kept_slots(ratio, 1.0, 0.0, loss, 1.0, 2) == min(found, 2)


def test_patience_hardly_matters_on_a_large_cluster_and_much_on_a_small_one() -> None:
    kept = [best_kept_slots(0.9 * n, float(n), 0.1, 10.0, 1.0, 16 * n) for n in (1, 5, 50, 5000)]
    assert kept == sorted(kept)
    without = best_kept_slots(0.9, 1.0, 0.0, 10.0, 1.0, 10_000)
    assert kept[-1] == without > 2 * kept[0]


@pytest.mark.parametrize("n_gpus", [1, 5, 200])
def test_the_feature_is_the_log_of_the_change(n_gpus: int) -> None:
    """Written from docs/learned.md."""
    for name in ("base", "overload", "dolly15k"):
        fluid = lse.plan(name)
        instance, reserves = fluid.instance, slot_ranks(fluid, n_gpus).reserve
        prices = slot_prices(fluid, n_gpus)
        bids = slot_bids(fluid, prices).prefill
        first = bids > 0
        rates = instance.arrival_rates
        leaving = rates * instance.patience_rates
        kept = best_kept_slots(
            n_gpus * rates[first].sum(),
            n_gpus * (instance.prefill_rates * fluid.x).sum(),
            leaving[first].sum() / rates[first].sum(),
            (instance.patience_rates * bids)[first].min(),
            prices.slot,
            n_gpus * instance.hardware.batch_slots,
        )
        found = class_profile(fluid, n_gpus).features[:, FEATURE]
        marginal = reserves[reserves > 0].min()
        for i in range(instance.n_classes):
            wanted = 0.0
            if reserves[i] > 0:
                wanted = np.log(max(reserves[i] + kept + 0.5 - marginal, 0.5) / reserves[i]) / 3.0
            assert found[i] == pytest.approx(np.clip(wanted, -1, 1), abs=1e-9)
    assert found.any()


def test_who_yields_to_nobody_keeps_what_it_has() -> None:
    alone = lse.presets.base()
    quiet = alone.scaled(0.2)
    impatient = lse.Instance(
        "patient", tuple(
            lse.RequestClass(c.name, c.prompt_tokens, c.output_tokens, c.arrival_rate, 0.0)
            for c in alone.classes
        ), alone.hardware, alone.prices,
    )  # fmt: skip
    for instance in (quiet, impatient):
        fluid = lse.plan(instance)
        yields = slot_ranks(fluid, 5).reserve > 0
        assert (class_profile(fluid, 5).features[~yields, FEATURE] == 0).all()
