"""Groups of GPUs: hardware of several kinds in one cluster, each with a share of its GPUs."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from llm_sched_env.errors import ConfigurationError, is_finite_number, one_of
from llm_sched_env.model.hardware import Hardware, load_hardware
from llm_sched_env.model.hardware_presets import hardware_path
from llm_sched_env.model.plain_tables import checked_table, plain_table

ROLES = ("mixed", "prefill", "decode")
# Shares that add up to 1 up to this much do: thirds are written with a few digits.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class GpuGroup:
    """GPUs of one kind.

    Args:
        name: of the group.
        hardware: of each of its GPUs.
        share: of the cluster's GPUs.
        role: ``mixed``, ``prefill`` (no decodes) or ``decode`` (no prefills).
        link_tokens: tokens per second over a GPU's outgoing link; infinite: moves are free. Known
            to the accounting program alone.

    Raises:
        ConfigurationError: for a share, role or link that cannot be.

    Example:
        >>> from llm_sched_env.model.hardware import load_hardware
        >>> group = GpuGroup("a100", load_hardware("a100-llama2-7b"), 0.6, role="decode")
        >>> group.share, group.hardware.batch_slots
        (0.6, 64)
    """

    name: str
    hardware: Hardware
    share: float = 1.0
    role: str = "mixed"
    link_tokens: float = math.inf

    def __post_init__(self) -> None:
        at = f"group {self.name!r} "
        if not isinstance(self.name, str) or not self.name.strip():
            raise ConfigurationError("group name", self.name, "a non-empty text")
        if not isinstance(self.hardware, Hardware):
            raise ConfigurationError(at + "hardware", self.hardware, "a Hardware")
        if not is_finite_number(self.share, positive=True) or self.share > 1.0:
            raise ConfigurationError(at + "share", self.share, "a number in (0, 1]")
        if not isinstance(self.role, str) or self.role not in ROLES:
            raise ConfigurationError(at + "role", self.role, one_of(ROLES))
        if not self.link_tokens >= 0.0:
            raise ConfigurationError(at + "link", self.link_tokens, "tokens per second >= 0")

    def to_dict(self) -> dict[str, Any]:
        """Plain data in the form of an instance file."""
        return plain_table(self)


@dataclass(frozen=True)
class Fleet:
    """The groups of a cluster, in place of one :class:`Hardware`.

    A prefilled request may decode in any group; its move is free and instant. What asks a fleet
    for a value of one kind of GPU, such as ``chunk_tokens``, gets a ConfigurationError.

    Args:
        groups: with shares that add up to 1.

    Raises:
        ConfigurationError: for groups that cannot serve a request, or with a limit of KV tokens.

    Example:
        >>> from llm_sched_env.model.hardware import load_hardware
        >>> fleet = Fleet(
        ...     (
        ...         GpuGroup("h100", load_hardware("h100-llama2-7b"), 0.4),
        ...         GpuGroup("a100", load_hardware("a100-llama2-7b"), 0.6),
        ...     )
        ... )
        >>> fleet.sizes(8).tolist()
        [3, 5]
    """

    groups: tuple[GpuGroup, ...]

    def __post_init__(self) -> None:
        groups = self.groups
        if not isinstance(groups, (list, tuple)) or not all(
            isinstance(group, GpuGroup) for group in groups
        ):
            raise ConfigurationError("groups", groups, "a sequence of GpuGroup")
        object.__setattr__(self, "groups", tuple(groups))
        if not groups:
            raise ConfigurationError("groups", (), "at least one group of GPUs")
        names = [group.name for group in groups]
        if len(set(names)) < len(names):
            raise ConfigurationError("group names", names, "names that are all different")
        shares = [group.share for group in groups]
        if abs(math.fsum(shares) - 1.0) > _ROUNDING:
            raise ConfigurationError(
                "shares of the groups", shares, "shares that add up to 1", "scale them"
            )
        self._check_roles()
        for group in groups:
            if group.hardware.kv_tokens is not None:
                raise ConfigurationError(
                    f"group {group.name!r} kv_tokens",
                    group.hardware.kv_tokens,
                    "none",
                    "only a cluster of one kind of GPU may have a limit of KV tokens",
                )
            if math.isfinite(group.link_tokens):
                raise ConfigurationError(
                    f"group {group.name!r} link", group.link_tokens, "none: moves are free"
                )

    def _check_roles(self) -> None:
        roles = [group.role for group in self.groups]
        for needed, other in (("prefill", "decode"), ("decode", "prefill")):
            if all(role == other for role in roles):
                raise ConfigurationError(
                    "roles of the groups", roles, f"a group that can {needed}, mixed or {needed}"
                )

    def __getattr__(self, name: str) -> Any:
        if name in _OF_ONE_KIND:
            self.refuse(f"hardware {name}")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def refuse(self, what: str = "hardware") -> NoReturn:
        """Raise ConfigurationError: what knows one kind of GPU only."""
        raise ConfigurationError(
            what,
            f"{len(self.groups)} groups of GPUs ({', '.join(g.name for g in self.groups)})",
            "one kind of GPU",
            "this does not know groups; use an instance with one hardware",
        )

    @property
    def kv_tokens(self) -> None:
        """No limit."""
        return None

    def sizes(self, n_gpus: int) -> np.ndarray:
        """GPUs of each group among n, by largest remainder; int64, shape (G,).

        Raises:
            ConfigurationError: if a group would get none.
        """
        sizes = _largest_remainders([group.share for group in self.groups], n_gpus)
        if not sizes.all():
            needed = n_gpus
            while not _largest_remainders([g.share for g in self.groups], needed).all():
                needed += 1
            left_out = [g.name for g, size in zip(self.groups, sizes, strict=True) if size == 0]
            raise ConfigurationError(
                "n_gpus", n_gpus, f"at least {needed}", f"group {left_out[0]!r} would have none"
            )
        return sizes

    def of_size(self, n_gpus: int) -> Fleet:
        """The fleet whose shares are those that its groups have among n GPUs."""
        sizes = self.sizes(n_gpus)
        groups = zip(self.groups, sizes.tolist(), strict=True)
        return Fleet(tuple(dataclasses.replace(g, share=size / n_gpus) for g, size in groups))

    def to_dict(self) -> dict[str, Any]:
        """Plain data; an instance file has its ``groups``."""
        return {"groups": [group.to_dict() for group in self.groups]}

    @classmethod
    def from_list(cls, data: Any, source: str, folder: str | Path = "") -> Fleet:
        """Build a fleet from the ``groups`` of an instance file.

        Args:
            data: a list of tables; ``hardware`` is a table, a file or the name of a preset.
            source: what the data is, for messages.
            folder: where a relative path of a hardware file starts.
        """
        if not isinstance(data, (list, tuple)):
            raise ConfigurationError(f"{source} groups", data, "a list of groups")
        return cls(tuple(_group(g, f"{source} groups[{k}]", folder) for k, g in enumerate(data)))


_OF_ONE_KIND = frozenset(
    [field.name for field in dataclasses.fields(Hardware)]
    + [name for name in vars(Hardware) if not name.startswith("_")]
) - {"kv_tokens"}


def _group(data: Any, where: str, folder: str | Path) -> GpuGroup:
    table = checked_table(data, GpuGroup, where, hidden=("link_tokens",))
    return GpuGroup(**{**table, "hardware": hardware_of(table["hardware"], where, folder)})


def hardware_of(data: Any, source: str, folder: str | Path) -> Hardware:
    """The hardware of a table, a file or the name of a preset."""
    if isinstance(data, str):
        return load_hardware(hardware_path(data, folder))
    return Hardware.from_dict(data, f"{source} hardware")


def _largest_remainders(shares: list[float], n: int) -> np.ndarray:
    """Whole numbers of sum n nearest to the shares; ties go to the first."""
    exact = n * np.array(shares) / math.fsum(shares)
    sizes = np.floor(exact + _ROUNDING * 1e-3).astype(np.int64)
    order = np.argsort(sizes - exact, kind="stable")
    sizes[order[: n - sizes.sum()]] += 1
    return sizes
