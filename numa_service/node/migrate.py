"""Moves pages of regions out of a range that has to be emptied (``mm/migrate.c``: migrate_pages).

A move within the node is one op. A move to another node may involve three nodes: the one that has the page,
the one that gets it, and the region's home, whose record of where the page is decides. If the page has been
reclaimed or faulted in elsewhere meanwhile, the move is abandoned and the new page is freed.
"""

from __future__ import annotations

import contextlib
from typing import NamedTuple

import numpy as np

from numa_service.mm.gfp import GFP_HIGHUSER_MOVABLE, GFP_MASKS, Gfp
from numa_service.mm.memory_hotplug import movable_pages
from numa_service.mm.mmzone import HUGE_INDEX, MIGRATE_MOVABLE
from numa_service.mm.page_alloc import LRU_KIND_ANON, LRU_KIND_FILE
from numa_service.mm.pgdata import PG_DIRTY, PG_SWAPBACKED
from numa_service.node import ops
from numa_service.node.ask import Steps, on
from numa_service.node.cost import Cost
from numa_service.node.errors import InvalidRequest, NodeError, PeerUnavailable
from numa_service.node.mempolicy import Policy, Walk, policy_walk
from numa_service.node.node import Node
from numa_service.node.owners import Owner
from numa_service.node.pfns import pack_pfns, unpack_indexes, unpack_pfns
from numa_service.node.prepare import gfp_zone_checked
from numa_service.node.zonelist_alloc import AllocContext, __alloc_pages

#: As alloc_migration_target() asks for pages: it retries hard, but does not call the OOM killer.
_GFP = int(GFP_HIGHUSER_MOVABLE | Gfp.RETRY_MAYFAIL)
#: Passes over the range before giving up: a fault that is under way may add pages between two passes.
MAX_PASSES = 5


class Movable(NamedTuple):
    """Pages of one region in an isolated range that have the same kind and dirty bit.

    All are single pages, or all are huge: their indexes have HUGE_INDEX then, and pfns are of first pages.
    """

    owner: Owner
    #: LRU_KIND_* of the region.
    lru_kind: int
    dirty: bool
    pfns: bytes
    indexes: bytes
    order: int = 0


def empty_range(
    node: Node, start_pfn: int, end_pfn: int, nodemask: tuple[int, ...], reason: int
) -> Steps[dict[int, NodeError]]:
    """Move the pages of regions out of an isolated range, to nodes of the mask; pages that cannot move stay.

    A moved page is on the inactive list, and dirty if it was dirty. `reason` is an MR_* number, for the
    tracepoint. Returns nid → error for nodes that were needed but could not be asked: if they had answered,
    more pages might have moved.
    """
    unasked = dict[int, NodeError]()
    for _ in range(MAX_PASSES):
        moving = _movable(node, start_pfn, end_pfn)
        moved = 0
        for pages in moving:
            moved += yield from _migrate(node, pages, nodemask, unasked)
        tracer = node.tracepoints.tracer
        if tracer and moving:
            tracer.migrated(
                moved, sum(len(pages.pfns) // 8 << pages.order for pages in moving) - moved, reason
            )
        # what stayed of huge pages is single pages now, which may find room
        if not moved and not any(pages.order for pages in moving):
            break
    return unasked


def _movable(node: Node, start_pfn: int, end_pfn: int) -> tuple[Movable, ...]:
    """Return the pages of regions in a range, grouped by region, kind and dirty bit."""
    pg, base = node.pgdat.pg, node.pgdat.base_pfn
    pages = movable_pages(pg, start_pfn - base, end_pfn - base)
    owners = {slot: owner for owner, slot in node.slots.items()}
    anon, dirty = (pg.flags[pages] & PG_SWAPBACKED) != 0, (pg.flags[pages] & PG_DIRTY) != 0
    order = pg.order[pages].astype(np.int64)
    groups = np.stack(
        [pg.owner[pages].astype(np.int64), anon.astype(np.int64), dirty.astype(np.int64), order]
    )
    moving = []
    for slot, is_anon, is_dirty, order_of in sorted(set(zip(*groups.tolist(), strict=True))):
        some = pages[(groups == np.array([[slot], [is_anon], [is_dirty], [order_of]])).all(axis=0)]
        named = pg.pgoff[some] | np.uint32(HUGE_INDEX if order_of else 0)
        moving.append(
            Movable(
                owners[slot],
                LRU_KIND_ANON if is_anon else LRU_KIND_FILE,
                bool(is_dirty) and not is_anon,
                pack_pfns(some + base),
                named.astype("<u4").tobytes(),
                order_of,
            )
        )
    return tuple(moving)


def _migrate(
    node: Node, moving: Movable, nodemask: tuple[int, ...], unasked: dict[int, NodeError]
) -> Steps[int]:
    """Move one group of pages; return how many were moved. Errors of nodes are added to `unasked`."""
    highest = gfp_zone_checked(_GFP, node.pgdat.arch)
    try:
        walk = policy_walk(node.machine.zonelists, node.nid, Policy(), _GFP, highest, nodemask)
    except InvalidRequest:
        return 0  # no node of the mask has memory
    cpu = (*node.pgdat.cpus, *node.pgdat.all_cpus)[0]
    return (yield from migrate_by(node, moving, walk, _GFP, cpu, unasked))


def migrate_by(
    node: Node,
    moving: Movable,
    walk: Walk,
    gfp: int,
    cpu: int,
    unasked: dict[int, NodeError],
    *,
    cpu_nid: int | None = None,
    interleave: bool = False,
) -> Steps[int]:
    """Move pages to where a walk finds memory; return how many were moved.

    `cpu` is the CPU whose pagesets give the new pages; it is on node `cpu_nid`, by default on this one.
    Errors of nodes are added to `unasked`. Huge pages for which there is no huge page are split.
    """
    pfns, indexes = unpack_pfns(moving.pfns), unpack_indexes(moving.indexes)
    ac = AllocContext(
        moving.owner,
        int(gfp & ~(Gfp.DIRECT_RECLAIM | Gfp.KSWAPD_RECLAIM) | GFP_MASKS["GFP_TRANSHUGE"])
        if moving.order
        else gfp,
        moving.order,
        len(pfns),
        cpu,
        MIGRATE_MOVABLE,
        walk,
        Cost(),
        moving.lru_kind,
        moving.indexes,
        moving.dirty,
        moving=True,
        cpu_nid=cpu_nid,
        interleave=interleave,
        unasked=unasked,
    )
    yield from __alloc_pages(node, ac)
    left = at = 0
    for nid, got in ac.pages:
        new = unpack_pfns(got)
        part = slice(at, at + len(new))
        at += len(new)
        if nid == node.nid:
            frames = pack_pfns(pfns[part]), got
            left += node.apply(
                ops.MigratePages(
                    moving.owner, moving.lru_kind, moving.dirty, indexes[part].tobytes(), *frames
                )
            )
        else:
            left += yield from _send(node, moving, pfns[part], indexes[part], nid, new, unasked)
    if moving.order and at < len(pfns):
        node.apply(ops.SplitRegionPages(moving.owner, indexes[at:].tobytes()))
    return left


def _send(
    node: Node,
    moving: Movable,
    old: np.ndarray,
    indexes: np.ndarray,
    nid: int,
    new: np.ndarray,
    unasked: dict[int, NodeError],
) -> Steps[int]:
    """Have the home note that pages `old` are now the pages `new` of node `nid`; return how many it noted.

    The pages that it noted are freed here, the new pages of the others are freed there.
    """
    # a page that reclaim took meanwhile must not be remapped: it may have been faulted in again
    left = node.pgdat.region_pfns(node.slot_of(moving.owner), indexes) == old
    entered = np.zeros(len(old), dtype=np.bool_)
    if left.any():
        remap = ops.Remap(moving.owner, indexes[left].tobytes(), node.nid, nid)
        try:
            answer = yield from on(node, moving.owner.nid, remap)
            entered[left] = np.frombuffer(answer, dtype=np.uint8) != 0
        except PeerUnavailable as away:
            unasked[moving.owner.nid] = away  # the pages stay where the home's record says
    if not entered.all():
        refused = ops.Release(moving.owner, None, indexes[~entered].tobytes(), pack_pfns(new[~entered]))
        # if there is no answer, the question is repeated later (outbox.py)
        with contextlib.suppress(PeerUnavailable):
            yield from on(node, nid, refused)
    if entered.any():
        node.apply(
            ops.ReleaseMigrated(
                moving.owner, moving.lru_kind, pack_pfns(old[entered]), indexes[entered].tobytes()
            )
        )
    return int(entered.sum()) << moving.order
