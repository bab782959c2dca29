"""Fluid plans: linear programs, service levels, dynamics, and the priorities they imply.

Never imports the simulator, so that each is an independent check of the other.
"""

from llm_sched_env.planning.fluid import plan
from llm_sched_env.planning.fluid_dynamics import FluidPath, fluid_path
from llm_sched_env.planning.fluid_plan import PRICINGS, FluidPlan
from llm_sched_env.planning.service_levels import (
    AttainedLevel,
    DecodeFairness,
    Indicator,
    PrefillFairness,
    ServiceLevel,
    TokenTime,
)

__all__ = [
    "PRICINGS",
    "AttainedLevel",
    "DecodeFairness",
    "FluidPath",
    "FluidPlan",
    "Indicator",
    "PrefillFairness",
    "ServiceLevel",
    "TokenTime",
    "fluid_path",
    "plan",
]
