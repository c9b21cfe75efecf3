"""A whole machine in one process: every node's real code, a virtual clock, a network that can misbehave.

One seed, one run: the order of events depends on nothing else. Requests and kswapd are the generators that
the Ray actors drive; a message between nodes is an event some virtual time later.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from numa_service.machine.boot import start_kernel
from numa_service.machine.hotplug import MemoryState
from numa_service.machine.spec import MachineSpec
from numa_service.mm.pgdata import KSWAPD_WOKEN
from numa_service.node import ops
from numa_service.node.ask import Ask, Steps, check_asked
from numa_service.node.errors import NodeError, NotFound, PeerUnavailable
from numa_service.node.memory_hotplug import change_memory_block, memory_blocks, offline_node
from numa_service.node.node import Node

T = TypeVar("T")

#: From wakeup_kswapd() to its first step: a scheduler tick at HZ=250.
KSWAPD_WAKE_NS = JIFFY_NS = 4_000_000


@dataclass(frozen=True, slots=True)
class Faults:
    """What the network does to messages between nodes."""

    #: Probability that a question is lost; the caller gives up after `timeout_ns`.
    lose: float = 0.0
    #: Probability that a question arrives twice.
    duplicate: float = 0.0
    #: Each message takes up to this many times longer than it must.
    jitter: float = 0.0
    timeout_ns: int = 1_000_000


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
class _Event:
    at_ns: int
    sequence: int
    act: Callable[[], object] = field(compare=False)


class Simulation:
    """All nodes of a machine, and the time they live in."""

    def __init__(
        self, spec: MachineSpec, seed: int = 0, faults: Faults | None = None, *, vmstat: bool = True
    ) -> None:
        """Boot. Without `vmstat`, no CPU has vmstat ticks: for a shell whose clock is not this one."""
        self.spec = spec
        machine = start_kernel(spec)
        self.nodes = {node.nid: Node(machine.of_node(node.nid), node.nid) for node in spec.nodes}
        # each node keeps its own books, as in a process of its own; a snapshot shows them all
        pgdats = {nid: node.pgdat for nid, node in self.nodes.items()}
        self.now_ns = 0
        self.down: set[int] = set()
        self._random = random.Random(seed)
        self._faults = faults or Faults()
        self._events: list[_Event] = []
        self._sequence = 0
        #: Nodes whose kswapd has a step coming.
        self._kswapd: set[int] = set()
        self._vmstat = vmstat
        self._next_tick_ns = self._stat_interval_ns
        for node in self.nodes.values():
            node.clock = lambda: self.now_ns
            node.replies.keep_ns = 0  # what comes twice comes within moments
            node.tracepoints.now = self._traced_ns
            node.machine.neighbours = pgdats

    # driving

    def spawn(self, nid: int, steps: Steps[T]) -> Task[T]:
        """Start a request on a node; it makes its way as the clock runs."""
        task = Task(steps, self.nodes[nid])
        self._at(0, lambda: self._step(task, None, None))
        return task

    def call(self, nid: int, steps: Steps[T]) -> T:
        """Run one request to its end, and everything else that happens meanwhile."""
        task = self.spawn(nid, steps)
        while not task.done:
            self._next()
        return task.result

    def run(self) -> None:
        """Until nothing is left to happen but vmstat ticks."""
        while self._events:
            self._next()

    def advance(self, ns: int) -> None:
        """Let virtual time pass, and happen what happens in it."""
        until = self.now_ns + ns
        while self._events and self._events[0].at_ns <= until:
            self._next()
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

    def _at(self, delay_ns: int, act: Callable[[], object]) -> None:
        self._sequence += 1
        heapq.heappush(self._events, _Event(self.now_ns + delay_ns, self._sequence, act))

    def _next(self) -> None:
        event = heapq.heappop(self._events)
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
                node for nid, node in self.nodes.items() if nid not in self.down and node.pgdat.vmstat_wanted
            ]
            for node in wanted:
                node.apply(ops.VmstatTick())
            quiet = 0 if wanted else (until_ns - self._next_tick_ns) // self._stat_interval_ns
            self._next_tick_ns += (1 + quiet) * self._stat_interval_ns
        self.now_ns = until_ns

    def _traced_ns(self) -> int:
        """One clock for the events of all nodes, which the cost of what they do advances, too."""
        tracers = (node.tracepoints.tracer for node in self.nodes.values())
        return max(self.now_ns, *(tracer.clock_ns for tracer in tracers if tracer), 0)

    def _step(self, task: Task[Any], value: Any, error: NodeError | None) -> None:
        try:
            ask = task.steps.throw(error) if error else task.steps.send(value)
        except StopIteration as stop:
            task.finish(stop.value, None)
        except NodeError as e:
            task.finish(None, e)
        else:
            self._send(task, ask)
        self.wake(task.node.nid)

    def _send(self, task: Task[Any], ask: Ask[Any]) -> None:
        """Carry a question to its node and the answer back, or lose it."""
        if ask.nid in self.down or self._random.random() < self._faults.lose:
            lost = PeerUnavailable(ask.nid, "no answer")
            self._at(self._faults.timeout_ns, lambda: self._step(task, None, lost))
            return
        if self._random.random() < self._faults.duplicate:
            self._at(self._delay(), lambda: self._deliver(ask))
        self._at(self._delay(), lambda: self._answer(task, ask))

    def _delay(self) -> int:
        """One way between nodes: half of what the latency model charges for a lookup."""
        base = self.spec.latency.remote_lookup_ns // 2
        return base + int(base * self._faults.jitter * self._random.random())

    def _answer(self, task: Task[Any], ask: Ask[Any]) -> None:
        result, error = self._deliver(ask)
        self._at(self._delay(), lambda: self._step(task, result, error))

    def _deliver(self, ask: Ask[Any]) -> tuple[Any, NodeError | None]:
        """Apply a question on its node, once: asked again, it gets the first answer."""
        node = self.nodes[ask.nid]
        key = "node", ask.request_id
        if key in node.replies:
            return node.replies[key], None
        try:
            check_asked(node, ask.op)
            result = node.apply(ask.op)
        except NodeError as e:
            return None, e
        node.replies.remember(key, result)
        self.wake(ask.nid)
        return result, None

    # kswapd

    def wake(self, nid: int) -> None:
        """Start the node's kswapd when it is wanted and asleep."""
        if nid not in self._kswapd and self.nodes[nid].pgdat.pg.kswapd[KSWAPD_WOKEN]:
            self._kswapd.add(nid)
            self._at(KSWAPD_WAKE_NS, lambda: self._kswapd_step(nid))

    def _kswapd_step(self, nid: int) -> None:
        step = self.nodes[nid].apply(ops.KswapdStep())
        if step.runs_on:
            self._at(step.scanned * self.spec.latency.reclaim_page_ns, lambda: self._kswapd_step(nid))
        else:
            self._kswapd.discard(nid)
            self.wake(nid)
