"""Former names work for one release, and each use says the new name."""

from __future__ import annotations

import warnings

import gymnasium as gym
import pytest

import llm_sched_env as lse
from llm_sched_env.agents.configuration import TrainingConfiguration
from llm_sched_env.agents.training_variants import variant
from llm_sched_env.evaluation import comparison, executor, results
from llm_sched_env.plugins.deprecated_names import renamed_arguments
from llm_sched_env.policies.registry import resolve_policy

FAST = {"horizon": 10.0, "warmup": 0.0, "replications": 1}
LEVELS = ["decode-fairness@limit=4"]


@pytest.fixture(scope="module")
def result():
    return lse.evaluate("trunk-reservation", "base", 2, slos=LEVELS, **FAST)


def warned(new, use):
    """What a use of a former name returns; it warns once, and at the line of the user."""
    with pytest.warns(DeprecationWarning, match=new) as caught:
        found = use()
    ours = [warning for warning in caught if "is now" in str(warning.message)]
    assert len(ours) == 1
    return found, ours[0].filename


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        (comparison, "Scenario", "ComparedWorkload"),
        (executor, "Spreading", "Executor"),
        (results, "MeasuredLevel", "SloAttainment"),
    ],
)
def test_classes(module, old, new):
    found, file = warned(new, lambda: getattr(module, old))
    assert found is getattr(module, new)
    assert file == __file__
    with pytest.raises(AttributeError, match="nothing"):
        module.nothing  # noqa: B018


def test_arguments(result):
    run = lambda: lse.evaluate("trunk-reservation", "base", 2, slis=LEVELS, **FAST)  # noqa: E731
    again, file = warned("'slos'", run)
    assert again.slos == result.slos
    assert file == __file__
    with pytest.raises(TypeError, match=r"both 'slos' and 'slis'"):
        lse.evaluate("trunk-reservation", "base", 2, slis=LEVELS, slos=LEVELS, **FAST)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"slis": LEVELS}, {"slos": LEVELS}),
        ({"gate": "credit"}, {"gate": "token-bucket"}),
        ({"gate": "bid-price"}, {"gate": "net-value"}),
        (
            {"gate": "net-value", "router": "bid-price", "pools": "dynamic"},
            {"gate": "net-value", "router": "net-value", "pools": "dynamic"},
        ),
    ],
)
@pytest.mark.parametrize("make", [gym.make, lambda id_, **more: gym.make_vec(id_, 2, **more)])
def test_environments(make, old, new):
    found, _ = warned("is now", lambda: make("LLMSched-v0", **old))
    expected = make("LLMSched-v0", **new)
    assert found.unwrapped.control.configuration == expected.unwrapped.control.configuration


def test_attributes_of_results(result):
    assert warned("slos", lambda: result.slis)[0] is result.slos
    level = result.slos["decode-fairness"]
    assert warned("met", lambda: level.kept)[0] is level.met
    assert warned("decode_tpot", lambda: result.token_time)[0] is result.decode_tpot


def test_policies_and_variants():
    for new in ("token-bucket", "token-bucket-static"):
        assert resolve_policy(new.replace("token-bucket", "credit-gate")) == resolve_policy(new)
    assert warned("token-bucket", lambda: variant("credit-gate"))[0] == variant("token-bucket")


def test_a_saved_training_names_the_same_environment():
    now = variant("token-bucket").configuration(lse.presets.base().to_dict())
    assert TrainingConfiguration.from_dict(now.to_dict() | {"gate": "credit"}) == now


def test_options(run):
    code, out, err = run("plan", "--sli", *LEVELS, "--json")
    assert code == 0
    assert "--sli is now --slo" in err
    assert (out, "") == run("plan", "--slo", *LEVELS, "--json")[1:]


def test_new_names_warn_of_nothing():
    @renamed_arguments(old="new")
    def function(new):
        return new

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert function(new=1) == function(1) == 1
    assert function.__name__ == "function"


def test_former_classes_and_service_levels():
    assert warned("TPOT", lambda: lse.TokenTime)[0] is lse.TPOT
    plan, _ = warned("tpot", lambda: lse.plan("base", slos=["token-time@limit=0.03"]))
    assert list(plan.slos) == ["tpot"]
