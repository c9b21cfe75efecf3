"""Fallback to another migratetype, by the rules of each kernel (BLOCKS_*)."""

from __future__ import annotations

import numpy as np
import pytest
from mm.nodes import NORMAL, START, pgdat

from numa_service.mm.invariants import check_pgdat
from numa_service.mm.mmzone import MIGRATE_RECLAIMABLE, MIGRATE_UNMOVABLE, WMARK_MIN
from numa_service.mm.page_alloc import NUMA_HOW_HIT
from numa_service.mm.pgdat import Pfns, Pgdat
from numa_service.mm.profile import profile_named

BLOCKS = 8


def take(node: Pgdat, count: int, mt: int) -> Pfns:
    return node.alloc([NORMAL], None, 0, count, mt, NORMAL, WMARK_MIN, NUMA_HOW_HIT, 1)


def full_but_for_two_holes(kernel: str) -> tuple[Pgdat, int, int]:
    """A node full of reclaimable pages, but for one page in a pageblock and 32 in a row in a later one."""
    ram = (START, START + BLOCKS * 512)
    profile = profile_named(f"linux-{kernel}")
    node = pgdat({NORMAL: ram}, {NORMAL: (0, 0, 0)}, [ram], [ram], profile=profile)
    held = take(node, BLOCKS * 512, MIGRATE_RECLAIMABLE)
    assert len(held) == BLOCKS * 512
    assert set(node.pg.pb_migratetype[:BLOCKS].tolist()) == {MIGRATE_RECLAIMABLE}
    small, large = START + 2 * 512 + 64, START + 4 * 512 + 64
    node.free(None, 0, 1, np.array([small, *range(large, large + 32)], dtype=held.dtype))
    assert node.pg.nr_free[NORMAL].tolist() == [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0]
    return node, small, large


@pytest.mark.parametrize("kernel", ["6.10", "6.12.28", "6.13", "6.14.6"])
def test_up_to_6_14_the_largest_block_is_split_if_its_pageblock_cannot_be_claimed(kernel: str) -> None:
    node, _, large = full_but_for_two_holes(kernel)
    assert take(node, 1, MIGRATE_UNMOVABLE).tolist() == [large]
    # the rest stays with the type of its pageblock
    assert node.pg.nr_free[NORMAL].tolist() == [2, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0]
    assert take(node, 32, MIGRATE_RECLAIMABLE).size == 32
    assert set(node.pg.pb_migratetype[:BLOCKS].tolist()) == {MIGRATE_RECLAIMABLE}
    assert check_pgdat(node) == []


@pytest.mark.parametrize("kernel", ["6.12", "6.12.29", "6.14.7", "6.15"])
def test_since_then_the_smallest_block_is(kernel: str) -> None:
    node, small, _ = full_but_for_two_holes(kernel)
    assert take(node, 1, MIGRATE_UNMOVABLE).tolist() == [small]
    assert node.pg.nr_free[NORMAL].tolist() == [0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0]
    assert check_pgdat(node) == []


@pytest.mark.parametrize("kernel", ["4.4", "6.1", "6.9"])
def test_up_to_6_9_all_free_pages_of_the_pageblock_go_along(kernel: str) -> None:
    node, small, large = full_but_for_two_holes(kernel)
    assert take(node, 1, MIGRATE_UNMOVABLE).tolist() == [large]
    # the 31 pages left are on unmovable lists, though their pageblock is not: one page is left to others
    assert set(node.pg.pb_migratetype[:BLOCKS].tolist()) == {MIGRATE_RECLAIMABLE}
    assert take(node, 1, MIGRATE_RECLAIMABLE).tolist() == [small]
    assert take(node, 31, MIGRATE_UNMOVABLE).size == 31
    assert check_pgdat(node) == []


@pytest.mark.parametrize("kernel", ["6.9", "6.10", "6.12"])
def test_a_pageblock_that_is_mostly_free_is_claimed(kernel: str) -> None:
    node, _, large = full_but_for_two_holes(kernel)
    start = large - 64
    held = [pfn for pfn in range(start, start + 300) if not large <= pfn < large + 32]
    node.free(None, 0, 1, np.array(held, dtype=np.int64))
    assert take(node, 1, MIGRATE_UNMOVABLE).size == 1
    assert node.pg.pb_migratetype[4] == MIGRATE_UNMOVABLE
    assert check_pgdat(node) == []
