"""The seconds and requests that a run measures, and the bound that a score is a share of.

A score divides what a policy earned by R*. Both must be of the same requests and the same seconds:

- constant or randomly modulated rates: R* of the long-run mean rates; the warm-up makes any
  measured seconds typical of it;
- periodic rates over whole periods: likewise;
- a trace that is taken for a sample of an instance: as if that instance's arrivals were generated;
- periodic rates over other seconds, or any other trace: R* of the arrivals of these seconds. What
  requests earn that arrived before is left out, since they are not among those.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from fractions import Fraction

from llm_sched_env.errors import ConfigurationError, is_finite_number
from llm_sched_env.model.instance import Instance, RequestClass
from llm_sched_env.model.kv_admission import fitting_requests
from llm_sched_env.planning.cluster import Cluster
from llm_sched_env.workloads.trace import Trace

DEFAULT_HORIZON, DEFAULT_WARMUP = 900.0, 300.0
LONG_RUN = "the long-run mean arrival rates"
_ROUNDING = 1e-9
# Periods are told apart to this share of a second, and have a common one of at most so many.
_PERIOD_DENOMINATOR, _MOST_PERIODS = 1_000_000, 100


@dataclass(frozen=True)
class Measurement:
    """What a run measures, and what bounds the revenue from it.

    Attributes:
        horizon: simulated seconds, warm-up included.
        warmup: seconds at the start that are not measured.
        bounded: the instance whose R* bounds what is measured.
        bound_of: what R* covers, in words that follow "R* of".
        pays_earlier_arrivals: whether requests that arrived in the warm-up earn when they end.
        requests_given: whether every replication has the same requests.
    """

    horizon: float
    warmup: float
    bounded: Instance
    bound_of: str
    pays_earlier_arrivals: bool = True
    requests_given: bool = False


def measured_arrivals(instance: Instance, horizon: float, warmup: float) -> Measurement:
    """The measurement of generated arrivals.

    Raises:
        ConfigurationError: if nothing arrives in the measured seconds.
    """
    if not any(_changes(c) for c in instance.classes):
        return Measurement(horizon, warmup, instance, LONG_RUN)
    period = common_period(instance)
    if period is not None and _is_whole((horizon - warmup) / period):
        covers = f"{LONG_RUN}, over whole periods of {period:g} s"
        return Measurement(horizon, warmup, instance, covers)
    bounded = _at_mean_rates(instance, warmup, horizon)
    covers = f"the mean arrival rates of {_seconds(warmup, horizon)}"
    return Measurement(horizon, warmup, bounded, covers, pays_earlier_arrivals=warmup == 0.0)


def measured_trace(trace: Trace, bounded: Instance, horizon: float, warmup: float) -> Measurement:
    """The measurement of a replayed trace.

    Args:
        trace: what is replayed.
        bounded: the instance of the requests that arrive in the measured seconds.
        horizon: seconds.
        warmup: seconds.
    """
    count = int(trace.arrives_in(warmup, horizon).sum())
    requests = "request" if count == 1 else "requests"
    covers = f"the {count:,} {requests} of {_seconds(warmup, horizon)}"
    share = float(fitting_requests(bounded).arrival_rates.sum() / bounded.arrival_rates.sum())
    if share < 1.0:
        covers += f", of which {round(count * share):,} fit into the KV limit"
    earlier = warmup == 0.0
    return Measurement(horizon, warmup, bounded, covers, earlier, requests_given=True)


def measured_sample(trace: Trace, cluster: Cluster, horizon: float, warmup: float) -> Measurement:
    """The measurement of a trace that is taken for a sample of a cluster's instance.

    R* is that of the instance, as if its arrivals were generated; ``bound_of`` says how much more
    or less the trace offers.
    """
    instance = cluster.instance
    generated = measured_arrivals(instance, horizon, warmup)
    rows = trace.arrives_in(warmup, horizon)
    prices, bounded = instance.prices, generated.bounded
    offered = float(
        prices.prefill * trace.prompt_tokens[rows].sum()
        + prices.decode * trace.output_tokens[rows].sum()
    ) / (cluster.n_gpus * (horizon - warmup))
    expected = float(bounded.arrival_rates @ bounded.bundled_revenues)
    covers = (
        f"{instance.name} as given, {generated.bound_of}; the {int(rows.sum()):,} requests of "
        f"{_seconds(warmup, horizon)} offer {offered / expected:.3f} times its revenue"
    )
    return dataclasses.replace(generated, bound_of=covers, requests_given=True)


def common_period(instance: Instance) -> float | None:
    """Seconds after which all arrival profiles repeat together; None if they do not."""
    periods = [
        Fraction(c.arrival_profile.period).limit_denominator(_PERIOD_DENOMINATOR)
        for c in instance.classes
        if c.arrival_profile is not None and _changes(c)
    ]
    if not periods:
        return None
    common = Fraction(
        math.lcm(*(p.numerator for p in periods)), math.gcd(*(p.denominator for p in periods))
    )
    return float(common) if common <= _MOST_PERIODS * max(periods) else None


def checked_times(
    horizon: float | None,
    warmup: float | None,
    *,
    trace: Trace | None,
    period: float | None,
    interval: float | None,
    least_horizon: float = DEFAULT_HORIZON,
) -> tuple[float, float]:
    """Horizon and warm-up in seconds; with an interval both are whole numbers of it.

    Args:
        horizon: as given; None: the whole trace, or ``least_horizon`` and as much more as makes
            the measured seconds whole periods.
        warmup: as given; None: nothing with a trace, else 300 s or a third of a short horizon.
        trace: what is replayed.
        period: of the arrival profiles.
        interval: seconds between a policy's actions.
        least_horizon: default of the horizon without a trace.

    Raises:
        ConfigurationError: for times that are not allowed.
    """
    if horizon is None:
        horizon = (
            trace.positive_duration() if trace else _whole_periods(least_horizon, warmup, period)
        )
        if interval is not None:
            horizon = math.ceil(horizon / interval - _ROUNDING) * interval
    _require_time("horizon", horizon, interval, positive=True)
    if warmup is None:
        warmup = 0.0 if trace else min(DEFAULT_WARMUP, horizon / 3)
        if interval is not None:
            warmup = math.floor(warmup / interval) * interval
    _require_time("warmup", warmup, interval, positive=False)
    if warmup >= horizon:
        raise ConfigurationError("warmup", warmup, f"less than the horizon of {horizon:g} s")
    return float(horizon), float(warmup)


def _require_time(field: str, value: float, interval: float | None, *, positive: bool) -> None:
    """Raise ConfigurationError unless it is a time, with an interval a whole number of it."""
    if not is_finite_number(value, positive=positive):
        raise ConfigurationError(
            field, value, f"a finite number of seconds {'>' if positive else '>='} 0"
        )
    if interval is not None and not _is_whole(value / interval):
        raise ConfigurationError(
            field, value, f"a multiple of the policy's interval of {interval:g} s"
        )


def _whole_periods(least: float, warmup: float | None, period: float | None) -> float:
    """A horizon of at least so many seconds that measures whole periods."""
    if period is None:
        return least
    start = DEFAULT_WARMUP if warmup is None else warmup
    if not is_finite_number(start):
        return least
    periods = math.ceil((least - start) / period - _ROUNDING)
    return start + max(1, periods) * period


def _at_mean_rates(instance: Instance, start: float, end: float) -> Instance:
    """The instance with constant rates: the means of its profiles over some seconds."""
    classes = tuple(
        c
        if c.arrival_profile is None
        else dataclasses.replace(
            c,
            arrival_profile=None,
            arrival_rate=c.arrival_rate
            * max(0.0, float(c.arrival_profile.mean_relative_rates([start, end])[0])),
        )
        for c in instance.classes
    )
    if not any(c.arrival_rate > 0 for c in classes):
        raise ConfigurationError(
            f"No request can arrive in the measured seconds {start:g} to {end:g}; "
            "change the horizon or the warm-up."
        )
    return dataclasses.replace(instance, classes=classes)


def _changes(request_class: RequestClass) -> bool:
    """Whether the arrival rate of a class depends on the time."""
    profile = request_class.arrival_profile
    return profile is not None and request_class.arrival_rate > 0 and not profile.is_constant


def _is_whole(number: float) -> bool:
    return abs(number - round(number)) <= _ROUNDING


def _seconds(start: float, end: float) -> str:
    return f"{start:g}-{end:g} s"
