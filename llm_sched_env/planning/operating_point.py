"""Where the accounting program's optimum works: two speeds that give the same occupancies.

Policies, service levels, fluid dynamics and the horizon program reckon with two speeds. Under the
KV-aware law they get those at the optimum: the mean seconds of a mixed and of a solo iteration,
time spent over iterations. With them x, y_mixed and y_solo of the plan satisfy (4), (12)-(14) and
what is prefilled and decoded is that of the optimum. They hold near the plan alone: R* and the
price of a request come from the law itself.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from llm_sched_env.model.fleet import Fleet
from llm_sched_env.model.hardware import Hardware
from llm_sched_env.model.instance import Instance
from llm_sched_env.planning.accounting_program import AccountingProgram, Accounts

# Less than this many iterations or tokens a second are none: rounding of the solver.
_NONE = 1e-9


class OperatingPoint(NamedTuple):
    """Of the GPUs of one group.

    Attributes:
        tau_mixed: mean seconds of a mixed iteration.
        tau_solo: of a solo iteration.
        solo_share: of the tokens that are made in solo iterations.
    """

    tau_mixed: float
    tau_solo: float
    solo_share: float


class _Load(NamedTuple):
    """Tokens and context that the decodes need, per second, and what prefills leave of the time."""

    tokens: float
    context: float
    prefill_seconds: float
    mixed_iterations: float


def operating_point(program: AccountingProgram, found: Accounts, g: int = 0) -> OperatingPoint:
    """Mean iterations of group g at an optimum; where time is left, decodes take it.

    The program counts tokens and context over classes, so every class may have the same solo
    share. It is as large as fits, with the same share of the context, or the optimum's own if
    that is larger. GPUs go on with smaller batches while time is left, down to one decode. An
    iteration that the optimum does not have is one with full slots.
    """
    (s0, s1, s2), (m0, _, m2, m3, _) = program.solo_times[g], program.mixed_times[g]
    hardware, time = program.groups[g].hardware, program.groups[g].share
    load = _load(program, found, g)
    solo, read = (float(part[1, g].sum()) for part in (found.tokens, found.context))
    share = _largest_share(program, load, g)
    if share is not None and share * load.tokens >= solo:
        solo, read = share * load.tokens, share * load.context
    mixed_seconds = load.prefill_seconds + m2 * (load.tokens - solo) + m3 * (load.context - read)
    memory = np.inf if hardware.kv_tokens is None else float(hardware.kv_tokens)
    least = max(solo / hardware.batch_slots, read / memory)
    possible = (time - mixed_seconds - s1 * solo - s2 * read) / s0
    iterations = max(least, min(possible, solo))
    solo_seconds = s0 * iterations + s1 * solo + s2 * read
    if load.mixed_iterations > _NONE:
        tau_mixed = mixed_seconds / load.mixed_iterations
    else:
        tau_mixed = _full(program, g, m0, m2, m3, prefills=1)
    if iterations > _NONE:
        tau_solo = solo_seconds / iterations
    else:
        tau_solo = _full(program, g, s0, s1, s2, prefills=0)
    solo_share = solo / load.tokens if load.tokens > _NONE else 1.0
    return OperatingPoint(float(tau_mixed), float(tau_solo), float(solo_share))


def _load(program: AccountingProgram, found: Accounts, g: int) -> _Load:
    m0, m1, _, _, m4 = program.mixed_times[g]
    chunks = float((found.prefills[g] * program.prefill_iterations[g]).sum())
    prompt = m1 * program.prefill_tokens[g] + m4 * program.prefill_context[g]
    return _Load(
        tokens=float(found.tokens[:, g].sum()),
        context=float((found.decodes[g] * program.decode_context[g]).sum()),
        prefill_seconds=m0 * chunks + float((found.prefills[g] * prompt).sum()),
        mixed_iterations=chunks,
    )


def _largest_share(program: AccountingProgram, load: _Load, g: int) -> float | None:
    """Of tokens and context alike, what solo iterations can take in the time that there is.

    None if time is too short: the optimum then reads context where no decode is.
    """
    (s0, s1, s2), (_, _, m2, m3, _) = program.solo_times[g], program.mixed_times[g]
    hardware = program.groups[g].hardware
    memory = np.inf if hardware.kv_tokens is None else float(hardware.kv_tokens)
    beside = m2 * load.tokens + m3 * load.context
    alone = s0 * max(load.tokens / hardware.batch_slots, load.context / memory)
    more = alone + s1 * load.tokens + s2 * load.context - beside
    left = program.groups[g].share - load.prefill_seconds - beside
    if more <= 0.0:
        return 1.0 if left >= more else None
    return min(1.0, left / more) if left >= 0.0 else None


def _full(
    program: AccountingProgram,
    g: int,
    own: float,
    per_decode: float,
    per_token: float,
    *,
    prefills: int,
) -> float:
    """Seconds of an iteration with full slots, of decodes as they arrive, and whole chunks."""
    hardware = program.groups[g].hardware
    iterations = program.arrival_rates * program.decode_iterations[g]
    context = float((program.arrival_rates * program.decode_context[g]).sum() / iterations.sum())
    decodes = float(hardware.batch_slots - prefills)
    if hardware.kv_tokens is not None:
        decodes = min(decodes, hardware.kv_tokens / context)
    prompt = prefills * program.mixed_times[g, 1] * hardware.chunk_tokens
    return float(own + prompt + decodes * (per_decode + per_token * context))


def two_speed_equivalent(instance: Instance, *points: OperatingPoint) -> Instance:
    """The instance with the two speeds of each group's operating point; other laws stay."""
    if isinstance(instance.hardware, Fleet):
        groups = tuple(
            dataclasses.replace(group, hardware=_two_speeds(group.hardware, point))
            for group, point in zip(instance.groups, points, strict=True)
        )
        return dataclasses.replace(instance, hardware=Fleet(groups))
    return dataclasses.replace(instance, hardware=_two_speeds(instance.hardware, *points))


def _two_speeds(hardware: Hardware, point: OperatingPoint) -> Hardware:
    if hardware.iteration_law != "kv-aware":
        return hardware
    return dataclasses.replace(
        hardware,
        alpha=point.tau_mixed,
        beta=0.0,
        gamma=1.0 / point.tau_solo,
        iteration_law="two-speed",
        chunking="ceil" if hardware.whole_chunks else "exact",
        solo=None,
        mixed=None,
        padded_chunks=False,
    )
