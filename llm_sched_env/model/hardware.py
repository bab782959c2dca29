"""Hardware: how long iterations of a GPU take, its slots and its KV cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_sched_env.errors import ConfigurationError, is_finite_number
from llm_sched_env.files.tables import read_table, write_table
from llm_sched_env.model.hardware_presets import HARDWARE_PRESETS, hardware_path
from llm_sched_env.model.hardware_source import HardwareSource
from llm_sched_env.model.iteration_law import MixedIteration, SoloIteration
from llm_sched_env.model.plain_tables import (
    check_integer,
    check_number,
    checked_table,
    plain_table,
)

ITERATION_LAWS = ("two-speed", "affine", "kv-aware")
CHUNKINGS = ("exact", "ceil")
STARTS = ("immediate", "boundary")
# The parameters of the two-speed and affine laws; under the KV-aware law they follow from it.
_TWO_SPEED = ("alpha", "beta", "gamma")


@dataclass(frozen=True)
class Hardware:
    """A GPU with its model and engine: iteration times (1)-(3) and slots.

    Args:
        alpha: intercept of the mixed iteration time, s.
        beta: slope of the mixed iteration time, s per token.
        gamma: decode-only iterations per second, so tokens per second of a solo decode.
        chunk_tokens: prefill chunk C, tokens per iteration.
        batch_slots: B, requests in service on one GPU; a prefill takes one slot.
        iteration_law: ``two-speed`` (3), or ``affine``: law (1), in which every decode of an
            iteration counts as a token, tau(b) = c + a max(0, b - b0) with c = 1/gamma, a = beta
            and b0 = (1/gamma - alpha) / beta. ``tau_mixed`` is then its least: the plan keeps
            the two speeds, at least those of any iteration, so it stays a bound. ``kv-aware``:
            the law of ``solo`` and ``mixed``; make it with :meth:`kv_aware`.
        chunking: ``exact``: a prefill takes P/C iterations; ``ceil``: P/C rounded up.
        kv_tokens: KV-cache tokens that fit on a GPU; None: no limit. A prefill reserves its
            prompt, a decode its prompt and output.
        solo: KV-aware seconds of an iteration without a prefill.
        mixed: KV-aware seconds of an iteration with a chunk of a prefill.
        starts: ``immediate``: a request starts when it is placed; ``boundary``: on a busy GPU
            with the next iteration, and every iteration is whole, as on a real engine.
        padded_chunks: the last chunk of a prompt takes the time of a whole one; under the
            KV-aware law, since the others never tell a shorter chunk.
        cache_tokens: tokens of KV blocks that a GPU keeps for reuse, those of requests in service
            among them; None: a GPU keeps nothing, and every prompt is prefilled whole.

    Example:
        >>> gpu = Hardware(alpha=0.02, beta=6e-5, gamma=50.0, chunk_tokens=256, batch_slots=16)
        >>> round(gpu.tau_mixed, 4), gpu.tau_solo
        (0.0354, 0.02)
    """

    alpha: float
    beta: float
    gamma: float
    chunk_tokens: int
    batch_slots: int
    iteration_law: str = "two-speed"
    chunking: str = "exact"
    kv_tokens: int | None = None
    solo: SoloIteration | None = None
    mixed: MixedIteration | None = None
    starts: str = "immediate"
    padded_chunks: bool = False
    cache_tokens: int | None = None

    @classmethod
    def kv_aware(
        cls,
        solo: SoloIteration,
        mixed: MixedIteration,
        chunk_tokens: int,
        batch_slots: int,
        **options: Any,
    ) -> Hardware:
        """Hardware under the KV-aware law; ``options`` are those of the class.

        ``alpha``, ``beta`` and ``gamma`` are then m0, m1 and 1/s0: the law without decodes.

        Example:
            >>> solo = SoloIteration(8.04e-3, per_decode=8.69e-5, per_kv_token=1.36e-8)
            >>> mixed = MixedIteration(1.66e-2, per_decode=1.64e-4)
            >>> Hardware.kv_aware(solo, mixed, chunk_tokens=512, batch_slots=32).tau_mixed
            0.0166
        """
        for name, value, kind in (("solo", solo, SoloIteration), ("mixed", mixed, MixedIteration)):
            if not isinstance(value, kind):
                raise ConfigurationError(f"hardware {name}", value, f"a {kind.__name__}")
        return cls(
            *_two_speed_parts(solo, mixed),
            chunk_tokens,
            batch_slots,
            "kv-aware",
            solo=solo,
            mixed=mixed,
            **options,
        )

    @classmethod
    def from_dict(cls, data: Any, where: str = "hardware") -> Hardware:
        """Build hardware from plain data; unknown or missing keys are rejected by name.

        Under the KV-aware law the tables ``solo`` and ``mixed`` stand in place of ``alpha``,
        ``beta`` and ``gamma``.
        """
        if not isinstance(data, Mapping) or data.get("iteration_law") != "kv-aware":
            return cls(**checked_table(data, cls, where))
        for key in _TWO_SPEED:
            if key in data:
                raise ConfigurationError(
                    f"{where}: key",
                    key,
                    "solo and mixed under the KV-aware law",
                    "remove it or set iteration_law to two-speed",
                )
        table = dict(data)
        for key, kind in (("solo", SoloIteration), ("mixed", MixedIteration)):
            if key in data:
                table[key] = kind(**checked_table(data[key], kind, f"{where} {key}"))
        unset = dict.fromkeys(_TWO_SPEED, 0.0)
        options = checked_table(
            {**unset, **table}, cls, where, hidden=_TWO_SPEED, required=("solo", "mixed")
        )
        for key in (*_TWO_SPEED, "iteration_law"):
            del options[key]
        return cls.kv_aware(**options)

    def to_dict(self) -> dict[str, Any]:
        """Plain data that :meth:`from_dict` reads back, without options at their defaults."""
        table = plain_table(self)
        if self.iteration_law == "kv-aware":
            for key in _TWO_SPEED:
                del table[key]
        return table

    def __post_init__(self) -> None:
        check_number(self, "alpha", "hardware alpha")
        check_number(self, "beta", "hardware beta")
        check_number(self, "gamma", "hardware gamma", positive=True)
        check_integer(self, "chunk_tokens", "hardware chunk_tokens", 1)
        check_integer(
            self,
            "batch_slots",
            "hardware batch_slots",
            2,
            "a mixed GPU needs one slot for its prefill and one for a decode",
        )
        if not is_finite_number(self.tau_mixed, positive=True):
            raise ConfigurationError(
                "hardware alpha and beta",
                (self.alpha, self.beta),
                "a finite mixed iteration time alpha + beta * chunk_tokens > 0",
            )
        self._check_law()
        for name, allowed in (
            ("iteration_law", ITERATION_LAWS),
            ("chunking", CHUNKINGS),
            ("starts", STARTS),
        ):
            if getattr(self, name) not in allowed:
                raise ConfigurationError(
                    f"hardware {name}", getattr(self, name), " or ".join(allowed)
                )
        if not isinstance(self.padded_chunks, bool):
            raise ConfigurationError("hardware padded_chunks", self.padded_chunks, "true or false")
        if self.iteration_law == "affine" and not (self.beta > 0 and self.flat_tokens >= 0):
            raise ConfigurationError(
                "hardware alpha and beta",
                (self.alpha, self.beta),
                "beta > 0 and alpha <= 1/gamma under the affine law",
                'use iteration_law="two-speed" or fit them anew',
            )
        if self.kv_tokens is not None:
            check_integer(self, "kv_tokens", "hardware kv_tokens", 1, "leave it out for no limit")
        if self.cache_tokens is not None:
            check_integer(
                self, "cache_tokens", "hardware cache_tokens", 1, "leave it out for no reuse"
            )

    def _check_law(self) -> None:
        """The KV-aware coefficients are given if they are used, and only then."""
        if self.iteration_law != "kv-aware":
            for name in ("solo", "mixed"):
                if getattr(self, name) is not None:
                    raise ConfigurationError(
                        f"hardware {name}",
                        getattr(self, name),
                        f"none under the {self.iteration_law} law",
                        "set iteration_law to kv-aware",
                    )
            return
        if not isinstance(self.solo, SoloIteration) or not isinstance(self.mixed, MixedIteration):
            raise ConfigurationError(
                "hardware solo and mixed",
                (self.solo, self.mixed),
                "a SoloIteration and a MixedIteration under the KV-aware law",
                "use Hardware.kv_aware",
            )
        given = (self.alpha, self.beta, self.gamma)
        if given != _two_speed_parts(self.solo, self.mixed):
            raise ConfigurationError(
                "hardware alpha, beta and gamma",
                given,
                "what follows from solo and mixed under the KV-aware law",
                "use Hardware.kv_aware",
            )

    @property
    def whole_chunks(self) -> bool:
        """Whether a prefill takes a whole number of iterations, one for each chunk begun."""
        return self.chunking == "ceil" or self.padded_chunks or self.whole_iterations

    @property
    def whole_iterations(self) -> bool:
        """Whether requests start and end with iterations: a decode of D tokens takes ceil(D)."""
        return self.starts == "boundary"

    @property
    def flat_tokens(self) -> float:
        """b0 of law (1): tokens up to which an iteration takes 1/gamma seconds; needs beta > 0."""
        return (1.0 / self.gamma - self.alpha) / self.beta

    @property
    def tau_solo(self) -> float:
        """Seconds per iteration without a prefill, 1/gamma."""
        return 1.0 / self.gamma

    @property
    def tau_mixed(self) -> float:
        """Seconds per iteration with a prefill, alpha + beta * C, equation (3).

        Under the affine law the least that the plan reckons with, under the KV-aware law that of
        a whole chunk without decodes.
        """
        return self.alpha + self.beta * self.chunk_tokens


@dataclass(frozen=True)
class HardwareFile:
    """A hardware with where it was measured: what ``llmsched calibrate --out`` writes."""

    hardware: Hardware
    source: HardwareSource | None = None

    def save(self, path: str | Path) -> None:
        """Write a hardware file, JSON or TOML by its ending."""
        write_table(plain_table(self), Path(path), "hardware file")

    @classmethod
    def load(cls, path: str | Path) -> HardwareFile:
        """Read a hardware file, JSON or TOML by its ending, or a preset by its name.

        Unknown keys are rejected by name.
        """
        path = hardware_path(path)
        name = path.name
        if not path.suffix and not path.exists():
            raise ConfigurationError(
                "hardware", name, f"a hardware file (.toml, .json) or {', '.join(HARDWARE_PRESETS)}"
            )
        table = checked_table(read_table(path, "hardware file"), cls, name)
        table["hardware"] = Hardware.from_dict(table["hardware"], f"{name} hardware")
        if "source" in table:
            table["source"] = HardwareSource.from_dict(table["source"], f"{name} source")
        return cls(**table)


def load_hardware(path: str | Path) -> Hardware:
    """The hardware of a hardware file (``llmsched calibrate --out``) or of a preset.

    Example:
        >>> import tempfile
        >>> from llm_sched_env.presets import base
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "gpu.toml"
        ...     HardwareFile(base().hardware).save(path)
        ...     load_hardware(path) == base().hardware
        True
    """
    return HardwareFile.load(path).hardware


def _two_speed_parts(solo: SoloIteration, mixed: MixedIteration) -> tuple[float, float, float]:
    """alpha, beta and gamma of a law without decodes."""
    return mixed.seconds, mixed.per_prompt_token, 1.0 / solo.seconds
