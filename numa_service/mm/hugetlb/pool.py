"""The huge pages of one size that one node has: free ones, those in use, and how many of them are surplus."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

#: The slot that holds pages of a pool that boot fills: a node's first, which its kernel gets.
FIRST_OWNER_SLOT = 1


class PoolCounts(NamedTuple):
    """How many huge pages of one size a node has (nr_huge_pages_node and so on)."""

    nr: int = 0
    free: int = 0
    #: Pages above what was asked for, which leave the pool when they become free.
    surplus: int = 0

    @property
    def persistent(self) -> int:
        """Pages that stay (persistent_huge_pages)."""
        return self.nr - self.surplus


class NodePool:
    """``hugepage_freelists[nid]`` and ``hugepage_activelist`` of one size; pages are named by their pfn."""

    def __init__(self) -> None:
        #: The list, its head last: the page that was put back last is taken first.
        self.free: list[int] = []
        #: pfn → who has the page: home node, its lineage, and a number there.
        self.used: dict[int, tuple[int, int, int]] = {}
        self.surplus = 0

    @property
    def counts(self) -> PoolCounts:
        """The numbers that sysfs shows."""
        return PoolCounts(len(self.free) + len(self.used), len(self.free), self.surplus)

    def enqueue(self, pfns: Iterable[int]) -> None:
        """Put free pages at the head of the list (enqueue_hugetlb_folio)."""
        self.free.extend(pfns)

    def dequeue(self, count: int) -> list[int]:
        """Take up to `count` pages from the head of the list (dequeue_hugetlb_folio_node_exact)."""
        count = min(count, len(self.free))
        return [self.free.pop() for _ in range(count)]

    def adjust_surplus(self, delta: int) -> int:
        """Call pages surplus, or with a negative `delta` call surplus pages persistent (adjust_pool_surplus).

        Returns by how much the number of surplus pages has changed: they are at least none, at most all.
        """
        before = self.surplus
        self.surplus = max(0, min(len(self.free) + len(self.used), before + delta))
        return self.surplus - before

    def put(self, pfn: int) -> bool:
        """Take a page from who has it; returns whether it is to leave the pool (free_huge_folio).

        It leaves if the node has surplus pages, which are then one less; else it is free.
        """
        del self.used[pfn]
        if self.surplus:
            self.surplus -= 1
            return True
        self.free.append(pfn)
        return False

    def of_owner(self, owner: tuple[int, int, int]) -> list[int]:
        """The pages that an owner has, in the order in which it got them."""
        return [pfn for pfn, whose in self.used.items() if whose == owner]

    def dump(self) -> list[Any]:
        """All of it as plain data, for :meth:`load`."""
        return [self.free, [(pfn, list(owner)) for pfn, owner in self.used.items()], self.surplus]

    @staticmethod
    def load(dumped: list[Any]) -> NodePool:
        """Inverse of :meth:`dump`."""
        pool = NodePool()
        pool.free = list(dumped[0])
        pool.used = {pfn: (owner[0], owner[1], owner[2]) for pfn, owner in dumped[1]}
        pool.surplus = dumped[2]
        return pool
