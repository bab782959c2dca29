"""Public names have a short example in their docstring, and it runs as it stands."""

from __future__ import annotations

import doctest
import importlib
import inspect

import pytest

import llm_sched_env as lse

# Documented, but not loaded by ``import llm_sched_env``.
FURTHER = (
    "llm_sched_env.baselines.routing_rules:RoutingRule",
    "llm_sched_env.bandits:Assumptions",
    "llm_sched_env.bandits:Certificate",
    "llm_sched_env.bandits:DiscountedUCB",
    "llm_sched_env.bandits:EllipsoidalMinUCB",
    "llm_sched_env.bandits:EmpiricalBayes",
    "llm_sched_env.bandits:LearnedCertificate",
    "llm_sched_env.bandits:LinUCB",
    "llm_sched_env.bandits:OfflineData",
    "llm_sched_env.bandits:PooledUCB",
    "llm_sched_env.bandits:StagedUCB",
    "llm_sched_env.bandits:min_ucb",
    "llm_sched_env.envs.event_env:LLMSchedEventEnv",
    "llm_sched_env.envs.event_vector_env:LLMSchedEventVectorEnv",
    "llm_sched_env.envs.interval_env:LLMSchedEnv",
    "llm_sched_env.envs.observation:feature_slices",
    "llm_sched_env.envs.routing_env:LLMSchedRoutingEnv",
    "llm_sched_env.envs.routing_vector_env:LLMSchedRoutingVectorEnv",
    "llm_sched_env.envs.vector_env:LLMSchedVectorEnv",
    "llm_sched_env.errors:ConfigurationError",
    "llm_sched_env.evaluation.comparison:compare",
    "llm_sched_env.evaluation.executor:Executor",
    "llm_sched_env.exact.optimum:optimum",
    "llm_sched_env.policies.registry:registered_policies",
    "llm_sched_env.policies.registry:resolve_policy",
    "llm_sched_env.serving.clocks:clock_of",
    "llm_sched_env.serving.serve:Server",
    "llm_sched_env.serving.served_control:ServedControl",
    "llm_sched_env.serving.shapes:decoder_shape",
    "llm_sched_env.sizing.bound:greatest_rate_factor",
    "llm_sched_env.sizing.bound:least_gpus",
    "llm_sched_env.sizing.bound:least_work",
    "llm_sched_env.sizing.requirement:Requirement",
    "llm_sched_env.sizing.requirement:share_of",
    "llm_sched_env.sizing.size:size",
    "llm_sched_env.sizing.tune:front_ranks",
    "llm_sched_env.sizing.tune:tune",
    "llm_sched_env.sizing.workload:instance_workload",
    "llm_sched_env.sizing.workload:trace_workload",
    "llm_sched_env.tasks.evaluation:evaluate_task",
    "llm_sched_env.tasks.hidden_hardware:HiddenHardware",
    "llm_sched_env.tasks.suite:task",
    "llm_sched_env.tasks.task:Task",
    "llm_sched_env.watching.live_cluster:live_cluster",
)
PUBLIC = {name: getattr(lse, name) for name in {*lse.__all__} - {"__version__", "presets"}}
for path in FURTHER:
    module_name, _, name = path.partition(":")
    PUBLIC[name] = getattr(importlib.import_module(module_name), name)


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_example_runs(name):
    thing = PUBLIC[name]
    module = importlib.import_module(thing.__module__)
    found = doctest.DocTestFinder(recurse=False).find(
        inspect.unwrap(thing), name, module, globs=vars(module).copy()
    )
    (example,) = found
    assert example.examples
    result = doctest.DocTestRunner().run(example)
    assert result.failed == 0
