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

Functions here allocate nothing; what they know is in the arrays of ``traced_pages.py``.
"""

from __future__ import annotations

import numpy as np

from lab.compiled import compiled
from lab.traced_pages import (
    BEGAN_DRAINED,
    BEGAN_FREE,
    BEGAN_IN_USE,
    BEGAN_POPPED,
    FREE,
    FREE_FROM_START,
    FREED,
    IN_USE,
    NR_LISTS,
    POP_BITS,
    REFILLED,
    SEEMS_IN_USE,
    UNKNOWN,
    CpuStates,
    EventColumns,
    Findings,
    Pageblocks,
    Pages,
    PagesetFactors,
    PagesetLists,
    Zones,
    began,
    block_is,
    give,
    kept,
    list_of,
    push,
    push_tail,
    set_state,
    take,
    unlink,
)
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


@compiled
def _pop_above(pages: Pages, lists: PagesetLists, where: int, key: int, at: int) -> None:
    """Infer that all blocks above `key` on a list (-1: all of the list) were allocated without an event."""
    page = lists.head[where]
    popped = 0
    while page >= 0 and page != key:
        unlink(pages, lists, page)
        if page == lists.refill[where]:
            # the refill was made for this one: it comes after all that was popped at that event
            pages.since[page] = lists.refill_at[where] << POP_BITS | ((1 << POP_BITS) - 1)
        else:
            pages.since[page] = at << POP_BITS | min(popped, (1 << POP_BITS) - 2)
        popped += 1
        slot = (where % NR_LISTS) // MIGRATE_PCPTYPES
        order = slot if slot <= PAGE_ALLOC_COSTLY_ORDER else PAGEBLOCK_ORDER
        set_state(pages, page, order, SEEMS_IN_USE)
        page = lists.head[where]


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
            if kept(order) and lists.refill[list_of(nr_zones, other, zone, order, mt)] >= 0:
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
        where = list_of(zones.blocks.shape[0], cpu, event.zone[i], order, mt)
        if pages.where[key] == where:
            _pop_above(pages, lists, where, key, at)
        if state == FREED:
            block_is(blocks, key, mt)
        unlink(pages, lists, key)
    elif state == UNKNOWN or state == FREE_FROM_START:
        take(pages, key, order)
        how = BEGAN_POPPED if kept(order) else BEGAN_FREE
        began(pages, event, i, how, cpu, at)
        if how == BEGAN_POPPED:
            zones.pageset[cpu, event.zone[i]] -= 1 << order
            if blocks.now[key >> PAGEBLOCK_ORDER] == 0:
                blocks.now[key >> PAGEBLOCK_ORDER] = mt + 1
    elif state == FREE:
        take(pages, key, order)
    pages.mt[key] = mt
    set_state(pages, key, order, IN_USE)


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
            unlink(pages, lists, key)
        else:
            since = pages.since[key]
        where = pages.where[key]
        who = where // NR_LISTS // zones.blocks.shape[0]
        _hidden(found, since, who, key, order, where % MIGRATE_PCPTYPES)
    elif state == FREE:
        take(pages, key, order)
        _hidden(found, at << POP_BITS, cpu, key, order, min(pages.mt[key], MIGRATE_PCPTYPES - 1))
    elif state == UNKNOWN or state == FREE_FROM_START:
        take(pages, key, order)
        began(pages, event, i, BEGAN_IN_USE, cpu, at)
    if not kept(order):
        give(pages, key, order)
        return
    known = blocks.now[key >> PAGEBLOCK_ORDER]
    mt = known - 1 if known else pages.mt[key]
    if not known and pages.began[key] == BEGAN_IN_USE:
        mt = MIGRATE_MOVABLE
    push(pages, lists, key, list_of(zones.blocks.shape[0], cpu, event.zone[i], order, mt))
    set_state(pages, key, order, FREED)


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
    if kept(order) and mt < MIGRATE_PCPTYPES:
        where = list_of(zones.blocks.shape[0], cpu, zone, order, mt)
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
        began(pages, event, i, BEGAN_FREE, cpu, at)
    if state == REFILLED or state == FREED:
        unlink(pages, lists, key)
    take(pages, key, order)
    if order < PAGEBLOCK_ORDER and blocks.now[key >> PAGEBLOCK_ORDER] == 0:
        blocks.now[key >> PAGEBLOCK_ORDER] = mt + 1
    pages.mt[key] = mt
    if where >= 0:
        push_tail(pages, lists, key, where)
        set_state(pages, key, order, REFILLED)
    else:
        set_state(pages, key, order, IN_USE)
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
            unlink(pages, lists, key)
    elif state == UNKNOWN or state == FREE_FROM_START:
        take(pages, key, order)
        if run != _BY_A_FREE or lists.refill[list_of(zones.blocks.shape[0], cpu, zone, order, mt)] >= 0:
            owner = _had_pageset(zones, lists, before, zone, order, mt)
        zones.pageset[owner, zone] -= 1 << order
        began(pages, event, i, BEGAN_DRAINED, owner, at)
    elif state == FREE:
        take(pages, key, order)
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
    block_is(blocks, key, mt)
    give(pages, key, order)


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
            if kept(order):
                factors.allocs[cpu, event.zone[i]] += 1
        elif kind == _FREE:
            _on_free(pages, blocks, lists, zones, event, i, at, found)
        elif kind == _BATCHED:
            # free_unref_page_list(): only now the page goes to its list
            if pages.state[key] == FREED:
                unlink(pages, lists, key)
                push(pages, lists, key, pages.where[key])
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
