"""Watermarks, reserves and pageset sizes against numbers computed by hand, and numbers of real machines."""

from __future__ import annotations

from math import isqrt

import pytest

from numa_service.mm.profile import LINUX_3_0, LINUX_6_1, LINUX_6_12, Profile, profile_named
from numa_service.mm.watermark import (
    Watermarks,
    boot_min_free_kbytes,
    calculate_min_free_kbytes,
    lowmem_pages,
    recommended_min_free_kbytes,
    setup_per_zone_lowmem_reserve,
    setup_per_zone_wmarks,
    stat_threshold,
    zone_batchsize,
    zone_highsize,
)

MIB = 256  # pages
GIB = 1024 * MIB

RATIO = (256, 256, 32, 0, 0)

# managed pages; min_free_kbytes, watermarks and batch of 3.0 and of 6.x; high of 6.x with 8 CPUs
GOLDEN = [
    (256 * MIB, 2048, 2048, (512, 640, 768), (512, 640, 768, 896), 15, 15, 80),
    (1 * GIB, 4096, 4096, (1024, 1280, 1536), (1024, 1286, 1548, 1810), 31, 63, 252),
    (4 * GIB, 8192, 8192, (2048, 2560, 3072), (2048, 3096, 4144, 5192), 31, 63, 387),
    (16 * GIB, 16384, 16384, (4096, 5120, 6144), (4096, 8290, 12484, 16678), 31, 63, 1036),
    (64 * GIB, 32768, 32768, (8192, 10240, 12288), (8192, 24969, 41746, 58523), 31, 63, 3121),
    (256 * GIB, 65536, 65536, (16384, 20480, 24576), (16384, 83492, 150600, 217708), 31, 63, 10436),
]


@pytest.mark.parametrize("row", GOLDEN, ids=lambda row: f"{row[0] // MIB} MiB")
def test_golden_table(
    row: tuple[int, int, int, tuple[int, int, int], tuple[int, int, int, int], int, int, int],
) -> None:
    pages, kbytes_3_0, kbytes_6, marks_3_0, marks_6, batch_3_0, batch_6, high_6 = row
    managed = {(0, "Normal"): pages}

    assert calculate_min_free_kbytes(managed, LINUX_3_0) == kbytes_3_0
    old = setup_per_zone_wmarks(managed, LINUX_3_0, kbytes_3_0, 10)[0, "Normal"]
    assert (old.min, old.low, old.high) == marks_3_0
    assert zone_batchsize(pages, LINUX_3_0) == batch_3_0
    assert zone_highsize(pages, old.low, batch_3_0, 8, 8, LINUX_3_0, 0) == 6 * batch_3_0

    for profile in (LINUX_6_1, LINUX_6_12):
        assert calculate_min_free_kbytes(managed, profile) == kbytes_6
        marks = setup_per_zone_wmarks(managed, profile, kbytes_6, 10)[0, "Normal"]
        assert marks == Watermarks(*marks_6)
        assert zone_batchsize(pages, profile) == batch_6
        assert zone_highsize(pages, marks.low, batch_6, 8, 16, profile, 0) == high_6


@pytest.mark.parametrize(
    ("profile", "pages", "kbytes"),
    [
        (LINUX_6_1, 0, 128),
        (LINUX_6_1, 255, 128),
        (LINUX_3_0, 4096 * GIB, 65536),
        (LINUX_6_1, 4096 * GIB, 262144),
        (LINUX_6_12, 16384 * GIB, 262144),
    ],
)
def test_min_free_kbytes_is_clamped(profile: Profile, pages: int, kbytes: int) -> None:
    assert calculate_min_free_kbytes({(0, "Normal"): pages}, profile) == kbytes


def test_highmem_and_movable_are_not_what_min_free_kbytes_is_computed_from() -> None:
    managed = {(0, "Normal"): GIB, (0, "HighMem"): 4 * GIB, (0, "Movable"): 4 * GIB}
    assert calculate_min_free_kbytes(managed, LINUX_6_1) == 4096


@pytest.mark.parametrize(("zones", "kbytes"), [(2, 45056), (3, 67584), (4, 90112), (6, 135168)])
def test_khugepaged_raises_it_by_the_number_of_zones(zones: int, kbytes: int) -> None:
    """Values of booted machines with 2, 3, 4 and 6 populated zones up to Normal."""
    managed = {(nid, "Normal"): 4 * GIB for nid in range(zones)}
    managed |= {(0, "Movable"): 4 * GIB, (0, "HighMem"): 4 * GIB, (0, "DMA32"): 0}
    assert recommended_min_free_kbytes(managed, LINUX_6_1) == kbytes


def test_khugepaged_takes_at_most_a_twentieth() -> None:
    managed = {(nid, "DMA32"): 100_000 for nid in range(8)}
    assert recommended_min_free_kbytes(managed, LINUX_6_1) == (100_000 - 423) * 8 // 20 * 4


def test_min_free_kbytes_once_the_initcalls_are_through() -> None:
    managed = {(0, "Normal"): GIB}
    assert boot_min_free_kbytes(managed, LINUX_6_1, thp=True) == 22528
    # 4096 kB make a high mark of 1548 pages; with huge pages off 6.x calculates again from what is above it
    assert boot_min_free_kbytes(managed, LINUX_6_1, thp=False) == isqrt((GIB - 1548) * 4 * 16) == 4083
    assert boot_min_free_kbytes(managed, LINUX_3_0, thp=False) == 4096
    # khugepaged does not start on a machine with less than 512 MiB
    small = {(0, "DMA32"): GIB // 2 - 1}
    for thp in (True, False):
        assert boot_min_free_kbytes(small, LINUX_6_1, thp) == calculate_min_free_kbytes(small, LINUX_6_1)


def test_shares_of_a_captured_i386_machine() -> None:
    """Watermarks of the i386-highmem boot: HighMem is clamped, its gap is not."""
    managed = {(0, "DMA"): 3840, (0, "Normal"): 211_996, (0, "HighMem"): 298_978}
    marks = setup_per_zone_wmarks(managed, LINUX_6_1, 42740, 10)
    highmem = marks[0, "HighMem"]
    assert (marks[0, "DMA"].min, marks[0, "DMA"].low, marks[0, "DMA"].high) == (190, 237, 284)
    assert (marks[0, "Normal"].min, marks[0, "Normal"].low) == (10494, 13117)
    assert (highmem.min, highmem.low - highmem.min) == (128, 42740 // 4 * 298_978 // 215_836 // 4)


def test_highmem_minimum_has_a_floor_and_an_empty_zone_has_none() -> None:
    managed = {(0, "Normal"): GIB, (0, "HighMem"): 10_000, (1, "HighMem"): 0, (1, "Normal"): 0}
    marks = setup_per_zone_wmarks(managed, LINUX_6_1, 4096, 10)
    assert marks[0, "HighMem"].min == 32
    assert marks[1, "HighMem"] == marks[1, "Normal"] == Watermarks(0, 0, 0, 0)


def test_movable_shares_in_6_1_and_is_clamped_in_6_12() -> None:
    managed = {(0, "Normal"): GIB, (0, "Movable"): GIB}
    assert lowmem_pages(managed, LINUX_6_1) == 2 * GIB
    assert setup_per_zone_wmarks(managed, LINUX_6_1, 4096, 10)[0, "Movable"].min == 512
    assert lowmem_pages(managed, LINUX_6_12) == GIB
    assert setup_per_zone_wmarks(managed, LINUX_6_12, 4096, 10)[0, "Movable"].min == 128


@pytest.mark.parametrize(("factor", "gap"), [(0, 256), (1, 256), (10, 262), (200, 5242), (1000, 26214)])
def test_watermark_scale_factor_widens_the_gap(factor: int, gap: int) -> None:
    marks = setup_per_zone_wmarks({(0, "Normal"): GIB}, LINUX_6_1, 4096, factor)[0, "Normal"]
    assert (marks.low - marks.min, marks.high - marks.low, marks.promo - marks.high) == (gap, gap, gap)


def test_lowmem_reserve_is_a_share_of_what_lies_above_in_the_node() -> None:
    reserve = setup_per_zone_lowmem_reserve([3840, 500_000, 1_000_000, 64_000, 0], RATIO, LINUX_6_1)
    assert reserve == [
        [0, 1953, 5859, 6109, 6109],
        [0, 0, 3906, 4156, 4156],
        [0, 0, 0, 2000, 2000],
        [0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0],
    ]


def test_lowmem_reserve_of_a_captured_node() -> None:
    """Node 0 of cxl-tier-hmat: DMA reserves 991 pages against requests for higher zones."""
    reserve = setup_per_zone_lowmem_reserve([3840, 253_781, 0, 0, 0], RATIO, LINUX_6_1)
    assert reserve[0] == [0, 991, 991, 991, 991]


def test_an_empty_zone_or_a_ratio_of_zero_reserves_nothing() -> None:
    assert setup_per_zone_lowmem_reserve([0, 500_000, 1_000_000], (256, 0, 32), LINUX_6_1) == [[0] * 3] * 3


def test_3_0_knows_no_ratio_of_zero() -> None:
    reserve = setup_per_zone_lowmem_reserve([1000, 2000], (0, 0), LINUX_3_0)
    assert reserve == [[0, 2000], [0, 0]]


@pytest.mark.parametrize(
    ("kernel", "reserve"),
    [
        # no pages in the second zone, and no ratio for the third (i386: Normal, HighMem, Movable)
        ("4.16", [[0, 0, 3, 5], [0, 0, 300, 500], [0, 0, 0, 200], [0, 0, 0, 0]]),
        ("5.7", [[0, 0, 3, 5], [0, 0, 9, 15], [0, 0, 0, 0], [0, 0, 0, 0]]),
        ("5.8", [[0, 0, 3, 2], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]),
        ("5.11", [[0, 0, 3, 5], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]),
    ],
)
def test_lowmem_reserve_of_empty_zones_and_behind_them(kernel: str, reserve: list[list[int]]) -> None:
    ratio = (100, 1 if kernel == "4.16" else 32, 0, 0)
    profile = profile_named(f"linux-{kernel}")
    assert setup_per_zone_lowmem_reserve([1000, 0, 300, 200], ratio, profile) == reserve


@pytest.mark.parametrize(
    ("pages", "batch"),
    [(0, 1), (3840, 1), (64 * MIB, 3), (128 * MIB, 7), (124_819, 31), (211_996, 63), (300 * GIB, 63)],
)
def test_batch(pages: int, batch: int) -> None:
    """Zones of 3840, 124,819 and 211,996 pages are those of captured boots."""
    assert zone_batchsize(pages, LINUX_6_1) == batch


def test_pageset_high_of_captured_zones() -> None:
    assert zone_highsize(253_781, 5887, 63, 2, 4, LINUX_6_1, 0) == 2943
    # on a node without CPUs the pages are divided among all CPUs
    assert zone_highsize(516_052, 11_972, 63, 0, 4, LINUX_6_1, 0) == 2993
    assert zone_highsize(3840, 88, 1, 2, 4, LINUX_6_1, 0) == 44


def test_pageset_high_is_at_least_four_batches_and_may_be_a_fraction() -> None:
    assert zone_highsize(GIB, 1000, 63, 8, 8, LINUX_6_1, 0) == 252
    assert zone_highsize(GIB, 1000, 63, 8, 8, LINUX_6_1, 8) == GIB // 8 // 8
    assert zone_highsize(GIB, 1000, 31, 8, 8, LINUX_3_0, 100) == GIB // 100


@pytest.mark.parametrize(
    ("pages", "cpus", "threshold"),
    [(100 * MIB, 1, 2), (128 * MIB, 1, 4), (GIB, 2, 20), (4 * GIB, 8, 56), (64 * GIB, 64, 125)],
)
def test_stat_threshold(pages: int, cpus: int, threshold: int) -> None:
    assert stat_threshold(pages, cpus) == threshold


def test_movable_taken_from_high_memory_is_high_memory() -> None:
    """A booted i386 machine of 3000 MiB with movablecore=600M, after min_free_kbytes was written again."""
    managed = {(0, "DMA"): 3840, (0, "Normal"): 209719, (0, "HighMem"): 389122, (0, "Movable"): 153568}
    assert lowmem_pages(managed, LINUX_6_1) == 3840 + 209719
    marks = setup_per_zone_wmarks(managed, LINUX_6_1, 42308, 10)
    assert marks[0, "Movable"] == Watermarks(128, 2029, 3930, 5831)
    # without high memory ZONE_MOVABLE has a share like any zone (6.1)
    low = {(0, "DMA"): 3840, (0, "Normal"): 100_000, (0, "HighMem"): 0, (0, "Movable"): 50_000}
    assert lowmem_pages(low, LINUX_6_1) == 153_840
