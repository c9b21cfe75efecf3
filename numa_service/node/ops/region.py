"""Ops of regions: those of the home, which records the node of each page, and those of nodes with pages."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from numa_service.mm.mmzone import HUGE_INDEX, PAGEBLOCK_NR_PAGES
from numa_service.mm.page_alloc import LRU_KIND_ANON, LRU_KIND_FILE
from numa_service.mm.vmstat import PATH_SWAPPED
from numa_service.node.errors import InvalidRequest
from numa_service.node.load import Report
from numa_service.node.ops.fields import (
    MAX_REGION_PAGES,
    check_below,
    check_cpu,
    check_frames,
    check_indexes,
    check_nid,
    check_owner,
    check_policy,
    check_report,
    owner_text,
    policy_text,
)
from numa_service.node.ops.op import Op
from numa_service.node.owners import TASKS_ID, Owner
from numa_service.node.pfns import nr_pages, unpack_indexes, unpack_pfns
from numa_service.node.session_state import Region
from numa_service.node.state import NodeState


@dataclass(frozen=True, slots=True)
class TouchResult:
    """Which of the touched pages are on the node."""

    #: One byte for each page: 0 = resident, 1 = gone, 2 = a huge page that is none any more, 3 = lost to an
    #: error of the memory, of which its home has not heard.
    gone: bytes
    #: Number of gone pages that were in this node's swap and were read back.
    swapped_in: int
    #: PATH_* work counters.
    path: tuple[int, ...]
    #: Virtual ns that an access to this node's memory waits now.
    wait_ns: int = 0


@dataclass(frozen=True, slots=True)
class Touch(Op[TouchResult]):
    """Accesses pages of a region that were allocated on this node."""

    tag = "touch"
    asked = True

    #: The region.
    owner: Owner
    #: Packed page indexes in the region.
    indexes: bytes
    write: bool
    #: The asking node's report of its traffic to this node's memory.
    report: Report | None = None

    def apply(self, node: NodeState) -> TouchResult:
        """Set the pages' referenced and dirty bits, and read the gone ones back from swap.

        A page that is read back gets no memory here: the region's home allocates for it.
        """
        node.forget_path()
        slot = node.slots.get(self.owner)
        indexes = unpack_indexes(self.indexes)
        gone = node.pgdat.touch(node.slot_of(self.owner), indexes, self.write)
        for nid, lineage, id, index in node.pgdat.memory_failure.untold:
            if (nid, lineage, id) == self.owner:
                gone[(indexes == index) & (gone == 1)] = 3
        swapped = node.pgdat.swap_in(slot, int((gone == 1).sum())) if slot is not None else 0
        node.forget_if_tasks_empty(self.owner)
        path = list(node.take_path())
        path[PATH_SWAPPED] += swapped
        if self.report:
            node.load.hear(self.report)
        return TouchResult(gone.tobytes(), swapped, tuple(path), node.load.memory.wait_ns)

    def check(self, node: NodeState) -> None:
        """Check the report, the owner and the indexes."""
        check_report(node, self.report)
        check_owner(node, self.owner)
        check_indexes(self.indexes)

    def text(self, node: NodeState, result: TouchResult) -> str:
        """Return the op and its result as one line."""
        pages, gone = len(self.indexes) // 4, sum(map(bool, result.gone))
        return f"touch {owner_text(self.owner)} pages={pages} gone={gone} swapped_in={result.swapped_in}"

    @property
    def payload(self) -> int:
        """Bytes of the indexes."""
        return len(self.indexes)


@dataclass(frozen=True, slots=True)
class Release(Op[int]):
    """Frees the pages that a region has at some indexes; the result is the number of pages freed."""

    tag = "release"
    asked = True

    #: The region.
    owner: Owner
    cpu: int | None
    #: Packed page indexes in the region.
    indexes: bytes
    #: If given, one pfn for each index: the page at an index is freed only if it has that pfn, and not if the
    #: region has got another page there since.
    pfns: bytes = b""

    def apply(self, node: NodeState) -> int:
        """Free the pages; indexes without a page are skipped."""
        indexes = unpack_indexes(self.indexes)
        poisoned = _heard_of(node, self.owner, indexes)
        slot = node.slots.get(self.owner)
        if slot is None:
            return 0
        pfns = unpack_pfns(self.pfns) if self.pfns else None
        freed = node.pgdat.release(slot, indexes, self.cpu, pfns)
        if self.owner.id == TASKS_ID:
            # what was reclaimed meanwhile is in swap, and nobody will ask for it: other owners give their
            # swap back when they end
            node.free_swap(slot, nr_pages(indexes) - freed - poisoned)
        # if the region has ended meanwhile, nothing else will free its slot
        node.forget_if_empty(self.owner)
        return freed

    def owed(self, heard: bool) -> bool:
        """Return True: nothing else would free the pages."""
        return True

    def check(self, node: NodeState) -> None:
        """Check the owner, the CPU, the indexes and the pfns."""
        check_owner(node, self.owner)
        if self.cpu is not None:
            check_cpu(node, self.cpu)
        check_indexes(self.indexes)
        if self.pfns:
            check_frames("pfns", self.pfns, self.indexes)

    def text(self, node: NodeState, result: int) -> str:
        """Return the op and its result as one line."""
        return f"release {owner_text(self.owner)} -> {result} pages"

    @property
    def payload(self) -> int:
        """Bytes of the indexes and the pfns."""
        return len(self.indexes) + len(self.pfns)


def _heard_of(node: NodeState, owner: Owner, indexes: npt.NDArray[np.uint32]) -> int:
    """Pages that were lost to errors of the memory are not needed any more; return how many they are."""
    untold = node.pgdat.memory_failure.untold
    heard = [
        key
        for key in untold
        if key[:3] == owner
        and ((indexes == key[3]) | (indexes == (key[3] & -PAGEBLOCK_NR_PAGES | HUGE_INDEX))).any()
    ]
    for key in heard:
        del untold[key]
    return len(heard)


@dataclass(frozen=True, slots=True)
class MapRegion(Op[int]):
    """Makes a region at its home; the result is its id. NotFound for an unknown session."""

    tag = "map_region"

    session: int
    lru_kind: int
    nr_pages: int
    #: The memory policy, as Policy.plain().
    policy: tuple[int, tuple[int, ...], int, int]

    def apply(self, node: NodeState) -> int:
        """Make the region, of which no page is faulted in."""
        session = node.session(self.session)
        id = node.take_id()
        node.regions[id] = Region(
            id,
            self.session,
            self.lru_kind,
            [(0, self.policy)],
            nids=np.zeros(self.nr_pages, dtype=np.uint16),
        )
        session.regions.add(id)
        return id

    def check(self, node: NodeState) -> None:
        """Check the kind, the size and the policy."""
        if self.lru_kind not in (LRU_KIND_ANON, LRU_KIND_FILE):
            raise InvalidRequest("kind", "a region is REGION_KIND_ANON or REGION_KIND_FILE")
        if not 1 <= self.nr_pages <= MAX_REGION_PAGES:
            raise InvalidRequest("nr_pages", f"{self.nr_pages} is not in 1…{MAX_REGION_PAGES}")
        check_policy(node, self.policy)

    def text(self, node: NodeState, result: int) -> str:
        """Return the op and its result as one line."""
        kind = "anon" if self.lru_kind == LRU_KIND_ANON else "file"
        policy = policy_text(self.policy)
        return f"map session={self.session} {kind} pages={self.nr_pages} {policy} -> region {result}"


@dataclass(frozen=True, slots=True)
class BindRegion(Op[None]):
    """Gives the pages [first, end) of a region at its home a memory policy (mbind)."""

    tag = "bind_region"

    region: int
    first: int
    end: int
    #: As Policy.plain().
    policy: tuple[int, tuple[int, ...], int, int]

    def apply(self, node: NodeState) -> None:
        """Set the policy; neighbours with the same one become one part."""
        node.regions[self.region].bind(self.first, self.end, self.policy)

    def check(self, node: NodeState) -> None:
        """Check the policy, and that the region exists and has these pages."""
        check_policy(node, self.policy)
        if self.region not in node.regions:
            raise InvalidRequest("region", f"there is no region {self.region}")
        check_below("end", self.end, len(node.regions[self.region].nids) + 1)
        check_below("first", self.first, self.end)

    def text(self, node: NodeState, result: None) -> str:
        """Return the op and its result as one line."""
        return f"mbind region={self.region} pages={self.first}-{self.end - 1} {policy_text(self.policy)}"


@dataclass(frozen=True, slots=True)
class FillRegion(Op[None]):
    """Notes at a region's home that pages have been faulted in on a node."""

    tag = "fill_region"

    region: int
    nid: int
    indexes: bytes

    def apply(self, node: NodeState) -> None:
        """Record the node of each page, and that the node has, or may have, pages of the region."""
        region = node.regions[self.region]
        at = unpack_indexes(self.indexes)
        if self.nid != node.nid:
            region.holdings.add(self.nid)
        region.nids[at] = self.nid + 1

    def check(self, node: NodeState) -> None:
        """Check the node, and that the region exists and has these indexes."""
        check_nid(node, "node", self.nid)
        check_indexes(self.indexes)
        if self.region not in node.regions:
            raise InvalidRequest("region", f"there is no region {self.region}")
        if self.indexes:
            largest = int(unpack_indexes(self.indexes).max())
            check_below("indexes", largest, len(node.regions[self.region].nids))

    def text(self, node: NodeState, result: None) -> str:
        """Return the op and its result as one line."""
        return f"fill region={self.region} from=node{self.nid} pages={len(self.indexes) // 4}"

    @property
    def payload(self) -> int:
        """Bytes of the indexes."""
        return len(self.indexes)


@dataclass(frozen=True, slots=True)
class EndRegion(Op[int]):
    """Ends a region at its home, after other nodes have freed its pages.

    The region's pages on this node are freed; the result is their number.
    """

    tag = "end_region"

    region: int

    def apply(self, node: NodeState) -> int:
        """Remove the region and free its pages and slot."""
        return end_region(node, self.region)

    def check(self, node: NodeState) -> None:
        """Check that the region exists."""
        if self.region not in node.regions:
            raise InvalidRequest("region", f"there is no region {self.region}")

    def text(self, node: NodeState, result: int) -> str:
        """Return the op and its result as one line."""
        return f"end region={self.region} -> {result} pages"


def end_region(node: NodeState, id: int) -> int:
    """Remove a region from its home; return the number of pages freed on this node."""
    region = node.regions.pop(id)
    node.sessions[region.session].regions.discard(id)
    return node.drop_owner(node.owner(id))
