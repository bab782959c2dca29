"""A machine in no real time: its iterations last as long as a hardware's law says."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llm_sched_env.model.hardware import Hardware
from llm_sched_env.simulation.machine import Ended, Sent
from llm_sched_env.simulation.machine_load import Content, GpuLoad
from llm_sched_env.simulation.state.layout import RequestStream


def seconds_by_law(hardware: Hardware) -> Callable[[Content], float]:
    def seconds(content: Content) -> float:
        chunk, cached, decodes, kv_tokens = content
        assert hardware.solo is not None
        assert hardware.mixed is not None
        if chunk == 0:
            return hardware.solo.time(decodes, kv_tokens)
        return hardware.mixed.time(chunk, cached, decodes, kv_tokens)

    return seconds


class LawMachine:
    def __init__(self, *hardware: Hardware, seconds=None) -> None:
        """GPUs of such a hardware each; ``seconds`` of an iteration in place of their laws."""
        self.hardware = hardware
        self.seconds = [seconds or seconds_by_law(own) for own in hardware]
        self.events: list = []

    def begin(self, stream: RequestStream) -> None:
        self.loads = [GpuLoad(stream, own.chunk_tokens) for own in self.hardware]
        self.ends: dict[int, float] = {}
        self.free_at = [0.0] * len(self.loads)
        self.parked: set[int] = set()
        self.iterations: list[tuple[int, float, float, Content]] = []
        self.made: dict[int, int] = {}
        self.events: list = []

    def park(self, gpu: int, request: int) -> None:
        assert gpu not in self.ends
        self.parked.add(request)

    def drop(self, request: int) -> None:
        self.parked.remove(request)

    def start(self, gpu: int, sent: Sequence[Sent], time: float) -> None:
        assert gpu not in self.ends
        self.parked -= {s.request for s in sent if not s.is_prefill}
        load = self.loads[gpu]
        load.join(sent)
        assert len(load.made) + (load.prefill is not None) <= self.hardware[gpu].batch_slots
        content = load.content()
        assert content.decodes + content.prefill_tokens > 0
        start = max(time, self.free_at[gpu])
        self.ends[gpu] = start + self.seconds[gpu](content)
        self.iterations.append((gpu, start, self.ends[gpu], content))

    def wait(self, until: float) -> Ended | None:
        if not self.ends:
            return None
        gpu = min(self.ends, key=lambda g: (self.ends[g], g))
        if self.ends[gpu] > until:
            return None
        time = self.ends.pop(gpu)
        load = self.loads[gpu]
        for request in load.made:
            self.made[request] = self.made.get(request, 0) + 1
        return Ended(gpu, time, *load.iterate())

    def applied(self, ended: Ended, time: float) -> None:
        self.free_at[ended.gpu] = time

    def told(self, events) -> None:
        self.events.append(events)
