"""Each invariant can fail: after one array is changed on purpose, the check reports it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from mm.nodes import NORMAL, one_zone

from numa_service.mm.invariants import check_pgdat
from numa_service.mm.lists import free_list, lru_list, owner_list, pcp_list
from numa_service.mm.mmzone import MIGRATE_MOVABLE, NR_ORDERS, WMARK_LOW
from numa_service.mm.page_alloc import LRU_KIND_ANON, LRU_KIND_FILE, NUMA_HOW_HIT
from numa_service.mm.page_table import NR_TABLES, PTRS_PER_TABLE, TABLE_SHIFT
from numa_service.mm.pgdat import Pgdat
from numa_service.mm.pgdata import (
    PG_ACTIVE,
    PG_BUDDY,
    PG_HELD,
    PG_LRU,
    PG_PCP,
    PG_RESERVED,
    SWAP_TOTAL,
    SWAP_USED,
)
from numa_service.mm.vmstat import NR_FREE_PAGES, NR_ZONE_LRU_BASE, NUMA_LOCAL

OWNER, OTHER, REGION = 1, 2, 3


def used_node() -> Pgdat:
    """A node with held blocks, pagesets, anonymous and file pages, swap, and free blocks of many orders."""
    node = one_zone(reserved=37, swap=100)

    def take(order: int, count: int, owner: int, kind: int = 0) -> None:
        indexes = np.arange(count if kind else 0, dtype=np.uint32) + np.uint32(1000 * kind)
        got = node.alloc(
            [NORMAL], 0, order, count, MIGRATE_MOVABLE, NORMAL, WMARK_LOW, NUMA_HOW_HIT, owner, kind, indexes
        )
        assert len(got) == count

    take(0, 100, OWNER)
    take(3, 5, OTHER)
    take(10, 1, OWNER)
    take(0, 64, REGION, LRU_KIND_ANON)
    take(0, 64, REGION, LRU_KIND_FILE)
    return node


def small_free_block(node: Pgdat) -> int:
    return int(np.flatnonzero(node.pg.flags & PG_BUDDY)[0])


def held_block(node: Pgdat) -> int:
    return int(np.flatnonzero(node.pg.flags == PG_HELD)[0])


def links_of_a_free_list(node: Pgdat) -> None:
    block = small_free_block(node)
    node.pg.prev[block] = block


def links_of_large_blocks(node: Pgdat) -> None:
    head = free_list(node.pg, NORMAL, 10, MIGRATE_MOVABLE)
    node.pg.pb_next[head] = head


def links_of_a_pageset(node: Pgdat) -> None:
    node.pg.prev[pcp_list(node.pg, 0, NORMAL, 1)] = 5


def links_of_an_lru(node: Pgdat) -> None:
    node.pg.prev[lru_list(node.pg, NORMAL, 0)] = 5


def links_of_an_owner(node: Pgdat) -> None:
    node.pg.prev[owner_list(node.pg, OWNER)] = 5


def mark_of_a_free_block(node: Pgdat) -> None:
    node.pg.flags[small_free_block(node)] = 0


def order_of_a_free_block(node: Pgdat) -> None:
    node.pg.order[small_free_block(node)] ^= 1


def mark_of_a_large_block(node: Pgdat) -> None:
    node.pg.pb_order[np.flatnonzero(node.pg.pb_order)[0]] = 1


def stale_free_mark(node: Pgdat) -> None:
    node.pg.flags[8001] = PG_BUDDY


def stale_large_mark(node: Pgdat) -> None:
    node.pg.pb_order[np.flatnonzero(node.pg.pb_order)[0] + 1] = NR_ORDERS


def stale_pageset_mark(node: Pgdat) -> None:
    node.pg.flags[8001] = PG_PCP


def pageset_page(node: Pgdat) -> None:
    node.pg.flags[np.flatnonzero(node.pg.flags & PG_PCP)[0]] = 0


def free_block_outside_its_zone(node: Pgdat) -> None:
    node.pg.zone_start[NORMAL] = small_free_block(node) + 1


def nr_free(node: Pgdat) -> None:
    node.pg.nr_free[NORMAL, 3] += 1


def nr_free_pages(node: Pgdat) -> None:
    node.pg.vm_stat[NORMAL, NR_FREE_PAGES] -= 1


def pageset_count(node: Pgdat) -> None:
    node.pg.pcp_count[1, NORMAL] = 3


def managed(node: Pgdat) -> None:
    node.pg.managed[NORMAL] += 1


def free_buddies(node: Pgdat) -> None:
    """Split a free block into buddies that are not merged again."""
    pg = node.pg
    block = int(np.flatnonzero((pg.flags & PG_BUDDY != 0) & (pg.order == 3))[0])
    before, after = int(pg.prev[block]), int(pg.next[block])
    pg.next[before], pg.prev[after] = after, before
    head = int(free_list(pg, NORMAL, 2, MIGRATE_MOVABLE))
    for half in (block, block + 4):
        last = int(pg.prev[head])
        pg.next[last], pg.prev[half], pg.next[half], pg.prev[head] = half, last, head, half
        pg.flags[half], pg.order[half] = PG_BUDDY, 2
    pg.nr_free[NORMAL, 3] -= 1
    pg.nr_free[NORMAL, 2] += 2


def nobodys_block(node: Pgdat) -> None:
    node.pg.owner[held_block(node)] = 0


def references(node: Pgdat) -> None:
    node.pg.refcount[held_block(node)] = 0


def owner_pages(node: Pgdat) -> None:
    node.pg.owner_pages[OTHER] -= 8


def block_of_another_owner(node: Pgdat) -> None:
    node.pg.owner[held_block(node)] = OTHER


def block_on_no_owners_list(node: Pgdat) -> None:
    pg = node.pg
    block = held_block(node)
    before, after = pg.prev[block], pg.next[block]
    pg.next[before], pg.prev[after] = after, before


def page_in_two_places(node: Pgdat) -> None:
    node.pg.order[held_block(node)] = 4


def reserved_page(node: Pgdat) -> None:
    node.pg.flags[held_block(node)] |= PG_RESERVED


def lru_counter(node: Pgdat) -> None:
    node.pg.vm_stat[NORMAL, NR_ZONE_LRU_BASE + 2] += 1


def page_on_the_wrong_lru(node: Pgdat) -> None:
    node.pg.flags[np.flatnonzero(node.pg.flags & PG_LRU)[0]] |= PG_ACTIVE


def entry_gone(node: Pgdat) -> None:
    tables = node.tables
    tables.ptes[tables.directory(REGION)[1000 >> TABLE_SHIFT], 1000 % PTRS_PER_TABLE] = 0


def entry_beyond_the_node(node: Pgdat) -> None:
    tables = node.tables
    tables.ptes[tables.directory(REGION)[1000 >> TABLE_SHIFT], 0] = len(node.pg.flags) + 1


def table_of_two(node: Pgdat) -> None:
    node.tables.directory(REGION)[0] = node.tables.directory(REGION)[1000 >> TABLE_SHIFT]


def table_lost(node: Pgdat) -> None:
    node.tables.ctl[NR_TABLES] += 1


def page_on_no_lru(node: Pgdat) -> None:
    node.pg.flags[held_block(node)] |= PG_LRU


def placed_but_not_near(node: Pgdat) -> None:
    node.pg.numa_event[NORMAL, NUMA_LOCAL] += 1


def swap_nobody_owns(node: Pgdat) -> None:
    node.pg.reclaim_stat[SWAP_USED] = 1


def swap_beyond_its_size(node: Pgdat) -> None:
    node.pg.reclaim_stat[SWAP_USED] = node.pg.owner_swap[OWNER] = node.pg.reclaim_stat[SWAP_TOTAL] + 1


def negative_counter(node: Pgdat) -> None:
    node.pg.node_stat[2] = -1


@pytest.mark.parametrize(
    ("bend", "complaint"),
    [
        (links_of_a_free_list, "broken links"),
        (links_of_large_blocks, "free list zone 2 order 10 type 1: broken links"),
        (links_of_a_pageset, "pageset cpu 0 zone 2 list 1: broken links"),
        (links_of_an_lru, "LRU zone 2 list 0: broken links"),
        (links_of_an_owner, "owner slot 1: broken links"),
        (mark_of_a_free_block, "a block is not marked free at that order"),
        (order_of_a_free_block, "a block is not marked free at that order"),
        (mark_of_a_large_block, "a block is not marked free at that order"),
        (stale_free_mark, "a block marked free is on no free list"),
        (stale_large_mark, "a block marked free is on no free list"),
        (stale_pageset_mark, "a page marked as on a pageset is on none"),
        (pageset_page, "a page is not marked"),
        (free_block_outside_its_zone, "holds a block outside its zone"),
        (nr_free, "zone 2 order 3: nr_free"),
        (nr_free_pages, "zone 2: NR_FREE_PAGES"),
        (pageset_count, "pageset cpu 1 zone 2: 3, counted 0"),
        (managed, "managed 8156"),
        (free_buddies, "of order 2 are both free"),
        (nobodys_block, "a block is held by nobody"),
        (references, "a held block has no reference"),
        (owner_pages, "owner slot 2: 32 pages, counted 40"),
        (block_of_another_owner, "owner slot 1: lists a block of another owner"),
        (block_on_no_owners_list, "blocks are held by hand, owners list"),
        (page_in_two_places, "is in two places"),
        (reserved_page, "a reserved page was given out"),
        (lru_counter, "LRU zone 2 list 2: counter differs from 64 pages"),
        (page_on_the_wrong_lru, "a page belongs on another list"),
        (entry_gone, "owner slot 3, index 1000"),
        (entry_beyond_the_node, "owner slot 3: its page table names no page of this node"),
        (table_of_two, "a table of pages is in two places, or in none"),
        (table_lost, "a table of pages is in two places, or in none"),
        (page_on_no_lru, "a page marked LRU is on no LRU list"),
        (placed_but_not_near, "numa_hit + numa_miss differs from local_node + other_node"),
        (swap_nobody_owns, "swap: 1 of 100 pages used, owners have 0"),
        (swap_beyond_its_size, "swap: 101 of 100 pages used"),
        (negative_counter, "a counter is negative"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_it_is_seen(bend: Callable[[Pgdat], None], complaint: str) -> None:
    node = used_node()
    assert check_pgdat(node) == []
    bend(node)
    problems = check_pgdat(node)
    assert any(complaint in problem for problem in problems), problems
    assert all(problem.startswith("node 0: ") and "\n" not in problem for problem in problems)


def test_large_buddies_of_different_types_would_have_merged() -> None:
    node = one_zone(pages=2048)
    pg = node.pg
    head10, head9 = (int(free_list(pg, NORMAL, order, MIGRATE_MOVABLE)) for order in (10, 9))
    block = int(pg.pb_next[head10])
    after = int(pg.pb_next[block])
    pg.pb_next[head10], pg.pb_prev[after] = after, head10
    for half in (block, block + 1):
        last = int(pg.pb_prev[head9])
        pg.pb_next[last], pg.pb_prev[half], pg.pb_next[half], pg.pb_prev[head9] = half, last, head9, half
        pg.pb_order[half] = 10
    pg.nr_free[NORMAL, 10] -= 1
    pg.nr_free[NORMAL, 9] += 2
    pg.pb_migratetype[block] = 0
    first = block << 9
    assert check_pgdat(node) == [f"node 0: buddies {first:#x} and {first + 512:#x} of order 9 are both free"]


@pytest.mark.parametrize("pfn", [0, 1, 1 << 40, -1])
def test_a_page_that_is_not_the_node_s_is_in_no_zone(pfn: int) -> None:
    pgdat = one_zone()
    assert pgdat.zone_of(pgdat.base_pfn + len(pgdat.pg.flags)) == -1
    assert pgdat.zone_of(pgdat.base_pfn - 1) == -1
    assert pgdat.zone_of(pfn) == -1
