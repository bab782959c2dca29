"""Groups of GPUs: shares, sizes, roles, files, and what does not know them."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import llm_sched_env as lse
from llm_sched_env.errors import ConfigurationError
from llm_sched_env.model.fleet import Fleet, GpuGroup

GPU = lse.presets.base().hardware
SLOW = dataclasses.replace(GPU, alpha=2 * GPU.alpha, batch_slots=8)


def fleet(*shares: float) -> Fleet:
    return Fleet(tuple(GpuGroup(f"g{k}", GPU, share) for k, share in enumerate(shares)))


@given(st.lists(st.integers(1, 50), min_size=1, max_size=6), st.integers(0, 300))
def test_sizes_are_the_shares_rounded(weights, more):
    n = more + sum(weights)
    shares = np.array(weights) / sum(weights)
    sizes = fleet(*shares).sizes(n)
    assert sizes.sum() == n
    assert (np.abs(sizes - n * shares) < 1 + 1e-6).all()
    assert (sizes >= 1).all()


def test_a_group_without_a_gpu_says_how_many_are_needed():
    with pytest.raises(ConfigurationError, match=r"n_gpus: got 4, expected at least 6; group 'g1'"):
        fleet(0.9, 0.1).sizes(4)
    assert fleet(0.9, 0.1).sizes(6).tolist() == [5, 1]
    with pytest.raises(ConfigurationError, match="n_gpus: got 1, expected at least 2"):
        lse.evaluate("gate-and-route", "mixed-fleet", n_gpus=1, horizon=1.0, warmup=0.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fleet(0.5, 0.6), "shares of the groups: got"),
        (lambda: fleet(0.5, 0.4), "expected shares that add up to 1"),
        (lambda: Fleet(()), "at least one group"),
        (lambda: Fleet("ab"), "a sequence of GpuGroup"),
        (lambda: Fleet((GpuGroup("a", GPU, 0.5), GpuGroup("a", GPU, 0.5))), "all different"),
        (
            lambda: Fleet((GpuGroup("a", GPU, 0.5, "prefill"), GpuGroup("b", GPU, 0.5, "prefill"))),
            "expected a group that can decode",
        ),
        (lambda: Fleet((GpuGroup("a", GPU, 1.0, "decode"),)), "a group that can prefill"),
        (
            lambda: GpuGroup("a", GPU, 0.0),
            "share: got 0.0, expected a number in",
        ),
        (lambda: GpuGroup("a", GPU, 1.5), "share: got 1.5"),
        (lambda: GpuGroup("a", GPU, 1.0, "both"), "group 'a' role: got 'both'"),
        (lambda: GpuGroup("a", "h100", 1.0), "group 'a' hardware"),
        (lambda: GpuGroup(" ", GPU), "group name"),
        (lambda: Fleet((GpuGroup("a", GPU, 1.0, "mixed", 2e5),)), "moves are free"),
        (
            lambda: Fleet((GpuGroup("a", dataclasses.replace(GPU, kv_tokens=9000)),)),
            "group 'a' kv_tokens: got 9000, expected none",
        ),
    ],
)
def test_what_cannot_be_is_one_clear_line(make, message):
    with pytest.raises(ConfigurationError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_a_fleet_of_one_group_is_its_hardware():
    base = lse.presets.base()
    one = dataclasses.replace(base, hardware=Fleet((GpuGroup("own", GPU),)))
    assert one == base
    assert [group.name for group in base.groups] == ["all"]
    assert base.group_sizes(7).tolist() == [7]


def test_files_keep_groups(tmp_path):
    instance = lse.presets.mixed_fleet()
    for name in ("fleet.toml", "fleet.json"):
        instance.save(tmp_path / name)
        assert lse.Instance.load(tmp_path / name) == instance
    assert pickle.loads(pickle.dumps(instance)) == instance


def test_hardware_of_a_group_may_be_a_name_or_a_file(tmp_path):
    (tmp_path / "instance.toml").write_text(
        """
name = "two"
prices = { prefill = 0.1, decode = 0.2 }
[[classes]]
name = "a"
prompt_tokens = 100
output_tokens = 100
arrival_rate = 1.0
patience_rate = 0.1
[[groups]]
name = "h"
share = 0.25
hardware = "h100-llama2-7b"
[[groups]]
name = "a"
share = 0.75
role = "decode"
hardware = "a100-llama2-7b"
""",
        encoding="utf-8",
    )
    loaded = lse.Instance.load(tmp_path / "instance.toml")
    assert loaded.groups[1].hardware == lse.load_hardware("a100-llama2-7b")
    assert [group.role for group in loaded.groups] == ["mixed", "decode"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hardware": GPU.to_dict()}, "a group has its own hardware"),
        ({"groups": {}}, "a list of groups"),
        ({"groups": [{"name": "a"}]}, "missing key 'hardware'"),
        ({"groups": [{"name": "a", "hardware": 3}]}, "hardware: got 3, expected a table"),
        ({"groups": [{"name": "a", "hardware": "h100-llama2-7b", "speed": 1}]}, "unknown key"),
    ],
)
def test_files_with_faults(change, message):
    data = lse.presets.mixed_fleet().to_dict() | change
    with pytest.raises(ConfigurationError, match=message):
        lse.Instance.from_dict(data)


@pytest.mark.parametrize("policy", ["sli-aware", "learned", "fluid-mpc", "general-sli-aware"])
def test_rules_of_one_kind_of_gpu_say_so(policy):
    with pytest.raises(ConfigurationError, match="h100, a100"):
        lse.evaluate(policy, "mixed-fleet", n_gpus=5, horizon=2.0, warmup=0.0)


def test_what_asks_for_one_kind_of_gpu_gets_an_error_not_a_number():
    instance = lse.presets.mixed_fleet()
    for name in ("prefill_rates", "solo_decode_rates", "full_batch_seconds", "only_hardware"):
        with pytest.raises(ConfigurationError, match="2 groups of GPUs"):
            getattr(instance, name)
    with pytest.raises(AttributeError):
        _ = instance.hardware.nothing
    with pytest.raises(ConfigurationError, match="none with groups of GPUs"):
        lse.plan(instance, slos=["tpot@limit=0.03"])


def test_the_cluster_of_unequal_speeds_is_between_its_kinds():
    base = lse.presets.overload()
    halves = Fleet((GpuGroup("fast", GPU, 0.5), GpuGroup("slow", SLOW, 0.5)))
    value = lse.plan(dataclasses.replace(base, hardware=halves)).value
    slow = lse.plan(dataclasses.replace(base, hardware=SLOW)).value
    assert slow < value < lse.plan(base).value
