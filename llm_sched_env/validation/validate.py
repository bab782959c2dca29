"""Set a simulated run beside the measured one."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llm_sched_env.errors import ConfigurationError, checked_integer, is_finite_number
from llm_sched_env.model.catalog import PAPER_PRICES
from llm_sched_env.model.hardware import Hardware, load_hardware
from llm_sched_env.model.instance import Prices
from llm_sched_env.validation.figures_of_run import RunFigures, relative_errors
from llm_sched_env.validation.served_files import read_served_run
from llm_sched_env.validation.served_run import ServedRun
from llm_sched_env.validation.simulated_run import simulated_run


@dataclass(frozen=True, eq=False)
class Validation:
    """A measured run and its simulation, until the same horizon.

    Attributes:
        measured_run: request by request.
        simulated_run: the same requests.
        measured: figures of the former.
        simulated: figures of the latter, by the same definitions.
        horizon: seconds.
        n_gpus: cluster size n.
    """

    measured_run: ServedRun
    simulated_run: ServedRun
    measured: RunFigures
    simulated: RunFigures
    horizon: float
    n_gpus: int

    @property
    def relative_error(self) -> dict[str, Any]:
        """Simulated / measured - 1 of every figure; None where it is not defined."""
        errors: dict[str, Any] = relative_errors(asdict(self.measured), asdict(self.simulated))
        return errors

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "measured": asdict(self.measured),
            "simulated": asdict(self.simulated),
            "relative_error": self.relative_error,
            "horizon": self.horizon,
            "gpus": self.n_gpus,
        }


def validate(
    measured: ServedRun | str | Path,
    hardware: Hardware | str | Path,
    n_gpus: int = 1,
    policy: Any = "fcfs-immediate",
    *,
    horizon: float | None = None,
    prices: Prices = PAPER_PRICES,
    seed: int = 0,
) -> Validation:
    """Replay arrivals, lengths and patience of a measured run and compare what became of them.

    Args:
        measured: the run, or its file (:func:`read_served_run`).
        hardware: of each GPU: itself, a hardware file or a preset's name.
        n_gpus: cluster size n.
        policy: a registered name of a compiled rule, or a :class:`DispatchRule`.
        horizon: seconds, at most to the last event of the file, which is the default.
        prices: per prompt and output token of completed requests.
        seed: of what the rule draws at random.

    Raises:
        TraceError: for a file that is no measured run, naming file and line.
        ConfigurationError: for an argument that is not allowed.

    Example:
        >>> import numpy as np
        >>> from llm_sched_env.validation.served_run import COMPLETED
        >>> served = ServedRun(
        ...     class_names=("chat",),
        ...     arrival_time=np.array([0.0, 0.5]),
        ...     request_class=np.zeros(2, int),
        ...     prompt_tokens=np.array([300.0, 80.0]),
        ...     output_tokens=np.array([40.0, 20.0]),
        ...     patience_seconds=np.full(2, 30.0),
        ...     outcome=np.array([COMPLETED, COMPLETED]),
        ...     prefill_start=np.array([0.0, 0.5]),
        ...     first_token=np.array([0.02, 0.52]),
        ...     end=np.array([0.4, 0.7]),
        ... )
        >>> validate(served, "h100-llama3-8b-b32").simulated.completed
        2
    """
    n_gpus = checked_integer("n_gpus", n_gpus)
    if not isinstance(measured, ServedRun):
        measured = read_served_run(measured)
    if not isinstance(hardware, Hardware):
        hardware = load_hardware(hardware)
    horizon = _checked_horizon(horizon, measured)
    shown = measured.until(horizon)
    run = simulated_run(shown, hardware, n_gpus, policy, horizon, prices, seed)
    told, found = (RunFigures.of(each, horizon, n_gpus, prices) for each in (shown, run))
    return Validation(shown, run, told, found, horizon, n_gpus)


def _checked_horizon(horizon: float | None, measured: ServedRun) -> float:
    last = measured.last_event
    if horizon is None:
        return last
    first = float(measured.arrival_time[0])
    if not is_finite_number(horizon, positive=True) or not first <= horizon <= last:
        raise ConfigurationError(
            "horizon", horizon, f"seconds from the first arrival to the last event, {last:g}"
        )
    return float(horizon)
