"""memblock: the free ranges between reserved ones."""

from __future__ import annotations

from numa_service.mm.memblock import Memblock, Region


def two_nodes() -> Memblock:
    memblock = Memblock()
    memblock.add(5000, 6000, 1)
    memblock.add(100, 1000, 0)
    memblock.add(2000, 3000, 0)
    return memblock


def test_memory_is_kept_in_order() -> None:
    assert [region.start_pfn for region in two_nodes().memory] == [100, 2000, 5000]


def test_free_ranges_leave_out_what_is_reserved() -> None:
    memblock = two_nodes()
    memblock.reserve(500, 600, 0, "image")
    memblock.reserve(100, 120, 0, "first pages")
    memblock.reserve(2900, 3000, 0, "last pages")
    assert memblock.free_ranges(0, 0, 10_000) == [(120, 500), (600, 1000), (2000, 2900)]
    assert memblock.free_ranges(1, 0, 10_000) == [(5000, 6000)]
    assert memblock.free_pages(0, 0, 10_000) == 380 + 400 + 900


def test_free_ranges_keep_within_bounds() -> None:
    memblock = two_nodes()
    memblock.reserve(500, 600, 0, "image")
    assert memblock.free_ranges(0, 550, 2100) == [(600, 1000), (2000, 2100)]
    assert memblock.free_ranges(0, 520, 580) == []
    assert memblock.free_ranges(0, 1000, 2000) == []


def test_reserve_top_works_downwards_and_in_pieces() -> None:
    memblock = two_nodes()
    assert memblock.reserve_top(0, 0, 10_000, 1100, "memmap") == 1100
    assert memblock.reserved == [Region(900, 1000, 0, "memmap"), Region(2000, 3000, 0, "memmap")]
    assert memblock.reserve_top(0, 0, 950, 10, "more") == 10
    assert memblock.free_ranges(0, 0, 10_000) == [(100, 890)]


def test_reserve_top_takes_what_there_is() -> None:
    memblock = two_nodes()
    assert memblock.reserve_top(1, 0, 5400, 1000, "too much") == 400
    assert memblock.free_ranges(1, 0, 10_000) == [(5400, 6000)]
    assert memblock.reserve_top(1, 0, 5400, 1000, "nothing left") == 0


def test_a_region_knows_its_length_and_purpose() -> None:
    memblock = two_nodes()
    memblock.reserve(200, 243, 0, "node data")
    assert memblock.reserved[0].pages == 43
    assert memblock.reserved[0].purpose == "node data"
