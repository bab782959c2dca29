"""Training studies: the variants at two sizes, and PPO at increasing scale, from a rule or scratch.

A cell is a training and its evaluation on long runs. What is finished stays, what was killed goes
on from its last checkpoint; a cell whose settings have changed is computed anew.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_sched_env.agents.checkpoint import Checkpoint
from llm_sched_env.agents.configuration import TrainingConfiguration
from llm_sched_env.agents.curve_files import write_curve
from llm_sched_env.agents.imitation import with_measured_interval
from llm_sched_env.agents.ppo import CHECKPOINT_NAME, train
from llm_sched_env.agents.trained_policy import TrainedPolicy
from llm_sched_env.agents.training_evaluation import PairedEvaluation
from llm_sched_env.agents.training_variants import VARIANTS, variant
from llm_sched_env.errors import ConfigurationError, one_of
from llm_sched_env.files.atomic import write_whole
from llm_sched_env.files.result_cache import read_result, store_result, unusable
from llm_sched_env.presets import resolve_instance

REPORT_SEED = 2_000_004
"""Of :func:`llm_sched_env.evaluate`: requests on which no weights were chosen."""
STUDIES = ("variants", "scale", "scratch")

_VARIANT_STEPS = 128_000
_VARIANT_GPUS = (5, 20)
_SCALE_INSTANCES = ("base", "overload", "dolly15k")
# About the same number of simulated GPU-seconds, where a cluster is more than a few GPUs.
_SCALE_STEPS = {5: 64_000, 20: 64_000, 50: 48_000, 200: 24_000, 500: 12_800}
# From scratch at every size; on other controls and around a rule, for comparison, at small ones.
_SCRATCH_VARIANTS = {"ppo": 500, "ppo-rates": 20, "ppo-residual": 20}
_SCRATCH_INSTANCE = "overload"
_SCRATCH_STEPS = {5: 128_000, 20: 128_000, 50: 96_000, 200: 48_000, 500: 32_000}
_SCRATCH_SEEDS = 5
_SCRATCH_EVALUATIONS = 10
_QUICK_STEPS = 6_400
# Decisions at events come many times a second, and nothing of them is compiled.
_EVENT_GPUS = 5
_EVENT_HORIZON = 400.0
_RESULT_NAME = "result.json"
_KIND = "training result"
_RESULT_KEYS = {
    "variant",
    "instance",
    "n_gpus",
    "seed",
    "steps",
    "seconds",
    "cpu_seconds",
    "weights_steps",
    "agent_bytes",
    "evaluations",
    "report",
    "versions",
}

Result = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """A training and how it is judged.

    Attributes:
        name: of its folder.
        variant: of variants.py.
        configuration: of the training.
        runs: of the evaluation at the end.
        warmup: seconds of such a run that are not measured.
        horizon: seconds of such a run, warm-up included.
    """

    name: str
    variant: str
    configuration: TrainingConfiguration
    runs: int
    warmup: float = 300.0
    horizon: float = 1300.0

    def settings(self) -> dict[str, Any]:
        """All that decides the result, as JSON holds it."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return plain


def cells(study: str, *, quick: bool, seed: int, scale_variant: str = "ppo-residual") -> list[Cell]:
    """The cells of a study in the order of the table; quick: a few thousand steps each."""
    if study == "variants":
        chosen = [
            (way.name, "overload", n, _VARIANT_STEPS)
            for n in _VARIANT_GPUS
            for way in VARIANTS
            # Routing is another task, for instances with prefix caches; constraints need budgets;
            # `scratch` has the rates.
            if "constraint" not in way.fields
            and way.name != "ppo-rates"
            and way.fields.get("control", "interval") != "routing"
            and (way.fields.get("control") != "event" or n <= _EVENT_GPUS)
        ]
    elif study == "scale":
        chosen = [
            (scale_variant, instance, n, steps)
            for instance in _SCALE_INSTANCES
            for n, steps in _SCALE_STEPS.items()
        ]
    elif study == "scratch":
        return [
            _seeded(way, n, steps, quick=quick, seed=seed + k)
            for n, steps in _SCRATCH_STEPS.items()
            for way, largest in _SCRATCH_VARIANTS.items()
            for k in range(_SCRATCH_SEEDS)
            if n <= largest
        ]
    else:
        raise ConfigurationError("study", study, one_of(STUDIES))
    return [_cell(*choice, quick=quick, seed=seed) for choice in chosen]


def _seeded(name: str, n_gpus: int, steps: int, *, quick: bool, seed: int) -> Cell:
    """One of several trainings that differ in their seeds."""
    cell = _cell(name, _SCRATCH_INSTANCE, n_gpus, steps, quick=quick, seed=seed)
    every = max(1, steps // cell.configuration.steps_per_update // _SCRATCH_EVALUATIONS)
    return dataclasses.replace(
        cell,
        name=f"{cell.name}-seed{seed}",
        configuration=dataclasses.replace(cell.configuration, evaluation_every=every),
    )


def _cell(name: str, instance: str, n_gpus: int, steps: int, *, quick: bool, seed: int) -> Cell:
    chosen = variant(name)
    configuration = chosen.configuration(
        resolve_instance(instance).to_dict(),
        n_gpus=n_gpus,
        total_steps=_QUICK_STEPS if quick else steps,
        seed=seed,
        **_denser_curve(chosen.fields, steps),
    )
    cell = Cell(f"{name}-{instance}-{n_gpus}", name, configuration, configuration.evaluation_runs)
    if quick:
        return dataclasses.replace(cell, runs=4, warmup=50.0, horizon=150.0)
    if configuration.control == "event":
        return dataclasses.replace(cell, warmup=100.0, horizon=_EVENT_HORIZON)
    return cell


def _denser_curve(fields: dict[str, Any], steps: int) -> dict[str, int]:
    """Five evaluations on the way, unless the variant says otherwise."""
    if "evaluation_every" in fields:
        return {}
    return {"evaluation_every": max(1, steps // 3_200 // 5)}


def run_cells(
    wanted: list[Cell], folder: Path, on_cell: Callable[[int, str], None] | None = None
) -> list[Result]:
    """Results of the cells in their order; those that are finished are read.

    Args:
        wanted: cells of a study.
        folder: with a folder for each cell.
        on_cell: called with the number of finished cells and the next one's name.
    """
    results = []
    for done, cell in enumerate(wanted):
        if on_cell is not None:
            on_cell(done, cell.name)
        results.append(_finished(cell, folder / cell.name) or _compute(cell, folder / cell.name))
    return results


def finished_results(wanted: list[Cell], folder: Path) -> list[Result]:
    """Results of the cells that are finished."""
    found = (_finished(cell, folder / cell.name) for cell in wanted)
    return [result for result in found if result is not None]


def _finished(cell: Cell, folder: Path) -> Result | None:
    """The result of this cell; None if it is not finished or was asked with other settings."""
    file = folder / _RESULT_NAME
    kept = read_result(file, _KIND)
    if kept is None or kept.of != cell.settings():
        return None
    if not isinstance(kept.result, dict) or kept.result.keys() != _RESULT_KEYS:
        raise unusable(file, _KIND, "it lacks a part of the result")
    return kept.result


def _compute(cell: Cell, folder: Path) -> Result:
    path = folder / CHECKPOINT_NAME
    asked = folder / "settings.json"
    settings = json.dumps(cell.settings())
    resume = path.exists() and asked.exists() and asked.read_text("utf-8") == settings
    if not resume:
        shutil.rmtree(folder, ignore_errors=True)
        write_whole(asked, settings)
    started = time.process_time()
    configuration = cell.configuration if resume else with_measured_interval(cell.configuration)
    train(configuration, folder, resume=resume)
    saved = Checkpoint.load(path)
    write_curve(saved, folder)
    result = {
        "variant": cell.variant,
        "instance": configuration.instance["name"],
        "n_gpus": configuration.n_gpus,
        "seed": configuration.seed,
        "steps": saved.steps,
        "seconds": saved.seconds,
        "cpu_seconds": time.process_time() - started,
        "weights_steps": saved.weights_steps,
        "agent_bytes": _exported_bytes(saved, folder / "exported.zip"),
        "evaluations": saved.evaluations,
        "report": _report(cell, saved),
        "versions": saved.versions,
    }
    store_result(folder / _RESULT_NAME, _KIND, cell.settings(), result)
    return result


def _exported_bytes(saved: Checkpoint, path: Path) -> int:
    saved.exported().save(path)
    return path.stat().st_size


def _report(cell: Cell, saved: Checkpoint) -> dict[str, float]:
    """Compare the kept weights with the references on long runs."""
    longer = dataclasses.replace(
        saved.configuration, evaluation_warmup=cell.warmup, evaluation_horizon=cell.horizon
    )
    evaluation = PairedEvaluation(longer, REPORT_SEED, cell.runs)
    policy = TrainedPolicy(saved)
    controller = policy.controller(evaluation.plan.given, evaluation.plan, longer.n_gpus)
    return evaluation.row(controller)
