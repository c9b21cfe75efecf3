"""Fair zone allocation (3.12 to 4.7): zones of a node give pages in turn, each as many as HIGH is above LOW.

What is expected was worked out by hand from get_page_from_freelist(), buffered_rmqueue() and
reset_alloc_batches() of those kernels.
"""

from __future__ import annotations

from itertools import groupby

import numpy as np
import pytest
from mm.nodes import DMA32, NORMAL, pgdat

from numa_service.mm.internal import ALLOC_FAIR, ALLOC_WMARK_LOW, ALLOC_WMARK_MIN
from numa_service.mm.invariants import check_pgdat
from numa_service.mm.mmzone import MIGRATE_MOVABLE, MIGRATE_UNMOVABLE
from numa_service.mm.page_alloc import NUMA_HOW_HIT
from numa_service.mm.pgdat import Pgdat
from numa_service.mm.pgdata import ZONE_FAIR_DEPLETED
from numa_service.mm.profile import profile_named
from numa_service.mm.watermark import Watermarks

#: Zones in zonelist order, their pages, and the marks: DMA32's share is 16 pages, that of Normal 32.
ZONES = (NORMAL, DMA32)
RAM = {DMA32: (4096, 12_288), NORMAL: (16_384, 32_768)}
MARKS = {DMA32: (64, 80, 96), NORMAL: (128, 160, 192)}
FAST = ALLOC_WMARK_LOW | ALLOC_FAIR
NAMES = {DMA32: "DMA32", NORMAL: "Normal"}


def node(kernel: str = "4.4") -> Pgdat:
    ram = list(RAM.values())
    return pgdat(RAM, MARKS, ram, ram, profile=profile_named(f"linux-{kernel}"))


def take(
    n: Pgdat,
    count: int,
    order: int = 0,
    *,
    cpu: int | None = None,
    flags: int = FAST,
    mt: int = MIGRATE_UNMOVABLE,
) -> list[str]:
    """Zones of the blocks got, in their order."""
    got = n.alloc(list(ZONES), cpu, order, count, mt, NORMAL, flags, NUMA_HOW_HIT, 1)
    return [NAMES[DMA32 if pfn < RAM[DMA32][1] else NORMAL] for pfn in got.tolist()]


def turns(zones: list[str]) -> list[tuple[str, int]]:
    return [(zone, len(list(blocks))) for zone, blocks in groupby(zones)]


def shares(n: Pgdat) -> tuple[int, int]:
    return int(n.pg.alloc_batch[NORMAL]), int(n.pg.alloc_batch[DMA32])


def depleted(n: Pgdat) -> list[str]:
    return [NAMES[zone] for zone in ZONES if n.pg.zone_flags[zone] & ZONE_FAIR_DEPLETED]


@pytest.mark.parametrize("cpu", [None, 0])
def test_zones_take_turns_and_get_their_shares_anew(cpu: int | None) -> None:
    n = node()
    assert shares(n) == (32, 16)
    got = take(n, 100, cpu=cpu)
    assert turns(got) == [("Normal", 32), ("DMA32", 16), ("Normal", 32), ("DMA32", 16), ("Normal", 4)]
    assert (shares(n), depleted(n)) == ((28, 16), [])
    assert check_pgdat(n) == []


@pytest.mark.parametrize("order", [0, 2, 3])
def test_a_batch_is_as_many_single_allocations(order: int) -> None:
    batch, single = node(), node()
    got = take(batch, 60, order, cpu=0)
    assert got == [zone for _ in range(60) for zone in take(single, 1, order, cpu=0)]
    assert batch.digest() == single.digest()


def test_the_block_that_uses_up_a_share_may_go_beyond_it() -> None:
    n = node()
    n.set_watermarks(NORMAL, Watermarks(128, 160, 178, promo=196))
    assert shares(n) == (18, 16)
    assert turns(take(n, 10, order=2)) == [("Normal", 5), ("DMA32", 4), ("Normal", 1)]
    assert shares(n) == (14, 16)
    # 5 blocks of 4 pages were taken of a share of 18: it stood at -2 until all were given out anew


def test_a_zone_that_is_low_is_passed_over_and_keeps_its_share() -> None:
    n = node()
    # until Normal is at LOW: at MIN it gives more, and its share becomes negative
    left = 16_384 - 160
    assert turns(take(n, left, flags=ALLOC_WMARK_MIN)) == [("Normal", left)]
    assert (shares(n)[0], depleted(n)) == (32 - left, ["Normal"])
    assert turns(take(n, 40)) == [("DMA32", 40)]
    # after 16 pages both had their shares anew, after another 16 again
    assert shares(n) == (32, 8)


def test_other_passes_do_not_take_turns_but_are_counted() -> None:
    n = node()
    assert turns(take(n, 50, flags=ALLOC_WMARK_LOW)) == [("Normal", 50)]
    assert (shares(n), depleted(n)) == ((-18, 16), ["Normal"])
    assert turns(take(n, 1)) == [("DMA32", 1)]


def test_new_marks_are_new_shares() -> None:
    n = node()
    take(n, 40)
    n.set_watermarks(NORMAL, Watermarks(128, 160, 200, promo=240))
    assert shares(n) == (40, 8)
    # the flag stays: the zone has its turn again when all have
    assert depleted(n) == ["Normal"]
    assert turns(take(n, 60)) == [("DMA32", 8), ("Normal", 40), ("DMA32", 12)]


@pytest.mark.parametrize("kernel", ["3.0", "3.11", "4.8", "6.1"])
def test_other_kernels_use_up_the_first_zone(kernel: str) -> None:
    n = node(kernel)
    flags = ALLOC_WMARK_LOW
    assert turns(take(n, 200, flags=flags, cpu=0, mt=MIGRATE_MOVABLE)) == [("Normal", 200)]
    assert not np.any(n.pg.alloc_batch)
