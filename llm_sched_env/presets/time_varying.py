"""Named time-varying traffic for an instance: days, bursts, shifts of the mix, peaks.

Each takes an instance with constant rates and keeps its long-run means, so R* stays the same. All
are this project's. Where classes differ in their hours they come in two halves: *writing*, whose
outputs are longer than its prompts (chat), and *reading* (code, documents).
"""

from __future__ import annotations

import dataclasses

from llm_sched_env.model.arrival_rates import ArrivalModulation, ArrivalProfile
from llm_sched_env.model.instance import Instance

DAY_SECONDS = 1200.0
"""A day in 20 minutes: long beside a decode (10 to 20 s) and patience (10 s), as a day is."""
_WRITING_HOURS = ((0, 0.8), (4, 0.2), (8, 0.6), (18, 1.2), (21, 2.2), (24, 0.8))
_READING_HOURS = (
    (0, 0.2),
    (6, 0.2),
    (9, 2.0),
    (12, 1.8),
    (13, 1.4),
    (17, 2.0),
    (19, 0.4),
    (24, 0.2),
)
BURST_SECONDS, QUIET_SECONDS = 30.0, 45.0
_BURST = 4.0
SHIFT_SECONDS = 300.0


def daily(instance: Instance, name: str) -> Instance:
    """A day: a trough at night, reading in the working hours, writing in the evening.

    Peaks are 2.1 to 2.4 times the mean; hours are the classes', the busy ones overlap.
    """
    writing, reading = (
        ArrivalProfile(
            tuple(DAY_SECONDS * hour / 24 for hour, _ in points), tuple(rate for _, rate in points)
        )
        for points in (_WRITING_HOURS, _READING_HOURS)
    )
    return _profiled(instance, writing, reading, name)


def bursts(instance: Instance, name: str) -> Instance:
    """Bursts of one half at four times its quiet rate, 30 s on average, in turn by chance.

    A Markov chain of three states: quiet (45 s), a burst of writing, a burst of reading.
    """
    states = [
        tuple(_BURST if burst == writes else 1.0 for writes in writing_classes(instance))
        for burst in (None, True, False)
    ]
    begin, end = 0.5 / QUIET_SECONDS, 1.0 / BURST_SECONDS
    chain = ArrivalModulation(
        tuple(states), ((0.0, begin, begin), (end, 0.0, 0.0), (end, 0.0, 0.0))
    )
    return dataclasses.replace(instance, name=name, modulation=chain)


def phased(instance: Instance, name: str) -> Instance:
    """Both halves rise and fall in turn, between 0.2 and 1.8 times their rates, in 300 s."""
    writing, reading = (
        ArrivalProfile((0.0, SHIFT_SECONDS / 2, SHIFT_SECONDS), (end, 2.0 - end, end))
        for end in (0.2, 1.8)
    )
    return _profiled(instance, writing, reading, name)


def peaks(instance: Instance, name: str) -> Instance:
    """A peak of all classes of eight times the quiet rate, in a fifth of every 300 s."""
    times = tuple(share * SHIFT_SECONDS for share in (0.0, 0.4, 0.5, 0.6, 1.0))
    peak = ArrivalProfile(times, (1.0, 1.0, 8.0, 1.0, 1.0))
    return _profiled(instance, peak, peak, name)


def writing_classes(instance: Instance) -> list[bool]:
    """Which classes write more than they read: one half; the others are the other."""
    return [c.output_tokens > c.prompt_tokens for c in instance.classes]


def _profiled(
    instance: Instance, writing: ArrivalProfile, reading: ArrivalProfile, name: str
) -> Instance:
    classes = tuple(
        dataclasses.replace(c, arrival_profile=writing if writes else reading)
        for c, writes in zip(instance.classes, writing_classes(instance), strict=True)
    )
    return dataclasses.replace(instance, name=name, classes=classes)
