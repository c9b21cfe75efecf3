"""A machine's pool of huge pages of 2 MiB, for tests: as ``mm/hugetlb.c`` has it, without a machine."""

from __future__ import annotations

import errno

from numa_service.mm.hugetlb.pool import NodePool
from numa_service.mm.hugetlb.spread import in_turn, outcome, spread
from numa_service.mm.mmap.errnos import Errno

#: Where the pages of tests begin; no other page has their numbers.
_FIRST_PFN, _PAGES = 1 << 17, 512
_NOBODY = (0, 0, 0)


class Pool:
    """Pages of two nodes, of which there are always more."""

    shift = 21

    def __init__(self, nodes: int = 2) -> None:
        self.nodes = {nid: NodePool() for nid in range(nodes)}
        self.resv = 0
        self.overcommit = 0
        self._next_pfn = _FIRST_PFN
        self._nids: dict[int, int] = {}
        self._to_alloc = self._to_free = 0

    @property
    def counts(self) -> tuple[int, int, int, int]:
        """HugePages_Total, Free, Rsvd and Surp."""
        counts = [pool.counts for pool in self.nodes.values()]
        return sum(one.nr for one in counts), sum(one.free for one in counts), self.resv, self.surplus

    @property
    def surplus(self) -> int:
        """Pages beyond those that were asked for."""
        return sum(pool.surplus for pool in self.nodes.values())

    def nid_of(self, pfn: int) -> int:
        """The node of a page."""
        return self._nids[pfn]

    def acct_memory(self, delta: int) -> None:
        """hugetlb_acct_memory, gather_surplus_pages, return_unused_surplus_pages."""
        _, free, _, _ = self.counts
        if delta > 0:
            needed = self.resv + delta - free
            if self.surplus + needed > self.overcommit and needed > 0:
                raise Errno(errno.ENOMEM, "there are not so many huge pages")
            for _ in range(needed):
                self.nodes[0].enqueue([self._fresh(0)])
                self.nodes[0].surplus += 1
            self.resv += delta
            return
        self.resv += delta
        turns = in_turn((*self.nodes,), self._to_free)
        limits = {nid: min(len(pool.free), pool.surplus) for nid, pool in self.nodes.items()}
        shares = spread(turns, limits, min(-delta, self.surplus))
        if any(shares.values()):
            self._to_free = outcome(turns, shares, sum(shares.values())).next_nid
        for nid, share in shares.items():
            self.nodes[nid].surplus -= share
            self.nodes[nid].dequeue(share)

    def alloc(self, nid: int, reserved: bool) -> int:
        """dequeue_hugetlb_folio_vma, else a surplus page."""
        _, free, resv, _ = self.counts
        pfn = 0
        if reserved or free > resv:
            for other in (nid, *(one for one in self.nodes if one != nid)):
                got = self.nodes[other].dequeue(1)
                if got:
                    pfn = got[0]
                    break
        if not pfn and self.surplus < self.overcommit:
            pfn = self._fresh(nid)
            self.nodes[nid].surplus += 1
        if pfn:
            self.nodes[self._nids[pfn]].used[pfn] = _NOBODY
            self.resv -= reserved
        return pfn

    def free(self, pfn: int, restore: bool) -> None:
        """free_huge_folio."""
        self.resv += restore
        self.nodes[self._nids[pfn]].put(pfn)

    def set_max_huge_pages(self, count: int) -> None:
        """The number of persistent pages is asked for."""
        nr, free, resv, surplus = self.counts
        persistent = nr - surplus
        turns = in_turn((*self.nodes,), self._to_alloc)
        if count > persistent:
            shares = spread(
                turns, {nid: pool.surplus for nid, pool in self.nodes.items()}, count - persistent
            )
            made = sum(shares.values())
            for nid, share in shares.items():
                self.nodes[nid].surplus -= share
            if made:
                turns = in_turn((*self.nodes,), outcome(turns, shares, made).next_nid)
            shares = spread(turns, {}, count - persistent - made)
            for nid, share in shares.items():
                self.nodes[nid].enqueue([self._fresh(nid) for _ in range(share)])
            self._to_alloc = (
                outcome(turns, shares, sum(shares.values())).next_nid if any(shares.values()) else turns[0]
            )
            return
        least = max(count, resv + nr - free)
        turns = in_turn((*self.nodes,), self._to_free)
        if least < persistent:
            shares = spread(
                turns, {nid: len(pool.free) for nid, pool in self.nodes.items()}, persistent - least
            )
            for nid, share in shares.items():
                self.nodes[nid].dequeue(share)
            persistent -= sum(shares.values())
            turns = in_turn((*self.nodes,), outcome(turns, shares, sum(shares.values())).next_nid)
        if count < persistent:
            limits = {nid: pool.counts.persistent for nid, pool in self.nodes.items()}
            shares = spread(turns, limits, persistent - count)
            for nid, share in shares.items():
                self.nodes[nid].surplus += share
            turns = in_turn((*self.nodes,), outcome(turns, shares, sum(shares.values())).next_nid)
        self._to_free = turns[0]

    def _fresh(self, nid: int) -> int:
        pfn = self._next_pfn
        self._next_pfn += _PAGES
        self._nids[pfn] = nid
        return pfn
