"""The decoder and the engine on a CPU, and runs in real time with the shape `tiny`."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from law_machine import LawMachine
from short_requests import short_instance

from llm_sched_env.errors import ConfigurationError
from llm_sched_env.policies.registry import registered_policies
from llm_sched_env.serving.served import Decisions
from llm_sched_env.serving.shapes import SHAPES, decoder_shape
from llm_sched_env.simulation.machine import Ended, Sent
from llm_sched_env.simulation.state.layout import RequestStream
from llm_sched_env.validation.served_run import COMPLETED

torch = pytest.importorskip("torch")

from llm_sched_env.serving.decoder import Decoder  # noqa: E402
from llm_sched_env.serving.engine import Engine  # noqa: E402
from llm_sched_env.serving.logged_machine import LoggedMachine  # noqa: E402
from llm_sched_env.serving.real_machine import RealMachine  # noqa: E402
from llm_sched_env.serving.serve import Server  # noqa: E402

SECONDS = 1.0  # an interval of policies that act once a second


def prefill(request: int) -> Sent:
    return Sent(request, is_prefill=True)


def decode(request: int) -> Sent:
    return Sent(request, is_prefill=False)


def stream(prompts: list[int], outputs: list[int]) -> RequestStream:
    times = np.zeros(len(prompts))
    arrays = (np.array(prompts, float), np.array(outputs, float))
    return RequestStream(times, np.zeros(len(prompts), np.int32), *arrays)


# One worker makes what the tests share, once.
pytestmark = pytest.mark.xdist_group("served")


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    torch.set_num_threads(1)
    return Decoder(SHAPES["tiny"])


def output_alone(decoder: Decoder, prompt: int, output: int, chunk: int) -> list[int]:
    engine = Engine(decoder, 2, chunk, 256)
    engine.begin(stream([prompt], [output]))
    engine.join([prefill(0)], {})
    while not engine.iterate()[0]:
        pass
    engine.join([decode(0)], {})
    while not engine.iterate()[1]:
        pass
    return engine.made[0]


def test_chunks_neighbours_and_moves_do_not_change_what_a_request_says(decoder: Decoder) -> None:
    alone = output_alone(decoder, 100, 6, 1000)
    assert len(alone) == 6
    assert output_alone(decoder, 100, 6, 17) == alone
    source, target = (Engine(decoder, 3, 32, 256) for _ in range(2))
    requests = stream([100, 40, 70], [6, 9, 5])
    source.begin(requests)
    target.begin(requests)
    target.join([prefill(1)], {})
    while not target.iterate()[0]:
        pass
    target.join([decode(1), prefill(2)], {})
    target.iterate()
    source.join([prefill(0)], {})
    while not source.iterate()[0]:
        pass
    target.join([decode(0)], {0: source.park(0)})
    while 0 not in target.iterate()[1]:
        pass
    assert target.made[0] == alone


def test_the_cache_is_attended_to(decoder: Decoder) -> None:
    """Another prompt, another answer: a mask that hides everything would pass the test above."""
    assert output_alone(decoder, 100, 6, 32) != output_alone(decoder, 60, 6, 32)


# One of each kind: at arrivals, with timers of a plan, with a network, at intervals.
CORE = ("round-robin", "token-bucket-static", "learned", "fluid-mpc")


@pytest.mark.parametrize(
    "policy",
    [
        pytest.param(name, marks=() if name in CORE else pytest.mark.extended)
        for name in sorted(set(registered_policies()) - {"static-priority"})
    ],
)
def test_every_request_gets_its_tokens_and_decisions_can_be_replayed(policy: str, server) -> None:
    served = server.serve(policy)
    tokens = server.machine.made()
    run = served.run
    done = np.flatnonzero(run.outcome == COMPLETED)
    assert len(done) > 3
    assert [len(tokens[r]) for r in done] == run.output_tokens[done].tolist()
    assert all(len(made) <= run.output_tokens[r] for r, made in tokens.items())
    assert served.evaluation is not None
    assert served.evaluation.requests["completed"] == len(done)
    assert len(served.decisions) > 10
    assert server.replayed(served, policy) is None


@pytest.fixture(scope="module")
def server():
    # However busy the machine of the test is, something is served in this time.
    with Server("tiny", instance=short_instance(), seconds=SECONDS, clock="processor") as made:
        yield made


def test_other_times_are_other_decisions(server) -> None:
    """What makes the replay say that nothing differs is the times."""
    served = server.serve("gate-and-route")
    slower = [
        [dataclasses.replace(i, end=1.3 * i.end) for i in own if not np.isnan(i.end)]
        for own in served.iterations
    ]
    assert (
        server.replayed(dataclasses.replace(served, iterations=slower), "gate-and-route")
        is not None
    )


class Broken:
    pads_chunks = False

    def begin(self, requests) -> None:
        pass

    def warm_up(self) -> None:
        pass

    def join(self, sent, parked) -> None:
        raise ValueError("out of order")


def test_an_engine_that_fails_ends_the_run() -> None:
    with RealMachine(Broken()) as machine:  # type: ignore[arg-type]
        machine.begin(stream([1], [1]))
        machine.start(0, [prefill(0)], 0.0)
        with pytest.raises(ValueError, match="out of order"):
            machine.wait(5.0)


def test_a_machine_that_loses_a_token_is_found_out() -> None:
    class Forgetful(LawMachine):
        def wait(self, until: float) -> Ended | None:
            ended = super().wait(until)
            return ended and ended._replace(completed=())

    import llm_sched_env as lse

    instance = short_instance()
    hardware = instance.hardware
    trace = Server("tiny", instance=instance, seconds=SECONDS).trace
    with pytest.raises(RuntimeError, match="the scheduler's clock"):
        lse.evaluate(
            "fcfs-immediate",
            instance,
            1,
            trace=trace,
            match_trace=False,
            horizon=SECONDS,
            replications=1,
            machine=Forgetful(hardware, seconds=lambda _: 0.004),
        )


def test_shapes_of_configurations(tmp_path) -> None:
    file = tmp_path / "config.json"
    values = {
        "model_type": "qwen2",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 300,
        "tie_word_embeddings": True,
    }
    file.write_text(json.dumps(values))
    shape = decoder_shape(file)
    assert (shape.head_dim, shape.qkv_bias, shape.qk_norm, shape.tied) == (16, True, False, True)
    assert len(output_alone(Decoder(shape), 20, 3, 8)) == 3
    file.write_text(json.dumps({**values, "model_type": "gpt2"}))
    with pytest.raises(ConfigurationError, match="model_type"):
        decoder_shape(file)
    with pytest.raises(ConfigurationError, match=r"llama3-8b"):
        decoder_shape("llama-4")
    assert SHAPES["qwen3-4b"].parameters == pytest.approx(4.02e9, rel=0.01)


def test_what_cannot_be_served_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="seconds"):
        Server("tiny", instance="base", seconds=0.0)
    if not torch.cuda.is_available():
        with pytest.raises(ConfigurationError, match="PyTorch finds no CUDA"):
            Server("tiny", "cuda", instance="base", seconds=1.0)


def test_a_logged_run_that_is_over_goes_no_further() -> None:
    machine = LoggedMachine([[]], 32)
    machine.begin(stream([5], [5]))
    machine.start(0, [prefill(0)], 0.0)
    assert machine.wait(10.0) is None
    assert len(Decisions.of(machine.events)) == 0
