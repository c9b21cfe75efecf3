"""Huge pages of a node's pools: how they come from the buddy system and go back to it (``mm/hugetlb.c``).

The pages are held by the node's kernel; which of them an owner has, the pool knows (`mm/hugetlb/pool.py`).
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from numa_service.mm.hugetlb.contig import parts_of
from numa_service.mm.hugetlb.hstate import Hstate
from numa_service.mm.hugetlb.node_hugetlb import NodeHugetlb
from numa_service.mm.hugetlb.pool import NodePool
from numa_service.mm.pgdat import Pgdat
from numa_service.mm.pgdata import PG_HELD
from numa_service.node.errors import InvalidRequest
from numa_service.node.owners import Owner, OwnerSlots


class HasPages(Protocol):
    """What of a node's state is needed here."""

    nid: int
    pgdat: Pgdat
    slots: OwnerSlots
    kernel: Owner


class HugetlbOfNode:
    """The pools of one node; all state is in ``Pgdat.hugetlb``."""

    def __init__(self, node: HasPages) -> None:
        """Give the pages that boot has set aside to the node's kernel."""
        self._node = node
        if any(pool.counts.nr for pool in self.state.pools.values()):
            node.slots.make(node.kernel)

    @property
    def state(self) -> NodeHugetlb:
        """Pools and totals."""
        return self._node.pgdat.hugetlb

    def pool(self, kb: int) -> NodePool:
        """Return the pool of a size; InvalidRequest if the kernel has none of it."""
        pool = self.state.pools.get(kb)
        if pool is None:
            raise InvalidRequest("huge_page_kb", f"the kernel has no huge pages of {kb} kB")
        return pool

    def give_back(self, kb: int, pfns: list[int]) -> None:
        """Return huge pages that have left the pool to the buddy system (update_and_free_hugetlb_folio)."""
        node, pgdat = self._node, self._node.pgdat
        slot, cpu = node.slots[node.kernel], pgdat.all_cpus[0]
        for pfn in pfns:
            for order, parts in parts_of(pgdat.pg, pfn - pgdat.base_pfn, Hstate(kb).order).items():
                blocks = (np.array(parts, dtype=np.uint64) + np.uint64(pgdat.base_pfn)).astype("<u8")
                pgdat.free_packed(cpu, order, slot, blocks.tobytes())
        if not pgdat.pg.owner_pages[slot]:
            node.slots.free(node.kernel)
        pgdat.pg.path[:] = 0

    def drop_owner(self, owner: Owner) -> None:
        """Take all huge pages from an owner that ends, and forget what it has reserved."""
        for kb, pool in self.state.pools.items():
            leave = [pfn for pfn in pool.of_owner(owner) if pool.put(pfn)]
            if leave:
                self.give_back(kb, leave)
            self.state.totals[kb].resv.pop(owner, None)

    def node_restarted(self, nid: int, lineage: int) -> None:
        """Take huge pages and reservations from owners of a node's earlier lineages."""
        for kb, pool in self.state.pools.items():
            dead = [pfn for pfn, owner in pool.used.items() if owner[0] == nid and owner[1] < lineage]
            leave = [pfn for pfn in dead if pool.put(pfn)]
            if leave:
                self.give_back(kb, leave)
        self.state.drop_reservations(nid, lineage)

    def check(self) -> list[str]:
        """Return the violated invariants of the pools."""
        node, pg, base = self._node, self._node.pgdat.pg, self._node.pgdat.base_pfn
        problems = []
        slot = node.slots.get(node.kernel, 0)
        for kb, pool in self.state.pools.items():
            counts, order = pool.counts, Hstate(kb).order
            pfns = [*pool.free, *pool.used]
            if len(set(pfns)) != len(pfns):
                problems.append(f"a huge page of {kb} kB is in the pool twice")
            if not 0 <= counts.surplus <= counts.nr:
                problems.append(f"{counts.surplus} of {counts.nr} huge pages of {kb} kB are surplus")
            for pfn in pfns:
                parts = parts_of(pg, pfn - base, order) if pg.flags[pfn - base] & PG_HELD else {}
                heads = [idx for some in parts.values() for idx in some]
                theirs = all(pg.flags[idx] & PG_HELD and pg.owner[idx] == slot for idx in heads)
                whole = sum(len(some) << part for part, some in parts.items()) == 1 << order
                if not (theirs and whole):
                    problems.append(f"huge page {pfn:#x} of {kb} kB is not the kernel's")
        return [f"node {node.nid}: {problem}" for problem in problems]
