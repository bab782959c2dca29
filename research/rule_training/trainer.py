"""Train the priority network of a rule. Read this file from top to bottom.

python -m research train-rule --out runs/generalist
python -m research train-rule --instance overload --gpus 5 --initial learned --out runs/overload-5
python -m research train-rule --trace conv.csv,code.csv --window 0,1800 --gpus 5 --out runs/replay-5
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from llm_sched_env.agents.archives import UNREADABLE
from llm_sched_env.agents.learned_rule import FORESIGHT, LearnedRule, rounded
from llm_sched_env.errors import (
    CheckpointError,
    ConfigurationError,
    checked_integer,
    is_finite_number,
    one_of,
)
from llm_sched_env.evaluation.executor import Executor
from llm_sched_env.evaluation.versions import versions
from llm_sched_env.files.atomic import make_folder, write_whole
from llm_sched_env.model.deadlines import REVENUES
from llm_sched_env.model.instance import Instance
from llm_sched_env.model.priority_network import (
    CLASS_FEATURES,
    CORRECTIONS,
    HIDDEN_INPUTS,
    STATE_FEATURES,
    RankCorrection,
    weight_shapes,
)
from llm_sched_env.tasks.hidden_hardware import HiddenHardware
from llm_sched_env.workloads.trace import Trace
from research.rule_training.evolution import Momentum, Population, sampled_gradient
from research.rule_training.paired_runs import scores_of_pairs
from research.rule_training.replayed_scenarios import fingerprint, replayed_scenario
from research.rule_training.scenarios import (
    HORIZON,
    WARMUP,
    TrainingScenario,
    random_scenario,
)

RULE_NAME, STATE_NAME = "rule.json", "training.npz"
# Scenarios from this number on measure the progress; none of them is trained on.
_VALIDATION = 1_000_000
_TRAINING_STREAM, _VALIDATION_STREAM = 0, 1
_HIDDEN_STREAM = 7_730_113
# Each hidden unit reads one feature at first, with this weight.
_FIRST_GAIN = 2.0
# At first the order by prefill time is just out of reach of the unit that reads free slots, whose
# greatest value is 2/3.
_OUT_OF_REACH = 0.75
# The rule is the average of the weights of about the last so many generations.
_AVERAGED = 20.0
_ONE_BY_ONE = Executor(jobs=1)


_MOST_GPUS = 10**7


@dataclass(frozen=True)
class RuleTraining:
    """All knobs of a training; the defaults are those of the generalist.

    Attributes:
        instance: plain data of the only instance to train on; None: random scenarios.
        n_gpus: its cluster size.
        foresight: seconds over which arrival profiles are known in advance.
        horizon: seconds of a scenario that is no part of a trace, warm-up included.
        trace: fingerprint of a trace whose parts arrive there; None: requests are drawn.
        revenue: which requests are paid for, ``all`` or ``goodput``.
        drop_late: whether the rule drops who cannot be in time.
        hidden: least and greatest factors on the seconds of iterations with a prefill and without,
            drawn for each scenario, of which the plan knows nothing; None: none.
        generations: steps of the evolution strategy.
        scenarios: in a generation.
        pairs: antithetic pairs on each scenario.
        hidden_units: of the network, each of which reads one of ``HIDDEN_INPUTS`` at first.
        step: of each weight in a generation, in units of its noise; falls to a tenth (cosine).
        noise: standard deviation of the weights of hidden units, in a population.
        output_noise: of the weights of outputs.
        constant_noise: of the constants of outputs, corrections that do not depend on the moment.
            Hidden units have constants if outputs have.
        gain_noise: of the gains of these constants, by which features of a class change them.
            Whatever has noise 0 is not trained.
        inputs: features whose weights are trained.
        reactions: outputs whose weights are trained: what depends on the moment.
        corrections: outputs whose constants are trained, with their gains.
        gains: class features that may make these constants greater or smaller for a class.
        weight_decay: share of the output weights that is lost in a generation.
        validation_scenarios: on which progress is measured, at least 2.
        validate_every: generations.
        seed: of everything.
        initial: name of the rule that the run starts from, for the record.
    """

    instance: dict[str, Any] | None = None
    n_gpus: int | None = None
    foresight: float = FORESIGHT
    horizon: float = HORIZON
    trace: dict[str, Any] | None = None
    revenue: str = "all"
    drop_late: bool = False
    hidden: tuple[tuple[float, float], tuple[float, float]] | None = None
    generations: int = 60
    scenarios: int = 24
    pairs: int = 4
    hidden_units: int = 2
    step: float = 0.4
    noise: float = 0.0
    output_noise: float = 0.05
    constant_noise: float = 0.0
    gain_noise: float = 0.3
    inputs: tuple[str, ...] = ()
    reactions: tuple[str, ...] = ("prefill reserve factor", "by prefill time")
    corrections: tuple[str, ...] = ("prefill reserve factor",)
    gains: tuple[str, ...] = ("prefill reserve with giving up",)
    weight_decay: float = 0.0
    validation_scenarios: int = 96
    validate_every: int = 20
    seed: int = 0
    initial: str | None = None

    def __post_init__(self) -> None:
        for name in (
            "generations", "scenarios", "pairs", "hidden_units", "validate_every",
        ):  # fmt: skip
            checked_integer(name, getattr(self, name))
        # The error of a mean takes two.
        checked_integer("validation_scenarios", self.validation_scenarios, 2)
        checked_integer("seed", self.seed, 0)
        for name in ("step", "foresight", "horizon"):
            if not is_finite_number(getattr(self, name), positive=True):
                raise ConfigurationError(name, getattr(self, name), "a finite number > 0")
        if self.horizon <= WARMUP:
            raise ConfigurationError("horizon", self.horizon, f"more than {WARMUP:g} s of warm-up")
        for name in ("noise", "output_noise", "constant_noise", "gain_noise"):
            value = getattr(self, name)
            if not (is_finite_number(value) and value >= 0.0):
                raise ConfigurationError(name, value, "a finite number >= 0")
        self._check_names()
        if (self.instance is None) != (self.n_gpus is None):
            raise ConfigurationError("Give both `instance` and `n_gpus`, or neither.")
        if self.n_gpus is not None and checked_integer("n_gpus", self.n_gpus) > _MOST_GPUS:
            raise ConfigurationError("n_gpus", self.n_gpus, f"at most {_MOST_GPUS}")
        if not self.population.deviations.any():
            raise ConfigurationError("No weight is trained; set one of the noises to a value > 0.")

    def _check_names(self) -> None:
        """Of revenue, features and corrections."""
        if self.revenue not in REVENUES:
            raise ConfigurationError("revenue", self.revenue, one_of(REVENUES))
        for name, allowed in (
            ("inputs", (*CLASS_FEATURES, *STATE_FEATURES)),
            ("reactions", CORRECTIONS),
            ("corrections", CORRECTIONS),
            ("gains", CLASS_FEATURES),
        ):
            chosen = tuple(getattr(self, name))
            object.__setattr__(self, name, chosen)
            if set(chosen) - set(allowed):
                raise ConfigurationError(name, list(chosen), f"some of {', '.join(allowed)}")

    @classmethod
    def specialist(
        cls, instance: Instance, n_gpus: int, *, reacting: bool = False, **more: Any
    ) -> RuleTraining:
        """For one instance at one size: constants of all corrections are trained.

        Args:
            instance: which.
            n_gpus: its cluster size.
            reacting: whether reserves may react to whatever deviates from the plan, by a hidden
                unit each: for traffic that is not known in advance.
            more: other settings.
        """
        chosen: dict[str, Any] = {
            "generations": 60,
            "scenarios": 8,
            "pairs": 16,
            "step": 0.25,
            "output_noise": 0.1,
            "constant_noise": 0.15,
            "gain_noise": 0.15,
            # When prefill time comes first depends on the moment alone.
            "corrections": tuple(c for c in CORRECTIONS if c != "by prefill time"),
            "gains": ("admission bid", "decode time", "prefill reserve with giving up"),
        }
        if reacting:
            chosen |= {
                "hidden_units": len(HIDDEN_INPUTS),
                "output_noise": 0.25,
                "reactions": ("prefill reserve factor", "prefill reserve", "by prefill time"),
            }
        return cls(instance.to_dict(), n_gpus, **(chosen | more))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as JSON has it."""
        names = ("inputs", "reactions", "corrections", "gains")
        tuples = {name: list(getattr(self, name)) for name in names}
        hidden = None if self.hidden is None else [list(pair) for pair in self.hidden]
        return {**dataclasses.asdict(self), **tuples, "hidden": hidden}

    @property
    def population(self) -> Population:
        """How gradients are sampled."""
        return Population(
            self.pairs,
            self.noise,
            self.output_noise,
            self.constant_noise,
            self.gain_noise,
            self.hidden_units,
            self.inputs,
            self.reactions,
            self.corrections,
            self.gains,
        )

    def scenario(self, number: int, trace: Trace | None = None) -> TrainingScenario:
        """Scenario ``number``: a random one, always the same, or a part of the trace."""
        if self.instance is None or self.n_gpus is None:
            scenario = random_scenario(number, self.seed)
        else:
            instance = Instance.from_dict(self.instance)
            scenario = TrainingScenario(instance, self.n_gpus, horizon=self.horizon)
            if trace is not None:
                scenario = replayed_scenario(trace, instance, self.n_gpus, number, self.seed)
            if self.hidden is not None:
                seed = np.random.SeedSequence([_HIDDEN_STREAM, self.seed, number])
                own = HiddenHardware(*self.hidden).drawn(instance, seed)
                scenario = dataclasses.replace(scenario, instance=own, planned=instance)
        return dataclasses.replace(
            scenario, foresight=self.foresight, revenue=self.revenue, drop_late=self.drop_late
        )

    def step_size(self, generation: int) -> float:
        """Of a generation (0, 1, ...)."""
        part = 0.5 * (1.0 + math.cos(math.pi * generation / self.generations))
        return self.step * (0.1 + 0.9 * part)


@dataclass
class _Progress:
    """What a training that was killed needs to go on."""

    weights: np.ndarray
    average: np.ndarray
    momentum: Momentum
    generation: int
    seconds: float
    curve: list[dict[str, float]]


def train_rule(
    configuration: RuleTraining,
    out: Path,
    *,
    initial: RankCorrection | None = None,
    trace: Trace | None = None,
    executor: Executor = _ONE_BY_ONE,
    on_generation: Callable[[dict[str, float]], None] | None = None,
) -> Path:
    """Train a rule and write ``out/rule.json``; goes on where a killed training stopped.

    Args:
        configuration: all knobs.
        out: folder of the run.
        initial: network to start from; default: one that corrects nothing. If it has fewer hidden
            units, the others have no effect at first.
        trace: the one that the configuration names, if it names one.
        executor: where runs are simulated; the result does not depend on it.
        on_generation: called after each with its number, mean score and, when it was validated,
            the gain over trunk reservation.

    Returns:
        The path of the rule.
    """
    given = None if trace is None else fingerprint(trace)
    if given != configuration.trace:
        raise ConfigurationError(
            "trace", given, f"the trace of the configuration, {configuration.trace}"
        )
    make_folder(out)
    progress = _start(configuration, out, initial)
    deviations = configuration.population.deviations
    decayed = _is_output(configuration.hidden_units)
    started = time.perf_counter() - progress.seconds
    while progress.generation < configuration.generations:
        g = progress.generation
        sampled = partial(_sample, configuration, trace, progress.weights, g)
        samples = executor.in_order(sampled, range(configuration.scenarios))
        gradient = np.mean([sample[0] for sample in samples], axis=0)
        direction = progress.momentum.step(gradient)
        progress.weights = progress.weights * (1.0 - configuration.weight_decay * decayed)
        progress.weights = progress.weights + configuration.step_size(g) * deviations * direction
        progress.average += (progress.weights - progress.average) / min(_AVERAGED, g + 1.0)
        progress.generation += 1
        row = {"generation": g + 1.0, "score": float(np.mean([s[1] for s in samples]))}
        if (g + 1) % configuration.validate_every == 0:
            row |= _validate(configuration, trace, progress.average, executor)
            progress.seconds = time.perf_counter() - started
            progress.curve.append({**row, "seconds": round(progress.seconds, 1)})
            _save(configuration, out, progress)
        if on_generation is not None:
            on_generation(row)
    progress.seconds = time.perf_counter() - started
    _save(configuration, out, progress)
    return out / RULE_NAME


def _sample(
    configuration: RuleTraining,
    trace: Trace | None,
    weights: np.ndarray,
    generation: int,
    k: int,
) -> tuple[np.ndarray, float]:
    """The gradient on scenario k of a generation; runs in a worker."""
    number = generation * configuration.scenarios + k
    seed = np.random.SeedSequence([configuration.seed, _TRAINING_STREAM, number])
    scenario = configuration.scenario(number, trace)
    return sampled_gradient(scenario, weights, configuration.population, seed)


def _validate(
    configuration: RuleTraining, trace: Trace | None, weights: np.ndarray, executor: Executor
) -> dict[str, float]:
    """Mean gain over trunk reservation in shares of R*, on requests that were never trained on."""
    gain = partial(_gain, configuration, trace, rounded(weights))
    gains = executor.in_order(gain, range(configuration.validation_scenarios))
    error = float(np.std(gains, ddof=1) / np.sqrt(len(gains)))
    return {"gain": float(np.mean(gains)), "gain_error": error}


def _gain(configuration: RuleTraining, trace: Trace | None, weights: np.ndarray, k: int) -> float:
    seed = np.random.SeedSequence([configuration.seed, _VALIDATION_STREAM, k])
    pairs = np.tile(np.stack([weights, np.zeros(len(weights))]), (configuration.pairs, 1, 1))
    scores = scores_of_pairs(
        configuration.scenario(_VALIDATION + k, trace),
        pairs,
        configuration.hidden_units,
        seed.spawn(configuration.pairs),
    )
    return float((scores[:, 0] - scores[:, 1]).mean())


def _reading(hidden_units: int) -> RankCorrection:
    """Each hidden unit reads one feature, without effect."""
    network = RankCorrection.none(hidden_units)
    state = np.zeros(network.state.shape)
    for unit, name in enumerate(HIDDEN_INPUTS[:hidden_units]):
        state[unit, STATE_FEATURES.index(name)] = _FIRST_GAIN
    return dataclasses.replace(network, state=state)


def _initial_network(hidden_units: int) -> RankCorrection:
    """The rule acts as trunk reservation."""
    network = _reading(hidden_units)
    output = np.array(network.output)
    output[CORRECTIONS.index("by prefill time"), 0] = _OUT_OF_REACH
    return dataclasses.replace(network, output=output)


def _widened(network: RankCorrection, hidden_units: int) -> RankCorrection:
    """The same rule with more hidden units, which have no effect yet."""
    own = network.hidden_units
    if own > hidden_units:
        raise ConfigurationError(
            "hidden_units", hidden_units, f"at least {own}, the hidden units of initial"
        )
    wider = _reading(hidden_units)
    static, state, output, gain = (
        np.array(getattr(wider, name)) for name in ("static", "state", "output", "gain")
    )
    static[:own], state[:own] = network.static, network.state
    # The last column is the constant, not a unit.
    for new, old in ((output, network.output), (gain, network.gain)):
        new[:, :own], new[:, -1] = old[:, :own], old[:, -1]
    return RankCorrection(static, state, output, gain)


def _is_output(hidden_units: int) -> np.ndarray:
    """1 for weights of outputs, 0 for others; shape (D,)."""
    shapes = weight_shapes(hidden_units)
    return np.concatenate(
        [
            np.full(np.prod(shape), float(name in ("output", "gain")))
            for name, shape in shapes.items()
        ]
    )


def _start(configuration: RuleTraining, out: Path, initial: RankCorrection | None) -> _Progress:
    if (out / STATE_NAME).exists():
        return _resumed(configuration, out)
    hidden = configuration.hidden_units
    network = _initial_network(hidden) if initial is None else _widened(initial, hidden)
    weights = network.parameters
    momentum = Momentum(np.zeros(len(weights)))
    return _Progress(weights, weights.copy(), momentum, 0, 0.0, [])


def _resumed(configuration: RuleTraining, out: Path) -> _Progress:
    file = out / STATE_NAME
    try:
        with np.load(file, allow_pickle=False) as arrays:
            state = dict(arrays)
        saved = json.loads(str(state["settings"]))
        generation = int(state["generation"])
        progress = _Progress(
            state["weights"],
            state["average"],
            Momentum(state["mean"], float(state["square"]), generation),
            generation,
            float(saved["seconds"]),
            list(saved["curve"]),
        )
        trained = dict(saved["configuration"])
    except UNREADABLE as error:
        raise CheckpointError(
            f"training {file}: got no state that `python -m research train-rule` wrote "
            f"({' '.join(str(error).split())}); choose another folder"
        ) from None
    wanted = configuration.to_dict()
    if trained != wanted:
        other = sorted(k for k in wanted if trained.get(k) != wanted[k])
        raise ConfigurationError(
            f"The training in {str(out)!r} has other settings of {', '.join(other)}; "
            "use the same ones, or choose another folder."
        )
    return progress


def _save(configuration: RuleTraining, out: Path, progress: _Progress) -> None:
    """Write the state, from which a run goes on, and the rule."""
    settings = {
        "configuration": configuration.to_dict(),
        "seconds": progress.seconds,
        "curve": progress.curve,
    }
    state = io.BytesIO()
    np.savez(
        state,
        settings=json.dumps(settings),
        weights=progress.weights,
        average=progress.average,
        mean=progress.momentum.mean,
        square=progress.momentum.square,
        generation=progress.generation,
    )
    write_whole(out / STATE_NAME, state.getvalue())
    LearnedRule(
        network=RankCorrection.from_parameters(
            rounded(progress.average), configuration.hidden_units
        ),
        configuration=configuration.to_dict(),
        generations=progress.generation,
        seconds=round(progress.seconds, 1),
        curve=progress.curve,
        versions=versions(),
    ).save(out / RULE_NAME)
