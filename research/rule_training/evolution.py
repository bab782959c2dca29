"""Evolution strategy: estimate the gradient of the score by perturbing all weights.

Salimans et al. (arXiv 1703.03864): the gradient of the mean score under Gaussian noise on the
weights, from antithetic pairs. Both rules of a pair face the same requests, so that most of the
noise of the simulation cancels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llm_sched_env.model.priority_network import (
    CLASS_FEATURES,
    CORRECTIONS,
    STATE_FEATURES,
    weight_shapes,
)
from research.rule_training.paired_runs import scores_of_pairs
from research.rule_training.scenarios import TrainingScenario

_SMALL_SHARE = 0.002
# A greater one, in these units, is chance.
_GREATEST_DIFFERENCE = 3.0
_MOMENTUM = 0.9
_TINY = 1e-12


@dataclass(frozen=True)
class Population:
    """How a gradient is sampled.

    Attributes:
        pairs: antithetic pairs on each scenario.
        noise: standard deviation of the weights of hidden units.
        output_noise: of the weights of outputs.
        constant_noise: of the constants of outputs.
        gain_noise: of the gains of these constants. Whatever has noise 0 is not trained.
        hidden_units: of the network.
        inputs: features whose weights are trained; those of the others stay as they are.
        reactions: outputs whose weights are trained.
        corrections: outputs whose constants are.
        gains: class features of which these constants' gains are.
    """

    pairs: int
    noise: float
    output_noise: float
    constant_noise: float
    gain_noise: float
    hidden_units: int
    inputs: tuple[str, ...]
    reactions: tuple[str, ...]
    corrections: tuple[str, ...]
    gains: tuple[str, ...]

    @property
    def deviations(self) -> np.ndarray:
        """Noise of each weight, shape (D,)."""
        of_class, of_moment = (
            np.isin(names, self.inputs) for names in (CLASS_FEATURES, STATE_FEATURES)
        )
        reacting = self.output_noise * np.isin(CORRECTIONS, self.reactions)
        given = np.isin(CORRECTIONS, self.corrections)
        outputs = np.column_stack([*[reacting] * self.hidden_units, self.constant_noise * given])
        gained = np.append(np.zeros(self.hidden_units), self.gain_noise)
        noise = {
            "static": self.noise * np.append(of_class, self.constant_noise > 0.0),
            "state": self.noise * of_moment,
            "output": outputs,
            "gain": np.multiply.outer(np.outer(given, gained), np.isin(CLASS_FEATURES, self.gains)),
        }
        return np.concatenate(
            [
                np.broadcast_to(noise[name], shape).ravel()
                for name, shape in weight_shapes(self.hidden_units).items()
            ]
        )


def sampled_gradient(
    scenario: TrainingScenario,
    weights: np.ndarray,
    population: Population,
    seed: np.random.SeedSequence,
) -> tuple[np.ndarray, float]:
    """A sample of the gradient on one scenario, per unit of the noise, and the mean score.

    Differences count in units of their root mean square and a small share of R* together: a
    scenario in which much is at stake does not drown the others, nor one in which nothing is.
    """
    noise_seed, *run_seeds = seed.spawn(1 + population.pairs)
    noise = np.random.default_rng(noise_seed).normal(size=(population.pairs, len(weights)))
    moved = population.deviations * noise
    pairs = np.stack([weights + moved, weights - moved], axis=1)
    scores = scores_of_pairs(scenario, pairs, population.hidden_units, run_seeds)
    differences = scores[:, 0] - scores[:, 1]
    unit = np.sqrt(np.mean(differences**2)) + _SMALL_SHARE
    limited = np.clip(differences / unit, -_GREATEST_DIFFERENCE, _GREATEST_DIFFERENCE)
    return limited @ noise / population.pairs, float(scores.mean())


@dataclass
class Momentum:
    """Gradients of past generations, averaged with weights that fall exponentially.

    Attributes:
        mean: shape (D,).
        square: of their length, per weight that is trained.
        generations: how many gradients are in it.
    """

    mean: np.ndarray
    square: float = 0.0
    generations: int = 0

    def step(self, gradient: np.ndarray) -> np.ndarray:
        """Take in a gradient; the direction to go, shape (D,).

        Its root mean square is about 1 over the weights that are trained; the gradient of the
        others is 0.
        """
        self.generations += 1
        square = float(np.sum(gradient**2)) / max(1, int(np.count_nonzero(gradient)))
        self.mean = _MOMENTUM * self.mean + (1.0 - _MOMENTUM) * gradient
        self.square = _MOMENTUM * self.square + (1.0 - _MOMENTUM) * square
        started = 1.0 - _MOMENTUM**self.generations  # the averages start at 0
        direction: np.ndarray = (self.mean / started) / (np.sqrt(self.square / started) + _TINY)
        return direction
