"""Which evaluations are finished? One file each, named by a hash of all that decides its result."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llm_sched_env.errors import ConfigurationError
from llm_sched_env.ray_cluster import installation_digest
from llm_sched_env.results import Evaluation
from llm_sched_env.whole_files import write_whole


def evaluation_file(folder: Path, actors: Sequence[Any], content: Any) -> Path | None:
    """Where an evaluation lies once it is finished; None if it cannot be known again.

    Args:
        folder: of finished evaluations.
        actors: the policy and the service levels. Of an object of another package, or of a name,
            nobody knows here which sources decide what it does.
        content: everything else that decides the result; what pickle takes.
    """
    if not all(type(actor).__module__.startswith(f"{__package__}.") for actor in actors):
        return None
    import joblib

    key = f"{installation_digest()} {joblib.hash((actors, content), 'sha1')}"
    return folder / f"{hashlib.sha256(key.encode()).hexdigest()}.pickle"


def read_evaluation(file: Path | None) -> Evaluation | None:
    """The result, or None where it is not finished."""
    if file is None or not file.exists():
        return None
    try:
        result = pickle.loads(file.read_bytes())
    except (pickle.UnpicklingError, EOFError, AttributeError) as error:
        raise ConfigurationError(
            "kept evaluation", str(file), "what `llmsched compare` wrote", f"remove it ({error})"
        ) from None
    assert isinstance(result, Evaluation)
    return result


def keep_evaluation(file: Path | None, result: Evaluation) -> None:
    """Keep a finished evaluation where it can be known again."""
    if file is not None:
        write_whole(file, pickle.dumps(result))
