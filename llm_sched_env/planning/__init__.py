"""Fluid plans: linear programs, service levels, dynamics, and the priorities they imply.

Never imports the simulator, so that each is an independent check of the other.
"""

from llm_sched_env.planning.fluid import plan
from llm_sched_env.planning.fluid_dynamics import FluidPath, fluid_path
from llm_sched_env.planning.fluid_plan import PRICINGS, FluidPlan
from llm_sched_env.planning.service_levels import (
    TPOT,
    Abandonment,
    AttainedLevel,
    DecodeFairness,
    Indicator,
    PrefillFairness,
    ServiceLevel,
)

__all__ = [
    "PRICINGS",
    "TPOT",
    "Abandonment",
    "AttainedLevel",
    "DecodeFairness",
    "FluidPath",
    "FluidPlan",
    "Indicator",
    "PrefillFairness",
    "ServiceLevel",
    "fluid_path",
    "plan",
]
