"""The keeper of a simulated machine's record: what the supervisor does, over a network that loses messages.

The keeper itself does not die, and no cut is between it and a node: it is not one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

from numa_service.machine.kept_record import KeptRecord, Listener
from numa_service.machine.record import CacheArgs, MachineRecord, MemoryState
from numa_service.machine.spec import MachineSpec
from numa_service.node import ops
from numa_service.node.ask import Steps
from numa_service.node.errors import NodeError
from numa_service.node.kmem import flush_all
from numa_service.node.kmem_calls import Shutdown
from numa_service.node.machine_record import follow, own_memory
from numa_service.node.node import Node
from numa_service.node.slab_caches import (
    ShutdownStep,
    kmem_cache_create,
    kmem_cache_destroy,
    revive,
    shut_down,
    shutdown_on_all,
)
from numa_service.sim.network import Network

#: Before a node that has not answered is told again.
RETRY_NS = 200_000_000
#: How long a node may take for a step when a slab cache is destroyed.
DESTROY_NS = 3_000_000_000

Shutdowns = Generator[ShutdownStep, Shutdown | None, None]


class World(Protocol):
    """What the keeper needs of the simulation."""

    spec: MachineSpec
    nodes: dict[int, Node]
    #: nids of the nodes that have crashed.
    down: set[int]
    now_ns: int

    def at(self, delay_ns: int, act: Callable[[], object], background: bool = False) -> object:
        """Have something happen later; the simulation need not wait for what is in the background."""

    def spawn(self, nid: int, steps: Steps[Any]) -> object:
        """Run steps on a node."""


class Keeper:
    """Tells every node of a simulation the record until it is known to have it."""

    def __init__(self, world: World, network: Network) -> None:
        """`network` is its own: what becomes of its messages disturbs no other draw of the run."""
        self.network = network
        self._sim = world
        self._kept = KeptRecord(world.spec)
        for nid in world.nodes:
            self._kept.came_up(nid).version = 0
        #: Listener → the round under way for it: the record has been sent, and is sent again if it is lost.
        self._rounds: dict[Listener, object] = {}

    @property
    def record(self) -> MachineRecord:
        """The machine's record."""
        return self._kept.record

    def is_telling(self) -> bool:
        """Whether a node that is up is not known to have the newest record."""
        up = (listener for nid, listener in self._kept.listeners.items() if nid not in self._sim.down)
        return any(map(self._kept.is_behind, up))

    def write_sysctl(self, key: str, value: str) -> None:
        """Write a sysctl of the machine. SpecError."""
        self._change(self._kept.with_sysctl(key, value))

    def hear(self, node: Node) -> None:
        """A node reports its memory, which has changed; until it is heard, so that nothing is lost here."""
        if listener := self._kept.listeners.get(node.nid):
            self._heard(listener, own_memory(node))

    def create_cache(self, name: str, args: CacheArgs) -> None:
        """Make a slab cache of the machine. NodeError."""
        now = self.record.caches[1]
        self._change(self.record.with_caches(kmem_cache_create(self._sim.spec, now, name, args)))

    def destroy_cache(self, name: str) -> None:
        """A slab cache is needed no more. NodeError; it stays if a node has objects, or does not answer."""
        caches, dying = kmem_cache_destroy(self._sim.spec, self.record.caches[1], name)
        if caches is self.record.caches[1]:
            return  # it is being destroyed
        self._change(self.record.with_caches(caches))
        if dying:
            self._shut_down_when_told(dying, self._sim.now_ns + DESTROY_NS)

    def _shut_down_when_told(self, cache: str, until_ns: int) -> None:
        """Begin when all nodes know that a cache is dying; not all can be told while one is away."""
        if not self._kept.behind():
            self._go_on(cache, shutdown_on_all(list(self._sim.nodes), cache), None)
        elif self._sim.now_ns > until_ns:
            self._change(self.record.with_caches(revive(self.record.caches[1], cache)))
        else:
            self._sim.at(RETRY_NS, lambda: self._shut_down_when_told(cache, until_ns))

    def _go_on(self, cache: str, steps: Shutdowns, answer: Shutdown | None) -> None:
        """Send the next node its step; the cache is gone after the last, and lives if one has objects."""
        try:
            step = steps.send(answer)
        except StopIteration:
            self._change(self.record.with_caches(shut_down(self.record.caches[1], cache)))
            return
        except NodeError:
            self._change(self.record.with_caches(revive(self.record.caches[1], cache)))
            return
        over = [False]

        def answered(found: Shutdown | None) -> None:
            if not over[0]:
                over[0] = True
                self._go_on(cache, steps, found)

        def give_up() -> None:
            if not over[0]:
                over[0] = True
                self._change(self.record.with_caches(revive(self.record.caches[1], cache)))

        self._sim.at(DESTROY_NS, give_up)
        listener = self._kept.listeners.get(step.nid)
        for _ in range(1 + self.network.repeats()):
            if listener is not None and not self.network.loses():
                self._sim.at(
                    self.network.delay_ns(), partial(self._carry_out, listener, cache, step.call, answered)
                )

    def _carry_out(
        self, listener: Listener, cache: str, call: str, answered: Callable[[Shutdown | None], None]
    ) -> None:
        if self._kept.listeners.get(listener.nid) is not listener:
            return  # the process that this was sent to is gone
        node = self._sim.nodes[listener.nid]
        if call == "flush":
            self._sim.spawn(node.nid, self._flush(node, cache, answered))
        else:
            with suppress(NodeError):  # a message that comes twice, when all is over
                self._answer(partial(answered, node.apply(ops.KmemShutdown(cache))))

    def _flush(self, node: Node, cache: str, answered: Callable[[Shutdown | None], None]) -> Steps[None]:
        yield from flush_all(node, cache)
        self._answer(partial(answered, None))

    def _answer(self, arrive: Callable[[], None]) -> None:
        if not self.network.loses():
            self._sim.at(self.network.delay_ns(), arrive)

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
                self._sim.at(self.network.delay_ns(), lambda: self._arrive(listener, record))
        self._sim.at(RETRY_NS, lambda: self._tell_again(listener, this), background=True)

    def _tell_again(self, listener: Listener, round_before: object) -> None:
        if self._rounds.get(listener) is round_before:
            self._tell(listener)

    def _arrive(self, listener: Listener, record: MachineRecord) -> None:
        if self._kept.listeners.get(listener.nid) is not listener or listener.nid in self._sim.down:
            return  # the process that this was sent to is gone
        node = self._sim.nodes[listener.nid]
        follow(node, record)
        memory = own_memory(node)
        if not self.network.loses():
            self._sim.at(self.network.delay_ns(), lambda: self._answered(listener, record.version, memory))

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
