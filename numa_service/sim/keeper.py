"""The keeper of a simulated machine's record: what the supervisor does, over a network that loses messages.

The keeper itself does not die, and no cut is between it and a node: it is not one of them.
"""

from __future__ import annotations

import random

from numa_service.machine.kept_record import KeptRecord, Listener
from numa_service.machine.record import MachineRecord, MemoryState
from numa_service.node.machine_record import follow, own_memory
from numa_service.node.node import Node
from numa_service.sim.network import Network
from numa_service.sim.simulation import Simulation

#: Before a node that has not answered is told again.
RETRY_NS = 200_000_000


class Keeper:
    """Tells every node of a simulation the record until it is known to have it."""

    def __init__(self, sim: Simulation, seed: int) -> None:
        """`seed` decides what becomes of the keeper's messages; it disturbs no other draw of the run."""
        self._sim = sim
        self._network = Network(
            random.Random(seed), sim.network.faults, sim.spec.latency.remote_lookup_ns // 2
        )
        self._kept = KeptRecord(sim.spec)
        for nid in sim.nodes:
            self._kept.came_up(nid).version = 0
        #: Nodes that a round is under way for.
        self._telling: set[Listener] = set()

    @property
    def record(self) -> MachineRecord:
        """The machine's record."""
        return self._kept.record

    def write_sysctl(self, key: str, value: str) -> None:
        """Write a sysctl of the machine. SpecError."""
        self._change(self._kept.with_sysctl(key, value))

    def restart(self, node: Node) -> None:
        """A node boots anew: it reads the record before it serves, and is told of what comes then."""
        follow(node, self.record)
        self._start(self._kept.came_up(node.nid))

    def went_away(self, nid: int) -> None:
        """A node has died."""
        self._kept.went_away(nid)

    def heal(self) -> None:
        """From now on no message is lost."""
        self._network.faults = self._sim.network.faults

    def _change(self, record: MachineRecord) -> None:
        self._kept.keep(record)
        for listener in self._kept.listeners.values():
            self._start(listener)

    def _start(self, listener: Listener) -> None:
        if listener not in self._telling:
            self._telling.add(listener)
            self._tell(listener)

    def _tell(self, listener: Listener) -> None:
        """Send the record to a node, and look later whether it has answered."""
        if not self._kept.is_behind(listener):
            self._telling.discard(listener)
            return
        record = self.record
        for _ in range(1 + self._network.repeats()):
            if not self._network.loses():
                self._sim.at(self._network.delay_ns(), lambda: self._arrive(listener, record))
        self._sim.at(RETRY_NS, lambda: self._tell(listener))

    def _arrive(self, listener: Listener, record: MachineRecord) -> None:
        if self._kept.listeners.get(listener.nid) is not listener:
            return  # the process that this was sent to is gone
        node = self._sim.nodes[listener.nid]
        follow(node, record)
        memory = own_memory(node)
        if not self._network.loses():
            self._sim.at(self._network.delay_ns(), lambda: self._answered(listener, record.version, memory))

    def _answered(self, listener: Listener, version: int, memory: MemoryState | None) -> None:
        listener.version = max(listener.version, version)
        if memory is not None and (after := self.record.with_memory(memory)) is not self.record:
            self._change(after)
