"""The compiled loop of trace replay: a stretch of events that one node can serve without any other.

An allocation is served by its home node alone if a zone there is above the LOW watermark, and a free is the
matter of the node that has the block. Allocations of one other node that fall back to this node are served
here as well, as long as nothing changes on that node. Any other event (a third node, the slow path) ends the
stretch before it has changed anything, and is left to the caller (``sim/trace_replay.py``).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from numa_service.mm.buddy import page_zone
from numa_service.mm.internal import ALLOC_WMARK_MASK
from numa_service.mm.jit import flag, i64, kernel
from numa_service.mm.mmzone import NR_ORDERS, PAGEBLOCK_NR_PAGES, PAGEBLOCK_ORDER
from numa_service.mm.page_alloc import (
    LRU_KIND_NONE,
    alloc_pages_bulk,
    free_pages_bulk,
)
from numa_service.mm.pcp import free_pcppages_bulk
from numa_service.mm.pgdata import I64, U32, ZONE_BOOSTED_WATERMARK, PgData
from numa_service.mm.zone_watermark import wmark_pages, zone_watermark_ok

# A block that the replay holds, as one positive integer: nid + 1, order, zone, index in mem_map.
BLOCK_INDEX_BITS = 40
BLOCK_ZONE_SHIFT = 40
BLOCK_ORDER_SHIFT = 43
BLOCK_NID_SHIFT = 47

#: In place of a block: the traced kernel got these pages, but the emulated machine did not.
NOT_HERE = -1

# Outcomes of events that are not a block (allocated, or freed).
PENDING = 0  # not replayed yet
ALLOC_FAILED = -1  # no memory
ALLOC_REFUSED = -2  # contradictory gfp flags
ALLOC_BAD_ORDER = -3  # an order that the machine does not have
FREE_UNKNOWN = -4  # the pages were allocated before the trace began
FREE_PART = -5  # a part of a block
FREE_NOT_HERE = -6  # the emulated machine never got these pages


# Kinds of events.
REPLAY_FREE = 0
REPLAY_ALLOC = 1
#: Pages that a pageset gives back other than in the course of a free: a worker drained it.
REPLAY_DRAIN = 2
#: An allocation by the kernel's alloc_pages_bulk(), which does not halve the pageset's free_factor.
REPLAY_BULK = 3


class ReplayEvents(NamedTuple):
    """Columns of allocations, frees and drains, in the order in which they took effect.

    For a drain, `cpu` and `home` name the pageset's CPU and node, `gfp_class` is the zone, and `order` the
    number of pages.
    """

    #: REPLAY_*.
    kind: npt.NDArray[np.uint8]
    #: Index of the traced pfn in the table of live blocks.
    key: I64
    order: I64
    #: Position of the CPU among all CPUs of the machine, and the nid of its node.
    cpu: I64
    home: I64
    #: nid whose zonelist is walked: the home node, unless a policy or the caller said otherwise.
    preferred: I64
    #: Row of a :class:`FastPath`.
    gfp_class: I64
    #: The block, or one of the outcomes above.
    outcome: I64


class FastPath(NamedTuple):
    """Arguments of allocations of one node's CPUs from one node's zones, one row for each gfp class.

    A row with nr_zones 0 has not been filled in yet.
    """

    zones: I64  # [class, zone]
    nr_zones: I64
    migratetype: I64
    highest_zoneidx: I64
    alloc_flags: I64
    numa_how: I64


class ReplayScratch(NamedTuple):
    """Buffers for the arguments of one call."""

    indexes: U32  # empty
    page: I64  # one entry
    free_factor: I64  # [zone]


@kernel
def block_of(pg: PgData, nid: int, idx: int, order: int) -> int:
    """Encode a block of a node as one integer."""
    return (
        ((nid + 1) << BLOCK_NID_SHIFT)
        | (order << BLOCK_ORDER_SHIFT)
        | (page_zone(pg, idx) << BLOCK_ZONE_SHIFT)
        | idx
    )


@kernel
def block_nid(block: int) -> int:
    """nid of an encoded block; -1 if `block` is not one."""
    return (block >> BLOCK_NID_SHIFT) - 1 if block > 0 else -1


@kernel
def block_order(block: int) -> int:
    """Order of an encoded block."""
    return (block >> BLOCK_ORDER_SHIFT) & 0xF


@kernel
def block_index(block: int) -> int:
    """Index of an encoded block in its node's mem_map."""
    return block & ((1 << BLOCK_INDEX_BITS) - 1)


@kernel
def part_of_live_block(live: I64, key: int) -> bool:
    """Whether a page is part of a live block, of at most pageblock size, that begins before it."""
    for order in range(1, PAGEBLOCK_ORDER + 1):
        head = key & ~((1 << order) - 1)
        if head != key and live[head] > 0 and block_order(live[head]) >= order:
            return True
    return False


@kernel
def unmatched_free(live: I64, key: int, order: int) -> int:
    """FREE_* outcome of a free that matches no live block of its order; PENDING if it matches one."""
    block = live[key]
    if block == NOT_HERE:
        return FREE_NOT_HERE
    if block == 0:
        return FREE_PART if part_of_live_block(live, key) else FREE_UNKNOWN
    return PENDING if block_order(block) == order else FREE_PART


@kernel
def boosted(pg: PgData) -> bool:
    """Whether an allocation has boosted a zone's watermarks, so that kswapd has to be woken."""
    found = False
    for zone in range(pg.zone_flags.shape[0]):
        found |= (pg.zone_flags[zone] & ZONE_BOOSTED_WATERMARK) != 0
    return found


@kernel
def can_serve(pg: PgData, path: FastPath, row: int, order: int) -> bool:
    """Whether a zone of the node meets its watermark for a request of this class and order."""
    flags = path.alloc_flags[row]
    highest = path.highest_zoneidx[row]
    for i in range(path.nr_zones[row]):
        zone = path.zones[row, i]
        mark = wmark_pages(pg, zone, flags & ALLOC_WMARK_MASK)
        if zone_watermark_ok(pg, zone, order, mark, highest, flags):
            return True
    return False


@kernel
def _alloc_block(
    pg: PgData, path: FastPath, row: int, cpu: int, order: int, owner: int, scratch: ReplayScratch
) -> int:
    """Allocate one block by the fast path; returns its index, or -1 if nothing was changed.

    A zone that meets its watermark has a large enough free block (__zone_watermark_ok looks for one), so this
    fails only if no zone does.
    """
    got = alloc_pages_bulk(
        pg,
        path.zones[row][: path.nr_zones[row]],
        cpu,
        order,
        i64(1),
        path.migratetype[row],
        path.highest_zoneidx[row],
        path.alloc_flags[row],
        path.numa_how[row],
        owner,
        i64(LRU_KIND_NONE),
        scratch.indexes,
        flag(False),
        scratch.page,
    )
    return scratch.page[0] if got else -1


@kernel
def replay_stretch(
    pg: PgData,
    nid: int,
    owner: int,
    events: ReplayEvents,
    local: FastPath,
    guest: FastPath,
    guest_home: int,
    guest_first: bool,
    live: I64,
    scratch: ReplayScratch,
    begin: int,
    end: int,
) -> int:
    """Replay events[begin:end] as long as this node alone serves them; returns where it stopped.

    `guest_home` is -1, or the node whose CPUs make the first event: an allocation that no node before this
    one in their zonelist can serve. Then that is true of all requests of the same class and order, as the
    stretch changes nothing on other nodes. `guest_first` says that there is no node before this one.

    The event at which it stops has changed nothing. It also stops after an allocation that boosted a
    watermark, since kswapd has to be woken.
    """
    guest_preferred = events.preferred[begin] if begin < end else 0
    guest_row = events.gfp_class[begin] if begin < end else 0
    guest_order = events.order[begin] if begin < end else 0
    at = begin
    while at < end:
        key = events.key[at]
        order = events.order[at]
        block = live[key]
        if events.kind[at] == REPLAY_DRAIN:
            if events.home[at] != nid:
                break
            free_pcppages_bulk(pg, events.gfp_class[at], events.cpu[at], order, i64(0))
        elif events.kind[at] != REPLAY_FREE:
            row = events.gfp_class[at]
            home = events.home[at]
            preferred = events.preferred[at]
            if block > 0 or order >= NR_ORDERS:
                break
            if events.kind[at] == REPLAY_BULK:
                for zone in range(pg.managed.shape[0]):
                    scratch.free_factor[zone] = pg.pcp_free_factor[events.cpu[at], zone]
            if home == nid and preferred == nid and local.nr_zones[row] > 0:
                idx = _alloc_block(pg, local, row, events.cpu[at], order, owner, scratch)
            elif (
                home == guest_home
                and preferred == guest_preferred
                and guest.nr_zones[row] > 0
                and (guest_first or (row == guest_row and order == guest_order))
            ):
                idx = _alloc_block(pg, guest, row, events.cpu[at], order, owner, scratch)
            else:
                break
            if idx < 0:
                break
            block = block_of(pg, nid, idx, order)
            if events.kind[at] == REPLAY_BULK:
                for zone in range(pg.managed.shape[0]):
                    pg.pcp_free_factor[events.cpu[at], zone] = scratch.free_factor[zone]
            live[key] = block
            events.outcome[at] = block
            if boosted(pg):
                return i64(at + 1)
        else:
            unmatched = unmatched_free(live, key, order)
            if unmatched == FREE_PART:
                break
            if unmatched != PENDING:
                if block == NOT_HERE:
                    live[key] = 0
                events.outcome[at] = unmatched
            else:
                if block_nid(block) != nid:
                    break
                scratch.page[0] = block_index(block)
                # blocks that were in use before the trace have another owner
                holder = i64(pg.owner[scratch.page[0]])
                if free_pages_bulk(pg, events.cpu[at], order, holder, scratch.page) != 0:
                    break
                live[key] = 0
                events.outcome[at] = block
        at += 1
    return i64(at)


def is_alloc(kind: Any) -> Any:
    """Whether an event, or each of an array, allocates."""
    return (kind == REPLAY_ALLOC) | (kind == REPLAY_BULK)


def no_fast_path(rows: int, nr_zones: int) -> FastPath:
    """A fast path with no row filled in."""
    columns = (np.zeros(rows, dtype=np.int64) for _ in range(5))
    return FastPath(np.zeros((rows, nr_zones), dtype=np.int64), *columns)


def replay_scratch(nr_zones: int) -> ReplayScratch:
    """Make the buffers, which serve one call at a time."""
    return ReplayScratch(np.zeros(0, np.uint32), np.zeros(1, np.int64), np.zeros(nr_zones, np.int64))


def compile_replay(pg: PgData) -> None:
    """Compile the kernels, or load them from the cache, by replaying no events."""
    path = no_fast_path(1, pg.managed.shape[0])
    live = np.zeros(PAGEBLOCK_NR_PAGES, dtype=np.int64)
    scratch = replay_scratch(pg.managed.shape[0])
    events = ReplayEvents(np.zeros(0, np.uint8), *(np.zeros(0, np.int64) for _ in range(7)))
    replay_stretch(pg, 0, 0, events, path, path, -1, False, live, scratch, 0, 0)
    can_serve(pg, path, 0, 0)


__all__ = [
    "REPLAY_ALLOC",
    "REPLAY_BULK",
    "REPLAY_DRAIN",
    "REPLAY_FREE",
    "FastPath",
    "ReplayEvents",
    "ReplayScratch",
    "block_index",
    "block_nid",
    "block_of",
    "block_order",
    "can_serve",
    "compile_replay",
    "is_alloc",
    "no_fast_path",
    "replay_scratch",
    "replay_stretch",
    "unmatched_free",
]
