"""Regions: pageable memory of a session, faulted in page by page (``mm/memory.c``, ``mm/filemap.c``).

The region's home knows which node each page was allocated on; that node has the page table. When that node
reclaims a page it does not tell the home: the next access finds no page there and faults.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product

import numpy as np

from numa_service.mm.gfp import GFP_HIGHUSER_MOVABLE
from numa_service.mm.page_alloc import LRU_KIND_ANON, LRU_KIND_FILE
from numa_service.node import ops
from numa_service.node.ask import Steps, on, tell
from numa_service.node.cost import Cost
from numa_service.node.errors import InvalidRequest, LimitExceeded, NodeError, PeerUnavailable
from numa_service.node.kmem import free_objects
from numa_service.node.mempolicy import Policy, nodes_of_places
from numa_service.node.node import Node
from numa_service.node.ops.alloc import MAX_COUNT
from numa_service.node.ops.fields import MAX_REGION_PAGES
from numa_service.node.page_alloc import Shares, alloc_for_owner, shares_of, spend, turns
from numa_service.node.prepare import check_cpu
from numa_service.node.session_state import Region
from numa_service.node.task import exit_tasks
from numa_service.node.unserved import unserved

MAX_REGIONS_PER_SESSION = 1024
#: Pages of all regions of one home together. A page takes 2 bytes there and 4 or more in a page table.
MAX_MAPPED_PAGES = 1 << 26


@dataclass(slots=True)
class Touched:
    """What one TouchRegion did, in pages."""

    hits: int = 0
    faults: int = 0
    major_faults: int = 0
    #: nid → touched pages that are now on that node.
    placement: dict[int, int] = field(default_factory=dict)
    cost: Cost = field(default_factory=Cost)
    remote_lookups: int = 0
    direct_reclaimed: int = 0
    #: nid → the error for which that node was not, or not in full, asked for memory.
    unasked: dict[int, NodeError] = field(default_factory=dict)


def map_region(node: Node, session: int, lru_kind: int, nr_pages: int, policy: Policy) -> int:
    """MapRegion: make a region and return its id. InvalidRequest, NotFound, LimitExceeded."""
    if lru_kind not in (LRU_KIND_ANON, LRU_KIND_FILE):
        raise InvalidRequest("kind", "a region is REGION_KIND_ANON or REGION_KIND_FILE")
    if not 1 <= nr_pages <= MAX_REGION_PAGES:
        raise InvalidRequest("nr_pages", f"{nr_pages} is not in 1…{MAX_REGION_PAGES}")
    if len(node.session(session).regions) >= MAX_REGIONS_PER_SESSION:
        raise InvalidRequest("session", f"{session} has {MAX_REGIONS_PER_SESSION} regions already")
    mapped = sum(len(region.nids) for region in node.regions.values())
    if mapped + nr_pages > MAX_MAPPED_PAGES:
        raise LimitExceeded(f"node {node.nid} maps {mapped} pages already, at most {MAX_MAPPED_PAGES}")
    return node.apply(ops.MapRegion(session, lru_kind, nr_pages, policy.plain()))


def touch_region(
    node: Node, session: int, region_id: int, first: int, count: int, write: bool, cpu: int
) -> Steps[Touched]:
    """TouchRegion: access the pages [first, first + count) and fault in the missing ones.

    InvalidRequest, NotFound. NodesAway or AllocFailed when some faults found no memory (see alloc_pages);
    the pages that were faulted in stay.
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
    """Access pages and fault in the missing ones; return how many faults found no memory.

    `wanted` are page indexes, ascending and each once. What happened is added to `result`.
    """
    missing, reread = yield from _access(node, region, wanted, write, result)
    result.hits += len(wanted) - len(missing)
    if not len(missing):
        return 0
    return (yield from _fault(node, region, missing, reread, write, cpu, result))


def _access(
    node: Node, region: Region, wanted: np.ndarray, write: bool, result: Touched
) -> Steps[tuple[np.ndarray, int]]:
    """Touch the pages on the nodes where they were allocated.

    Returns the indexes that have no page, ascending, and how many of them have to be read from swap or disk.
    """
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
            # if the node has crashed, its pages are lost. If it was only unreachable, the Release makes it
            # free them later: they fault in elsewhere now, and a region must not have a page twice
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
    # a stable sort only merges the parts, each of which is ascending
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
    """Allocate the missing pages, ascending, by the policies of the region's parts.

    Returns how many pages found no memory.
    """
    refused = 0
    for first, end, policy in region.spans(int(missing[0]), int(missing[-1]) + 1):
        part = missing[np.searchsorted(missing, first) : np.searchsorted(missing, end)]
        if len(part):
            # what has to be read back is counted, not known page by page
            read = min(reread, len(part))
            reread -= read
            refused += yield from _fault_part(node, region, part, Policy.of(policy), read, write, cpu, result)
    return refused


def _by_node(
    node: Node, region: Region, pages: np.ndarray, policy: Policy
) -> tuple[np.ndarray, Shares | None]:
    """Return pages by the nodes that an interleave policy wants them on, and each node's share.

    Anonymous pages go by their place in the region, as those of an area by that in the mapping. Pages of
    files belong to the page cache: they go by the turn of the session, as of the task that reads.
    """
    if not policy.interleaves:
        return pages, None
    machine = node.machine
    if region.lru_kind == LRU_KIND_ANON:
        weights = machine.sysctls.interleave_weights
        nodes = nodes_of_places(policy, machine.zonelists, pages, weights, machine.profile)
    else:
        nodes = turns(node, region.session, policy, len(pages))
    if not len(nodes):
        return pages, ()
    return pages[np.argsort(nodes, kind="stable")], shares_of(nodes)


def _fault_part(
    node: Node,
    region: Region,
    missing: np.ndarray,
    policy: Policy,
    reread: int,
    write: bool,
    cpu: int,
    result: Touched,
) -> Steps[int]:
    """Allocate missing pages of one policy and note which node each is on.

    Returns how many pages found no memory.
    """
    owner = node.owner(region.id)
    missing, shares = _by_node(node, region, missing, policy)
    allocation = yield from alloc_for_owner(
        node,
        owner,
        region.session,
        GFP_HIGHUSER_MOVABLE,
        0,
        len(missing),
        cpu,
        policy,
        lru_kind=region.lru_kind,
        indexes=missing.astype("<u4").tobytes(),
        dirty=write and region.lru_kind == LRU_KIND_FILE,
        shares=shares,
    )
    at = 0
    alive = region.id in node.regions
    for nid, pfns in allocation.pages:
        blocks = len(pfns) // 8
        filled = missing[at : at + blocks].astype("<u4").tobytes()
        if alive:
            node.apply(ops.FillRegion(region.id, nid, filled))
        else:
            # a node that does not answer is asked again later (outbox.py)
            yield from tell(node, nid, ops.Release(owner, None, filled))
        result.placement[nid] = result.placement.get(nid, 0) + blocks
        at += blocks
    for nid in allocation.unasked:
        if alive and nid != node.nid:
            # it may have allocated pages although its answer was lost: the region's end has to free them
            node.apply(ops.FillRegion(region.id, nid, b""))
    node.region(region.session, region.id)  # NotFound if it was unmapped while another node was asked
    major = min(at, reread)
    if region.lru_kind == LRU_KIND_FILE and not write:
        major = at  # the first read of a file's page comes from the disk, too
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
    """UnmapRegion: end a region; return the number of pages freed on all nodes. NotFound."""
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
            continue  # the question is kept and repeated until the node answers (outbox.py)
    if region_id in node.regions:
        freed += node.apply(ops.EndRegion(region_id))
    return freed


def close_session(node: Node, session: int) -> Steps[int]:
    """End a session and free all that it has on every node (exit_mmap); return the number of pages freed.

    This is CloseSession, and what happens when a lease runs out. NotFound.
    """
    freed = 0
    node.session(session)
    yield from free_objects(node, session)
    yield from exit_tasks(node, session)
    for region_id in sorted(node.session(session).regions):
        freed += yield from _unmap(node, region_id)
    theirs = node.session(session)
    ids = (session, theirs.vmalloc_id) if theirs.vmalloc_id else (session,)
    for nid, id in product(sorted(theirs.holdings), ids):
        try:
            freed += yield from on(node, nid, ops.FreeOwner(node.owner(id)))
        except PeerUnavailable:
            continue
    if session in node.sessions:
        freed += node.apply(ops.EndSession(session))
    return freed
