"""Iteration times from Vidur's profiles of linear operators (``mlp.csv``).

The profiles hold one layer of a model. A row has the median time of each operator, ms, in
``time_stats.OPERATOR.median``, for a number of tokens on one of ``num_tensor_parallel_workers``
GPUs. An iteration is every operator of every layer, and the embedding once. A layer adds its
residual twice, after attention and after the MLP; the profile times one addition.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from llm_sched_env.errors import CalibrationError, ConfigurationError, checked_integer
from llm_sched_env.workloads import columns
from llm_sched_env.workloads.reading import bad_line, csv_columns, value_fault

PROFILE_NOTE = (
    "a profile of linear operators: attention and what the processor does between iterations are "
    "not in these times"
)
_WHAT = "iteration times"
_PREFIX, _SUFFIX = "time_stats.", ".median"
_TOKENS, _WORKERS = "num_tokens", "num_tensor_parallel_workers"
_EMBEDDING = "emb"
_TIMES_PER_LAYER = {
    "input_layernorm": 1,
    "attn_pre_proj": 1,
    "attn_rope": 1,
    "attn_post_proj": 1,
    "post_attention_layernorm": 1,
    "mlp_up_proj": 1,
    "mlp_act": 1,
    "mlp_down_proj": 1,
    "add": 2,
}
# Models whose MLP runs beside attention have one norm for both.
_OPTIONAL = {"post_attention_layernorm"}


def is_profile(names: Sequence[str]) -> bool:
    """Whether a header is that of one of Vidur's profiles."""
    return any(name.startswith(_PREFIX) for name in names)


def read_profile(
    path: Path,
    names: Sequence[str],
    lines: Sequence[str],
    device: str | None,
    model: str | None,
    layers: int | None,
) -> tuple[str, str, np.ndarray, np.ndarray]:
    """Device, model, tokens and seconds of the iterations on one GPU.

    Args:
        path: of the file, for messages.
        names: its columns.
        lines: those below the header, blank ones among them.
        device: what to call the device, which the file does not name.
        model: what to call the model.
        layers: how many the model has.

    Raises:
        CalibrationError: naming file and line.
        ConfigurationError: for layers that are missing or no integer.
    """
    factors = _factors(path, names)
    if not device or not model:
        raise CalibrationError(
            f"{_WHAT} {path}: got a profile of operators, which names neither device nor model; "
            "name both with --device and --model"
        )
    if layers is None:
        raise ConfigurationError(
            "layers",
            layers,
            f"the number of layers of {model}",
            f"{path} is a profile of one layer: give --layers, such as 32",
        )
    layers = checked_integer("layers", layers)
    wanted = [_TOKENS, _WORKERS, *(f"{_PREFIX}{name}{_SUFFIX}" for name in factors)]
    weights = np.array([k if name == _EMBEDDING else k * layers for name, k in factors.items()])
    tokens, workers, milliseconds = _table(path, lines, names, wanted)
    alone = workers == 1
    if not alone.any():
        raise CalibrationError(
            f"{_WHAT} {path}: got only rows of several GPUs ({_WORKERS}), whose communication is "
            "not in the profile; profile with 1 as well"
        )
    return device, model, tokens[alone], (weights @ milliseconds)[alone] / 1000


def _factors(path: Path, names: Sequence[str]) -> dict[str, int]:
    """How often each operator of a file runs: in a layer, or the embedding in an iteration."""
    known = {**_TIMES_PER_LAYER, _EMBEDDING: 1}
    found = [
        name.removeprefix(_PREFIX).removesuffix(_SUFFIX)
        for name in names
        if name.startswith(_PREFIX) and name.endswith(_SUFFIX)
    ]
    twice = sorted({name for name in found if found.count(name) > 1})
    if twice:
        raise CalibrationError(f"{_WHAT} {path} line 1: got the operator {twice[0]!r} twice")
    missing = [name for name in known if name not in found and name not in _OPTIONAL]
    missing += [name for name in (_TOKENS, _WORKERS) if names.count(name) != 1]
    unknown = [name for name in found if name not in known]
    if missing or unknown:
        got = f"without {', '.join(missing)}" if missing else f"with {', '.join(unknown)}"
        raise CalibrationError(
            f"{_WHAT} {path}: got a profile {got}, expected Vidur's of linear operators (mlp.csv); "
            "sum others yourself into device,model,tokens_in_iteration,seconds"
        )
    return {name: known[name] for name in found}


def _table(
    path: Path, lines: Sequence[str], names: Sequence[str], wanted: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens and workers, shape (K,), and times of the operators, ms, shape (operators, K)."""
    width, positions = len(names), [names.index(name) for name in wanted]
    filled = [line for line in lines if line]
    if not filled:
        raise CalibrationError(
            f"{_WHAT} {path}: got no row after the header, expected at least one"
        )
    readers = [
        _positive_counts if name in (_TOKENS, _WORKERS) else columns.numbers for name in wanted
    ]
    try:
        texts = csv_columns(filled, width, positions)
        tokens, workers, *times = (
            read(column) for read, column in zip(readers, texts, strict=True)
        )
    except ValueError:
        for number, line in enumerate(lines, 2):
            fault = _fault(line, width, positions, wanted, readers) if line else ""
            if fault:
                raise bad_line(path, number, line, fault, _WHAT, CalibrationError) from None
        raise
    return tokens, workers, np.array(times)


def _fault(
    line: str,
    width: int,
    positions: Sequence[int],
    wanted: Sequence[str],
    readers: Sequence[Callable[[Sequence[str]], np.ndarray]],
) -> str:
    """What is wrong with a line; "" if nothing is."""
    try:
        texts = csv_columns([line], width, positions)
    except ValueError as error:
        return str(error)
    return next(filter(None, map(value_fault, wanted, readers, texts)), "")


def _positive_counts(texts: Sequence[str]) -> np.ndarray:
    counts = columns.counts(texts)
    if (counts == 0).any():
        raise ValueError("a whole number > 0")
    return counts
