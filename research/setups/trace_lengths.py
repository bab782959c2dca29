"""Cells and rows of the fits of output lengths of traces."""

from __future__ import annotations

import hashlib
from pathlib import Path

from llm_sched_env.workloads.length_fits import fit_output_lengths
from llm_sched_env.workloads.locations import find_azure_2023
from llm_sched_env.workloads.traces import load_traces
from research.framework.study import Cell, Row


def length_cells(*, resamples: int, seed: int) -> list[Cell]:
    """One cell for the Azure traces 2023, known by what the files hold; none where they are not."""
    files = find_azure_2023()
    if not files:
        return []
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    names = [str(path.resolve()) for path in files]
    return [{"files": names, "sha256": digests, "resamples": resamples, "seed": seed}]


def fitted_lengths(cell: Cell) -> list[Row]:
    """Per class and law: KL divergence of the output lengths, nats, with its 95% interval."""
    trace = load_traces([Path(name) for name in cell["files"]])
    classes = fit_output_lengths(trace, replications=cell["resamples"], seed=cell["seed"])
    return [
        {
            "class": found.name,
            "requests": found.requests,
            "law": fit.distribution.kind,
            "cv": fit.cv,
            "kl": fit.divergence.kl,
            "kl low": fit.divergence.kl_ci95[0],
            "kl high": fit.divergence.kl_ci95[1],
            "bins": fit.divergence.bins,
        }
        for found in classes
        for fit in found.fits
    ]
