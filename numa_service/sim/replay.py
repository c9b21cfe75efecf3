"""Replay: the allocations and frees of a kernel trace, issued on an emulated machine.

Every event goes the way of a request: to the node of its CPU, through the generators of ``node/``, which a
:class:`Simulation` drives over all nodes. That way is exact and slow, so stretches of events that one node
serves from its own zones (or frees) are handed to the kernel ``mm.replay.replay_stretch``. It works on the
same arrays and is told what the generator asked of the node for the first request of that kind, so the state
of every node is the same, to the bit, as if every event had taken the long way. (Their logs are not: a
stretch is no op. A replay is repeated from its trace.)

All blocks belong to one owner. What the traced kernel reclaimed is in the trace, as frees; the emulated
kswapds run, right after the request that woke them, but find nothing on the LRU lists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from numa_service.machine.spec import MachineSpec
from numa_service.mm.gfp import gfp_migratetype
from numa_service.mm.mmzone import NR_ORDERS, PAGEBLOCK_NR_PAGES, PAGEBLOCK_ORDER
from numa_service.mm.pgdata import I64
from numa_service.mm.replay import (
    ALLOC_BAD_ORDER,
    ALLOC_FAILED,
    ALLOC_REFUSED,
    NOT_HERE,
    PENDING,
    FastPath,
    ReplayEvents,
    ReplayScratch,
    block_index,
    block_nid,
    block_of,
    block_order,
    replay_stretch,
    unmatched_free,
)
from numa_service.mm.vmstat import PATH_STEALS
from numa_service.node import ops
from numa_service.node.errors import InvalidRequest
from numa_service.node.mempolicy import Policy
from numa_service.node.node import pack_pfns, unpack_pfns
from numa_service.node.ops import Op
from numa_service.node.page_alloc import alloc_for_owner, on
from numa_service.sim.replay_tally import ReplayTally
from numa_service.sim.simulation import Simulation
from numa_service.sim.traced import TracedZones
from numa_service.trace.events import EventKind, TraceEvents

#: Different gfp masks; real traces have tens.
_CLASSES = 64


class LiveBlocks:
    """What is live, by real pfn: rows of a pageblock's pages, made when a pfn of it is first seen."""

    def __init__(self) -> None:
        #: By key: the block held for it (``mm.replay``), NOT_HERE, or 0.
        self.blocks: I64 = np.zeros(PAGEBLOCK_NR_PAGES * 1024, dtype=np.int64)
        self._rows: dict[int, int] = {}

    def keys(self, pfns: npt.NDArray[np.uint64]) -> I64:
        """Positions of pfns in `blocks`, which may be replaced by a longer array."""
        names, inverse = np.unique(pfns >> np.uint64(PAGEBLOCK_ORDER), return_inverse=True)
        rows = np.array([self._rows.setdefault(name, len(self._rows)) for name in names.tolist()], np.int64)
        while len(self._rows) * PAGEBLOCK_NR_PAGES > len(self.blocks):
            self.blocks = np.concatenate([self.blocks, np.zeros_like(self.blocks)])
        offsets = (pfns & np.uint64(PAGEBLOCK_NR_PAGES - 1)).astype(np.int64)
        return (rows[inverse] << PAGEBLOCK_ORDER) | offsets


class Replay:
    """A machine and how far the trace has been replayed on it."""

    def __init__(self, spec: MachineSpec, traced: TracedZones | None = None) -> None:
        """Boot the machine. `traced`: where real pfns lie and what was in use; by default, as in `spec`.

        BootMemoryError as from boot.
        """
        self.spec = spec
        self.sim = Simulation(spec)
        self.traced = traced or TracedZones.of(spec)
        nodes = self.sim.nodes
        self._sessions = {
            nid: node.apply(ops.OpenSession("replay", 0, 0))
            for nid, node in nodes.items()
            if spec.node(nid).cpus
        }
        self._keeper = nodes[next(iter(self._sessions))]
        self.owner = self._keeper.owner(self._sessions[self._keeper.nid])
        in_use = self.traced.hold_in_use(nodes, self._keeper)
        self.tally = ReplayTally(self.sim, self.traced, in_use)
        self._live = LiveBlocks()
        self._slots = dict.fromkeys(nodes, 0)
        self._gfp_classes: dict[int, int] = {}
        self._fast = {nid: _no_fast_path(len(node.pgdat.zone_names)) for nid, node in nodes.items()}
        self._scratch = ReplayScratch(np.zeros(0, np.uint32), np.zeros(1, np.int64))
        self._first_ask: tuple[int, ops.Alloc] | None = None
        for node in nodes.values():
            node.observer = self._observe
        self._cpu_index, self._cpu_home = self._place_cpus()
        # compiled, or loaded, before anybody looks at the clock
        self._run(self._keeper.nid, _no_events(), 0, 0)

    def run(self, chunks: Iterable[TraceEvents], stop: Callable[[], bool] = lambda: False) -> bool:
        """Replay chunks in order; False when `stop` said so before the end. Counts go to `tally`."""
        return all(self._chunk(chunk, stop) for chunk in chunks)

    # a chunk

    def _chunk(self, chunk: TraceEvents, stop: Callable[[], bool]) -> bool:
        """Issue the events of one chunk, all but those that ask nothing of the allocator."""
        is_alloc = chunk.kind == EventKind.MM_PAGE_ALLOC
        issued = np.flatnonzero((is_alloc & (chunk.pfn != 0)) | (chunk.kind == EventKind.MM_PAGE_FREE))
        pfns, gfps, cpus = chunk.pfn[issued], chunk.gfp[issued], chunk.cpu[issued]
        events = ReplayEvents(
            is_alloc=is_alloc[issued],
            key=self._live.keys(pfns),
            order=chunk.order[issued].astype(np.int64),
            cpu=self._cpu_index[cpus],
            home=self._cpu_home[cpus],
            gfp_class=self._classes(gfps),
            outcome=np.zeros(len(issued), dtype=np.int64),
        )
        done = self._issue_all(events, gfps, stop)
        complete = done == len(issued)
        seen = len(chunk) if complete else int(issued[done])
        self.tally.add_events(chunk.part(0, seen), self._cpu_moved)
        self.tally.add_outcomes(events, pfns, self._migratetypes(gfps), done)
        return complete

    def _issue_all(self, events: ReplayEvents, gfps: npt.NDArray[np.uint32], stop: Callable[[], bool]) -> int:
        at, end = 0, len(events.outcome)
        while at < end and not stop():
            after = self._run(self._node_of(events, at), events, at, end)
            if after == at:
                self._issue(events, at, int(gfps[at]))
                after += 1
            at = after
        return at

    def _run(self, nid: int, events: ReplayEvents, at: int, end: int) -> int:
        """The events from `at` on that node `nid` serves alone; where that ended."""
        return replay_stretch(
            self.sim.nodes[nid].pgdat.pg,
            nid,
            self._slots[nid],
            events,
            self._fast[nid],
            self._live.blocks,
            self._scratch,
            at,
            end,
        )

    def _node_of(self, events: ReplayEvents, at: int) -> int:
        """Where an event belongs: a free to the holder of its block, all else to the node of the CPU."""
        nid = -1 if events.is_alloc[at] else block_nid(int(self._live.blocks[events.key[at]]))
        return nid if nid >= 0 else int(events.home[at])

    # one event, through the generators

    def _issue(self, events: ReplayEvents, at: int, gfp: int) -> None:
        key, order = int(events.key[at]), int(events.order[at])
        home, cpu = int(events.home[at]), self.spec.cpus[int(events.cpu[at])]
        blocks = self._live.blocks
        block = int(blocks[key])
        if events.is_alloc[at]:
            if block > 0:
                # the traced kernel had this page free again: its free is missing from the trace
                self.tally.missing_frees += 1
                self._free(block, home, cpu)
            outcome = self._alloc(home, cpu, order, gfp, int(events.gfp_class[at]))
            blocks[key] = outcome if outcome > 0 else NOT_HERE
        else:
            outcome = unmatched_free(blocks, key, order)
            if outcome == PENDING:
                self._free(block, home, cpu)
                outcome = block
            if outcome == block or block == NOT_HERE:
                blocks[key] = 0
        events.outcome[at] = outcome

    def _alloc(self, home: int, cpu: int, order: int, gfp: int, gfp_class: int) -> int:
        """One block, as alloc_pages() would get it: the block, or an ALLOC_* outcome."""
        if order >= NR_ORDERS:
            return ALLOC_BAD_ORDER
        self._first_ask = None
        node = self.sim.nodes[home]
        steps = alloc_for_owner(node, self.owner, self._sessions[home], gfp, order, 1, cpu, Policy())
        try:
            allocation = self.sim.call(home, steps)
        except InvalidRequest:
            return ALLOC_REFUSED
        self.sim.run()
        if not allocation.got:
            return ALLOC_FAILED
        nid, pfns = allocation.pages[0]
        pgdat = self.sim.nodes[nid].pgdat
        idx = int(unpack_pfns(pfns)[0]) - pgdat.base_pfn
        self._slots[nid] = int(pgdat.pg.owner[idx])
        self._learn(home, gfp_class)
        return int(block_of(pgdat.pg, nid, idx, order))

    def _free(self, block: int, home: int, cpu: int) -> None:
        """One block, as __free_pages() on that CPU would give it back."""
        nid = block_nid(block)
        pfn = np.array([block_index(block) + self.sim.nodes[nid].pgdat.base_pfn], dtype=np.uint64)
        op = ops.Free(self.owner, cpu, block_order(block), pack_pfns(pfn))
        self.sim.call(home, on(self.sim.nodes[home], nid, op))
        self.sim.run()

    # what the kernel has to be told

    def _observe(self, nid: int, op: Op[Any], result: Any) -> None:
        if isinstance(op, ops.Alloc):
            self.tally.steals += result.path[PATH_STEALS]
            if self._first_ask is None:
                self._first_ask = (nid, op)

    def _learn(self, home: int, gfp_class: int) -> None:
        """What a request of this class asks of its home node's zones first, at LOW."""
        fast = self._fast[home]
        if self._first_ask is None or fast.nr_zones[gfp_class]:
            return
        nid, op = self._first_ask
        if nid != home or not self._slots[home]:
            return  # a node without such zones; or none of its pages has been seen, and our slot there
        fast.zones[gfp_class, : len(op.zones)] = op.zones
        fast.migratetype[gfp_class] = op.migratetype
        fast.highest_zoneidx[gfp_class] = op.highest_zoneidx
        fast.alloc_flags[gfp_class] = op.alloc_flags
        fast.numa_how[gfp_class] = op.numa_how
        fast.nr_zones[gfp_class] = len(op.zones)

    def _classes(self, gfps: npt.NDArray[np.uint32]) -> I64:
        """Row of the fast path for each mask; rows are made for masks not seen before."""
        masks, inverse = np.unique(gfps, return_inverse=True)
        rows = [self._gfp_classes.setdefault(mask, len(self._gfp_classes)) for mask in masks.tolist()]
        for nid, fast in self._fast.items():
            while len(self._gfp_classes) > len(fast.nr_zones):
                fast = FastPath(*(np.concatenate([column, np.zeros_like(column)]) for column in fast))
                self._fast[nid] = fast
        return np.array(rows, dtype=np.int64)[inverse]

    def _migratetypes(self, gfps: npt.NDArray[np.uint32]) -> I64:
        masks, inverse = np.unique(gfps, return_inverse=True)
        return np.array([gfp_migratetype(mask) for mask in masks.tolist()], dtype=np.int64)[inverse]

    def _place_cpus(self) -> tuple[I64, I64]:
        """Position and home nid by the trace's CPU number; a CPU that the machine lacks runs on another."""
        cpus = self.spec.cpus
        home = {cpu: node.nid for node in reversed(self.spec.nodes) for cpu in node.cpus}
        index = np.arange(1 << 16, dtype=np.int64) % len(cpus)
        for position, cpu in enumerate(cpus):
            index[cpu] = position
        self._cpu_moved = np.ones(1 << 16, dtype=np.bool_)
        self._cpu_moved[list(cpus)] = False
        return index, np.array([home[cpu] for cpu in cpus], dtype=np.int64)[index]


def _no_fast_path(nr_zones: int) -> FastPath:
    columns = (np.zeros(_CLASSES, dtype=np.int64) for _ in range(5))
    return FastPath(np.zeros((_CLASSES, nr_zones), dtype=np.int64), *columns)


def _no_events() -> ReplayEvents:
    return ReplayEvents(np.zeros(0, np.bool_), *(np.zeros(0, np.int64) for _ in range(6)))
