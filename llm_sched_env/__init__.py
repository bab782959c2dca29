"""Scheduling of LLM inference on clusters with prefill-decode contention.

``gym.make("LLMSched-v0")`` after ``import llm_sched_env``; :func:`plan`, :func:`evaluate`,
:class:`Instance` and :mod:`presets` are loaded on first use, so that the import stays light.
"""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from gymnasium.envs.registration import register, registry

if TYPE_CHECKING:
    from llm_sched_env import presets
    from llm_sched_env.calibration.fit import calibrate
    from llm_sched_env.calibration.log_calibration import calibrate_logs
    from llm_sched_env.errors import LLMSchedError
    from llm_sched_env.evaluation.evaluate import evaluate
    from llm_sched_env.evaluation.results import Evaluation
    from llm_sched_env.model.arrival_rates import ArrivalModulation, ArrivalProfile
    from llm_sched_env.model.deadlines import Deadlines
    from llm_sched_env.model.fleet import Fleet, GpuGroup
    from llm_sched_env.model.hardware import Hardware, load_hardware
    from llm_sched_env.model.instance import Instance, Prices, RequestClass
    from llm_sched_env.model.iteration_law import MixedIteration, SoloIteration
    from llm_sched_env.model.length_distributions import LengthDistribution, ObservedLengths
    from llm_sched_env.model.link import Link
    from llm_sched_env.planning import (
        TPOT,
        Abandonment,
        DecodeFairness,
        FluidPath,
        FluidPlan,
        PrefillFairness,
        ServiceLevel,
        fluid_path,
        plan,
    )
    from llm_sched_env.simulation.scheduling.rules import DispatchRule
    from llm_sched_env.validation.validate import validate
    from llm_sched_env.workloads.generated import requests_of_run
    from llm_sched_env.workloads.length_fits import fit_output_lengths
    from llm_sched_env.workloads.trace import Trace
    from llm_sched_env.workloads.traces import load_traces

try:
    __version__ = version("llm-sched-env")
except PackageNotFoundError:  # a source tree that is not installed
    __version__ = "0+unknown"

_HOMES = {
    "Abandonment": "llm_sched_env.planning",
    "ArrivalModulation": "llm_sched_env.model.arrival_rates",
    "ArrivalProfile": "llm_sched_env.model.arrival_rates",
    "Deadlines": "llm_sched_env.model.deadlines",
    "DecodeFairness": "llm_sched_env.planning",
    "DispatchRule": "llm_sched_env.simulation.scheduling.rules",
    "Evaluation": "llm_sched_env.evaluation.results",
    "Fleet": "llm_sched_env.model.fleet",
    "FluidPath": "llm_sched_env.planning",
    "FluidPlan": "llm_sched_env.planning",
    "GpuGroup": "llm_sched_env.model.fleet",
    "Hardware": "llm_sched_env.model.hardware",
    "Instance": "llm_sched_env.model.instance",
    "LLMSchedError": "llm_sched_env.errors",
    "LengthDistribution": "llm_sched_env.model.length_distributions",
    "Link": "llm_sched_env.model.link",
    "MixedIteration": "llm_sched_env.model.iteration_law",
    "ObservedLengths": "llm_sched_env.model.length_distributions",
    "PrefillFairness": "llm_sched_env.planning",
    "Prices": "llm_sched_env.model.instance",
    "RequestClass": "llm_sched_env.model.instance",
    "ServiceLevel": "llm_sched_env.planning",
    "SoloIteration": "llm_sched_env.model.iteration_law",
    "TPOT": "llm_sched_env.planning",
    "Trace": "llm_sched_env.workloads.trace",
    "calibrate": "llm_sched_env.calibration.fit",
    "calibrate_logs": "llm_sched_env.calibration.log_calibration",
    "evaluate": "llm_sched_env.evaluation.evaluate",
    "fit_output_lengths": "llm_sched_env.workloads.length_fits",
    "load_hardware": "llm_sched_env.model.hardware",
    "fluid_path": "llm_sched_env.planning",
    "load_traces": "llm_sched_env.workloads.traces",
    "plan": "llm_sched_env.planning",
    "requests_of_run": "llm_sched_env.workloads.generated",
    "validate": "llm_sched_env.validation.validate",
}

__all__ = [
    "TPOT",
    "Abandonment",
    "ArrivalModulation",
    "ArrivalProfile",
    "Deadlines",
    "DecodeFairness",
    "DispatchRule",
    "Evaluation",
    "Fleet",
    "FluidPath",
    "FluidPlan",
    "GpuGroup",
    "Hardware",
    "Instance",
    "LLMSchedError",
    "LengthDistribution",
    "Link",
    "MixedIteration",
    "ObservedLengths",
    "PrefillFairness",
    "Prices",
    "RequestClass",
    "ServiceLevel",
    "SoloIteration",
    "Trace",
    "__version__",
    "calibrate",
    "calibrate_logs",
    "evaluate",
    "fit_output_lengths",
    "fluid_path",
    "load_hardware",
    "load_traces",
    "plan",
    "presets",
    "requests_of_run",
    "validate",
]


_FORMER_NAMES = {"TokenTime": "TPOT"}


def __getattr__(name: str) -> Any:
    if name in _FORMER_NAMES:
        from llm_sched_env.plugins.deprecated_names import warn_renamed

        new = _FORMER_NAMES[name]
        warn_renamed(f"llm_sched_env.{name}", f"llm_sched_env.{new}")
        name = new
    if name == "presets":
        return importlib.import_module("llm_sched_env.presets")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if "LLMSched-v0" not in registry:
    register(
        id="LLMSched-v0",
        entry_point="llm_sched_env.envs.interval_env:LLMSchedEnv",
        vector_entry_point="llm_sched_env.envs.vector_env:LLMSchedVectorEnv",
    )

if "LLMSchedEvent-v0" not in registry:
    register(
        id="LLMSchedEvent-v0",
        entry_point="llm_sched_env.envs.event_env:LLMSchedEventEnv",
        vector_entry_point="llm_sched_env.envs.event_vector_env:LLMSchedEventVectorEnv",
    )

if "LLMSchedRouting-v0" not in registry:
    register(
        id="LLMSchedRouting-v0",
        entry_point="llm_sched_env.envs.routing_env:LLMSchedRoutingEnv",
        vector_entry_point="llm_sched_env.envs.routing_vector_env:LLMSchedRoutingVectorEnv",
    )

for _task in (
    "Overload5",
    "Overload200",
    "Bursts",
    "AzureReplay",
    "Deadlines",
    "MixedFleet",
    "Disaggregated",
    "SessionRouting",
    "MooncakeRouting",
    "HiddenHardware",
    "DelayedObservations",
):
    if f"LLMSched/{_task}-v0" not in registry:
        register(
            id=f"LLMSched/{_task}-v0",
            entry_point="llm_sched_env.tasks.environments:make_task",
            vector_entry_point="llm_sched_env.tasks.environments:make_vector_task",
            kwargs={"name": _task},
        )
