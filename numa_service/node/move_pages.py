"""Pages of regions that move because somebody asks: mbind, migrate_pages and move_pages.

What moves, and where to, is decided at the region's home by the rules of ``mm/mempolicy``. The node that has
a page moves it (``migrate.py``): it finds memory elsewhere, the home notes it, and the old page is freed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from numa_service.mm.gfp import GFP_HIGHUSER_MOVABLE, Gfp
from numa_service.mm.mempolicy.calls import Caller, Nodes, Pointer, UserMask
from numa_service.mm.mempolicy.moves import PageState, Target, migrate_pages, move_pages
from numa_service.mm.mempolicy.nodemask import NODE_MASK_ALL, NUMA_NO_NODE, mask_of, nids_of
from numa_service.mm.mempolicy.policy import CallError
from numa_service.mm.mmzone import HUGE_INDEX, PAGEBLOCK_NR_PAGES, PAGEBLOCK_ORDER
from numa_service.mm.page_alloc import LRU_KIND_ANON
from numa_service.mm.pgdata import PG_DIRTY
from numa_service.mm.zonelist import MAX_NUMNODES
from numa_service.node import ops
from numa_service.node.ask import Steps
from numa_service.node.errors import InvalidRequest, LimitExceeded, NodeError, PeerUnavailable, Precondition
from numa_service.node.mempolicy import Policy, PolicyMode, nodes_of_places, policy_choice, policy_walk
from numa_service.node.migrate import Movable, migrate_by
from numa_service.node.node import Node
from numa_service.node.ops.alloc import MAX_COUNT
from numa_service.node.owners import Owner
from numa_service.node.pfns import pack_pfns, unpack_indexes
from numa_service.node.prepare import check_cpu, gfp_zone_checked
from numa_service.node.session_state import Region

#: Most parts of a region with a policy of their own.
MAX_AREAS = 1 << 10

#: What became of a page, one byte for each: it is not there, it has moved, it is where it was, it is not a
#: huge page any more, and its parts may move.
ABSENT, MOVED, STAYED, SPLIT = 0, 1, 2, 3

#: Flags for new pages: as new_page() of mbind, and as alloc_migration_target() of the other two calls.
_GFP_MBIND = int(GFP_HIGHUSER_MOVABLE | Gfp.RETRY_MAYFAIL)
_GFP_THISNODE = int(GFP_HIGHUSER_MOVABLE | Gfp.THISNODE)


class Destination(NamedTuple):
    """Where pages are to move."""

    #: The node whose zonelist is walked, and the nodes of it that may be used.
    list_nid: int
    nodemask: tuple[int, ...]
    gfp: int
    #: The CPU for which they are allocated.
    cpu: int
    cpu_nid: int
    #: They count in interleave_hit.
    interleave: bool = False


@dataclass(slots=True)
class Moved:
    """What a call has moved."""

    #: Pages that have moved, and those that had to and could not.
    moved: int = 0
    failed: int = 0
    #: nid → the error for which that node's pages were not moved.
    unasked: dict[int, NodeError] = field(default_factory=dict)

    def add(self, fates: npt.NDArray[np.uint8]) -> None:
        """Count what became of pages."""
        self.moved += int((fates == MOVED).sum())
        self.failed += int((fates == STAYED).sum())


# on the node that has the pages


def move_away(
    node: Node, owner: Owner, lru_kind: int, indexes: bytes, to: Destination | None
) -> Steps[bytes]:
    """Move a region's pages that this node has elsewhere; return what became of each, a byte a page.

    Without a destination, only say which pages are there. Huge pages are named by HUGE_INDEX; those that have
    been split, or are now as there is no huge page to be had, are SPLIT.
    """
    wanted = unpack_indexes(indexes)
    pgdat, slot = node.pgdat, node.slot_of(owner)
    huge = (wanted & HUGE_INDEX) != 0
    around = np.unique(wanted[~huge] & ~np.uint32(PAGEBLOCK_NR_PAGES - 1)) | np.uint32(HUGE_INDEX)
    if to is not None and (pgdat.region_pfns(slot, around) >= 0).any():
        node.apply(ops.SplitRegionPages(owner, wanted[~huge].tobytes()))
    before = pgdat.region_pfns(slot, wanted)
    there = before >= 0
    if to is not None and there.any():
        lists = node.machine.zonelists
        # the walk may lead to this node: the page then moves within it, which counts as any move
        start = Policy(PolicyMode.PREFERRED, (to.list_nid,))
        try:
            highest = gfp_zone_checked(to.gfp, pgdat.arch)
            walk = policy_walk(lists, to.cpu_nid, start, to.gfp, highest, to.nodemask)
        except InvalidRequest:
            walk = None  # no node of the mask has memory
        dirty = (pgdat.pg.flags[before[there] - pgdat.base_pfn] & PG_DIRTY) != 0
        dirty &= lru_kind != LRU_KIND_ANON
        kinds = zip(dirty.tolist(), huge[there].tolist(), strict=True)
        for is_dirty, is_huge in sorted(set(kinds)) if walk else ():
            assert walk
            some = there.nonzero()[0][(dirty == is_dirty) & (huge[there] == is_huge)]
            packed = pack_pfns(before[some]), wanted[some].astype("<u4").tobytes()
            moving = Movable(owner, lru_kind, is_dirty, *packed, PAGEBLOCK_ORDER if is_huge else 0)
            cpu, nid, interleave = to.cpu, to.cpu_nid, to.interleave
            yield from migrate_by(node, moving, walk, to.gfp, cpu, {}, cpu_nid=nid, interleave=interleave)
    slot = node.slot_of(owner)
    stayed = pgdat.region_pfns(slot, wanted) == before
    fates = np.where(there, np.where(stayed, STAYED, MOVED), ABSENT)
    if huge.any():
        first = pgdat.region_pfns(slot, wanted & ~np.uint32(HUGE_INDEX))
        fates[huge & ~(there & stayed) & ((first == before) | ~there)] = SPLIT
    return fates.astype(np.uint8).tobytes()


# at the region's home

#: Asks a node to run move_away() (``requests.py``); as an argument, because requests import this module.
AskToMove = Callable[[int, Owner, int, bytes, Destination | None], Steps[bytes]]


def _move(
    node: Node,
    region: Region,
    pages: npt.NDArray[np.uint32],
    to: Destination | None,
    ask: AskToMove,
    result: Moved,
) -> Steps[npt.NDArray[np.uint8]]:
    """Have the nodes that have pages move them; return what became of each page."""
    owner, fates = node.owner(region.id), np.zeros(len(pages), dtype=np.uint8)
    nids = region.nids[pages]
    for nid in np.flatnonzero(np.bincount(nids, minlength=1)[1:]).tolist():
        here = nids == nid + 1
        indexes = pages[here].astype("<u4").tobytes()
        try:
            answer = yield from ask(nid, owner, region.lru_kind, indexes, to)
            fates[here] = np.frombuffer(answer, dtype=np.uint8)
        except PeerUnavailable as away:
            result.unasked[nid] = away
    return fates


def mbind_region(
    node: Node,
    session: int,
    region_id: int,
    first: int,
    count: int,
    policy: Policy,
    cpu: int,
    ask: AskToMove,
    *,
    move: bool = False,
    strict: bool = False,
) -> Steps[Moved]:
    """Give pages of a region a policy (mbind), and with `move` move those that are on none of its nodes.

    With `strict` and without `move`, a page on another node makes it fail: Precondition (EIO), and nothing
    has changed. With both, the caller tells by `failed`. InvalidRequest, NotFound; LimitExceeded for more
    than MAX_AREAS parts.
    """
    region = _checked(node, session, region_id, first, count, cpu)
    end = first + count
    kept = 0 if policy.mode is PolicyMode.DEFAULT else mask_of(policy.nodes)
    strict &= policy.mode is not PolicyMode.DEFAULT
    result = Moved()
    pages = np.arange(first, end, dtype=np.uint32)
    # the nodes asked for count here, not those that the policy was bound to
    outside = pages[~np.isin(region.nids[pages].astype(np.int64) - 1, [NUMA_NO_NODE, *nids_of(kept)])]
    if strict and not move:
        fates = yield from _move(node, region, outside, None, ask, result)
        if fates.any():
            raise Precondition(f"EIO: {int((fates != ABSENT).sum())} pages are on other nodes than {policy}")
    node.region(session, region_id)
    if len(region.areas) + 2 > MAX_AREAS:
        raise LimitExceeded(f"ENOMEM: region {region_id} has {MAX_AREAS} parts already")
    node.apply(ops.BindRegion(region_id, first, end, policy.plain()))
    if not move:
        return result
    for to, some in _destinations(node, policy, outside, cpu):
        result.add((yield from _move(node, region, some, to, ask, result)))
    return result


def _destinations(
    node: Node, policy: Policy, pages: npt.NDArray[np.uint32], cpu: int
) -> list[tuple[Destination, npt.NDArray[np.uint32]]]:
    """Where a policy wants pages that have to move, in the order in which they do."""
    lists = node.machine.zonelists
    every = tuple(sorted(lists))
    if policy.interleaves:
        weights = node.machine.sysctls.interleave_weights
        nodes = nodes_of_places(policy, lists, pages, weights, node.machine.profile)
        counted = policy.mode is PolicyMode.INTERLEAVE
        return [
            (Destination(nid, every, _GFP_MBIND, cpu, node.nid, counted), pages[nodes == nid])
            for nid in np.unique(nodes).tolist()
        ]
    choice = policy_choice(lists, node.nid, policy, gfp_zone_checked(_GFP_MBIND, node.pgdat.arch))
    mask = every if choice.nodemask is None else nids_of(choice.nodemask)
    return [(Destination(choice.nid, mask, _GFP_MBIND, cpu, node.nid), pages)]


def migrate_session(
    node: Node, session: int, old: Sequence[int], new: Sequence[int], cpu: int, ask: AskToMove
) -> Steps[Moved]:
    """Move the pages of a session's regions from some nodes to others (migrate_pages).

    InvalidRequest (EINVAL) if none of the new nodes has memory; NotFound.
    """
    regions = sorted(node.session(session).regions)
    check_cpu(node.pgdat, cpu)
    for name, nids in (("old_nodes", old), ("new_nodes", new)):
        if not all(0 <= nid < MAX_NUMNODES for nid in nids):
            raise InvalidRequest(name, f"EINVAL: nodes are 0…{MAX_NUMNODES - 1}")
    caller, maxnode = _caller(node), MAX_NUMNODES + 1
    masks = (UserMask(_words(mask_of(nids))) for nids in (old, new))
    try:
        plan = migrate_pages(caller, Target(caller.mems_allowed), maxnode, *masks)
    except CallError as error:
        raise InvalidRequest("new_nodes", str(error)) from None
    result = Moved()
    for source, dest in plan.pairs:
        for id in regions:
            if id not in node.regions:
                continue  # it was unmapped meanwhile
            region = node.regions[id]
            pages = np.flatnonzero(region.nids == source + 1).astype(np.uint32)
            to = Destination(dest, (dest,), _GFP_THISNODE, cpu, node.nid)
            result.add((yield from _move(node, region, pages, to, ask, result)))
    return result


def move_region_pages(
    node: Node,
    session: int,
    region_id: int,
    pages: Sequence[int],
    nodes: Sequence[int] | None,
    cpu: int,
    ask: AskToMove,
) -> Steps[tuple[tuple[int, ...], int]]:
    """Move pages each to a node of its own, or without `nodes` say where they are (move_pages).

    Returns what the kernel writes as status of each page (a node or a negative errno; of fewer pages if the
    call ends early), and the errno with which the call ends, 0 for success. InvalidRequest, NotFound.
    """
    region = node.region(session, region_id)
    check_cpu(node.pgdat, cpu)
    if len(pages) > MAX_COUNT or (nodes is not None and len(nodes) != len(pages)):
        raise InvalidRequest("pages", f"{len(pages)} pages: at most {MAX_COUNT}, with a node for each")
    known = [page for page in pages if 0 <= page < len(region.nids)]
    asked = np.unique(np.array(known, dtype=np.uint32))
    result = Moved()
    fates = yield from _move(node, region, asked, None, ask, result)
    there = dict(zip(asked.tolist(), (fates != ABSENT).tolist(), strict=True))
    anon = region.lru_kind == LRU_KIND_ANON
    states = [
        PageState(int(region.nids[page]) - 1 if there.get(page) else NUMA_NO_NODE, page in there, anon=anon)
        for page in pages
    ]
    caller = _caller(node)
    done = move_pages(caller, Target(caller.mems_allowed), states, nodes, Pointer.GOOD, len(pages), 0)
    for dest in dict.fromkeys(nid for _, nid in done.moves):
        some = np.array(sorted({pages[at] for at, nid in done.moves if nid == dest}), dtype=np.uint32)
        to = Destination(dest, (dest,), _GFP_THISNODE, cpu, node.nid)
        result.add((yield from _move(node, region, some, to, ask, result)))
    return done.status, done.errno


def _checked(node: Node, session: int, region_id: int, first: int, count: int, cpu: int) -> Region:
    region = node.region(session, region_id)
    check_cpu(node.pgdat, cpu)
    if count < 1 or not 0 <= first <= len(region.nids) - count:
        raise InvalidRequest("first_page", f"EFAULT: pages {first}…{first + count - 1} of {len(region.nids)}")
    return region


def _caller(node: Node) -> Caller:
    """A session as the task that calls: it may use every node with memory, and is not root."""
    lists = node.machine.zonelists
    memory = mask_of(nid for nid, of in lists.items() if of.thisnode)
    nodes = Nodes(mask_of(lists), memory, max(node.machine.spec.nids) + 1)
    return Caller(node.machine.profile, nodes, memory)


def _words(mask: int) -> tuple[int, ...]:
    mask &= NODE_MASK_ALL
    return tuple(mask >> at & ((1 << 64) - 1) for at in range(0, MAX_NUMNODES, 64))
