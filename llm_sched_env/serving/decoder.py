"""A decoder with random weights and a slotted KV cache: one call is one iteration.

Own layers in one file, since an iteration is a batch that models of libraries do not take: a chunk
of one prompt and one token each of many requests, in the places of one cache that never moves. The
tokens of both go through the linear layers together; only attention tells them apart.

All shapes of a call follow from (chunk tokens, decode rows, context), and all positions are
tensors, so that a CUDA graph captured at one shape serves every iteration of it (graphs.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from llm_sched_env.serving.shapes import DecoderShape

_INITIAL_DEVIATION = 0.02


class Batch(NamedTuple):
    """What an iteration computes; tensors of integers on the device.

    Decode rows are slots 0 to b - 1, of which some may be idle: these write to the cache's spare
    position and what they say is not read.
    """

    chunk_tokens: Tensor  # (c,) of the prompt; c = 0: no prefill
    chunk_slot: Tensor  # (1,)
    chunk_positions: Tensor  # (c,) in the cache; the spare position for padding
    chunk_last: Tensor  # (1,) place in the chunk of its last token
    decode_tokens: Tensor  # (b,) the last token of each request
    decode_positions: Tensor  # (b,) in the cache


class KvCache:
    """Keys and values of every slot, each with room for so many tokens and a spare one.

    Args:
        shape: of the decoder.
        slots: requests.
        tokens: most tokens of a request.
        device: where.
        dtype: of the numbers.

    Attributes:
        keys, values: of each layer, (slots, kv_heads, tokens + 1, head_dim).
        spare: the position that nobody reads.
    """

    def __init__(
        self, shape: DecoderShape, slots: int, tokens: int, device: str, dtype: torch.dtype
    ) -> None:
        size = (slots, shape.kv_heads, tokens + 1, shape.head_dim)
        self.keys = [torch.zeros(size, device=device, dtype=dtype) for _ in range(shape.layers)]
        self.values = [torch.zeros(size, device=device, dtype=dtype) for _ in range(shape.layers)]
        self.spare = tokens

    def taken_out(self, slot: int, tokens: int) -> Tensor:
        """A copy of a slot's first tokens; (2, layers, kv_heads, tokens, head_dim)."""
        layers = (self.keys, self.values)
        return torch.stack(
            [torch.stack([layer[slot, :, :tokens] for layer in part]) for part in layers]
        )

    def put_in(self, slot: int, kept: Tensor) -> None:
        """Write what was taken out into a slot."""
        tokens = kept.shape[3]
        for part, kept_part in zip((self.keys, self.values), kept, strict=True):
            for layer, kept_layer in zip(part, kept_part, strict=True):
                layer[slot, :, :tokens] = kept_layer


class _Block(nn.Module):
    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        self.shape = shape
        self.widths = [shape.heads * shape.head_dim, *[shape.kv_heads * shape.head_dim] * 2]
        self.before_attention = nn.RMSNorm(shape.hidden_size, shape.norm_eps)
        self.qkv = nn.Linear(shape.hidden_size, sum(self.widths), bias=shape.qkv_bias)
        self.out = nn.Linear(self.widths[0], shape.hidden_size, bias=False)
        self.before_mlp = nn.RMSNorm(shape.hidden_size, shape.norm_eps)
        self.gate_up = nn.Linear(shape.hidden_size, 2 * shape.intermediate_size, bias=False)
        self.down = nn.Linear(shape.intermediate_size, shape.hidden_size, bias=False)
        if shape.qk_norm:
            self.query_norm = nn.RMSNorm(shape.head_dim, shape.norm_eps)
            self.key_norm = nn.RMSNorm(shape.head_dim, shape.norm_eps)

    def heads(self, x: Tensor, turn: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of tokens, (T, heads, head_dim), turned by their positions."""
        parts = self.qkv(self.before_attention(x)).split(self.widths, dim=-1)
        query, key, value = (part.unflatten(-1, (-1, self.shape.head_dim)) for part in parts)
        if self.shape.qk_norm:
            query, key = self.query_norm(query), self.key_norm(key)
        return _turned(query, turn), _turned(key, turn), value

    def after(self, x: Tensor, attended: Tensor) -> Tensor:
        """The rest of the block."""
        x = x + self.out(attended)
        gate, up = self.gate_up(self.before_mlp(x)).chunk(2, dim=-1)
        grown: Tensor = x + self.down(functional.silu(gate) * up)
        return grown


class Decoder(nn.Module):
    """A decoder of a shape; its weights are drawn from a seed.

    Args:
        shape: of it.
        device: ``cpu`` or ``cuda``.
        dtype: of weights and cache; bfloat16 on ``cuda``, float32 on ``cpu`` by default.
        seed: of the weights.
    """

    def __init__(
        self,
        shape: DecoderShape,
        device: str = "cpu",
        dtype: torch.dtype | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.shape, self.place = shape, device
        self.dtype = dtype or (torch.bfloat16 if device.startswith("cuda") else torch.float32)
        with torch.device("meta"):
            self.embedding = nn.Embedding(shape.vocab_size, shape.hidden_size)
            self.blocks = nn.ModuleList(_Block(shape) for _ in range(shape.layers))
            self.last_norm = nn.RMSNorm(shape.hidden_size, shape.norm_eps)
            self.head = nn.Linear(shape.hidden_size, shape.vocab_size, bias=False)
        self.to(self.dtype).to_empty(device=device)
        generator = torch.Generator(device).manual_seed(seed)
        with torch.no_grad():
            for name, weight in self.named_parameters():
                if "norm" in name or "before" in name:
                    weight.fill_(1.0)
                else:
                    weight.normal_(0.0, _INITIAL_DEVIATION, generator=generator)
        if shape.tied:
            self.head.weight = self.embedding.weight
        self.requires_grad_(requires_grad=False)
        inverse = torch.arange(0, shape.head_dim, 2, device=device, dtype=torch.float32)
        self.frequencies = shape.rope_theta ** (-inverse / shape.head_dim)

    def new_cache(self, slots: int, tokens: int) -> KvCache:
        """An empty cache for so many requests of at most so many tokens."""
        return KvCache(self.shape, slots, tokens, self.place, self.dtype)

    def forward(
        self, batch: Batch, cache: KvCache, context: int, row_contexts: Sequence[int] = ()
    ) -> Tensor:
        """The next token of each decode row and, last, of the chunk if there is one; (b + 1,).

        Args:
            batch: of the iteration.
            cache: read and written.
            context: positions of the cache that are read; at least those in use.
            row_contexts: those of each decode row; default: ``context`` for all, with a mask.
        """
        chunk, rows = len(batch.chunk_tokens), len(batch.decode_tokens)
        positions = torch.cat((batch.chunk_positions, batch.decode_positions))
        x = self.embedding(torch.cat((batch.chunk_tokens, batch.decode_tokens)))
        angles = positions[:, None].float() * self.frequencies
        turn = (angles.cos()[:, None].to(self.dtype), angles.sin()[:, None].to(self.dtype))
        masked = positions[:chunk] if row_contexts else positions
        bias = self._bias(masked, cache.spare, context)
        groups = self.shape.heads // self.shape.kv_heads
        # A chunk's queries stand by head of a group, then by token: see _attend.
        chunk_bias = bias[:chunk].repeat(groups, 1)[None, None]
        row_bias = bias[chunk:, None, None]
        for layer, block in enumerate(self.blocks):
            assert isinstance(block, _Block)
            query, key, value = block.heads(x, turn)
            keys, values = cache.keys[layer], cache.values[layer]
            parts = []
            if chunk:
                slot, where = batch.chunk_slot, batch.chunk_positions
                keys[slot, :, where] = key[:chunk]
                values[slot, :, where] = value[:chunk]
                own = keys[slot, :, :context], values[slot, :, :context]
                parts.append(_attend(query[None, :chunk], *own, chunk_bias)[0])
            if rows:
                slots = torch.arange(rows, device=positions.device)
                keys[slots, :, batch.decode_positions] = key[chunk:]
                values[slots, :, batch.decode_positions] = value[chunk:]
                if row_contexts:
                    parts += _attended_rows(query[chunk:, None], keys, values, row_contexts)
                else:
                    own = keys[:rows, :, :context], values[:rows, :, :context]
                    parts.append(_attend(query[chunk:, None], *own, row_bias)[:, 0])
            x = block.after(x, torch.cat(parts))
        wanted = x[chunk:]
        if chunk:
            wanted = torch.cat((wanted, x[batch.chunk_last]))
        found: Tensor = self.head(self.last_norm(wanted)).argmax(dim=-1)
        return found

    def _bias(self, positions: Tensor, spare: int, context: int) -> Tensor:
        """0 where a token may look, -inf elsewhere; (T, context).

        Idle rows and padding see position 0 only, so that no row is without a key.
        """
        places = torch.arange(context, device=positions.device)
        seen = torch.where(positions == spare, 0, positions)
        bias = torch.zeros((len(positions), context), device=positions.device, dtype=self.dtype)
        return bias.masked_fill_(places > seen[:, None], float("-inf"))


def _attended_rows(
    query: Tensor, keys: Tensor, values: Tensor, contexts: Sequence[int]
) -> list[Tensor]:
    """Attention row by row, so that each reads no more than it has."""
    return [
        _attend(query[r : r + 1], keys[r : r + 1, :, :n], values[r : r + 1, :, :n], None)[:, 0]
        for r, n in enumerate(contexts)
    ]


def _attend(query: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
    """Attention of (rows, tokens, heads, head_dim) to caches, heads joined.

    Query heads that share a key head become its queries, so that the cache is read once and fused
    kernels that know no groups take it.

    Args:
        query: of tokens.
        keys: (rows, kv_heads, context, head_dim).
        values: likewise.
        bias: 0 where a query may look, else -inf; (rows, 1, 1 or group * tokens, context); None:
            everywhere.
    """
    rows, tokens, heads, width = query.shape
    kv_heads = keys.shape[1]
    grouped = query.view(rows, tokens, kv_heads, heads // kv_heads, width)
    folded = grouped.permute(0, 2, 3, 1, 4).reshape(rows, kv_heads, -1, width)
    if bias is not None:
        bias = bias.expand(rows, kv_heads, folded.shape[2], -1)
    attended = functional.scaled_dot_product_attention(folded, keys, values, attn_mask=bias)
    unfolded = attended.view(rows, kv_heads, heads // kv_heads, tokens, width)
    return unfolded.permute(0, 3, 1, 2, 4).reshape(rows, tokens, heads * width)


def _turned(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """The rotary embedding, halves together as in Llama and Qwen."""
    cos, sin = turn
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
