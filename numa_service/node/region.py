"""Regions: pageable memory of a session, faulted in page by page (``mm/memory.c``, ``mm/filemap.c``).

Here is which node each page is on, where its zonelist walk ended; that node has the page table. A page
reclaimed there is not announced: like a TLB that misses, the next access finds none, and faults.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from numa_service.mm.gfp import GFP_HIGHUSER_MOVABLE
from numa_service.mm.page_alloc import LRU_KIND_ANON, LRU_KIND_FILE
from numa_service.node import ops
from numa_service.node.ask import Steps, on
from numa_service.node.cost import Cost
from numa_service.node.errors import InvalidRequest, LimitExceeded, NodeError, PeerUnavailable
from numa_service.node.mempolicy import Policy, PolicyMode
from numa_service.node.node import Node
from numa_service.node.ops.alloc import MAX_COUNT
from numa_service.node.ops.fields import MAX_REGION_PAGES
from numa_service.node.page_alloc import alloc_for_owner, spend, tell
from numa_service.node.prepare import check_cpu
from numa_service.node.session import Region
from numa_service.node.unserved import unserved

MAX_REGIONS_PER_SESSION = 1024
#: Pages of all regions at home on a node together: 2 bytes each, and 4 or more in the table of its node.
MAX_MAPPED_PAGES = 1 << 26


@dataclass(slots=True)
class Touched:
    """What one TouchRegion did. Pages."""

    hits: int = 0
    faults: int = 0
    major_faults: int = 0
    #: nid → touched pages that are there now.
    placement: dict[int, int] = field(default_factory=dict)
    cost: Cost = field(default_factory=Cost)
    remote_lookups: int = 0
    direct_reclaimed: int = 0
    #: Nodes that were not asked for pages of faults, and why.
    unasked: dict[int, NodeError] = field(default_factory=dict)


def map_region(node: Node, session: int, lru_kind: int, nr_pages: int, policy: Policy) -> int:
    """MapRegion: the region's number. InvalidRequest, NotFound."""
    if lru_kind not in (LRU_KIND_ANON, LRU_KIND_FILE):
        raise InvalidRequest("kind", "a region is REGION_KIND_ANON or REGION_KIND_FILE")
    if not 1 <= nr_pages <= MAX_REGION_PAGES:
        raise InvalidRequest("nr_pages", f"{nr_pages} is not in 1…{MAX_REGION_PAGES}")
    if len(node.session(session).regions) >= MAX_REGIONS_PER_SESSION:
        raise InvalidRequest("session", f"{session} has {MAX_REGIONS_PER_SESSION} regions already")
    mapped = sum(len(region.nids) for region in node.regions.values())
    if mapped + nr_pages > MAX_MAPPED_PAGES:
        raise LimitExceeded(f"node {node.nid} maps {mapped} pages already, at most {MAX_MAPPED_PAGES}")
    return node.apply(ops.MapRegion(session, lru_kind, nr_pages, (int(policy.mode), policy.nodes)))


def touch_region(
    node: Node, session: int, region_id: int, first: int, count: int, write: bool, cpu: int
) -> Steps[Touched]:
    """TouchRegion: access pages [first, first + count); the missing ones fault in.

    NodesAway or AllocFailed when not all of them can be had, as for held pages; those that could stay.
    """
    region = node.region(session, region_id)
    check_cpu(node.pgdat, cpu)
    if not 1 <= count <= MAX_COUNT:
        raise InvalidRequest("count", f"{count} is not in 1…{MAX_COUNT}")
    if not 0 <= first <= len(region.nids) - count:
        raise InvalidRequest("first_page", f"pages {first}…{first + count - 1} of {len(region.nids)}")
    result = Touched()
    wanted = np.arange(first, first + count, dtype=np.uint32)
    refused = yield from touch_pages(node, region, wanted, write, cpu, result)
    spend(node, cpu, result.cost)
    if refused:
        faults = result.faults
        nodes = node.machine.zonelists[node.nid].node_order
        raise unserved(0, faults + refused, faults, nodes, result.unasked)
    return result


def touch_pages(
    node: Node, region: Region, wanted: np.ndarray, write: bool, cpu: int, result: Touched
) -> Steps[int]:
    """Access these pages, ascending and each once, counting in `result`; how many found no memory."""
    missing, reread = yield from _access(node, region, wanted, write, result)
    result.hits += len(wanted) - len(missing)
    if not len(missing):
        return 0
    return (yield from _fault(node, region, missing, reread, write, cpu, result))


def _access(
    node: Node, region: Region, wanted: np.ndarray, write: bool, result: Touched
) -> Steps[tuple[np.ndarray, int]]:
    """Touch the pages on the nodes that got them; which are gone, and how many of those must be re-read."""
    owner = node.owner(region.id)
    nids = region.nids[wanted]
    missing = [wanted[nids == 0]]
    reread = 0
    for nid in np.flatnonzero(np.bincount(nids)[1:]).tolist():
        entry = nid + 1
        there = wanted[nids == entry]
        report = node.load.report(nid) if nid != node.nid else None
        op = ops.Touch(owner, there.tobytes(), write, report)
        try:
            touched = yield from on(node, nid, op)
        except PeerUnavailable:
            # the node is down: what it held is lost with it, as with a pulled DIMM. If it was only not heard,
            # it frees them when it is: they fault in elsewhere now, and no page of a region is there twice
            yield from tell(node, nid, ops.Release(owner, None, there.tobytes()))
            missing.append(there)
            continue
        if nid != node.nid:
            result.remote_lookups += 1
            result.cost.add_lookup(node.machine.spec.latency)
        result.cost.add_path(node.machine.spec.latency, touched.path)
        gone = np.frombuffer(touched.gone, dtype=np.uint8) != 0
        result.placement[nid] = result.placement.get(nid, 0) + int((~gone).sum())
        result.cost.add_access(node.load, nid, int((~gone).sum()), touched.wait_ns, write)
        missing.append(there[gone])
        reread += int(gone.sum()) if region.lru_kind == LRU_KIND_FILE else touched.swapped_in
    # each is ascending: merged, not sorted
    return np.sort(np.concatenate(missing), kind="stable"), reread


def _fault(
    node: Node,
    region: Region,
    missing: np.ndarray,
    reread: int,
    write: bool,
    cpu: int,
    result: Touched,
) -> Steps[int]:
    """Give the missing pages memory, by the region's policy, and note where it is.

    How many found none.
    """
    owner = node.owner(region.id)
    mode, nodes = region.policy
    allocation = yield from alloc_for_owner(
        node,
        owner,
        region.session,
        GFP_HIGHUSER_MOVABLE,
        0,
        len(missing),
        cpu,
        Policy(PolicyMode(mode), nodes),
        lru_kind=region.lru_kind,
        indexes=missing.astype("<u4").tobytes(),
        dirty=write and region.lru_kind == LRU_KIND_FILE,
    )
    at = 0
    alive = region.id in node.regions
    for nid, pfns in allocation.pages:
        blocks = len(pfns) // 8
        filled = missing[at : at + blocks].astype("<u4").tobytes()
        if alive:
            node.apply(ops.FillRegion(region.id, nid, filled))
        else:
            # one that is away is told later (rpc/peers.py)
            yield from tell(node, nid, ops.Release(owner, None, filled))
        result.placement[nid] = result.placement.get(nid, 0) + blocks
        at += blocks
    for nid in allocation.unasked:
        if alive and nid != node.nid:
            # it may have given pages without being heard: the region's end is to free them
            node.apply(ops.FillRegion(region.id, nid, b""))
    node.region(region.session, region.id)  # unmapped while a peer was asked: NotFound
    major = min(at, reread)
    if region.lru_kind == LRU_KIND_FILE and not write:
        major = at  # first reads come from the disk too
        result.cost.reclaim_ns += at * node.machine.spec.latency.file_page_ns
    node.apply(ops.CountEvents(faults=at, major_faults=major, pages_in=major))
    result.faults += at
    result.major_faults += major
    result.cost.add(allocation.cost)
    result.remote_lookups += allocation.remote_lookups
    result.direct_reclaimed += allocation.direct_reclaimed
    result.unasked.update(allocation.unasked)
    return len(missing) - at


def unmap_region(node: Node, session: int, region_id: int) -> Steps[int]:
    """UnmapRegion: pages freed, on every node."""
    node.region(session, region_id)
    return (yield from _unmap(node, region_id))


def _unmap(node: Node, region_id: int) -> Steps[int]:
    freed = 0
    region = node.regions[region_id]
    owner = node.owner(region_id)
    for nid in sorted(region.holdings):
        try:
            freed += yield from on(node, nid, ops.FreeOwner(owner))
        except PeerUnavailable:
            continue  # it frees what dead or unknown owners hold when it is back
    if region_id in node.regions:
        freed += node.apply(ops.EndRegion(region_id))
    return freed


def close_session(node: Node, session: int) -> Steps[int]:
    """CloseSession, and the end of a lease: all that the session holds goes back; pages freed (exit_mmap)."""
    freed = 0
    for region_id in sorted(node.session(session).regions):
        freed += yield from _unmap(node, region_id)
    for nid in sorted(node.session(session).holdings):
        try:
            freed += yield from on(node, nid, ops.FreeOwner(node.owner(session)))
        except PeerUnavailable:
            continue
    if session in node.sessions:
        freed += node.apply(ops.EndSession(session))
    return freed
