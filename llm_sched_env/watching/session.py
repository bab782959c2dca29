"""What is watched: clusters side by side, how fast, and what the keys do."""

from __future__ import annotations

from collections.abc import Sequence

from llm_sched_env.planning.cluster import Cluster
from llm_sched_env.simulation.events.metrics import read_metrics
from llm_sched_env.watching.live_cluster import LiveCluster

HELP = "space pause   + - speed   tab or 1-9 policy   . one second   q quit"
_MOST_SPEED, _LEAST_SPEED = 256.0, 0.25


class Session:
    """Clusters under different policies with the same requests, one of which is shown.

    All go on together, so that another policy is shown as if it had run from the start.

    Args:
        cluster: what all of them are.
        clusters: one a policy.
        horizon: seconds at which all stop.
        speed: simulated seconds per second.
        bound: R* of what is served, currency per GPU and second; default: the plan's.
        revenue: ``all`` or ``goodput``: which requests are paid for.

    Attributes:
        time: seconds that have been simulated.
        shown: which cluster is shown.
        paused: whether they stand still.
        ended: whether nothing more is to be shown.
    """

    def __init__(
        self,
        cluster: Cluster,
        clusters: Sequence[LiveCluster],
        horizon: float,
        speed: float,
        *,
        bound: float | None = None,
        revenue: str = "all",
    ) -> None:
        self.cluster, self.clusters = cluster, list(clusters)
        self.horizon, self.speed = horizon, speed
        self.bound = cluster.plan.value if bound is None else bound
        self.revenue = revenue
        self.time, self.shown = 0.0, 0
        self.paused = self.ended = False

    @property
    def current(self) -> LiveCluster:
        """The cluster that is shown."""
        return self.clusters[self.shown]

    def score(self, live: LiveCluster) -> float:
        """What a cluster has earned so far as a share of R*."""
        metrics = read_metrics(live.state)
        if metrics.gpu_seconds == 0:
            return 0.0
        return metrics.revenue_rate(self.cluster.pricing, self.revenue) / self.bound

    def press(self, key: str) -> None:
        """Do what a key says; others do nothing."""
        if key in {"q", "Q", "\x1b", "\x03"}:
            self.ended = True
        elif key in {" ", "p"}:
            self.paused = not self.paused
        elif key in {"+", "="}:
            self.speed = min(_MOST_SPEED, 2 * self.speed)
        elif key == "-":
            self.speed = max(_LEAST_SPEED, self.speed / 2)
        elif key == "\t":
            self.shown = (self.shown + 1) % len(self.clusters)
        elif key == ".":
            self.advance_to(self.time + 1.0)
        elif key in "123456789" and int(key) <= len(self.clusters):
            self.shown = int(key) - 1

    def pass_time(self, seconds: float) -> None:
        """Let so many seconds of the viewer pass."""
        if not self.paused:
            self.advance_to(self.time + self.speed * seconds)

    def advance_to(self, time: float) -> None:
        """Simulate all clusters to a time, at most to the horizon."""
        self.time = min(time, self.horizon)
        for cluster in self.clusters:
            cluster.advance(self.time)
