"""One NUMA node: its state, the log of the ops that changed it, and what is told of each op."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from numa_service.machine.boot import start_kernel
from numa_service.machine.booted import BootedMachine
from numa_service.machine.spec import MachineSpec
from numa_service.mm.internal import ALLOC_NO_WATERMARKS
from numa_service.mm.pgdata import KSWAPD_WOKEN
from numa_service.mm.zonelist_cache import ZonelistScan
from numa_service.node.mempolicy import Walk
from numa_service.node.ops.op import Op
from numa_service.node.owner_checks import check_owners
from numa_service.node.page_wait import PageWaitTable
from numa_service.node.pkmap_wait import PkmapWait
from numa_service.node.prepare import PreparedRequests
from numa_service.node.state import NodeState
from numa_service.node.trace_ring import Tracepoints

R = TypeVar("R")

#: The log is cut when it has more ops than this, or when their page numbers take more bytes than this.
LOG_LIMIT = 1 << 14
LOG_BYTES_LIMIT = 64 << 20
#: A log that was cut keeps its last LOG_TAIL ops, and may grow to twice as many before it is cut again. It is
#: short because such a log cannot be replayed, and because appending to ever new memory slows every request.
LOG_TAIL = 1 << 9

#: Called after every op with the node (as the op left it), the op and its result.
Observer = Callable[["Node", Op[Any], Any], None]


class Node(NodeState):
    """One NUMA node of a machine. :meth:`apply` is the only way to change its state."""

    def __init__(self, machine: BootedMachine, nid: int, lineage: int = 1, epoch: int | None = None) -> None:
        """Make a node that has just booted; see :class:`NodeState`. `epoch` is `lineage` by default."""
        super().__init__(machine, nid, lineage, lineage if epoch is None else epoch)
        self.prepared = PreparedRequests(machine, nid)
        #: The ops that were applied, oldest first, less the `log_dropped` oldest ones.
        self.log: deque[Op[Any]] = deque()
        #: Number of ops that were cut off the log. The log can be replayed only while this is 0.
        self.log_dropped = 0
        self._log_bytes = 0
        self._log_room = LOG_LIMIT
        #: order → blocks that could not be allocated. A metric, not part of the state.
        self.alloc_failures: dict[int, int] = {}
        #: Requests that wait for pages of this node. Not part of the state: they end with the process.
        self.page_wait = PageWaitTable(self)
        #: Requests that wait for an entry of the pool of kmap; as above.
        self.pkmap_wait = PkmapWait()
        #: What requests have locked (`locks.py`), with the Parks of those that wait for it; as above.
        self.locks: dict[int | str, deque[Any]] = {}
        self.tracepoints = Tracepoints(self.pgdat, machine.spec.latency)
        #: Returns the current time in ns, from the shell that drives this node. Leases, first replies,
        #: repeats of unanswered questions and the zonelist cache depend on it.
        self.clock: Callable[[], int] = lambda: 0
        #: Set by transcripts, replays and tests.
        self.observer: Observer | None = None
        #: Called with the name of a daemon (``daemons.py``) that may have work to do.
        self.wake: Callable[[str], None] | None = None

    @classmethod
    def boot(cls, spec: MachineSpec, nid: int, lineage: int = 1) -> Node:
        """Boot one node of a machine, without the machine's other nodes."""
        return cls(start_kernel(spec, [nid]), nid, lineage)

    @classmethod
    def replay(cls, spec: MachineSpec, nid: int, log: list[Op[Any]], lineage: int = 1) -> Node:
        """Boot a node and apply the ops of a complete log to it."""
        node = cls.boot(spec, nid, lineage)
        for op in log:
            node.apply(op)
        return node

    def apply(self, op: Op[R]) -> R:
        """Apply one op, log it and return its result. An op that raises changes nothing and is not logged."""
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
            thp = self.tasks.thp
            if thp is not None and thp.scan.woken:
                thp.scan.woken = False
                self.wake("khugepaged")
        return result

    @property
    def log_length(self) -> int:
        """Number of ops applied since the node booted."""
        return self.log_dropped + len(self.log)

    def _cut_log(self) -> None:
        """Drop all but the end of the log.

        Many ops are dropped at once, because code that ran a little at every request would find the CPU's
        caches cold each time.
        """
        self._log_room = 2 * LOG_TAIL
        log = self.log
        while len(log) > LOG_TAIL or self._log_bytes > LOG_BYTES_LIMIT // 2:
            self._log_bytes -= log.popleft().payload
            self.log_dropped += 1

    def zonelist_scan(self, walk: Walk, alloc_flags: int) -> ZonelistScan | None:
        """Return the zonelist-cache scan for a walk, or None if there is no cache.

        Only linux-3.0 has the cache, and it is not used for the this-node list of __GFP_THISNODE.
        """
        if not self.machine.profile.zonelist_cache or walk.this_node:
            return None
        return ZonelistScan(
            self.zonelist_cache(walk.list_nid),
            nr_online_nodes=len(self.machine.populated),
            now_ns=self.clock(),
            watermarks=not alloc_flags & ALLOC_NO_WATERMARKS,
        )

    def check(self) -> list[str]:
        """Return the violated invariants of memory and of owners, one line each."""
        return self.check_memory() + check_owners(self)
