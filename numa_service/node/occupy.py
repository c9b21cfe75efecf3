"""Puts a freshly booted node into the state of a machine in use, by ordinary ops.

A free block stays free as it is only if its buddy is not free too. Blocks are therefore taken in pairs of
buddies: of each pair one is kept to be freed at the end, and the other goes back, to be divided for smaller
blocks. When all that is left is held, the kept blocks are freed.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from numa_service.machine.occupancy import REST, ZoneOccupancy
from numa_service.machine.spec import MachineSpec
from numa_service.mm.internal import ALLOC_NO_WATERMARKS
from numa_service.mm.mmzone import MIGRATE_MOVABLE, NR_ORDERS
from numa_service.mm.page_alloc import NUMA_HOW_HIT, NUMA_HOW_LOCAL
from numa_service.mm.pgdat import Pfns
from numa_service.mm.vmstat import NR_FREE_PAGES
from numa_service.node import ops
from numa_service.node.node import Node
from numa_service.node.ops.alloc import MAX_COUNT, MAX_REQUEST_PAGES
from numa_service.node.owners import Owner
from numa_service.node.pfns import pack_pfns, unpack_pfns

#: Most pages of a machine that are held in one process: the records of held blocks take 7 kB for each MiB.
MOST_HELD_PAGES = 1 << 25


def too_large(spec: MachineSpec) -> bool:
    """Whether a machine has more pages in use than are held in one process."""
    managed = sum(zone.managed or 0 for node in spec.nodes for zone in node.zones)
    return managed - sum(zone.free for zone in spec.occupancy) > MOST_HELD_PAGES


def start_in_use(spec: MachineSpec, nodes: Iterable[Node]) -> list[str]:
    """Make freshly booted nodes of a machine as full as its source says; nothing where that does not say it.

    Returns what it means, and what could not be made so.
    """
    if not spec.occupancy:
        return []
    if too_large(spec):
        return ["memory starts fresh: the source says that more is in use than can be held in one process"]
    notes = [note for node in nodes for note in occupy(node, spec.occupancy)]
    return [
        "memory starts as full as the source says; what is held is held for good, so that reclaim finds "
        "nothing; --empty starts fresh",
        *notes,
    ]


def occupy(node: Node, zones: tuple[ZoneOccupancy, ...]) -> list[str]:
    """Make a freshly booted node as full as `zones` say; those of other nodes are left out.

    What is held belongs to sessions without an end, named for what held it. Returns a line for each zone that
    cannot be made so: its free blocks do not fit into its memory.
    """
    sessions: dict[str, Owner] = {}
    notes = []
    for occupancy in zones:
        if occupancy.nid == node.nid:
            notes += _Zone(node, occupancy, sessions).occupy()
    node.apply(ops.Rest())
    return notes


class _Zone:
    """One zone while it is filled."""

    def __init__(self, node: Node, occupancy: ZoneOccupancy, sessions: dict[str, Owner]) -> None:
        self.node = node
        self.wanted = occupancy
        self.index = node.pgdat.zone_names.index(occupancy.zone)
        self._sessions = sessions
        #: Blocks to be free in the end, by order.
        self._kept: list[list[Pfns]] = [[] for _ in range(NR_ORDERS)]

    def occupy(self) -> list[str]:
        """Fill the zone; says what of its free blocks could not be made."""
        missing = 0
        keeper = self._owner(REST)
        for order, counts in _counts(self.wanted):
            missing += self._keep(keeper, order, counts) << order
        free = int(self.node.pgdat.pg.vm_stat[self.index, NR_FREE_PAGES])
        for name, pages in self.wanted.held:
            free -= self._hold(self._owner(name), min(pages, free))
        self._hold(keeper, free)
        for order, batches in enumerate(self._kept):
            for pfns in batches:
                self.node.apply(ops.Free(keeper, None, order, pack_pfns(pfns)))
        self.node.apply(ops.DrainPagesets())
        if not missing:
            return []
        return [
            f"node {self.node.nid} {self.wanted.zone}: {missing} pages of its free blocks do not fit: held"
        ]

    def _owner(self, name: str) -> Owner:
        if name not in self._sessions:
            session = self.node.apply(ops.OpenSession(name, ops.FOREVER_NS, 0))
            self._sessions[name] = self.node.owner(session)
        return self._sessions[name]

    def _take(self, owner: Owner, order: int, migratetype: int, count: int) -> Pfns:
        return take_blocks(self.node, owner, self.index, order, migratetype, count)

    def _keep(self, keeper: Owner, order: int, counts: list[tuple[int, int]]) -> int:
        """Take blocks of an order that will be free in the end, by (migratetype, number) of `counts`.

        Returns how many could not be had.
        """
        buddy = np.uint64(1 << order)
        pairs = order < NR_ORDERS - 1
        extent = self.node.pgdat.extents[self.index]
        # one flag a block of this order, from the buddy of the zone's first one on
        first = np.uint64((extent.start_pfn >> order) & ~1)
        kept = np.zeros((extent.spanned >> order) + 4, dtype=bool)
        back: list[Pfns] = []
        missing = 0
        for migratetype, wanted in counts:
            while wanted:
                batch = min(wanted, most_blocks(order) // 2)
                pfns = np.sort(self._take(keeper, order, migratetype, 2 * batch if pairs else batch))
                free = np.ones(len(pfns), dtype=bool)
                if pairs:
                    buddies = pfns ^ buddy
                    free[1:] = buddies[1:] != pfns[:-1]
                    free &= ~kept[(buddies >> np.uint64(order)) - first]
                    free &= np.cumsum(free) <= batch
                chosen = pfns[free]
                kept[(chosen >> np.uint64(order)) - first] = True
                self._kept[order].append(chosen)
                back.append(pfns[~free])
                wanted -= len(chosen)
                if len(pfns) < (2 * batch if pairs else batch):
                    break
            missing += wanted
        for pfns in back:
            self.node.apply(ops.Free(keeper, None, order, pack_pfns(pfns)))
        return missing

    def _hold(self, owner: Owner, pages: int) -> int:
        """Hold `pages` of what is free, in blocks as large as possible; returns how many it got."""
        got = 0
        for order in range(NR_ORDERS - 1, -1, -1):
            while blocks := (pages - got) >> order:
                pfns = self._take(owner, order, MIGRATE_MOVABLE, min(blocks, most_blocks(order)))
                got += len(pfns) << order
                if len(pfns) < min(blocks, most_blocks(order)):
                    break
        return got


def take_blocks(node: Node, owner: Owner, zone: int, order: int, migratetype: int, count: int) -> Pfns:
    """Take up to `count` blocks of a zone whatever the watermarks say; returns their first pfns."""
    op = ops.Alloc(
        owner=owner,
        zones=(zone,),
        cpu=node.pgdat.all_cpus[0],
        order=order,
        count=count,
        migratetype=migratetype,
        highest_zoneidx=zone,
        alloc_flags=ALLOC_NO_WATERMARKS,
        numa_how=NUMA_HOW_HIT | NUMA_HOW_LOCAL,
    )
    pfns = unpack_pfns(node.apply(op).pfns)
    node.apply(ops.DrainPagesets())
    return pfns


def _counts(occupancy: ZoneOccupancy) -> list[tuple[int, list[tuple[int, int]]]]:
    """(order, [(migratetype, blocks to be free)]) from the largest order down, of NR_FREE_PAGES in all.

    The lists are read at another moment. If they have more pages, the smallest blocks are left out; if they
    have fewer, single pages make up for it.
    """
    blocks = [(b.order, b.migratetype, b.count) for b in occupancy.blocks]
    more = occupancy.free - occupancy.listed
    for at, (order, migratetype, count) in sorted(enumerate(blocks), key=lambda item: item[1][0]):
        if more >= 0:
            break
        out = min(count, -(more >> order))
        blocks[at] = order, migratetype, count - out
        more += out << order
    if more > 0:
        blocks.append((0, MIGRATE_MOVABLE, more))
    return [
        (order, [(mt, count) for of, mt, count in blocks if of == order and count])
        for order in range(NR_ORDERS - 1, -1, -1)
    ]


def most_blocks(order: int) -> int:
    """Most blocks of an order that one op takes."""
    return min(MAX_COUNT, MAX_REQUEST_PAGES >> order)
