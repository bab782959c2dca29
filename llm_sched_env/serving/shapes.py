"""The shape of a decoder of the Llama and Qwen family: by name, or from a ``config.json``."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from llm_sched_env.errors import ConfigurationError, FileError, checked_integer, one_of

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")


@dataclass(frozen=True)
class DecoderShape:
    """What decides how long an iteration takes; weights are random.

    Attributes:
        name: of the shape, for files.
        hidden_size: width of the residual stream.
        intermediate_size: width of the gated MLP.
        layers: number of blocks.
        heads: query heads.
        kv_heads: key and value heads, a divisor of ``heads``.
        head_dim: width of a head.
        vocab_size: tokens.
        rope_theta: base of the rotary embedding.
        norm_eps: of the RMS norms.
        qk_norm: whether queries and keys are normalised by head (Qwen3).
        qkv_bias: whether their projections have a bias (Qwen2).
        tied: whether the output layer is the embedding.
    """

    name: str
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    rope_theta: float = 500_000.0
    norm_eps: float = 1e-5
    qk_norm: bool = False
    qkv_bias: bool = False
    tied: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.type == "int":
                checked_integer(f"shape {field.name}", getattr(self, field.name))
        if self.heads % self.kv_heads:
            raise ConfigurationError("shape kv_heads", self.kv_heads, f"a divisor of {self.heads}")
        if self.head_dim % 2:
            raise ConfigurationError("shape head_dim", self.head_dim, "an even number")

    @property
    def kv_bytes(self) -> int:
        """Of a token in all layers, at two bytes a number."""
        return 2 * 2 * self.layers * self.kv_heads * self.head_dim

    @property
    def parameters(self) -> int:
        """Weights, norms and biases left out."""
        attention = 2 * (self.heads + self.kv_heads) * self.head_dim * self.hidden_size
        block = attention + 3 * self.intermediate_size * self.hidden_size
        embedding = self.vocab_size * self.hidden_size
        return self.layers * block + embedding * (1 if self.tied else 2)


SHAPES = {
    shape.name: shape
    for shape in (
        DecoderShape("llama3-8b", 4096, 14_336, 32, 32, 8, 128, 128_256),
        DecoderShape(
            "qwen3-4b", 2560, 9728, 36, 32, 8, 128, 151_936, 1e6, 1e-6, qk_norm=True, tied=True
        ),
        DecoderShape("tiny", 128, 384, 2, 4, 2, 32, 512, tied=True),
    )
}


def decoder_shape(given: str | Path | DecoderShape) -> DecoderShape:
    """A shape by name, or from a ``config.json`` as Hugging Face writes it.

    Args:
        given: a name of :data:`SHAPES`, or the path of a JSON file of the Llama, Mistral or Qwen
            family.

    Raises:
        ConfigurationError: for an unknown name, or a configuration of another family.

    Example:
        >>> round(decoder_shape("llama3-8b").parameters / 1e9, 2)
        8.03
    """
    if isinstance(given, DecoderShape):
        return given
    if str(given) in SHAPES:
        return SHAPES[str(given)]
    path = Path(given)
    if path.suffix != ".json":
        raise ConfigurationError(
            "shape", str(given), one_of(SHAPES), "or give the path of a config.json"
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FileError(f"{path}: cannot be read as JSON ({error}); check the path") from error
    return _from_configuration(values, path)


def _from_configuration(values: Any, path: Path) -> DecoderShape:
    family = values.get("model_type") if isinstance(values, dict) else None
    if family not in FAMILIES:
        raise ConfigurationError(f"{path} model_type", family, one_of(FAMILIES))
    missing = [
        key
        for key in (
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "vocab_size",
        )
        if key not in values
    ]
    if missing:
        raise ConfigurationError(f"{path}", f"no {', '.join(missing)}", "all sizes of the decoder")
    heads = values["num_attention_heads"]
    return DecoderShape(
        path.parent.name or path.stem,
        values["hidden_size"],
        values["intermediate_size"],
        values["num_hidden_layers"],
        heads,
        values.get("num_key_value_heads") or heads,
        values.get("head_dim") or values["hidden_size"] // heads,
        values["vocab_size"],
        float(values.get("rope_theta", 10_000.0)),
        float(values.get("rms_norm_eps", 1e-6)),
        qk_norm=family == "qwen3",
        qkv_bias=family == "qwen2" or bool(values.get("attention_bias", False)),
        tied=bool(values.get("tie_word_embeddings", False)),
    )
