"""Fit the KV-aware law, and its simpler relatives, to an iteration log."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from llm_sched_env.calibration.iteration_laws import fit_affine_law
from llm_sched_env.calibration.iteration_log import IterationLog
from llm_sched_env.calibration.iteration_times import IterationTimes
from llm_sched_env.calibration.relative_fit import RelativeFit, fit_relative
from llm_sched_env.errors import CalibrationError
from llm_sched_env.model.hardware import Hardware
from llm_sched_env.model.iteration_law import MixedIteration, SoloIteration

LOG_LAWS = ("two-speed", "affine", "kv-aware")
"""From simple to rich."""
MEASURE = {
    "per_prompt_token": "prefills in chunks of several sizes, not padded",
    "per_decode": "iterations with few and with many decodes",
    "per_kv_token": "decodes of short and of long contexts beside as many others",
    "per_prompt_token_context": "prompts of more than one chunk",
}
"""What tells a coefficient that a log does not."""
_PADDED = "every chunk is padded to the same size"


@dataclass(frozen=True, eq=False)
class LogFit:
    """A law fitted to a log.

    Attributes:
        hardware: under that law.
        solo: the fit of iterations without a prefill.
        mixed: the fit of iterations with one.
    """

    hardware: Hardware
    solo: RelativeFit
    mixed: RelativeFit

    def seconds(self, log: IterationLog) -> np.ndarray:
        """What the hardware says of iterations; shape (K,)."""
        return hardware_seconds(self.hardware, log)


def fit_log(
    log: IterationLog, iteration_law: str, chunk_tokens: int, batch_slots: int, *, padded: bool
) -> LogFit:
    """Fit one law to all iterations of a log, which has both modes.

    Args:
        log: measured iterations.
        iteration_law: one of ``LOG_LAWS``.
        chunk_tokens: prefill chunk C, tokens.
        batch_slots: B.
        padded: whether shorter chunks take the time of whole ones.

    Raises:
        CalibrationError: for a log of one mode, or one that the affine law cannot follow.
    """
    _require_both_modes(log)
    of_decodes = iteration_law == "kv-aware"
    solo = _fit_solo(log.picked(~log.mixed), of_decodes=of_decodes)
    mixed = _fit_mixed(log.picked(log.mixed), chunk_tokens, padded=padded, of_decodes=of_decodes)
    if iteration_law == "affine":
        hardware = _affine(log, chunk_tokens, batch_slots, padded=padded)
    elif of_decodes:
        hardware = Hardware.kv_aware(
            SoloIteration(**solo.coefficients),
            MixedIteration(**mixed.coefficients),
            chunk_tokens,
            batch_slots,
            starts="boundary",
            padded_chunks=padded,
        )
    else:
        hardware = Hardware(
            mixed.coefficients["seconds"],
            mixed.coefficients["per_prompt_token"],
            1.0 / solo.coefficients["seconds"],
            chunk_tokens,
            batch_slots,
            chunking="ceil" if padded else "exact",
            starts="boundary",
        )
    return LogFit(hardware, solo, mixed)


def hardware_seconds(hardware: Hardware, log: IterationLog) -> np.ndarray:
    """How long the iterations of a log take on a hardware; shape (K,)."""
    padded = hardware.padded_chunks or hardware.chunking == "ceil"
    chunk = counted_chunk(log, hardware.chunk_tokens, padded=padded)
    solo: Any = hardware.solo  # elementwise
    mixed: Any = hardware.mixed
    alone: Any
    if solo is not None and mixed is not None:
        alone = solo.time(log.decodes, log.kv_tokens)
        beside = mixed.time(chunk, log.prefill_context, log.decodes, log.kv_tokens)
    elif hardware.iteration_law == "affine":
        beyond = np.maximum(0.0, chunk + log.decodes - hardware.flat_tokens)
        alone = beside = hardware.tau_solo + hardware.beta * beyond
    else:
        alone, beside = hardware.tau_solo, hardware.alpha + hardware.beta * chunk
    seconds: np.ndarray = np.where(log.mixed, beside, alone)
    return seconds


def counted_chunk(log: IterationLog, chunk_tokens: int, *, padded: bool) -> np.ndarray:
    """Prompt tokens of each iteration that take time; shape (K,)."""
    return np.where(log.mixed, chunk_tokens if padded else log.prefill_tokens, 0.0)


def _fit_solo(log: IterationLog, *, of_decodes: bool) -> RelativeFit:
    columns = {"seconds": np.ones(len(log))}
    if of_decodes:
        columns |= {"per_decode": log.decodes, "per_kv_token": log.kv_tokens}
    return fit_relative(columns, log.seconds)


def _fit_mixed(
    log: IterationLog, chunk_tokens: int, *, padded: bool, of_decodes: bool
) -> RelativeFit:
    chunk = counted_chunk(log, chunk_tokens, padded=padded)
    columns = {"seconds": np.ones(len(log)), "per_prompt_token": chunk}
    if of_decodes:
        attended = chunk * (log.prefill_context + chunk / 2.0)
        columns |= {
            "per_decode": log.decodes,
            "per_kv_token": log.kv_tokens,
            "per_prompt_token_context": attended,
        }
    fit = fit_relative(columns, log.seconds)
    if padded:
        fit.unidentified["per_prompt_token"] = _PADDED
    return fit


def _affine(log: IterationLog, chunk_tokens: int, batch_slots: int, *, padded: bool) -> Hardware:
    """Law (1): every prompt token and every decode of an iteration counts as one token."""
    tokens = log.decodes + counted_chunk(log, chunk_tokens, padded=padded)
    law = fit_affine_law(IterationTimes("logged", "logged", tokens, log.seconds))
    return Hardware(
        max(0.0, law.alpha.value),
        law.a.value,
        law.gamma.value,
        chunk_tokens,
        batch_slots,
        iteration_law="affine",
        chunking="ceil" if padded else "exact",
        starts="boundary",
    )


def _require_both_modes(log: IterationLog) -> None:
    for rows, what in ((log.mixed, "with a prefill"), (~log.mixed, "without a prefill")):
        if not rows.any():
            raise CalibrationError(
                f"iteration log: none of {len(log)} iterations is {what}, but a hardware needs "
                "the times of both kinds; log a run in which prefills come and go, or add a file"
            )
