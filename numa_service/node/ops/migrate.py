"""Pages of regions that move: within a node, or from one to another (``mm/migrate.c``)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

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
from numa_service.node.pfns import unpack_indexes, unpack_pfns
from numa_service.node.state import NodeState


@dataclass(frozen=True, slots=True)
class MigratePages(Op[int]):
    """Move pages of a region to pages of this node that it holds by hand; how many were moved.

    A page that is no longer where it was stays as it is: reclaim, or an access, was faster.
    """

    tag = "migrate_pages"

    owner: Owner
    lru_kind: int
    dirty: bool
    indexes: bytes
    from_pfns: bytes
    to_pfns: bytes

    def apply(self, node: NodeState) -> int:
        """With pgmigrate_success."""
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
        """Of pages of this node."""
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
        """One line."""
        return f"migrate {owner_text(self.owner)} pages={len(self.indexes) // 4} -> {result} pages"

    @property
    def payload(self) -> int:
        """Of indexes, old and new frames."""
        return len(self.indexes) + len(self.from_pfns) + len(self.to_pfns)


@dataclass(frozen=True, slots=True)
class Remap(Op[bytes]):
    """Pages of a region at home here have moved between nodes: one byte a page, 1 = noted.

    0: the page is no longer on the node that it moved from.
    """

    tag = "remap"
    asked = True

    owner: Owner
    indexes: bytes
    from_nid: int
    to_nid: int

    def apply(self, node: NodeState) -> bytes:
        """Note the new node where the old one still stands."""
        region = node.regions.get(self.owner.id)
        indexes = unpack_indexes(self.indexes)
        if region is None or self.owner != node.owner(self.owner.id):
            return bytes(len(indexes))
        entered = region.nids[indexes] == self.from_nid + 1
        region.nids[indexes[entered]] = self.to_nid + 1
        if entered.any() and self.to_nid != node.nid:
            region.holdings.add(self.to_nid)
        return bytes(entered.astype(np.uint8))

    def owed(self, heard: bool) -> bool:
        """Who asked has kept the pages, and the home may look for them elsewhere."""
        return heard

    def undo(self, result: bytes) -> Op[bytes] | None:
        """They are where they were."""
        noted = unpack_indexes(self.indexes)[np.frombuffer(result, dtype=np.uint8) != 0]
        if not len(noted):
            return None
        return Remap(self.owner, noted.tobytes(), self.to_nid, self.from_nid)

    def check(self, node: NodeState) -> None:
        """Of pages that were migrated."""
        check_owner(node, self.owner)
        check_nid(node, "from_node", self.from_nid)
        check_nid(node, "to_node", self.to_nid)
        check_indexes(self.indexes)
        region = node.regions.get(self.owner.id)
        if region is not None and self.indexes:
            check_below("indexes", int(unpack_indexes(self.indexes).max()), len(region.nids))

    def text(self, node: NodeState, result: bytes) -> str:
        """One line."""
        entered, pages = sum(result), len(self.indexes) // 4
        where = f"node{self.from_nid}->node{self.to_nid}"
        return f"remap {owner_text(self.owner)} {where} pages={pages} entered={entered}"

    @property
    def payload(self) -> int:
        """Of the indexes."""
        return len(self.indexes)


@dataclass(frozen=True, slots=True)
class ReleaseMigrated(Op[int]):
    """Free the pages that another node has got; pages freed. What reclaim was faster to take is read back."""

    tag = "release_migrated"

    owner: Owner
    lru_kind: int
    pfns: bytes
    indexes: bytes

    def apply(self, node: NodeState) -> int:
        """With pgmigrate_success."""
        pfns, indexes = unpack_pfns(self.pfns), unpack_indexes(self.indexes)
        slot = node.slots.get(self.owner)
        freed = node.pgdat.release(slot, indexes, None, pfns) if slot is not None else 0
        node.pgdat.pg.vm_event[PGMIGRATE_SUCCESS] += len(pfns)
        if slot is not None and self.lru_kind == LRU_KIND_ANON:
            node.pgdat.swap_in(slot, len(pfns) - freed)
        return freed

    def check(self, node: NodeState) -> None:
        """Of pages of a region."""
        check_owner(node, self.owner)
        check_below("lru_kind", self.lru_kind, LRU_KIND_FILE + 1)
        check_indexes(self.indexes)
        check_frames("pfns", self.pfns, self.indexes)

    def text(self, node: NodeState, result: int) -> str:
        """One line."""
        return f"release_migrated {owner_text(self.owner)} pages={len(self.pfns) // 8} -> {result} pages"

    @property
    def payload(self) -> int:
        """Of frames and indexes."""
        return len(self.pfns) + len(self.indexes)
