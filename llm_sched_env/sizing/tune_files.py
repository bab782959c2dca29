"""A tuning as files: the chosen instance, flags of engines, all finalists, a figure."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llm_sched_env.files.atomic import save_figure, write_rows, write_whole
from llm_sched_env.model.instance import Instance, RequestClass
from llm_sched_env.model.length_distributions import ObservedLengths
from llm_sched_env.sizing.engine_flags import left_out, sglang_flags, vllm_flags
from llm_sched_env.sizing.report import COLOURS, COLUMNS, csv_rows, percent
from llm_sched_env.sizing.settings import Setting
from llm_sched_env.sizing.tune import Tuned, Tuning
from llm_sched_env.sizing.workload import Workload

SETTING_COLUMNS = ("batch_slots", "chunk_tokens", "pool_scale", "reserve_scale", "on_front")
# Rows of a trace in an instance file, of each class; more are thinned.
_MOST_ROWS = 1000


def tuning_answer(found: Tuning) -> str:
    """The chosen setting in a sentence."""
    chosen = found.chosen
    setting, row = chosen.setting, chosen.judged
    hardware = setting.kind.hardware
    verdict = "meets it" if row.met else f"is {row.verdict}, the surest of all that were tried"
    return (
        f"For {found.rate:.3g} requests/s of {found.workload!r} with {found.asked}, the chosen "
        f"setting has {hardware.batch_slots} batch slots and chunks of {hardware.chunk_tokens} "
        f"tokens on {setting.n_gpus} {setting.kind.name} under {_policy(setting)}; it "
        f"{verdict}: {percent(row.judged.mean)} in time, at least {percent(row.judged.low)}, TTFT "
        f"p99 {row.ttft[-1]:.3g} s, TPOT p99 {1e3 * row.tpot[-1]:.3g} ms, "
        f"{row.cost_per_hour:.4g} an hour."
    )


def _policy(setting: Setting) -> str:
    """The policy with what is scaled."""
    scales = (("pool", setting.pool_scale), ("reserves", setting.reserve_scale))
    return ", ".join([setting.policy, *(f"{n} x{s:g}" for n, s in scales if s != 1.0)])


def how_it_was_found(found: Tuning) -> str:
    """The rungs in a sentence."""
    rungs = ", ".join(f"{count} on {share:.4g}" for share, count in found.rungs)
    return (
        f"{found.tried} settings, compared on shares of the requests: {rungs}; "
        f"{len(found.front)} of the last are on the front."
    )


def tuning_table(rows: Sequence[Tuned]) -> tuple[list[str], list[list[str]]]:
    """Header and a row a setting."""
    header = ["GPUs", "slots", "chunk", "policy", "good/s", "at least"]
    header += ["TTFT p99", "TPOT p99", "cost/h"]
    body = [
        [
            str(t.setting.n_gpus),
            str(t.setting.kind.hardware.batch_slots),
            str(t.setting.kind.hardware.chunk_tokens),
            _policy(t.setting),
            f"{t.judged.good_rate:.4g}",
            percent(t.judged.judged.low),
            f"{t.judged.ttft[-1]:.3g} s",
            f"{1e3 * t.judged.tpot[-1]:.3g} ms",
            f"{t.judged.cost_per_hour:.4g}",
        ]
        for t in sorted(rows, key=lambda t: (t.judged.cost_per_hour, t.judged.ttft[-1]))
    ]
    return header, body


def flags_text(tuned: Tuned) -> str:
    """Flags of both engines for the chosen setting, and what they leave out."""
    setting = tuned.setting
    parts = [
        f"# For each of {setting.n_gpus} replicas, one GPU each.",
        "vllm serve MODEL \\\n  " + " \\\n  ".join(vllm_flags(setting)),
        "python -m sglang.launch_server --model-path MODEL \\\n  "
        + " \\\n  ".join(sglang_flags(setting)),
        "\n".join(f"# {note}" for note in left_out(setting)),
    ]
    return "\n\n".join(parts) + "\n"


def chosen_instance(found: Tuning, workload: Workload) -> Instance:
    """The chosen hardware with the classes of the workload, their rates per GPU.

    Classes of a trace have their lengths as they were observed, each k-th where there are more
    than 1000. Policy, pool and reserves are no part of an instance.
    """
    setting = found.chosen.setting
    given = workload.cluster(setting.kind.hardware, setting.n_gpus, 0).instance
    classes = tuple(map(_thinned, given.classes))
    return dataclasses.replace(given, name="tuned", classes=classes)


def _thinned(own: RequestClass) -> RequestClass:
    lengths = own.observed_lengths
    if lengths is None or len(lengths.prompt_tokens) <= _MOST_ROWS:
        return own
    step = -(-len(lengths.prompt_tokens) // _MOST_ROWS)
    rows = ObservedLengths(lengths.prompt_tokens[::step], lengths.output_tokens[::step])
    return dataclasses.replace(
        own,
        prompt_tokens=float(np.mean(rows.prompt_tokens)),
        output_tokens=float(np.mean(rows.output_tokens)),
        observed_lengths=rows,
    )


def write_tuning(
    found: Tuning, workload: Workload, lines: Sequence[str], notes: Sequence[str], folder: Path
) -> list[str]:
    """answer.md, chosen.toml, flags.sh, rows.csv and front.png; their names."""
    header, body = tuning_table(found.front)
    cells = [header, ["---:"] * len(header), *body]
    text = [*lines, "", "## Settings that no other one beats", ""]
    text += [f"| {' | '.join(row)} |" for row in cells]
    text += ["", "## Flags", "", "```sh", flags_text(found.chosen).rstrip(), "```", ""]
    text += [f"- {note}" for note in notes]
    write_whole(folder / "answer.md", "\n".join(text) + "\n")
    chosen_instance(found, workload).save(folder / "chosen.toml")
    write_whole(folder / "flags.sh", flags_text(found.chosen))
    rows = [_row(t) for t in found.finalists]
    write_rows(folder / "rows.csv", (*COLUMNS, *SETTING_COLUMNS), rows)
    write_front_figure(found, workload, folder / "front.png")
    return ["answer.md", "chosen.toml", "flags.sh", "rows.csv", "front.png"]


def _row(tuned: Tuned) -> dict[str, Any]:
    setting = tuned.setting.to_dict()
    own = {name: setting[name] for name in SETTING_COLUMNS if name in setting}
    return {**csv_rows([tuned.judged])[0], **own, "on_front": tuned.on_front}


def write_front_figure(found: Tuning, workload: Workload, path: Path) -> None:
    """TTFT against TPOT of the finalists, the deadlines, and the chosen one (needs matplotlib)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.8, 4.6), layout="constrained")
    axis = figure.subplots()
    policies = list(dict.fromkeys(t.setting.policy for t in found.finalists))
    for k, policy in enumerate(policies):
        for on_front in (True, False):
            own = [
                t for t in found.finalists if (t.setting.policy, t.on_front) == (policy, on_front)
            ]
            axis.plot(
                [1e3 * t.judged.tpot[-1] for t in own],
                [t.judged.ttft[-1] for t in own],
                "o",
                color=COLOURS[k % len(COLOURS)],
                mfc=None if on_front else "none",
                label=policy if on_front else None,
            )
    chosen = found.chosen.judged
    axis.plot(1e3 * chosen.tpot[-1], chosen.ttft[-1], "k*", ms=14, mfc="none", label="chosen")
    ttft, tpot = workload.limits.min(axis=1)
    if np.isfinite(ttft):
        axis.axhline(ttft, color="0.4", linestyle=":")
    if np.isfinite(tpot):
        axis.axvline(1e3 * tpot, color="0.4", linestyle=":")
    axis.set(xlabel="TPOT p99, ms", ylabel="TTFT p99, s", yscale="log", title=found.asked)
    axis.legend()
    save_figure(figure, path, dpi=150)
