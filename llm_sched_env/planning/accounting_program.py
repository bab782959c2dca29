"""The accounting program: time, iterations, tokens and context that any policy has to obey.

Per GPU of the cluster and second, with g a group of GPUs, i a class: iterations N_s and N_m,
prefills A, decodes S, tokens T made in solo and mixed iterations, context K read in them, F moved
from the group that prefilled to the one that decodes (docs/model.md has the rows). Every row is a
time average that holds for every policy, so the value bounds them all.

Columns are in units of about 1: iterations and tokens times the least seconds of an iteration, and
context in tokens of a mean one. For two speeds they are then the occupancies of (40) and (42).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from llm_sched_env.model.fleet import GpuGroup
from llm_sched_env.model.instance import Instance
from llm_sched_env.model.request_work import request_work
from llm_sched_env.planning.iteration_times import iteration_times
from llm_sched_env.planning.linear_program import Optimum, Program, maximize

# A name of columns, where in them, and coefficients.
_Part = tuple[str, Any, Any]
# Rows of a group: time, slots and memory of mixed and of solo iterations, link.
_ROWS = 6


@dataclass(frozen=True, eq=False)
class Accounts:
    """What an optimum does; rates per GPU of the cluster and second, arrays of shape (G, I).

    Attributes:
        value: revenue, currency.
        prefills: A.
        decodes: S.
        tokens: T made in mixed and in solo iterations, shape (2, G, I).
        context: K, tokens read in them, shape (2, G, I).
        iterations: N mixed and solo, shape (2, G).
        moved: F, prefilled in the first group and decoded in the second, shape (I, G, G).
        waiting: for a prefill, requests per GPU of the cluster, shape (I,); growth, 1/s, of a
            class that never leaves.
        prefilled_waiting: for a decode, by the group of the prefill, likewise, shape (G, I).
    """

    value: float
    prefills: np.ndarray
    decodes: np.ndarray
    tokens: np.ndarray
    context: np.ndarray
    iterations: np.ndarray
    moved: np.ndarray
    waiting: np.ndarray
    prefilled_waiting: np.ndarray


@dataclass(frozen=True, eq=False)
class AccountPrices:
    """Shadow prices, currency.

    Attributes:
        time: of a group's share of the cluster's time, shape (G,).
        slots: of a slot in a mixed and in a solo iteration, shape (2, G).
        memory: of a KV token in a mixed and in a solo iteration, shape (2, G); 0 without a limit.
        links: of a token's move from a group, shape (G,).
        arrival: of a further request, shape (I,).
        prefilled: of a further prefilled one, by group, shape (G, I).
    """

    time: np.ndarray
    slots: np.ndarray
    memory: np.ndarray
    links: np.ndarray
    arrival: np.ndarray
    prefilled: np.ndarray


class AccountingProgram:
    """The program of an instance on groups of GPUs.

    Args:
        instance: classes and prices; with a KV limit with all lengths, also those that do not fit.
        groups: the GPUs; their hardware is in place of the instance's.
        arrival_rates: of the requests that fit, per GPU and second, shape (I,).
        pricing: ``bundled`` or ``separate``.
        decode_queue: whether prefilled requests may wait and give up.
    """

    def __init__(
        self,
        instance: Instance,
        groups: Sequence[GpuGroup],
        arrival_rates: np.ndarray,
        pricing: str,
        *,
        decode_queue: bool = True,
    ) -> None:
        self.instance, self.groups, self.arrival_rates = instance, tuple(groups), arrival_rates
        works = [[request_work(c, g.hardware) for c in instance.classes] for g in groups]
        # Per field of RequestWork, shape (G, I).
        (
            self.prompt_tokens,
            self.output_tokens,
            self.prefill_iterations,
            self.prefill_tokens,
            self.prefill_context,
            self.decode_iterations,
            self.decode_context,
        ) = np.moveaxis(np.array(works), 2, 0)
        times = [iteration_times(g.hardware) for g in groups]
        self.solo_times = np.array([t.solo for t in times])
        self.mixed_times = np.array([t.mixed for t in times])
        chunks = np.array([float(g.hardware.chunk_tokens) for g in groups])
        least_mixed = self.mixed_times[:, 0] + self.mixed_times[:, 1] * chunks
        self.units = np.stack([least_mixed, self.solo_times[:, 0]])
        self._make_columns()
        self._rows: list[tuple[np.ndarray, float]] = []
        self._equations: list[tuple[np.ndarray, float]] = []
        for g in range(len(groups)):
            self._add_group(g)
        self._add_flows()
        self.program = self._program(pricing, decode_queue=decode_queue)

    def _make_columns(self) -> None:
        """Indices of the columns by name; those of one group begin like those of (40)."""
        g, i = len(self.groups), self.instance.n_classes
        shapes = {
            "prefills": (g, i),
            "mixed tokens": (g, i),
            "solo tokens": (g, i),
            "waiting": (i,),
            "prefilled waiting": (g, i),
            "mixed context": (g, i),
            "solo context": (g, i),
            "mixed": (g,),
            "solo": (g,),
            "moved": (i, g, g),
        }
        self.at: dict[str, np.ndarray] = {}
        self._size = 0
        for name, shape in shapes.items():
            count = int(np.prod(shape))
            self.at[name] = self._size + np.arange(count).reshape(shape)
            self._size += count

    @property
    def _admitted(self) -> np.ndarray:
        """Prefills per second of a unit of their columns, shape (G, I)."""
        rates: np.ndarray = 1.0 / (self.prefill_iterations * self.units[0][:, None])
        return rates

    @property
    def _mean_context(self) -> np.ndarray:
        """Context of a decode in a mean iteration, tokens, shape (G, I)."""
        context: np.ndarray = self.decode_context / self.decode_iterations
        return context

    def _row(self, *parts: _Part) -> np.ndarray:
        """Coefficients by column."""
        row = np.zeros(self._size)
        for name, where, value in parts:
            row[self.at[name][where]] += value
        return row

    def _add_group(self, g: int) -> None:
        """Time, slots, memory and link of a group."""
        hardware = self.groups[g].hardware
        slots, context = hardware.batch_slots, self._mean_context[g]
        self._rows += [
            (self._time(g), self.groups[g].share),
            (self._row(("mixed tokens", g, 1.0), ("mixed", g, 1.0 - slots)), 0.0),
            (self._row(("solo tokens", g, 1.0), ("solo", g, -float(slots))), 0.0),
        ]
        for mode in ("mixed", "solo"):
            row = np.zeros(self._size)
            if hardware.kv_tokens is not None:
                shares = context / hardware.kv_tokens
                row = self._row((f"{mode} context", g, shares), (mode, g, -1.0))
            self._rows.append((row, 0.0))
        self._rows.append(self._link(g))
        self._add_iterations(g)

    def _time(self, g: int) -> np.ndarray:
        """Seconds of a group's iterations."""
        s0, s1, s2 = self.solo_times[g] / self.units[1, g]
        m0, m1, m2, m3, m4 = self.mixed_times[g] / self.units[0, g]
        context = self._mean_context[g]
        prompt = m1 * self.prefill_tokens[g] + m4 * self.prefill_context[g]
        return self._row(
            ("mixed", g, m0),
            ("solo", g, s0),
            ("prefills", g, prompt / self.prefill_iterations[g]),
            ("mixed tokens", g, m2),
            ("solo tokens", g, s1),
            ("mixed context", g, m3 * context),
            ("solo context", g, s2 * context),
        )

    def _link(self, g: int) -> tuple[np.ndarray, float]:
        """Prompts that leave the group over its GPUs' links, in units of the longest mean one."""
        group, longest = self.groups[g], float(self.prompt_tokens[g].max())
        if np.isinf(group.link_tokens):
            return np.zeros(self._size), 0.0
        others = np.delete(np.arange(len(self.groups)), g)
        moves = [
            ("moved", (i, g, others), tokens / longest)
            for i, tokens in enumerate(self.prompt_tokens[g])
        ]
        return self._row(*moves), group.share * group.link_tokens / longest

    def _add_iterations(self, g: int) -> None:
        """A chunk in every mixed iteration; the context of decodes is read in one mode or other."""
        self._equations.append((self._row(("prefills", g, 1.0), ("mixed", g, -1.0)), 0.0))
        ratio = self.units[0, g] / self.units[1, g]
        for i in range(self.instance.n_classes):
            read = [("mixed context", (g, i), 1.0), ("solo context", (g, i), ratio)]
            made = [("mixed tokens", (g, i), -1.0), ("solo tokens", (g, i), -ratio)]
            self._equations.append((self._row(*read, *made), 0.0))

    def _add_flows(self) -> None:
        """Arrivals are prefilled or leave; prefilled requests are decoded or leave; per class.

        A class that never leaves may keep growing queues, which its waiting columns then are, 1/s.
        """
        theta = self.instance.patience_rates
        slack = np.where(theta > 0, theta, 1.0)
        every = range(len(self.groups))
        self._first_flow = len(self._equations)
        for i, rate in enumerate(self.arrival_rates):
            admitted = [("prefills", (g, i), self._admitted[g, i]) for g in every]
            self._equations.append((self._row(*admitted, ("waiting", i, slack[i])), float(rate)))
        for g in every:
            for i in range(self.instance.n_classes):
                row = self._row(
                    ("prefills", (g, i), self._admitted[g, i]),
                    ("moved", (i, g), -1.0),
                    ("prefilled waiting", (g, i), -slack[i]),
                )
                self._equations.append((row, 0.0))
        for h in every:
            for i in range(self.instance.n_classes):
                row = self._row(("moved", (i, slice(None), h), 1.0), *self._decoded(h, i, -1.0))
                self._equations.append((row, 0.0))

    def _decoded(self, h: int, i: int, factor: float) -> list[_Part]:
        """Decodes per second of a class in a group, as parts of a row."""
        rates = factor / (self.units[:, h] * self.decode_iterations[h, i])
        return [("mixed tokens", (h, i), rates[0]), ("solo tokens", (h, i), rates[1])]

    def _program(self, pricing: str, *, decode_queue: bool) -> Program:
        prices, n = self.instance.prices, self.instance.n_classes
        revenue = np.zeros(self._size)
        for g in range(len(self.groups)):
            for i in range(n):
                prompt = prices.prefill * self.prompt_tokens[g, i]
                output = prices.decode * self.output_tokens[g, i]
                if pricing == "bundled":
                    prompt, output = 0.0, prompt + output
                revenue += self._row(
                    ("prefills", (g, i), prompt * self._admitted[g, i]),
                    *self._decoded(g, i, output),
                )
        upper = np.full(self._size, np.inf)
        for g, group in enumerate(self.groups):
            if group.role == "prefill":
                upper[self.at["mixed tokens"][g]] = upper[self.at["solo tokens"][g]] = 0.0
            if group.role == "decode":
                upper[self.at["prefills"][g]] = 0.0
        if not decode_queue:
            upper[self.at["prefilled waiting"]] = 0.0
        return Program(
            name=self.instance.name,
            objective=revenue,
            rows=np.array([row for row, _ in self._rows]),
            levels=np.array([level for _, level in self._rows]),
            equations=np.array([row for row, _ in self._equations]),
            amounts=np.array([amount for _, amount in self._equations]),
            lower=np.zeros(self._size),
            upper=upper,
            occupancy=self.occupancy(self.units[:, 0]),
        )

    def occupancy(self, seconds: np.ndarray) -> np.ndarray:
        """What columns are in x, y_mixed, y_solo, q_prefill, q_decode; shape (5, I, columns).

        Args:
            seconds: of a mixed and of a solo iteration, for the only group.
        """
        n = self.instance.n_classes
        found = np.zeros((5, n, self._size))
        own = np.asarray(seconds) / self.units[:, 0]
        factors = (own[0], own[0], own[1], 1.0, 1.0)
        names = ("prefills", "mixed tokens", "solo tokens", "waiting", "prefilled waiting")
        for k, (name, factor) in enumerate(zip(names, factors, strict=True)):
            found[k, np.arange(n), self.at[name].reshape(-1)[:n]] = factor
        return found

    def accounts(self, columns: np.ndarray) -> Accounts:
        """What columns stand for."""
        part = {name: np.maximum(columns[at], 0.0) for name, at in self.at.items()}
        tokens = np.stack([part["mixed tokens"], part["solo tokens"]]) / self.units[:, :, None]
        context = np.stack([part["mixed context"], part["solo context"]]) / self.units[:, :, None]
        return Accounts(
            value=float(self.program.objective @ columns),
            prefills=part["prefills"] * self._admitted,
            decodes=tokens.sum(axis=0) / self.decode_iterations,
            tokens=tokens,
            context=context * self._mean_context,
            iterations=np.stack([part["mixed"], part["solo"]]) / self.units,
            moved=part["moved"],
            waiting=part["waiting"],
            prefilled_waiting=part["prefilled waiting"],
        )

    def prices(self, optimum: Optimum) -> AccountPrices:
        """What the program would earn by one more of each."""
        n = self.instance.n_classes
        rows = optimum.row_prices[: _ROWS * len(self.groups)].reshape(-1, _ROWS)
        flows = optimum.equation_prices[self._first_flow :]
        limits = np.array([float(g.hardware.kv_tokens or 1) for g in self.groups])
        return AccountPrices(
            time=rows[:, 0],
            slots=rows[:, 1:3].T * self.units,
            memory=rows[:, 3:5].T * self.units / limits,
            links=rows[:, 5] / self.prompt_tokens.max(axis=1),
            arrival=flows[:n],
            prefilled=-flows[n : n + n * len(self.groups)].reshape(-1, n),
        )

    def optimum(self) -> Optimum:
        """An optimum; raises PlanError if the solver finds none."""
        return maximize(self.program)

    def critical_scale(self) -> float:
        """By which factor all arrival rates can grow before somebody cannot be served."""
        program, n = self.program, self.instance.n_classes
        scale = np.zeros((len(program.equations), 1))
        scale[self._first_flow : self._first_flow + n, 0] = -self.arrival_rates
        upper = np.append(program.upper, np.inf)
        upper[self.at["waiting"]] = upper[self.at["prefilled waiting"]] = 0.0
        grown = replace(
            program,
            objective=np.append(np.zeros(self._size), 1.0),
            rows=np.hstack([program.rows, np.zeros((len(program.rows), 1))]),
            equations=np.hstack([program.equations, scale]),
            amounts=np.zeros(len(program.equations)),
            lower=np.append(program.lower, 0.0),
            upper=upper,
            occupancy=np.zeros((5, n, self._size + 1)),
        )
        return float(maximize(grown).columns[-1])
