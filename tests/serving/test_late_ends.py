"""Ends of iterations that are heard of late: each decision is still taken again in a replay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from event_agents import AtEvents
from law_machine import LawMachine
from test_machine_batch import HARDWARE, OPTIONS, N

import llm_sched_env as lse
from llm_sched_env.simulation.machine import Ended, Sent
from llm_sched_env.simulation.state.layout import RequestStream

pytest.importorskip("torch")

from llm_sched_env.serving.logged_machine import LoggedMachine
from llm_sched_env.serving.real_machine import Iteration
from llm_sched_env.serving.served import Decisions


class LateMachine(LawMachine):
    """Says late that iterations have ended, as engines in other processes do, in no fixed order."""

    def begin(self, stream: RequestStream) -> None:
        super().begin(stream)
        self.delays = np.random.default_rng(0)
        self.heard: dict[int, float] = {}
        self.order: list[tuple[float, float]] = []  # ends as they were, and as they were applied
        self.logged: list[list[Iteration]] = [[] for _ in self.hardware]

    def start(self, gpu: int, sent: Sequence[Sent], time: float) -> None:
        super().start(gpu, sent, time)
        self.heard[gpu] = self.ends[gpu] + self.delays.exponential(0.02)
        start, content = self.iterations[-1][1], self.iterations[-1][3]
        self.logged[gpu].append(
            Iteration(start, self.ends[gpu] - start, content, tuple(sent), (), ())
        )

    def wait(self, until: float) -> Ended | None:
        gpu = min(self.heard, key=lambda g: (self.heard[g], g), default=-1)
        if gpu < 0 or self.heard[gpu] > until:
            return None
        del self.heard[gpu]
        return Ended(gpu, self.ends.pop(gpu), *self.loads[gpu].iterate())

    def applied(self, ended: Ended, time: float) -> None:
        super().applied(ended, time)
        self.logged[ended.gpu][-1].end = time
        self.order.append((ended.time, time))


@pytest.mark.parametrize("policy", ["gate-and-route", "round-robin", AtEvents()])
def test_a_replay_takes_the_same_decisions_where_ends_are_heard_of_late(policy: Any) -> None:
    late = LateMachine(*[HARDWARE] * N)
    lse.evaluate(policy, **OPTIONS, machine=late)
    ended, applied = np.array(late.order).T
    assert (np.diff(ended) < 0).sum() > 20  # they overtake each other
    assert (np.diff(applied) > 0).all()
    replay = LoggedMachine(late.logged, HARDWARE.chunk_tokens)
    lse.evaluate(policy, **OPTIONS, machine=replay)
    assert len(Decisions.of(late.events)) > 100
    assert Decisions.of(late.events).first_difference(Decisions.of(replay.events)) is None
