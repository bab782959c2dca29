"""An agent that is asked at every event, known by its import path."""

from __future__ import annotations

from typing import ClassVar

import numpy as np


class AtEvents:
    """Takes any possible action, and looks again after a tenth of a second."""

    environment: ClassVar = {
        "control": "event",
        "router": "agent",
        "pools": "dynamic",
        "wake_interval": 0.1,
    }

    def reset(self, instance, plan, n_gpus, rng) -> None:
        self.rng = rng

    def act(self, observation, info) -> int:
        possible = np.flatnonzero(info["action_mask"])
        return int(self.rng.choice(possible))
