"""Engines made ready: on which device, of which size, one in this thread or several workers."""

from __future__ import annotations

from llm_sched_env.errors import ConfigurationError
from llm_sched_env.model.hardware import Hardware
from llm_sched_env.serving.clocks import clock_of
from llm_sched_env.serving.decoder import Decoder
from llm_sched_env.serving.engine import Engine
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
    """
    require_device(device)
    timed_by = clock_of(clock, device, workers)
    decoder = Decoder(shape, device, seed=seed)
    sizes = (hardware.batch_slots, hardware.chunk_tokens, tokens)
    if workers == 1:
        return RealMachine(Engine(decoder, *sizes), timed_by)
    return WorkerMachine([Engine(decoder, *sizes) for _ in range(workers)])


def cache_tokens(trace: Trace) -> int:
    """Room for the longest request of a trace, prompt and output."""
    longest = (trace.prompt_tokens + trace.output_tokens).max()
    return -int(-longest // _CACHE_STEP) * _CACHE_STEP


def require_device(device: str) -> None:
    """Make a device ready; raise ConfigurationError for one that is not there."""
    import torch

    if device == "cpu":
        # Iterations are short: threads would wait for each other longer than they compute.
        torch.set_num_threads(1)
    if device == "cpu" or (device.startswith("cuda") and torch.cuda.is_available()):
        return
    there = "cpu or cuda" if torch.cuda.is_available() else "cpu: PyTorch finds no CUDA device"
    raise ConfigurationError("device", device, there)
