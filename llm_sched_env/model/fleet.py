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
from llm_sched_env.model.link import Link
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
        link: from each of its GPUs to all others, for requests that decode elsewhere than they
            were prefilled; None: their moves are free and instant.

    Raises:
        ConfigurationError: for a share or role that cannot be.

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
    link: Link | None = None

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
        if self.link is not None and not isinstance(self.link, Link):
            raise ConfigurationError(at + "link", self.link, "a Link, or None")

    def to_dict(self) -> dict[str, Any]:
        """Plain data in the form of an instance file."""
        return plain_table(self)


@dataclass(frozen=True)
class Fleet:
    """The groups of a cluster, in place of one :class:`Hardware`.

    A prefilled request may decode in any group; its move takes the time of the link of the GPU
    that it leaves. What asks a fleet for a value of one kind of GPU, such as ``chunk_tokens``, gets
    a ConfigurationError.

    Args:
        groups: with shares that add up to 1.

    Raises:
        ConfigurationError: for groups that cannot serve a request, or with limits of KV tokens
            that differ.

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
            if group.hardware.kv_tokens != self.kv_tokens:
                raise ConfigurationError(
                    f"group {group.name!r} kv_tokens",
                    group.hardware.kv_tokens,
                    f"{self.kv_tokens}, as group {groups[0].name!r} has",
                    "give all groups the same limit",
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
    def kv_tokens(self) -> int | None:
        """KV tokens that fit on each GPU, the same in all groups; None: no limit."""
        return self.groups[0].hardware.kv_tokens

    @property
    def is_one_kind(self) -> bool:
        """Whether this is one :class:`Hardware` by another name: one group, free moves."""
        return len(self.groups) == 1 and not self.has_links

    @property
    def has_links(self) -> bool:
        """Whether moves take time."""
        return any(group.link is not None for group in self.groups)

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
        """Plain data: the ``groups`` of an instance file and, if they share it, the ``link``."""
        tables = [group.to_dict() for group in self.groups]
        links = [table.get("link") for table in tables]
        if links[0] is None or any(link != links[0] for link in links):
            return {"groups": tables}
        groups = [{key: table[key] for key in table if key != "link"} for table in tables]
        return {"groups": groups, "link": links[0]}

    @classmethod
    def from_list(cls, data: Any, source: str, folder: str | Path = "", link: Any = None) -> Fleet:
        """Build a fleet from the ``groups`` of an instance file.

        Args:
            data: a list of tables; ``hardware`` is a table, a file or the name of a preset.
            source: what the data is, for messages.
            folder: where a relative path of a hardware file starts.
            link: the table ``link`` of groups that have none of their own; None: no link.
        """
        if not isinstance(data, (list, tuple)):
            raise ConfigurationError(f"{source} groups", data, "a list of groups")
        shared = None if link is None else Link.from_dict(link, f"{source} link")
        groups = [_group(g, f"{source} groups[{k}]", folder) for k, g in enumerate(data)]
        return cls(
            tuple(g if g.link is not None else dataclasses.replace(g, link=shared) for g in groups)
        )


_OF_ONE_KIND = frozenset(
    [field.name for field in dataclasses.fields(Hardware)]
    + [name for name in vars(Hardware) if not name.startswith("_")]
) - {"kv_tokens"}


def _group(data: Any, where: str, folder: str | Path) -> GpuGroup:
    table = checked_table(data, GpuGroup, where)
    if table.get("link") is not None:
        table["link"] = Link.from_dict(table["link"], f"{where} link")
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
