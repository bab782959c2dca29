"""A scheduler that no package registers: it enters the leaderboard by its import path."""

from __future__ import annotations


class LessThanPlanned:
    """Half of the plan's admission rates, with the credit gate and dynamic pools."""

    environment = {"gate": "token-bucket", "router": "solo-first", "pools": "dynamic"}  # noqa: RUF012

    def reset(self, instance, plan, n_gpus, rng):
        self.action = plan.action.copy()
        self.action[: instance.n_classes] *= 0.5

    def act(self, observation, info):
        return self.action


class TwoClasses(LessThanPlanned):
    """The same, trained on two classes so to speak."""

    def require_classes(self, n_classes):
        from llm_sched_env.errors import CheckpointError

        if n_classes != 2:
            raise CheckpointError("two classes only")
