"""The records of watermark checks that a walk makes for explanations."""

from __future__ import annotations

import pytest
from mm.nodes import DMA32, NORMAL, pgdat

from numa_service.mm.mmzone import WMARK_LOW
from numa_service.mm.page_alloc import NUMA_HOW_HIT
from numa_service.mm.pgdat import Pgdat
from numa_service.mm.vmstat import NR_FREE_PAGES
from numa_service.mm.zone_watermark import (
    CHECK_FIRST,
    CHECK_FREE,
    CHECK_LAST,
    CHECK_LEFT,
    CHECK_LOWMEM_RESERVE,
    CHECK_MADE,
    CHECK_MARK,
    CHECK_OK,
    LEFT_BELOW_MARK,
    LEFT_COMPLETE,
    LEFT_NO_BLOCK,
)

PAGES = 4096
MARKS = (64, 80, 96)


@pytest.fixture
def node() -> Pgdat:
    """A node with DMA32 and Normal, of the same size."""
    zones = {DMA32: (0, PAGES), NORMAL: (PAGES, 2 * PAGES)}
    ram = [(0, 2 * PAGES)]
    return pgdat(zones, dict.fromkeys(zones, MARKS), ram, ram)


def take(node: Pgdat, count: int, order: int = 0) -> int:
    zones = [NORMAL, DMA32]
    return len(node.alloc(zones, 0, order, count, 0, NORMAL, WMARK_LOW, NUMA_HOW_HIT, 1))


def test_nothing_is_written_down_unless_somebody_asks(node: Pgdat) -> None:
    take(node, 2 * PAGES)
    assert not node.pg.checks.any()
    node.explain(True)
    take(node, 1)
    assert node.pg.checks.any()
    node.explain(False)
    before = node.pg.checks.copy()
    take(node, 1, order=3)
    assert (node.pg.checks == before).all()


def test_only_zones_that_the_walk_came_to_have_numbers(node: Pgdat) -> None:
    node.pg.lowmem_reserve[NORMAL, NORMAL] = 7
    node.explain(True)
    assert take(node, 10) == 10
    first, last = node.checks(NORMAL)
    assert (first[CHECK_MADE], first[CHECK_OK], first[CHECK_LEFT]) == (1, 1, LEFT_COMPLETE)
    assert (first[CHECK_FREE], first[CHECK_MARK], first[CHECK_LOWMEM_RESERVE]) == (PAGES, MARKS[1], 7)
    assert last[CHECK_FREE] < PAGES, "a batch went to the pageset between the two"
    assert node.checks(DMA32)[CHECK_FIRST][CHECK_MADE] == 0


def test_the_comparison_that_failed_is_the_last_one(node: Pgdat) -> None:
    node.explain(True)
    got = take(node, 2 * PAGES)
    assert got == 2 * PAGES - int(node.pg.vm_stat[:, NR_FREE_PAGES].sum()) - int(node.pg.pcp_count.sum())
    for zone in (NORMAL, DMA32):
        first, last = node.checks(zone)
        assert (first[CHECK_OK], last[CHECK_OK], last[CHECK_LEFT]) == (1, 0, LEFT_BELOW_MARK)
        assert last[CHECK_FREE] == node.pg.vm_stat[zone, NR_FREE_PAGES] <= MARKS[1]


def test_a_zone_without_a_block_that_large_says_so(node: Pgdat) -> None:
    taken = node.alloc([NORMAL], 0, 0, PAGES, 0, NORMAL, WMARK_LOW, NUMA_HOW_HIT, 1)
    node.free(None, 0, 1, taken[: PAGES // 2 : 2])
    node.explain(True)
    assert take(node, 1, order=9) == 1
    assert node.checks(NORMAL)[CHECK_LAST][CHECK_LEFT] == LEFT_NO_BLOCK
    assert node.checks(DMA32)[CHECK_LAST][CHECK_LEFT] == LEFT_COMPLETE
