"""Write docs/validation.md and its figure from the measured runs (``make validation``)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from llm_sched_env.calibration.log_errors import Errors, ModeErrors
from llm_sched_env.files.atomic import write_whole
from llm_sched_env.validation.report import markdown_table, write_validation_figure
from llm_sched_env.validation.validate import Validation
from research.setups.measured_runs import CASES, SIMPLIFIED, TOGETHER, calibration_of, predicted

DOCS = Path(__file__).parents[2] / "docs"
_FIGURE = "validation.png"


def main() -> None:
    """Fit, simulate and write; takes some seconds, and the measurements in a data folder."""
    apart = [(case, predicted(case)) for case in CASES]
    together = [(case, predicted(case)) for case in TOGETHER]
    simpler = {
        name: [predicted(case, make(case)) for case in TOGETHER]
        for name, make in SIMPLIFIED.items()
    }
    write_validation_figure(apart[0][1], DOCS / _FIGURE)
    held_out = {case.logs: calibration_of(case).held_out for case in TOGETHER}
    template = (Path(__file__).parent / "validation_page.md").read_text(encoding="utf-8")
    page = template.format(
        apart=_errors_table(
            ("run", "fitted to"), ((f"`{case.run}`", case.fitted_to, v) for case, v in apart)
        ),
        together=_errors_table(
            ("run", "fitted to"), ((f"`{case.run}`", case.fitted_to, v) for case, v in together)
        ),
        figures=markdown_table(apart[0][1]).rstrip(),
        first=apart[0][0].run,
        iterations=_iterations_table(held_out),
        simpler=_errors_table(
            ("hardware", "run"),
            (
                (name, f"`{case.run}`", found)
                for name, row in simpler.items()
                for case, found in zip(TOGETHER, row, strict=True)
            ),
        ),
        worst_ttft=_worst(together, "ttft"),
        worst_tpot=_worst(together, "tpot"),
        worst_e2e=_worst(together, "e2e"),
        apart_ttft=_worst(apart, "ttft"),
        apart_tpot=_worst(apart, "tpot"),
        apart_e2e=_worst(apart, "e2e"),
        figure=_FIGURE,
    )
    write_whole(DOCS / "validation.md", page)


def _worst(found: Sequence[tuple[Any, Validation]], latency: str) -> str:
    """The largest error of a mean, without its sign."""
    return f"{max(abs(v.relative_error[latency]['mean']) for _, v in found):.1%}"


def _errors_table(first: Sequence[str], rows: Iterable[tuple[Any, ...]]) -> str:
    """A line per validation, which is the last element of each row."""
    header = [*first, "revenue", "TTFT mean", "p99", "TPOT mean", "p99", "e2e mean", "p99"]
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    for *texts, validation in rows:
        error = validation.relative_error
        cells = [error["revenue_rate"]]
        cells += [error[name][what] for name in ("ttft", "tpot", "e2e") for what in ("mean", "p99")]
        shown = ["-" if cell is None else f"{cell:+.1%}" for cell in cells]
        lines.append(f"| {' | '.join([*texts, *shown])} |")
    return "\n".join(lines)


def _iterations_table(held_out: dict[tuple[str, ...], Any]) -> str:
    lines = [
        "| logs | iterations | decodes | rows | mean error | 95th percentile | time in all |",
        "|---|---|---|---|---|---|---|",
    ]
    for logs, found in held_out.items():
        where = " and ".join(f"`{log}`" for log in logs)
        for mode in ("solo", "mixed"):
            errors: ModeErrors | None = getattr(found, mode)
            if errors is None:
                continue
            lines.append(_iteration_row(where, mode, "all", errors.all))
            for low, high, group in errors.by_decodes:
                decodes = f"{low}" if low == high else f"{low} to {high}"
                lines.append(_iteration_row("", "", decodes, group))
    return "\n".join(lines)


def _iteration_row(where: str, mode: str, decodes: str, errors: Errors) -> str:
    cells = [where, mode, decodes, str(errors.rows)]
    cells += [f"{errors.mean:.1%}", f"{errors.p95:.1%}", f"{errors.total:+.1%}"]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
