"""One GPU's engine: continuous batching in slots, one prefill at a time in chunks.

It is told who joins at a boundary and runs an iteration; which request that is, and when, is the
scheduler's. Output lengths are prescribed: a request is done when it has made its tokens, whatever
they say. The token that a prefill yields is the first that its decode reads, so that an output of
D tokens takes D iterations, as in docs/model.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from llm_sched_env.serving.decoder import Batch, Decoder
from llm_sched_env.serving.graphs import EagerRunner, GraphRunner, Runner
from llm_sched_env.simulation.machine import Sent
from llm_sched_env.simulation.machine_load import Content, GpuLoad
from llm_sched_env.simulation.state.layout import RequestStream

_PROMPT_STRIDE, _REQUEST_STRIDE = 7919, 104_729


class Engine:
    """Slots, their cache, and the decoder.

    Args:
        decoder: of any shape.
        batch_slots: B.
        chunk_tokens: C.
        tokens: most tokens of a request, prompt and output.

    Attributes:
        load: what is on it.
        made: output tokens of each request, in order.
    """

    def __init__(self, decoder: Decoder, batch_slots: int, chunk_tokens: int, tokens: int) -> None:
        self._decoder, self._chunk_tokens = decoder, chunk_tokens
        self._cache = decoder.new_cache(batch_slots, tokens)
        self._batch_slots = batch_slots
        self._runner: Runner = (
            GraphRunner(decoder, self._cache, chunk_tokens)
            if decoder.place.startswith("cuda")
            else EagerRunner(decoder, self._cache)
        )

    @property
    def pads_chunks(self) -> bool:
        """Whether short chunks take the time of whole ones."""
        return self._runner.pads_chunks

    def begin(self, stream: RequestStream) -> None:
        """Serve the requests of a stream, none of which is there yet."""
        self.load = GpuLoad(stream, self._chunk_tokens)
        self.made: dict[int, list[int]] = {}
        self._prompts = stream.prompt_tokens.astype(int).tolist()
        self._slots: dict[int, int] = {}
        self._free = list(reversed(range(self._batch_slots)))
        self._last_tokens = [0] * self._batch_slots

    def park(self, request: int) -> tuple[Tensor, int]:
        """Take a prefilled request out of its slot: its cache, and its next token."""
        slot = self._slots.pop(request)
        self._give_back(slot)
        return self._cache.taken_out(slot, self._prompts[request]), self._last_tokens[slot]

    def blank(self, tokens: int) -> tuple[Tensor, int]:
        """The cache of a request of so many tokens that were never computed, as if parked."""
        shape = self._decoder.shape
        size = (2, shape.layers, shape.kv_heads, tokens, shape.head_dim)
        return torch.zeros(size, device=self._decoder.place, dtype=self._decoder.dtype), 0

    def join(self, sent: Sequence[Sent], parked: Mapping[int, tuple[Tensor, int]]) -> None:
        """Requests take their slots at this boundary; ``parked`` has those from elsewhere."""
        self.load.join(sent)
        for request, is_prefill in sent:
            if is_prefill or request in parked:
                self._slots[request] = slot = self._free.pop()
                if not is_prefill:
                    kept, self._last_tokens[slot] = parked[request]
                    self._cache.put_in(slot, kept)
            if not is_prefill:
                self.made[request] = []

    def warm_up(self) -> None:
        """Run iterations of every kind for nobody."""
        count = self._batch_slots
        lengths = np.full(count, 2.0)
        self.begin(RequestStream(np.zeros(count), np.zeros(count, np.int32), lengths, lengths + 9))
        for request in range(count):
            self.join([Sent(request, is_prefill=True)], {})
            while request not in self.iterate()[0]:
                pass
            self.join([Sent(request, is_prefill=False)], {})

    def content(self) -> Content:
        """Of the iteration that comes."""
        return self.load.content()

    def iterate(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Run an iteration; whose prefill is done, and who has all its tokens."""
        prefill, made = self.load.prefill, list(self.load.made)
        batch, context = self._batch()
        tokens = self._runner(batch, context).tolist()
        for request in made:
            slot = self._slots[request]
            self._last_tokens[slot] = tokens[slot]
            self.made[request].append(tokens[slot])
        if prefill is not None:
            self._last_tokens[self._slots[prefill]] = tokens[-1]
        prefilled, completed = self.load.iterate()
        for request in completed:
            self._give_back(self._slots.pop(request))
        return prefilled, completed

    def _give_back(self, slot: int) -> None:
        self._free.append(slot)
        self._free.sort(reverse=True)  # the lowest goes first: rows stay few

    def _batch(self) -> tuple[Batch, int]:
        """What comes, and the cache positions that it looks at."""
        load, spare = self.load, self._cache.spare
        used = [self._slots[request] for request in load.made]
        rows = self._runner.rows(max(used) + 1 if used else 0)
        positions = [spare] * rows
        for request, done in load.made.items():
            positions[self._slots[request]] = self._prompts[request] + done
        content = load.content()
        cached, chunk, padding = load.cached, content.prefill_tokens, 0
        prompt: list[int] = []
        slot = 0
        if load.prefill is not None:
            slot = self._slots[load.prefill]
            padding = self._chunk_tokens - chunk if self._runner.pads_chunks else 0
            prompt = self._prompt(load.prefill, cached, chunk)
        reached = max((p + 1 for p in positions if p != spare), default=1)
        whole = [
            prompt + [0] * padding,
            [slot],
            [*range(cached, cached + chunk), *[spare] * padding],
            [max(chunk, 1) - 1],
            self._last_tokens[:rows],
            positions,
        ]
        device = self._decoder.place
        tensors = (torch.tensor(values, dtype=torch.long).to(device) for values in whole)
        return Batch(*tensors), max(reached, cached + chunk)

    def _prompt(self, request: int, first: int, count: int) -> list[int]:
        """Token numbers of a request's prompt: any, but always the same."""
        vocabulary, own = self._decoder.shape.vocab_size, _REQUEST_STRIDE * (request + 1)
        return [(own + _PROMPT_STRIDE * k) % vocabulary for k in range(first, first + count)]
