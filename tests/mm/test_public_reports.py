"""Marks and reserves of public reports of kernels 2.6.30 to 6.19, by the rules of each one's version.

The numbers are what OOM kills, allocation failures and sysrq-m printed on real machines: of each report one
zone whose watermarks were not boosted. Of these kernels there is no capture.
"""

from __future__ import annotations

import pytest

from numa_service.mm.profile import profile_of_version
from numa_service.mm.watermark import setup_per_zone_lowmem_reserve, setup_per_zone_wmarks

#: Version, pages of the zone in kB (managed, or present where that was not printed); min, low and high in kB.
MARKS = [
    ("2.6.30-rc5", 3281248, 3472, 4340, 5208),
    ("2.6.31-rc1", 992032, 3948, 4932, 5920),
    ("2.6.32-131.el6", 1018080, 33328, 41660, 49992),
    ("2.6.38-10", 13445120, 13224, 16528, 19836),
    ("3.2.0-24", 611856, 3088, 3860, 4632),
    ("3.10.0-514.el7", 2848912, 7832, 9788, 11748),
    ("4.4.114", 3012004, 61364, 76704, 92044),
    ("4.9.24", 503704976, 16384, 520088, 1023792),
    ("4.10.0-rc5-next", 1478648, 44576, 55720, 66864),
    ("4.18.0-477.el8", 1968380, 34644, 43304, 51964),
    ("5.0.10", 3063640, 29352, 36688, 44024),
    ("5.4.0-120", 3034312, 50784, 63480, 76176),
    ("5.7.0-rc3", 256000, 408, 664, 920),
    ("5.8.0-rc4-next", 33027152, 38852, 71876, 104900),
    ("5.10.2", 2909548, 49012, 61264, 73516),
    ("5.13.0-19", 2010036, 44700, 55872, 67044),
    ("5.18.0-rc2-next", 825372, 40952, 51188, 61424),
    ("5.19.0-1", 15343300, 63960, 79948, 95936),
    ("6.1.1", 3283120, 13760, 17200, 20640),
    ("6.2.0", 441400, 20968, 26208, 31448),
    ("6.3.9", 2736072, 7616, 10352, 13088),
    ("6.10.0-rc1", 2015088, 39032, 48788, 58544),
    ("6.19.0-rc5", 2931416, 15860, 19824, 23788),
]


@pytest.mark.parametrize(("version", "zone_kb", "least", "low", "high"), MARKS, ids=[row[0] for row in MARKS])
def test_low_and_high_follow_from_min(version: str, zone_kb: int, least: int, low: int, high: int) -> None:
    """With one zone, its MIN is min_free_kbytes."""
    profile = profile_of_version(version)
    found = setup_per_zone_wmarks({(0, "Normal"): zone_kb // 4}, profile, least, 10)[0, "Normal"]
    assert (found.min * 4, found.low * 4, found.high * 4) == (least, low, high)


#: Version, kB of DMA, DMA32, Normal and Movable of a node; the reserves of each zone, in pages, by class.
RESERVES = [
    ("2.6.30-rc5", (15100, 3281248, 255488, 0), [[0, 3204, 3453, 3453], [0, 0, 249, 249], [0, 0, 0, 0]]),
    ("2.6.32-131.el6", (15328, 1018080, 0, 0), [[0, 994, 994, 994], [0, 0, 0, 0]]),
    ("3.10.0-514.el7", (0, 2848912, 13368348, 0), [None, [0, 0, 13055, 13055], [0, 0, 0, 0]]),
]


@pytest.mark.parametrize(("version", "zones_kb", "reserves"), RESERVES, ids=[row[0] for row in RESERVES])
def test_reserves_follow_from_the_zones_above(
    version: str, zones_kb: tuple[int, ...], reserves: list[list[int] | None]
) -> None:
    pages = [kilobytes // 4 for kilobytes in zones_kb]
    found = setup_per_zone_lowmem_reserve(pages, (256, 256, 32), profile_of_version(version))
    for zone, expected in enumerate(reserves):
        if expected is not None:
            assert found[zone] == expected
