"""Which studies are there, in the order of the page?"""

from __future__ import annotations

from llm_sched_env.errors import ConfigurationError
from llm_sched_env.experiments.studies.bursty_optimum import BurstyOptimum
from llm_sched_env.experiments.studies.changing_traffic import ChangingTraffic
from llm_sched_env.experiments.studies.convergence import Convergence
from llm_sched_env.experiments.studies.exact_optimum import ExactOptimum
from llm_sched_env.experiments.studies.finite_clusters import FiniteClusters
from llm_sched_env.experiments.studies.fluid_paths import FluidPaths
from llm_sched_env.experiments.studies.hardware import HardwareCurves
from llm_sched_env.experiments.studies.learned_rules import LearnedRules
from llm_sched_env.experiments.studies.memory_speed import MemorySpeed
from llm_sched_env.experiments.studies.occupancy import Occupancy
from llm_sched_env.experiments.studies.policies import Policies
from llm_sched_env.experiments.studies.pricing import Pricing
from llm_sched_env.experiments.studies.separate_charging import SeparateCharging
from llm_sched_env.experiments.studies.shadow_prices import ShadowPrices
from llm_sched_env.experiments.studies.sli_convergence import SliConvergence
from llm_sched_env.experiments.studies.state_feedback import StateFeedback
from llm_sched_env.experiments.studies.workload import Workload
from llm_sched_env.experiments.study import Study

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
    ChangingTraffic(),
    BurstyOptimum(),
    LearnedRules(),
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
