"""Draw the README's moving picture, ``docs/cluster.gif`` (``make cluster-picture``).

Trunk reservation on a dozen GPUs of ``overload``, from the empty cluster on, a frame a second.
"""

from __future__ import annotations

import io
from pathlib import Path

import gymnasium as gym
from PIL import Image

import llm_sched_env  # noqa: F401 - registers the environment
from llm_sched_env.files.atomic import whole_file

OUT = Path(__file__).parents[2] / "docs" / "cluster.gif"
N_GPUS, SECONDS, FRAME_MILLISECONDS = 12, 75, 250


def frames() -> list[Image.Image]:
    """A picture after each second of an episode."""
    env = gym.make(
        "LLMSched-v0",
        instance="overload",
        n_gpus=N_GPUS,
        gate="net-value",
        router="net-value",
        pools="dynamic",
        render_mode="rgb_array",
    )
    env.reset(seed=0)
    control = env.unwrapped.control  # type: ignore[attr-defined]
    action = control.configuration.plan_action(control.plan)
    found = []
    for _ in range(SECONDS):
        env.step(action)
        picture = Image.fromarray(env.render())  # type: ignore[arg-type]
        found.append(picture.quantize(32, dither=Image.Dither.NONE))
    return found


def main() -> None:
    """Write the picture, and say where."""
    first, *others = frames()
    content = io.BytesIO()
    first.save(
        content,
        "GIF",
        save_all=True,
        append_images=others,
        duration=FRAME_MILLISECONDS,
        loop=0,
        optimize=True,
    )
    with whole_file(OUT) as file:
        file.write(content.getvalue())
    print(f"wrote {OUT} ({len(content.getvalue()) / 1e3:.0f} kB)")


if __name__ == "__main__":
    main()
