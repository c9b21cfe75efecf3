"""What one node knows of hugetlb: its pools, and, of the node that keeps them, the numbers of all nodes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from numa_service.mm.hugetlb.hstate import PMD_KB
from numa_service.mm.hugetlb.pool import NodePool
from numa_service.mm.snapshot import HugetlbSnapshot


@dataclass(slots=True)
class HstateTotals:
    """The fields of ``struct hstate`` that are not of one node; the node that keeps the pools has them."""

    #: Nodes at which the next page is allocated, and freed.
    next_nid_to_alloc: int = 0
    next_nid_to_free: int = 0
    #: Who has reserved pages (home node, lineage, number there) → how many (resv_huge_pages is their sum).
    resv: dict[tuple[int, int, int], int] = field(default_factory=dict)

    @property
    def resv_huge_pages(self) -> int:
        """Free pages that are promised to mappings which have not touched them."""
        return sum(self.resv.values())


class NodeHugetlb:
    """Pools and totals by the size of a huge page in kB, and two vm events."""

    def __init__(self, sizes: Iterable[int] = (PMD_KB,)) -> None:
        self.pools = {kb: NodePool() for kb in sizes}
        self.totals = {kb: HstateTotals() for kb in self.pools}
        #: htlb_buddy_alloc_success and htlb_buddy_alloc_fail of this node.
        self.alloc_success = 0
        self.alloc_fail = 0

    def drop_reservations(self, nid: int, lineage: int) -> None:
        """Forget what owners of earlier lineages of a node have reserved."""
        for totals in self.totals.values():
            for owner in [owner for owner in totals.resv if owner[0] == nid and owner[1] < lineage]:
                del totals.resv[owner]

    def snapshot(self) -> dict[int, HugetlbSnapshot]:
        """The numbers that files show, by kB of a huge page."""
        return {
            kb: HugetlbSnapshot(*pool.counts, self.totals[kb].resv_huge_pages)
            for kb, pool in self.pools.items()
        }

    def events(self) -> dict[str, int]:
        """The vm events by their names."""
        return {
            "htlb_buddy_alloc_success": self.alloc_success,
            "htlb_buddy_alloc_fail": self.alloc_fail,
        }

    def dump(self) -> list[Any]:
        """All of it as plain data, for :meth:`load`."""
        return [
            [(kb, pool.dump()) for kb, pool in self.pools.items()],
            [
                (kb, t.next_nid_to_alloc, t.next_nid_to_free, [(list(who), n) for who, n in t.resv.items()])
                for kb, t in self.totals.items()
            ],
            self.alloc_success,
            self.alloc_fail,
        ]

    def load(self, dumped: list[Any]) -> None:
        """Replace all of it by what :meth:`dump` returned."""
        pools, totals, self.alloc_success, self.alloc_fail = dumped
        self.pools = {kb: NodePool.load(pool) for kb, pool in pools}
        self.totals = {
            kb: HstateTotals(to_alloc, to_free, {(who[0], who[1], who[2]): n for who, n in resv})
            for kb, to_alloc, to_free, resv in totals
        }
