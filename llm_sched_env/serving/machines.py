"""Engines made ready: of which size, one in this thread or several in processes of their own."""

from __future__ import annotations

from llm_sched_env.model.hardware import Hardware
from llm_sched_env.serving.clocks import clock_of
from llm_sched_env.serving.engine_settings import EngineSettings, require_device
from llm_sched_env.serving.real_machine import RealMachine
from llm_sched_env.serving.shapes import DecoderShape
from llm_sched_env.serving.worker_machine import WorkerMachine
from llm_sched_env.workloads.trace import Trace

_CACHE_STEP = 128


def serving_machine(
    shape: DecoderShape,
    device: str,
    hardware: Hardware,
    tokens: int,
    *,
    workers: int = 1,
    clock: str = "wall",
    seed: int = 0,
) -> RealMachine | WorkerMachine:
    """Engines that have warmed up.

    Args:
        shape: of the decoder.
        device: ``cpu`` or ``cuda``.
        hardware: has B and C.
        tokens: longest request, prompt and output.
        workers: engines.
        clock: ``wall`` or ``processor``.
        seed: of the weights.

    Raises:
        ConfigurationError: for a device that is not there or a clock that cannot be.
        WorkerError: if an engine's process fails.
    """
    require_device(device)
    timed_by = clock_of(clock, device, workers)
    sizes = (hardware.batch_slots, hardware.chunk_tokens, tokens)
    settings = EngineSettings(shape, device, *sizes, seed=seed)
    if workers == 1:
        return RealMachine(settings.engine(), timed_by)
    return WorkerMachine(settings, workers)


def cache_tokens(trace: Trace) -> int:
    """Room for the longest request of a trace, prompt and output."""
    longest = (trace.prompt_tokens + trace.output_tokens).max()
    return -int(-longest // _CACHE_STEP) * _CACHE_STEP
