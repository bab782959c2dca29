"""The problem instance: request classes, hardware and prices, validated once."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llm_sched_env.errors import ConfigurationError, is_finite_number
from llm_sched_env.files.tables import read_table, write_table
from llm_sched_env.model.arrival_rates import ArrivalModulation, ArrivalProfile
from llm_sched_env.model.hardware_source import HardwareSource
from llm_sched_env.model.length_distributions import (
    EXPONENTIAL,
    LengthDistribution,
    ObservedLengths,
)
from llm_sched_env.model.length_moments import mean_whole_chunks

_LARGEST_INTEGER = 10**9
ITERATION_LAWS = ("two-speed", "affine")
CHUNKINGS = ("exact", "ceil")


def _check_number(
    owner: Any, name: str, field: str, *, positive: bool = False, remedy: str = ""
) -> None:
    """Reject anything but a finite real number >= 0 (or > 0); a NumPy scalar becomes plain."""
    got = _plain(owner, name)
    allowed = "a finite number > 0" if positive else "a finite number >= 0"
    if not is_finite_number(got, positive=positive):
        raise ConfigurationError(field, got, allowed, remedy)


def _check_integer(owner: Any, name: str, field: str, least: int, remedy: str = "") -> None:
    got = _plain(owner, name)
    numeric = isinstance(got, int) and not isinstance(got, bool)
    if not numeric or not least <= got <= _LARGEST_INTEGER:
        raise ConfigurationError(field, got, f"an integer >= {least} and <= 10^9", remedy)


def _plain(owner: Any, name: str) -> Any:
    """The attribute as plain Python data, stored back on the frozen owner."""
    got = getattr(owner, name)
    if isinstance(got, np.generic):
        got = got.item()
        object.__setattr__(owner, name, got)
    return got


def _require_name(field: str, got: Any) -> None:
    if not isinstance(got, str) or not got.strip():
        raise ConfigurationError(field, got, "a non-empty text")


@dataclass(frozen=True)
class RequestClass:
    """One class of requests.

    Args:
        name: unique within the instance.
        prompt_tokens: mean prompt length P, tokens.
        output_tokens: mean output length D, tokens.
        arrival_rate: lambda, requests per second **per GPU**; n GPUs see n times as many.
        patience_rate: theta, 1/s, of the exponential patience in each queue; 0 means never leaves.
        prompt_lengths: distribution of prompt lengths around their mean.
        output_lengths: distribution of output lengths around their mean.
        arrival_profile: how the arrival rate changes around its mean; None: constant.
        observed_lengths: prompts and outputs observed together, such as the rows of a trace, in
            place of the two distributions; None: lengths are independent.
        prefill_iterations: mean iterations of a prefill under whole chunks, where it does not
            follow from the lengths above (:mod:`llm_sched_env.model.kv_admission`).
    """

    name: str
    prompt_tokens: float
    output_tokens: float
    arrival_rate: float
    patience_rate: float
    prompt_lengths: LengthDistribution = EXPONENTIAL
    output_lengths: LengthDistribution = EXPONENTIAL
    arrival_profile: ArrivalProfile | None = None
    observed_lengths: ObservedLengths | None = None
    prefill_iterations: float | None = None

    def __post_init__(self) -> None:
        _require_name("class name", self.name)
        at = f"class {self.name!r}: "
        remedies = {
            "arrival_rate": "give requests per second and GPU",
            "patience_rate": "use 0 for requests that never leave",
        }
        for name in ("prompt_tokens", "output_tokens"):
            _check_number(self, name, at + name, positive=True)
        for name, remedy in remedies.items():
            _check_number(self, name, at + name, remedy=remedy)
        for name, tokens in (
            ("prompt_lengths", self.prompt_tokens),
            ("output_lengths", self.output_tokens),
        ):
            lengths = getattr(self, name)
            if not isinstance(lengths, LengthDistribution):
                raise ConfigurationError(at + name, lengths, "a LengthDistribution")
            lengths.require_mean(at + name.replace("lengths", "tokens"), tokens)
        if self.arrival_profile is not None and not isinstance(
            self.arrival_profile, ArrivalProfile
        ):
            raise ConfigurationError(
                at + "arrival_profile", self.arrival_profile, "an ArrivalProfile"
            )
        if self.observed_lengths is not None:
            self._check_observed(at)
        if self.prefill_iterations is not None:
            _check_number(self, "prefill_iterations", at + "prefill_iterations")

    def _check_observed(self, at: str) -> None:
        observed = self.observed_lengths
        if not isinstance(observed, ObservedLengths):
            raise ConfigurationError(at + "observed_lengths", observed, "an ObservedLengths")
        for name in ("prompt_lengths", "output_lengths"):
            if getattr(self, name) != EXPONENTIAL:
                raise ConfigurationError(
                    at + name,
                    getattr(self, name),
                    "none with observed_lengths",
                    "leave one of them out",
                )
        observed.require_means(at, self.prompt_tokens, self.output_tokens)

    def mean_prefill_iterations(self, chunk_tokens: int) -> float:
        """Mean iterations E[ceil(P / C)] of a prefill in whole chunks of C tokens."""
        if self.prefill_iterations is not None:
            return self.prefill_iterations
        if self.observed_lengths is not None:
            prompts = self.observed_lengths.prompt_tokens
            return float(np.ceil(prompts / chunk_tokens).mean())
        return mean_whole_chunks(self.prompt_lengths, self.prompt_tokens, chunk_tokens)


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
            the two speeds, at least those of any iteration, so it stays a bound.
        chunking: ``exact``: a prefill takes P/C iterations; ``ceil``: P/C rounded up.
        kv_tokens: KV-cache tokens that fit on a GPU; None: no limit. A prefill reserves its
            prompt, a decode its prompt and output.
    """

    alpha: float
    beta: float
    gamma: float
    chunk_tokens: int
    batch_slots: int
    iteration_law: str = "two-speed"
    chunking: str = "exact"
    kv_tokens: int | None = None

    def __post_init__(self) -> None:
        _check_number(self, "alpha", "hardware alpha")
        _check_number(self, "beta", "hardware beta")
        _check_number(self, "gamma", "hardware gamma", positive=True)
        _check_integer(self, "chunk_tokens", "hardware chunk_tokens", 1)
        _check_integer(
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
        for name, allowed in (("iteration_law", ITERATION_LAWS), ("chunking", CHUNKINGS)):
            if getattr(self, name) not in allowed:
                raise ConfigurationError(
                    f"hardware {name}", getattr(self, name), " or ".join(allowed)
                )
        if self.iteration_law == "affine" and not (self.beta > 0 and self.flat_tokens >= 0):
            raise ConfigurationError(
                "hardware alpha and beta",
                (self.alpha, self.beta),
                "beta > 0 and alpha <= 1/gamma under the affine law",
                'use iteration_law="two-speed" or fit them anew',
            )
        if self.kv_tokens is not None:
            _check_integer(self, "kv_tokens", "hardware kv_tokens", 1, "leave it out for no limit")

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

        Under the affine law the least that the plan reckons with.
        """
        return self.alpha + self.beta * self.chunk_tokens


@dataclass(frozen=True)
class HardwareFile:
    """A hardware with where it was measured: what ``llmsched calibrate --out`` writes."""

    hardware: Hardware
    source: HardwareSource | None = None

    def save(self, path: str | Path) -> None:
        """Write a hardware file, JSON or TOML by its ending."""
        write_table(_plain_table(self), Path(path), "hardware file")

    @classmethod
    def load(cls, path: str | Path) -> HardwareFile:
        """Read a hardware file, JSON or TOML by its ending; unknown keys are rejected by name."""
        name = Path(path).name
        table = _checked(read_table(Path(path), "hardware file"), cls, name)
        for key, kind in (("hardware", Hardware), ("source", HardwareSource)):
            if key in table:
                table[key] = kind(**_checked(table[key], kind, f"{name} {key}"))
        return cls(**table)


def load_hardware(path: str | Path) -> Hardware:
    """The hardware of a hardware file (``llmsched calibrate --out``)."""
    return HardwareFile.load(path).hardware


@dataclass(frozen=True)
class Prices:
    """Revenue per prompt token and per output token, in the same currency."""

    prefill: float
    decode: float

    def __post_init__(self) -> None:
        _check_number(self, "prefill", "prices prefill")
        _check_number(self, "decode", "prices decode")
        if self.prefill == 0 and self.decode == 0:
            raise ConfigurationError(
                "prices", (self.prefill, self.decode), "at least one price > 0"
            )


@dataclass(frozen=True)
class Instance:
    """Classes, hardware and prices of one benchmark problem; independent of the cluster size.

    Rates (4), all per second and request: ``prefill_rates`` mu_p = C / (P tau_mix), with whole
    chunks 1 / (E[ceil(P/C)] tau_mix), ``mixed_decode_rates`` mu_m = 1 / (D tau_mix),
    ``solo_decode_rates`` mu_s = gamma / D, each an array of shape (I,). ``modulation`` multiplies
    the arrival rates of all classes; None: no bursts.
    """

    name: str
    classes: tuple[RequestClass, ...]
    hardware: Hardware
    prices: Prices
    modulation: ArrivalModulation | None = None

    def __post_init__(self) -> None:
        _require_name("instance name", self.name)
        parts = (("hardware", Hardware), ("prices", Prices))
        for name, kind in parts:
            if not isinstance(getattr(self, name), kind):
                raise ConfigurationError(name, getattr(self, name), f"a {kind.__name__}")
        classes = self.classes
        if not isinstance(classes, (list, tuple)) or not all(
            isinstance(c, RequestClass) for c in classes
        ):
            raise ConfigurationError("classes", classes, "a sequence of RequestClass")
        object.__setattr__(self, "classes", tuple(classes))
        if not self.classes:
            raise ConfigurationError("classes", (), "at least one request class")
        names = [c.name for c in self.classes]
        if len(set(names)) < len(names):
            raise ConfigurationError("class names", names, "names that are all different")
        if not any(c.arrival_rate > 0 for c in self.classes):
            raise ConfigurationError(
                "arrival_rate of every class", 0, "at least one arrival rate > 0"
            )
        if self.modulation is not None:
            if not isinstance(self.modulation, ArrivalModulation):
                raise ConfigurationError("modulation", self.modulation, "an ArrivalModulation")
            self.modulation.relative_rates(len(self.classes))

    def _per_class(self, field: str) -> np.ndarray:
        return np.array([getattr(c, field) for c in self.classes], dtype=float)

    @property
    def n_classes(self) -> int:
        """The number of classes I."""
        return len(self.classes)

    @property
    def prompt_tokens(self) -> np.ndarray:
        """Mean prompt lengths P, tokens; shape (I,)."""
        return self._per_class("prompt_tokens")

    @property
    def output_tokens(self) -> np.ndarray:
        """Mean output lengths D, tokens; shape (I,)."""
        return self._per_class("output_tokens")

    @property
    def arrival_rates(self) -> np.ndarray:
        """Arrival rates lambda per GPU, 1/s; shape (I,)."""
        return self._per_class("arrival_rate")

    @property
    def patience_rates(self) -> np.ndarray:
        """Patience rates theta, 1/s; shape (I,)."""
        return self._per_class("patience_rate")

    @property
    def prefill_rates(self) -> np.ndarray:
        """Prefill rates mu_p, 1/s; shape (I,)."""
        if self.hardware.chunking == "ceil":
            chunks = [c.mean_prefill_iterations(self.hardware.chunk_tokens) for c in self.classes]
            return 1.0 / (np.array(chunks) * self.hardware.tau_mixed)
        return self.hardware.chunk_tokens / (self.prompt_tokens * self.hardware.tau_mixed)

    @property
    def mixed_decode_rates(self) -> np.ndarray:
        """Decode rates beside a running prefill mu_m, 1/s; shape (I,)."""
        return 1.0 / (self.output_tokens * self.hardware.tau_mixed)

    @property
    def solo_decode_rates(self) -> np.ndarray:
        """Decode rates without a prefill mu_s, 1/s; shape (I,)."""
        return self.hardware.gamma / self.output_tokens

    @property
    def bundled_revenues(self) -> np.ndarray:
        """Revenue of a completed request w = c_p P + c_d D, equation (22); shape (I,)."""
        return self.prices.prefill * self.prompt_tokens + self.prices.decode * self.output_tokens

    def scaled(self, load: float, name: str | None = None) -> Instance:
        """The same instance with every arrival rate multiplied by ``load`` (> 0)."""
        if not is_finite_number(load, positive=True):
            raise ConfigurationError("load", load, "a finite number > 0")
        classes = tuple(
            dataclasses.replace(c, arrival_rate=c.arrival_rate * load) for c in self.classes
        )
        return dataclasses.replace(self, classes=classes, name=name or f"{self.name}-x{load:g}")

    def to_dict(self) -> dict[str, Any]:
        """Plain data in the form of an instance file; :meth:`from_dict` reads it back."""
        return _plain_table(self)

    @classmethod
    def from_dict(
        cls, data: Mapping[str, Any], source: str = "instance", folder: str | Path = ""
    ) -> Instance:
        """Build an instance from plain data; unknown or missing keys are rejected by name.

        Args:
            data: in the form of an instance file; ``hardware`` is a table or the path of a
                hardware file.
            source: what the data is, for messages.
            folder: where a relative path of a hardware file starts.
        """
        top = _checked(data, cls, source)
        if isinstance(top["hardware"], str):
            top["hardware"] = _plain_table(load_hardware(Path(folder) / top["hardware"]))
        if not isinstance(top["classes"], (list, tuple)):
            raise ConfigurationError(f"{source} classes", top["classes"], "a list of classes")
        top["classes"] = tuple(
            _request_class(c, f"{source} classes[{k}]") for k, c in enumerate(top["classes"])
        )
        for key, kind in (("hardware", Hardware), ("prices", Prices)):
            top[key] = kind(**_checked(top[key], kind, f"{source} {key}"))
        if top.get("modulation") is not None:
            table = _checked(top["modulation"], ArrivalModulation, f"{source} modulation")
            top["modulation"] = ArrivalModulation(**table)
        return cls(**top)

    def save(self, path: str | Path) -> None:
        """Write an instance file, JSON or TOML by its ending."""
        write_table(self.to_dict(), Path(path))

    @classmethod
    def load(cls, path: str | Path) -> Instance:
        """Read an instance file, JSON or TOML by its ending."""
        path = Path(path)
        return cls.from_dict(read_table(path), source=path.name, folder=path.parent)


def _plain_table(owner: Any) -> dict[str, Any]:
    """A dataclass as plain data, without optional fields that have their default."""
    table = {}
    for field in dataclasses.fields(owner):
        value = getattr(owner, field.name)
        if field.default is not dataclasses.MISSING and value == field.default:
            continue
        table[field.name] = _plain_value(value)
    return table


def _plain_value(value: Any) -> Any:
    if isinstance(value, ObservedLengths):
        return value.to_dict()
    if dataclasses.is_dataclass(value):
        return _plain_table(value)
    if isinstance(value, tuple):
        return [_plain_value(item) for item in value]
    return value


def _request_class(data: Any, where: str) -> RequestClass:
    fields = _checked(data, RequestClass, where)
    for key in ("prompt_lengths", "output_lengths"):
        if key in fields:
            table = _checked(fields[key], LengthDistribution, f"{where} {key}")
            fields[key] = LengthDistribution(**table)
    if fields.get("observed_lengths") is not None:
        table = _checked(fields["observed_lengths"], ObservedLengths, f"{where} observed_lengths")
        fields["observed_lengths"] = ObservedLengths(**table)
    if fields.get("arrival_profile") is not None:
        table = _checked(fields["arrival_profile"], ArrivalProfile, f"{where} arrival_profile")
        fields["arrival_profile"] = ArrivalProfile(**table)
    return RequestClass(**fields)


def _checked(data: Any, cls: type, where: str) -> dict[str, Any]:
    """The mapping as keyword arguments of a dataclass: every key known, none missing."""
    fields = dataclasses.fields(cls)
    allowed = [f.name for f in fields]
    if not isinstance(data, Mapping):
        raise ConfigurationError(where, data, f"a table with the keys {', '.join(allowed)}")
    for key in data:
        if key not in allowed:
            raise ConfigurationError(
                f"{where}: unknown key", key, ", ".join(allowed), "remove it or correct its name"
            )
    for key in (f.name for f in fields if f.default is dataclasses.MISSING):
        if key not in data:
            raise ConfigurationError(
                f"{where}: missing key {key!r}, keys", sorted(map(str, data)), ", ".join(allowed)
            )
    return dict(data)
