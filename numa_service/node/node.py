"""One node: its state, the ops that change it, one after the other, and who is told of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from numa_service.machine.boot import start_kernel
from numa_service.machine.booted import BootedMachine
from numa_service.machine.spec import MachineSpec
from numa_service.mm.page_alloc import ALLOC_NO_WATERMARKS
from numa_service.mm.pgdata import KSWAPD_WOKEN
from numa_service.mm.zonelist_cache import ZonelistScan
from numa_service.node.mempolicy import Walk
from numa_service.node.ops.op import Op
from numa_service.node.owner_checks import check_owners
from numa_service.node.prepare import PreparedRequests
from numa_service.node.state import NodeState
from numa_service.node.tracepoints import Tracepoints

R = TypeVar("R")

#: Ops kept in the log in memory, and bytes of page numbers that they may hold.
LOG_LIMIT = 1 << 14
LOG_BYTES_LIMIT = 64 << 20
#: Ops kept of a log that was longer, up to twice as many: it can be replayed no more, and memory that is
#: always new makes every request slower.
LOG_TAIL = 1 << 9

#: Told of every op that was applied: the node, as it is then, the op and its result.
Observer = Callable[["Node", Op[Any], Any], None]


class Node(NodeState):
    """One NUMA node of a machine. :meth:`apply` is the only way to change its state."""

    def __init__(self, machine: BootedMachine, nid: int, lineage: int = 1, epoch: int | None = None) -> None:
        """A node that has just booted; see :class:`NodeState`. Without an `epoch`: that of the lineage."""
        super().__init__(machine, nid, lineage, lineage if epoch is None else epoch)
        self.prepared = PreparedRequests(machine, nid)
        #: Every op in order, with nothing else; see `log_dropped`.
        self.log: deque[Op[Any]] = deque()
        #: Ops that are no longer in the log; it is replayable while this is 0.
        self.log_dropped = 0
        self._log_bytes = 0
        self._log_room = LOG_LIMIT
        self.alloc_failures: dict[int, int] = {}  #: order → blocks that nobody had; not state
        self.tracepoints = Tracepoints(self.pgdat, machine.spec.latency)
        #: Now, in ns, as the shell around this node tells it; for what wears off with time.
        self.clock: Callable[[], int] = lambda: 0
        #: Transcripts, tests.
        self.observer: Observer | None = None
        #: Told the name of daemons (``daemons.py``) that may have something to do.
        self.wake: Callable[[str], None] | None = None

    @classmethod
    def boot(cls, spec: MachineSpec, nid: int, lineage: int = 1) -> Node:
        """Boot one node of a machine in this process."""
        return cls(start_kernel(spec, [nid]), nid, lineage)

    @classmethod
    def replay(cls, spec: MachineSpec, nid: int, log: list[Op[Any]], lineage: int = 1) -> Node:
        """A fresh node brought to the state that a log leads to."""
        node = cls.boot(spec, nid, lineage)
        for op in log:
            node.apply(op)
        return node

    def apply(self, op: Op[R]) -> R:
        """Carry out one op. An op that raises has changed nothing and is not logged."""
        tracer = self.tracepoints.tracer
        if tracer:
            tracer.op_begins(op)
        result = op.apply(self)
        if tracer:
            tracer.op_ends(op, result)
        log = self.log
        log.append(op)
        self._log_bytes += op.payload
        if len(log) > self._log_room or self._log_bytes > LOG_BYTES_LIMIT:
            self._cut_log()
        if self.observer:
            self.observer(self, op, result)
        if self.wake:
            if op.wakes:
                self.wake(op.wakes)
            if self.pgdat.kswapd[KSWAPD_WOKEN]:
                self.wake("kswapd")
        return result

    @property
    def log_length(self) -> int:
        """Ops applied since it booted."""
        return self.log_dropped + len(self.log)

    def _cut_log(self) -> None:
        """Keep the end. Many ops at once: code that ran for every request would be cold each time."""
        self._log_room = 2 * LOG_TAIL
        log = self.log
        while len(log) > LOG_TAIL or self._log_bytes > LOG_BYTES_LIMIT // 2:
            self._log_bytes -= log.popleft().payload
            self.log_dropped += 1

    def zonelist_scan(self, walk: Walk, alloc_flags: int) -> ZonelistScan | None:
        """How a walk uses the zonelist cache; None without one: later kernels, and __GFP_THISNODE."""
        if not self.machine.profile.zonelist_cache or walk.this_node:
            return None
        return ZonelistScan(
            self.zonelist_cache(walk.list_nid),
            nr_online_nodes=len(self.machine.populated),
            now_ns=self.clock(),
            watermarks=not alloc_flags & ALLOC_NO_WATERMARKS,
        )

    def check(self) -> list[str]:
        """Violated invariants, those of owners included."""
        return self.check_memory() + check_owners(self)
