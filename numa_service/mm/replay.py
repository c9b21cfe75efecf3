"""The hot loop of trace replay: a stretch of events that one node can serve by itself.

An allocation whose home node has a local zone above its LOW watermark is served by those zones and by
nothing else, and a free concerns the node that holds the block. What spills over from another node is served
here as long as nothing changes over there. Everything else (a third node, the slow path) ends the stretch,
untouched, and is the caller's.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from numa_service.mm.buddy import page_zone
from numa_service.mm.jit import flag, i64, kernel
from numa_service.mm.mmzone import NR_ORDERS, PAGEBLOCK_NR_PAGES, PAGEBLOCK_ORDER
from numa_service.mm.page_alloc import (
    LRU_KIND_NONE,
    alloc_pages_bulk,
    free_pages_bulk,
)
from numa_service.mm.pcp import free_pcppages_bulk
from numa_service.mm.pgdata import I64, U32, ZONE_BOOSTED_WATERMARK, PgData
from numa_service.mm.zone_watermark import ALLOC_WMARK_MASK, wmark_pages, zone_watermark_ok

# A block held for the replay, in one positive integer: nid + 1, order, zone, index in mem_map.
BLOCK_INDEX_BITS = 40
BLOCK_ZONE_SHIFT = 40
BLOCK_ORDER_SHIFT = 43
BLOCK_NID_SHIFT = 47

#: In place of a block: the traced kernel got these pages, the emulated machine did not.
NOT_HERE = -1

# What became of an event, where it is not a block (one allocated, or one freed).
PENDING = 0
ALLOC_FAILED = -1
ALLOC_REFUSED = -2
ALLOC_BAD_ORDER = -3
FREE_UNKNOWN = -4
FREE_PART = -5
FREE_NOT_HERE = -6


# What an event is.
REPLAY_FREE = 0
REPLAY_ALLOC = 1
#: Pages that a pageset gives back without a free that makes it: a worker's or somebody else's doing.
REPLAY_DRAIN = 2
#: An allocation of alloc_pages_bulk(), which does not halve the pageset's free_factor.
REPLAY_BULK = 3


class ReplayEvents(NamedTuple):
    """Allocations, frees and drains in the order in which they took effect, and what became of each.

    Of a drain `cpu` and `home` say whose pageset of which node, `gfp_class` the zone, `order` how many pages.
    """

    #: REPLAY_*.
    kind: npt.NDArray[np.uint8]
    #: Where the real pfn stands in the table of live blocks.
    key: I64
    order: I64
    #: Position of the CPU among those of the machine, and the nid of its node.
    cpu: I64
    home: I64
    #: nid whose zonelist is walked: the home node, unless a policy or the caller said otherwise.
    preferred: I64
    #: Row of a :class:`FastPath`.
    gfp_class: I64
    outcome: I64


class FastPath(NamedTuple):
    """What the CPUs of one node ask of the zones of one node, for each gfp class.

    A row without zones is not known yet.
    """

    zones: I64  # [class, zone]
    nr_zones: I64
    migratetype: I64
    highest_zoneidx: I64
    alloc_flags: I64
    numa_how: I64


class ReplayScratch(NamedTuple):
    """Room for the arguments of one call."""

    indexes: U32  # empty
    page: I64  # one entry
    free_factor: I64  # [zone]


@kernel
def block_of(pg: PgData, nid: int, idx: int, order: int) -> int:
    """A block of a node as one integer."""
    return (
        ((nid + 1) << BLOCK_NID_SHIFT)
        | (order << BLOCK_ORDER_SHIFT)
        | (page_zone(pg, idx) << BLOCK_ZONE_SHIFT)
        | idx
    )


@kernel
def block_nid(block: int) -> int:
    """The node of a block; -1 when it is none."""
    return (block >> BLOCK_NID_SHIFT) - 1 if block > 0 else -1


@kernel
def block_order(block: int) -> int:
    """The order of a block."""
    return (block >> BLOCK_ORDER_SHIFT) & 0xF


@kernel
def block_index(block: int) -> int:
    """The index of a block in its node's mem_map."""
    return block & ((1 << BLOCK_INDEX_BITS) - 1)


@kernel
def part_of_live_block(live: I64, key: int) -> bool:
    """Whether the page lies inside a live block of at most a pageblock's size, and does not start it."""
    for order in range(1, PAGEBLOCK_ORDER + 1):
        head = key & ~((1 << order) - 1)
        if head != key and live[head] > 0 and block_order(live[head]) >= order:
            return True
    return False


@kernel
def unmatched_free(live: I64, key: int, order: int) -> int:
    """Why a free has no block to free: a FREE_* outcome; PENDING when it has one."""
    block = live[key]
    if block == NOT_HERE:
        return FREE_NOT_HERE
    if block == 0:
        return FREE_PART if part_of_live_block(live, key) else FREE_UNKNOWN
    return PENDING if block_order(block) == order else FREE_PART


@kernel
def boosted(pg: PgData) -> bool:
    """Whether an allocation has boosted a zone's watermarks and kswapd has not been told."""
    found = False
    for zone in range(pg.zone_flags.shape[0]):
        found |= (pg.zone_flags[zone] & ZONE_BOOSTED_WATERMARK) != 0
    return found


@kernel
def can_serve(pg: PgData, path: FastPath, row: int, order: int) -> bool:
    """Whether a zone of the node is above the mark that requests of this class must leave."""
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
    """One block by the fast path; its index, or -1 and nothing changed.

    A zone above its watermark has a block that fits (__zone_watermark_ok looks for it), so this fails only
    if every zone is skipped.
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
    """Issue events from `begin` on while this node alone serves them; where it stopped.

    With a `guest_home` that is not -1, the first event is an allocation of that node's CPUs which every node
    before this one in its walk cannot serve. That remains so for requests of the same class and order, as the
    stretch changes this node only; with `guest_first` there is no node before this one. An event at which it
    stops has changed nothing. It also stops behind an allocation that boosted a watermark: kswapd is due.
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
                # what was in use before the trace has another owner
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
    """Nothing known yet."""
    columns = (np.zeros(rows, dtype=np.int64) for _ in range(5))
    return FastPath(np.zeros((rows, nr_zones), dtype=np.int64), *columns)


def replay_scratch(nr_zones: int) -> ReplayScratch:
    """Room for one call at a time."""
    return ReplayScratch(np.zeros(0, np.uint32), np.zeros(1, np.int64), np.zeros(nr_zones, np.int64))


def compile_replay(pg: PgData) -> None:
    """Have the kernels compiled, or loaded, by replaying nothing."""
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
