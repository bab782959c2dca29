"""Write episodes of a policy as a Minari dataset, whole or not at all."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from llm_sched_env.errors import ConfigurationError, FileError, checked_integer
from llm_sched_env.evaluation.results import Estimate
from llm_sched_env.evaluation.versions import versions
from llm_sched_env.files.atomic import make_folder, whole_folder, write_whole
from llm_sched_env.model.instance import Instance
from llm_sched_env.offline.behaviour import (
    CONTROL_BY_TASK,
    Behaviour,
    behaviour,
    control_of,
    kind_of,
)
from llm_sched_env.offline.recording import Episode, episodes
from llm_sched_env.presets import resolve_instance

ROOT_VARIABLE = "MINARI_DATASETS_PATH"
_ID = re.compile(r"(?:[\w-]+/)*[\w-]+-v\d+")
_NAMESPACE_FILE = "namespace_metadata.json"


@dataclass(frozen=True)
class RecordedDataset:
    """A dataset that was written.

    Attributes:
        dataset_id: for ``minari.load_dataset``.
        path: its folder.
        policy: name of what acted.
        steps: of all episodes.
        episode_returns: sums of rewards, one for each episode.
    """

    dataset_id: str
    path: Path
    policy: str
    steps: int
    episode_returns: tuple[float, ...]

    @property
    def mean_return(self) -> Estimate:
        """The mean sum of rewards of an episode, with its 95% interval."""
        return Estimate.of(np.array(self.episode_returns))


def datasets_root(root: Path | str | None = None) -> Path:
    """Where Minari looks for datasets: as given, ``$MINARI_DATASETS_PATH``, or in the home."""
    named = os.environ.get(ROOT_VARIABLE) if root is None else root
    chosen = Path(named) if named else Path.home() / ".minari" / "datasets"
    return chosen.absolute()  # Minari measures no folder of a relative path


def record_dataset(
    dataset_id: str,
    task: str = "LLMSched-v0",
    policy: Any = "random",
    episode_count: int = 10,
    *,
    seed: int = 0,
    epsilon: float = 0.0,
    arguments: Mapping[str, Any] | None = None,
    root: Path | str | None = None,
    command: str = "",
    on_episode: Callable[[Episode], None] | None = None,
) -> RecordedDataset:
    """Let a policy act and write what it sees, does and earns.

    The same arguments write the same arrays. A dataset appears when it is whole: after an error,
    or a process that was killed, there is none under its name.

    Args:
        dataset_id: ``NAMESPACE/NAME-vN`` or ``NAME-vN``, a new one.
        task: id of an environment of this package.
        policy: as for :func:`.behaviour`.
        episode_count: how many episodes.
        seed: of all random numbers, >= 0.
        epsilon: probability of a random action instead of the policy's, each step anew.
        arguments: of the environment; what the policy's actions need is added where the task is
            one of :data:`.CONTROL_BY_TASK`.
        root: folder of datasets; default: :func:`datasets_root`.
        command: that makes the dataset, for its metadata.
        on_episode: called after each episode.

    Raises:
        ConfigurationError: for an argument that is not allowed.
        FileError: where the dataset exists, or cannot be written.

    Example:
        >>> import tempfile
        >>> small = {"n_gpus": 2, "horizon": 5.0}
        >>> with tempfile.TemporaryDirectory() as root:
        ...     written = record_dataset("small-v0", policy="plan", arguments=small, root=root)
        >>> written.steps, len(written.episode_returns)
        (50, 10)
    """
    if not isinstance(dataset_id, str) or not _ID.fullmatch(dataset_id):
        raise ConfigurationError("dataset id", dataset_id, "NAMESPACE/NAME-vN or NAME-vN")
    count = checked_integer("episodes", episode_count)
    checked_integer("seed", seed, least=0)
    place = datasets_root(root)
    folder = place / dataset_id
    if folder.exists():
        raise FileError(f"{folder}: this dataset exists; choose another name or version")
    env, acting = made_environment(task, policy, epsilon, arguments)
    about = {
        "dataset_id": dataset_id,
        "algorithm_name": acting.name,
        "description": f"{acting.name} in {task}",
        "seed": seed,
        "epsilon": epsilon,
        "instance": control_of(env).cluster.instance.to_dict(),
        "versions": versions("gymnasium", "minari", "h5py"),
        "command": command,
    }
    _make_namespaces(folder, place)
    written: list[tuple[int, float]] = []
    with whole_folder(folder) as part:
        storage = _storage(part / "data", env, about)
        for episode in episodes(env, acting, count, seed):
            storage.update_episodes([_buffer(episode)])
            written.append((len(episode.rewards), episode.total_reward))
            if on_episode is not None:
                on_episode(episode)
    env.close()
    return RecordedDataset(
        dataset_id,
        folder,
        acting.name,
        sum(steps for steps, _ in written),
        tuple(total for _, total in written),
    )


def made_environment(
    task: str, policy: Any, epsilon: float, arguments: Mapping[str, Any] | None
) -> tuple[gym.Env[Any, Any], Behaviour]:
    """The environment of a task and the policy that acts there.

    Raises:
        ConfigurationError: for a task or policy that does not exist, or that do not fit.
    """
    given = dict(arguments or {})
    if "instance" in given and not isinstance(given["instance"], str):
        given["instance"] = resolve_instance(given["instance"]).to_dict()
    elif "instance" in given and Path(given["instance"]).suffix:
        # A dataset outlives the file.
        given["instance"] = Instance.load(given["instance"]).to_dict()
    if task in CONTROL_BY_TASK:
        acting = behaviour(policy, CONTROL_BY_TASK[task], epsilon)
        env = _made(task, {**acting.environment, **given})
    else:
        env = _made(task, given)
        acting = behaviour(policy, kind_of(control_of(env)), epsilon)
    acting.require_meaning(env)
    return env, acting


def _made(task: str, arguments: dict[str, Any]) -> gym.Env[Any, Any]:
    try:
        return gym.make(task, **arguments)
    except gym.error.Error as error:
        known = ", ".join((*CONTROL_BY_TASK, "LLMSched/NAME-v0"))
        raise ConfigurationError("task", task, known, str(error)) from error
    except TypeError as error:
        reason = str(error)
        raise ConfigurationError("arguments of the task", arguments, "its own", reason) from error


def _storage(path: Path, env: gym.Env[Any, Any], about: dict[str, Any]) -> Any:
    """An empty dataset of Minari's with its metadata."""
    from minari import __version__ as minari_version
    from minari.dataset.minari_storage import MinariStorage

    space = env.action_space
    if isinstance(space, gym.spaces.Discrete):  # also those that sample possible actions only
        space = gym.spaces.Discrete(int(space.n))
    storage = MinariStorage.new(
        path,
        observation_space=env.observation_space,
        action_space=space,
        env_spec=env.spec,
        jpeg_encoding=False,
    )
    own = about["versions"]["llm-sched-env"]
    storage.update_metadata(
        {
            **about,
            "author": {"llm-sched-env"},
            "requirements": [f"llm-sched-env=={own}"],
            "minari_version": minari_version,
        }
    )
    return storage


def _buffer(episode: Episode) -> Any:
    from minari.data_collector import EpisodeBuffer

    fields = {f.name: getattr(episode, f.name) for f in dataclasses.fields(episode)}
    return EpisodeBuffer(**fields)


def _make_namespaces(folder: Path, root: Path) -> None:
    """The folders above a dataset, each known to Minari as a namespace."""
    make_folder(folder.parent)
    for above in folder.relative_to(root).parents:
        file = root / above / _NAMESPACE_FILE
        if above != Path() and not file.exists():
            write_whole(file, "{}")
