"""A run request by request, measured or simulated alike."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from llm_sched_env.workloads.trace import Trace

COMPLETED, ABANDONED, INSIDE = range(3)
OUTCOMES = ("completed", "abandoned", "inside")
"""What became of a request until the end of a run: ``inside`` is waiting or in service."""


@dataclass(frozen=True, eq=False)
class ServedRun:
    """Requests in order of arrival and what became of them; all arrays of shape (K,).

    Times are seconds since the start of the run, NaN for what did not happen.

    Attributes:
        class_names: of the classes.
        arrival_time: non-decreasing.
        request_class: index into ``class_names``.
        prompt_tokens: of the request.
        output_tokens: of the request.
        patience_seconds: that it waits before it abandons.
        outcome: ``COMPLETED``, ``ABANDONED`` or ``INSIDE``.
        prefill_start: when its first chunk began.
        first_token: when its prefill ended.
        end: when it completed or abandoned.
    """

    class_names: tuple[str, ...]
    arrival_time: np.ndarray
    request_class: np.ndarray
    prompt_tokens: np.ndarray
    output_tokens: np.ndarray
    patience_seconds: np.ndarray
    outcome: np.ndarray
    prefill_start: np.ndarray
    first_token: np.ndarray
    end: np.ndarray

    def __len__(self) -> int:
        return len(self.arrival_time)

    @property
    def last_event(self) -> float:
        """Seconds of the last thing that is known to have happened."""
        times = (self.arrival_time, self.prefill_start, self.first_token, self.end)
        return float(np.nanmax(np.concatenate(times)))

    @property
    def ttft(self) -> np.ndarray:
        """Time to first token, s, of those that got one by the end of the run."""
        waited = self.first_token - self.arrival_time
        known: np.ndarray = waited[~np.isnan(waited)]
        return known

    @property
    def tpot(self) -> np.ndarray:
        """(end - first token) / output tokens, s, of completed requests."""
        done = self.outcome == COMPLETED
        spent: np.ndarray = (self.end - self.first_token)[done] / self.output_tokens[done]
        return spent

    @property
    def e2e(self) -> np.ndarray:
        """Seconds from arrival to the end of completed requests."""
        done = self.outcome == COMPLETED
        spent: np.ndarray = (self.end - self.arrival_time)[done]
        return spent

    @property
    def trace(self) -> Trace:
        """What arrived, to be replayed."""
        return Trace(
            self.class_names,
            self.arrival_time,
            self.request_class,
            self.prompt_tokens,
            self.output_tokens,
            patience_seconds=self.patience_seconds,
        )

    def until(self, horizon: float) -> ServedRun:
        """The run as it stood after some seconds: what came later has not happened."""
        arrived = self.arrival_time <= horizon
        changed: dict[str, Any] = {
            f.name: getattr(self, f.name)[arrived]
            for f in dataclasses.fields(self)
            if f.name != "class_names"
        }
        for name in ("prefill_start", "first_token", "end"):
            changed[name] = np.where(changed[name] <= horizon, changed[name], np.nan)
        changed["outcome"] = np.where(np.isnan(changed["end"]), INSIDE, changed["outcome"])
        return dataclasses.replace(self, **changed)
