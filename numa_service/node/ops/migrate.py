"""Ops of page migration: pages of regions move within a node, or between nodes (``mm/migrate.c``)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from numa_service.mm.mmzone import HUGE_INDEX
from numa_service.mm.page_alloc import LRU_KIND_ANON, LRU_KIND_FILE
from numa_service.mm.vmstat import PGMIGRATE_SUCCESS
from numa_service.node.ops.fields import (
    check_below,
    check_frames,
    check_indexes,
    check_nid,
    check_owner,
    owner_text,
)
from numa_service.node.ops.op import Op
from numa_service.node.owners import Owner
from numa_service.node.pfns import nr_pages, unpack_indexes, unpack_pfns
from numa_service.node.state import NodeState


@dataclass(frozen=True, slots=True)
class MigratePages(Op[int]):
    """Moves pages of a region within this node; the result is the number of pages moved.

    The targets are pages that were allocated for the region but are not in its page table yet. If a page has
    meanwhile been reclaimed, or faulted in elsewhere, its target is freed instead.
    """

    tag = "migrate_pages"

    #: The region.
    owner: Owner
    lru_kind: int
    #: Whether the moved pages are dirty.
    dirty: bool
    #: Page indexes in the region, and for each the old and the new pfn (all packed).
    indexes: bytes
    from_pfns: bytes
    to_pfns: bytes

    def apply(self, node: NodeState) -> int:
        """Move the pages and count them in pgmigrate_success."""
        slot = node.slots.get(self.owner)
        if slot is None:
            return 0
        moved = node.pgdat.move_pages(
            slot,
            unpack_indexes(self.indexes),
            unpack_pfns(self.from_pfns),
            unpack_pfns(self.to_pfns),
            self.lru_kind == LRU_KIND_ANON,
            self.dirty,
        )
        node.pgdat.pg.vm_event[PGMIGRATE_SUCCESS] += moved
        node.forget_if_empty(self.owner)
        return moved

    def check(self, node: NodeState) -> None:
        """Check the owner, the kind, and that the pfns are this node's, one pair for each index."""
        check_owner(node, self.owner)
        check_below("lru_kind", self.lru_kind, LRU_KIND_FILE + 1)
        check_indexes(self.indexes)
        for field, packed in (("from_pfns", self.from_pfns), ("to_pfns", self.to_pfns)):
            check_frames(field, packed, self.indexes)
            pages = unpack_pfns(packed).astype(np.int64) - node.pgdat.base_pfn
            if len(pages):
                check_below(field, int(pages.min()), len(node.pgdat.pg.flags))
                check_below(field, int(pages.max()), len(node.pgdat.pg.flags))

    def text(self, node: NodeState, result: int) -> str:
        """Return the op and its result as one line."""
        return f"migrate {owner_text(self.owner)} pages={len(self.indexes) // 4} -> {result} pages"

    @property
    def payload(self) -> int:
        """Bytes of the indexes and of both lists of pfns."""
        return len(self.indexes) + len(self.from_pfns) + len(self.to_pfns)


@dataclass(frozen=True, slots=True)
class SplitRegionPages(Op[None]):
    """Splits huge pages that an owner has here: their home learns of it when it asks for one.

    Each index names a huge page (HUGE_INDEX), or a part of the one that is to be split.
    """

    tag = "split_region_pages"

    owner: Owner
    #: Packed.
    indexes: bytes

    def apply(self, node: NodeState) -> None:
        """Split them (split_huge_page); what is no huge page any more is passed over."""
        parts = unpack_indexes(self.indexes) & ~np.uint32(HUGE_INDEX)
        node.pgdat.split_named(node.slot_of(self.owner), parts)

    def check(self, node: NodeState) -> None:
        """Check the owner and the indexes."""
        check_owner(node, self.owner)
        check_indexes(self.indexes)

    def text(self, node: NodeState, result: None) -> str:
        """Return the op as one line."""
        return f"split {owner_text(self.owner)} huge={len(self.indexes) // 4}"

    @property
    def payload(self) -> int:
        """Bytes of the indexes."""
        return len(self.indexes)


@dataclass(frozen=True, slots=True)
class Remap(Op[bytes]):
    """Notes at the home of a region, or of tasks, that pages are to be on another node.

    The result has one byte for each page: 1 if it was noted, 0 if the page is not recorded on `from_nid`.
    """

    tag = "remap"
    asked = True

    #: The region, whose home is this node.
    owner: Owner
    #: Packed page indexes in the region.
    indexes: bytes
    from_nid: int
    to_nid: int
    #: It undoes a move, and is not to be undone itself.
    undoes: bool = False

    def apply(self, node: NodeState) -> bytes:
        """Record `to_nid` for the pages that are recorded on `from_nid`."""
        region = node.regions.get(self.owner.id)
        indexes = unpack_indexes(self.indexes)
        if self.owner in node.tasks.owners:
            return bytes(node.tasks.remap(indexes, self.from_nid, self.to_nid).astype(np.uint8))
        if region is None or self.owner != node.owner(self.owner.id):
            return bytes(len(indexes))
        entered = region.nids[indexes] == self.from_nid + 1
        region.nids[indexes[entered]] = self.to_nid + 1
        if entered.any() and self.to_nid != node.nid:
            region.holdings.add(self.to_nid)
        return bytes(entered.astype(np.uint8))

    def owed(self, heard: bool) -> bool:
        """Return whether the home may have noted the move, which the asker abandons without an answer."""
        return heard

    def undo(self, result: bytes) -> Op[bytes] | None:
        """Return the op that notes the pages on their old node again."""
        if self.undoes:
            return None
        noted = unpack_indexes(self.indexes)[np.frombuffer(result, dtype=np.uint8) != 0]
        if not len(noted):
            return None
        return Remap(self.owner, noted.tobytes(), self.to_nid, self.from_nid, undoes=True)

    def check(self, node: NodeState) -> None:
        """Check the owner, the nodes, and that the region has these indexes."""
        check_owner(node, self.owner)
        check_nid(node, "from_node", self.from_nid)
        check_nid(node, "to_node", self.to_nid)
        check_indexes(self.indexes)
        region = node.regions.get(self.owner.id)
        if region is not None and self.indexes:
            check_below("indexes", int(unpack_indexes(self.indexes).max()), len(region.nids))

    def text(self, node: NodeState, result: bytes) -> str:
        """Return the op and its result as one line."""
        entered, pages = sum(result), len(self.indexes) // 4
        where = f"node{self.from_nid}->node{self.to_nid}"
        return f"remap {owner_text(self.owner)} {where} pages={pages} entered={entered}"

    @property
    def payload(self) -> int:
        """Bytes of the indexes."""
        return len(self.indexes)


@dataclass(frozen=True, slots=True)
class ReleaseMigrated(Op[int]):
    """Frees the old pages after a migration to another node; the result is the number of pages freed.

    Pages that reclaim has swapped out meanwhile count as read back from swap, and their slots are freed.
    """

    tag = "release_migrated"

    owner: Owner
    lru_kind: int
    pfns: bytes
    indexes: bytes

    def apply(self, node: NodeState) -> int:
        """Free the pages and count them in pgmigrate_success."""
        pfns, indexes = unpack_pfns(self.pfns), unpack_indexes(self.indexes)
        slot = node.slots.get(self.owner)
        freed = node.pgdat.release(slot, indexes, None, pfns) if slot is not None else 0
        node.pgdat.pg.vm_event[PGMIGRATE_SUCCESS] += nr_pages(indexes)
        if slot is not None and self.lru_kind == LRU_KIND_ANON:
            node.pgdat.swap_in(slot, nr_pages(indexes) - freed)
        node.forget_if_tasks_empty(self.owner)
        return freed

    def check(self, node: NodeState) -> None:
        """Check the owner, the kind, the indexes and the pfns."""
        check_owner(node, self.owner)
        check_below("lru_kind", self.lru_kind, LRU_KIND_FILE + 1)
        check_indexes(self.indexes)
        check_frames("pfns", self.pfns, self.indexes)

    def text(self, node: NodeState, result: int) -> str:
        """Return the op and its result as one line."""
        return f"release_migrated {owner_text(self.owner)} pages={len(self.pfns) // 8} -> {result} pages"

    @property
    def payload(self) -> int:
        """Bytes of the pfns and the indexes."""
        return len(self.pfns) + len(self.indexes)
