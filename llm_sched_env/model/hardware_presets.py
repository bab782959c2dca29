"""Hardware files that come with the package, by name.

``python -m research hardware-presets`` fits them anew to the measurements and checks them.
"""

from __future__ import annotations

from pathlib import Path

HARDWARE_PRESETS: dict[str, str] = {
    "h100-llama3-8b-b32": "H100, Llama-3-8B shape, whole engine, B = 32, C = 512",
    "h100-llama3-8b-b64": "H100, Llama-3-8B shape, whole engine, B = 64, C = 1024",
    "h100-llama3-8b-b128": "H100, Llama-3-8B shape, GPU time alone, B = 128, C = 1024",
    "a100-llama3-8b": "A100, Llama-3-8B, linear operators alone, B = 64, C = 1024",
    "a100-llama2-7b": "A100, Llama-2-7B, linear operators alone, B = 64, C = 1024",
    "h100-llama2-7b": "H100, Llama-2-7B, linear operators alone, B = 48, C = 1024",
}
"""What each of them was measured on."""
HARDWARE_FOLDER = Path(__file__).parent / "measured_hardware"


def hardware_path(name: str | Path, folder: str | Path = "") -> Path:
    """The file of a preset, or the path itself, from a folder if it is relative."""
    if isinstance(name, str) and name in HARDWARE_PRESETS:
        return HARDWARE_FOLDER / f"{name}.toml"
    return Path(folder) / name
