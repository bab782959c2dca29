"""Describe the machine and versions that measured speeds depend on."""

from __future__ import annotations

import platform
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

_PACKAGES = ("numpy", "numba", "gymnasium", "simpy", "ciw")


def machine() -> dict[str, str]:
    """CPU, system and versions; packages that are not installed are left out."""
    described = {
        "cpu": _cpu_model(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }
    installed = (package for package in _PACKAGES if find_spec(package) is not None)
    return described | {package: version(package) for package in installed}


def _cpu_model() -> str:
    """The processor's name, as the system gives it."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
