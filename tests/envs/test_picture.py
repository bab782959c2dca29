"""Pictures of clusters: what they show is what the state holds, at every size."""

from __future__ import annotations

import dataclasses
import sys
import time

import gymnasium as gym
import numpy as np
import pytest

import llm_sched_env as lse
from llm_sched_env.envs import gpu_tiles, picture, picture_style

BLUE, ORANGE, GREEN = picture_style.CLASS_COLOURS[:3]
FREE = picture_style.FREE


def rendered(n_gpus, instance="overload", steps=0, **arguments):
    env = gym.make(
        "LLMSched-v0", n_gpus=n_gpus, instance=instance, start="plan", render_mode="rgb_array",
        **arguments,
    )  # fmt: skip
    env.reset(seed=0)
    inner = env.unwrapped
    action = inner.control.configuration.plan_action(inner.control.plan)
    for _ in range(steps):
        env.step(action)
    return env.render(), inner.control.batch.state(0)


def pixels(image, colour):
    left, top, right, bottom = picture.GPUS_AT
    return int((image[top:bottom, left:right] == colour).all(axis=2).sum())


@pytest.mark.parametrize("n_gpus", [1, 2, 20, 70, 500, 20_000])
def test_every_size_fits_into_one_picture(n_gpus):
    image, _ = rendered(n_gpus)
    assert image.shape == (540, 960, 3)
    assert image.dtype == np.uint8
    assert pixels(image, BLUE) > 0
    assert pixels(image, ORANGE) > 0


def test_slots_are_counted():
    """Areas of the classes' decodes and of free slots are as their numbers."""
    image, state = rendered(4)
    decodes = state.class_decodes.sum(axis=0)
    free = 4 * 16 - state.gpus["decodes"].sum() - (state.gpus["prefill_request"] >= 0).sum()
    slot = pixels(image, FREE) / free if free else pixels(image, BLUE) / decodes[0]
    prefills = int((state.gpus["prefill_request"] >= 0).sum())
    for i, colour in enumerate((BLUE, ORANGE)):
        # A prefill adds a part of a slot to its class.
        assert decodes[i] - 0.01 <= pixels(image, colour) / slot <= decodes[i] + prefills + 0.01


def test_bars_of_many_gpus_have_the_shares_of_the_slots():
    image, state = rendered(500)
    shown = np.array([pixels(image, colour) for colour in (BLUE, ORANGE)], float)
    decodes = state.class_decodes.sum(axis=0)
    np.testing.assert_allclose(shown / shown.sum(), decodes / decodes.sum(), atol=0.05)


def test_prefills_progress():
    _, state = rendered(10, steps=3)
    progress = gpu_tiles._prefill_progress(state)
    running = state.gpus["prefill_request"] >= 0
    assert running.any()
    assert (progress[~running] == 0.0).all()
    assert ((progress >= 0.0) & (progress <= 1.0)).all()
    clock = state.clock["time"][0]
    one = np.flatnonzero(running)[0]
    gpu = state.gpus[one]
    left = gpu["prefill_mark"] - gpu["iterations"]
    left -= (clock - gpu["updated_time"]) * gpu["iteration_rate"]
    needed = state.requests["prompt_tokens"][gpu["prefill_request"]] / 256
    assert progress[one] == pytest.approx(1.0 - left / max(1.0, needed))


def test_memory_is_shown_where_it_is_limited():
    base = lse.presets.base()
    limited = dataclasses.replace(
        base, hardware=dataclasses.replace(base.hardware, kv_tokens=20_000)
    )
    assert pixels(rendered(4, limited)[0], picture_style.INK) > pixels(
        rendered(4)[0], picture_style.INK
    )


def test_revenue_is_the_score_so_far():
    image, state = rendered(5, steps=20)
    share = state.totals["bundled_revenue"].sum() / (20.0 * 5 * lse.plan("overload").value)
    row = image[picture.SIZE[1] - 28, picture._MARGIN :]
    length = int((row == GREEN).all(axis=1).sum())
    assert length / (960 - 2 * 24 - 120) == pytest.approx(share / 1.1, abs=0.01)


def test_many_classes_and_the_kv_aware_law():
    image, _ = rendered(3, "h100-chat", steps=2)
    assert image.shape == (540, 960, 3)
    classes = tuple(
        dataclasses.replace(lse.presets.base().classes[0], name=f"class {k}") for k in range(40)
    )
    crowded = dataclasses.replace(lse.presets.base(), classes=classes)
    assert rendered(2, crowded)[0].shape == (540, 960, 3)


def test_groups_are_below_each_other_by_name():
    image, state = rendered(12, "mixed-fleet", steps=5)
    left, top, right, bottom = picture.GPUS_AT
    rows = (image[top:bottom, left:right] != 255).any(axis=(1, 2))
    tiles = (image[top:bottom, left:right] == BLUE).all(axis=2).any(axis=1)
    assert rows[:12].any()  # the first name
    gap = np.flatnonzero(np.diff(np.flatnonzero(tiles)) > gpu_tiles._CAPTION)
    assert len(gap) >= 1
    shown = np.array([pixels(image, colour) for colour in (BLUE, ORANGE, GREEN)], float)
    decodes = state.class_decodes.sum(axis=0)
    np.testing.assert_allclose(shown / shown.sum(), decodes / decodes.sum(), atol=0.06)


@pytest.mark.parametrize("n_gpus", [2, 500, 5000])
def test_groups_of_every_size_fit_into_one_picture(n_gpus):
    image, _ = rendered(n_gpus, "mixed-fleet")
    left, _, right, bottom = picture.GPUS_AT
    assert (image[bottom : bottom + 20, left:right] == BLUE).all(axis=2).sum() == 0
    assert pixels(image, BLUE) > 0


@pytest.fixture
def dummy_display(monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    return pytest.importorskip("pygame", reason="needs the extra human")


@pytest.mark.parametrize("id_", ["LLMSched-v0", "LLMSchedEvent-v0"])
def test_a_window_shows_the_picture_of_each_step(dummy_display, id_):
    forms = [
        gym.make(id_, instance="overload", n_gpus=5, render_mode=mode).unwrapped
        for mode in ("human", "rgb_array")
    ]
    action = 0 if id_ == "LLMSchedEvent-v0" else forms[0].plan_action
    for env in forms:
        env.reset(seed=0)
    for _ in range(2):
        window = dummy_display.surfarray.array3d(dummy_display.display.get_surface())
        np.testing.assert_array_equal(window.swapaxes(0, 1), forms[1].render())
        assert forms[0].render() is None
        for env in forms:
            env.step(action)
    forms[0].close()
    assert dummy_display.display.get_surface() is None
    forms[0].reset(seed=0)  # opens it again
    forms[0].close()
    forms[0].close()


def test_a_window_keeps_its_pace(dummy_display):
    env = gym.make("LLMSched-v0", n_gpus=2, render_mode="human")
    env.reset(seed=0)
    started = time.perf_counter()
    for _ in range(4):
        env.step(env.unwrapped.plan_action)
    assert time.perf_counter() - started > 3 / env.metadata["render_fps"]
    env.close()


def test_a_window_that_cannot_open_is_one_clear_line(monkeypatch):
    pytest.importorskip("pygame", reason="needs the extra human")
    monkeypatch.setenv("SDL_VIDEODRIVER", "no-such-driver")
    env = gym.make("LLMSched-v0", n_gpus=2, render_mode="human")
    with pytest.raises(lse.LLMSchedError, match="render_mode: got 'human', expected a display"):
        env.reset(seed=0)
    monkeypatch.setitem(sys.modules, "pygame", None)
    with pytest.raises(lse.LLMSchedError, match="expected pygame"):
        gym.make("LLMSched-v0", n_gpus=2, render_mode="human")
