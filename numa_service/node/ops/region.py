"""Regions: at home the node of each page, and what becomes of their pages where those are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from numa_service.mm.page_alloc import LRU_KIND_ANON, LRU_KIND_FILE
from numa_service.mm.vmstat import PATH_SWAPPED
from numa_service.node.errors import InvalidRequest
from numa_service.node.load import Report
from numa_service.node.mempolicy import PolicyMode
from numa_service.node.ops.fields import (
    MAX_REGION_PAGES,
    check_below,
    check_cpu,
    check_frames,
    check_indexes,
    check_nid,
    check_owner,
    check_report,
    owner_text,
)
from numa_service.node.ops.op import Op
from numa_service.node.owners import Owner
from numa_service.node.pfns import unpack_indexes, unpack_pfns
from numa_service.node.session import Region
from numa_service.node.state import NodeState


@dataclass(frozen=True, slots=True)
class TouchResult:
    """Which of the pages are still there."""

    #: One byte a page: 0 resident, 1 gone.
    gone: bytes
    #: Gone pages that were in swap here, and were read back.
    swapped_in: int
    path: tuple[int, ...]
    #: As in AllocResult.
    wait_ns: int = 0


@dataclass(frozen=True, slots=True)
class Touch(Op[TouchResult]):
    """Access pages of a region on this node."""

    tag = "touch"
    asked = True

    owner: Owner
    indexes: bytes
    write: bool
    #: Of the node that asks.
    report: Report | None = None

    def apply(self, node: NodeState) -> TouchResult:
        """Set referenced and dirty bits; read back from swap what is gone."""
        node.forget_path()
        slot = node.slots.get(self.owner)
        gone = node.pgdat.touch(node.slot_of(self.owner), unpack_indexes(self.indexes), self.write)
        swapped = node.pgdat.swap_in(slot, int(gone.sum())) if slot is not None else 0
        path = list(node.take_path())
        path[PATH_SWAPPED] += swapped
        if self.report:
            node.load.hear(self.report)
        return TouchResult(gone.tobytes(), swapped, tuple(path), node.load.memory.wait_ns)

    def check(self, node: NodeState) -> None:
        """Of an access to pages of a region."""
        check_report(node, self.report)
        check_owner(node, self.owner)
        check_indexes(self.indexes)

    def text(self, node: NodeState, result: TouchResult) -> str:
        """One line."""
        pages, gone = len(self.indexes) // 4, sum(result.gone)
        return f"touch {owner_text(self.owner)} pages={pages} gone={gone} swapped_in={result.swapped_in}"

    @property
    def payload(self) -> int:
        """Of the indexes."""
        return len(self.indexes)


@dataclass(frozen=True, slots=True)
class Release(Op[int]):
    """Free the pages that a region still has at these indexes; pages freed."""

    tag = "release"
    asked = True

    owner: Owner
    cpu: int | None
    indexes: bytes
    #: Of pages that were got and are not wanted: only these are freed, not what the region has there by now.
    pfns: bytes = b""

    def apply(self, node: NodeState) -> int:
        """Free them; indexes without a page are passed over."""
        slot = node.slots.get(self.owner)
        if slot is None:
            return 0
        pfns = unpack_pfns(self.pfns) if self.pfns else None
        freed = node.pgdat.release(slot, unpack_indexes(self.indexes), self.cpu, pfns)
        # pages that came too late for their region: its end has passed here, or passes this node by
        node.forget_if_empty(self.owner)
        return freed

    def owed(self, heard: bool) -> bool:
        """Nobody else would free them."""
        return True

    def check(self, node: NodeState) -> None:
        """Of pages of a region."""
        check_owner(node, self.owner)
        if self.cpu is not None:
            check_cpu(node, self.cpu)
        check_indexes(self.indexes)
        if self.pfns:
            check_frames("pfns", self.pfns, self.indexes)

    def text(self, node: NodeState, result: int) -> str:
        """One line."""
        return f"release {owner_text(self.owner)} -> {result} pages"

    @property
    def payload(self) -> int:
        """Of indexes, and frames if there are any."""
        return len(self.indexes) + len(self.pfns)


@dataclass(frozen=True, slots=True)
class MapRegion(Op[int]):
    """Make a region; its number. NotFound."""

    tag = "map_region"

    session: int
    lru_kind: int
    nr_pages: int
    #: Policy mode and nodes.
    policy: tuple[int, tuple[int, ...]]

    def apply(self, node: NodeState) -> int:
        """Make it, with no page anywhere."""
        session = node.session(self.session)
        id = node.take_id()
        node.regions[id] = Region(
            id,
            self.session,
            self.lru_kind,
            self.policy,
            nids=np.zeros(self.nr_pages, dtype=np.uint16),
        )
        session.regions.add(id)
        return id

    def check(self, node: NodeState) -> None:
        """Of its kind, size and policy."""
        if self.lru_kind not in (LRU_KIND_ANON, LRU_KIND_FILE):
            raise InvalidRequest("kind", "a region is REGION_KIND_ANON or REGION_KIND_FILE")
        if not 1 <= self.nr_pages <= MAX_REGION_PAGES:
            raise InvalidRequest("nr_pages", f"{self.nr_pages} is not in 1…{MAX_REGION_PAGES}")
        mode, nodes = self.policy
        check_below("policy.mode", mode, len(PolicyMode))
        for nid in nodes:
            check_nid(node, "policy.nodes", nid)

    def text(self, node: NodeState, result: int) -> str:
        """One line."""
        kind = "anon" if self.lru_kind == LRU_KIND_ANON else "file"
        mode, nodes = self.policy
        where = f" nodes={','.join(map(str, nodes))}" if nodes else ""
        policy = PolicyMode(mode).name.lower()
        return f"map session={self.session} {kind} pages={self.nr_pages} {policy}{where} -> region {result}"


@dataclass(frozen=True, slots=True)
class FillRegion(Op[None]):
    """Note at a region's home which node faulted pages are on."""

    tag = "fill_region"

    region: int
    nid: int
    indexes: bytes

    def apply(self, node: NodeState) -> None:
        """Note the node as one that was given pages, too."""
        region = node.regions[self.region]
        at = unpack_indexes(self.indexes)
        if self.nid != node.nid:
            region.holdings.add(self.nid)
        region.nids[at] = self.nid + 1

    def check(self, node: NodeState) -> None:
        """Of entries that there are."""
        check_nid(node, "node", self.nid)
        check_indexes(self.indexes)
        if self.region not in node.regions:
            raise InvalidRequest("region", f"there is no region {self.region}")
        if self.indexes:
            largest = int(unpack_indexes(self.indexes).max())
            check_below("indexes", largest, len(node.regions[self.region].nids))

    def text(self, node: NodeState, result: None) -> str:
        """One line."""
        return f"fill region={self.region} from=node{self.nid} pages={len(self.indexes) // 4}"

    @property
    def payload(self) -> int:
        """Of the indexes."""
        return len(self.indexes)


@dataclass(frozen=True, slots=True)
class EndRegion(Op[int]):
    """Forget a region whose pages elsewhere are free; frees what it has here. Pages freed."""

    tag = "end_region"

    region: int

    def apply(self, node: NodeState) -> int:
        """Drop it, and its owner."""
        return end_region(node, self.region)

    def check(self, node: NodeState) -> None:
        """Of a region that there is."""
        if self.region not in node.regions:
            raise InvalidRequest("region", f"there is no region {self.region}")

    def text(self, node: NodeState, result: int) -> str:
        """One line."""
        return f"end region={self.region} -> {result} pages"


def end_region(node: NodeState, id: int) -> int:
    """Drop a region of this node; pages freed here."""
    region = node.regions.pop(id)
    node.sessions[region.session].regions.discard(id)
    return node.drop_owner(node.owner(id))
