"""The high-atomic reserve, MIGRATE_RESERVE, CMA areas, and isolated pageblocks."""

from __future__ import annotations

import numpy as np
import pytest
from mm.nodes import NORMAL, START, one_zone, pgdat

from numa_service.mm.buddy import MIGRATE_RESERVE
from numa_service.mm.internal import ALLOC_HARDER, ALLOC_HIGH, ALLOC_HIGHATOMIC
from numa_service.mm.invariants import check_pgdat
from numa_service.mm.mmzone import (
    MIGRATE_CMA,
    MIGRATE_HIGHATOMIC,
    MIGRATE_ISOLATE,
    MIGRATE_MOVABLE,
    MIGRATE_UNMOVABLE,
    WMARK_LOW,
    WMARK_MIN,
)
from numa_service.mm.page_alloc import NUMA_HOW_HIT
from numa_service.mm.pgdat import Pfns, Pgdat
from numa_service.mm.pgdata import FREE_CMA, FREE_HIGHATOMIC, RESERVED_HIGHATOMIC
from numa_service.mm.profile import LINUX_3_0, LINUX_6_1, LINUX_6_12, Profile, profile_named
from numa_service.mm.watermark import Watermarks

ATOMIC = WMARK_MIN | ALLOC_HARDER | ALLOC_HIGH | ALLOC_HIGHATOMIC
MARKS = (64, 80, 96)


def node(pages: int, profile: Profile = LINUX_6_1, cma: tuple[tuple[int, int], ...] = ()) -> Pgdat:
    ram = (START, START + pages)
    return pgdat({NORMAL: ram}, {NORMAL: MARKS}, [ram], [ram], profile=profile, cma=cma)


def take(
    node: Pgdat, count: int, mt: int, flags: int = WMARK_LOW, order: int = 0, cpu: int | None = None
) -> Pfns:
    return node.alloc([NORMAL], cpu, order, count, mt, NORMAL, flags, NUMA_HOW_HIT, 1)


def blocks_of(node: Pgdat, mt: int) -> int:
    return int(np.count_nonzero(node.pg.pb_migratetype == mt))


# HIGHATOMIC


def test_a_high_order_atomic_allocation_sets_its_pageblock_aside() -> None:
    n = node(8192)
    take(n, 1, MIGRATE_UNMOVABLE, WMARK_MIN, order=4)
    assert blocks_of(n, MIGRATE_HIGHATOMIC) == 0
    take(n, 1, MIGRATE_UNMOVABLE, ATOMIC, order=0)
    assert blocks_of(n, MIGRATE_HIGHATOMIC) == 0
    take(n, 1, MIGRATE_UNMOVABLE, ATOMIC, order=4)
    assert blocks_of(n, MIGRATE_HIGHATOMIC) == 1
    assert n.pg.reserves[NORMAL, RESERVED_HIGHATOMIC] == 512
    assert check_pgdat(n) == []


@pytest.mark.parametrize(
    ("profile", "pages", "blocks"),
    [
        (LINUX_6_1, 8192, 2),  # up to 81 + 512 pages: two blocks before the limit is seen
        (LINUX_6_1, 65_536, 3),
        (LINUX_6_12, 8192, 0),  # 1 % is less than a block
        (LINUX_6_12, 65_536, 2),  # 655 pages, rounded up
        (LINUX_3_0, 65_536, 0),
    ],
)
def test_about_one_percent_of_a_zone_is_reserved(profile: Profile, pages: int, blocks: int) -> None:
    n = node(pages, profile)
    n.set_watermarks(NORMAL, Watermarks(0, 0, 0, 0))  # without MIGRATE_RESERVE in 3.0
    for _ in range(12):
        take(n, 1, MIGRATE_UNMOVABLE, ATOMIC, order=9)
    assert blocks_of(n, MIGRATE_HIGHATOMIC) == blocks
    assert check_pgdat(n) == []


def test_the_reserve_is_kept_from_others() -> None:
    """6.1 and 6.8 subtract reserved pageblocks and 6.12 their free pages, until they are given back."""
    for profile in (LINUX_6_1, profile_named("linux-6.8"), LINUX_6_12):
        n = node(65_536, profile)
        take(n, 1, MIGRATE_UNMOVABLE, ATOMIC, order=4)
        take(n, 70_000, MIGRATE_UNMOVABLE)
        free_highatomic = int(n.pg.reserves[NORMAL, FREE_HIGHATOMIC])
        kept = free_highatomic if profile is LINUX_6_12 else 512
        assert free_highatomic == 512 - 16
        assert n.free_pages(NORMAL) == MARKS[1] + kept
        assert len(take(n, 1, MIGRATE_UNMOVABLE)) == 0
        assert len(take(n, 1, MIGRATE_UNMOVABLE, ATOMIC, order=4)) == 1
        # the last pageblock is given back only with `force`, before OOM
        assert not n.unreserve_highatomic([NORMAL], MIGRATE_UNMOVABLE, force=False)
        assert n.unreserve_highatomic([NORMAL], MIGRATE_UNMOVABLE, force=True)
        assert not n.unreserve_highatomic([NORMAL], MIGRATE_UNMOVABLE, force=True)
        assert blocks_of(n, MIGRATE_HIGHATOMIC) == 0
        assert len(take(n, 70_000, MIGRATE_UNMOVABLE)) > 300
        assert n.free_pages(NORMAL) == MARKS[1]
        assert check_pgdat(n) == []


# MIGRATE_RESERVE


@pytest.mark.parametrize(("mark", "blocks"), [(0, 0), (1, 1), (512, 1), (513, 2), (5000, 2)])
def test_3_0_reserves_min_rounded_up_and_two_blocks_at_most(mark: int, blocks: int) -> None:
    n = node(16_384, LINUX_3_0)
    n.set_watermarks(NORMAL, Watermarks(mark, mark, mark, mark))
    assert blocks_of(n, MIGRATE_RESERVE) == blocks
    n.set_watermarks(NORMAL, Watermarks(0, 0, 0, 0))
    assert blocks_of(n, MIGRATE_RESERVE) == 0
    assert int(n.pg.reserves[NORMAL, FREE_HIGHATOMIC]) == 0
    assert check_pgdat(n) == []


def test_3_0_passes_over_blocks_that_will_never_be_free() -> None:
    ram = (START, START + 8192)
    n = pgdat({NORMAL: ram}, {NORMAL: MARKS}, [ram], [(START + 37, START + 8192)], profile=LINUX_3_0)
    assert n.pg.pb_migratetype[:3].tolist() == [MIGRATE_MOVABLE, MIGRATE_RESERVE, MIGRATE_MOVABLE]


# CMA


def test_cma_serves_movable_requests_only() -> None:
    area = (START + 4096, START + 6144)
    n = node(8192, cma=(area,))
    assert n.pg.reserves[NORMAL, FREE_CMA] == 2048
    zone = n.snapshot().zones[NORMAL]
    assert (zone.vm_stat["cma"], zone.vm_stat["nr_free_cma"]) == (2048, 2048)
    got = take(n, 9000, MIGRATE_UNMOVABLE)
    assert len(got) == 8192 - 2048 - MARKS[1]
    assert not ((got >= area[0]) & (got < area[1])).any()
    # more than half of what is free is CMA: movable requests take it first
    movable = take(n, 100, MIGRATE_MOVABLE)
    assert ((movable >= area[0]) & (movable < area[1])).all()
    assert len(take(n, 9000, MIGRATE_MOVABLE)) == 2048 - 100
    n.free(None, 0, 1, got)
    assert blocks_of(n, MIGRATE_CMA) == 4
    assert check_pgdat(n) == []


def test_movable_requests_leave_cma_alone_while_it_is_the_smaller_half() -> None:
    area = (START + 4096, START + 6144)
    n = node(8192, cma=(area,))
    movable = take(n, 100, MIGRATE_MOVABLE)
    assert not ((movable >= area[0]) & (movable < area[1])).any()


@pytest.mark.parametrize(
    ("area", "complaint"),
    [
        ((START + 1, START + 512), "not whole pageblocks"),
        ((START + 512, START + 512), "not whole pageblocks"),
        ((START - 512, START + 512), "not free memory of this node"),
    ],
)
def test_bad_cma_areas(area: tuple[int, int], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        node(8192, cma=(area,))


def test_3_0_has_no_cma() -> None:
    with pytest.raises(ValueError, match=r"linux-3.0 has no CMA"):
        node(8192, LINUX_3_0, cma=((START, START + 512),))


# ISOLATE


@pytest.mark.parametrize("profile", [LINUX_6_1, LINUX_6_12])
def test_isolated_pageblocks_are_free_for_nobody(profile: Profile) -> None:
    n = node(8192, profile)
    held = take(n, 3000, MIGRATE_MOVABLE, cpu=0)
    before = n.free_pages(NORMAL)
    start, end = START + 512, START + 2048  # begins in the middle of an order-10 block
    inside = held[(held >= start) & (held < end)]
    n.drain()
    drained = n.free_pages(NORMAL)
    isolated = n.isolate(start, end)
    assert isolated == end - start - len(inside)
    assert n.free_pages(NORMAL) == drained - isolated >= before - isolated
    assert blocks_of(n, MIGRATE_ISOLATE) == 3
    assert check_pgdat(n) == []
    with pytest.raises(ValueError, match="isolated already"):
        n.isolate(START, START + 1024)
    # what is freed there stays there, past the pagesets
    counted = n.free_pages(NORMAL)
    n.free(0, 0, 1, inside)
    assert n.free_pages(NORMAL) == counted
    assert int(n.pg.pcp_count.sum()) == 0
    rest = take(n, 9000, MIGRATE_MOVABLE)
    assert not ((rest >= start) & (rest < end)).any()
    assert check_pgdat(n) == []
    assert n.unisolate(start, end) == end - start
    assert blocks_of(n, MIGRATE_ISOLATE) == 0
    n.free_owner(1)
    n.drain()
    assert n.free_pages(NORMAL) == 8192
    assert n.pg.nr_free[NORMAL, 10] == 8
    assert check_pgdat(n) == []


def test_3_0_goes_on_counting_isolated_pages() -> None:
    n = node(8192, LINUX_3_0)
    n.isolate(START + 4096, START + 5120)
    assert n.free_pages(NORMAL) == 8192
    assert len(take(n, 9000, MIGRATE_MOVABLE, WMARK_MIN)) == 8192 - 1024
    assert n.unisolate(START + 4096, START + 5120) == 1024
    assert check_pgdat(n) == []


@pytest.mark.parametrize("pair", [(1, 512), (512, 512), (512, 1 << 20)])
def test_ranges_that_cannot_be_isolated(pair: tuple[int, int]) -> None:
    n = one_zone()
    before = n.digest()
    with pytest.raises(ValueError, match="not w"):
        n.isolate(START + pair[0], START + pair[1])
    assert n.digest() == before


def test_counts_are_found_again() -> None:
    """Counts are right after free lists and types were written directly."""
    n = node(65_536, LINUX_6_12, cma=((START + 4096, START + 6144),))
    take(n, 1, MIGRATE_UNMOVABLE, ATOMIC, order=4)
    n.isolate(START + 8192, START + 9216)
    right = n.pg.reserves[:, :4].copy()
    n.pg.reserves[:, :4] = 7
    assert any("free CMA" in problem for problem in check_pgdat(n))
    n.recount_reserves()
    assert (n.pg.reserves[:, :4] == right).all()
    assert check_pgdat(n) == []
