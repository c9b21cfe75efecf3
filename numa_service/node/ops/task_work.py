"""What ops of tasks have in common: pages taken from this node as they work, and given back at their end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from numa_service.mm.mmap.frames import ANON, FILE, Pfns
from numa_service.mm.mmzone import HUGE_INDEX, PAGEBLOCK_ORDER
from numa_service.mm.page_alloc import LRU_KIND_NONE, NUMA_HOW_HIT, NUMA_HOW_LOCAL
from numa_service.node.ops.alloc import Alloc
from numa_service.node.ops.fields import check_migratetype, check_zoneidx, check_zones
from numa_service.node.ops.free import Free
from numa_service.node.ops.region import Release
from numa_service.node.pfns import pack_pfns, unpack_pfns
from numa_service.node.state import NodeState
from numa_service.node.task_huge import parts_of_heads
from numa_service.node.task_pages import (
    FREED,
    HUGE,
    HUGE_ZERO,
    IDLE,
    LRU_KINDS,
    OWNER_IDS,
    TABLE,
    Want,
    nid_and_pfn,
    table_block,
)
from numa_service.node.task_state import Task


class Zones(NamedTuple):
    """This node's zones, with which a walk of the default policy begins; see Alloc for the fields."""

    zones: tuple[int, ...]
    migratetype: int
    highest_zoneidx: int
    alloc_flags: int
    gfp: int


class Here(NamedTuple):
    """Where an op may take pages by itself. No zones at all: for a task on another node's CPU."""

    pages: Zones
    tables: Zones


class Did(NamedTuple):
    """The result of an op of a task, and the pages or further steps that it still needs."""

    #: The call's result; its errno, 0 for success, and what was wrong, for people.
    value: int = 0
    errno: int = 0
    reason: str = ""
    #: Pages that are missing for it to go on; None if it is done.
    want: Want | None = None
    #: Ranges that are to be faulted in next, in bytes.
    populate: tuple[tuple[int, int], ...] = ()
    #: Of a touch: where it stands, accesses that faulted, and pages that were there.
    at: int = 0
    faults: int = 0
    hits: int = 0
    #: Pages that were there, on other nodes: (kind, nid, packed names of frames, pages).
    elsewhere: tuple[tuple[int, int, bytes, int], ...] = ()
    #: Frames that this node had and has reclaimed: (kind, packed frames).
    gone: tuple[tuple[int, bytes], ...] = ()
    #: Of those, pages that were in this node's swap.
    swapped_in: int = 0
    #: nid → pages that were made for it here; PATH_* work counters.
    taken: int = 0
    path: tuple[int, ...] = ()
    wait_ns: int = 0


def check_here(node: NodeState, here: Here) -> None:
    """Check zones: compiled kernels check no bounds."""
    for where in here:
        check_zones(node, where.zones)
        check_migratetype(where.migratetype)
        check_zoneidx(node, where.highest_zoneidx)


class Work:
    """One op of a task under way."""

    def __init__(self, node: NodeState, task: Task | None, here: Here | None) -> None:
        """Begin; without a task it is khugepaged's, or of one that may have ended."""
        self.node = node
        self.asker = asker = task or node.tasks.khugepaged
        self.cpu = task.cpu if task else None
        self._here = here
        self._path = np.zeros(len(node.pgdat.pg.path), np.int64)
        self.taken = 0
        tasks = node.tasks
        tasks.source.asker = tasks.tables.asker = asker
        tasks.source.take = self._take if here and here.pages.zones else None
        tasks.tables.take = self._take if here and here.tables.zones else None
        tasks.tables.likely = 1
        tasks.source.begin_op()
        tasks.tables.freed = []
        node.forget_path()

    def _take(self, kind: int, order: int, numbers: Pfns) -> Pfns:
        """Take a block of an order for each number, as far as this node's zones have them."""
        assert self._here is not None
        assert self.cpu is not None
        where = self._here.tables if kind == TABLE else self._here.pages
        lru_kind = LRU_KINDS.get(kind, LRU_KIND_NONE)
        op = Alloc(
            self.node.tasks.owner(kind),
            where.zones,
            self.cpu,
            order,
            len(numbers),
            where.migratetype,
            where.highest_zoneidx,
            where.alloc_flags,
            NUMA_HOW_HIT | NUMA_HOW_LOCAL,
            lru_kind,
            numbers.astype("<u4").tobytes() if lru_kind else b"",
            gfp=where.gfp,
        )
        got = op.apply(self.node)
        self._path += got.path
        self.taken += len(got.pfns) // 8 << order
        pfns = unpack_pfns(got.pfns).astype(np.int64)
        return table_block(self.node.nid, pfns) if kind == TABLE else pfns

    def path(self) -> tuple[int, ...]:
        """All PATH_* work counters of the op."""
        return tuple((self._path + self.node.take_path()).tolist())

    def give_stock_back(self) -> None:
        """Free what was got for the task and is not needed after all."""
        tasks, asker = self.node.tasks, self.asker
        for kind in sorted(asker.stock):
            if kind in (HUGE, HUGE_ZERO):
                for head in asker.stock[kind].tolist():
                    tasks.source.free_order(head, PAGEBLOCK_ORDER)
            elif len(asker.stock[kind]):
                tasks.source.free(asker.stock[kind])
        for order, pfns in sorted(asker.tables.items()):
            tasks.tables.freed += [(pfn, order) for pfn in pfns]
        asker.stock, asker.tables, asker.refused = {}, {}, {}
        for pool in tasks.pools.values():
            pool.give_back(asker.pid)

    def pause(self) -> None:
        """Pages are missing: the op is applied again. A huge page that it could not map is used then."""
        source = self.node.tasks.source
        back = [head for head in source.freed_huge if head in source.taken]
        if back:
            source.freed_huge = [head for head in source.freed_huge if head not in back]
            rest = self.asker.stock.get(HUGE, np.zeros(0, np.int64))
            self.asker.stock[HUGE] = np.concatenate([np.array(back, np.int64), rest])
        self.settle()

    def settle(self) -> None:
        """Free what the op does not need any more: pages of this node now, those of others when told."""
        tasks = self.node.tasks
        if tasks.source.freed:
            free_frames(self.node, np.concatenate(tasks.source.freed), self.cpu)
            tasks.source.freed = []
        if tasks.source.freed_huge:
            free_huge(self.node, np.array(tasks.source.freed_huge, np.int64), self.cpu)
            tasks.source.freed_huge = []
        tasks.tables.freed += [(block, PAGEBLOCK_ORDER) for block in tasks.source.freed_zero]
        tasks.source.freed_zero = []
        by_order: dict[int, list[int]] = {}
        for block, order in tasks.tables.freed:
            nid, pfn = nid_and_pfn(block)
            if nid == self.node.nid:
                by_order.setdefault(order, []).append(pfn)
            else:
                tasks.limbo_tables.setdefault((nid, order), []).append(pfn)
        owner = tasks.owner(TABLE)
        for order, pfns in sorted(by_order.items()):
            Free(owner, self.cpu, order, pack_pfns(np.array(pfns, np.uint64))).apply(self.node)
        tasks.tables.freed = []


def free_frames(node: NodeState, frames: Pfns, cpu: int | None) -> None:
    """Free frames: pages of this node at once; what is being got anew, when that has come."""
    tasks, source = node.tasks, node.tasks.source
    idle = source.state[frames] == IDLE
    source.state[frames] = FREED
    for kind, nid, some in by_owner(node, frames[idle]):
        if nid != node.nid:
            tasks.limbo.setdefault((OWNER_IDS[kind], nid), []).append(some)
            continue
        Release(tasks.owner(kind), cpu, some.astype("<u4").tobytes()).apply(node)
        source.unreserve(some)


def free_huge(node: NodeState, heads: Pfns, cpu: int | None) -> None:
    """Free huge pages, by their first frames: those of this node at once."""
    tasks, source = node.tasks, node.tasks.source
    source.state[parts_of_heads(heads)] = FREED
    for kind, nid, some in by_owner(node, heads):
        names = some | HUGE_INDEX
        if nid != node.nid:
            tasks.limbo.setdefault((OWNER_IDS[kind], nid), []).append(names)
            continue
        Release(tasks.owner(kind), cpu, names.astype("<u4").tobytes()).apply(node)
        source.unreserve_huge(some)


def by_owner(node: NodeState, frames: Pfns) -> Iterator[tuple[int, int, Pfns]]:
    """Frames by their owner, which is told by a kind, and by node."""
    if not len(frames):
        return
    of_cache = node.tasks.frames.kind[frames] == FILE
    nids = node.tasks.source.nids[frames]
    for kind, of_kind in ((ANON, ~of_cache), (FILE, of_cache)):
        for nid in np.unique(nids[of_kind]).tolist():
            yield kind, nid, frames[of_kind & (nids == nid)]
