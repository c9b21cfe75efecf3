"""gfp flags: their names, and the zone and migratetype that follow from them."""

from __future__ import annotations

import pytest

from numa_service.mm.gfp import GFP_ATOMIC, GFP_KERNEL, GFP_MASKS, Gfp, gfp_migratetype, gfp_zone, parse_gfp
from numa_service.mm.mmzone import MIGRATE_MOVABLE, MIGRATE_RECLAIMABLE, MIGRATE_UNMOVABLE, ZONE_NAMES


def zone(text: str, arch: str = "x86_64") -> str:
    return ZONE_NAMES[arch][gfp_zone(parse_gfp(text), arch)]


@pytest.mark.parametrize(
    ("text", "bits"),
    [
        ("", 0xCC0),
        ("GFP_KERNEL", 0xCC0),
        ("GFP_ATOMIC", 0xA20),
        ("GFP_NOWAIT", 0x800),
        ("GFP_NOIO", 0xC00),
        ("GFP_NOFS", 0xC40),
        ("GFP_USER", 0x100CC0),
        ("GFP_HIGHUSER", 0x100CC2),
        ("GFP_DMA|__GFP_ZERO", 0x101),
        (" GFP_KERNEL | __GFP_COMP ", 0x40CC0),
        ("GFP_HIGHUSER_MOVABLE", 0x2100CCA),
        ("GFP_TRANSHUGE_LIGHT|__GFP_NORETRY|__GFP_THISNODE", 0x3D20CA),
        ("0x800|__GFP_HIGH", 0x820),
        ("none", 0),
    ],
)
def test_names(text: str, bits: int) -> None:
    assert parse_gfp(text) == bits


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("GFP_KERNAL", "unknown gfp flag 'GFP_KERNAL'"),
        ("GFP_KERNEL|", "unknown gfp flag ''"),
        ("0xzz", "unknown gfp flag '0xzz'"),
        ("0x80000000", "unknown gfp bits 0x80000000"),
    ],
)
def test_unknown_names_are_named(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_gfp(text)


@pytest.mark.parametrize(
    ("text", "x86_64", "i386"),
    [
        ("GFP_KERNEL", "Normal", "Normal"),
        ("GFP_DMA", "DMA", "DMA"),
        ("GFP_DMA32", "DMA32", "Normal"),
        ("GFP_HIGHUSER", "Normal", "HighMem"),
        ("GFP_HIGHUSER_MOVABLE", "Movable", "Movable"),
        # __GFP_MOVABLE alone says that the page can be moved, not which zone it may come from
        ("GFP_USER|__GFP_MOVABLE", "Normal", "Normal"),
        ("GFP_DMA32|__GFP_MOVABLE", "DMA32", "Normal"),
    ],
)
def test_zone(text: str, x86_64: str, i386: str) -> None:
    assert zone(text) == x86_64
    assert zone(text, "i386") == i386


@pytest.mark.parametrize(
    "text", ["GFP_DMA|GFP_DMA32", "GFP_DMA|__GFP_HIGHMEM", "GFP_DMA32|GFP_HIGHUSER_MOVABLE"]
)
def test_contradictory_zones(text: str) -> None:
    with pytest.raises(ValueError, match="contradictory zone modifiers"):
        zone(text)


def test_migratetype() -> None:
    assert gfp_migratetype(GFP_KERNEL) == MIGRATE_UNMOVABLE
    assert gfp_migratetype(GFP_ATOMIC) == MIGRATE_UNMOVABLE
    assert gfp_migratetype(GFP_KERNEL | Gfp.RECLAIMABLE) == MIGRATE_RECLAIMABLE
    assert gfp_migratetype(GFP_MASKS["GFP_HIGHUSER_MOVABLE"]) == MIGRATE_MOVABLE
    assert gfp_migratetype(GFP_MASKS["GFP_HIGHUSER_MOVABLE"], mobility_disabled=True) == MIGRATE_UNMOVABLE


def test_transhuge_light_never_reclaims() -> None:
    assert not GFP_MASKS["GFP_TRANSHUGE_LIGHT"] & (Gfp.DIRECT_RECLAIM | Gfp.KSWAPD_RECLAIM)
    assert GFP_MASKS["GFP_TRANSHUGE"] & Gfp.DIRECT_RECLAIM


@pytest.mark.parametrize("bits", range(16))
def test_every_combination_of_zone_modifiers(bits: int) -> None:
    """GFP_ZONE_BAD: two of DMA, HIGHMEM and DMA32 together, movable or not."""
    text = "|".join(
        name
        for bit, name in ((1, "__GFP_DMA"), (2, "__GFP_HIGHMEM"), (4, "__GFP_DMA32"), (8, "__GFP_MOVABLE"))
        if bits & bit
    )
    bad = {0x3, 0x5, 0x6, 0x7, 0xB, 0xD, 0xE, 0xF}
    good = {
        0x0: "Normal",
        0x1: "DMA",
        0x2: "Normal",
        0x4: "DMA32",
        0x8: "Normal",
        0x9: "DMA",
        0xA: "Movable",
        0xC: "DMA32",
    }
    assert set(good) | bad == set(range(16))
    if bits in bad:
        with pytest.raises(ValueError, match="contradictory zone modifiers"):
            zone(text)
    else:
        assert zone(text or "none") == good[bits]
