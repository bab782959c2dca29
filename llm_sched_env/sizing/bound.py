r"""What no scheduler can do: the fewest GPUs, and the greatest rate, that accounting leaves open.

The requests of a sample are fixed. A scheduler chooses which of them are good, so the argument
may not price requests at their means: it must hold for the cheapest requests that are enough.

*Price of a request.* Let a set of requests be completed by time H on n GPUs. Write N_s and N_m
for the solo and mixed iterations until H, and T_s, T_m, K_s, K_m for the tokens of the set that are
made in them and the context that those read. Every iteration lasts at least as long as the law
says of the set's own work in it (:func:`.iteration_times`: all coefficients are >= 0), so

    s0 N_s + s1 T_s + s2 K_s + m0 N_m + m2 T_m + m3 K_m + sum (m1 P + m4 P^2/2)  <=  n H.

An iteration has at most B decodes, B - 1 beside a chunk, and a chunk is of one request:
T_s <= B N_s, T_m <= (B - 1) N_m, and N_m >= sum k with k the chunks of a request. Take any y in
[0, m0 / (B - 1)], add y times the second inequality and s0 / B times the first, and use the third
with its weight m0 - (B - 1) y >= 0:

    sum c(y)  <=  n H,   where of a request with D tokens and context K
    c(y) = m1 P + m4 P^2/2 + (m0 - (B-1) y) k + min(s1 + s0/B, m2 + y) D + min(s2, m3) K.

That is weak duality for the accounting program of docs/model.md, request by request. If m requests
must be good, the m least c(y) add up to at most n H, whatever the scheduler does.

*Windows.* First tokens have less time. The prefills of requests that arrive in [u, v) and get their
first token within t take place in [u, v + t), one at a time on each GPU, so that their durations
f = m0 k + m1 P + m4 P^2/2 add up to at most n (v - u + t). In each of disjoint windows a scheduler
may give up requests; it must give up at least as many as make the least f of the others fit. The
sum over windows bounds the requests that miss. The same holds for c(y) with e2e deadlines.

*An idle GPU.* A request whose f exceeds its TTFT, or whose tokens on an idle GPU take longer than
its TPOT, is not good on any number of GPUs.

None of this depends on the policy, on what it knows, or on patience: a request that leaves is not
good. Rejected requests are not, either.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from llm_sched_env.model.hardware import Hardware
from llm_sched_env.planning.iteration_times import iteration_times
from llm_sched_env.sizing.requirement import Requirement
from llm_sched_env.sizing.workload import Workload
from llm_sched_env.workloads.trace import Trace

# Lengths of windows, s, beside the whole sample; and points of y.
_WINDOWS = (2.0, 5.0, 10.0, 20.0, 60.0, 300.0)
_POINTS = 9
# Sums of many prices are exact to this share.
_ROUNDING = 1e-9
MOST_GPUS = 2**20


class Work(NamedTuple):
    """The least that requests ask of GPUs; arrays of shape (K,), but the last.

    Attributes:
        prefill: seconds of the prefill on a GPU without decodes.
        token: seconds per output token on an idle GPU.
        prices: c(y) at points of y, shape (points, K).
        fits: whether the request fits into the KV cache of a GPU.
    """

    prefill: np.ndarray
    token: np.ndarray
    fits: np.ndarray
    prices: np.ndarray


def least_work(sample: Trace, hardware: Hardware) -> Work:
    """The least work of each request of a sample.

    Example:
        >>> from llm_sched_env.presets import base
        >>> sample = Trace(("chat",), [0.0], [0], [256], [100])
        >>> gpu = base().hardware
        >>> bool(np.isclose(least_work(sample, gpu).prefill[0], gpu.tau_mixed))
        True
    """
    s0, s1, s2 = iteration_times(hardware).solo
    m0, m1, m2, m3, m4 = iteration_times(hardware).mixed
    slots, chunk = hardware.batch_slots, float(hardware.chunk_tokens)
    prompt, output = sample.prompt_tokens, sample.output_tokens
    chunks = prompt / chunk
    if hardware.whole_chunks:
        chunks = np.ceil(chunks)
    if hardware.padded_chunks:
        prompt = chunks * chunk
    tokens = np.ceil(output) if hardware.whole_iterations else output
    context = sample.prompt_tokens * tokens + tokens**2 / 2.0
    own = m1 * prompt + m4 * prompt**2 / 2.0
    read = min(s2, m3) * context
    points = np.linspace(0.0, m0 / (slots - 1), _POINTS)
    token_prices = np.minimum(s1 + s0 / slots, m2 + points)
    chunk_prices = m0 - (slots - 1) * points
    prices = own + read + chunk_prices[:, None] * chunks + token_prices[:, None] * tokens
    alone = (min(s0, m0) + min(s1, m2)) * tokens + read
    limit = math.inf if hardware.kv_tokens is None else hardware.kv_tokens
    return Work(
        m0 * chunks + own,
        alone / np.maximum(output, 1.0),
        sample.prompt_tokens + output <= limit,
        prices,
    )


class Bound(NamedTuple):
    """What is left open by accounting.

    Attributes:
        n_gpus: no scheduler meets the requirement with fewer; inf: with none.
        possible_share: of the counted requests that could be in time on GPUs without number; of
            the two latencies, if they are judged apart, the lesser one.
        least_ttft: s, within which so many could have their first token as are required.
        reason: why not fewer, in words.
    """

    n_gpus: float
    possible_share: float
    least_ttft: float
    reason: str


def least_gpus(workload: Workload, hardware: Hardware, requirement: Requirement) -> Bound:
    """A size below which no scheduler meets a requirement on the requests of a workload.

    Args:
        workload: of the counted requests all samples together are judged.
        hardware: of every GPU.
        requirement: its share; the confidence has no part in it.

    Example:
        >>> from llm_sched_env.model.deadlines import Deadlines
        >>> from llm_sched_env.presets import base
        >>> from llm_sched_env.sizing.workload import trace_workload
        >>> sample = Trace(("chat",), [0.0] * 8 + [1.0], [0] * 9, [2560] * 9, [1] * 9)
        >>> found = trace_workload(sample, Deadlines(ttft_seconds=0.5))
        >>> least_gpus(found, base().hardware, Requirement("share", 1.0)).n_gpus  # 3 s in 1.5 s
        2
    """
    floors = [_Floor.of(workload, k, hardware) for k in range(len(workload.samples))]
    total = workload.n_counted
    needed = math.ceil(requirement.share(workload.rate) * total - _ROUNDING * total)
    allowed = total - needed
    # A request that misses either one is not good: at most twice as many are not.
    apart = requirement.of_each_latency and bool(np.isfinite(workload.limits).any(axis=1).all())
    together = min(total, 2 * allowed) if apart else allowed
    first = sum(int(f.first_possible.sum()) for f in floors) / total
    tokens = sum(int(f.tokens_possible.sum()) for f in floors) / total
    both = sum(int(f.possible.sum()) for f in floors) / total
    possible = min(first, tokens) if requirement.of_each_latency else both
    least_ttft = _least_ttft(floors, needed)

    def ruled_out(n: int) -> str:
        """Why no scheduler can on n GPUs; empty if that is open."""
        if sum(f.late_first_tokens(n) for f in floors) > allowed:
            return "first tokens"
        return "work" if sum(f.unfinished(n) for f in floors) > together else ""

    if possible * total < needed - _ROUNDING * total or ruled_out(MOST_GPUS):
        reason = "even on an idle GPU too many requests take longer than their deadlines"
        return Bound(math.inf, possible, least_ttft, reason)
    low, high, why = 0, 1, ""
    while reason := ruled_out(high):
        low, high, why = high, 2 * high, reason
    while high - low > 1:
        middle = (low + high) // 2
        if reason := ruled_out(middle):
            low, why = middle, reason
        else:
            high = middle
    return Bound(high, possible, least_ttft, _REASONS[why])


def greatest_rate_factor(
    workload: Workload, hardware: Hardware, n_gpus: int, requirement: Requirement
) -> float:
    """How many times faster requests like these may arrive before no scheduler keeps up for long.

    From the price of all work alone. If the sample is repeated M times at the rate factor f, the
    work is M times as much and the time for it M T / f and once what deadlines allow after the
    last arrival, which no longer counts as M grows: f <= n T / work. So does whatever is faster
    fail. 0: it is ruled out at any rate.

    Example:
        >>> from llm_sched_env.model.deadlines import Deadlines
        >>> from llm_sched_env.presets import base
        >>> from llm_sched_env.sizing.workload import trace_workload
        >>> sample = Trace(("chat",), np.arange(400.0), [0] * 400, [2560] * 400, [1] * 400)
        >>> found = trace_workload(sample, Deadlines(ttft_seconds=2.0, tpot_seconds=0.1))
        >>> gpu, every = base().hardware, Requirement("share", 1.0)
        >>> factor = greatest_rate_factor(found, gpu, 1, every)
        >>> round(factor * found.rate * 10 * gpu.tau_mixed, 2)  # as much work as there is time
        1.0
    """
    total = workload.n_counted
    misses = total - math.ceil(requirement.share(workload.rate) * total - _ROUNDING * total)
    if requirement.of_each_latency:
        misses = min(total, 2 * misses)
    floors = [_Floor.of(workload, k, hardware) for k in range(len(workload.samples))]
    kept = total - misses
    if sum(int(f.possible.sum()) for f in floors) < kept:
        return 0.0
    prices = np.concatenate([f.work.prices[:, f.possible] for f in floors], axis=1)
    work = float(np.sort(prices, axis=1)[:, :kept].sum(axis=1).max())
    seconds = sum(f.sample.duration for f in floors)
    return n_gpus * seconds / work * (1.0 + _ROUNDING) if work > 0 else math.inf


def _least_ttft(floors: list[_Floor], needed: int) -> float:
    """Seconds in which so many counted requests are prefilled on GPUs of their own."""
    fits = [np.where(f.work.fits, f.work.prefill, math.inf)[f.counted] for f in floors]
    return float(np.sort(np.concatenate(fits))[max(needed, 1) - 1])


class _Floor(NamedTuple):
    """A sample with the least work of its requests, and which of them count and could be good.

    ``limits`` are the deadlines by request, shape (2, K), and ``slack`` the seconds after its
    arrival until which a good request is done; of one without both deadlines, after the last.
    """

    sample: Trace
    work: Work
    first_possible: np.ndarray
    tokens_possible: np.ndarray
    limits: np.ndarray
    slack: float
    counted: np.ndarray

    @property
    def possible(self) -> np.ndarray:
        """Which requests could be good; bool, shape (K,)."""
        both: np.ndarray = self.first_possible & self.tokens_possible
        return both

    @classmethod
    def of(cls, workload: Workload, k: int, hardware: Hardware) -> _Floor:
        """Of sample k."""
        sample, rows = workload.samples[k], workload.counted[k]
        work = least_work(sample, hardware)
        limits = workload.limits[:, sample.request_class]
        certain = 1.0 - _ROUNDING
        return cls(
            sample,
            work,
            rows & work.fits & (work.prefill * certain <= limits[0]),
            rows & work.fits & (work.token * certain <= limits[1]),
            limits,
            workload.drain_seconds(sample),
            rows,
        )

    def late_first_tokens(self, n_gpus: int) -> int:
        """Requests that count whose first token must be late on n GPUs, at least."""
        limit = self.limits[0]
        if not np.isfinite(limit).all():
            return 0
        rows, slack = self.first_possible, float(limit.max())
        given_up = self._given_up(self.work.prefill[None], rows, slack, n_gpus, windows=True)
        return int(self.counted.sum()) - int(rows.sum()) + given_up

    def unfinished(self, n_gpus: int) -> int:
        """Requests that count and cannot be good on n GPUs, at least."""
        rows, windows = self.possible, bool(np.isfinite(self.limits).all())
        given_up = self._given_up(self.work.prices, rows, self.slack, n_gpus, windows=windows)
        return int(self.counted.sum()) - int(rows.sum()) + given_up

    def _given_up(
        self, prices: np.ndarray, rows: np.ndarray, slack: float, n_gpus: int, *, windows: bool
    ) -> int:
        """The most that any length of windows and any prices prove."""
        arrival, prices = self.sample.arrival_time[rows], prices[:, rows]
        if len(arrival) == 0:
            return 0
        whole = self.sample.duration
        lengths = [length for length in _WINDOWS if windows and length < whole]
        return max(
            _misses(arrival, own, length, n_gpus * (length + slack))
            for length in (*lengths, whole)
            for own in prices
        )


def _misses(arrival: np.ndarray, prices: np.ndarray, length: float, room: float) -> int:
    """Over windows of a length, how many requests must be given up so that the others fit."""
    # What arrives at the very end is of the last window, not of one more.
    window = np.minimum(arrival // length, max(0, math.ceil(arrival[-1] / length) - 1))
    order = np.lexsort((prices, window))
    total = np.cumsum(prices[order])
    starts = np.searchsorted(window[order], window[order], side="left")
    before = np.where(starts > 0, total[starts - 1], 0.0)
    return int((total - before > room * (1.0 + _ROUNDING) + _ROUNDING * total[-1]).sum())


_REASONS = {
    "": "nothing is ruled out",
    "first tokens": "the prefills of a busy stretch do not fit before their deadlines",
    "work": "the work of the cheapest requests that are enough does not fit into the time",
}
