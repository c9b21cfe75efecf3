"""Reclaim: which pages it takes first, which it writes, and that no page is lost."""

from __future__ import annotations

import numpy as np
import pytest
from mm.nodes import DMA32, NORMAL, one_zone, pgdat

from numa_service.mm.invariants import check_pgdat
from numa_service.mm.mmzone import (
    DEF_PRIORITY,
    LRU_ACTIVE_ANON,
    LRU_ACTIVE_FILE,
    LRU_INACTIVE_ANON,
    LRU_INACTIVE_FILE,
    MIGRATE_MOVABLE,
    MIGRATE_UNMOVABLE,
    SWAP_CLUSTER_MAX,
    WMARK_MIN,
)
from numa_service.mm.page_alloc import LRU_KIND_ANON, LRU_KIND_FILE, NUMA_HOW_HIT
from numa_service.mm.pgdat import Pgdat
from numa_service.mm.pgdata import ANON_COST, FILE_COST, SC_TARGETS, SWAP_USED
from numa_service.mm.profile import LINUX_3_0, LINUX_6_1, LINUX_6_12, Profile
from numa_service.mm.vmscan import NO_LIMIT, ROUND_PAGES, kswapd_target
from numa_service.mm.vmstat import (
    NR_DIRTIED,
    NR_FILE_DIRTY,
    NR_FILE_PAGES,
    NR_VMSCAN_IMMEDIATE,
    NR_VMSCAN_WRITE,
    NR_WRITTEN,
    NR_ZONE_LRU_BASE,
    PATH_FILE_IO,
    PATH_SWAPPED,
    PGACTIVATE,
    PGPGOUT,
    PGREFILL,
    PGROTATED,
    PGSCAN_ANON,
    PGSCAN_DIRECT,
    PGSCAN_FILE,
    PGSCAN_KSWAPD,
    PGSTEAL_ANON,
    PGSTEAL_DIRECT,
    PGSTEAL_FILE,
    PGSTEAL_KSWAPD,
    PSWPOUT,
)

CACHE, HEAP = 1, 2


def fill(node: Pgdat, owner: int, kind: int, pages: int, *, dirty: bool = False) -> None:
    got = node.alloc(
        [NORMAL],
        None,
        0,
        pages,
        MIGRATE_MOVABLE,
        NORMAL,
        WMARK_MIN,
        NUMA_HOW_HIT,
        owner,
        kind,
        np.arange(pages, dtype=np.uint32) + np.uint32(node.pg.owner_pages[owner]),
        dirty,
    )
    assert len(got) == pages


def on_lru(node: Pgdat, lru: int) -> int:
    return int(node.pg.vm_stat[:, NR_ZONE_LRU_BASE + lru].sum())


def event(node: Pgdat, item: int) -> int:
    return int(node.pg.vm_event[item])


def shrink(node: Pgdat, priority: int, wanted: int = 1 << 20) -> tuple[int, int]:
    """Make one pass of direct reclaim."""
    result = node.shrink(NORMAL, priority, wanted)
    assert check_pgdat(node) == []
    return result


def kswapd_pass(node: Pgdat, priority: int, limit: int = NO_LIMIT) -> tuple[int, int, int]:
    """Make one pass of kswapd in steps of up to `limit` pages; (scanned, reclaimed, steps)."""
    node.begin_kswapd_pass(NORMAL, priority, True)
    node.go_on_with_pass(limit)
    steps = 1
    while node.in_pass:
        node.go_on_with_pass(limit)
        steps += 1
    scanned, reclaimed, _ = node.end_kswapd_pass()
    assert check_pgdat(node) == []
    return scanned, reclaimed, steps


def test_plentiful_page_cache_goes_before_anonymous_memory() -> None:
    node = one_zone(swap=4096)
    fill(node, HEAP, LRU_KIND_ANON, 2000)
    fill(node, CACHE, LRU_KIND_FILE, 3000)
    for priority in range(DEF_PRIORITY, 2, -1):
        shrink(node, priority, 256)
    assert event(node, PGSTEAL_FILE) > 300
    assert event(node, PGSTEAL_ANON) == 0
    assert node.pg.owner_pages[HEAP] == 2000


def test_the_oldest_page_goes_first() -> None:
    node = one_zone()
    fill(node, CACHE, LRU_KIND_FILE, 64)
    _, reclaimed = shrink(node, 2)
    assert reclaimed == 16
    gone = node.touch(CACHE, np.arange(64, dtype=np.uint32), False)
    assert gone.tolist() == [1] * 16 + [0] * 48


def test_a_second_access_moves_a_file_page_to_the_active_list() -> None:
    node = one_zone()
    fill(node, CACHE, LRU_KIND_FILE, 100)
    indexes = np.arange(100, dtype=np.uint32)
    node.touch(CACHE, indexes, False)
    assert on_lru(node, LRU_ACTIVE_FILE) == 0
    node.touch(CACHE, indexes[:40], False)
    assert on_lru(node, LRU_ACTIVE_FILE) == 40
    assert check_pgdat(node) == []


@pytest.mark.parametrize("by_kswapd", [False, True])
def test_3_0_drops_a_clean_page_and_writes_a_dirty_one(by_kswapd: bool) -> None:
    node = one_zone(profile=LINUX_3_0)
    fill(node, CACHE, LRU_KIND_FILE, 100)
    fill(node, HEAP, LRU_KIND_FILE, 300, dirty=True)
    assert (node.pg.node_stat[NR_FILE_DIRTY], node.pg.node_stat[NR_DIRTIED]) == (300, 300)
    if by_kswapd:
        kswapd_pass(node, 0)
    else:
        shrink(node, 0)
    assert node.pg.node_stat[NR_FILE_PAGES] == 0
    assert node.pg.node_stat[NR_FILE_DIRTY] == 0
    assert node.pg.node_stat[NR_WRITTEN] == node.pg.node_stat[NR_VMSCAN_WRITE] == 300
    assert node.pg.node_stat[NR_VMSCAN_IMMEDIATE] == 0
    assert event(node, PGPGOUT) == 4 * 300
    assert node.free_pages(NORMAL) == node.pg.managed[NORMAL]


@pytest.mark.parametrize("profile", [LINUX_6_1, LINUX_6_12], ids=lambda profile: profile.name)
@pytest.mark.parametrize("by_kswapd", [False, True])
def test_dirty_pages_among_clean_ones_get_out_of_the_way(profile: Profile, by_kswapd: bool) -> None:
    node = one_zone(profile=profile)
    for owner, dirty in ((CACHE, False), (HEAP, True)) * 4:
        fill(node, owner, LRU_KIND_FILE, 8, dirty=dirty)
    if by_kswapd:
        assert kswapd_pass(node, 0)[:2] == (64, 32)
    else:
        assert shrink(node, 0) == (64, 32)
    assert (node.pg.owner_pages[CACHE], node.pg.owner_pages[HEAP]) == (0, 32)
    assert on_lru(node, LRU_ACTIVE_FILE) == event(node, PGACTIVATE) == 32
    assert node.pg.node_stat[NR_VMSCAN_IMMEDIATE] == node.pg.node_stat[NR_FILE_DIRTY] == 32
    assert node.pg.node_stat[NR_WRITTEN] == node.pg.node_stat[NR_VMSCAN_WRITE] == event(node, PGPGOUT) == 0


def test_a_batch_of_dirty_pages_alone_wakes_the_flushers_and_is_taken_next() -> None:
    node = one_zone()
    fill(node, CACHE, LRU_KIND_FILE, 64, dirty=True)
    assert shrink(node, 1) == (32, 0)
    assert (on_lru(node, LRU_INACTIVE_FILE), on_lru(node, LRU_ACTIVE_FILE)) == (64, 0)
    assert node.pg.node_stat[NR_FILE_DIRTY] == 32
    assert node.pg.node_stat[NR_WRITTEN] == node.pg.node_stat[NR_VMSCAN_IMMEDIATE] == 32
    assert node.pg.node_stat[NR_VMSCAN_WRITE] == 0
    assert event(node, PGROTATED) == event(node, PGACTIVATE) == 32
    assert event(node, PGPGOUT) == 4 * 32
    # the flushers' writing costs reclaim no time
    assert not node.take_path()[[PATH_FILE_IO, PATH_SWAPPED]].any()
    assert shrink(node, 3) == (8, 8)
    gone = node.touch(CACHE, np.arange(64, dtype=np.uint32), False)
    assert gone.tolist() == [1] * 8 + [0] * 56


@pytest.mark.parametrize("clean", [0, 1, 31, 32, 100])
def test_no_mix_of_dirty_and_clean_pages_stops_reclaim(clean: int) -> None:
    node = one_zone()
    for _ in range(10):
        fill(node, HEAP, LRU_KIND_FILE, 100, dirty=True)
        if clean:
            fill(node, CACHE, LRU_KIND_FILE, clean)
    passes = 0
    while node.pg.node_stat[NR_FILE_PAGES]:
        shrink(node, 0)
        passes += 1
    assert passes <= 16
    assert node.pg.node_stat[NR_WRITTEN] == 1000
    assert node.free_pages(NORMAL) == node.pg.managed[NORMAL]


def test_a_dirty_page_that_was_read_gets_one_more_round() -> None:
    node = one_zone(profile=LINUX_3_0)
    fill(node, CACHE, LRU_KIND_FILE, 32, dirty=True)
    node.touch(CACHE, np.arange(32, dtype=np.uint32), False)
    assert shrink(node, 0)[1] == 0
    assert shrink(node, 0)[1] == 32


def test_without_swap_anonymous_memory_is_not_even_scanned() -> None:
    node = one_zone(swap=0)
    fill(node, HEAP, LRU_KIND_ANON, 4000)
    assert shrink(node, 0) == (0, 0)


def test_an_anonymous_page_is_spared_once_and_activated_when_it_is_used_again() -> None:
    node = one_zone(swap=4096)
    fill(node, HEAP, LRU_KIND_ANON, 32)
    assert shrink(node, 0) == (32, 0)
    assert event(node, PGACTIVATE) == 0
    indexes = np.arange(32, dtype=np.uint32)
    node.touch(HEAP, indexes[:10], True)
    assert shrink(node, 0) == (32, 22)
    assert event(node, PGACTIVATE) == 10
    assert node.touch(HEAP, indexes, False).tolist() == [0] * 10 + [1] * 22


def test_a_page_that_was_active_is_soon_active_again() -> None:
    """Deactivation does not clear PG_REFERENCED, so one more access activates the page again."""
    node = one_zone()
    fill(node, CACHE, LRU_KIND_FILE, 100)
    indexes = np.arange(100, dtype=np.uint32)
    for _ in range(3):
        node.touch(CACHE, indexes, False)
    shrink(node, 2)
    assert 0 < on_lru(node, LRU_INACTIVE_FILE) < 100
    activated = event(node, PGACTIVATE)
    assert activated == 100
    node.touch(CACHE, indexes, False)
    assert on_lru(node, LRU_INACTIVE_FILE) == 0
    assert event(node, PGACTIVATE) > activated


def test_full_swap_activates_and_loses_nothing() -> None:
    node = one_zone(swap=50)
    fill(node, HEAP, LRU_KIND_ANON, 1000)
    for _ in range(60):
        shrink(node, 1)
    assert event(node, PSWPOUT) == event(node, PGSTEAL_ANON) == 50
    assert node.pg.reclaim_stat[SWAP_USED] == node.pg.owner_swap[HEAP] == 50
    assert node.pg.owner_pages[HEAP] == 950
    assert on_lru(node, LRU_ACTIVE_ANON) + on_lru(node, LRU_INACTIVE_ANON) == 950
    assert node.swap_in(HEAP, 30) == 30
    assert node.free_owner(HEAP) == 950
    assert node.pg.reclaim_stat[SWAP_USED] == 0
    assert node.free_pages(NORMAL) == node.pg.managed[NORMAL]
    assert check_pgdat(node) == []


def test_no_more_comes_back_from_swap_than_went_there() -> None:
    node = one_zone(swap=50)
    assert node.swap_in(HEAP, 10) == 0


def test_swappiness_0_still_scans_anonymous_memory_when_there_is_no_page_cache() -> None:
    """file_is_tiny is tested before swappiness, so that global reclaim swaps before it fails."""
    node = one_zone(pages=4096, marks=(64, 80, 200), swap=4096, swappiness=0)
    fill(node, HEAP, LRU_KIND_ANON, 4000)
    shrink(node, 4)
    assert event(node, PGSCAN_ANON) == 250


def test_swappiness_0_spares_anonymous_memory_otherwise() -> None:
    """SCAN_EQUAL at priority 0 needs a swappiness above 0."""
    node = one_zone(swap=4096, swappiness=0)
    fill(node, HEAP, LRU_KIND_ANON, 2000)
    fill(node, CACHE, LRU_KIND_FILE, 100)
    for _ in range(3):
        shrink(node, 0)
    assert event(node, PGSTEAL_FILE) == 100
    assert event(node, PGSTEAL_ANON) == 0


def test_at_priority_0_both_sides_are_scanned_whole() -> None:
    node = one_zone(swap=4096)
    fill(node, HEAP, LRU_KIND_ANON, 500)
    fill(node, CACHE, LRU_KIND_FILE, 500)
    scanned, _ = shrink(node, 0)
    assert scanned == 1000


@pytest.mark.parametrize(("swappiness", "anon"), [(200, 1000), (100, 500), (20, 100)])
def test_swappiness_splits_the_scan(swappiness: int, anon: int) -> None:
    node = one_zone(swap=4096, swappiness=swappiness)
    fill(node, HEAP, LRU_KIND_ANON, 2000)
    fill(node, CACHE, LRU_KIND_FILE, 4000)
    indexes = np.arange(4000, dtype=np.uint32)
    for _ in range(2):  # page cache that is mostly active: no cache_trim_mode
        node.touch(CACHE, indexes[:2100], False)
    before = event(node, PGSCAN_DIRECT)
    scanned, _ = shrink(node, 1)
    file_scanned = 950 * (200 - swappiness) // 200
    assert scanned == event(node, PGSCAN_DIRECT) - before
    assert scanned == pytest.approx(anon + file_scanned, abs=4)


def test_what_reclaim_cost_fades() -> None:
    node = one_zone(swap=8192)
    fill(node, HEAP, LRU_KIND_ANON, 6000)
    for _ in range(40):
        shrink(node, 1)
    assert event(node, PSWPOUT) > 3000
    assert node.pg.reclaim_stat[ANON_COST] + node.pg.reclaim_stat[FILE_COST] <= 6000 // 4


def test_only_what_is_written_costs() -> None:
    node = one_zone(profile=LINUX_3_0)
    fill(node, CACHE, LRU_KIND_FILE, 1000)
    fill(node, HEAP, LRU_KIND_FILE, 200, dirty=True)
    fill(node, CACHE, LRU_KIND_FILE, 2000)
    shrink(node, 2, 700)
    assert event(node, PGPGOUT) == 0
    assert node.pg.reclaim_stat[FILE_COST] == 0
    shrink(node, 2, 500)
    assert event(node, PGPGOUT) == 4 * 200
    assert node.pg.reclaim_stat[FILE_COST] == 200
    assert node.pg.reclaim_stat[ANON_COST] == 0


def test_active_pages_go_back_when_the_inactive_list_is_low() -> None:
    node = one_zone()
    fill(node, CACHE, LRU_KIND_FILE, 1000)
    indexes = np.arange(1000, dtype=np.uint32)
    for _ in range(2):
        node.touch(CACHE, indexes, False)
    assert on_lru(node, LRU_INACTIVE_FILE) == 0
    shrink(node, 1)
    assert on_lru(node, LRU_INACTIVE_FILE) > 0


def test_direct_reclaim_stops_when_it_has_enough() -> None:
    node = one_zone()
    fill(node, CACHE, LRU_KIND_FILE, 4000)
    scanned, reclaimed = shrink(node, 0, 100)
    assert 100 <= reclaimed < 100 + SWAP_CLUSTER_MAX
    assert scanned == reclaimed


def test_kswapd_and_direct_reclaim_are_counted_apart() -> None:
    node = one_zone()
    fill(node, CACHE, LRU_KIND_FILE, 1000)
    kswapd_pass(node, 0)
    shrink(node, 0, 200)
    # the high watermark, 96; batches are of 32
    assert event(node, PGSCAN_KSWAPD) == event(node, PGSTEAL_KSWAPD) == 96
    assert event(node, PGSCAN_DIRECT) == event(node, PGSTEAL_DIRECT) == 224
    assert event(node, PGSTEAL_FILE) == 320


def mixed(profile: Profile = LINUX_6_1) -> Pgdat:
    """A node of two zones, with swap: anonymous pages, dirty and clean file pages, half of each active."""
    spans = {DMA32: (4096, 8192), NORMAL: (8192, 16384)}
    marks = {DMA32: (4, 8, 1012), NORMAL: (64, 80, 2096)}
    node = pgdat(spans, marks, [(4096, 16384)], [(4096, 16384)], swap=1 << 14, profile=profile)
    for zone in (NORMAL, DMA32):
        for _ in range(5):
            for owner, kind, pages, dirty in (
                (HEAP, LRU_KIND_ANON, 220, False),
                (CACHE, LRU_KIND_FILE, 150, False),
                (CACHE, LRU_KIND_FILE, 250, True),
            ):
                indexes = np.arange(pages, dtype=np.uint32) + np.uint32(node.pg.owner_pages[owner])
                node.alloc(
                    [zone], None, 0, pages, MIGRATE_MOVABLE, zone, WMARK_MIN, 0, owner, kind, indexes, dirty
                )
                for _ in range(2):
                    node.touch(owner, indexes[::2], False)
    assert check_pgdat(node) == []
    return node


@pytest.mark.parametrize("profile", [LINUX_3_0, LINUX_6_1, LINUX_6_12], ids=lambda profile: profile.name)
def test_a_pass_in_many_steps_is_the_pass_in_one(profile: Profile) -> None:
    whole, parts = mixed(profile), mixed(profile)
    for priority in (3, 2, 1, 0, 0, 0):
        scanned, reclaimed, steps = kswapd_pass(whole, priority)
        assert steps == 1
        in_parts = kswapd_pass(parts, priority, ROUND_PAGES)
        assert in_parts[:2] == (scanned, reclaimed)
        assert in_parts[2] > 1
        assert parts.digest() == whole.digest()
    assert event(whole, PSWPOUT) > 0
    assert event(whole, PGSTEAL_FILE) > 0


def test_a_step_of_a_pass_is_bounded_and_its_state_is_the_nodes() -> None:
    node = mixed()
    node.begin_kswapd_pass(NORMAL, 0, True)
    while node.in_pass:
        looked_at = event(node, PGSCAN_KSWAPD) + event(node, PGREFILL)
        digest = node.digest()
        scanned, _ = node.go_on_with_pass(1000)
        assert scanned <= event(node, PGSCAN_KSWAPD) + event(node, PGREFILL) - looked_at <= 1000
        assert node.digest() != digest
        # what direct reclaim does in between is not the pass's
        total = node.pg.scan_control.copy()
        shrink(node, 4, 32)
        assert (node.pg.scan_control == total).all()
    node.end_kswapd_pass()
    assert not node.pg.scan_control.any()


def test_a_pass_with_enough_scans_both_sides_in_proportion() -> None:
    """The side with less left to scan is scanned no further, and the other to the same percentage."""
    node = one_zone(swap=8192, swappiness=100, marks=(64, 80, 96))
    fill(node, HEAP, LRU_KIND_ANON, 2000)
    fill(node, CACHE, LRU_KIND_FILE, 4200)
    indexes = np.arange(4200, dtype=np.uint32)
    for _ in range(2):  # page cache that is mostly active: no cache_trim_mode
        node.touch(CACHE, indexes[:2200], False)
    node.begin_kswapd_pass(NORMAL, 1, True)
    # half of either list at priority 1, half of that at this swappiness
    assert node.pg.scan_control[SC_TARGETS : SC_TARGETS + 4].tolist() == [500, 0, 500, 550]
    node.go_on_with_pass(NO_LIMIT)
    scanned, reclaimed, target = node.end_kswapd_pass()
    # three rounds reclaim the 96 pages of the high watermark; 80 % of anonymous memory are left to scan then,
    # 404 of 501 pages, so page cache is scanned to 20 %: 100 of 500 pages, four more than there were
    assert (target, reclaimed) == (96, 100)
    assert (event(node, PGSCAN_ANON), event(node, PGSCAN_FILE)) == (96, 100)
    assert scanned == 196


def test_3_0_scans_all_that_the_priority_says() -> None:
    node = one_zone(profile=LINUX_3_0)
    fill(node, CACHE, LRU_KIND_FILE, 4000)
    assert kswapd_target(node.pg, NORMAL) == NO_LIMIT
    assert kswapd_pass(node, 1)[:2] == (2000, 2000)


def two_zones() -> Pgdat:
    spans = {DMA32: (4096, 8192), NORMAL: (8192, 12288)}
    marks = {DMA32: (4, 8, 12), NORMAL: (64, 80, 96)}
    return pgdat(spans, marks, [(4096, 12288)], [(4096, 12288)])


def test_kswapd_target() -> None:
    node = two_zones()
    assert kswapd_target(node.pg, NORMAL) == 32 + 96
    assert kswapd_target(node.pg, DMA32) == 32
    node.pg.watermark_boost[NORMAL] = 100
    assert kswapd_target(node.pg, NORMAL) == 32 + 196


def test_one_zone_above_high_is_balance() -> None:
    node = two_zones()

    def empty(zone: int, leave: int) -> None:
        count = node.free_pages(zone) - leave
        took = node.alloc([zone], None, 0, count, MIGRATE_UNMOVABLE, zone, 0x04, NUMA_HOW_HIT, HEAP)
        assert len(took) == count

    empty(NORMAL, 96)
    assert node.balanced(0, NORMAL)
    assert not node.wakeup_kswapd(0, NORMAL)
    empty(DMA32, 13)
    assert node.balanced(0, NORMAL)
    # 13 pages cannot hold a block of 16 and stay above 12
    assert not node.balanced(4, NORMAL)
    empty(DMA32, 12)
    assert not node.balanced(0, NORMAL)
    assert node.wakeup_kswapd(0, NORMAL)
    assert not node.wakeup_kswapd(3, NORMAL), "it is awake already, and only told what is wanted"


def test_the_reserve_of_a_lower_zone_counts() -> None:
    node = two_zones()
    node.pg.watermark_boost[NORMAL] = 4096
    assert node.balanced(0, NORMAL)
    node.pg.lowmem_reserve[DMA32, NORMAL] = 4096
    assert not node.balanced(0, NORMAL)
    assert node.balanced(0, DMA32)


def test_a_boost_wakes_kswapd_of_a_balanced_node() -> None:
    node = two_zones()
    node.pg.watermark_boost[NORMAL] = 10
    assert node.balanced(0, NORMAL)
    assert node.wakeup_kswapd(0, NORMAL)


def test_a_node_without_memory_needs_no_kswapd() -> None:
    node = two_zones()
    node.pg.managed[:] = 0
    assert node.balanced(0, NORMAL)
    assert not node.wakeup_kswapd(0, NORMAL)
