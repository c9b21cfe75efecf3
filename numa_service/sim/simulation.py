"""A whole machine in one process: every node's real code, a virtual clock, and a network with faults.

A run is determined by its seed. Requests go through each node's inbox, questions to other nodes through its
outbox, and its daemons are those that the Ray actors run. A message between nodes is an event that happens
some virtual time after it was sent.
"""

from __future__ import annotations

import heapq
import pickle
import random
import zlib
from collections import Counter
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
from numa_service.node.owner_checks import lives
from numa_service.node.request import Request
from numa_service.sim.keeper import Keeper
from numa_service.sim.network import Faults, Network

T = TypeVar("T")

#: Virtual ns from wakeup_kswapd() to kswapd's first step: one jiffy.
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
        """Note the result of the request, or the error with which it ended."""
        self.done, self._result, self.error = True, result, error

    @property
    def result(self) -> T:
        """The result of the request, which must be done; raises the error that it ended with."""
        if self.error:
            raise self.error
        assert self.done, "the task is still running"
        return self._result  # type: ignore[return-value]


@dataclass(order=True)
class Event:
    """Something that happens at a virtual time; events of the same time happen in the order of `sequence`."""

    at_ns: int
    sequence: int
    act: Callable[[], object] = field(compare=False)
    #: Whether :meth:`Simulation.run` need not wait for the event, as it is only a daemon's check for work.
    background: bool = field(default=False, compare=False)
    cancelled: bool = field(default=False, compare=False)


def _pack(asker: int, reply: Any) -> Packed:
    return Packed("pickle", pickle.dumps(reply))


class Host:
    """One node with its inbox and daemons, from its boot to its crash."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.inbox = Inbox(node, _pack)
        self.daemons: dict[str, list[Daemon]] = {}
        for daemon in (kswapd(node), *daemons_of(node, self.inbox)):
            self.daemons.setdefault(daemon.name, []).append(daemon)
        #: id() of a daemon → its next check for work.
        self.looks: dict[int, Event] = {}
        #: id() of the daemons that are in the middle of a round; a daemon that overlaps is never in here.
        self.busy: set[int] = set()
        self.alive = True


class Simulation:
    """All nodes of a machine, the virtual clock, and the network between the nodes."""

    def __init__(
        self, spec: MachineSpec, seed: int = 0, faults: Faults | None = None, *, vmstat: bool = True
    ) -> None:
        """Boot every node. A caller with a clock of its own passes vmstat=False: no vmstat ticks then."""
        self.spec = spec
        machine = start_kernel(spec)
        self.nodes = {node.nid: Node(machine.of_node(node.nid), node.nid) for node in spec.nodes}
        self.now_ns = 0
        self.down: set[int] = set()
        #: nid → questions of that node that got no answer in time.
        self.unanswered: Counter[int] = Counter()
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
            node.replies.keep_ns = 0  # repeats arrive soon: replies are kept only up to REPLIES_LIMIT
        to_keeper = Network(random.Random(seed), self.network.faults, spec.latency.remote_lookup_ns // 2)
        self.keeper = Keeper(self, to_keeper)

    def host(self, node: Node) -> Host:
        """Put a node that has booted in the place of its nid, with a new inbox and new daemons."""
        self.nodes[node.nid] = node
        node.clock = lambda: self.now_ns
        node.tracepoints.now = self._traced_ns
        # each node has a BootedMachine of its own, as in a process of its own, but snapshots show all nodes
        pgdats = {nid: other.pgdat for nid, other in self.nodes.items()}
        for other in self.nodes.values():
            other.machine.neighbours = pgdats
        host = self.hosts[node.nid] = Host(node)
        node.wake = partial(self._wake, host)
        return host

    def crash(self, nid: int) -> None:
        """Let a node die, with its memory and the requests under way."""
        self.hosts[nid].alive = False
        self.down.add(nid)
        self.keeper.went_away(nid)

    def restart(self, nid: int) -> Host:
        """Boot a node that has crashed, with empty memory. It is the caller's to tell the other nodes."""
        node = Node.boot(self.spec, nid, self.nodes[nid].lineage + 1)
        self.keeper.restart(node)
        self.down.discard(nid)
        return self.host(node)

    # driving

    def spawn(self, nid: int, steps: Steps[T]) -> Task[T]:
        """Start a request on a node and return it; it proceeds as the events are run."""
        node = self.nodes[nid]
        task = Task(through_outbox(node, steps), node)
        self.at(0, lambda: self._step(task, None, None))
        return task

    def call(self, nid: int, steps: Steps[T]) -> T:
        """Run a request to its end, and everything else that happens meanwhile; return its result."""
        task = self.spawn(nid, steps)
        while not task.done:
            self.next()
        return task.result

    def run(self) -> None:
        """Run events until only daemons' checks for work are left."""
        while self._foreground:
            self.next()

    def advance(self, ns: int) -> None:
        """Advance the clock by `ns`, running the events of that time."""
        until = self.now_ns + ns
        while self._events and self._events[0].at_ns <= until:
            self.next()
        self._pass_time(until)

    # memory that comes and goes

    def change_memory_block(self, block: int, state: str) -> MemoryState:
        """Write ``memoryN/state``: offline, online, online_kernel or online_movable.

        Returns, when all nodes that are up have heard of it, the memory that the block's node has then.
        NotFound, InvalidRequest (EINVAL), Busy (EBUSY).
        """
        nid = next((nid for nid, node in self.nodes.items() if block in memory_blocks(node)), None)
        if nid is None:
            raise NotFound("memory_block", f"memory{block}", "no node has it")
        now = self.call(nid, self.memory_block(nid, block, state))
        self._until_told()
        return now

    def memory_block(self, nid: int, block: int, state: str) -> Steps[MemoryState]:
        """Change the state of a node's memory block, and report it to the keeper of the machine's record."""
        now = yield from change_memory_block(self.nodes[nid], block, state)
        self.keeper.hear(self.nodes[nid])
        return now

    def offline_node(self, nid: int) -> dict[int, str]:
        """Take all memory of a node off-line, and the node itself if it has no CPUs.

        Returns the blocks that stay on-line, and why.
        """
        stay = self.call(nid, offline_node(self.nodes[nid]))
        self.keeper.hear(self.nodes[nid])
        self._until_told()
        return stay

    def _until_told(self) -> None:
        while self.keeper.is_telling():
            self.next()

    def check(self) -> list[str]:
        """Return the violated invariants of every node and between nodes.

        Between nodes, each owner of pages must exist at its home. That holds only while no request is under
        way.
        """
        problems = [problem for node in self.nodes.values() for problem in node.check()]
        for node in self.nodes.values():
            for owner in node.slots:
                home = self.nodes[owner.nid]
                if owner.lineage == home.lineage and not lives(home, owner):
                    problems.append(f"node {node.nid}: {owner} holds pages and is unknown at home")
        return problems

    # events

    def at(self, delay_ns: int, act: Callable[[], object], background: bool = False) -> Event:
        """Schedule `act` to be called `delay_ns` from now."""
        self._sequence += 1
        event = Event(self.now_ns + delay_ns, self._sequence, act, background)
        heapq.heappush(self._events, event)
        self._foreground += not background
        return event

    def _soon(self, act: Callable[[], object]) -> None:
        self.at(0, act)

    def cancel(self, event: Event) -> None:
        """Cancel an event, unless it has happened or is cancelled already."""
        if not event.cancelled:
            event.cancelled = True
            self._foreground -= not event.background

    def next(self) -> None:
        """Run the next event. A cancelled event does nothing and does not advance the clock."""
        event = heapq.heappop(self._events)
        if event.cancelled:
            return
        event.cancelled = True  # so that a later cancel() has no effect
        self._foreground -= not event.background
        self._pass_time(event.at_ns)
        event.act()

    @property
    def _stat_interval_ns(self) -> int:
        """vm.stat_interval in ns, as the first node has it: all nodes have the same."""
        seconds = next(iter(self.nodes.values())).machine.sysctls.stat_interval
        return seconds * 1_000_000_000 or JIFFY_NS

    def _pass_time(self, until_ns: int) -> None:
        """Set the clock, running the vmstat ticks until then on nodes where there is anything to do."""
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
        """Run steps that ask no other node; return their result."""
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
        raise AssertionError("it asks another node")

    def _traced_ns(self) -> int:
        """Return the time for trace events: a clock for all nodes, which the cost of their work advances."""
        tracers = (node.tracepoints.tracer for node in self.nodes.values())
        return max(self.now_ns, *(tracer.clock_ns for tracer in tracers if tracer), 0)

    def _step(self, task: Task[Any], value: Any, error: NodeError | None) -> None:
        """Resume a task with an answer or an error, and carry out the effect that it yields."""
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
        """Carry out an effect that a generator of a node has yielded.

        `then` is called with the answer, or with the error that came instead.
        """
        if isinstance(effect, Park):
            effect.when_woken(partial(self._soon, lambda: then(None, None)))
        else:
            self._send(host, effect, then)

    def _send(self, host: Host, ask: Ask[Any], then: Callable[[Any, NodeError | None], None]) -> None:
        """Send a question to its node; `then` is called with the answer, or with an error after a timeout."""
        nid = host.node.nid
        asking = host.node.outbox.asking
        asking[id(ask)] = ask.nid, getattr(ask.op, "owner", None)

        def over(value: Any, error: NodeError | None) -> None:
            if asking.pop(id(ask), None) is not None and host.alive:
                self.cancel(timeout)
                then(value, error)

        # a node that is down cannot have heard the question; any other node may have
        lost = (NeverSent if ask.nid in self.down else PeerUnavailable)(ask.nid, "no answer")

        def give_up() -> None:
            self.unanswered[nid] += 1
            over(None, lost)

        timeout = self.at(self.network.faults.timeout_ns, give_up)
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
        """Send the answer to a question, which the network may lose."""
        if self.network.reaches(from_nid, to_nid) and not self.network.loses():
            self.at(self.network.delay_ns(), lambda: over(value, error))

    def _deliver(self, asker: int, ask: Ask[Any], reply: Callable[[Any, NodeError | None], None]) -> None:
        """Let a question arrive at its node, whose inbox carries it out once and repeats the first answer."""
        if ask.nid in self.down or not self.network.reaches(asker, ask.nid):
            return
        host = self.hosts[ask.nid]
        call = Call(node_asker(asker), ask.request_id, zlib.crc32(encode(ask.op)))
        self.request(host, call, lambda: self._carried_out(host, ask.op), reply)

    @staticmethod
    def _carried_out(host: Host, asked: Tagged[Any]) -> Any:
        """Carry out a question; return its answer, or the steps that lead to it."""
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
        """Let a request arrive at a node's inbox; `reply` is called with its result or its error."""
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
        """Carry out the effect at which a request stands, unless that is being done already."""
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
        """Have the daemons of a name check for work; kswapd does so after a delay."""
        for daemon in host.daemons[name]:
            look = host.looks.get(id(daemon))
            if id(daemon) not in host.busy and (look is None or look.background):
                self._look_in(host, daemon, KSWAPD_WAKE_NS if name == "kswapd" else 0)

    def _look_in(self, host: Host, daemon: Daemon, delay_ns: int, background: bool = False) -> None:
        """Schedule a daemon's next check for work, in place of an earlier one."""
        earlier = host.looks.get(id(daemon))
        if earlier is not None:
            self.cancel(earlier)
        act = lambda: self._look(host, daemon)  # noqa: E731
        host.looks[id(daemon)] = self.at(delay_ns, act, background)

    def _look(self, host: Host, daemon: Daemon) -> None:
        """Begin a round of a daemon if it is wanted; otherwise schedule its next check."""
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
        """Resume a daemon's round with an answer or an error, and carry out the effect that it yields."""
        if not host.alive:
            return
        try:
            effect = steps.throw(error) if error else steps.send(value)
        except StopIteration as end:
            if not daemon.overlaps:
                host.busy.discard(id(daemon))
                self._look_in(host, daemon, end.value, background=daemon.endless)
        else:
            self.carry_out(host, effect, lambda v, e: self._round(host, daemon, steps, v, e))


def _outcome(running: Running) -> tuple[Any, NodeError | None]:
    try:
        return running.reply, None
    except NodeError as error:
        return None, error
