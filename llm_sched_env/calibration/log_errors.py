"""How far off a law is on iterations that it was not fitted to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llm_sched_env.calibration.iteration_log import IterationLog


@dataclass(frozen=True)
class Errors:
    """Relative errors, law / measured - 1, of some iterations.

    Attributes:
        rows: iterations.
        mean: of the absolute errors.
        p95: 95th percentile of the absolute errors.
        total: error of their time together, with its sign.
        share_within: iterations whose error is within the tolerance.
    """

    rows: int
    mean: float
    p95: float
    total: float
    share_within: float


@dataclass(frozen=True)
class ModeErrors:
    """Errors of the iterations of one mode.

    Attributes:
        all: of them.
        by_decodes: (fewest, most, errors) by number of decodes.
    """

    all: Errors
    by_decodes: tuple[tuple[int, int, Errors], ...]


@dataclass(frozen=True)
class HeldOut:
    """Errors on the iterations held out; None for a mode without any.

    Attributes:
        tolerance: of ``share_within``.
        solo: of iterations without a prefill.
        mixed: of iterations with one.
    """

    tolerance: float
    solo: ModeErrors | None
    mixed: ModeErrors | None

    def holds(self, share: float = 0.95) -> bool:
        """Whether that share of iterations, and the time of each mode, is within the tolerance."""
        return all(
            mode.all.share_within >= share and abs(mode.all.total) <= self.tolerance
            for mode in (self.solo, self.mixed)
            if mode is not None
        )


def held_out_errors(log: IterationLog, seconds: np.ndarray, tolerance: float) -> HeldOut:
    """Hold what a law says of a log's held-out iterations against what was measured.

    Args:
        log: all iterations.
        seconds: that a law, fitted to the others, says of all of them; shape (K,).
        tolerance: relative.
    """
    found = []
    for mode in (~log.mixed, log.mixed):
        rows = mode & log.held_out
        found.append(_mode_errors(log.picked(rows), seconds[rows], tolerance))
    return HeldOut(tolerance, *found)


def _mode_errors(log: IterationLog, seconds: np.ndarray, tolerance: float) -> ModeErrors | None:
    if len(log) == 0:
        return None
    # 0, 1, 2, 3 to 4, 5 to 8, ...: engines prepare batches of such sizes.
    group = np.ceil(np.log2(np.maximum(log.decodes, 0.5))).astype(int)
    by_decodes = []
    for k in np.unique(group):
        rows = group == k
        counts = log.decodes[rows]
        errors = _errors(log.seconds[rows], seconds[rows], tolerance)
        by_decodes.append((int(counts.min()), int(counts.max()), errors))
    return ModeErrors(_errors(log.seconds, seconds, tolerance), tuple(by_decodes))


def _errors(measured: np.ndarray, seconds: np.ndarray, tolerance: float) -> Errors:
    off = np.abs(seconds / measured - 1.0)
    return Errors(
        len(off),
        float(off.mean()),
        float(np.quantile(off, 0.95)),
        float(seconds.sum() / measured.sum() - 1.0),
        float((off <= tolerance).mean()),
    )
