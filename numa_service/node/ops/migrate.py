"""Pages of regions that move from one node to another (``mm/migrate.c``)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from numa_service.mm.page_alloc import LRU_KIND_ANON, LRU_KIND_FILE
from numa_service.mm.vmstat import PGMIGRATE_SUCCESS
from numa_service.node.errors import InvalidRequest
from numa_service.node.ops.fields import (
    check_below,
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
class Remap(Op[bytes]):
    """Migrated pages of a region, in its home's page table: one byte a page, 1 = entered.

    0: the entry no longer names the old page.
    """

    tag = "remap"
    asked = True

    owner: Owner
    indexes: bytes
    from_nid: int
    from_pfns: bytes
    to_nid: int
    to_pfns: bytes

    def apply(self, node: NodeState) -> bytes:
        """Enter the new pages where the old ones still stand."""
        region = node.regions.get(self.owner.id)
        indexes = unpack_indexes(self.indexes)
        if region is None or self.owner != node.owner(self.owner.id):
            return bytes(len(indexes))
        entered = (region.nids[indexes] == self.from_nid + 1) & (
            region.pfns[indexes] == unpack_pfns(self.from_pfns)
        )
        region.nids[indexes[entered]] = self.to_nid + 1
        region.pfns[indexes[entered]] = unpack_pfns(self.to_pfns)[entered]
        if entered.any() and self.to_nid != node.nid:
            region.holdings.add(self.to_nid)
        return bytes(entered.astype(np.uint8))

    def check(self, node: NodeState) -> None:
        """Of pages that were migrated."""
        check_owner(node, self.owner)
        check_nid(node, "from_node", self.from_nid)
        check_nid(node, "to_node", self.to_nid)
        for field, pfns in (("from_pfns", self.from_pfns), ("to_pfns", self.to_pfns)):
            if len(self.indexes) % 4 or len(pfns) != 2 * len(self.indexes):
                raise InvalidRequest(
                    field, f"{len(pfns)} bytes do not fit {len(self.indexes)} bytes of indexes"
                )
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
        """Of indexes, old and new frames."""
        return len(self.indexes) + len(self.from_pfns) + len(self.to_pfns)


@dataclass(frozen=True, slots=True)
class ReleaseMigrated(Op[int]):
    """Free the pages that were migrated from; pages freed. What reclaim was faster to take is read back."""

    tag = "release_migrated"

    owner: Owner
    lru_kind: int
    pfns: bytes
    indexes: bytes

    def apply(self, node: NodeState) -> int:
        """With pgmigrate_success."""
        pfns = unpack_pfns(self.pfns)
        slot = node.slots.get(self.owner)
        freed = node.pgdat.release(node.slot_of(self.owner), pfns, unpack_indexes(self.indexes), None)
        node.pgdat.pg.vm_event[PGMIGRATE_SUCCESS] += len(pfns)
        if slot is not None and self.lru_kind == LRU_KIND_ANON:
            node.pgdat.swap_in(slot, len(pfns) - freed)
        return freed

    def check(self, node: NodeState) -> None:
        """Of pages of a region."""
        check_owner(node, self.owner)
        check_below("lru_kind", self.lru_kind, LRU_KIND_FILE + 1)
        check_indexes(self.indexes, self.pfns)

    def text(self, node: NodeState, result: int) -> str:
        """One line."""
        return f"release_migrated {owner_text(self.owner)} pages={len(self.pfns) // 8} -> {result} pages"

    @property
    def payload(self) -> int:
        """Of frames and indexes."""
        return len(self.pfns) + len(self.indexes)
