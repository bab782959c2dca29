"""Instances, hardware and rules from spoilt plain data and files: refused in a line, or kept."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from fuzzing import ODD, REFUSED, accepted, fuzzed, same_data, spoilt, spoilt_text
from hypothesis import given
from hypothesis import strategies as st

import llm_sched_env as lse
from llm_sched_env.files.tables import write_table
from llm_sched_env.model.hardware import Hardware, HardwareFile
from llm_sched_env.model.hardware_presets import HARDWARE_PRESETS, hardware_path
from llm_sched_env.policies.registry import registered_policies, resolve_policy
from llm_sched_env.presets import NAMED_INSTANCES, resolve_instance
from llm_sched_env.simulation.scheduling.rules import ARRIVAL_ROUTERS, GATES, POOLS, ROUTERS

INSTANCES = [resolve_instance(name).to_dict() for name in ("base", "deadlines", "mixed-fleet")]
HARDWARE = [
    lse.presets.base().to_dict()["hardware"],
    HardwareFile.load(next(iter(HARDWARE_PRESETS))).hardware.to_dict(),
]


def require_kept(sound: dict[str, Any], given: Any, kept: dict[str, Any], read: Any) -> None:
    """Everything that was given is there as it was, or is the default, which is not written."""
    assert isinstance(given, dict)
    for key, value in given.items():
        if key in kept:
            if isinstance(value, dict) and isinstance(kept[key], dict):
                assert set(kept[key]) <= set(value), (key, value, kept[key])
            continue
        without = {k: v for k, v in given.items() if k != key}
        assert read(without).to_dict() == kept, (key, value)


@fuzzed
@given(st.sampled_from(INSTANCES).flatmap(spoilt))
def test_instance(data: Any) -> None:
    plain = copy.deepcopy(data)
    instance = accepted(lambda: lse.Instance.from_dict(data))
    assert repr(plain) == repr(data), "what was given has been changed"
    if instance is not REFUSED:
        again = instance.to_dict()
        assert lse.Instance.from_dict(again) == instance
        require_kept({}, data, again, lse.Instance.from_dict)
        json.dumps(again, allow_nan=False)


@fuzzed
@given(st.sampled_from(HARDWARE).flatmap(spoilt))
def test_hardware(data: Any) -> None:
    hardware = accepted(lambda: Hardware.from_dict(data))
    if hardware is not REFUSED:
        again = hardware.to_dict()
        assert Hardware.from_dict(again) == hardware
        require_kept({}, data, again, Hardware.from_dict)
        for key in data:
            assert key not in again or same_data(_written(data, key, again), again[key]), key


def _written(data: dict[str, Any], key: str, kept: dict[str, Any]) -> Any:
    """What was given, without defaults in a table of it, which are not written."""
    value = data[key]
    if not isinstance(value, dict) or not isinstance(kept[key], dict):
        return value
    for name in value.keys() - kept[key].keys():
        without = {k: v for k, v in value.items() if k != name}
        assert Hardware.from_dict({**data, key: without}).to_dict() == kept, (key, name)
    return {name: given for name, given in value.items() if name in kept[key]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def texts(ending: str) -> list[str]:
    import tempfile

    found = []
    with tempfile.TemporaryDirectory() as place:
        for plain in INSTANCES:
            path = Path(place) / f"sound{ending}"
            write_table(plain, path)
            found.append(path.read_text(encoding="utf-8"))
    return found


@fuzzed
@given(
    st.sampled_from([".toml", ".json"]).flatmap(
        lambda ending: st.tuples(
            st.just(ending), st.sampled_from(texts(ending)).flatmap(spoilt_text)
        )
    )
)
def test_instance_file(folder, case) -> None:
    ending, text = case
    path = folder / f"instance{ending}"
    path.write_text(text, encoding="utf-8", errors="surrogatepass", newline="")
    instance = accepted(lambda: lse.Instance.load(path))
    if instance is not REFUSED:
        assert lse.Instance.from_dict(instance.to_dict()) == instance


HARDWARE_TEXT = hardware_path(next(iter(HARDWARE_PRESETS))).read_text(encoding="utf-8")


@fuzzed
@given(spoilt_text(HARDWARE_TEXT))
def test_hardware_file(folder, text) -> None:
    path = folder / "hardware.toml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass", newline="")
    hardware = accepted(lambda: lse.load_hardware(path))
    if hardware is not REFUSED:
        assert Hardware.from_dict(hardware.to_dict()) == hardware


RULES = st.fixed_dictionaries(
    {},
    optional={
        "gate": st.sampled_from([*GATES]) | ODD,
        "router": st.sampled_from([*ROUTERS, *ARRIVAL_ROUTERS]) | ODD,
        "pools": st.sampled_from([*POOLS]) | ODD,
        "prefill_first": st.booleans() | ODD,
        "credit_cap": st.floats(0.5, 9.0) | ODD,
        "priority": st.none() | st.permutations(["decode-heavy", "prefill-heavy"]) | ODD,
        "reserves": st.none() | ODD,
        "scorers": st.just({}) | ODD,
        "refresh_seconds": st.just(0.0) | ODD,
        "foresight": st.none() | ODD,
        "drop_late": st.booleans() | ODD,
    },
)


@fuzzed
@given(RULES)
def test_rule(options) -> None:
    """A rule that can be made can be run, or says of what instance it is."""
    rule = accepted(lambda: lse.DispatchRule(**options))
    if rule is not REFUSED:
        times = {"horizon": 0.5, "warmup": 0.0, "replications": 1, "jobs": 1}
        result = accepted(lambda: lse.evaluate(rule, "base", 2, **times))
        assert result is REFUSED or result.requests["arrived"] >= 0


NAMED = st.sampled_from(
    [*registered_policies(), "weighted", "reuse-bid", "nowhere:Rule", *NAMED_INSTANCES]
)


@fuzzed
@given(st.one_of(ODD, NAMED.flatmap(spoilt_text)))
def test_policy_name(name) -> None:
    found = accepted(lambda: resolve_policy(name))
    assert found is REFUSED or isinstance(found[0], str)
