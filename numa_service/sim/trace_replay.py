"""Trace replay: issues the allocations and frees of a kernel trace on an emulated machine.

In principle every event is a request to the node of its CPU, carried out by the generators of ``node/``,
which a :class:`Simulation` drives. That is exact but slow. Therefore stretches of events that one node serves
above the LOW watermark are handed to the kernel ``mm.replay.replay_stretch``, which works on the same arrays.
It is told what the generator asked of the node at the first request of the same kind. Memory, owners and
sessions of every node end up bit-identical to a replay in which every event is a request of its own. Logs and
numbers of questions do not, because a stretch is not an op and asks no other node: to repeat a replay, replay
the trace.

All blocks of the trace belong to one owner, and those in use before the trace to another. Pages that the
traced kernel reclaimed are frees in the trace. The emulated kswapds run right after the request that woke
them, but find nothing on the LRU lists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from numa_service.machine.spec import MachineSpec
from numa_service.mm.gfp import gfp_migratetype
from numa_service.mm.mmzone import NR_ORDERS, PAGEBLOCK_ORDER
from numa_service.mm.page_alloc import take_boosted
from numa_service.mm.pgdata import I64, ZONE_BOOSTED_WATERMARK, PgData
from numa_service.mm.replay import (
    ALLOC_BAD_ORDER,
    ALLOC_FAILED,
    ALLOC_REFUSED,
    BLOCK_NID_SHIFT,
    FREE_PART,
    NOT_HERE,
    PENDING,
    REPLAY_FREE,
    FastPath,
    ReplayEvents,
    block_index,
    block_nid,
    block_of,
    block_order,
    can_serve,
    compile_replay,
    is_alloc,
    no_fast_path,
    replay_scratch,
    replay_stretch,
    unmatched_free,
)
from numa_service.mm.split_page import split_held
from numa_service.node import ops
from numa_service.node.ask import on
from numa_service.node.errors import InvalidRequest
from numa_service.node.mempolicy import Policy, PolicyMode
from numa_service.node.node import Node
from numa_service.node.ops.op import Op
from numa_service.node.owners import Owner
from numa_service.node.page_alloc import alloc_for_owner
from numa_service.node.pfns import pack_pfns, unpack_pfns
from numa_service.sim.direct import compiled_code
from numa_service.sim.live_blocks import LiveBlocks
from numa_service.sim.replay_tally import ReplayTally
from numa_service.sim.simulation import Simulation
from numa_service.sim.traced import HeldInUse, TracedZones
from numa_service.trace.events import EventKind, TraceEvents

#: Room for different gfp masks at first; it doubles when needed. Real traces have tens.
_CLASSES = 64

#: Multiplier (Knuth's) and number of bits of the hash of a gfp mask.
_HASH = np.uint32(2654435769)
_HASH_BITS = 12

#: Events between two samples of the zones' free pages.
SAMPLE_EVENTS = 8192


class Asked(NamedTuple):
    """The allocations and frees of some events in the order in which they are issued, as columns."""

    #: Index of the event in its chunk.
    at: I64
    #: REPLAY_* of mm.replay.
    kinds: npt.NDArray[np.uint8]
    #: pfns of the traced kernel.
    pfns: npt.NDArray[np.uint64]
    gfps: npt.NDArray[np.uint32]
    #: CPU numbers of the trace.
    cpus: npt.NDArray[np.integer[Any]]
    orders: I64


class Issue(NamedTuple):
    """The same as Asked in terms of the emulated machine, as columns."""

    at: I64
    events: ReplayEvents
    pfns: npt.NDArray[np.uint64]
    gfps: npt.NDArray[np.uint32]
    #: The migratetype that each gfp mask in `gfps` asks for.
    migratetypes: I64

    def part(self, low: int, high: int) -> Issue:
        """Return the rows [low, high)."""
        here = slice(low, high)
        columns: list[Any] = [column[here] for column in self.events]
        events = ReplayEvents(*columns)
        return Issue(self.at[here], events, self.pfns[here], self.gfps[here], self.migratetypes[here])


def _boosted(pg: PgData) -> bool:
    """Return what mm.replay.boosted() does, without the cost of calling a kernel from Python."""
    for flags in pg.zone_flags.tolist():  # noqa: SIM110 - any() takes three times as long, at every stretch
        if flags & ZONE_BOOSTED_WATERMARK:
            return True
    return False


class Replay:
    """An emulated machine, and the state of a trace's replay on it.

    A subclass may know more of the traced machine and override what its memory was like at the start
    (`occupy`), what happened besides the events (`asked`, `issue`), and which node an allocation preferred
    (`preferred`).
    """

    def __init__(self, spec: MachineSpec, traced: TracedZones | None = None) -> None:
        """Boot the machine and hold what was in use before the trace.

        `traced` says where the traced kernel's zones are and what was in use; by default its zones are those
        of `spec`, and nothing was in use. BootMemoryError as from boot.
        """
        self.spec = spec
        self.sim = Simulation(spec, vmstat=False)  # vmstat ticks would go by the simulation's clock
        self.traced = traced or TracedZones.of(spec)
        nodes = self.sim.nodes
        self._sessions = {
            nid: node.apply(ops.OpenSession("replay", ops.FOREVER_NS, 0))
            for nid, node in nodes.items()
            if spec.node(nid).cpus
        }
        self._keeper = nodes[next(iter(self._sessions))]
        self.owner = self._keeper.owner(self._sessions[self._keeper.nid])
        self._live = LiveBlocks()
        #: Runs of the emulated kswapds, and attempts of direct reclaim.
        self.kswapd_wakeups = 0
        self.direct_reclaims = 0
        self.tally = self.count_from(self.occupy())
        self._slots = dict.fromkeys(nodes, 0)
        #: nid → the compiled code of replay_stretch, once the events under way have shown Numba their types.
        self._stretches: dict[int, Callable[..., int]] = {}
        #: Nodes whose work counters have to be read, as a stretch has run there.
        self._worked: set[int] = set()
        self._gfp_classes: dict[int, int] = {}
        self._class_migratetypes: I64 = np.zeros(0, dtype=np.int64)
        self._hashed_gfps = np.zeros(1 << _HASH_BITS, dtype=np.uint32)
        self._hashed_rows: I64 = np.full(1 << _HASH_BITS, -1, dtype=np.int64)
        nr_zones = len(self._keeper.pgdat.zone_names)
        self._nr_zones = nr_zones
        self._class_rows = _CLASSES
        self._nothing = no_fast_path(_CLASSES, nr_zones)
        #: (nid of the CPU, preferred nid, nid of the zones) → what requests ask of that node, by gfp class.
        self._paths: dict[tuple[int, int, int], FastPath] = {}
        #: (nid of the CPU, preferred nid, gfp class) → nodes in the order of the walk, as far as it is known.
        self._walks: dict[tuple[int, int, int], list[int]] = {}
        self._scratch = replay_scratch(nr_zones)
        #: nid → what the current request has asked of that node at LOW, which is before it wakes a kswapd.
        self._asked: dict[int, ops.Alloc] = {}
        self._at_low = True
        for node in nodes.values():
            node.observer = self._observe
        self._cpu_index, self._cpu_home = self._place_cpus()
        # now, so that the time of compiling does not count as time of the replay
        compile_replay(self._keeper.pgdat.pg)

    def run(self, chunks: Iterable[TraceEvents], stop: Callable[[], bool] = lambda: False) -> bool:
        """Replay chunks of events in order, counting in `tally`; return False if `stop` ended it early."""
        return all(self._chunk(chunk, stop) for chunk in chunks)

    # where the machine starts

    def occupy(self) -> tuple[HeldInUse, ...]:
        """Allocate what was in use before the trace on the freshly booted nodes."""
        return self.traced.hold_in_use(self.sim.nodes, self._keeper)

    def count_from(self, in_use: tuple[HeldInUse, ...]) -> ReplayTally:
        """Return a new tally that counts from now on, with `in_use` held."""
        return ReplayTally(self.sim, self.traced, in_use)

    # a chunk

    def _chunk(self, chunk: TraceEvents, stop: Callable[[], bool]) -> bool:
        """Replay one chunk in pieces, taking samples between them; return False if `stop` ended it."""
        issue = self.prepare(chunk)
        begin = 0
        while begin < len(chunk):
            end = self.end_of_piece(chunk, begin)
            if not self._piece(chunk, issue, begin, end, stop):
                return False
            begin = end
        return True

    def end_of_piece(self, chunk: TraceEvents, begin: int) -> int:
        """Return the end of the piece of a chunk that begins at event `begin`."""
        return min(begin + SAMPLE_EVENTS, len(chunk))

    def prepare(self, chunk: TraceEvents) -> Issue:
        """Return the allocations and frees of a chunk, ready to be issued."""
        asked = self.asked(chunk)
        homes = self._cpu_home[asked.cpus]
        preferred = self.preferred(asked, homes)
        keys, classes = self._live.keys(asked.pfns), self._classes(asked.gfps)
        events = ReplayEvents(
            kind=asked.kinds,
            key=keys,
            order=asked.orders,
            cpu=self._cpu_index[asked.cpus],
            home=homes,
            preferred=preferred,
            gfp_class=classes,
            outcome=np.zeros(len(asked.kinds), dtype=np.int64),
        )
        return Issue(asked.at, events, asked.pfns, asked.gfps, self._class_migratetypes[classes])

    def asked(self, chunk: TraceEvents) -> Asked:
        """Return the allocations and frees of a chunk; allocations that failed in the trace are left out."""
        allocs = chunk.kind == EventKind.MM_PAGE_ALLOC
        own = np.flatnonzero((allocs & (chunk.pfn != 0)) | (chunk.kind == EventKind.MM_PAGE_FREE))
        return Asked(
            at=own,
            kinds=allocs[own].astype(np.uint8),  # REPLAY_ALLOC, REPLAY_FREE
            pfns=chunk.pfn[own],
            gfps=chunk.gfp[own],
            cpus=chunk.cpu[own],
            orders=chunk.order[own].astype(np.int64),
        )

    def preferred(self, asked: Asked, homes: I64) -> I64:
        """Return the nid whose zonelist each allocation walks: its CPU's, as a trace has no policies."""
        return homes

    def _piece(
        self, chunk: TraceEvents, issue: Issue, begin: int, end: int, stop: Callable[[], bool]
    ) -> bool:
        """Issue the events [begin, end) of a chunk; return False if `stop` ended it."""
        low, high = np.searchsorted(issue.at, [begin, end]).tolist()
        part = issue.part(low, high)
        done = self._issue_all(part.events, part.gfps, stop)
        complete = bool(done == high - low)
        seen = end if complete else int(part.at[done])
        self.tally.add_events(chunk.part(begin, seen), self._cpu_moved)
        self.tally.add_outcomes(part.events, part.pfns, part.migratetypes, done)
        if complete:
            self.sample(chunk, end)
        return complete

    def sample(self, chunk: TraceEvents, end: int) -> None:
        """Take a sample of every zone, after the events before `end`."""
        self.tally.sample(int(chunk.time_ns[end - 1]))

    def _issue_all(self, events: ReplayEvents, gfps: npt.NDArray[np.uint32], stop: Callable[[], bool]) -> int:
        """Issue events until their end or until `stop`; return how many were issued."""
        at, end = 0, len(events.outcome)
        self._stretches.clear()  # these arrays may have other types: the first call on each node is Numba's
        while at < end and not stop():
            after = at
            # item() gives a Python integer, which is faster to compare than a NumPy integer
            if not is_alloc(events.kind.item(at)) or events.preferred.item(at) == events.home.item(at):
                after = self._run(self._node_of(events, at), events, at, end)
            if after == at:
                after = self._run_spilled(events, at, end)
            if after == at:
                self._take_paths()
                self.issue(events, at, int(gfps[at]))
                after += 1
            at = after
        self._take_paths()
        return at

    def _take_paths(self) -> None:
        """Add the work counters of stretches to the tally.

        This is done before a generator runs, which counts its own work, and not after each stretch, for
        speed.
        """
        for nid in self._worked:
            self.tally.add_path(self.sim.nodes[nid].pgdat.take_path())
        self._worked.clear()

    def _run(
        self, nid: int, events: ReplayEvents, at: int, end: int, guest_home: int = -1, first: bool = False
    ) -> int:
        """Replay events from `at` on for as long as node `nid` can serve them alone; return where it ended.

        If `guest_home` is given, allocations of that node's CPUs that spill over to `nid` are served, too;
        with `first`, `nid` is the first node of their walk.
        """
        if not self._slots[nid]:
            return at  # the owner has no slot there: only an op can give it one
        pgdat = self.sim.nodes[nid].pgdat
        guest = self._nothing
        if guest_home >= 0:
            guest = self._paths.get((guest_home, int(events.preferred[at]), nid), self._nothing)
        stretch: Callable[..., int] = self._stretches.get(nid, replay_stretch)
        after = int(
            stretch(
                pgdat.pg,
                nid,
                self._slots[nid],
                events,
                self._paths.get((nid, nid, nid), self._nothing),
                guest,
                guest_home,
                first,
                self._live.blocks,
                self._scratch,
                at,
                end,
            )
        )
        if stretch is replay_stretch and (code := compiled_code(replay_stretch)) is not None:
            self._stretches[nid] = code
        self._worked.add(nid)
        if _boosted(pgdat.pg):
            self.wake_boosted(nid, events, after - 1)
        return after

    def wake_boosted(self, nid: int, events: ReplayEvents, at: int) -> None:
        """Wake kswapd after an allocation that mixed migratetypes, as the op Alloc does (rmqueue)."""
        self._take_paths()
        node = self.sim.nodes[nid]
        take_boosted(node.pgdat.pg)
        origin = int(events.home[at]), int(events.preferred[at])
        highest_zoneidx = int(self._paths[(*origin, nid)].highest_zoneidx[events.gfp_class[at]])
        if node.pgdat.wakeup_kswapd(0, highest_zoneidx) and node.wake:
            node.wake("kswapd")  # Node.apply tells it after ops, and this is none
            self.sim.run()

    def _run_spilled(self, events: ReplayEvents, at: int, end: int) -> int:
        """Do the same for an allocation that the first node of its walk cannot serve above LOW.

        The nodes of the walk are tried in order. A node where the home's session is not known to have pages
        cannot be used, as an op has to note the holding; if such a node could serve the event, the attempt
        ends.
        """
        home, row, order = int(events.home[at]), int(events.gfp_class[at]), int(events.order[at])
        preferred = int(events.preferred[at])
        if not is_alloc(events.kind[at]) or self._live.blocks[events.key[at]] > 0 or order >= NR_ORDERS:
            return at
        walk = self._walks.get((home, preferred, row), [])
        holdings = self.sim.nodes[home].session(self._sessions[home]).holdings
        for nid in walk:
            if nid != home and nid not in holdings:
                if can_serve(self.sim.nodes[nid].pgdat.pg, self._paths[home, preferred, nid], row, order):
                    return at
                continue
            after = self._run(nid, events, at, end, home, nid == walk[0])
            if after > at:
                if nid != walk[0]:
                    guests = is_alloc(events.kind[at:after]) & (events.home[at:after] == home)
                    guests &= events.preferred[at:after] == preferred
                    preferred_zone = int(self._paths[home, preferred, walk[0]].zones[row, 0])
                    self.sim.nodes[walk[0]].pgdat.count_foreign(preferred_zone, int(guests.sum()))
                return after
        return at

    def _node_of(self, events: ReplayEvents, at: int) -> int:
        """Return the node of an event: for a free the one that has the block, else that of the CPU."""
        if events.kind.item(at) == REPLAY_FREE:
            block = self._live.blocks.item(events.key.item(at))
            if block > 0:
                return (block >> BLOCK_NID_SHIFT) - 1
        return events.home.item(at)

    # one event, through the generators

    def issue(self, events: ReplayEvents, at: int, gfp: int) -> None:
        """Issue one event through the generators; its outcome goes into `events`."""
        key, order = int(events.key[at]), int(events.order[at])
        home, cpu = int(events.home[at]), self.spec.cpus[int(events.cpu[at])]
        blocks = self._live.blocks
        block = int(blocks[key])
        if is_alloc(events.kind[at]):
            if block > 0:
                # the traced kernel allocated a page that is live here: its free is missing from the trace
                self.tally.missing_frees += 1
                self._free(block, home, cpu)
            outcome = self.allocate(events, at, gfp)
            blocks[key] = outcome if outcome > 0 else NOT_HERE
        else:
            outcome = unmatched_free(blocks, key, order)
            if outcome == FREE_PART and self._split(key, order):
                block, outcome = int(blocks[key]), PENDING
            if outcome == PENDING:
                self._free(block, home, cpu)
                outcome = block
            if outcome == block or block == NOT_HERE:
                blocks[key] = 0
        events.outcome[at] = outcome

    def _split(self, key: int, order: int) -> bool:
        """Split the live block that contains `key`, so that this part of it can be freed alone (split_page).

        Returns whether there was such a block.
        """
        blocks = self._live.blocks
        head, block = key, 0
        for above in range(order + 1, PAGEBLOCK_ORDER + 1):
            head = key & ~((1 << above) - 1)
            block = int(blocks[head])
            if block > 0 and block_order(block) >= above:
                break
        else:
            return False
        nid, idx, size = block_nid(block), block_index(block), block_order(block)
        pg = self.sim.nodes[nid].pgdat.pg
        if not split_held(pg, idx, size, idx + key - head, order):
            return False
        at = 0
        while at < 1 << size:
            part = int(pg.order[idx + at])
            blocks[head + at] = block_of(pg, nid, idx + at, part)
            at += 1 << part
        self.tally.splits += 1
        self.tally.split_off += size - order
        return True

    def allocate(self, events: ReplayEvents, at: int, gfp: int) -> int:
        """Allocate one block as alloc_pages() would; return the block, or an ALLOC_* outcome."""
        home, preferred, order = int(events.home[at]), int(events.preferred[at]), int(events.order[at])
        cpu = self.spec.cpus[int(events.cpu[at])]
        if order >= NR_ORDERS:
            return ALLOC_BAD_ORDER
        self._asked = {}
        self._at_low = True
        node = self.sim.nodes[home]
        policy = Policy() if preferred == home else Policy(PolicyMode.PREFERRED, (preferred,))
        steps = alloc_for_owner(node, self.owner, self._sessions[home], gfp, order, 1, cpu, policy)
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
        self._learn(home, preferred, int(events.gfp_class[at]))
        return int(block_of(pgdat.pg, nid, idx, order))

    def _free(self, block: int, home: int, cpu: int) -> None:
        """Free one block as __free_pages() on that CPU would."""
        nid = block_nid(block)
        pfn = np.array([block_index(block) + self.sim.nodes[nid].pgdat.base_pfn], dtype=np.uint64)
        owner = self.owner_of(nid, block_index(block))
        op = ops.Free(owner, cpu, block_order(block), pack_pfns(pfn))
        self.sim.call(home, on(self.sim.nodes[home], nid, op))
        self.sim.run()

    def owner_of(self, nid: int, idx: int) -> Owner:
        """Return the owner of the live block at a page index of a node."""
        return self.owner

    # what the kernel has to be told

    def _observe(self, node: Node, op: Op[Any], result: Any) -> None:
        """Observe every op of the generators: count its work, and note what it asked of the node."""
        nid = node.nid
        if isinstance(op, ops.Alloc):
            self.tally.add_path(result.path)
            self.sim.nodes[nid].pgdat.take_path()  # the node's counters still have the same work: clear them
            self._at_low &= nid not in self._asked
            if self._at_low:
                self._asked[nid] = op
        elif isinstance(op, ops.WakeKswapd):
            self._at_low = False
        elif isinstance(op, ops.Reclaim):
            self.tally.add_path(result.path)
        elif isinstance(op, ops.KswapdStep) and result.did is ops.KswapdDid.BEGAN:
            self.kswapd_wakeups += 1
        elif isinstance(op, ops.CountEvents):
            self.direct_reclaims += op.stalls
        self.tally.add_path(self.sim.nodes[nid].pgdat.take_path())

    def _learn(self, home: int, preferred: int, row: int) -> None:
        """Keep what a request of gfp class `row` has just asked of the nodes of its walk at LOW."""
        if len(self._asked) <= len(self._walks.get((home, preferred, row), [])):
            return
        self._walks[home, preferred, row] = list(self._asked)
        for nid, op in self._asked.items():
            key = (home, preferred, nid)
            path = self._paths.setdefault(key, no_fast_path(self._class_rows, self._nr_zones))
            path.zones[row, : len(op.zones)] = op.zones
            path.migratetype[row] = op.migratetype
            path.highest_zoneidx[row] = op.highest_zoneidx
            path.alloc_flags[row] = op.alloc_flags
            path.numa_how[row] = op.numa_how
            path.nr_zones[row] = len(op.zones)

    def _classes(self, gfps: npt.NDArray[np.uint32]) -> I64:
        """Return the gfp class (row of the fast paths) of each mask; new masks get new classes."""
        # a hash table finds the classes; if a mask is not found in it, all masks are sorted instead
        slots = (gfps * _HASH) >> np.uint32(32 - _HASH_BITS)
        found: I64 = self._hashed_rows[slots]
        if ((self._hashed_gfps[slots] == gfps) & (found >= 0)).all():
            return found
        masks, inverse = np.unique(gfps, return_inverse=True)
        rows = [self._gfp_classes.setdefault(mask, len(self._gfp_classes)) for mask in masks.tolist()]
        while len(self._gfp_classes) > self._class_rows:
            self._class_rows *= 2
            self._nothing = no_fast_path(self._class_rows, self._nr_zones)
            for key, path in self._paths.items():
                doubled = (np.concatenate([column, np.zeros_like(column)]) for column in path)
                self._paths[key] = FastPath(*doubled)
        self._class_migratetypes = np.array([gfp_migratetype(m) for m in self._gfp_classes], dtype=np.int64)
        slots = (masks * _HASH) >> np.uint32(32 - _HASH_BITS)
        self._hashed_gfps[slots] = masks
        self._hashed_rows[slots] = rows
        return np.array(rows, dtype=np.int64)[inverse]

    def _place_cpus(self) -> tuple[I64, I64]:
        """Return, by CPU number of the trace, the position of the CPU in `spec.cpus` and its nid.

        A CPU that the machine lacks is mapped to another one.
        """
        cpus = self.spec.cpus
        home = {cpu: node.nid for node in reversed(self.spec.nodes) for cpu in node.cpus}
        index = np.arange(1 << 16, dtype=np.int64) % len(cpus)
        for position, cpu in enumerate(cpus):
            index[cpu] = position
        self._cpu_moved = np.ones(1 << 16, dtype=np.bool_)
        self._cpu_moved[list(cpus)] = False
        return index, np.array([home[cpu] for cpu in cpus], dtype=np.int64)[index]
