"""Ops of hugetlb pools: pages come, go, change state and hands, and promises are kept (``mm/hugetlb.c``)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from numa_service.mm.hugetlb.contig import take_gigantic
from numa_service.mm.hugetlb.hstate import Hstate
from numa_service.mm.memory_hotplug import BusyError
from numa_service.mm.mmzone import MIGRATE_MOVABLE
from numa_service.node.errors import InvalidRequest, NotFound, Precondition
from numa_service.node.ops.fields import (
    MAX_INT64,
    MAX_NODE_PAGES,
    check_below,
    check_nid,
    check_owner,
    check_pfn_range,
    owner_text,
)
from numa_service.node.ops.memory import busy, range_text
from numa_service.node.ops.op import Op
from numa_service.node.owners import Owner
from numa_service.node.pfns import check_pfns, unpack_pfns
from numa_service.node.state import NodeState

#: What HugetlbCall may ask for.
CALLS = ("counts", "shrink", "surplus", "failed", "take", "put")


class HugetlbAnswer(NamedTuple):
    """How many huge pages of a size a node has after a call, and what the call did."""

    nr: int
    free: int
    surplus: int
    #: Pages that the call removed, took or put back; by how much surplus pages changed.
    changed: int = 0
    #: The page that was taken.
    pfn: int = 0


def check_size(node: NodeState, kb: int) -> None:
    """Check that the kernel has a pool of huge pages of `kb` kB."""
    node.hugetlb.pool(kb)


@dataclass(frozen=True, slots=True)
class HugetlbCall(Op[HugetlbAnswer]):
    """Asks a node for something that concerns its pool of one size.

    "counts" changes nothing. "shrink" returns up to `count` free pages to the buddy system. "surplus" calls
    so many pages surplus, or with a negative count persistent. "failed" counts allocations that failed.
    "take" gives a free page to the owner; "put" takes page `pfn` back from it: Precondition if it has not
    that page.
    """

    tag = "hugetlb_call"
    asked = True

    call: str
    kb: int
    count: int = 0
    owner: Owner | None = None
    pfn: int = 0

    def apply(self, node: NodeState) -> HugetlbAnswer:
        """Do what is asked for, as far as the pool has the pages."""
        pool = node.hugetlb.pool(self.kb)
        changed = pfn = 0
        match self.call:
            case "shrink":
                pfns = pool.dequeue(self.count)
                changed = len(pfns)
                if pfns:
                    node.hugetlb.give_back(self.kb, pfns)
            case "surplus":
                changed = pool.adjust_surplus(self.count)
            case "failed":
                node.hugetlb.state.alloc_fail += self.count
            case "take":
                assert self.owner is not None
                if node.slots.is_dead(self.owner):
                    raise Precondition(f"lineage {self.owner.lineage} of node {self.owner.nid} is no more")
                for pfn in pool.dequeue(1):
                    pool.used[pfn] = self.owner
                    changed = 1
            case "put":
                if pool.used.get(self.pfn) != self.owner:
                    raise Precondition(f"huge page {self.pfn:#x} of node {node.nid} is not the owner's")
                if pool.put(self.pfn):
                    node.hugetlb.give_back(self.kb, [self.pfn])
                changed = 1
        return HugetlbAnswer(*pool.counts, changed, pfn)

    def owed(self, heard: bool) -> bool:
        """Return whether somebody would go on to have a page that nobody knows of."""
        return self.call == "put" or (self.call == "take" and heard)

    def undo(self, result: HugetlbAnswer) -> Op[Any] | None:
        """Return the op that puts a page back that was taken too late."""
        if self.call == "take" and result.changed:
            return HugetlbCall("put", self.kb, 0, self.owner, result.pfn)
        return None

    def check(self, node: NodeState) -> None:
        """Check the call, the size, the count, the owner and the pfn."""
        if self.call not in CALLS:
            raise InvalidRequest("call", f"{self.call!r:.40} is not {', '.join(CALLS)}")
        check_size(node, self.kb)
        least = -MAX_NODE_PAGES if self.call == "surplus" else 0
        check_below("count", self.count - least, MAX_NODE_PAGES - least)
        check_below("pfn", self.pfn, MAX_NODE_PAGES)
        if self.owner is not None:
            check_owner(node, self.owner)
        elif self.call in ("take", "put"):
            raise InvalidRequest("owner", f"{self.call} needs one")

    def text(self, node: NodeState, result: HugetlbAnswer) -> str:
        """Return the op and its result as one line."""
        if self.call == "counts":
            return ""
        whose = f" {owner_text(self.owner)}" if self.owner else ""
        now = f"nr={result.nr} free={result.free} surplus={result.surplus}"
        return f"hugetlb {self.call} {self.kb}kB count={self.count}{whose} -> {result.changed}, {now}"


@dataclass(frozen=True, slots=True)
class HugetlbAdd(Op[HugetlbAnswer]):
    """Adds blocks that the node's kernel has just allocated to the pool (prep_new_hugetlb_folio)."""

    tag = "hugetlb_add"

    kb: int
    #: Packed pfns of the blocks; may be none.
    pfns: bytes
    surplus: bool
    #: Allocations that failed, to be counted.
    failed: int = 0

    def apply(self, node: NodeState) -> HugetlbAnswer:
        """Enter the pages as free ones, the last at the head of the list."""
        pool, pgdat = node.hugetlb.pool(self.kb), node.pgdat
        pages = unpack_pfns(self.pfns).astype(np.int64)
        held = (pages >= pgdat.base_pfn) & (pages < pgdat.base_pfn + len(pgdat.pg.flags))
        idx = pages[held] - pgdat.base_pfn
        slot = node.slots.get(node.kernel, 0)
        known = {*pool.free, *pool.used}
        if (
            not held.all()
            or (pgdat.pg.owner[idx] != slot).any()
            or (pgdat.pg.order[idx] != Hstate(self.kb).order).any()
            or known.intersection(pages.tolist())
        ):
            raise Precondition(
                f"node {node.nid}: a block for the pool is not the kernel's, or of another order"
            )
        pool.enqueue(pages.tolist())
        if self.surplus:
            pool.surplus += len(pages)
        node.hugetlb.state.alloc_success += len(pages)
        node.hugetlb.state.alloc_fail += self.failed
        return HugetlbAnswer(*pool.counts, len(pages))

    def check(self, node: NodeState) -> None:
        """Check the size, the pfns and the count; `apply` checks the blocks."""
        check_size(node, self.kb)
        check_pfns(self.pfns)
        check_below("failed", self.failed, MAX_NODE_PAGES)

    def text(self, node: NodeState, result: HugetlbAnswer) -> str:
        """Return the op and its result as one line."""
        what = "surplus" if self.surplus else "persistent"
        return f"hugetlb add {self.kb}kB {what} -> {result.changed}, nr={result.nr} free={result.free}"

    @property
    def payload(self) -> int:
        """Bytes of the pfns."""
        return len(self.pfns)


@dataclass(frozen=True, slots=True)
class HugetlbTakeRange(Op[None]):
    """Makes an isolated range of free pages a gigantic page of the pool, and ends the isolation.

    (alloc_contig_range, prep_compound_gigantic_folio.) Busy if a page of it is still in use.
    """

    tag = "hugetlb_take_range"

    kb: int
    start_pfn: int
    end_pfn: int

    def apply(self, node: NodeState) -> None:
        """Take all pages, or none."""
        pgdat, pool = node.pgdat, node.hugetlb.pool(self.kb)
        base, there = pgdat.base_pfn, len(pgdat.pg.flags)
        inside = base <= self.start_pfn < self.end_pfn <= base + there
        zone = pgdat.zone_of(self.start_pfn) if inside else -1
        if self.end_pfn - self.start_pfn != 1 << Hstate(self.kb).order or zone < 0:
            raise InvalidRequest("end_pfn", "the range is no huge page of this size")
        slot = node.slots.make(node.kernel)
        try:
            take_gigantic(pgdat.pg, zone, self.start_pfn - base, self.end_pfn - base, slot)
        except BusyError as e:
            node.forget_if_empty(node.kernel)
            raise busy(node, e) from None
        pgdat.unisolate(self.start_pfn, self.end_pfn, MIGRATE_MOVABLE)
        pool.enqueue([self.start_pfn])

    def check(self, node: NodeState) -> None:
        """Check the size and the range."""
        check_size(node, self.kb)
        check_pfn_range(self.start_pfn, self.end_pfn)
        if self.start_pfn % (1 << Hstate(self.kb).order):
            raise InvalidRequest("start_pfn", f"{self.start_pfn:#x} is not aligned to the size")

    def text(self, node: NodeState, result: None) -> str:
        """Return the op as one line."""
        return f"hugetlb take {self.kb}kB {range_text(self.start_pfn, self.end_pfn)}"


@dataclass(frozen=True, slots=True)
class HugetlbTurns(Op[None]):
    """Notes at which nodes the next huge pages are allocated and freed."""

    tag = "hugetlb_turns"

    kb: int
    next_nid_to_alloc: int
    next_nid_to_free: int

    def apply(self, node: NodeState) -> None:
        """Set both."""
        node.hugetlb.pool(self.kb)
        totals = node.hugetlb.state.totals[self.kb]
        totals.next_nid_to_alloc = self.next_nid_to_alloc
        totals.next_nid_to_free = self.next_nid_to_free

    def check(self, node: NodeState) -> None:
        """Check the size and the nodes."""
        check_size(node, self.kb)
        check_nid(node, "next_nid_to_alloc", self.next_nid_to_alloc)
        check_nid(node, "next_nid_to_free", self.next_nid_to_free)

    def text(self, node: NodeState, result: None) -> str:
        """Return nothing: it goes with other ops."""
        return ""


@dataclass(frozen=True, slots=True)
class HugetlbReserve(Op[int]):
    """Promises free huge pages to an owner, or with a negative count takes promises back (resv_huge_pages).

    The result is how many the owner has then. NotFound if it has not so many to take back.
    """

    tag = "hugetlb_reserve"
    asked = True

    kb: int
    owner: Owner
    count: int

    def apply(self, node: NodeState) -> int:
        """Change the owner's number."""
        node.hugetlb.pool(self.kb)
        resv = node.hugetlb.state.totals[self.kb].resv
        now = resv.get(self.owner, 0) + self.count
        if now < 0:
            raise NotFound("reservation", f"of {-self.count} huge pages", f"the owner has {now - self.count}")
        if node.slots.is_dead(self.owner):
            raise Precondition(f"lineage {self.owner.lineage} of node {self.owner.nid} is no more")
        if now:
            resv[self.owner] = now
        else:
            resv.pop(self.owner, None)
        return now

    def owed(self, heard: bool) -> bool:
        """Return whether it must not be lost: always, as what it follows has been done."""
        return True

    def check(self, node: NodeState) -> None:
        """Check the size, the owner and the count."""
        check_size(node, self.kb)
        check_owner(node, self.owner)
        check_below("count", self.count + MAX_NODE_PAGES, MAX_NODE_PAGES << 1)
        check_below("owner.id", self.owner.id, MAX_INT64)

    def text(self, node: NodeState, result: int) -> str:
        """Return the op and its result as one line."""
        return f"hugetlb reserve {self.kb}kB {owner_text(self.owner)} count={self.count} -> {result}"
