"""The closest approximation of gate-and-route as a queueing network in Ciw.

Two stations. Prefill has a server per GPU of the mixed pool and the printed occupancy gate as its
service discipline; decode has a server per slot, the (n - M) B solo ones first, then the
M (B - 1) mixed ones, and one line for both. Arrivals, prefill times, patience in both queues, the
gate, the limits of slots and the preference for solo slots are those of the model.

**Left out:** a service time in Ciw is drawn when service starts and no longer changes. A decode in
the mixed pool therefore always has the mixed speed, also while its GPU runs no prefill.
Which GPU a slot belongs to no longer matters, so the random choice among GPUs is left out too. With
equal speeds of both modes the two models have the same law.
"""

from __future__ import annotations

import random
from typing import Any

import ciw

from llm_sched_env.benchmarks.occupancy_gate import OccupancyGate
from llm_sched_env.model.instance import Instance
from llm_sched_env.planning import FluidPlan

_PREFILL, _DECODE = 1, 2  # Ciw counts its nodes from 1


class _DecodeTime(ciw.dists.Distribution):  # type: ignore[misc]
    """Exponential, at the speed of the slot that the request was given."""

    def __init__(self, solo_rate: float, mixed_rate: float, solo_slots: int) -> None:
        super().__init__()
        self.solo_rate = solo_rate
        self.mixed_rate = mixed_rate
        self.solo_slots = solo_slots

    def sample(self, t: float | None = None, ind: Any = None) -> float:  # noqa: ARG002 - as Ciw has it
        """The service time of an individual that has its server already."""
        solo = ind.server.id_number <= self.solo_slots
        return random.expovariate(self.solo_rate if solo else self.mixed_rate)


class _Counter(ciw.trackers.StateTracker):  # type: ignore[misc]
    """Counts what the benchmark calls an event: arrivals, ends of service, abandonments."""

    def __init__(self, n_classes: int) -> None:
        self.events = 0
        self.completed = [0] * n_classes

    def change_state_accept(self, node: Any, ind: Any) -> None:  # noqa: ARG002 - as Ciw has it
        """A request joins a station; at the first it has just arrived."""
        if node.id_number == _PREFILL:
            self.events += 1

    def change_state_release(self, node: Any, destination: Any, ind: Any, blocked: bool) -> None:  # noqa: ARG002 - as Ciw has it
        """A service has ended."""
        self.events += 1
        if node.id_number == _DECODE:
            self.completed[_index(ind)] += 1

    def change_state_renege(self, node: Any, destination: Any, ind: Any, blocked: bool) -> None:  # noqa: ARG002 - as Ciw has it
        """A waiting request has given up."""
        self.events += 1


class CiwCluster:
    """One cluster, empty at time 0.

    Ciw draws from the global generator of :mod:`random`, which this seeds.

    Attributes:
        time: simulated seconds.
    """

    def __init__(self, instance: Instance, plan: FluidPlan, n_gpus: int, seed: int) -> None:
        slots, pool_size = instance.hardware.batch_slots, plan.pool_size(n_gpus)
        solo_slots = (n_gpus - pool_size) * slots
        names = [_name(i) for i in range(instance.n_classes)]
        patience = [
            ciw.dists.Exponential(c.patience_rate) if c.patience_rate > 0.0 else None
            for c in instance.classes
        ]
        prefill_rates = instance.prefill_rates.tolist()
        decode_rates = zip(
            instance.solo_decode_rates.tolist(), instance.mixed_decode_rates.tolist(), strict=True
        )
        arrivals = [
            ciw.dists.Exponential(n_gpus * c.arrival_rate) if c.arrival_rate > 0.0 else None
            for c in instance.classes
        ]
        prefills = [ciw.dists.Exponential(rate) for rate in prefill_rates]
        decodes = [_DecodeTime(solo, mixed, solo_slots) for solo, mixed in decode_rates]
        route = ciw.routing.NetworkRouting([ciw.routing.Direct(to=_DECODE), ciw.routing.Leave()])
        network = ciw.create_network(
            arrival_distributions={
                name: [arrival, None] for name, arrival in zip(names, arrivals, strict=True)
            },
            service_distributions={
                name: list(times)
                for name, times in zip(names, zip(prefills, decodes, strict=True), strict=True)
            },
            reneging_time_distributions={
                name: [clock, clock] for name, clock in zip(names, patience, strict=True)
            },
            routing=dict.fromkeys(names, route),
            # Ciw gives the first free server, so solo slots are filled first.
            number_of_servers=[pool_size, solo_slots + pool_size * (slots - 1)],
            service_disciplines=[
                _discipline(OccupancyGate(plan, n_gpus), instance.n_classes),
                ciw.disciplines.FIFO,
            ],
        )
        ciw.seed(seed)
        self._n_classes = instance.n_classes
        self._solo_slots = solo_slots
        self._counter = _Counter(instance.n_classes)
        self._simulation = ciw.Simulation(network, tracker=self._counter)
        self.time = 0.0

    @property
    def events(self) -> int:
        """Arrivals, completions of prefills and decodes, and abandonments so far."""
        return self._counter.events

    @property
    def completed(self) -> list[int]:
        """Requests completed so far, per class."""
        return self._counter.completed

    def advance(self, seconds: float) -> int:
        """Simulate this many seconds more; how many events happened."""
        before = self.events
        self.time += seconds
        self._simulation.simulate_until_max_time(self.time)
        return self.events - before

    def occupancy(self) -> list[list[int]]:
        """Requests now, by class: waiting, in prefill, prefilled and waiting, mixed, solo."""
        places = [[0] * self._n_classes for _ in range(5)]
        for node in self._simulation.transitive_nodes:
            for request in node.all_individuals:
                if node.id_number == _PREFILL:
                    place = 1 if request.server else 0
                elif not request.server:
                    place = 2
                else:
                    place = 4 if request.server.id_number <= self._solo_slots else 3
                places[place][_index(request)] += 1
        return places


def _name(class_index: int) -> str:
    return f"Class {class_index}"


def _index(request: Any) -> int:
    return int(request.customer_class.split()[1])


def _discipline(gate: OccupancyGate, n_classes: int) -> Any:
    """The gate as a Ciw service discipline: which of those who wait is served next?"""

    def choose(waiting: list[Any], t: float) -> Any:  # noqa: ARG001 - as Ciw has it
        prefills, sizes = [0] * n_classes, [0] * n_classes
        for server in waiting[0].simulation.nodes[_PREFILL].servers:
            if server.busy:
                prefills[_index(server.cust)] += 1
        for request in waiting:
            sizes[_index(request)] += 1
        i = gate.choose(prefills, sizes)
        return next(request for request in waiting if _index(request) == i)

    return choose
