"""The best split into prefill and decode GPUs, by a program whose shares are variables."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import llm_sched_env as lse
from llm_sched_env.errors import ConfigurationError
from llm_sched_env.planning.role_choice import choose_roles


def with_share(share: float) -> lse.Instance:
    given = lse.presets.disaggregated()
    prefill, decode = given.groups
    groups = (replace(prefill, share=share), replace(decode, share=1.0 - share))
    return replace(given, hardware=lse.Fleet(groups))


@pytest.mark.parametrize("pricing", ["bundled", "separate"])
def test_no_share_earns_more(pricing):
    choice = choose_roles("disaggregated", pricing)
    best = choice.groups[0].share
    others = [s for s in np.linspace(0.02, 0.98, 49) if abs(s - best) > 1e-3]
    values = [lse.plan(with_share(float(s)), pricing).value for s in others]
    assert choice.value >= max(values) * (1 - 1e-9)
    near = lse.plan(with_share(best + 0.01), pricing).value
    assert near < choice.value <= choice.colocated_value * (1 + 1e-9)


@pytest.mark.parametrize("n_gpus", [2, 5, 7, 20, 33])
def test_whole_gpus_are_the_best_whole_gpus(n_gpus):
    choice = choose_roles("disaggregated", n_gpus=n_gpus)
    values = [lse.plan(with_share(k / n_gpus)).value for k in range(1, n_gpus)]
    assert choice.value == pytest.approx(max(values), rel=1e-9)
    assert choice.instance.group_sizes(n_gpus).sum() == n_gpus


def test_each_kind_of_gpu_is_split():
    choice = choose_roles("mixed-fleet", n_gpus=20)
    sizes = {group.name: round(20 * group.share) for group in choice.groups}
    assert sizes["h100-prefill"] + sizes.get("h100-decode", 0) == 8
    assert sizes["a100-decode"] + sizes.get("a100-prefill", 0) == 12
    h100, a100 = lse.presets.mixed_fleet().groups

    def value(h: int, a: int) -> float:
        parts = ((h100, "prefill", h), (h100, "decode", 8 - h), (a100, "prefill", a))
        parts = (*parts, (a100, "decode", 12 - a))
        groups = tuple(
            replace(kind, name=f"{kind.name}-{role}", role=role, share=size / 20)
            for kind, role, size in parts
            if size
        )
        return lse.plan(replace(lse.presets.mixed_fleet(), hardware=lse.Fleet(groups))).value

    splits = [(h, a) for h in range(9) for a in (0, 1, 2, 6) if h + a]
    assert choice.value == pytest.approx(max(value(*split) for split in splits), rel=1e-9)


def test_a_slow_link_moves_the_split():
    """More GPUs prefill where each can send away less."""
    given = lse.presets.disaggregated()
    slow = tuple(replace(group, link=lse.Link(24_000.0)) for group in given.groups)
    choice = choose_roles(replace(given, hardware=lse.Fleet(slow)))
    assert choice.groups[0].share > choose_roles(given).groups[0].share + 0.01
    assert choice.value < choose_roles(given).value


def test_one_gpu_cannot_have_two_roles():
    with pytest.raises(ConfigurationError, match="n_gpus: got 1, expected at least 2"):
        choose_roles("base", n_gpus=1)
