"""Integrate an ODE with regimes: smooth inside each, with located switching events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from llm_sched_env.errors import PlanError

_RELATIVE, _ABSOLUTE = 1e-9, 1e-11
# A regime ends when a margin exceeds this, so that rounding on its boundary does not end it.
_CLEARLY = 1e-9
_MOST_SWITCHES = 10_000


class RegimeSystem(Protocol):
    """Dynamics with regimes; states are flat arrays of shape (S,)."""

    def settle(self, time: float, state: np.ndarray) -> tuple[np.ndarray, Any]:
        """The state, put exactly on the boundaries that it is on, and the regime from now on."""

    def derivative(self, time: float, state: np.ndarray, regime: Any) -> np.ndarray:
        """Change per second, shape (S,)."""

    def margins(self, time: float, state: np.ndarray, regime: Any) -> np.ndarray:
        """The regime holds while all of these are <= 0; their number depends on it alone."""


class PiecewisePath:
    """A trajectory of a system with regimes.

    Attributes:
        switches: times at which a regime began, seconds, the start included; shape (R,).
        grid: times of the integration's steps, seconds; shape (T,).
    """

    def __init__(self, pieces: Sequence[Any], grid: np.ndarray) -> None:
        self._pieces = pieces
        self.switches = np.array([piece.t_min for piece in pieces])
        self.grid = grid

    def __call__(self, time: float) -> np.ndarray:
        """The state at a time, shape (S,)."""
        piece = max(0, int(np.searchsorted(self.switches, time, side="right")) - 1)
        state: np.ndarray = self._pieces[piece](time)
        return state


def integrate(
    system: RegimeSystem, state: np.ndarray, horizon: float, stops: Sequence[float] = ()
) -> PiecewisePath:
    """The path from a state at time 0 to the horizon, seconds.

    Args:
        system: what moves.
        state: at time 0, shape (S,).
        horizon: > 0.
        stops: increasing times at which inputs of the system bend: each begins a piece.

    Raises:
        PlanError: if the solver fails or regimes do not stop switching.
    """
    from scipy.integrate import solve_ivp

    ends = [*(stop for stop in stops if 0 < stop < horizon), horizon]
    pieces: list[Any] = []
    time, grid = 0.0, [np.zeros(1)]
    while time < horizon:
        state, regime = system.settle(time, state)
        end = next(end for end in ends if end > time)
        done = solve_ivp(
            lambda t, y, regime=regime: system.derivative(t, y, regime),
            (time, end),
            state,
            method="LSODA",
            dense_output=True,
            events=_events(system, regime, len(system.margins(time, state, regime))),
            rtol=_RELATIVE,
            atol=_ABSOLUTE,
        )
        if not done.success or len(pieces) == _MOST_SWITCHES:
            raise PlanError(
                f"fluid dynamics: got no path beyond {time:g} s ({len(pieces)} regimes, "
                f"{done.message}), expected moderate numbers; check units of rates and times"
            )
        if done.t[-1] > time:
            pieces.append(done.sol)
            grid.append(done.t[1:])
        time, state = float(done.t[-1]), done.y[:, -1]
    return PiecewisePath(pieces, np.concatenate(grid))


def _events(system: RegimeSystem, regime: Any, count: int) -> list[Any]:
    """One terminal event per margin."""

    def event(k: int) -> Any:
        def excess(time: float, state: np.ndarray) -> float:
            return float(system.margins(time, state, regime)[k]) - _CLEARLY

        excess.terminal = True  # type: ignore[attr-defined]
        excess.direction = 1.0  # type: ignore[attr-defined]
        return excess

    return [event(k) for k in range(count)]
