"""A whole machine in one process: every node's real code, a virtual clock, a network that can misbehave.

One seed, one run: the order of events depends on nothing else. Requests go through each node's inbox, its
questions through its outbox, and its daemons are those that the Ray actors run; a message between nodes is an
event some virtual time later.
"""

from __future__ import annotations

import heapq
import pickle
import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar

from numa_service.machine.boot import start_kernel
from numa_service.machine.record import MemoryState
from numa_service.machine.spec import MachineSpec
from numa_service.node.ask import Ask, Park, Steps, check_asked, through_outbox
from numa_service.node.daemons import JIFFY_NS, Daemon, daemons_of, kswapd
from numa_service.node.errors import NeverSent, NodeError, NotFound, PeerUnavailable
from numa_service.node.first_replies import FirstReply, node_asker
from numa_service.node.inbox import Call, Inbox, Packed, Running
from numa_service.node.memory_hotplug import change_memory_block, memory_blocks, offline_node
from numa_service.node.node import Node
from numa_service.node.ops.op import Op, Tagged, encode
from numa_service.node.requests import Request
from numa_service.sim.network import Faults, Network

T = TypeVar("T")

#: From wakeup_kswapd() to its first step: a scheduler tick.
KSWAPD_WAKE_NS = JIFFY_NS


class Task(Generic[T]):
    """A request under way."""

    def __init__(self, steps: Steps[T], node: Node) -> None:
        self.steps = steps
        self.node = node
        self.done = False
        self.error: NodeError | None = None
        self._result: T | None = None

    def finish(self, result: T | None, error: NodeError | None) -> None:
        """Record how it ended."""
        self.done, self._result, self.error = True, result, error

    @property
    def result(self) -> T:
        """What it returned; raises what it raised."""
        if self.error:
            raise self.error
        assert self.done, "the task is still running"
        return self._result  # type: ignore[return-value]


@dataclass(order=True)
class Event:
    """Something that happens at a time; events of one time in the order in which they were made."""

    at_ns: int
    sequence: int
    act: Callable[[], object] = field(compare=False)
    #: A daemon's next look: nobody waits for it.
    background: bool = field(default=False, compare=False)
    cancelled: bool = field(default=False, compare=False)


def _pack(asker: int, reply: Any) -> Packed:
    return Packed("pickle", pickle.dumps(reply))


class Host:
    """One node with its inbox and daemons, from its boot to its end."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.inbox = Inbox(node, _pack)
        self.daemons: dict[str, list[Daemon]] = {}
        for daemon in (kswapd(node), *daemons_of(node, self.inbox)):
            self.daemons.setdefault(daemon.name, []).append(daemon)
        #: The next look of each daemon, by identity.
        self.looks: dict[int, Event] = {}
        #: Daemons in the middle of a round, by identity: each runs one at a time, unless it overlaps.
        self.busy: set[int] = set()
        self.alive = True


class Simulation:
    """All nodes of a machine, and the time they live in."""

    def __init__(
        self, spec: MachineSpec, seed: int = 0, faults: Faults | None = None, *, vmstat: bool = True
    ) -> None:
        """Boot. Without `vmstat`, no CPU has vmstat ticks: for a shell whose clock is not this one."""
        self.spec = spec
        machine = start_kernel(spec)
        self.nodes = {node.nid: Node(machine.of_node(node.nid), node.nid) for node in spec.nodes}
        self.now_ns = 0
        self.down: set[int] = set()
        self.dice = random.Random(seed)
        self.network = Network(self.dice, faults or Faults(), spec.latency.remote_lookup_ns // 2)
        self._events: list[Event] = []
        self._foreground = 0
        self._sequence = 0
        self._vmstat = vmstat
        self._next_tick_ns = self._stat_interval_ns
        self.hosts: dict[int, Host] = {}
        for node in self.nodes.values():
            self.host(node)
            node.replies.keep_ns = 0  # what comes twice comes within moments

    def host(self, node: Node) -> Host:
        """Put a node that has booted into its place."""
        self.nodes[node.nid] = node
        node.clock = lambda: self.now_ns
        node.tracepoints.now = self._traced_ns
        # each node keeps its own books, as in a process of its own; a snapshot shows them all
        pgdats = {nid: other.pgdat for nid, other in self.nodes.items()}
        for other in self.nodes.values():
            other.machine.neighbours = pgdats
        host = self.hosts[node.nid] = Host(node)
        node.wake = partial(self._wake, host)
        return host

    # driving

    def spawn(self, nid: int, steps: Steps[T]) -> Task[T]:
        """Start a request on a node; it makes its way as the clock runs."""
        node = self.nodes[nid]
        task = Task(through_outbox(node, steps), node)
        self.at(0, lambda: self._step(task, None, None))
        return task

    def call(self, nid: int, steps: Steps[T]) -> T:
        """Run one request to its end, and everything else that happens meanwhile."""
        task = self.spawn(nid, steps)
        while not task.done:
            self.next()
        return task.result

    def run(self) -> None:
        """Until nothing is left to happen but looks of daemons."""
        while self._foreground:
            self.next()

    def advance(self, ns: int) -> None:
        """Let virtual time pass, and happen what happens in it."""
        until = self.now_ns + ns
        while self._events and self._events[0].at_ns <= until:
            self.next()
        self._pass_time(until)

    # memory that comes and goes

    def change_memory_block(self, block: int, state: str) -> MemoryState:
        """Write ``memoryN/state``: offline, online, online_kernel or online_movable.

        NotFound, InvalidRequest (EINVAL), Busy (EBUSY).
        """
        nid = next((nid for nid, node in self.nodes.items() if block in memory_blocks(node)), None)
        if nid is None:
            raise NotFound("memory_block", f"memory{block}", "no node has it")
        return self.call(nid, change_memory_block(self.nodes[nid], block, state))

    def offline_node(self, nid: int) -> dict[int, str]:
        """Take all memory of a node off-line, and the node if it has no CPUs: blocks that stay, and why."""
        return self.call(nid, offline_node(self.nodes[nid]))

    def check(self) -> list[str]:
        """Violated invariants of every node, and between them: no page is held by an owner nobody knows.

        Between nodes they hold when no request is under way.
        """
        problems = [problem for node in self.nodes.values() for problem in node.check()]
        for node in self.nodes.values():
            for owner in node.slots:
                home = self.nodes[owner.nid]
                if owner.lineage == home.lineage and not (
                    owner.id in home.sessions or owner.id in home.regions
                ):
                    problems.append(f"node {node.nid}: {owner} holds pages and is unknown at home")
        return problems

    # events

    def at(self, delay_ns: int, act: Callable[[], object], background: bool = False) -> Event:
        """Have something happen later."""
        self._sequence += 1
        event = Event(self.now_ns + delay_ns, self._sequence, act, background)
        heapq.heappush(self._events, event)
        self._foreground += not background
        return event

    def _soon(self, act: Callable[[], object]) -> None:
        self.at(0, act)

    def cancel(self, event: Event) -> None:
        """It does not happen after all."""
        if not event.cancelled:
            event.cancelled = True
            self._foreground -= not event.background

    def next(self) -> None:
        """The next event; one that was cancelled takes no time."""
        event = heapq.heappop(self._events)
        if event.cancelled:
            return
        event.cancelled = True  # it is too late now
        self._foreground -= not event.background
        self._pass_time(event.at_ns)
        event.act()

    @property
    def _stat_interval_ns(self) -> int:
        """Of the first node: the sysctl is the machine's."""
        seconds = next(iter(self.nodes.values())).machine.sysctls.stat_interval
        return seconds * 1_000_000_000 or JIFFY_NS

    def _pass_time(self, until_ns: int) -> None:
        """Set the clock; with the vmstat ticks until then, as far as there is anything to do."""
        while self._vmstat and self._next_tick_ns <= until_ns:
            self.now_ns = self._next_tick_ns
            wanted = [
                daemon
                for nid, host in self.hosts.items()
                if nid not in self.down
                for daemon in host.daemons["vmstat"]
                if daemon.wanted()
            ]
            for daemon in wanted:
                self._at_once(daemon.steps())
            quiet = 0 if wanted else (until_ns - self._next_tick_ns) // self._stat_interval_ns
            self._next_tick_ns += (1 + quiet) * self._stat_interval_ns
        self.now_ns = until_ns

    @staticmethod
    def _at_once(steps: Steps[T]) -> T:
        """Of steps that ask nobody."""
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
        raise AssertionError("it asks another node")

    def _traced_ns(self) -> int:
        """One clock for the events of all nodes, which the cost of what they do advances, too."""
        tracers = (node.tracepoints.tracer for node in self.nodes.values())
        return max(self.now_ns, *(tracer.clock_ns for tracer in tracers if tracer), 0)

    def _step(self, task: Task[Any], value: Any, error: NodeError | None) -> None:
        try:
            effect = task.steps.throw(error) if error else task.steps.send(value)
        except StopIteration as stop:
            task.finish(stop.value, None)
        except NodeError as e:
            task.finish(None, e)
        else:
            host = self.hosts[task.node.nid]
            self.carry_out(host, effect, lambda value, error: self._step(task, value, error))

    def carry_out(
        self, host: Host, effect: Ask[Any] | Park, then: Callable[[Any, NodeError | None], None]
    ) -> None:
        """Carry out what a generator of a node has yielded; `then` is told the answer, or the error."""
        if isinstance(effect, Park):
            effect.when_woken(partial(self._soon, lambda: then(None, None)))
        else:
            self._send(host, effect, then)

    def _send(self, host: Host, ask: Ask[Any], then: Callable[[Any, NodeError | None], None]) -> None:
        """Carry a question to its node and the answer back, or lose it; whoever asked gives up in time."""
        nid = host.node.nid
        asking = host.node.outbox.asking
        asking[id(ask)] = ask.nid, getattr(ask.op, "owner", None)

        def over(value: Any, error: NodeError | None) -> None:
            if asking.pop(id(ask), None) is not None and host.alive:
                self.cancel(timeout)
                then(value, error)

        # nobody listens on a node that is down; whether the others have heard is not known
        lost = (NeverSent if ask.nid in self.down else PeerUnavailable)(ask.nid, "no answer")
        timeout = self.at(self.network.faults.timeout_ns, lambda: over(None, lost))
        if ask.nid in self.down or not self.network.reaches(nid, ask.nid) or self.network.loses():
            return
        if self.network.repeats():
            self.at(self.network.delay_ns(), lambda: self._deliver(nid, ask, lambda value, error: None))
        self.at(
            self.network.delay_ns(), lambda: self._deliver(nid, ask, partial(self._reply, nid, ask.nid, over))
        )

    def _reply(
        self,
        to_nid: int,
        from_nid: int,
        over: Callable[[Any, NodeError | None], None],
        value: Any,
        error: NodeError | None,
    ) -> None:
        if self.network.reaches(from_nid, to_nid) and not self.network.loses():
            self.at(self.network.delay_ns(), lambda: over(value, error))

    def _deliver(self, asker: int, ask: Ask[Any], reply: Callable[[Any, NodeError | None], None]) -> None:
        """A question has come to its node: it is carried out once; asked again, it gets the first answer."""
        if ask.nid in self.down or not self.network.reaches(asker, ask.nid):
            return
        host = self.hosts[ask.nid]
        call = Call(node_asker(asker), ask.request_id, zlib.crc32(encode(ask.op)))
        self.request(host, call, lambda: self._carried_out(host, ask.op), reply)

    @staticmethod
    def _carried_out(host: Host, asked: Tagged[Any]) -> Any:
        """The answer to a question, or the steps to it."""
        check_asked(host.node, asked)
        if isinstance(asked, Request):
            return asked.run(host.inbox)
        assert isinstance(asked, Op)
        return host.node.apply(asked)

    def request(
        self,
        host: Host,
        call: Call,
        begin: Callable[[], Any],
        reply: Callable[[Any, NodeError | None], None],
    ) -> None:
        """A request has come to a node; `reply` is told how it ended."""
        try:
            got = host.inbox.once(call, begin)
        except NodeError as error:
            reply(None, error)
            return
        if isinstance(got, FirstReply):
            reply(pickle.loads(bytes(got.reply)), None)
        elif isinstance(got, Running):
            got.when_over(lambda: reply(*_outcome(got)))
            self._drive(host, got)
        else:
            reply(got, None)

    def _drive(self, host: Host, running: Running) -> None:
        """Carry out the effect that a request stands at, if nobody does yet."""
        effect, running.effect = running.effect, None
        if effect is None:
            return

        def then(value: Any, error: NodeError | None) -> None:
            if host.alive:
                host.inbox.advance(running, value, error)
                self._drive(host, running)

        self.carry_out(host, effect, then)

    # daemons

    def _wake(self, host: Host, name: str) -> None:
        for daemon in host.daemons[name]:
            look = host.looks.get(id(daemon))
            if id(daemon) not in host.busy and (look is None or look.background):
                self._look_in(host, daemon, KSWAPD_WAKE_NS if name == "kswapd" else 0)

    def _look_in(self, host: Host, daemon: Daemon, delay_ns: int, background: bool = False) -> None:
        earlier = host.looks.get(id(daemon))
        if earlier is not None:
            self.cancel(earlier)
        act = lambda: self._look(host, daemon)  # noqa: E731
        host.looks[id(daemon)] = self.at(delay_ns, act, background)

    def _look(self, host: Host, daemon: Daemon) -> None:
        """Run one round of a daemon, if it is wanted, or look again later."""
        host.looks.pop(id(daemon), None)
        if not host.alive:
            return
        if not daemon.wanted():
            delay_ns = daemon.delay()
            if delay_ns is not None:
                self._look_in(host, daemon, delay_ns, background=True)
            return
        if daemon.overlaps:
            self._look_in(host, daemon, 0)
        else:
            host.busy.add(id(daemon))
        self._round(host, daemon, daemon.steps(), None, None)

    def _round(
        self, host: Host, daemon: Daemon, steps: Steps[int], value: Any, error: NodeError | None
    ) -> None:
        if not host.alive:
            return
        try:
            effect = steps.throw(error) if error else steps.send(value)
        except StopIteration as end:
            if not daemon.overlaps:
                host.busy.discard(id(daemon))
                self._look_in(host, daemon, end.value)
        else:
            self.carry_out(host, effect, lambda v, e: self._round(host, daemon, steps, v, e))


def _outcome(running: Running) -> tuple[Any, NodeError | None]:
    try:
        return running.reply, None
    except NodeError as error:
        return None, error
