"""Page tables: entered pages are found, freed ones are not, and no more tables are used than needed."""

from __future__ import annotations

import random

import numpy as np
import pytest
from mm.nodes import NORMAL, START, one_zone

from numa_service.mm.invariants import check_pgdat
from numa_service.mm.mmzone import MIGRATE_MOVABLE, WMARK_MIN
from numa_service.mm.page_alloc import LRU_KIND_ANON, LRU_KIND_FILE, LRU_KIND_NONE, NUMA_HOW_HIT
from numa_service.mm.page_table import FREE_TABLE, NR_TABLES, PTRS_PER_TABLE
from numa_service.mm.pgdat import Pfns, Pgdat
from numa_service.mm.pgdata import PG_DIRTY, PG_LRU
from numa_service.mm.vmstat import NR_ANON_MAPPED, NR_FILE_PAGES

REGION, OTHER = 1, 2
#: The largest index that a region can have.
LAST = (1 << 24) - 1


def at(*indexes: int) -> np.ndarray:
    return np.array(indexes, dtype=np.uint32)


def take(node: Pgdat, owner: int, indexes: np.ndarray, kind: int = LRU_KIND_FILE) -> Pfns:
    """Allocate a page for each index; with LRU_KIND_NONE the owner holds them by hand."""
    how = MIGRATE_MOVABLE, NORMAL, WMARK_MIN, NUMA_HOW_HIT
    got = node.alloc([NORMAL], 0, 0, len(indexes), *how, owner, kind, indexes if kind else None)
    assert len(got) == len(indexes)
    return got


def tables(node: Pgdat) -> int:
    """Number of tables in use by owners."""
    return sum(np.count_nonzero(node.tables.directory(owner)) for owner in node.tables.owners())


def test_pages_are_found_where_they_were_put() -> None:
    node = one_zone()
    indexes = at(LAST, 0, PTRS_PER_TABLE, PTRS_PER_TABLE - 1, 70_000)
    pfns = take(node, REGION, indexes)
    assert node.region_pfns(REGION, indexes).tolist() == pfns.tolist()
    assert node.region_pfns(REGION, at(1, LAST - 1, 1 << 31)).tolist() == [-1, -1, -1]
    assert node.region_pfns(OTHER, indexes).tolist() == [-1] * 5
    parts = list(node.tables.mapped(node.pg, REGION))
    found, pages = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    order = np.argsort(indexes)
    assert found.tolist() == indexes[order].tolist()
    assert (pages + node.base_pfn).tolist() == pfns[order].tolist()
    assert check_pgdat(node) == []


def test_a_reclaimed_page_is_found_gone_also_when_its_frame_is_used_again() -> None:
    node = one_zone(swap=1000)
    pfns = take(node, REGION, np.arange(400, dtype=np.uint32), LRU_KIND_ANON)
    for _ in range(3):
        node.shrink(NORMAL, 0, 1000)
    assert node.pg.owner_swap[REGION] == 400
    again = take(node, REGION, np.arange(1000, 7000, dtype=np.uint32), LRU_KIND_ANON)
    assert set(pfns.tolist()) <= set(again.tolist())
    assert node.touch(REGION, np.arange(400, dtype=np.uint32), False).all()
    assert not node.touch(REGION, np.arange(1000, 7000, dtype=np.uint32), False).any()
    assert check_pgdat(node) == []


def test_a_page_comes_back_to_its_own_frame() -> None:
    """The stale entry that reclaim left is right again, so that the page is not freed as a second one."""
    node = one_zone()
    indexes = np.arange(200, dtype=np.uint32)
    before = take(node, REGION, indexes)
    assert node.release(REGION, indexes, 0) == 200
    after = take(node, REGION, indexes)
    assert set(before.tolist()) & set(after.tolist())
    assert node.pg.owner_pages[REGION] == 200
    assert check_pgdat(node) == []


def test_who_asks_again_gets_another_page_and_the_first_is_freed() -> None:
    node = one_zone()
    first = take(node, REGION, np.arange(100, dtype=np.uint32))
    second = take(node, REGION, np.arange(50, 150, dtype=np.uint32))
    assert not set(first.tolist()) & set(second.tolist())
    assert node.pg.owner_pages[REGION] == 150
    found = node.region_pfns(REGION, np.arange(150, dtype=np.uint32))
    assert found.tolist() == [*first[:50].tolist(), *second.tolist()]
    assert check_pgdat(node) == []


@pytest.mark.parametrize("kind", [LRU_KIND_ANON, LRU_KIND_FILE])
def test_pages_move_to_frames_that_their_owner_holds(kind: int) -> None:
    node = one_zone()
    indexes = np.arange(7, 17, dtype=np.uint32)
    old = take(node, REGION, indexes, kind)
    new = take(node, REGION, indexes, LRU_KIND_NONE)
    assert node.release(REGION, indexes[:2], None) == 2
    take(node, REGION, indexes[:1], kind)
    dirty = kind == LRU_KIND_FILE
    assert node.move_pages(REGION, indexes, old, new, kind == LRU_KIND_ANON, dirty) == 8
    assert node.region_pfns(REGION, indexes[2:]).tolist() == new[2:].tolist()
    assert node.region_pfns(REGION, indexes[:2]).tolist()[1] == -1
    assert node.pg.owner_pages[REGION] == 9
    counter = NR_ANON_MAPPED if kind == LRU_KIND_ANON else NR_FILE_PAGES
    assert node.pg.node_stat[counter] == 9
    flags = node.pg.flags[new[2:].astype(np.int64) - START]
    assert (flags & PG_LRU != 0).all()
    assert ((flags & PG_DIRTY != 0) == dirty).all()
    assert check_pgdat(node) == []
    # pages that the owner does not hold any more cannot be moved to
    assert node.move_pages(REGION, indexes[2:], new[2:], old[2:], kind == LRU_KIND_ANON, dirty) == 0
    assert check_pgdat(node) == []


def test_what_an_owner_has_is_freed_with_its_tables() -> None:
    node = one_zone()
    take(node, OTHER, np.arange(0, 5000, 50, dtype=np.uint32))
    kept = tables(node)
    take(node, REGION, np.arange(3000, dtype=np.uint32))
    take(node, REGION, np.arange(10), LRU_KIND_NONE)
    assert node.free_owner(REGION) == 3010
    assert node.tables.owners() == [OTHER]
    assert tables(node) == kept
    assert node.tables.ctl[FREE_TABLE]
    rows = len(node.tables.ptes)
    for _ in range(20):
        take(node, REGION, np.arange(3000, dtype=np.uint32))
        assert node.free_owner(REGION) == 3000
        assert check_pgdat(node) == []
    assert len(node.tables.ptes) == rows


def test_tables_of_pages_that_have_gone_are_swept_out() -> None:
    """Go twice through a region far larger than the node, with every page reclaimed in between."""
    node = one_zone()
    for first in range(0, 1 << 20, 4096):
        take(node, REGION, np.arange(first, first + 4096, dtype=np.uint32))
        for _ in range(3):
            node.shrink(NORMAL, 0, 1 << 20)
    live = int(node.pg.owner_pages[REGION])
    assert live <= 4096
    assert len(node.tables.ptes) <= 8 * 8192 // PTRS_PER_TABLE
    assert check_pgdat(node) == []


def test_equal_tables_have_equal_digests_however_they_came_about() -> None:
    """The order of owners, the places of tables and stale entries are not part of the state."""
    node, other = one_zone(), one_zone()
    indexes = np.arange(100, dtype=np.uint32)
    pages = {owner: take(node, owner, indexes).astype(np.int64) - START for owner in (REGION, OTHER)}
    for name, array in node.pg._asdict().items():
        getattr(other.pg, name)[:] = array
    assert other.digest() != node.digest()
    other.tables.enter(other.pg, OTHER, indexes + np.uint32(500), pages[OTHER])
    other.tables.enter(other.pg, OTHER, indexes, pages[OTHER])
    other.tables.enter(other.pg, REGION, indexes[:99], pages[REGION][:99])
    assert other.digest() != node.digest()
    other.tables.enter(other.pg, REGION, indexes[99:], pages[REGION][99:])
    assert other.digest() == node.digest()
    assert check_pgdat(other) == []


def test_one_page_in_two_tables() -> None:
    """Two owners' tables may name one page, as after fork; it counts for the owner that the page names."""
    node = one_zone()
    [pfn] = take(node, REGION, at(5)).tolist()
    page = np.array([pfn - START])
    node.tables.enter(node.pg, OTHER, at(900), page)
    assert node.region_pfns(REGION, at(5)).tolist() == [pfn]
    assert node.region_pfns(OTHER, at(900)).tolist() == [-1]
    node.pg.owner[page], node.pg.pgoff[page] = OTHER, 900
    assert node.region_pfns(REGION, at(5)).tolist() == [-1]
    assert node.region_pfns(OTHER, at(900)).tolist() == [pfn]


@pytest.mark.parametrize("seed", range(3))
def test_whatever_is_done_the_table_says_what_a_dict_says(seed: int) -> None:
    rng = random.Random(seed)
    node = one_zone(swap=2000)
    known: dict[int, dict[int, int]] = {REGION: {}, OTHER: {}, 3: {}}
    for step in range(300):
        owner = rng.choice(list(known))
        spread = rng.choice((300, 5_000, LAST))
        indexes = np.array(sorted(rng.sample(range(spread), rng.randrange(1, 60))), dtype=np.uint32)
        does = rng.randrange(6)
        if does < 3:
            kind = LRU_KIND_ANON if owner == OTHER else LRU_KIND_FILE
            pfns = take(node, owner, indexes, kind)
            known[owner].update(zip(indexes.tolist(), pfns.tolist(), strict=True))
        elif does == 3:
            here = [index for index in indexes.tolist() if index in known[owner]]
            assert node.release(owner, indexes, 0) == len(here)
            for index in here:
                del known[owner][index]
        elif does == 4:
            node.shrink(NORMAL, 1, 50)
            for each, table in known.items():
                for index, pfn in list(table.items()):
                    page = pfn - START
                    if not node.pg.flags[page] & PG_LRU or node.pg.owner[page] != each:
                        del table[index]
        elif step % 7 == 0:
            assert node.free_owner(owner) == len(known[owner])
            known[owner] = {}
        for each, table in known.items():
            asked = np.array([*table, *indexes.tolist()], dtype=np.uint32)
            expected = [table.get(index, -1) for index in asked.tolist()]
            assert node.region_pfns(each, asked).tolist() == expected
    assert check_pgdat(node) == []
    assert int(node.tables.ctl[NR_TABLES]) > 20
