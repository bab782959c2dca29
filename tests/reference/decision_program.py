"""The decision process of a minuscule cluster as a linear program over frequencies.

Written from the model page alone, state by state; it shares no code with `llm_sched_env.exact`.
Unknown are the share of time x_s spent waiting in a state and the rate y_sa at which an action is
taken there, which takes no time. What enters a state leaves it; revenue per second is maximal:

    max sum r_s x_s,  sum_s x_s = 1,  x, y >= 0,
    sum_s' x_s' q_s's + sum_s'a y_s'a p_s'a(s) = x_s sum_s' q_ss' + sum_a y_sa   for every s.
"""

from __future__ import annotations

from itertools import product

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import coo_array


class DecisionProgram:
    """n GPUs, arrivals at a full queue lost, decode buffer of limited size.

    A GPU is (class in prefill or None, decodes by class); a state is (sorted GPUs, waiting for
    prefill, waiting for decode, state of the traffic).
    """

    def __init__(self, instance, n_gpus, queue_limit, decode_limit, pricing, random_gpu):
        self.instance, self.n_gpus, self.pricing = instance, n_gpus, pricing
        self.queue_limit, self.decode_limit, self.random_gpu = queue_limit, decode_limit, random_gpu
        self.classes = range(len(instance.classes))
        hardware = instance.hardware
        self.slots = hardware.batch_slots
        self.mixed_seconds = hardware.alpha + hardware.beta * hardware.chunk_tokens
        self.switches, self.relative_rates = traffic_states(instance)

    def events(self, state):
        """(rate, revenue, state after)."""
        yield from self.queue_events(state)
        gpus, waiting, prefilled, traffic = state
        prices, hardware = self.instance.prices, self.instance.hardware
        for g, (prefill, decodes) in enumerate(gpus):
            if prefill is not None:
                c = self.instance.classes[prefill]
                rate = hardware.chunk_tokens / (c.prompt_tokens * self.mixed_seconds)
                bill = prices.prefill * c.prompt_tokens if self.pricing == "separate" else 0.0
                freed = put(gpus, g, (None, decodes))
                yield rate, bill, (freed, waiting, plus(prefilled, prefill, 1), traffic)
            for i, c in enumerate(self.instance.classes):
                if decodes[i]:
                    each = hardware.gamma if prefill is None else 1.0 / self.mixed_seconds
                    bill = prices.decode * c.output_tokens
                    if self.pricing == "bundled":
                        bill += prices.prefill * c.prompt_tokens
                    freed = put(gpus, g, (prefill, plus(decodes, i, -1)))
                    after = (freed, waiting, prefilled, traffic)
                    yield decodes[i] * each / c.output_tokens, bill, after

    def queue_events(self, state):
        """Those outside the GPUs."""
        gpus, waiting, prefilled, traffic = state
        for other, rate in enumerate(self.switches[traffic]):
            if rate:
                yield rate, 0.0, (gpus, waiting, prefilled, other)
        for i, c in enumerate(self.instance.classes):
            if waiting[i] < self.queue_limit:
                rate = self.n_gpus * c.arrival_rate * self.relative_rates[traffic][i]
                yield rate, 0.0, (gpus, plus(waiting, i, 1), prefilled, traffic)
            if waiting[i]:
                left = (gpus, plus(waiting, i, -1), prefilled, traffic)
                yield waiting[i] * c.patience_rate, 0.0, left
            if prefilled[i]:
                left = (gpus, waiting, plus(prefilled, i, -1), traffic)
                yield prefilled[i] * c.patience_rate, 0.0, left

    def actions(self, state):
        """Each action as a list of equally likely states."""
        gpus, waiting, prefilled, traffic = state
        for i in self.classes:
            for name in ("admit", "solo", "mixed"):
                if not (waiting if name == "admit" else prefilled)[i]:
                    continue
                outcomes = []
                for g, (prefill, decodes) in enumerate(gpus):
                    used = sum(decodes) + (prefill is not None)
                    if used == self.slots or (prefill is None) == (name == "mixed"):
                        continue
                    if name == "admit":
                        after = put(gpus, g, (i, decodes)), plus(waiting, i, -1), prefilled
                    else:
                        new = put(gpus, g, (prefill, plus(decodes, i, 1)))
                        after = new, waiting, plus(prefilled, i, -1)
                    outcomes.append((*after, traffic))
                if outcomes and self.random_gpu:
                    yield outcomes
                else:
                    yield from ([one] for one in set(outcomes))

    def may_wait(self, state):
        return sum(state[2]) <= self.decode_limit

    def solve(self):
        """Revenue per GPU and second."""
        empty = tuple((None, (0,) * len(self.classes)) for _ in range(self.n_gpus))
        none = (0,) * len(self.classes)
        index = {(empty, none, none, 0): 0}
        states, entries, revenue = list(index), [], []

        def number(state):
            if state not in index:
                index[state] = len(states)
                states.append(state)
            return index[state]

        for s, state in enumerate(states):  # grows while it is read
            if self.may_wait(state):
                column = len(revenue)
                revenue.append(0.0)
                entries.append((-1, column, 1.0))
                for rate, bill, after in self.events(state):
                    revenue[column] += rate * bill
                    entries += [(number(after), column, rate), (s, column, -rate)]
            for outcomes in self.actions(state):
                column = len(revenue)
                revenue.append(0.0)
                entries.append((s, column, -1.0))
                entries += [(number(after), column, 1.0 / len(outcomes)) for after in outcomes]
        rows, columns, values = zip(*entries, strict=True)
        rows = np.where(np.array(rows) < 0, len(states), rows)
        balance = coo_array((values, (rows, columns)), shape=(len(states) + 1, len(revenue)))
        right = np.zeros(len(states) + 1)
        right[-1] = 1.0
        # As exact as the solver can be: values are compared to eight digits.
        options = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}
        found = linprog(
            -np.array(revenue), A_eq=balance.tocsr(), b_eq=right, method="highs-ds", options=options
        )
        assert found.status == 0
        return -found.fun / self.n_gpus


def traffic_states(instance):
    """Switch rates between states of the traffic, and relative arrival rates by class in each."""
    chain, classes = instance.modulation, instance.classes
    if chain is None:
        return [[0.0]], [[1.0] * len(classes)]
    rates, size = chain.switch_rates, len(chain.switch_rates)
    balance = np.array([[rates[t][s] - (s == t) * sum(rates[s]) for t in range(size)]
                        for s in range(size)])  # fmt: skip
    balance[-1] = 1.0
    law = np.linalg.solve(balance, np.eye(size)[-1])
    factors = np.array([np.broadcast_to(m, len(classes)) for m in chain.multipliers], float)
    return rates, (factors / (law @ factors)).tolist()


def plus(counts, i, change):
    return tuple(c + change * (k == i) for k, c in enumerate(counts))


def put(gpus, g, gpu):
    order = [*gpus[:g], gpu, *gpus[g + 1 :]]
    return tuple(sorted(order, key=lambda own: (-1 if own[0] is None else own[0], own[1])))


ALL_CASES = tuple(product(("bundled", "separate"), (False, True), (0, 1)))
