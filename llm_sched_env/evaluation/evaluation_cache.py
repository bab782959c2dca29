"""Cache of finished evaluations, keyed by a hash of everything that decides the result."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llm_sched_env.evaluation.ray_cluster import installation_digest
from llm_sched_env.evaluation.results import Evaluation
from llm_sched_env.files.records import from_plain, to_plain
from llm_sched_env.files.result_cache import read_result, result_key, store_result, unusable

_KIND = "evaluation"


def evaluation_file(folder: Path, actors: Sequence[Any], content: Any) -> Path | None:
    """Where an evaluation lies once it is finished; None if it cannot be known again.

    Args:
        folder: of finished evaluations.
        actors: the policy and the service levels. Of an object of another package, or of a name,
            the sources that decide what it does are unknown here.
        content: everything else that decides the result; what pickle takes.
    """
    if not all(type(actor).__module__.startswith("llm_sched_env.") for actor in actors):
        return None
    import joblib

    key = result_key([installation_digest(), joblib.hash((actors, content), "sha1")])
    return folder / f"{key}.json"


def read_evaluation(file: Path | None) -> Evaluation | None:
    """The result, or None where it is not finished.

    Raises:
        ConfigurationError: for a file that is damaged, or was written for another evaluation.
    """
    kept = read_result(file, _KIND) if file is not None else None
    if file is None or kept is None:
        return None
    if kept.of != file.stem:
        raise unusable(file, _KIND, "it is the result of another evaluation")
    try:
        result: Evaluation = from_plain(Evaluation, kept.result, "evaluation")
    except ValueError as error:
        raise unusable(file, _KIND, error) from None
    return result


def store_evaluation(file: Path | None, result: Evaluation) -> None:
    """Keep a finished evaluation where it can be known again."""
    if file is not None:
        store_result(file, _KIND, file.stem, to_plain(Evaluation, result))
