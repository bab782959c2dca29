"""Priorities and weights that a rule takes from the plan, in addition to its controls."""

from __future__ import annotations

import numpy as np

from llm_sched_env.errors import ConfigurationError
from llm_sched_env.model.instance import Instance
from llm_sched_env.model.priority_network import CLASS_FEATURES, ClassProfile, RankCorrection
from llm_sched_env.model.slot_ranks import SlotRanks
from llm_sched_env.simulation.scheduling.rules import (
    ARRIVAL_ROUTERS,
    ROUTERS_BY_PROBABILITY,
    DispatchRule,
    EventDispatch,
    RoutedDispatch,
    Rule,
)
from llm_sched_env.simulation.state.layout import EngineState

CONTROLLED_RANKS = ("priority", "reserve")
"""Fields of :class:`SlotRanks` that controls may change."""
FIXED_RANKS = ("decode_priority", "decode_reserve", "precedes_decodes")
"""Fields of :class:`SlotRanks` that stay as the plan has them."""
WEIGHTS = ("solo_weight", "mixed_weight")
"""Rows of a rule's weights: fields of the class parameters."""


def set_rule_parameters(
    states: EngineState,
    rule: Rule,
    instance: Instance,
    ranks: SlotRanks | None,
    weights: np.ndarray | None,
) -> None:
    """Write ranks and weights, as far as the rule has any, into the records of the classes.

    Args:
        states: one stacked cluster.
        rule: whose.
        instance: of the classes.
        ranks: of the pairs of a class and a group; needed for the gate ``bid-price``.
        weights: shape (2, I), rows as in :data:`WEIGHTS`; needed for the router
            ``weighted-randomized``.
    """
    require_known_groups(rule, instance)
    checked = _ranks(rule, instance, ranks)
    for field in (*CONTROLLED_RANKS, *FIXED_RANKS):
        states.control[field] = getattr(checked, field)
    for field, row in zip(WEIGHTS, _weights(rule, instance, weights), strict=True):
        states.parameters[field] = row


def require_known_groups(rule: Rule, instance: Instance) -> None:
    """Raise ConfigurationError for a rule of one kind of GPU and an instance with several."""
    _require_room_to_finish(rule, instance)
    if len(instance.groups) == 1:
        return
    names = ", ".join(group.name for group in instance.groups)
    if rule.router in ROUTERS_BY_PROBABILITY:
        raise ConfigurationError(
            "router", rule.router, f"one that routes by groups of GPUs ({names})", "use solo-first"
        )
    if isinstance(rule, DispatchRule) and (rule.correction or rule.foresight):
        raise ConfigurationError(
            "rule",
            "one with a correction or foresight",
            f"one that goes by a plan of the groups ({names})",
            "use trunk-reservation",
        )
    if rule.router == "coupled" and any(group.role != "mixed" for group in instance.groups):
        raise ConfigurationError(
            "router", "coupled", "one that moves requests between groups", "use solo-first"
        )


def _require_room_to_finish(rule: Rule, instance: Instance) -> None:
    """Refuse what can stop for ever: KV caches held for a move where others want to decode.

    Prefilled requests that wait on a GPU could take the room without which none of them decodes.
    """
    held = instance.has_links and instance.hardware.kv_tokens is not None
    stays = rule.router == "coupled" or rule.routes_on_arrival
    if held and not stays and any(group.role == "mixed" for group in instance.groups):
        raise ConfigurationError(
            "router",
            rule.router,
            f"coupled, or one of {', '.join(ARRIVAL_ROUTERS)}, where GPUs of the role mixed have "
            "links and a limit of KV tokens",
            "give every group the role prefill or decode, or leave out the link or kv_tokens",
        )


def _ranks(rule: Rule, instance: Instance, ranks: SlotRanks | None) -> SlotRanks:
    n_groups = len(instance.groups)
    shape = (len(SlotRanks._fields), instance.n_classes * n_groups)
    if rule.gate == "decode-per-prompt":
        ratio = np.repeat(instance.output_tokens / instance.prompt_tokens, n_groups)
        return SlotRanks(*np.zeros(shape))._replace(priority=ratio)
    if not isinstance(rule, EventDispatch) and rule.gate == "static-priority":
        by_class = static_ranks(rule, [c.name for c in instance.classes])
        return SlotRanks(*(np.repeat(row, n_groups) for row in by_class))
    if rule.gate != "bid-price":
        return SlotRanks(*np.zeros(shape))
    checked = np.asarray(np.nan if ranks is None else ranks, float)
    if checked.shape != shape or np.isnan(checked).any():
        raise ConfigurationError(
            "ranks",
            ranks,
            f"SlotRanks of {shape[1]} numbers each for the gate bid-price",
            "planning.slot_ranks gives those of a plan",
        )
    return SlotRanks(*checked)


def static_ranks(rule: DispatchRule | RoutedDispatch, names: list[str]) -> SlotRanks:
    """The ranks of a static priority: its places, and reserves plus the slot that is taken."""
    order = list(names if rule.priority is None else rule.priority)
    if sorted(order) != sorted(names):
        raise ConfigurationError("priority", order, f"each of {', '.join(names)} once")
    slots = dict(rule.reserves)
    for name in slots:
        if name not in names:
            raise ConfigurationError("reserve of class", name, f"one of {', '.join(names)}")
    ranks = SlotRanks(*np.zeros((len(SlotRanks._fields), len(names))))
    return ranks._replace(
        priority=-np.array([order.index(name) for name in names], float),
        reserve=np.array([np.floor(slots.get(name, 0.0)) + 1.0 for name in names]),
    )


def _weights(rule: Rule, instance: Instance, weights: np.ndarray | None) -> np.ndarray:
    wanted = (len(WEIGHTS), instance.n_classes)
    if rule.router != "weighted-randomized":
        return np.zeros(wanted)
    checked = np.asarray(np.nan if weights is None else weights, float)
    if checked.shape != wanted or not (np.isfinite(checked) & (checked >= 0)).all():
        raise ConfigurationError(
            "weights",
            weights,
            f"finite numbers >= 0 of shape {wanted} for the router weighted-randomized",
            "the plan has them",
        )
    return checked


def set_class_profile(states: EngineState, profile: ClassProfile | None) -> ClassProfile:
    """Write what a correction of ranks needs into settings and classes."""
    n_classes = states.parameters.shape[1]
    if profile is None or profile.features.shape != (n_classes, len(CLASS_FEATURES)):
        raise ConfigurationError(
            "profile",
            profile,
            f"one of {n_classes} classes for a rule with a correction",
            "the plan has it",
        )
    for name in ("slot_scale", "rank_scale", "ahead_seconds"):
        states.settings[name] = getattr(profile, name)
    for name in (
        "prefill_cost", "decode_cost", "prefill_time_priority", "planned_slots", "load_seconds",
    ):  # fmt: skip
        states.parameters[name] = getattr(profile, name)
    return profile


def forget_all_arrivals(states: EngineState) -> None:
    """Estimates of arrival rates, seen and foreseen, as long as nothing is known: the means."""
    for name in ("recent_rate", "late_rate", "soon_rate", "later_rate"):
        states.control[name] = states.parameters["admissible_rate"]


def set_correction(
    states: EngineState, k: int, correction: RankCorrection, profile: ClassProfile
) -> None:
    """Give cluster k a network; it must have the hidden units that the states have room for."""
    states.class_bias[k] = profile.features @ correction.static[:, :-1].T + correction.static[:, -1]
    states.state_weights[k] = correction.state.T
    states.output_weights[k] = correction.output_weights(profile.features)
