"""Find trace files on this machine; they are never shipped."""

from __future__ import annotations

import os
from pathlib import Path

DATA_VARIABLE = "LLM_SCHED_DATA"
AZURE_2023_FILES = ("AzureLLMInferenceTrace_conv.csv", "AzureLLMInferenceTrace_code.csv")


def data_folders() -> list[Path]:
    """Folders that may hold data: $LLM_SCHED_DATA, ./data, ../shared/data."""
    named = os.environ.get(DATA_VARIABLE)
    folders = [Path("data"), Path("../shared/data")]
    return [Path(named), *folders] if named else folders


def find_azure_2023() -> list[Path]:
    """Paths of the conversation and code traces, or an empty list."""
    for folder in data_folders():
        paths = [folder / name for name in AZURE_2023_FILES]
        if all(path.is_file() for path in paths):
            return paths
    return []
