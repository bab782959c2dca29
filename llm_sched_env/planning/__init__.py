"""The fluid plan: linear programs, their certificate, and what a scheduler reads off them.

Never imports the simulator, so that each is an independent check of the other.
"""

from llm_sched_env.planning.fluid import PRICINGS, FluidPlan, plan

__all__ = ["PRICINGS", "FluidPlan", "plan"]
