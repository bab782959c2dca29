"""Clusters split into prefill and decode GPUs at every share, beside colocated ones.

Three mixes of the classes of ``h100-chat`` on its hardware, each at 0.9 of what a colocated cluster
can serve, so that what a split loses is what it cannot serve or serves too late.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from llm_sched_env.evaluation.comparison import ComparedWorkload, Competitor, compare
from llm_sched_env.evaluation.executor import Executor
from llm_sched_env.model.deadlines import Deadlines
from llm_sched_env.model.fleet import Fleet, GpuGroup
from llm_sched_env.model.instance import Instance
from llm_sched_env.model.link import Link
from llm_sched_env.planning.fleet_plan import fleet_program
from llm_sched_env.policies.registry import resolve_policy
from llm_sched_env.presets import h100_chat

N_GPUS, LOAD = 20, 0.9
SEED, HORIZON, WARMUP, RUNS = 0, 400.0, 100.0, 4
RESULTS = Path(__file__).parents[1] / "results" / "disaggregation.csv"
DEADLINES = Deadlines(ttft_seconds=2.0, tpot_seconds=0.025)
"""Chosen before the runs: 40 tokens a second, which a full batch makes only without a prefill."""
WORKLOADS = {
    "reading": (6.0, 6.0, 0.5),
    "chat": (9.0, 4.0, 2.0),
    "reasoning": (6.0, 0.5, 4.0),
}
"""Requests of the classes chat, documents and reasoning, in proportion."""
LINKS = {"400 Gbit/s": Link(380_000.0, 0.001), "25 Gbit/s": Link(24_000.0, 0.001)}
"""Tokens of 131 kB, the KV cache of Llama-3-8B; a prefill GPU makes 39,000 of them a second."""
PREFILL_GPUS = tuple(range(2, N_GPUS - 1))
POLICIES = (
    "token-bucket",
    "trunk-reservation",
    "slo-reserve",
    "fcfs-and-route",
    "join-shortest-queue",
)
COLOCATED = "colocated"
Row = dict[str, Any]


def colocated(workload: str, link: str) -> Instance:
    """A cluster in which every GPU prefills and decodes."""
    given = h100_chat()
    rates = WORKLOADS[workload]
    classes = tuple(
        replace(c, arrival_rate=rate, deadlines=DEADLINES)
        for c, rate in zip(given.classes, rates, strict=True)
    )
    fleet = Fleet((GpuGroup("all", given.only_hardware, link=LINKS[link]),))
    instance = replace(given, name=f"{workload}, {COLOCATED}", classes=classes, hardware=fleet)
    scale = fleet_program(instance, decode_queue=False).critical_scale()
    return instance.scaled(LOAD * scale, name=instance.name)


def split(workload: str, link: str, prefill_gpus: int) -> Instance:
    """The same with GPUs of two roles."""
    given = colocated(workload, link)
    (group,) = given.groups
    share = prefill_gpus / N_GPUS
    fleet = Fleet(
        (
            replace(group, name="prefill", role="prefill", share=share),
            replace(group, name="decode", role="decode", share=1.0 - share),
        )
    )
    name = f"{workload}, {link}, {prefill_gpus} prefill GPUs"
    return replace(given, name=name, hardware=fleet)


def instances() -> dict[tuple[str, str, str], Instance]:
    """By workload, link and prefill GPUs, or ``colocated`` with the faster link."""
    found = {}
    for workload in WORKLOADS:
        fastest = next(iter(LINKS))
        found[workload, fastest, COLOCATED] = colocated(workload, fastest)
        for link in LINKS:
            for n in PREFILL_GPUS:
                found[workload, link, str(n)] = split(workload, link, n)
    return found


def measure(cache: Path | None = None) -> list[Row]:
    """Run everything: a row per workload, link, split and policy.

    Args:
        cache: folder of finished evaluations, which are not run again.
    """
    rows = list[Row]()
    for (workload, link, prefill_gpus), instance in instances().items():
        results = compare(
            [ComparedWorkload(instance, N_GPUS)],
            [Competitor(*resolve_policy(policy)) for policy in POLICIES],
            horizon=HORIZON,
            warmup=WARMUP,
            replications=RUNS,
            seed=SEED,
            executor=Executor(),
            cache=cache,
            on_result=print,
        )
        for label, result in results:
            low, high = result.score.ci95
            assert result.goodput_rate is not None
            row: Row = {"workload": workload, "link": link, "prefill_gpus": prefill_gpus}
            row |= {"policy": label, "bound": result.bound}
            row |= {"score": result.score.mean, "score_low": low, "score_high": high}
            rows.append(row | {"goodput_share": result.goodput_rate.mean / result.bound})
    return rows
