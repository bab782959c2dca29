"""The native vector form of ``LLMSched-v0``: N clusters advanced in one compiled call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from llm_sched_env.envs.configuration import IntervalConfiguration
from llm_sched_env.envs.interval import IntervalControl, IntervalReport
from llm_sched_env.envs.interval_env import chosen_start, episode_seed
from llm_sched_env.errors import ConfigurationError, LLMSchedError, checked_integer
from llm_sched_env.instance import Instance
from llm_sched_env.simulation.row_threads import available_processors

_LEAST_PER_THREAD = 8


class LLMSchedVectorEnv(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """N independent ``LLMSched-v0`` environments, each equal to a single one with its seed.

    Args:
        num_envs: N.
        autoreset_mode: ``NEXT_STEP`` (default), ``SAME_STEP`` or ``DISABLED``, by name or as
            :class:`gymnasium.vector.AutoresetMode`.
        threads: that advance the environments; default: one per processor, with at least
            8 environments each. Episodes do not depend on it.
        n_gpus: this and all further arguments as in
            :class:`llm_sched_env.envs.interval_env.LLMSchedEnv`.

    ``reset(seed=s)`` seeds environment k with s + k, as the vector environments of Gymnasium do.
    """

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012 - as Gymnasium has it

    def __init__(
        self,
        num_envs: int = 1,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        threads: int | None = None,
        n_gpus: int = 20,
        instance: Instance | str | Path | dict[str, Any] = "base",
        pricing: str = "bundled",
        interval: float = 1.0,
        horizon: float = 300.0,
        gate: str = "credit",
        router: str = "randomized",
        pools: str = "static",
        controls: str | Sequence[str] = "all",
        start: str = "empty",
    ) -> None:
        configuration = IntervalConfiguration.validated(
            instance, n_gpus, pricing, interval, horizon, gate, router, pools, controls, start
        )
        self.num_envs = checked_integer("num_envs", num_envs)
        self.autoreset_mode = _checked_mode(autoreset_mode)
        self.metadata = {"autoreset_mode": self.autoreset_mode}
        if threads is None:
            threads = max(1, min(available_processors(), self.num_envs // _LEAST_PER_THREAD))
        self.control = IntervalControl(configuration, self.num_envs, threads=threads)
        self.single_observation_space = self.control.observation_space
        self.single_action_space = self.control.action_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._generators = [seeding.np_random()[0] for _ in range(self.num_envs)]
        self._done = np.ones(self.num_envs, np.bool_)
        self._running = False

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode in every environment, or where ``options["reset_mask"]`` is True."""
        options = dict(options or {})
        mask = np.asarray(options.pop("reset_mask", np.ones(self.num_envs, np.bool_)))
        if mask.shape != (self.num_envs,) or mask.dtype != np.bool_:
            raise ConfigurationError("reset_mask", mask, f"booleans of shape ({self.num_envs},)")
        start = chosen_start(options)
        seeds = self._seeds(seed)
        for k in np.flatnonzero(mask).tolist():
            if seeds[k] is not None:
                self._generators[k] = seeding.np_random(seeds[k])[0]
            self.control.start(k, episode_seed(self._generators[k]), start)
        self._done[mask] = False
        self._running = True
        return self.control.observations(), self._infos(self.control.empty_report())

    def _seeds(self, seed: int | Sequence[int | None] | None) -> Sequence[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, (int, np.integer)):
            return [int(seed) + k for k in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise ConfigurationError("seed", list(seed), f"one seed or {self.num_envs} of them")
        return seed

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Hold each action for one interval; finished episodes follow the autoreset mode."""
        if not self._running:
            raise LLMSchedError("step: got no running episode, allowed is after reset(); reset()")
        finished = self._done
        if finished.any():
            return self._step_and_reset(actions)
        report = self.control.empty_report()
        self.control.step(actions, report)
        truncated = self.control.truncated()
        infos = self._infos(report)
        observations = report.observations
        if self.autoreset_mode is not AutoresetMode.SAME_STEP:
            self._done = truncated.copy()
        elif truncated.any():
            observations, infos = self._reset_now(truncated, report, infos)
        return observations, report.rewards, self._never(), truncated, infos

    def _step_and_reset(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """NEXT_STEP: environments whose episode has ended are reset instead of stepped."""
        finished = self._done
        if self.autoreset_mode is AutoresetMode.DISABLED:
            raise LLMSchedError(
                f"step: got finished episodes {np.flatnonzero(finished).tolist()}, allowed are "
                'running ones; reset them with options={"reset_mask": ...}'
            )
        report = self.control.empty_report()
        # With none to step, an empty range still checks the actions.
        for first, last in _runs(~finished) or [(0, 0)]:
            self.control.step(actions, report, (first, last))
        for k in np.flatnonzero(finished).tolist():
            self.control.start(k, episode_seed(self._generators[k]))
            self.control.observe(report, (k, k + 1))
        truncated = self.control.truncated() & ~finished
        self._done = truncated.copy()
        return (
            report.observations,
            report.rewards,
            self._never(),
            truncated,
            self._infos(report),
        )

    def _reset_now(
        self, ended: np.ndarray, report: IntervalReport, infos: dict[str, Any]
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """SAME_STEP: new episodes at once; the last observations and infos go to ``final_*``."""
        final = np.full(self.num_envs, None, dtype=object)
        for k in np.flatnonzero(ended).tolist():
            final[k] = report.observations[k].copy()
            self.control.start(k, episode_seed(self._generators[k]))
            self.control.observe(report, (k, k + 1))
        fresh = self._infos(
            replace(
                report,
                terms=np.where(ended[:, None], 0.0, report.terms),
                arrivals=np.where(ended[:, None], 0, report.arrivals),
            )
        )
        fresh |= {
            "final_obs": final,
            "_final_obs": ended.copy(),
            "final_info": infos,
            "_final_info": ended.copy(),
        }
        return report.observations, fresh

    def _never(self) -> np.ndarray:
        """No episode terminates."""
        return np.zeros(self.num_envs, np.bool_)

    def _infos(self, report: IntervalReport) -> dict[str, Any]:
        every = np.ones(self.num_envs, np.bool_)
        return {
            "time": self.control.times(),
            "_time": every,
            "revenue": {
                "prompt": report.terms[:, 0].copy(),
                "_prompt": every,
                "output": report.terms[:, 1].copy(),
                "_output": every,
            },
            "_revenue": every,
            "arrivals": report.arrivals,
            "_arrivals": every,
        }


def _checked_mode(mode: str | AutoresetMode) -> AutoresetMode:
    if isinstance(mode, AutoresetMode):
        return mode
    try:
        return AutoresetMode[str(mode).upper()]
    except KeyError:
        names = ", ".join(m.name for m in AutoresetMode)
        raise ConfigurationError("autoreset_mode", mode, names) from None


def _runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """Maximal ranges of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(np.int8), [0]])))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
