"""Ranges of RAM, and the zones that they become."""

from __future__ import annotations

import pytest

from numa_service.machine.spec import SpecError, ZoneSpec
from numa_service.machine.zones import (
    intersect,
    layout_zones,
    merge,
    movable_start,
    movable_zone,
    q35_ram,
    subtract,
    without_bios_holes,
)

GIB = 1 << 18


def test_ranges() -> None:
    assert merge([(5, 7), (0, 2), (2, 4), (3, 3)]) == ((0, 4), (5, 7))
    assert subtract([(0, 10)], [(2, 3), (9, 20)]) == ((0, 2), (3, 9))
    assert intersect([(0, 4), (6, 10)], (3, 7)) == ((3, 4), (6, 7))
    assert without_bios_holes([(0, 4096)]) == ((1, 0x9F), (0x100, 4096))


def test_q35_splits_at_2_gib_once_there_are_2_75_gib() -> None:
    assert q35_ram([11 * GIB // 4])[0][-1] == (4 * GIB, 4 * GIB + 3 * GIB // 4)
    assert q35_ram([11 * GIB // 4 - 1]) == [((1, 0x9F), (0x100, 11 * GIB // 4 - 1 - 32))]


def test_q35_keeps_memoryless_nodes_and_their_order() -> None:
    ram = q35_ram([0, GIB, 0, GIB])
    assert ram == [(), ((1, 0x9F), (0x100, GIB)), (), ((GIB, 2 * GIB - 32),)]


def test_zone_boundaries_of_x86_64() -> None:
    zones = layout_zones("x86_64", [(1, 0x9F), (0x100, 2 * GIB), (4 * GIB, 5 * GIB)])
    assert zones == (
        ZoneSpec("DMA", 1, 4095, 158 + 3840, None),
        ZoneSpec("DMA32", 4096, 4 * GIB - 4096, 2 * GIB - 4096, None),
        ZoneSpec("Normal", 4 * GIB, GIB, GIB, None),
    )


def test_a_zone_without_pages_is_left_out_even_if_spanned() -> None:
    assert [zone.name for zone in layout_zones("x86_64", [(1, 4096), (4 * GIB, 5 * GIB)])] == [
        "DMA",
        "Normal",
    ]
    assert layout_zones("x86_64", []) == ()


def test_movable_is_the_top_of_a_node_rounded_up() -> None:
    ram = [(1, 2 * GIB), (4 * GIB, 6 * GIB)]
    name, lowest = movable_zone("x86_64", ram)
    assert (name, lowest) == ("Normal", 4 * GIB)
    start = movable_start(ram, GIB - 1, lowest)
    assert start == 5 * GIB + 1024
    normal, movable = layout_zones("x86_64", ram, start, lowest)[-2:]
    assert normal == ZoneSpec("Normal", 4 * GIB, GIB + 1024, GIB + 1024, None)
    assert movable == ZoneSpec("Movable", start, GIB - 1024, GIB - 1024, None)


def test_movable_may_take_all_of_the_highest_zone_but_nothing_lower() -> None:
    ram = [(1, 2 * GIB), (4 * GIB, 6 * GIB)]
    zones = layout_zones("x86_64", ram, movable_start(ram, 2 * GIB, 4 * GIB), 4 * GIB)
    assert [zone.name for zone in zones] == ["DMA", "DMA32", "Movable"]
    with pytest.raises(
        SpecError, match=f"only {2 * GIB} of these {3 * GIB} pages lie in the machine's highest"
    ):
        movable_start(ram, 3 * GIB, 4 * GIB)
    with pytest.raises(SpecError, match="only 0 of these 5 pages"):
        movable_start([], 5, 4 * GIB)


def test_movable_that_rounds_to_nothing_is_refused() -> None:
    with pytest.raises(SpecError, match="nothing is left when its start is rounded up to 1024"):
        movable_start([(0, GIB - 1)], 5, 0)


def test_highest_zone_of_i386_is_highmem() -> None:
    assert movable_zone("i386", [(1, 2 * GIB)])[0] == "HighMem"
    assert movable_zone("i386", [(1, GIB // 2)])[0] == "Normal"
