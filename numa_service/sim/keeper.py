"""The keeper of a simulated machine's record: what the supervisor does, over a network that loses messages.

The keeper itself does not die, and no cut is between it and a node: it is not one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from typing import Any

from numa_service.machine.kept_record import KeptRecord, Listener
from numa_service.machine.record import MachineRecord, MemoryState
from numa_service.machine.spec import MachineSpec
from numa_service.node.machine_record import follow, own_memory
from numa_service.node.node import Node
from numa_service.sim.network import Network

#: Before a node that has not answered is told again.
RETRY_NS = 200_000_000


class Keeper:
    """Tells every node of a simulation the record until it is known to have it."""

    def __init__(
        self,
        spec: MachineSpec,
        nodes: Mapping[int, Node],
        down: Set[int],
        network: Network,
        at: Callable[[int, Callable[[], object], bool], Any],
    ) -> None:
        """`nodes` and `down` are the simulation's own, `at` schedules an event of it: ns, act, background.

        `network` is not the one between the nodes: what becomes of the keeper's messages disturbs no other
        draw of the run.
        """
        self.network = network
        self._nodes = nodes
        self._down = down
        self._at = at
        self._kept = KeptRecord(spec)
        for nid in nodes:
            self._kept.came_up(nid).version = 0
        #: Listener → the round under way for it: the record has been sent, and is sent again if it is lost.
        self._rounds: dict[Listener, object] = {}

    @property
    def record(self) -> MachineRecord:
        """The machine's record."""
        return self._kept.record

    def is_telling(self) -> bool:
        """Whether a node that is up is not known to have the newest record."""
        up = (listener for nid, listener in self._kept.listeners.items() if nid not in self._down)
        return any(map(self._kept.is_behind, up))

    def write_sysctl(self, key: str, value: str) -> None:
        """Write a sysctl of the machine. SpecError."""
        self._change(self._kept.with_sysctl(key, value))

    def hear(self, node: Node) -> None:
        """A node reports its memory, which has changed; until it is heard, so that nothing is lost here."""
        if listener := self._kept.listeners.get(node.nid):
            self._heard(listener, own_memory(node))

    def restart(self, node: Node) -> None:
        """A node boots anew: it reads the record before it serves, and is told of what comes then."""
        follow(node, self.record)
        self._start(self._kept.came_up(node.nid))

    def went_away(self, nid: int) -> None:
        """A node has died."""
        self._kept.went_away(nid)

    def _change(self, record: MachineRecord) -> None:
        self._kept.keep(record)
        for listener in self._kept.listeners.values():
            self._start(listener)

    def _start(self, listener: Listener) -> None:
        if listener not in self._rounds:
            self._tell(listener)

    def _tell(self, listener: Listener) -> None:
        """Send the record to a node that is behind, and look later whether it has answered."""
        if not self._kept.is_behind(listener):
            self._rounds.pop(listener, None)
            return
        this = self._rounds[listener] = object()
        record = self.record
        for _ in range(1 + self.network.repeats()):
            if not self.network.loses():
                self._at(self.network.delay_ns(), lambda: self._arrive(listener, record), False)
        self._at(RETRY_NS, lambda: self._tell_again(listener, this), True)

    def _tell_again(self, listener: Listener, round_before: object) -> None:
        if self._rounds.get(listener) is round_before:
            self._tell(listener)

    def _arrive(self, listener: Listener, record: MachineRecord) -> None:
        if self._kept.listeners.get(listener.nid) is not listener or listener.nid in self._down:
            return  # the process that this was sent to is gone
        node = self._nodes[listener.nid]
        follow(node, record)
        memory = own_memory(node)
        if not self.network.loses():
            self._at(self.network.delay_ns(), lambda: self._answered(listener, record.version, memory), False)

    def _answered(self, listener: Listener, version: int, memory: MemoryState | None) -> None:
        listener.version = max(listener.version, version)
        self._heard(listener, memory)
        if listener in self._rounds:
            self._tell(listener)

    def _heard(self, listener: Listener, memory: MemoryState | None) -> None:
        if memory is None or self._kept.listeners.get(listener.nid) is not listener:
            return
        record = self.record.with_memory(memory)
        if record is not self.record:
            self._change(record)
