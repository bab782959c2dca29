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
from llm_sched_env.model.conversations import Sessions, SharedPrefix
from llm_sched_env.model.deadlines import Deadlines
from llm_sched_env.model.fleet import Fleet, GpuGroup, hardware_of
from llm_sched_env.model.hardware import Hardware, load_hardware
from llm_sched_env.model.length_distributions import (
    EXPONENTIAL,
    LengthDistribution,
    ObservedLengths,
)
from llm_sched_env.model.length_moments import mean_whole_chunks
from llm_sched_env.model.plain_tables import check_number, checked_table, plain_table

__all__ = ["Deadlines", "Hardware", "Instance", "Prices", "RequestClass", "load_hardware"]


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
        decode_iterations: mean iterations of a decode under whole iterations, likewise.
        deadlines: what a completed request must keep to be good; None: every one is.
        sessions: how requests are turns of conversations; None: each stands alone.
        shared_prefix: texts that prompts begin with; None: prompts have nothing in common.

    Example:
        >>> chat = RequestClass(
        ...     "chat", prompt_tokens=300, output_tokens=400, arrival_rate=0.5, patience_rate=0.1
        ... )
        >>> chat.arrival_rate
        0.5
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
    decode_iterations: float | None = None
    deadlines: Deadlines | None = None
    sessions: Sessions | None = None
    shared_prefix: SharedPrefix | None = None

    def __post_init__(self) -> None:
        _require_name("class name", self.name)
        at = f"class {self.name!r}: "
        remedies = {
            "arrival_rate": "give requests per second and GPU",
            "patience_rate": "use 0 for requests that never leave",
        }
        for name in ("prompt_tokens", "output_tokens"):
            check_number(self, name, at + name, positive=True)
        for name, remedy in remedies.items():
            check_number(self, name, at + name, remedy=remedy)
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
        for name in ("prefill_iterations", "decode_iterations"):
            if getattr(self, name) is not None:
                check_number(self, name, at + name)
        if self.deadlines is not None and not isinstance(self.deadlines, Deadlines):
            raise ConfigurationError(at + "deadlines", self.deadlines, "a Deadlines")
        self._check_shared(at)

    def _check_shared(self, at: str) -> None:
        """Conversations and shared prefixes, which need lengths of distributions."""
        for name, kind in (("sessions", Sessions), ("shared_prefix", SharedPrefix)):
            given = getattr(self, name)
            if given is None:
                continue
            if not isinstance(given, kind):
                raise ConfigurationError(at + name, given, f"a {kind.__name__}")
            for other in ("observed_lengths", "arrival_profile"):
                if getattr(self, other) is not None:
                    raise ConfigurationError(at + name, given, f"none with {other}", "drop one")

    @property
    def shares_prefixes(self) -> bool:
        """Whether its requests have blocks in common."""
        return self.sessions is not None or self.shared_prefix is not None

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
            return float(np.ceil((prompts - self.observed_lengths.reused) / chunk_tokens).mean())
        return mean_whole_chunks(self.prompt_lengths, self.prompt_tokens, chunk_tokens)

    @property
    def prefill_tokens(self) -> float:
        """Mean prompt tokens that a prefill computes: those that observed lengths do not reuse."""
        if self.observed_lengths is None or self.observed_lengths.reused_tokens is None:
            return self.prompt_tokens
        return self.prompt_tokens - float(self.observed_lengths.reused_tokens.mean())

    def mean_decode_iterations(self) -> float:
        """Mean iterations E[ceil(D)] of a decode that takes whole ones."""
        if self.decode_iterations is not None:
            return self.decode_iterations
        if self.observed_lengths is not None:
            return float(np.ceil(self.observed_lengths.output_tokens).mean())
        return mean_whole_chunks(self.output_lengths, self.output_tokens, 1)


@dataclass(frozen=True)
class Prices:
    """Revenue per prompt token and per output token, in the same currency.

    Example:
        >>> Prices(prefill=0.1, decode=0.2).decode
        0.2
    """

    prefill: float
    decode: float

    def __post_init__(self) -> None:
        check_number(self, "prefill", "prices prefill")
        check_number(self, "decode", "prices decode")
        if self.prefill == 0 and self.decode == 0:
            raise ConfigurationError(
                "prices", (self.prefill, self.decode), "at least one price > 0"
            )


@dataclass(frozen=True)
class Instance:
    """Classes, hardware and prices of one benchmark problem; independent of the cluster size.

    Rates (4), all per second and request: ``prefill_rates`` mu_p = C / (P tau_mix), with whole
    chunks 1 / (E[ceil(P/C)] tau_mix), ``mixed_decode_rates`` mu_m = 1 / (D tau_mix),
    ``solo_decode_rates`` mu_s = gamma / D, each an array of shape (I,); with whole iterations
    E[ceil(D)] is in place of D. ``modulation`` multiplies the arrival rates of all classes; None:
    no bursts.

    Example:
        >>> from llm_sched_env.presets import base
        >>> twice = base().scaled(2.0)
        >>> twice.name, twice.n_classes, twice.classes[0].arrival_rate
        ('base-x2', 2, 1.0)
        >>> Instance.from_dict(twice.to_dict()) == twice
        True
    """

    name: str
    classes: tuple[RequestClass, ...]
    hardware: Hardware | Fleet
    prices: Prices
    modulation: ArrivalModulation | None = None

    def __post_init__(self) -> None:
        _require_name("instance name", self.name)
        if not isinstance(self.hardware, (Hardware, Fleet)):
            raise ConfigurationError("hardware", self.hardware, "a Hardware or a Fleet")
        if isinstance(self.hardware, Fleet) and self.hardware.is_one_kind:
            object.__setattr__(self, "hardware", self.hardware.groups[0].hardware)
        if not isinstance(self.prices, Prices):
            raise ConfigurationError("prices", self.prices, "a Prices")
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
        self._check_modulation()

    def _check_modulation(self) -> None:
        """Bursts of all classes, none of which has conversations: these are drawn otherwise."""
        if self.modulation is None:
            return
        if not isinstance(self.modulation, ArrivalModulation):
            raise ConfigurationError("modulation", self.modulation, "an ArrivalModulation")
        self.modulation.relative_rates(len(self.classes))
        if not self.shares_prefixes:
            return
        raise ConfigurationError(
            "modulation", self.modulation, "none with sessions or shared_prefix", "drop it"
        )

    def _per_class(self, field: str) -> np.ndarray:
        return np.array([getattr(c, field) for c in self.classes], dtype=float)

    @property
    def n_classes(self) -> int:
        """The number of classes I."""
        return len(self.classes)

    @property
    def groups(self) -> tuple[GpuGroup, ...]:
        """The groups of GPUs; one, "all", where all GPUs are of one kind."""
        if isinstance(self.hardware, Fleet):
            return self.hardware.groups
        return (GpuGroup("all", self.hardware),)

    @property
    def has_links(self) -> bool:
        """Whether the move of a prefilled request to another GPU takes time."""
        return isinstance(self.hardware, Fleet) and self.hardware.has_links

    @property
    def only_hardware(self) -> Hardware:
        """The hardware of all GPUs; raises ConfigurationError if they are of several kinds."""
        if isinstance(self.hardware, Fleet):
            self.hardware.refuse()
        return self.hardware

    def group_sizes(self, n_gpus: int) -> np.ndarray:
        """GPUs of each group among n; int64, shape (G,); raises ConfigurationError if too few."""
        if isinstance(self.hardware, Fleet):
            return self.hardware.sizes(n_gpus)
        return np.array([n_gpus])

    def of_size(self, n_gpus: int) -> Instance:
        """The instance for n GPUs: groups have whole GPUs; itself with one kind of GPU."""
        if not isinstance(self.hardware, Fleet):
            return self
        return dataclasses.replace(self, hardware=self.hardware.of_size(n_gpus))

    def on_group(self, group: GpuGroup) -> Instance:
        """The same requests on GPUs of one kind, those of a group."""
        return dataclasses.replace(self, hardware=group.hardware)

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
    def has_deadlines(self) -> bool:
        """Whether any class has deadlines."""
        return any(c.deadlines is not None for c in self.classes)

    @property
    def shares_prefixes(self) -> bool:
        """Whether requests of any class have blocks in common."""
        return any(c.shares_prefixes for c in self.classes)

    @property
    def has_caches(self) -> bool:
        """Whether any GPU keeps blocks of prompts for reuse."""
        return any(group.hardware.cache_tokens is not None for group in self.groups)

    @property
    def deadlines(self) -> np.ndarray:
        """Greatest good TTFT, s, and TPOT, s per token, inf without a bound; shape (2, I)."""
        free = (np.inf, np.inf)
        limits = [free if c.deadlines is None else c.deadlines.limits for c in self.classes]
        return np.array(limits, dtype=float).T

    @property
    def prefill_rates(self) -> np.ndarray:
        """Prefill rates mu_p, 1/s; shape (I,)."""
        _, mixed = self.full_batch_seconds
        if self.hardware.whole_chunks:
            chunks = [c.mean_prefill_iterations(self.hardware.chunk_tokens) for c in self.classes]
            return 1.0 / (np.array(chunks) * mixed)
        return self.hardware.chunk_tokens / (self._per_class("prefill_tokens") * mixed)

    @property
    def mixed_decode_rates(self) -> np.ndarray:
        """Decode rates on a mixed GPU mu_m, 1/s; shape (I,)."""
        return 1.0 / (self.decode_iterations * self.full_batch_seconds[1])

    @property
    def solo_decode_rates(self) -> np.ndarray:
        """Decode rates on a solo GPU mu_s, 1/s; shape (I,)."""
        if self.hardware.iteration_law == "kv-aware":
            return 1.0 / (self.decode_iterations * self.full_batch_seconds[0])
        return self.hardware.gamma / self.decode_iterations

    @property
    def decode_iterations(self) -> np.ndarray:
        """Mean iterations of a decode: D, or E[ceil(D)] where iterations are whole; shape (I,)."""
        if self.hardware.whole_iterations:
            return np.array([c.mean_decode_iterations() for c in self.classes])
        return self.output_tokens

    @property
    def mean_context(self) -> float:
        """Tokens that a decode attends to, P + D/2 on average over the decodes of all classes."""
        weights = self.arrival_rates * self.output_tokens
        return float(weights @ (self.prompt_tokens + self.output_tokens / 2.0) / weights.sum())

    @property
    def full_batch_seconds(self) -> tuple[float, float]:
        """Seconds of a solo iteration of B decodes and of a mixed one of a chunk and B - 1.

        With contexts of their mean; at two speeds, and under the affine law, 1/gamma and tau_mix.
        """
        hardware = self.hardware
        solo, mixed = hardware.solo, hardware.mixed
        if solo is None or mixed is None:
            return hardware.tau_solo, hardware.tau_mixed
        slots, context = hardware.batch_slots, self.mean_context
        beside = slots - 1
        return (
            solo.time(slots, slots * context),
            mixed.time(hardware.chunk_tokens, 0.0, beside, beside * context),
        )

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
        table = plain_table(self)
        if isinstance(self.hardware, Fleet):
            table |= table.pop("hardware")
        return table

    @classmethod
    def from_dict(
        cls, data: Mapping[str, Any], source: str = "instance", folder: str | Path = ""
    ) -> Instance:
        """Build an instance from plain data; unknown or missing keys are rejected by name.

        Args:
            data: in the form of an instance file; ``hardware`` is a table, the path of a
                hardware file or the name of a preset; ``groups`` is a list of tables in its place.
            source: what the data is, for messages.
            folder: where a relative path of a hardware file starts.
        """
        top = checked_table(_with_fleet(data, source, folder), cls, source)
        if not isinstance(top["classes"], (list, tuple)):
            raise ConfigurationError(f"{source} classes", top["classes"], "a list of classes")
        top["classes"] = tuple(
            _request_class(c, f"{source} classes[{k}]") for k, c in enumerate(top["classes"])
        )
        if not isinstance(top["hardware"], Fleet):
            top["hardware"] = hardware_of(top["hardware"], source, folder)
        top["prices"] = Prices(**checked_table(top["prices"], Prices, f"{source} prices"))
        if top.get("modulation") is not None:
            table = checked_table(top["modulation"], ArrivalModulation, f"{source} modulation")
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


def _with_fleet(data: Any, source: str, folder: str | Path) -> Any:
    """The data with its ``groups``, if any, in the place of ``hardware``."""
    if not isinstance(data, Mapping):
        return data
    if "groups" not in data:
        if "link" in data:
            raise ConfigurationError(
                f"{source} link",
                data["link"],
                "groups of GPUs beside it",
                "remove it: moves are free",
            )
        return data
    if "hardware" in data:
        raise ConfigurationError(
            f"{source} keys", ["groups", "hardware"], "one of them", "a group has its own hardware"
        )
    fleet = Fleet.from_list(data["groups"], source, folder, data.get("link"))
    rest = {key: value for key, value in data.items() if key not in ("groups", "link")}
    return rest | {"hardware": fleet}


def _request_class(data: Any, where: str) -> RequestClass:
    fields = checked_table(data, RequestClass, where)
    for key in ("prompt_lengths", "output_lengths"):
        if key in fields:
            table = checked_table(fields[key], LengthDistribution, f"{where} {key}")
            fields[key] = LengthDistribution(**table)
    if fields.get("observed_lengths") is not None:
        table = checked_table(
            fields["observed_lengths"], ObservedLengths, f"{where} observed_lengths"
        )
        fields["observed_lengths"] = ObservedLengths(**table)
    if fields.get("arrival_profile") is not None:
        table = checked_table(fields["arrival_profile"], ArrivalProfile, f"{where} arrival_profile")
        fields["arrival_profile"] = ArrivalProfile(**table)
    if fields.get("deadlines") is not None:
        table = checked_table(fields["deadlines"], Deadlines, f"{where} deadlines")
        fields["deadlines"] = Deadlines(**table)
    for key, kind in (("sessions", Sessions), ("shared_prefix", SharedPrefix)):
        if fields.get(key) is not None:
            fields[key] = kind(**checked_table(fields[key], kind, f"{where} {key}"))
    return RequestClass(**fields)
