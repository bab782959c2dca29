"""Tell which weights a training kept, and whether they still play the initial rule."""

from __future__ import annotations

from llm_sched_env.agents.checkpoint import Checkpoint


def kept_weights(checkpoint: Checkpoint) -> str:
    """In a line, from the evaluations that chose the weights; empty where none were made."""
    if not checkpoint.evaluations:
        return ""
    if checkpoint.weights_steps > 0:
        return (
            f"its weights are those of step {checkpoint.weights_steps:,}, which scored best in "
            "training"
        )
    if len(checkpoint.evaluations) == 1:
        return "its weights are those of step 0, the only ones that were evaluated in training"
    kept = "no update scored better in training, so its weights are those of step 0"
    rule = starting_rule(checkpoint)
    return f"starts as {rule}; {kept} and its row is that rule's" if rule else kept


def starting_rule(checkpoint: Checkpoint) -> str | None:
    """The reference that the untrained agent equalled on every run; None if there is none."""
    first = checkpoint.evaluations[0]
    if first["steps"] > 0:
        return None
    for name in checkpoint.configuration.references:
        difference = (first.get(f"minus {name}{end}") for end in ("", " low", " high"))
        if all(value == 0.0 for value in difference):
            return name
    return None
