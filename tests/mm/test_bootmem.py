"""The bootmem allocator: which pages it takes, and what it leaves to the buddy system."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest
from mm.nodes import NORMAL, pgdat

from numa_service.mm.bootmem import (
    BITS_PER_LONG,
    Bootmem,
    BootmemData,
    alloc_bootmem_core,
    alloc_bootmem_node,
    bootmem_bootmap_pages,
    free_all_bootmem_core,
    free_bootmem_node,
    init_bootmem_node,
    reserve_bootmem_node,
)
from numa_service.mm.memblock import BootMemoryError, Region
from numa_service.mm.mmzone import PAGE_SIZE
from numa_service.mm.profile import LINUX_3_0

MIB = 1 << 20
PAGES = 8192


def node(start: int = 4096, pages: int = PAGES) -> BootmemData:
    """A node of RAM without holes, all of it free."""
    bdata = init_bootmem_node(0, start, start + pages)
    free_bootmem_node(bdata, start, start + pages)
    return bdata


def test_everything_is_taken_until_it_is_freed() -> None:
    bdata = init_bootmem_node(0, 100, 1000)
    assert bdata.node_min_pfn == 64
    assert bdata.free_runs(0, 1 << 52) == []
    free_bootmem_node(bdata, 100, 1000)
    assert bdata.free_runs(0, 1 << 52) == [(100, 1000)]
    reserve_bootmem_node(bdata, 130, 131)
    reserve_bootmem_node(bdata, 200, 300)
    assert bdata.free_runs(0, 1 << 52) == [(100, 130), (131, 200), (300, 1000)]
    assert bdata.free_runs(129, 205) == [(129, 130), (131, 200)]
    assert bdata.reserved(130)
    assert not bdata.reserved(131)


def test_bits_agree_with_a_set_of_pages() -> None:
    dice = random.Random(30)
    bdata, free = node(64, 500), set(range(64, 564))
    for _ in range(400):
        start = dice.randrange(64, 564)
        end = dice.randrange(start, 565)
        if dice.random() < 0.5:
            reserve_bootmem_node(bdata, start, end)
            free -= set(range(start, end))
        else:
            free_bootmem_node(bdata, start, end)
            free |= set(range(start, end))
        runs = bdata.free_runs(64, 564)
        assert {pfn for low, high in runs for pfn in range(low, high)} == free
        assert all(a[1] < b[0] for a, b in pairwise(runs))


def test_pages_of_another_node_are_refused() -> None:
    bdata = node()
    for start, end in ((4000, 4100), (12_000, 12_289)):
        with pytest.raises(BootMemoryError, match="are not low memory of node 0"):
            reserve_bootmem_node(bdata, start, end)
    assert bdata.free_runs(0, 1 << 52) == [(4096, 12_288)]


def test_allocations_go_upwards_from_the_goal() -> None:
    bdata = node(0)
    assert alloc_bootmem_core(bdata, 3 * PAGE_SIZE, PAGE_SIZE, 16 * MIB) == 16 * MIB
    assert alloc_bootmem_core(bdata, PAGE_SIZE, PAGE_SIZE, 16 * MIB) == 16 * MIB + 3 * PAGE_SIZE
    assert alloc_bootmem_core(bdata, PAGE_SIZE, MIB, 16 * MIB) == 17 * MIB
    # the next search begins where the last one ended, and at the goal again if it finds nothing there
    reserve_bootmem_node(bdata, 4608, PAGES)
    assert alloc_bootmem_core(bdata, PAGE_SIZE, PAGE_SIZE, 16 * MIB) == 17 * MIB + PAGE_SIZE
    assert alloc_bootmem_core(bdata, 200 * PAGE_SIZE, PAGE_SIZE, 16 * MIB) == 17 * MIB + 2 * PAGE_SIZE
    assert alloc_bootmem_core(bdata, 250 * PAGE_SIZE, PAGE_SIZE, 16 * MIB) == 16 * MIB + 4 * PAGE_SIZE


def test_a_goal_that_cannot_be_met_is_given_up() -> None:
    bdata = node(0)
    reserve_bootmem_node(bdata, 4096, PAGES)
    assert alloc_bootmem_core(bdata, PAGE_SIZE, PAGE_SIZE, 16 * MIB) is None
    assert alloc_bootmem_node(bdata, PAGE_SIZE, PAGE_SIZE, 16 * MIB) == 0
    reserve_bootmem_node(bdata, 0, 4096)
    with pytest.raises(BootMemoryError, match="bootmem alloc of 4096 bytes failed on node 0"):
        alloc_bootmem_node(bdata, PAGE_SIZE, PAGE_SIZE)


def test_the_limit_is_kept() -> None:
    bdata = node(0)
    assert alloc_bootmem_core(bdata, PAGE_SIZE, PAGE_SIZE, 16 * MIB, 17 * MIB) == 16 * MIB
    assert alloc_bootmem_core(bdata, MIB, PAGE_SIZE, 16 * MIB, 17 * MIB) is None


def test_small_allocations_share_a_page() -> None:
    bdata = node()
    base = 4096 * PAGE_SIZE
    assert alloc_bootmem_core(bdata, 100, 64) == base
    assert alloc_bootmem_core(bdata, 100, 64) == base + 128
    assert bdata.free_runs(0, 1 << 52)[0] == (4097, 4096 + PAGES)
    # it crosses the end of the page, so the next page is taken as well, and no more
    assert alloc_bootmem_core(bdata, PAGE_SIZE, 64) == base + 256
    assert bdata.free_runs(0, 1 << 52)[0] == (4098, 4096 + PAGES)
    # a whole page is not shared
    assert alloc_bootmem_core(bdata, PAGE_SIZE, PAGE_SIZE) == base + 2 * PAGE_SIZE


def test_a_bitmap_of_whole_words() -> None:
    assert bootmem_bootmap_pages(1) == bootmem_bootmap_pages(8 * PAGE_SIZE) == 1
    assert bootmem_bootmap_pages(8 * PAGE_SIZE + 1) == 2


def test_words_and_single_pages_go_to_the_buddy_system() -> None:
    bdata = node(4096, 256)
    reserve_bootmem_node(bdata, 4096 + 100, 4096 + 130)
    blocks = list(free_all_bootmem_core(bdata))
    assert blocks[0] == (4096, 6)
    assert [order for _, order in blocks] == [6] + [0] * 36 + [0] * 62 + [6]
    assert sum(1 << order for _, order in blocks) == 256 - 30
    assert [pfn for pfn, _ in blocks] == sorted(pfn for pfn, _ in blocks)
    assert all(pfn % BITS_PER_LONG == 0 for pfn, order in blocks if order)


def test_ranges_and_blocks_leave_the_same_buddy_system() -> None:
    """`retire` may return ranges instead of blocks: the state after freeing is the same, lists included."""
    dice = random.Random(6)
    bdata = node()
    for _ in range(20):
        start = dice.randrange(4096, 4096 + PAGES - 300)
        reserve_bootmem_node(bdata, start, start + dice.randrange(1, 300))
    ranges = bdata.free_runs(0, 1 << 52)
    blocks = [(pfn, pfn + (1 << order)) for pfn, order in free_all_bootmem_core(bdata)]
    assert len(blocks) > 5 * len(ranges)
    span = (4096, 4096 + PAGES)
    by_range, by_block = (
        pgdat({NORMAL: span}, {NORMAL: (1, 2, 3)}, [span], free, profile=LINUX_3_0).pg
        for free in (ranges, blocks)
    )
    assert by_range.nr_free.any()
    for name, array in by_range._asdict().items():
        other = getattr(by_block, name)
        if name in ("next", "prev"):
            # a merged page keeps the links it had on a list; a page on a list has no link that is 0
            assert np.array_equal(array[array != 0], other[array != 0]), name
        else:
            assert np.array_equal(array, other), name


MEMORY = [Region(1, 159, 0), Region(256, 16384, 0), Region(16384, 32768, 1)]


def test_it_takes_over_what_was_reserved_before() -> None:
    boot = Bootmem.take_over(
        MEMORY, [Region(1, 159, 0, "first MiB"), Region(4096, 5000, 0, "image")], 1 << 52
    )
    # each node's bitmap lies on the node itself; that of the first node follows the kernel image
    assert boot.reserved == [
        Region(1, 159, 0, "first MiB"),
        Region(4096, 5000, 0, "image"),
        Region(5000, 5001, 0, "bootmem bitmap"),
        Region(16384, 16385, 1, "bootmem bitmap"),
    ]
    assert boot.free_ranges(0, 0, 1 << 52) == [(256, 4096), (5001, 16384)]
    assert boot.alloc_node(0, 0, 1 << 52, 10, "node data") == 10
    assert boot.free_ranges(0, 0, 1 << 52) == [(256, 4096), (5011, 16384)]
    assert "bootmem::mark_bootmem_node nid=0 start=1389 end=1393 reserve=1 node data" in boot.debug_lines()


def test_the_bitmap_itself_comes_last() -> None:
    boot = Bootmem.take_over(MEMORY, [], 1 << 52)
    assert boot.own_ranges(0) == [(4096, 4097)]
    assert boot.retire(0) == [(1, 159), (256, 4096), (4097, 16384), (4096, 4097)]
    assert boot.own_ranges(0) == []
    assert boot.own_ranges(1) == [(16384, 16385)]


def test_pieces_when_there_is_no_room_in_one() -> None:
    boot = Bootmem.take_over(MEMORY, [Region(5000, 16384, 0, "much")], 1 << 52)
    assert boot.alloc_node(0, 0, 1 << 52, 4000, "memmap") == 4000
    assert boot.free_pages(0, 0, 1 << 52) == 158 + 4744 - 1 - 4000
    assert boot.alloc_node(0, 0, 1 << 52, 4000, "more") == 901
    assert boot.alloc_node(0, 0, 1 << 52, 1, "none") == 0


def test_high_memory_is_not_in_the_bitmap_and_is_free() -> None:
    boot = Bootmem.take_over(MEMORY, [], 10_000)
    assert boot.bdata[0].node_low_pfn == 10_000
    assert 1 not in boot.bdata
    assert boot.free_ranges(0, 0, 1 << 52) == [(1, 159), (256, 4096), (4097, 10_000), (10_000, 16384)]
    assert boot.alloc_node(1, 0, 1 << 52, 10, "node data") == 0
    boot.reserve(12_000, 12_010, 0, "initrd")
    assert boot.free_ranges(0, 9_000, 1 << 52) == [(9_000, 10_000), (10_000, 12_000), (12_010, 16384)]
    assert boot.free_pages(1, 0, 1 << 52) == 16384
