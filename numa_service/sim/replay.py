"""Replay: the allocations and frees of a kernel trace, issued on an emulated machine.

Every event goes the way of a request: to the node of its CPU, through the generators of ``node/``, which a
:class:`Simulation` drives over all nodes. That way is exact and slow, so stretches of events that one node
serves at LOW are handed to the kernel ``mm.replay.replay_stretch``. It works on the same arrays and is told
what the generator asked of the node for the first request of that kind, so the state of every node is the
same, to the bit, as if every event had taken the long way. (Their logs are not: a stretch is no op. A replay
is repeated from its trace.)

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
from numa_service.mm.page_alloc import take_boosted
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
    boosted,
    can_serve,
    compile_replay,
    no_fast_path,
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
        nr_zones = len(self._keeper.pgdat.zone_names)
        #: By nid of the CPU and nid of the zones.
        self._paths = {
            (cpu, nid): no_fast_path(_CLASSES, nr_zones) for cpu in self._sessions for nid in nodes
        }
        #: By nid of the CPU and gfp class: nodes in the order in which they are asked, as far as is known.
        self._walks: dict[tuple[int, int], list[int]] = {}
        self._scratch = ReplayScratch(np.zeros(0, np.uint32), np.zeros(1, np.int64))
        #: What the request under way has asked of each node: until the first kswapd is woken, at LOW.
        self._asked: dict[int, ops.Alloc] = {}
        self._at_low = True
        for node in nodes.values():
            node.observer = self._observe
        self._cpu_index, self._cpu_home = self._place_cpus()
        # before anybody looks at the clock
        compile_replay(self._keeper.pgdat.pg)

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
                after = self._run_spilled(events, at, end)
            if after == at:
                self._issue(events, at, int(gfps[at]))
                after += 1
            at = after
        return at

    def _run(self, nid: int, events: ReplayEvents, at: int, end: int, guest_home: int = -1) -> int:
        """The events from `at` on that node `nid` serves alone; where that ended."""
        if not self._slots[nid]:
            return at  # we have never had a page there
        nothing = self._paths[self._keeper.nid, nid]
        local = self._paths.get((nid, nid), nothing)  # a node without CPUs is nobody's home
        pgdat = self.sim.nodes[nid].pgdat
        after = replay_stretch(
            pgdat.pg,
            nid,
            self._slots[nid],
            events,
            local,
            self._paths.get((guest_home, nid), nothing),
            guest_home,
            self._live.blocks,
            self._scratch,
            at,
            end,
        )
        if boosted(pgdat.pg):
            self._wake_boosted(nid, events, after - 1)
        return after

    def _wake_boosted(self, nid: int, events: ReplayEvents, at: int) -> None:
        """rmqueue(): the allocation that mixed migratetypes wakes kswapd, as the op for it does."""
        pgdat = self.sim.nodes[nid].pgdat
        take_boosted(pgdat.pg)
        path = self._paths[int(events.home[at]), nid]
        pgdat.wakeup_kswapd(0, int(path.highest_zoneidx[events.gfp_class[at]]))
        self.sim.wake(nid)
        self.sim.run()

    def _run_spilled(self, events: ReplayEvents, at: int, end: int) -> int:
        """The same when the event is an allocation that its home node is too low for.

        The nodes of its walk are tried in order. Only those where the home node's session is known to have
        pages (and whose owner slot is known here) are used; any other that could serve it ends the attempt.
        """
        home, row, order = int(events.home[at]), int(events.gfp_class[at]), int(events.order[at])
        if not events.is_alloc[at] or self._live.blocks[events.key[at]] > 0 or order >= NR_ORDERS:
            return at
        walk = self._walks.get((home, row), [])
        holdings = self.sim.nodes[home].session(self._sessions[home]).holdings
        for nid in walk:
            if nid not in holdings:
                if can_serve(self.sim.nodes[nid].pgdat.pg, self._paths[home, nid], row, order):
                    return at
                continue
            after = self._run(nid, events, at, end, home)
            if after > at:
                if nid != walk[0]:
                    guests = events.is_alloc[at:after] & (events.home[at:after] == home)
                    preferred_zone = int(self._paths[home, walk[0]].zones[row, 0])
                    self.sim.nodes[walk[0]].pgdat.count_foreign(preferred_zone, int(guests.sum()))
                return after
        return at

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
        self._asked = {}
        self._at_low = True
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
        """Sees every op of the generators."""
        if isinstance(op, ops.Alloc):
            self.tally.steals += result.path[PATH_STEALS]
            self._at_low &= nid not in self._asked
            if self._at_low:
                self._asked[nid] = op
        elif isinstance(op, ops.WakeKswapd):
            self._at_low = False

    def _learn(self, home: int, row: int) -> None:
        """What a request of this class has just asked of the nodes of its walk, at LOW."""
        if len(self._asked) <= len(self._walks.get((home, row), [])):
            return
        self._walks[home, row] = list(self._asked)
        for nid, op in self._asked.items():
            path = self._paths[home, nid]
            path.zones[row, : len(op.zones)] = op.zones
            path.migratetype[row] = op.migratetype
            path.highest_zoneidx[row] = op.highest_zoneidx
            path.alloc_flags[row] = op.alloc_flags
            path.numa_how[row] = op.numa_how
            path.nr_zones[row] = len(op.zones)

    def _classes(self, gfps: npt.NDArray[np.uint32]) -> I64:
        """Row of the fast path for each mask; rows are made for masks not seen before."""
        masks, inverse = np.unique(gfps, return_inverse=True)
        rows = [self._gfp_classes.setdefault(mask, len(self._gfp_classes)) for mask in masks.tolist()]
        for pair, path in self._paths.items():
            while len(self._gfp_classes) > len(path.nr_zones):
                path = FastPath(*(np.concatenate([column, np.zeros_like(column)]) for column in path))
                self._paths[pair] = path
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
