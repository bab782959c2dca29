"""How many GPUs chats need: the bound, the answer, and what twice the traffic costs.

python examples/size_cluster.py
"""

from __future__ import annotations

from llm_sched_env.model.hardware import HardwareFile
from llm_sched_env.sizing.judged import GpuKind
from llm_sched_env.sizing.report import answer, kind_lines
from llm_sched_env.sizing.requirement import Requirement
from llm_sched_env.sizing.size import size
from llm_sched_env.sizing.workload import instance_workload


def main(rate: float = 20.0, horizon: float = 300.0) -> None:
    """Size a cluster for `chat-deadlines` at a rate and at twice the rate.

    Args:
        rate: requests per second for the whole cluster.
        horizon: seconds of each sample, a fifth of which is warm-up.
    """
    file = HardwareFile.load("h100-llama3-8b-b64")
    h100 = GpuKind("h100-llama3-8b-b64", file.hardware, price=2.5, source=file.source)
    for growth in (1.0, 2.0):
        chats = instance_workload(
            "chat-deadlines", rate * growth, horizon=horizon, warmup=horizon / 5
        )
        found = size(chats, [h100], Requirement("share", 0.95))
        print(answer(found))
        print(*kind_lines(found))


if __name__ == "__main__":
    main()
