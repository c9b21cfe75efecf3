"""Reconstruction of the traced kernel's pagesets and free lists, event by event; compiled.

``mm_page_alloc_zone_locked`` and ``mm_page_pcpu_drain`` say when a block left the free lists for a pageset
and when it came back. Pageset lists are stacks: blocks are pushed and popped at the head; a list is refilled
when it is empty, and drained from the tail. So the first event of a page tells where it was before, and three
things can be inferred that have no events:

* pages that were allocated without an event (by ``alloc_pages_bulk``, as for kernel stacks): those above a
  page that is popped, those on a list that is refilled, and those that are freed while they are on a list;
* drains that no free caused (``vmstat_update``, ``drain_all_pages``): no free of the same task precedes them;
* the size of the free block that a page was taken from: it was the smallest of its type, and at least as
  large as the run of pages that were taken after it.

Functions here allocate nothing. A page is named by its key: each largest block has 1024 keys, in the order in
which the blocks are first seen.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lab.compiled import compiled
from numa_service.mm.jit import i64
from numa_service.mm.mmzone import (
    MIGRATE_MOVABLE,
    MIGRATE_PCPTYPES,
    MIGRATE_TYPES,
    NR_ORDERS,
    PAGE_ALLOC_COSTLY_ORDER,
    PAGEBLOCK_ORDER,
)
from numa_service.trace.events import EventKind

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

# CpuStates.drain, where it is not a row
_NO_RUN = -1
_BY_A_FREE = -2
#: Events that are searched for the pages taken next: for one event, and in all for one call.
_LOOK_AHEAD = 1 << 17
_LOOKS = 1 << 26


_ALLOC = int(EventKind.MM_PAGE_ALLOC)
_FREE = int(EventKind.MM_PAGE_FREE)
_BATCHED = int(EventKind.MM_PAGE_FREE_BATCHED)
_LOCKED = int(EventKind.MM_PAGE_ALLOC_ZONE_LOCKED)
_DRAIN = int(EventKind.MM_PAGE_PCPU_DRAIN)
_EXTFRAG = int(EventKind.MM_PAGE_ALLOC_EXTFRAG)
_OTHER = int(EventKind.OTHER)


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
    """The lists of all pagesets, by number (see :func:`_list_of`)."""

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
    #: Row of the drain in progress, or _NO_RUN or _BY_A_FREE.
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
def _kept(order: int) -> bool:
    """Whether pagesets keep blocks of this order (6.1)."""
    return order <= PAGE_ALLOC_COSTLY_ORDER or order == PAGEBLOCK_ORDER


@compiled
def _list_of(nr_zones: int, cpu: int, zone: int, order: int, mt: int) -> int:
    """Number of a pageset list; types without a list of their own use the movable one."""
    slot = order if order <= PAGE_ALLOC_COSTLY_ORDER else PAGE_ALLOC_COSTLY_ORDER + 1
    kind = mt if mt < MIGRATE_PCPTYPES else MIGRATE_MOVABLE
    return (cpu * nr_zones + zone) * NR_LISTS + slot * MIGRATE_PCPTYPES + kind


@compiled
def _push(pages: Pages, lists: PagesetLists, key: int, where: int) -> None:
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
def _push_tail(pages: Pages, lists: PagesetLists, key: int, where: int) -> None:
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
def _unlink(pages: Pages, lists: PagesetLists, key: int) -> None:
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
def _set_state(pages: Pages, key: int, order: int, state: int) -> None:
    """Set the state of all pages of a block."""
    for page in range(key, key + (1 << order)):
        pages.state[page] = state


@compiled
def _began(pages: Pages, event: EventColumns, i: int, how: int, cpu: int, at: int) -> None:
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
def _block_is(blocks: Pageblocks, key: int, mt: int) -> None:
    """Record the type of a pageblock, which the free list of one of its pages has shown."""
    block = key >> PAGEBLOCK_ORDER
    blocks.now[block] = mt + 1
    if blocks.first[block] == 0:
        blocks.first[block] = mt + 1


@compiled
def _pop_above(pages: Pages, lists: PagesetLists, where: int, key: int, at: int) -> None:
    """Infer that all blocks above `key` on a list (-1: all of the list) were allocated without an event."""
    page = lists.head[where]
    popped = 0
    while page >= 0 and page != key:
        _unlink(pages, lists, page)
        if page == lists.refill[where]:
            # the refill was made for this one: it comes after all that was popped at that event
            pages.since[page] = lists.refill_at[where] << POP_BITS | ((1 << POP_BITS) - 1)
        else:
            pages.since[page] = at << POP_BITS | min(popped, (1 << POP_BITS) - 2)
        popped += 1
        slot = (where % NR_LISTS) // MIGRATE_PCPTYPES
        order = slot if slot <= PAGE_ALLOC_COSTLY_ORDER else PAGEBLOCK_ORDER
        _set_state(pages, page, order, SEEMS_IN_USE)
        page = lists.head[where]


# free blocks


@compiled
def _take(pages: Pages, key: int, order: int) -> None:
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
def _give(pages: Pages, key: int, order: int) -> None:
    """Add a block to the known free blocks, merged with free buddies."""
    _set_state(pages, key, order, FREE)
    while order < NR_ORDERS - 1:
        buddy = key ^ (1 << order)
        if pages.free_order[buddy] != order + 1:
            break
        pages.free_order[buddy] = 0
        key &= ~(1 << order)
        order += 1
    pages.free_order[key] = order + 1


@compiled
def _run_after(event: EventColumns, i: int, left: int, found: Findings) -> int:
    """Number of adjacent blocks of one zone, order and type that were taken from event `i` on, ascending.

    Negative if the same refill, which has `left` more blocks, then took a block elsewhere: since a refill
    uses up a split block first, nothing of that block was left.
    """
    run = 1
    refill = left > 0
    last = min(len(event.kind), i + _LOOK_AHEAD, i + 1 + _LOOKS - found.used[3])
    for j in range(i + 1, last):
        alike = event.kind[j] == _LOCKED and event.zone[j] == event.zone[i] and event.mt[j] == event.mt[i]
        alike &= event.order[j] == event.order[i]
        found.used[3] += 1
        if event.cpu[j] == event.cpu[i]:
            refill &= alike and left > 0
            left -= 1
        if not alike:
            continue
        if event.key[j] != event.key[i] + (run << event.order[i]):
            return -run if refill and event.cpu[j] == event.cpu[i] else run
        run += 1
    return run


@compiled
def _block_order(zones: Zones, event: EventColumns, i: int, left: int, found: Findings) -> int:
    """Order | type << 8 of the free block from which event `i` is the first to take."""
    key, order, zone = event.key[i], event.order[i], event.zone[i]
    mt = event.mt[i] if event.mt[i] < MIGRATE_TYPES else MIGRATE_MOVABLE
    run = _run_after(event, i, left, found)
    least = i64(order)
    while least < NR_ORDERS - 1 and key & (1 << least) == 0 and abs(run) > 1 << (least - order):
        least += 1
    most = i64(NR_ORDERS - 1)
    if run < 0:
        # the whole block was taken
        most = least
        while most > order and -run < 1 << (most - order):
            most -= 1
        least = min(least, most)
    if i > 0 and event.kind[i - 1] == _EXTFRAG and event.key[i - 1] == key:
        # a fallback: the largest block of another type
        for size in range(most, least - 1, -1):
            for other in range(MIGRATE_PCPTYPES):
                if other != mt and key & ((1 << size) - 1) == 0 and zones.blocks[zone, other, size] > 0:
                    return size | other << 8
    for size in range(least, most + 1):
        if key & ((1 << size) - 1) == 0 and zones.blocks[zone, mt, size] > 0:
            return size | mt << 8
    return least | mt << 8


@compiled
def _find_block(
    pages: Pages, zones: Zones, event: EventColumns, i: int, left: int, at: int, found: Findings
) -> None:
    """Record the free block at the start from which event `i` takes a block; its refill has `left` more."""
    packed = _block_order(zones, event, i, left, found)
    size, mt = packed & 0xFF, packed >> 8
    key, zone = event.key[i], event.zone[i]
    while size > event.order[i]:
        clear = True
        for page in range(key, key + (1 << size)):
            if pages.state[page] != UNKNOWN:
                clear = False
                break
        if clear:
            break
        size -= 1
    zones.blocks[zone, mt, size] -= 1
    # the smallest block is taken first, so there were no smaller ones on these lists any more
    wanted = event.mt[i] if event.mt[i] < MIGRATE_TYPES else MIGRATE_MOVABLE
    for empty in range(event.order[i], size if mt == wanted else NR_ORDERS):
        zones.blocks[zone, wanted, empty] = min(zones.blocks[zone, wanted, empty], 0)
    for page in range(key, key + (1 << size)):
        pages.state[page] = FREE_FROM_START
        pages.began[page] = BEGAN_FREE
        pages.order[page] = 0xFF
    pages.free_order[key] = size + 1
    row = found.used[2]
    found.blocks[row, 0] = at
    found.blocks[row, 1] = zone
    found.blocks[row, 2] = key
    found.blocks[row, 3] = size
    found.blocks[row, 4] = mt
    found.used[2] = row + 1


# events


@compiled
def _hidden(found: Findings, at: int, cpu: int, key: int, order: int, mt: int) -> None:
    """Record an allocation without an event."""
    row = found.used[0]
    found.hidden[row, 0] = at
    found.hidden[row, 1] = cpu
    found.hidden[row, 2] = key
    found.hidden[row, 3] = order
    found.hidden[row, 4] = mt
    found.used[0] = row + 1


@compiled
def _had_pageset(zones: Zones, lists: PagesetLists, cpu: int, zone: int, order: int, mt: int) -> int:
    """CPU on whose pageset a page was at the start: the first possible one in number, from `cpu` on.

    It is possible if the pageset has captured pages left, and the page's list has not been empty since.
    """
    nr_cpus, nr_zones = zones.pageset.shape[0], zones.pageset.shape[1]
    for room in (1, 0):
        for step in range(nr_cpus):
            other = (cpu + step) % nr_cpus
            if _kept(order) and lists.refill[_list_of(nr_zones, other, zone, order, mt)] >= 0:
                continue
            if zones.pageset[other, zone] >= room:
                return i64(other)
    return cpu


@compiled
def _on_alloc(
    pages: Pages, blocks: Pageblocks, lists: PagesetLists, zones: Zones, event: EventColumns, i: int, at: int
) -> None:
    """Process mm_page_alloc."""
    key, order, mt, cpu = event.key[i], event.order[i], event.mt[i], event.cpu[i]
    state = pages.state[key]
    if state == REFILLED or state == FREED:
        where = _list_of(zones.blocks.shape[0], cpu, event.zone[i], order, mt)
        if pages.where[key] == where:
            _pop_above(pages, lists, where, key, at)
        if state == FREED:
            _block_is(blocks, key, mt)
        _unlink(pages, lists, key)
    elif state == UNKNOWN or state == FREE_FROM_START:
        _take(pages, key, order)
        how = BEGAN_POPPED if _kept(order) else BEGAN_FREE
        _began(pages, event, i, how, cpu, at)
        if how == BEGAN_POPPED:
            zones.pageset[cpu, event.zone[i]] -= 1 << order
            if blocks.now[key >> PAGEBLOCK_ORDER] == 0:
                blocks.now[key >> PAGEBLOCK_ORDER] = mt + 1
    elif state == FREE:
        _take(pages, key, order)
    pages.mt[key] = mt
    _set_state(pages, key, order, IN_USE)


@compiled
def _on_free(
    pages: Pages,
    blocks: Pageblocks,
    lists: PagesetLists,
    zones: Zones,
    event: EventColumns,
    i: int,
    at: int,
    found: Findings,
) -> None:
    """Process mm_page_free."""
    key, order, cpu = event.key[i], event.order[i], event.cpu[i]
    state = pages.state[key]
    if state == REFILLED or state == FREED or state == SEEMS_IN_USE:
        since = at << POP_BITS
        if state != SEEMS_IN_USE:
            _unlink(pages, lists, key)
        else:
            since = pages.since[key]
        where = pages.where[key]
        who = where // NR_LISTS // zones.blocks.shape[0]
        _hidden(found, since, who, key, order, where % MIGRATE_PCPTYPES)
    elif state == FREE:
        _take(pages, key, order)
        _hidden(found, at << POP_BITS, cpu, key, order, min(pages.mt[key], MIGRATE_PCPTYPES - 1))
    elif state == UNKNOWN or state == FREE_FROM_START:
        _take(pages, key, order)
        _began(pages, event, i, BEGAN_IN_USE, cpu, at)
    if not _kept(order):
        _give(pages, key, order)
        return
    known = blocks.now[key >> PAGEBLOCK_ORDER]
    mt = known - 1 if known else pages.mt[key]
    if not known and pages.began[key] == BEGAN_IN_USE:
        mt = MIGRATE_MOVABLE
    _push(pages, lists, key, _list_of(zones.blocks.shape[0], cpu, event.zone[i], order, mt))
    _set_state(pages, key, order, FREED)


@compiled
def _on_locked(
    pages: Pages,
    blocks: Pageblocks,
    lists: PagesetLists,
    cpus: CpuStates,
    zones: Zones,
    event: EventColumns,
    i: int,
    at: int,
    found: Findings,
) -> int:
    """Process mm_page_alloc_zone_locked; returns the list that is being refilled, or -1 if none is."""
    key, order, mt, cpu, zone = event.key[i], event.order[i], event.mt[i], event.cpu[i], event.zone[i]
    where = -1
    left = i64(0)
    if _kept(order) and mt < MIGRATE_PCPTYPES:
        where = _list_of(zones.blocks.shape[0], cpu, zone, order, mt)
        batch = max(zones.batch[zone] >> order, 2) if zones.batch[zone] > 1 else zones.batch[zone]
        full = 0 < batch <= lists.refilled[where]
        if cpus.kind[cpu] != _LOCKED or cpus.where[cpu] != where or full:
            _pop_above(pages, lists, where, -1, at)
            lists.refill[where] = key
            lists.refill_at[where] = at
            lists.refilled[where] = 0
        lists.refilled[where] += 1
        left = batch - lists.refilled[where] if batch > 0 else i64(_LOOK_AHEAD)
    state = pages.state[key]
    if state == UNKNOWN:
        _find_block(pages, zones, event, i, left, at, found)
        state = np.uint8(FREE_FROM_START)
    if state == FREE_FROM_START:
        _began(pages, event, i, BEGAN_FREE, cpu, at)
    if state == REFILLED or state == FREED:
        _unlink(pages, lists, key)
    _take(pages, key, order)
    if order < PAGEBLOCK_ORDER and blocks.now[key >> PAGEBLOCK_ORDER] == 0:
        blocks.now[key >> PAGEBLOCK_ORDER] = mt + 1
    pages.mt[key] = mt
    if where >= 0:
        _push_tail(pages, lists, key, where)
        _set_state(pages, key, order, REFILLED)
    else:
        _set_state(pages, key, order, IN_USE)
    return where


@compiled
def _on_drain(
    pages: Pages,
    blocks: Pageblocks,
    lists: PagesetLists,
    cpus: CpuStates,
    zones: Zones,
    event: EventColumns,
    i: int,
    at: int,
    found: Findings,
) -> None:
    """Process mm_page_pcpu_drain."""
    key, order, mt, cpu, zone = event.key[i], event.order[i], event.mt[i], event.cpu[i], event.zone[i]
    run = cpus.drain[cpu]
    before = cpu
    if run >= 0 and found.drains[run, 2] == zone:
        before = found.drains[run, 1]
    if cpus.kind[cpu] != _DRAIN or cpus.pid[cpu] != event.pid[i]:
        by_free = (cpus.kind[cpu] == _FREE or cpus.kind[cpu] == _BATCHED) and cpus.pid[cpu] == event.pid[i]
        run = _BY_A_FREE if by_free else _NO_RUN
    state = pages.state[key]
    owner = cpu
    if state == REFILLED or state == FREED or state == SEEMS_IN_USE:
        owner = pages.where[key] // NR_LISTS // zones.blocks.shape[0]
        if state != SEEMS_IN_USE:
            _unlink(pages, lists, key)
    elif state == UNKNOWN or state == FREE_FROM_START:
        _take(pages, key, order)
        if run != _BY_A_FREE or lists.refill[_list_of(zones.blocks.shape[0], cpu, zone, order, mt)] >= 0:
            owner = _had_pageset(zones, lists, before, zone, order, mt)
        zones.pageset[owner, zone] -= 1 << order
        _began(pages, event, i, BEGAN_DRAINED, owner, at)
    elif state == FREE:
        _take(pages, key, order)
    if run == _BY_A_FREE and (owner != cpu or cpus.where[cpu] != zone):
        run = _NO_RUN  # drain_all_pages(), after the last free of reclaim
    if run != _BY_A_FREE:
        if run < 0 or found.drains[run, 1] != owner or found.drains[run, 2] != zone:
            run = found.used[1]
            found.drains[run, 0] = at
            found.drains[run, 1] = owner
            found.drains[run, 2] = zone
            found.drains[run, 3] = 0
            found.used[1] = run + 1
        found.drains[run, 3] += 1 << order
    cpus.drain[cpu] = run
    _block_is(blocks, key, mt)
    _give(pages, key, order)


@compiled
def retrace(
    event: EventColumns,
    seen: int,
    pages: Pages,
    blocks: Pageblocks,
    lists: PagesetLists,
    cpus: CpuStates,
    factors: PagesetFactors,
    zones: Zones,
    found: Findings,
) -> None:
    """Process events, the first of which is number `seen` of the trace."""
    for i in range(len(event.kind)):
        kind, cpu = event.kind[i], event.cpu[i]
        if kind == _OTHER:
            cpus.kind[cpu] = kind
        if kind > _DRAIN or event.zone[i] < 0 or event.order[i] >= NR_ORDERS:
            continue
        key, order = event.key[i], event.order[i]
        if key & ((1 << order) - 1):
            continue
        at = seen + i
        where = event.zone[i]
        if kind == _ALLOC:
            _on_alloc(pages, blocks, lists, zones, event, i, at)
            if _kept(order):
                factors.allocs[cpu, event.zone[i]] += 1
        elif kind == _FREE:
            _on_free(pages, blocks, lists, zones, event, i, at, found)
        elif kind == _BATCHED:
            # free_unref_page_list(): only now the page goes to its list
            if pages.state[key] == FREED:
                _unlink(pages, lists, key)
                _push(pages, lists, key, pages.where[key])
        elif kind == _LOCKED:
            where = _on_locked(pages, blocks, lists, cpus, zones, event, i, at, found)
        else:
            _on_drain(pages, blocks, lists, cpus, zones, event, i, at, found)
            zone = event.zone[i]
            if cpus.drain[cpu] == _BY_A_FREE and factors.at_start[cpu, zone] < 0:
                factors.at_start[cpu, zone] = 0
                if 0 < cpus.order[cpu] <= PAGE_ALLOC_COSTLY_ORDER and factors.allocs[cpu, zone] < 3:
                    # a drain of the whole pageset shows that pages had only been freed before
                    factors.at_start[cpu, zone] = 1 << factors.allocs[cpu, zone]
        if kind != _DRAIN:
            cpus.order[cpu] = order
        cpus.kind[cpu] = kind
        cpus.pid[cpu] = event.pid[i]
        cpus.where[cpu] = where
