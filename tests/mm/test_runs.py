"""Adjacent pages are allocated and freed in runs, with the result that one by one has."""

from __future__ import annotations

import numpy as np
import pytest
from mm.nodes import NORMAL, START, pgdat

from numa_service.mm.buddy import free_one_page, free_whole
from numa_service.mm.invariants import check_pgdat
from numa_service.mm.lists import free_list
from numa_service.mm.mmzone import (
    MIGRATE_CMA,
    MIGRATE_HIGHATOMIC,
    MIGRATE_ISOLATE,
    MIGRATE_MOVABLE,
    MIGRATE_TYPES,
    MIGRATE_UNMOVABLE,
    PAGEBLOCK_ORDER,
    WMARK_LOW,
)
from numa_service.mm.page_alloc import NUMA_HOW_HIT
from numa_service.mm.pgdat import BadPageError, Pfns, Pgdat
from numa_service.mm.pgdata import STAT_THRESHOLD
from numa_service.mm.profile import LINUX_3_0, LINUX_6_1, LINUX_6_12, Profile

PROFILES = pytest.mark.parametrize("profile", [LINUX_3_0, LINUX_6_1, LINUX_6_12])


def node(profile: Profile = LINUX_6_1, pages: int = 16_384, high: int = 300) -> Pgdat:
    ram = (START, START + pages)
    return pgdat({NORMAL: ram}, {NORMAL: (64, 80, 96)}, [ram], [ram], profile=profile, batch=31, high=high)


def take(n: Pgdat, count: int, mt: int = MIGRATE_UNMOVABLE) -> Pfns:
    got = n.alloc([NORMAL], 0, 0, count, mt, NORMAL, WMARK_LOW, NUMA_HOW_HIT, 1)
    assert len(got) == count
    return got


def free_lists(n: Pgdat) -> list[list[int]]:
    """The blocks of every free list below pageblock size, first to last."""
    found = []
    for order in range(PAGEBLOCK_ORDER):
        for mt in range(MIGRATE_TYPES):
            head = at = int(free_list(n.pg, NORMAL, order, mt))
            found.append([])
            while (at := int(n.pg.next[at])) != head:
                found[-1].append(at)
    return found


def orders(pages: Pfns) -> list[Pfns]:
    """The same pages in several orders: ascending, descending, at random, and runs of each kind mixed."""
    mixed = [pages[:100][::-1], pages[100:107], pages[1000:], pages[107:500], pages[500:1000][::-1]]
    shuffled = np.random.default_rng(1).permutation(pages)
    return [pages, pages[::-1], shuffled, np.concatenate(mixed), np.roll(pages, 5)]


@PROFILES
@pytest.mark.parametrize("how", range(5))
def test_one_call_or_one_for_each_page(profile: Profile, how: int) -> None:
    together, apart = node(profile), node(profile)
    for mt in (MIGRATE_UNMOVABLE, MIGRATE_MOVABLE):
        for _ in range(2):
            pages = take(together, 3000, mt)
            assert pages.tolist() == [int(take(apart, 1, mt)[0]) for _ in range(3000)]
            assert together.digest() == apart.digest()
            pages = orders(pages)[how]
            together.free(0, 0, 1, pages)
            for i in range(len(pages)):
                apart.free(0, 0, 1, pages[i : i + 1])
            assert together.digest() == apart.digest()
    assert check_pgdat(together) == []


@pytest.mark.parametrize("mt", [MIGRATE_MOVABLE, MIGRATE_HIGHATOMIC, MIGRATE_CMA, MIGRATE_ISOLATE])
@pytest.mark.parametrize("threshold", [0, 1, 7, 62, 63, 64, 1000])
@pytest.mark.parametrize("kept", [0, 5, -5, 900, -900])
def test_a_whole_block_merges_as_its_pages_do(mt: int, threshold: int, kept: int) -> None:
    whole, pages = node(), node()
    for n in (whole, pages):
        held = take(n, 4096).astype(np.int64) - n.base_pfn
        first = int(held.min()) & ~511
        # a free page on both sides, so that there are lists to keep in order
        for at in (first + 512, first + 700):
            free_one_page(n.pg, NORMAL, -1, at, 0, mt, False)
        n.pg.flags[first : first + 512] = 0  # who frees a page has cleared its flags
        n.pg.drift[NORMAL, STAT_THRESHOLD] = threshold
        n.pg.free_delta[0, NORMAL] = kept
    for start, blocks in ((8, 8), (16, 16), (64, 64), (256, 256), (32, 32)):
        free_whole(whole.pg, NORMAL, 0, first + start, 0, blocks, mt)
        for page in range(first + start, first + start + blocks):
            free_one_page(pages.pg, NORMAL, 0, page, 0, mt, False)
        for name in ("vm_stat", "free_delta", "nr_free", "reserves", "path", "flags", "order", "pb_order"):
            ours, theirs = getattr(whole.pg, name), getattr(pages.pg, name)
            assert ours.tolist() == theirs.tolist(), name
        assert free_lists(whole) == free_lists(pages)


@pytest.mark.parametrize("at", [0, 1, 7, 8, 500, 1999])
def test_a_wrong_page_in_a_run_is_found(at: int) -> None:
    n = node()
    pages, yours = take(n, 2000), take(n, 600)
    n.free(0, 0, 1, yours)
    before = n.digest()
    for wrong in (int(yours[300]), START - 1, START + 16_384, (1 << 63) + 3, (1 << 64) - 1):
        bad = pages.copy()
        bad[at] = wrong
        with pytest.raises(BadPageError) as error:
            n.free(0, 0, 1, bad)
        assert error.value.pfn == wrong
        assert n.digest() == before
    n.free(0, 0, 1, pages)


@pytest.mark.parametrize("start", [START - 8, START + 16_384 - 8, (1 << 63) - 8, (1 << 64) - 16])
def test_a_run_that_leaves_the_node_is_refused(start: int) -> None:
    n = node()
    take(n, 16_000)
    before = n.digest()
    with pytest.raises(BadPageError):
        n.free(0, 0, 1, np.array([(start + i) % (1 << 64) for i in range(32)], dtype=np.uint64))
    assert n.digest() == before


def test_a_run_that_is_named_twice_is_refused() -> None:
    n = node()
    pages = take(n, 1000)
    before = n.digest()
    with pytest.raises(BadPageError, match="named twice"):
        n.free(0, 0, 1, np.concatenate([pages, pages[400:500]]))
    assert n.digest() == before
    n.free(0, 0, 1, pages)
    assert check_pgdat(n) == []
