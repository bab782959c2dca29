"""Watched clusters are those that are evaluated, keys do what they say, pictures show the state."""

from __future__ import annotations

import io
import json
import os
import re
import select
import subprocess
import sys
import time
from typing import ClassVar

import numpy as np
import pytest
from rich.console import Console

import llm_sched_env as lse
from llm_sched_env.baselines.routing_rules import RoutingRule
from llm_sched_env.envs.rendering import revenue_share
from llm_sched_env.evaluation.preparation import prepared_run
from llm_sched_env.planning.cluster import Cluster
from llm_sched_env.watching.live_cluster import live_cluster, live_run
from llm_sched_env.watching.session import Session
from llm_sched_env.watching.terminal_picture import terminal_picture
from llm_sched_env.workloads.traces import load_traces


class PlanAsItIs:
    """A policy in Python, once a second."""

    def reset(self, instance, plan, n_gpus, rng):
        self.action = plan.action

    def act(self, observation, info):
        return self.action


class FirstPossible:
    """A policy in Python, request by request."""

    environment: ClassVar = {"control": "event", "pools": "dynamic"}

    def reset(self, instance, plan, n_gpus, rng):
        pass

    def act(self, observation, info):
        possible = np.flatnonzero(info["action_mask"])
        return int(possible[-1])


def session(policies=("trunk-reservation", "fcfs-immediate"), instance="overload", n=6, **times):
    cluster = Cluster.of(instance, n)
    given = {"horizon": 60.0, "speed": 4.0, **times}
    clusters = [live_cluster(name, cluster, given["horizon"], 0) for name in policies]
    return Session(cluster, clusters, **given)


def shown(watched, width=100, height=30):
    console = Console(width=width, record=True, file=io.StringIO(), color_system=None)
    console.print(terminal_picture(watched, width, height))
    return console.export_text().splitlines()


@pytest.mark.parametrize(
    "policy",
    [
        "trunk-reservation",
        "learned",
        "round-robin",
        PlanAsItIs(),
        FirstPossible(),
        RoutingRule("least-loaded"),
    ],
)
def test_a_watched_cluster_earns_what_is_evaluated(policy):
    """In steps of any length, with the same requests."""
    watched = session([policy])
    for until in (0.3, 1.0, 7.7, 20.0, 20.0, 59.9, 60.0):
        watched.advance_to(until)
    result = lse.evaluate(policy, "overload", 6, horizon=60, warmup=0, replications=1)
    assert watched.current.name == result.policy
    assert revenue_share(watched.current.state, watched.cluster) == pytest.approx(
        result.score.mean, rel=1e-12
    )


def test_a_failing_policy_is_said_to_have_failed():
    class Failing(PlanAsItIs):
        def act(self, observation, info):
            raise RuntimeError("no idea")

    with pytest.raises(RuntimeError, match="no idea"):
        session([Failing()]).advance_to(1.0)


def test_keys():
    watched = session()
    watched.pass_time(0.5)
    assert watched.time == 2.0
    watched.press("+")
    watched.pass_time(0.5)
    assert watched.time == 6.0
    for key in "--":
        watched.press(key)
    assert watched.speed == 2.0
    watched.press(" ")
    watched.pass_time(5.0)
    assert watched.paused
    assert watched.time == 6.0
    watched.press(".")
    assert watched.time == 7.0
    assert all(live.state.clock["time"][0] == 7.0 for live in watched.clusters)
    assert [watched.press(key) or watched.shown for key in "\t\t21x9"] == [1, 0, 1, 0, 0, 0]
    watched.press(" ")
    watched.pass_time(1000.0)
    assert watched.time == watched.horizon
    for key, times in (("+", 40), ("-", 80)):
        for _ in range(times):
            watched.press(key)
        assert 0.2 < watched.speed < 300
    watched.press("q")
    assert watched.ended


def test_slots_show_the_letters_of_their_classes():
    watched = session()
    watched.advance_to(20.0)
    state = watched.current.state
    text = "\n".join(line for line in shown(watched) if re.fullmatch(r"[AB·▶ ]+", line))
    assert text.count("A") == state.class_decodes[:, 0].sum()
    assert text.count("B") == state.class_decodes[:, 1].sum()
    assert text.count("▶") == (state.gpus["prefill_request"] >= 0).sum()
    assert len(text.split()) == 6
    assert all(len(gpu) == 16 for gpu in text.split())


def test_queues_and_scores_are_the_numbers_of_the_state():
    watched = session()
    watched.advance_to(20.0)
    lines = shown(watched)
    counts = watched.current.state.classes
    for i, name in enumerate(("decode-heavy", "prefill-heavy")):
        (line,) = [line for line in lines if name in line]
        found = [int(word.replace(",", "")) for word in re.findall(r"(?<=\s)[\d,]+", line)]
        decodes = counts["y_mixed"][i] + counts["y_solo"][i]
        assert found == [counts["q_prefill"][i], counts["x"][i], counts["q_decode"][i], decodes]
    for live in watched.clusters:
        (line,) = [line for line in lines if re.match(rf"\d {live.name}", line)]
        assert f"{revenue_share(live.state, watched.cluster):.3f} of R*" in line


def test_columns_show_the_shares_of_the_classes():
    watched = session(["trunk-reservation"], n=500)
    watched.advance_to(20.0)
    console = Console(width=100, record=True, file=io.StringIO(), color_system="truecolor")
    console.print(terminal_picture(watched, 100, 30))
    text = console.export_text(styles=True)
    state = watched.current.state
    levels = dict(zip(" ▁▂▃▄▅▆▇█", range(9), strict=True))
    blue, orange = "38;2;0;114;178", "38;2;230;159;0"
    found = {blue: 0, orange: 0}
    note = text.index("a column is a GPU")
    for codes, character in re.findall(r"\x1b\[([\d;]+)m([▁▂▃▄▅▆▇█]+)\x1b", text[note:]):
        for level in character:
            for colour in found:
                back = colour.replace("38;2", "48;2")
                found[colour] += levels[level] * (colour in codes)
                found[colour] += (8 - levels[level]) * (back in codes)
    total = state.class_decodes.sum(axis=0)
    share = found[orange] / (found[blue] + found[orange])
    assert share == pytest.approx(total[1] / total.sum(), abs=0.06)


@pytest.mark.parametrize(
    ("instance", "n"),
    [
        ("overload", 2),
        ("overload", 500),
        ("overload", 30_000),
        ("dolly15k", 30),
        ("h100-chat", 40),
        ("mixed-fleet", 2),
        ("mixed-fleet", 500),
    ],
)
def test_every_size_fits_into_the_terminal(instance, n):
    watched = session(["fcfs-immediate"], instance, n)
    watched.advance_to(0.1 if n > 1000 else 2.0)
    for width, height in ((80, 24), (60, 30), (200, 50)):
        lines = shown(watched, width, height)
        assert max(map(len, lines)) <= width
        assert len(lines) <= height
        assert any(line.startswith("1 fcfs-immediate") for line in lines)


@pytest.fixture
def trace(tmp_path):
    """A recorded minute of two classes."""
    rng = np.random.default_rng(2)
    lines = ["arrival_seconds,class,prompt_tokens,output_tokens"]
    for time_ in np.sort(rng.uniform(0.0, 60.0, 400)).tolist():
        name = ("chat", "code")[rng.integers(2)]
        lines.append(f"{time_:.3f},{name},{rng.integers(30, 2000)},{rng.integers(2, 300)}")
    file = tmp_path / "minute.csv"
    file.write_text("\n".join(lines) + "\n")
    return file


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--policies", "fcfs-immediate,round-robin", "--gpus", "2", "--seed", "4"),
        ("--policy", "static-priority", "--priority", "code,chat", "--reserve", "code=2"),
        ("--pricing", "separate", "--billing", "class-means", "--window", "5,50"),
        ("--instance", "chat-deadlines", "--revenue", "goodput", "--horizon", "40"),
        ("--plan-window", "0,20", "--window", "20,60"),
        ("--zero-rows", "drop", "--rate", "4"),
    ],
)
def test_the_end_of_a_watched_trace_is_that_of_its_replay(run, trace, options):
    words = (trace, *options)
    if "--policy" not in options and "--policies" not in options:
        words = (*words, "--policies", "trunk-reservation,fcfs-immediate")
    code, out, err = run("watch", *words, "--every", 30)
    assert code == 0, err
    replayed = json.loads(run("replay", *words, "--json")[1])
    results = replayed.get("results", [replayed])
    (last,) = [float(t) for t in re.findall(r"t = ([\d.]+) s   ended", out)]
    assert last == pytest.approx(results[0]["horizon"], abs=0.06)
    for result in results:
        shown_last = re.findall(rf"^\d {result['policy']} .* ([\d.]+) of R\*", out, re.MULTILINE)[
            -1
        ]
        assert float(shown_last) == pytest.approx(result["score"]["mean"], abs=5.1e-4)
        left = re.findall(rf"^\d {result['policy']} .* ([\d,]+) left", out, re.MULTILINE)[-1]
        abandoned = sum(c["abandoned_prefill"] + c["abandoned_decode"] for c in result["classes"])
        assert int(left.replace(",", "")) == abandoned


def test_a_trace_is_watched_faster_than_recorded(run, trace):
    words = (trace, "--policy", "fcfs-immediate")
    code, out, err = run("watch", *words, "--trace-speed", 2, "--speed", 8, "--every", 60)
    assert code == 0, err
    replayed = json.loads(run("replay", *words, "--speed", 2, "--json")[1])
    (last,) = [float(t) for t in re.findall(r"t = ([\d.]+) s   ended", out)]
    assert last == pytest.approx(replayed["horizon"], abs=0.06)
    assert last < 31
    code, _, err = run("watch", "--trace-speed", 2)
    assert code == 2
    assert "need one; name its files" in err


def test_a_watched_trace_is_that_of_its_replay_to_the_last_digit(trace):
    """Policies in Python, too, at intervals of their own."""
    recorded = load_traces([trace])
    for policy in ("trunk-reservation", PlanAsItIs(), FirstPossible()):
        prepared = prepared_run(policy, "azure2023", 3, trace=recorded, warmup=0.0, seed=1)
        live = live_run(prepared.name, prepared.runs, prepared.run)
        for until in (7.3, 20.0, prepared.run.horizon):
            live.advance(until)
        result = lse.evaluate(policy, "azure2023", 3, trace=recorded, replications=1, seed=1)
        watched = Session(
            prepared.run.cluster, [live], prepared.run.horizon, 1.0, bound=prepared.bound()
        )
        assert watched.score(live) == pytest.approx(result.score.mean, rel=1e-12)


def test_without_a_terminal_frames_are_printed(run):
    code, out, err = run("watch", "--gpus", 4, "--horizon", 25, "--every", 10)
    assert (code, err) == (0, "")
    assert re.findall(r"t = ([\d.]+) s", out) == ["10.0", "20.0", "25.0"]
    assert out.count("ended") == 1
    for name in ("trunk-reservation", "fcfs-immediate", "gate-and-route"):
        assert len(re.findall(rf"^\d {name} .* of R\*", out, re.MULTILINE)) == 3
    again = run("watch", "--gpus", 4, "--horizon", 25, "--every", 10)
    assert again == (code, out, err)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--speed", "0"), "--speed: got 0.0"),
        (("--every", "nan"), "--every: got nan"),
        (("--horizon", "-1"), "--horizon: got -1"),
        (("--policies", "nobody"), "nobody"),
        (("--policy", "learned", "--policies", "learned"), "cannot be combined"),
        (("--gpus", "0"), "n_gpus: got 0"),
        (("--seed", "-1"), "--seed: got -1"),
    ],
)
def test_bad_options_are_one_clear_line(run, words, message):
    code, out, err = run("watch", *words)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="terminals of Windows have no file")
def test_in_a_terminal_keys_pause_switch_and_end():
    import pty
    import termios

    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    words = [sys.executable, "-m", "llm_sched_env", "watch", "--gpus", "3", "--speed", "2"]
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"}
    running = subprocess.Popen(
        words, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE, env=environment
    )
    seen = ""

    def read():
        nonlocal seen
        if select.select([ours], [], [], 0.1)[0]:
            seen += os.read(ours, 65536).decode(errors="ignore")

    def wait_for(text, after=0):
        limit = time.monotonic() + 120.0
        while text not in seen[after:]:
            assert time.monotonic() < limit, seen[-2000:]
            assert running.poll() is None, running.stderr.read()
            read()
        return len(seen)

    try:
        wait_for("space pause")
        os.write(ours, b" ")
        place = wait_for("paused")
        os.write(ours, b"\t")
        wait_for("m   fcfs-immediate", place)
        os.write(ours, b"q")
        while running.poll() is None:
            read()
        assert running.wait(30) == 0, running.stderr.read()
        assert termios.tcgetattr(theirs) == before
    finally:
        running.kill()
        running.stderr.close()
        os.close(ours)
        os.close(theirs)
