"""Where a workload, or a setting, leaves what a hardware was measured at."""

from __future__ import annotations

import numpy as np

from llm_sched_env.sizing.judged import GpuKind
from llm_sched_env.sizing.workload import Workload


def extrapolation_notes(kind: GpuKind, workload: Workload) -> list[str]:
    """What was not measured, a sentence each; empty where the law holds as far as is known.

    Args:
        kind: its ``source`` has the ranges of the measured iterations.
        workload: what it would serve.
    """
    hardware, notes = kind.hardware, []
    prompts = np.concatenate([s.prompt_tokens for s in workload.samples])
    outputs = np.concatenate([s.output_tokens for s in workload.samples])
    context = float((outputs * (prompts + outputs / 2.0)).sum() / outputs.sum())
    full = hardware.batch_slots * context
    if hardware.kv_tokens is None:
        notes.append(
            f"no limit of KV tokens is known (a full batch of mean contexts has {full:,.0f}); "
            "give --kv-tokens if a GPU holds fewer"
        )
    elif full > hardware.kv_tokens:
        notes.append(
            f"{hardware.kv_tokens:,} KV tokens hold {hardware.kv_tokens / context:.3g} of "
            f"{hardware.batch_slots} slots at the mean context of a decode"
        )
    ranges = None if kind.source is None else kind.source.ranges
    if ranges is None:
        notes.append("the ranges of its measured iterations are not known")
        return notes
    if hardware.batch_slots > ranges.decodes[1]:
        notes.append(
            f"measured with up to {ranges.decodes[1]:g} decodes an iteration, asked for "
            f"{hardware.batch_slots}"
        )
    chunk, (least, most) = hardware.chunk_tokens, ranges.prefill_tokens
    if not least <= chunk <= most:
        notes.append(f"measured with chunks of {least:g} to {most:g} tokens, asked for {chunk}")
    cached = float(np.mean(prompts - chunk > ranges.prefill_context[1]))
    if cached > 0:
        notes.append(
            f"measured with up to {ranges.prefill_context[1]:g} cached tokens before a chunk; "
            f"{cached:.1%} of the prompts have more"
        )
    held = min(full, float(hardware.kv_tokens or np.inf))
    if held > ranges.kv_tokens[1]:
        notes.append(
            f"measured with up to {ranges.kv_tokens[1]:,.0f} KV tokens in a batch; a full one "
            f"of mean contexts has {held:,.0f}"
        )
    return notes
