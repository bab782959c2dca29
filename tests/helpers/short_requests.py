"""Traffic of short requests, for engines on a small CPU."""

from __future__ import annotations

import dataclasses

from llm_sched_env.model.instance import Instance
from llm_sched_env.presets import base


def short_instance() -> Instance:
    """Two classes of short requests, more than a small CPU can serve, some impatient."""
    given = base()
    classes = tuple(
        dataclasses.replace(
            c, prompt_tokens=p, output_tokens=d, arrival_rate=40.0, patience_rate=1.0
        )
        for c, p, d in zip(given.classes, (20.0, 90.0), (12.0, 4.0), strict=True)
    )
    hardware = dataclasses.replace(
        given.hardware, batch_slots=3, chunk_tokens=32, starts="boundary"
    )
    return dataclasses.replace(given, classes=classes, hardware=hardware)
