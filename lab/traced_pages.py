"""What is known of the traced kernel's pages, pagesets and free blocks: arrays, and single changes of them.

``retrace.py`` fills them, event by event. Functions here are compiled and allocate nothing. A page is named
by its key: each largest block has 1024 keys, in the order in which the blocks are first seen.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lab.compiled import compiled
from numa_service.mm.mmzone import (
    MIGRATE_MOVABLE,
    MIGRATE_PCPTYPES,
    NR_ORDERS,
    PAGE_ALLOC_COSTLY_ORDER,
    PAGEBLOCK_ORDER,
)

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]


# States of a page: where it is now, as far as is known.
UNKNOWN = 0
FREE = 1
#: On a free list since before the trace began.
FREE_FROM_START = 2
#: On a pageset: by a refill, or by a free, which puts it on the list of its pageblock's type.
REFILLED = 3
FREED = 4
IN_USE = 5
#: Probably allocated without an event; a later event may show that it was not.
SEEMS_IN_USE = 6

# Where a page was when tracing began.
BEGAN_UNKNOWN = 0
BEGAN_FREE = 1
#: On a pageset, from which it was popped (head), or drained (tail).
BEGAN_POPPED = 2
BEGAN_DRAINED = 3
BEGAN_IN_USE = 4

#: Lists of a pageset here: three types for each order.
NR_LISTS = (PAGE_ALLOC_COSTLY_ORDER + 2) * MIGRATE_PCPTYPES

#: Low bits of an inferred allocation's position: its rank among those before the same event.
POP_BITS = 12


class Pages(NamedTuple):
    """What is known of each page, by key."""

    state: U8
    #: order + 1 of the known free block that starts here.
    free_order: U8
    #: Of a page on a pageset: its neighbours (-1 at the ends), and the number of the list.
    next: I32
    prev: I32
    where: I32
    #: Of a page in state SEEMS_IN_USE: event since which it is << POP_BITS | rank.
    since: I64
    #: Migratetype that the last allocation requested.
    mt: U8
    #: BEGAN_*; and the first event of the block, in the row of its head.
    began: U8
    order: U8
    first_mt: U8
    first_cpu: I32
    first_at: I64


#: dtypes of the columns of :class:`Pages`.
PAGE_DTYPES: dict[str, np.dtype[Any]] = {
    "state": np.dtype(np.uint8),
    "free_order": np.dtype(np.uint8),
    "next": np.dtype(np.int32),
    "prev": np.dtype(np.int32),
    "where": np.dtype(np.int32),
    "since": np.dtype(np.int64),
    "mt": np.dtype(np.uint8),
    "began": np.dtype(np.uint8),
    "order": np.dtype(np.uint8),
    "first_mt": np.dtype(np.uint8),
    "first_cpu": np.dtype(np.int32),
    "first_at": np.dtype(np.int64),
}


class Pageblocks(NamedTuple):
    """Type + 1 of each pageblock, by key >> pageblock_order: the present one, and the first one shown."""

    now: U8
    first: U8


class PagesetLists(NamedTuple):
    """The lists of all pagesets, by number (see :func:`list_of`)."""

    head: I32
    tail: I32
    #: First block of the last refill, and the event of it; -1: none yet.
    refill: I32
    refill_at: I64
    #: Blocks of that refill so far.
    refilled: I64


class PagesetFactors(NamedTuple):
    """What the trace tells about free_factor of each pageset at the start: [CPU, zone]."""

    #: Allocations so far, each of which halves free_factor.
    allocs: I64
    #: Its value at the start; -1: no drain by a free has shown it yet.
    at_start: I64


class CpuStates(NamedTuple):
    """The last event of each CPU, by position."""

    kind: U8
    pid: npt.NDArray[np.uint32]
    #: Zone of the event; of a refill the number of the list.
    where: I32
    #: Row of the drain in progress, or one of the two values of ``retrace.py`` for none.
    drain: I64
    #: Order of the last event that was not a drain.
    order: U8


class Zones(NamedTuple):
    """Captured free blocks [zone, type, order] and pages on pagesets [CPU, zone], less those found so far."""

    blocks: I64
    pageset: I64
    #: per_cpu_pages.batch by zone; 0: refills differ in size.
    batch: I64


class Findings(NamedTuple):
    """Inferences of one call of :func:`retrace`; each table has one row for each event, which suffices."""

    #: Rows in use of hidden, drains and blocks; and the number of events searched ahead.
    used: I64
    #: Allocations without an event: event before which << POP_BITS | rank; CPU, key, order, type.
    hidden: I64  # [row, 5]
    #: Drains that no free caused: event of the first page; CPU, zone, pages.
    drains: I64  # [row, 4]
    #: Free blocks at the start: first event that took from the block; zone, key, order, type.
    blocks: I64  # [row, 5]


class EventColumns(NamedTuple):
    """Columns of events, with the key of the page, the position of the CPU, and the zone (-1: none)."""

    kind: U8
    key: I64
    order: U8
    mt: U8
    cpu: I64
    pid: npt.NDArray[np.uint32]
    zone: I64


@compiled
def kept(order: int) -> bool:
    """Whether pagesets keep blocks of this order (6.1)."""
    return order <= PAGE_ALLOC_COSTLY_ORDER or order == PAGEBLOCK_ORDER


@compiled
def list_of(nr_zones: int, cpu: int, zone: int, order: int, mt: int) -> int:
    """Number of a pageset list; types without a list of their own use the movable one."""
    slot = order if order <= PAGE_ALLOC_COSTLY_ORDER else PAGE_ALLOC_COSTLY_ORDER + 1
    kind = mt if mt < MIGRATE_PCPTYPES else MIGRATE_MOVABLE
    return (cpu * nr_zones + zone) * NR_LISTS + slot * MIGRATE_PCPTYPES + kind


@compiled
def push(pages: Pages, lists: PagesetLists, key: int, where: int) -> None:
    """Put a block at the head of list `where`."""
    head = lists.head[where]
    pages.next[key] = head
    pages.prev[key] = -1
    if head >= 0:
        pages.prev[head] = key
    else:
        lists.tail[where] = key
    lists.head[where] = key
    pages.where[key] = where


@compiled
def push_tail(pages: Pages, lists: PagesetLists, key: int, where: int) -> None:
    """Put a block at the tail of list `where`."""
    tail = lists.tail[where]
    pages.prev[key] = tail
    pages.next[key] = -1
    if tail >= 0:
        pages.next[tail] = key
    else:
        lists.head[where] = key
    lists.tail[where] = key
    pages.where[key] = where


@compiled
def unlink(pages: Pages, lists: PagesetLists, key: int) -> None:
    """Take a block off its list."""
    where = pages.where[key]
    before, after = pages.prev[key], pages.next[key]
    if before >= 0:
        pages.next[before] = after
    else:
        lists.head[where] = after
    if after >= 0:
        pages.prev[after] = before
    else:
        lists.tail[where] = before


@compiled
def set_state(pages: Pages, key: int, order: int, state: int) -> None:
    """Set the state of all pages of a block."""
    for page in range(key, key + (1 << order)):
        pages.state[page] = state


@compiled
def began(pages: Pages, event: EventColumns, i: int, how: int, cpu: int, at: int) -> None:
    """Record event `i` as the first of its block, which began in the state `how`."""
    key, order = event.key[i], event.order[i]
    for page in range(key, key + (1 << order)):
        pages.began[page] = how
        pages.order[page] = 0xFF
    pages.order[key] = order
    pages.first_mt[key] = event.mt[i]
    pages.first_cpu[key] = cpu
    pages.first_at[key] = at


@compiled
def block_is(blocks: Pageblocks, key: int, mt: int) -> None:
    """Record the type of a pageblock, which the free list of one of its pages has shown."""
    block = key >> PAGEBLOCK_ORDER
    blocks.now[block] = mt + 1
    if blocks.first[block] == 0:
        blocks.first[block] = mt + 1


# free blocks


@compiled
def take(pages: Pages, key: int, order: int) -> None:
    """Remove a block from the known free blocks, splitting a larger one that it is part of."""
    for size in range(NR_ORDERS):
        head = key & ~((1 << size) - 1)
        if pages.free_order[head] <= size:
            continue
        if pages.free_order[head] != size + 1:
            continue
        pages.free_order[head] = 0
        if size <= order:
            break
        while size > order:
            size -= 1
            half = head + (1 << size)
            if key >= half:
                pages.free_order[head] = size + 1
                head = half
            else:
                pages.free_order[half] = size + 1
        break
    for page in range(key, key + (1 << order)):
        pages.free_order[page] = 0


@compiled
def give(pages: Pages, key: int, order: int) -> None:
    """Add a block to the known free blocks, merged with free buddies."""
    set_state(pages, key, order, FREE)
    while order < NR_ORDERS - 1:
        buddy = key ^ (1 << order)
        if pages.free_order[buddy] != order + 1:
            break
        pages.free_order[buddy] = 0
        key &= ~(1 << order)
        order += 1
    pages.free_order[key] = order + 1
