"""Small nodes for tests, booted by hand: only the zones that are named, no kernel image."""

from __future__ import annotations

from collections.abc import Sequence

from numa_service.mm.mmzone import ZONE_NAMES
from numa_service.mm.pgdat import Pgdat, ZoneExtent
from numa_service.mm.pgdata import TUNE_BOOST_FACTOR, TUNE_MOBILITY_DISABLED, TUNE_SWAPPINESS
from numa_service.mm.profile import LINUX_6_1, Profile
from numa_service.mm.watermark import Watermarks
from numa_service.mm.zonelist import Zonelists

DMA32, NORMAL, MOVABLE = 1, 2, 3

#: First page of a node of one zone.
START = 4096


def pgdat(
    zones: dict[int, tuple[int, int]],
    marks: dict[int, tuple[int, int, int]],
    ram: Sequence[tuple[int, int]],
    free_ranges: Sequence[tuple[int, int]],
    *,
    cpus: tuple[int, ...] = (0, 1),
    batch: int = 15,
    high: int = 80,
    swap: int = 0,
    swappiness: int = 60,
    profile: Profile = LINUX_6_1,
    cma: Sequence[tuple[int, int]] = (),
    drift: bool = False,
    mobility_disabled: bool = False,
) -> Pgdat:
    """A node with `zones` [start, end) by zone index, and their min, low and high watermarks."""
    extents = []
    for index, name in enumerate(ZONE_NAMES["x86_64"]):
        start, end = zones.get(index, (0, 0))
        managed = sum(max(0, min(b, end) - max(a, start)) for a, b in free_ranges)
        present = sum(max(0, min(b, end) - max(a, start)) for a, b in ram)
        extents.append(ZoneExtent(name, index, start, end - start, present, managed))
    node = Pgdat(
        nid=0,
        arch="x86_64",
        profile=profile,
        cpus=cpus,
        all_cpus=cpus,
        extents=extents,
        ram=ram,
        free_ranges=free_ranges,
        zonelists=Zonelists(0, (0,), (), ()),
        swap_pages=swap,
        cma=cma,
        drift=drift,
    )
    node.pg.tune[TUNE_MOBILITY_DISABLED] = mobility_disabled
    for index in zones:
        low = marks[index]
        node.set_watermarks(index, Watermarks(*low, promo=2 * low[2] - low[1]))
        node.pg.pcp_batch[index] = batch
        node.pg.pcp_high[index] = high
    node.pg.tune[TUNE_SWAPPINESS] = swappiness
    node.pg.tune[TUNE_BOOST_FACTOR] = 15000
    return node


def one_zone(
    pages: int = 8192,
    marks: tuple[int, int, int] = (64, 80, 96),
    *,
    reserved: int = 0,
    swap: int = 0,
    swappiness: int = 60,
    profile: Profile = LINUX_6_1,
) -> Pgdat:
    """A node with one zone, Normal; its first `reserved` pages are never given to the buddy system."""
    ram = (START, START + pages)
    free = (START + reserved, START + pages)
    zones, ranges = {NORMAL: ram}, [ram]
    return pgdat(zones, {NORMAL: marks}, ranges, [free], swap=swap, swappiness=swappiness, profile=profile)
