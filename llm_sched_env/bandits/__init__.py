"""Linear contextual bandits with offline data that may be biased (docs/bandits.md).

In each round a policy picks one of finitely many actions, rows ``x`` of a matrix, and sees
``y = x' theta`` plus noise. Offline pairs come from another parameter; a certificate bounds how far
away it may be. Every policy has ``select(actions) -> index`` and ``update(x, y)``.
"""

from __future__ import annotations

from llm_sched_env.bandits.certificate import Certificate
from llm_sched_env.bandits.confidence import Assumptions
from llm_sched_env.bandits.discounted import DiscountedUCB
from llm_sched_env.bandits.ellipsoidal import EllipsoidalMinUCB, min_ucb
from llm_sched_env.bandits.learned_certificate import EmpiricalBayes, LearnedCertificate
from llm_sched_env.bandits.offline_data import OfflineData
from llm_sched_env.bandits.optimistic import Bandit, LinUCB, PooledUCB
from llm_sched_env.bandits.staged import StagedUCB

__all__ = [
    "Assumptions",
    "Bandit",
    "Certificate",
    "DiscountedUCB",
    "EllipsoidalMinUCB",
    "EmpiricalBayes",
    "LearnedCertificate",
    "LinUCB",
    "OfflineData",
    "PooledUCB",
    "StagedUCB",
    "min_ucb",
]
