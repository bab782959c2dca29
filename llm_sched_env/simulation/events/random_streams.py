"""Counter-based random numbers: draw k of a stream is a pure function of its key and k.

Each environment owns one 64-bit key per stream (:data:`STREAMS`), taken from
``numpy.random.SeedSequence``. The bits are those of SplitMix64 started at the key, so request k
has the same class, lengths and patience under every policy: common random numbers for free.
"""

from __future__ import annotations

import math

import numpy as np

from llm_sched_env.simulation.runtime.compiled import compiled

STREAMS = (
    "arrival",
    "class",
    "prompt",
    "output",
    "patience",
    "routing",
    "initial",
    "thinning",
    "modulation",
)
ARRIVAL, CLASS, PROMPT, OUTPUT, PATIENCE, ROUTING, INITIAL, THINNING, MODULATION = range(
    len(STREAMS)
)

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_SHIFT_30, _SHIFT_27, _SHIFT_31, _SHIFT_11 = (
    np.uint64(30),
    np.uint64(27),
    np.uint64(31),
    np.uint64(11),
)
_TO_UNIT = 2.0**-53


def replication_seed(seed: int, replication: int) -> np.random.SeedSequence:
    """The streams of a replication; the policy does not enter: common random numbers."""
    return np.random.SeedSequence(entropy=seed, spawn_key=(replication,))


def stream_keys(seed: np.random.SeedSequence) -> np.ndarray:
    """One 64-bit key per stream, in the order of :data:`STREAMS`; shape (9,), uint64."""
    return seed.generate_state(len(STREAMS), np.uint64)


@compiled
def mixed_bits(bits: np.uint64) -> np.uint64:
    """The finalizer of SplitMix64: 64 bits in which every bit depends on all of the argument's."""
    bits = (bits ^ (bits >> _SHIFT_30)) * _MIX_1
    bits = (bits ^ (bits >> _SHIFT_27)) * _MIX_2
    return bits ^ (bits >> _SHIFT_31)


@compiled
def random_bits(key: np.uint64, counter: int) -> np.uint64:
    """64 random bits: draw ``counter`` of the stream ``key``."""
    return mixed_bits(key + np.uint64(np.int64(counter)) * _GOLDEN)


@compiled
def uniform(key: np.uint64, counter: int) -> float:
    """A double in (0, 1]: a multiple of 2^-53 plus half of one."""
    return (np.int64(random_bits(key, counter) >> _SHIFT_11) + 0.5) * _TO_UNIT


@compiled
def exponential(key: np.uint64, counter: int) -> float:
    """An exponential variable of mean 1, by inversion."""
    return -math.log(uniform(key, counter))


@compiled
def random_below(key: np.uint64, counter: int, size: int) -> np.int64:
    """A uniform integer in 0..size-1, size < 2^31, by rejection.

    The lowest bits decide, so a set that gains or loses a few members mostly gives the same
    place: the engine can tell where a coming draw will fall.
    """
    mask = np.int64(size - 1)
    mask |= mask >> 1
    mask |= mask >> 2
    mask |= mask >> 4
    mask |= mask >> 8
    mask |= mask >> 16
    bits = random_bits(key, counter)
    place = np.int64(bits & np.uint64(mask))
    while place >= size:
        bits = mixed_bits(bits)
        place = np.int64(bits & np.uint64(mask))
    return place
