"""The engine's state as flat arrays: what each field holds and its unit.

I classes, G groups of GPUs of one kind, n GPUs, B batch slots, R request records (R grows on
demand). All times are seconds since the start of the run, token counts are floats, everything else
is an integer.

A pair is a class and a group; pair (i, g) has the number i G + g. What belongs to class i alone,
such as the length of its queue, stands at its first pair (i, 0), so that sums over the pairs of a
class are its totals.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

# Sets of GPUs kept for O(1) random choice: see availability.py.
SOLO_DECODE, MIXED_DECODE, PREFILL = 0, 1, 2
N_AVAILABLE_SETS = 3

# Iteration laws.
TWO_SPEED, AFFINE, KV_AWARE = range(3)

# Decode lines: one over classes (the first), or one per pool under randomized routing; with lines
# by class, each of them is one per class: line * I + class.
SOLO_LINE = 0
MIXED_LINE = 1
N_DECODE_POOLS = 2

TTFT, TPOT, E2E = 0, 1, 2
N_LATENCIES = 3

SUB_BINS_BITS = 6
LOWEST_EXPONENT, HIGHEST_EXPONENT = -20, 24  # 2^-20 s (1 us) to 2^24 s (194 days)
HISTOGRAM_BINS = (HIGHEST_EXPONENT - LOWEST_EXPONENT) << SUB_BINS_BITS

_f8, _i8, _i4 = np.float64, np.int64, np.int32

SETTINGS = np.dtype(
    [
        ("gate", _i8),
        ("router", _i8),
        ("pools", _i8),
        ("prefill_first", _i8),
        ("drop_late", _i8),  # 1: who cannot have a first token in time leaves the prefill queue
        ("class_lines", _i8),  # 1: decode lines by class
        ("bill_own_tokens", _i8),  # 1: a request's own counts, 0: its class means
        ("quadratic_clock", _i8),  # 1: KV-aware law or boundary starts: quadratic_clock.py
        ("steady", _i8),  # 1: constant arrival rates, 0: profiles or modulation
        ("prefill_queues", _i8),  # I, or n I where every GPU has its own
        ("heap_slots", _i8),  # B of the group with the most: places of each GPU among the marks
        ("kv_tokens", _f8),  # per GPU, the same in all groups; inf: no limit
        ("credit_cap", _f8),
        ("peak_rate", _f8),  # of arrivals, all classes, whole cluster, 1/s; 0 when recorded
        ("prefill_price", _f8),
        ("decode_price", _f8),
        ("slot_scale", _f8),  # corrected ranks: slots per unit of a feature or correction
        ("rank_scale", _f8),  # ... priority per unit of a correction
        ("ahead_seconds", _f8),  # ... how far slots that become free are foreseen
        ("block_tokens", _f8),  # of a block of a cache
        ("refresh_seconds", _f8),  # between refreshes of what a router sees; 0: always true
    ]
)

# GPUs of one kind: those from ``first_gpu`` on.
GROUP = np.dtype(
    [
        ("first_gpu", _i8),
        ("n_gpus", _i8),
        ("mixed_pool_size", _i8),  # static pools: of these, the first so many
        ("prefills", _i8),  # 0: the role is decode
        ("decodes", _i8),  # 0: the role is prefill
        ("batch_slots", _i8),
        ("law", _i8),  # TWO_SPEED, AFFINE or KV_AWARE
        ("whole_chunks", _i8),  # 1: a prefill takes ceil(P / C) iterations, 0: P / C
        ("whole_iterations", _i8),  # 1: boundary starts, decodes take ceil(D) iterations
        ("padded_chunks", _i8),  # 1: the last chunk of a prompt counts as a whole one
        ("solo_seconds", _f8),  # per iteration without a prefill, c or s0
        ("mixed_seconds", _f8),  # per iteration with a prefill, two-speed, or m0
        ("token_seconds", _f8),  # affine: a, per token above flat_tokens
        ("flat_tokens", _f8),  # affine: b0
        ("solo_decode", _f8),  # KV-aware: s1
        ("solo_kv", _f8),  # ... s2
        ("mixed_prompt", _f8),  # ... m1
        ("mixed_decode", _f8),  # ... m2
        ("mixed_kv", _f8),  # ... m3
        ("mixed_context", _f8),  # ... m4
        ("typical_solo_seconds", _f8),  # of an iteration of a full batch
        ("typical_mixed_seconds", _f8),
        ("chunk_tokens", _f8),
        ("link_token_seconds", _f8),  # of a move from here: per token of the prompt
        ("link_seconds", _f8),  # ... per request
    ]
)

CLASS_PARAMETERS = np.dtype(
    [
        ("prompt_tokens", _f8),  # mean of the requests that are not rejected
        ("output_tokens", _f8),
        ("arrival_rate", _f8),  # long-run mean, whole cluster, 1/s
        ("admissible_rate", _f8),  # of these, the requests that a KV limit does not reject
        ("expected_rate", _f8),  # arrivals that the plan in force reckons with, whole cluster, 1/s
        ("peak_rate", _f8),  # greatest rate, whole cluster, 1/s
        ("patience_rate", _f8),  # 1/s
        ("cumulative_share", _f8),  # of peak rates, over classes 0..i
        ("ttft_deadline", _f8),  # greatest good TTFT, s; inf: no bound
        ("tpot_deadline", _f8),  # ... TPOT, s per token
        ("solo_weight", _f8),  # weighted routing: of the class's line of the solo pool
        ("mixed_weight", _f8),  # ... of the mixed pool
        ("prefill_cost", _f8),  # corrected ranks: what the plan charges for an admission
        ("decode_cost", _f8),  # ... for a decode alone
        ("prefill_time_priority", _f8),  # ... what a second of its prefill earns
        ("planned_slots", _f8),  # ... of the cluster, under the plan
        ("load_seconds", _f8),  # ... of a GPU's time that a request takes
    ]
)

# Of a pair; those marked (class) of a class.
CLASS_CONTROL = np.dtype(
    [
        ("prefill_rate", _f8),  # mu_p, 1/s
        ("prefill_target", _f8),  # n x*, GPUs
        ("queue_target", _f8),  # n q_p*, requests (class)
        ("routing", _f8),  # probability of the solo pool; several groups: share of the decodes
        ("credit_rate", _f8),  # admissions per second, whole cluster
        ("credit", _f8),  # at credit_time
        ("credit_time", _f8),
        ("unlimited", _i8),  # 1: credit is always full
        ("without_room", _i8),  # bit s: GPUs of set s had no room for the head: decisions.py
        ("priority", _f8),  # gates that rank: greater goes first
        ("reserve", _f8),  # ... free slots of the cluster without which the class waits
        ("decode_priority", _f8),  # router bid-price: of waiting decodes; greater goes first
        ("decode_reserve", _f8),  # ... free slots of the cluster without which they wait
        ("precedes_decodes", _i8),  # ... 1: it is admitted before any decode that waits
        ("recent_rate", _f8),  # corrected ranks: arrivals seen, at rate_time, cluster, 1/s (class)
        ("late_rate", _f8),  # ... with a longer memory (class)
        ("rate_time", _f8),  # (class)
        ("soon_rate", _f8),  # ... arrivals that a known profile lets expect soon (class)
        ("later_rate", _f8),  # ... and later (class)
    ]
)

# Requests of a pair: in service in the group; queues at the first pair of the class.
CLASS_STATE = np.dtype(
    [
        ("q_prefill", _i8),
        ("x", _i8),
        ("q_decode", _i8),
        ("y_mixed", _i8),
        ("y_solo", _i8),
        ("moving", _i8),  # of q_decode, those whose KV cache is on its way to the group
    ]
)

OCCUPANCIES = ("q_prefill", "x", "q_decode", "y_mixed", "y_solo")

COUNTS = (
    "initial",
    "arrived",
    "rejected",
    "admitted",
    "prefilled",
    "completed",
    "abandoned_prefill",
    "abandoned_decode",
)

# Of the completed requests; one may be late in both ways.
DEADLINE_COUNTS = ("good", "late_ttft", "late_tpot")

# An area is -sum(change * time) since the last reset; with the current count it gives the
# time integral without touching the other classes (metrics.py).
CLASS_TOTALS = np.dtype(
    [(f"{name}_area", _f8) for name in OCCUPANCIES]
    + [(name, _i8) for name in (*COUNTS, *DEADLINE_COUNTS)]
    + [("prompt_tokens", _f8), ("output_tokens", _f8)]  # of finished prefills and decodes
    + [("bundled_revenue", _f8), ("prefill_revenue", _f8), ("decode_revenue", _f8)]
    + [("good_revenue", _f8), ("good_decode_revenue", _f8)]  # of good requests, at completion
    + [("ttft_sum", _f8), ("tpot_sum", _f8), ("e2e_sum", _f8)]
    + [("moved", _i8), ("move_seconds", _f8)]  # KV caches that came over a link, waits included
)

# One cache line. Seconds per iteration are those of its mode and, if affine, of its decodes.
GPU = np.dtype(
    [
        ("iterations", _f8),  # the GPU's clock at updated_time
        ("updated_time", _f8),  # of the last change of speed
        ("iteration_seconds", _f8),
        ("iteration_rate", _f8),  # 1/s
        ("prefill_mark", _f8),  # on the GPU's clock; inf: no prefill
        ("prefill_request", _i4),  # -1: none
        ("decodes", _i4),
        ("membership", _i4),  # bit s: in available set s
        ("is_rescheduled", _i4),
        ("group", _i4),
        ("incoming", _i4),  # slots kept for decodes whose KV cache is on its way
    ]
)

# What the quadratic clock of a GPU follows from, at the clock value of its record; a cache line.
LOAD = np.dtype(
    [
        ("growth", _f8),  # seconds by which each iteration is longer than the one before
        ("kv_tokens", _f8),  # that the decodes attend to
        ("cached_tokens", _f8),  # of the prompt that is prefilled
        ("chunk_tokens", _f8),  # of that prompt an iteration
        ("last_chunk_tokens", _f8),
        ("last_chunk_mark", _f8),  # clock value at which they are left; inf: no shorter chunk
        ("unused", _f8, (2,)),
    ]
)

# Prefills that wait at a GPU or run there, where requests are dispatched on arrival.
BACKLOG = np.dtype([("seconds", _f8), ("prefills", _i4), ("waiting", _i4)])

# The outgoing link of a GPU.
LINK = np.dtype(
    [
        ("free_time", _f8),  # when the last move that is due on it ends
        ("busy_seconds", _f8),  # of moves since the last reset, to their ends
        ("held", _i8),  # finished prefills whose KV cache is still on the GPU
    ]
)

# Blocks that a GPU keeps for reuse, or that the router remembers to have sent there.
CACHE = np.dtype(
    [
        ("capacity", _i8),  # blocks
        ("blocks", _i8),  # that are there
        ("oldest", _i4),  # node that nobody uses, the next to be forgotten; -1: none
        ("newest", _i4),
        ("unused", _i4),  # first node without a block
        ("changes", _i4),  # first node that differs from the last refresh; -1: none
        ("first_bucket", _i8),
        ("bucket_mask", _i8),
        ("tick", _f8),  # number of the last refresh
        ("evictions", _i8),
        ("prompt_tokens", _f8),  # of prefills that started
        ("cached_tokens", _f8),  # ... of these, found in the cache
    ]
)

CACHE_NODE = np.dtype(
    [
        ("key", _i4),  # block
        ("users", _i4),
        ("older", _i4),  # of those that nobody uses; -1: none
        ("newer", _i4),
        ("chain", _i4),  # next node of the bucket, or next unused one; -1: none
        ("next_change", _i4),
        ("previous_change", _i4),
        ("state", _i4),  # bits PRESENT and SEEN: block_cache.py
        ("left_time", _f8),  # since when nobody uses it
    ]
)

# What caches know of a request.
REUSE = np.dtype(
    [
        ("first_block", _i8),  # place of its blocks
        ("session", _i8),
        ("cached_tokens", _f8),  # of its prompt, found when its prefill started
        ("expected_tokens", _f8),  # prompt tokens left when it was sent to its GPU
        ("blocks", _i4),
        ("prompt_blocks", _i4),  # of these, of the prompt
        ("held", _i4),  # first so many in use on its GPU
        ("unused", _i4, (1,)),
    ]
)

# Of prefills that started, by pair.
REUSE_TOTALS = np.dtype([("prompt_tokens", _f8), ("cached_tokens", _f8)])

# What a router knows of a GPU: as of the last refresh, and what it has sent since.
SIGNAL = np.dtype(
    [
        ("tokens", _f8),  # prompts in service, now
        ("tick", _f8),  # number of the last refresh
        ("shown_waiting", _f8),  # requests that wait for their prefill
        ("shown_running", _f8),  # requests in service
        ("shown_tokens", _f8),
        ("sent", _f8),  # requests since the refresh
        ("queue_seconds", _f8),  # of prefills to do, at queue_time
        ("queue_time", _f8),
        ("sent_tokens", _f8),  # prompts of all requests that were sent
        ("sent_matched", _f8),  # ... of these, that matched
        ("idle_seconds", _f8),  # of the block that has to go for the request, scratch
        ("last_cold", _f8),  # number of the last cold request that was sent here; 0: none
        ("score", _f8),  # scratch
        ("matched", _f8),  # blocks that it is known for, scratch
        ("remembered", _f8),  # blocks that the router sent there, scratch
    ]
)

# One cache line.
REQUEST = np.dtype(
    [
        ("arrival_time", _f8),
        ("first_token_time", _f8),
        ("prompt_tokens", _f8),
        ("output_tokens", _f8),
        ("index", _i8),  # order of arrival; negative: present at the start
        ("prefilled_event", _i8),  # number of the event that ended its prefill
        ("patience_seconds", _f8),  # in each queue; negative: drawn when it waits
        ("request_class", _i4),
        ("prefill_gpu", _i4),  # where its prefill was; -1: none, present at the start
    ]
)

# A place in a queue. Apart from the requests, since few wait at a time: they stay in the cache.
WAITING = np.dtype(
    [
        ("request", _i4),
        ("next", _i4),  # of the same queue, or the next unused entry; -1: none
        ("previous", _i4),
        ("queue", _i4),  # -1: nobody waits here
        ("patience_place", _i4),  # in the heap of deadlines; -1: not in it
        ("request_class", _i4),
    ]
)

QUEUE = np.dtype([("head", _i4), ("tail", _i4)])  # waiting entries; -1: empty

CLOCK = np.dtype(
    [
        ("time", _f8),
        ("metrics_start", _f8),
        ("paid_from", _f8),  # requests that arrived before earn nothing
        ("next_arrival_time", _f8),
        ("credit_time", _f8),  # next credit timer; inf: none
        ("credit_pair", _i8),
        ("next_index", _i8),  # of the next arriving request
        ("first_recorded", _i8),  # place of request 0 in the recorded stream
        ("unsent", _i8),  # request that an agent has to send to a GPU; -1: none
        ("first_candidate", _i8),  # GPU that comes first for it among equal ones
        ("next_class", _i8),  # its class, unless it is recorded
        ("next_candidate", _i8),  # number of the next candidate for an arrival
        ("routing_draws", _i8),
        ("initial_requests", _i8),
        ("waiting_prefills", _i8),  # all classes
        ("waiting_decodes", _i8),  # all lines
        ("unused_waiting", _i8),  # first unused waiting entry
        ("patience_size", _i8),
        ("free_size", _i8),
        ("rescheduled_size", _i8),
        ("moves", _i8),  # KV caches on their way or waiting for a link
        ("round_robin_gpu", _i8),
        ("modulation_state", _i8),
        ("modulation_jumps", _i8),
        ("modulation_until", _f8),  # time of the next jump
        ("foreseen_time", _f8),  # when soon_rate and later_rate were read
        ("events", _i8),
        ("logged", _i8),
    ]
)

EVENT = np.dtype([("time", _f8), ("kind", _i8), ("index", _i8), ("gpu", _i8)])

(
    ARRIVE,
    PREFILL_START,
    PREFILL_END,
    DECODE_START,
    DECODE_END,
    LEAVE_PREFILL,
    LEAVE_DECODE,
    REJECT,
    MOVE_START,
    MOVE_END,
) = range(10)


class EngineState(NamedTuple):
    """Everything simulated clusters own; a copy of these arrays is a snapshot.

    Shapes are those of one cluster. N clusters are stored with a leading axis N and run as
    rows of it, each as if alone.
    """

    settings: np.ndarray  # (1,) SETTINGS
    keys: np.ndarray  # (9,) uint64, one per random stream
    clock: np.ndarray  # (1,) CLOCK
    groups: np.ndarray  # (G,) GROUP
    parameters: np.ndarray  # (I,) CLASS_PARAMETERS
    control: np.ndarray  # (I G,) CLASS_CONTROL
    classes: np.ndarray  # (I G,) CLASS_STATE
    totals: np.ndarray  # (I G,) CLASS_TOTALS
    histograms: np.ndarray  # (3, I, HISTOGRAM_BINS) int64; no bins: latencies are not recorded
    gpus: np.ndarray  # (n,) GPU
    loads: np.ndarray  # (n,) LOAD; empty without a quadratic clock
    class_bias: np.ndarray  # (I, H) of the hidden units; H = 0: ranks are not corrected
    state_weights: np.ndarray  # (F, H) of the features of the moment
    output_weights: np.ndarray  # (I, H + 1, O) of the hidden units and, last, a constant
    features: np.ndarray  # (F,) last read, scratch
    hidden: np.ndarray  # (H,) scratch
    corrections: np.ndarray  # (I, O) last computed, scratch
    class_decodes: np.ndarray  # (n, I) decodes of each class on each GPU
    decode_marks: np.ndarray  # (n, B) in a row: per GPU a heap of finish marks on its clock
    decode_requests: np.ndarray  # ... the request of each mark
    kv_reserved: np.ndarray  # (n,) tokens; empty without a limit
    completion_times: np.ndarray  # tournament tree over the GPUs' next completions
    completion_gpus: np.ndarray  # the GPU of each node
    rescheduled: np.ndarray  # (n,) GPUs whose next completion has changed in this event
    available: np.ndarray  # (3, n) members of each set, those of a group from its first GPU on
    available_positions: np.ndarray  # (n, 3) place of a GPU in each set that it is in
    available_sizes: np.ndarray  # (3,) of all groups
    group_available_sizes: np.ndarray  # (G, 3)
    backlogs: np.ndarray  # (n,) BACKLOG; empty where the cluster has the queues
    links: np.ndarray  # (n,) LINK; empty where moves are free
    move_times: np.ndarray  # (n B + 1,) ends of moves, heap order; [0] is inf when there is none
    move_requests: np.ndarray  # ... the request of each move
    move_gpus: np.ndarray  # ... and the GPU that it goes to
    queues: np.ndarray  # QUEUE: prefill queues by class, or by GPU and class, then decode lines
    requests: np.ndarray  # (R,) REQUEST
    free_requests: np.ndarray  # (R,) stack of unused records
    waiting: np.ndarray  # (R,) WAITING
    patience_keys: np.ndarray  # (R,) deadlines, heap order; [0] is inf when empty
    patience_items: np.ndarray  # (R,) waiting entries
    reuse: np.ndarray  # (R,) REUSE; this and what follows empty without caches
    reuse_totals: np.ndarray  # (I G,) REUSE_TOTALS
    caches: np.ndarray  # (n,) CACHE or, with the router's memory, (2 n,)
    cache_nodes: np.ndarray  # CACHE_NODE, those of a cache in a row
    cache_buckets: np.ndarray  # first node of each bucket, -1: none
    block_ids: np.ndarray  # blocks of all recorded requests in a row, small numbers
    signals: np.ndarray  # (n,) SIGNAL; empty without a router that looks at them
    scorer_weights: np.ndarray  # of the router weighted: scorers.py


class RequestStream(NamedTuple):
    """A recorded stream of requests in order of arrival."""

    arrival_time: np.ndarray  # (K,) seconds, non-decreasing
    request_class: np.ndarray  # (K,) int32
    prompt_tokens: np.ndarray  # (K,)
    output_tokens: np.ndarray  # (K,)
    patience_seconds: np.ndarray = np.empty(0)  # (K,) in each queue; empty: drawn
    session: np.ndarray = np.empty(0, _i8)  # (K,) number of its conversation; empty: none
    block_ids: np.ndarray = np.empty(0, _i8)  # blocks of all requests in a row
    block_starts: np.ndarray = np.empty(0, _i8)  # (K + 1,) first block of each; empty: none


STREAM_TYPES = {
    "arrival_time": (_f8, 1),
    "request_class": (_i4, 1),
    "prompt_tokens": (_f8, 1),
    "output_tokens": (_f8, 1),
    "patience_seconds": (_f8, 1),
    "session": (_i8, 1),
    "block_ids": (_i8, 1),
    "block_starts": (_i8, 1),
}
"""Type and dimensions of each array of a :class:`RequestStream`."""

DRAWN_REQUEST = np.dtype(
    [
        ("arrival_time", _f8),
        ("request_class", _i4),
        ("prompt_tokens", _f8),
        ("output_tokens", _f8),
    ],
    align=True,
)

LENGTHS = np.dtype(
    [
        ("kind", _i8),  # EXPONENTIAL ...
        ("scale", _f8),  # tokens; what it means depends on the kind: lengths.py
        ("shape_parameter", _f8),
        ("first", _i8),  # empirical: values[first:first + count]
        ("count", _i8),
    ]
)

PROFILE = np.dtype([("first", _i8), ("count", _i8), ("period", _f8)])  # count 0: constant


class Workload(NamedTuple):
    """What arrives: tables that are read, never written, and shared by all clusters.

    S states of the modulating chain, 0 without modulation.
    """

    recorded: RequestStream  # empty arrays: requests are drawn
    lengths: np.ndarray  # (2, I) LENGTHS: prompts, outputs
    length_values: np.ndarray  # observed lengths of all empirical distributions, tokens
    profiles: np.ndarray  # (I,) PROFILE
    profile_times: np.ndarray  # points of all profiles, seconds from the start of a period
    profile_multipliers: np.ndarray  # rate at each point over the mean rate
    state_exit_rates: np.ndarray  # (S,) 1/s
    state_jumps: np.ndarray  # (S, S) cumulative probabilities of the next state
    state_shares: np.ndarray  # (S,) cumulative stationary probabilities
    state_multipliers: np.ndarray  # (S, I) rate in a state over the mean rate


WORKLOAD_TYPES = {
    "lengths": (LENGTHS, 2),
    "length_values": (_f8, 1),
    "profiles": (PROFILE, 1),
    "profile_times": (_f8, 1),
    "profile_multipliers": (_f8, 1),
    "state_exit_rates": (_f8, 1),
    "state_jumps": (_f8, 2),
    "state_shares": (_f8, 1),
    "state_multipliers": (_f8, 2),
}
"""The same of a :class:`Workload`, but for its recorded stream."""
