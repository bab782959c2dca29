"""When what happened to each request of a run: what served and sized runs are drawn from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class RequestTimes:
    """Requests in order of arrival; times in s, NaN for what did not happen; shape (K,).

    Attributes:
        class_names: of the classes.
        request_class: index into ``class_names``.
        prompt_tokens: of the request.
        output_tokens: of the request.
        arrival: when it came.
        prefill_start: when its first chunk began.
        first_token: when its prefill ended.
        decode_start: when it got a slot; NaN throughout where that is not known.
        end: when it was completed.
        left: when it abandoned or was rejected.
        counted: which requests latencies are of.
    """

    class_names: tuple[str, ...]
    request_class: np.ndarray
    prompt_tokens: np.ndarray
    output_tokens: np.ndarray
    arrival: np.ndarray
    prefill_start: np.ndarray
    first_token: np.ndarray
    decode_start: np.ndarray
    end: np.ndarray
    left: np.ndarray
    counted: np.ndarray

    @property
    def stays(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """From when to when a request was part of each quantity of a run over time."""
        gone = np.fmin(self.end, self.left)
        decoding = self.decode_start
        if np.isnan(decoding).all():
            decoding = self.first_token
        return {
            "q_prefill": (self.arrival, np.fmin(self.prefill_start, self.left)),
            "x": (self.prefill_start, np.fmin(self.first_token, gone)),
            "q_decode": (self.first_token, np.fmin(decoding, self.left)),
            "decodes": (decoding, gone),
        }

    @property
    def latencies(self) -> dict[str, np.ndarray]:
        """Seconds of TTFT, TPOT and end to end; inf for what has not come; shape (K,)."""
        ttft = self.first_token - self.arrival
        tpot = (self.end - self.first_token) / np.maximum(self.output_tokens, 1.0)
        found = {"ttft": ttft, "tpot": tpot, "e2e": self.end - self.arrival}
        return {name: np.where(np.isnan(v), np.inf, v) for name, v in found.items()}

    def kv_tokens_at(self, time: float) -> float:
        """Tokens in the KV caches: prompts and outputs grow evenly while they are computed."""
        prompts = self.prompt_tokens * _share(time, self.prefill_start, self.first_token)
        (decoding, gone) = self.stays["decodes"]
        outputs = self.output_tokens * _share(time, decoding, gone)
        here = (self.prefill_start <= time) & ~(gone <= time)
        return float((prompts + outputs)[here].sum())


def _share(time: float, since: np.ndarray, until: np.ndarray) -> np.ndarray:
    """How much of [since, until] has passed; half of it where the end is not known."""
    with np.errstate(invalid="ignore", divide="ignore"):
        part = (time - since) / (until - since)
    part = np.where(np.isnan(until), 0.5, part)
    found: np.ndarray = np.where(np.isnan(since), 0.0, np.clip(np.nan_to_num(part, nan=1.0), 0, 1))
    return found
