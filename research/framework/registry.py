"""The list of studies, in the order of the page."""

from __future__ import annotations

from llm_sched_env.errors import ConfigurationError
from research.framework.study import Study
from research.studies.bursty_optimum import BurstyOptimum
from research.studies.convergence import Convergence
from research.studies.exact_optimum import ExactOptimum
from research.studies.finite_clusters import FiniteClusters
from research.studies.fluid_paths import FluidPaths
from research.studies.hardware import HardwareCurves
from research.studies.kv_aware_rules import KvAwareRules
from research.studies.learned_rules import LearnedRules
from research.studies.memory_speed import MemorySpeed
from research.studies.occupancy import Occupancy
from research.studies.policy_revenues import Policies
from research.studies.pricing import Pricing
from research.studies.separate_charging import SeparateCharging
from research.studies.shadow_prices import ShadowPrices
from research.studies.sli_convergence import SliConvergence
from research.studies.state_feedback import StateFeedback
from research.studies.time_varying_arrivals import TimeVaryingArrivals
from research.studies.workload_effects import Workload

STUDIES: tuple[Study, ...] = (
    FluidPaths(),
    SeparateCharging(),
    Convergence(),
    Occupancy(),
    SliConvergence(),
    Policies(),
    ShadowPrices(),
    HardwareCurves(),
    MemorySpeed(),
    Pricing(),
    Workload(),
    ExactOptimum(),
    FiniteClusters(),
    StateFeedback(),
    TimeVaryingArrivals(),
    BurstyOptimum(),
    LearnedRules(),
    KvAwareRules(),
)
"""By section of the paper."""

ALL = "all"


def named_studies(name: str) -> list[Study]:
    """One study by its name, or every one for ``all``.

    Raises:
        ConfigurationError: for another name.
    """
    if name == ALL:
        return list(STUDIES)
    for study in STUDIES:
        if study.name == name:
            return [study]
    raise ConfigurationError("study", name, f"one of {', '.join(s.name for s in STUDIES)}, {ALL}")
