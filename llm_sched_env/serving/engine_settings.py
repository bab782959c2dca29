"""What an engine is made of, as plain data that can be sent to the process that will run it."""

from __future__ import annotations

from dataclasses import dataclass

from llm_sched_env.errors import ConfigurationError
from llm_sched_env.serving.decoder import Decoder
from llm_sched_env.serving.engine import Engine
from llm_sched_env.serving.shapes import DecoderShape


@dataclass(frozen=True)
class EngineSettings:
    """An engine that is yet to be made.

    Attributes:
        shape: of the decoder.
        device: ``cpu`` or ``cuda``.
        batch_slots: B.
        chunk_tokens: C.
        tokens: most tokens of a request, prompt and output.
        seed: of the weights.
    """

    shape: DecoderShape
    device: str
    batch_slots: int
    chunk_tokens: int
    tokens: int
    seed: int = 0

    def engine(self) -> Engine:
        """The engine, on its device.

        Raises:
            ConfigurationError: for a device that is not there.
        """
        require_device(self.device)
        decoder = Decoder(self.shape, self.device, seed=self.seed)
        return Engine(decoder, self.batch_slots, self.chunk_tokens, self.tokens)


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
