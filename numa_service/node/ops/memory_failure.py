"""The op that takes a page with bad memory out of use (``mm/memory-failure.c``)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from numa_service.mm.pgdata import PG_DIRTY, PG_HOLE, PG_LRU, PG_RESERVED, PG_SWAPBACKED
from numa_service.mm.poison.hwpoison import take_page_off_buddy
from numa_service.node.errors import NotFound, Precondition
from numa_service.node.ops.fields import MAX_NODE_PAGES, check_below, owner_text
from numa_service.node.ops.op import Op
from numa_service.node.owners import OF_TASKS, Owner
from numa_service.node.state import NodeState


class Poisoned(NamedTuple):
    """What became of a page."""

    #: Whether it is out of use now.
    taken: bool
    #: What the kernel calls the page: "free buddy page", "clean LRU page", "dirty LRU page", …
    kind: str
    #: Of a region's page that was lost: the region, and the page's index in it.
    owner: Owner | None = None
    page_index: int = 0
    #: Whether it is a page of tasks whose content is lost: their home is to hear of it.
    untold: bool = False


@dataclass(frozen=True, slots=True)
class PoisonPage(Op[Poisoned]):
    """Sets PG_hwpoison of a page, and takes it out of use if it is free.

    Without `soft` it is an error of the memory (memory_failure): a page of a region is taken from it, and its
    content is lost unless it is clean page cache; a page that is held by hand or by the kernel stays in use,
    and the error is ignored. Of a page of tasks whose content is lost it is noted that their home has not
    heard yet. With `soft` a page that is in use is left as it is. NotFound for a page that the node has not;
    Precondition (EHWPOISON) for one that is bad already.
    """

    tag = "poison_page"

    pfn: int
    soft: bool

    def apply(self, node: NodeState) -> Poisoned:
        """Take the page, or note that it is in use."""
        pgdat, pg, failure = node.pgdat, node.pgdat.pg, node.pgdat.memory_failure
        idx = self.pfn - pgdat.base_pfn
        zone = pgdat.zone_of(self.pfn)
        if zone < 0 or pg.flags[idx] & PG_HOLE:
            raise NotFound("page", f"{self.pfn:#x}", f"no page of node {node.nid}")
        if self.pfn in failure.pages:
            raise Precondition(f"EHWPOISON: page {self.pfn:#x} of node {node.nid} is bad already")
        pgdat.split_around(self.pfn)
        flags, kind, owner, index = int(pg.flags[idx]), "free buddy page", None, 0
        untold = False
        if flags & PG_LRU:
            dirty = flags & (PG_DIRTY | PG_SWAPBACKED)
            kind = "dirty LRU page" if dirty else "clean LRU page"
            if self.soft:
                return Poisoned(False, kind)
            slot, index = int(pg.owner[idx]), int(pg.pgoff[idx])
            owner = next(who for who, at in node.slots.items() if at == slot)
            frames = np.array([self.pfn], np.uint64)
            pgdat.release(slot, np.array([index], np.uint32), None, frames)
            node.forget_if_empty(owner)
            untold = bool(dirty) and owner.id in OF_TASKS
            if untold:
                failure.untold[*owner, index] = None
        pgdat.drain()
        slot = node.slots.make(node.kernel)
        taken = take_page_off_buddy(pg, zone, idx, slot)
        if not taken:
            node.forget_if_empty(node.kernel)
            kind = "reserved kernel page" if flags & PG_RESERVED else "kernel page"
            if self.soft:
                return Poisoned(False, kind)
        failure.pages.append(self.pfn)
        if not self.soft:
            failure.counts["recovered" if taken else "ignored"] += 1
        return Poisoned(taken, kind, owner, index, untold)

    def check(self, node: NodeState) -> None:
        """Check the pfn."""
        check_below("pfn", self.pfn, MAX_NODE_PAGES)

    def text(self, node: NodeState, result: Poisoned) -> str:
        """Return the op and its result as one line."""
        whose = f" {owner_text(result.owner)} index={result.page_index}" if result.owner else ""
        how = "soft" if self.soft else "hard"
        return f"hwpoison {how} pfn={self.pfn:#x} {result.kind} -> taken={result.taken}{whose}"
