"""The zonelist cache of 3.0: what is remembered, for how long, and when it is asked."""

from __future__ import annotations

from numa_service.mm.zonelist import Zoneref
from numa_service.mm.zonelist_cache import ZLC_LIFETIME_NS, ZonelistCache, ZonelistScan

LIST = (Zoneref(0, 2), Zoneref(0, 1), Zoneref(1, 2), Zoneref(2, 2))
NOW = 5 * ZLC_LIFETIME_NS


def walk(scan: ZonelistScan, full: set[int], now_ns: int) -> list[int]:
    """Positions looked at; those in `full` cannot serve, the first other one does."""
    seen = []
    for position in range(len(LIST)):
        if scan.skips(position):
            continue
        seen.append(position)
        if position not in full:
            break
        scan.zone_full(position, now_ns)
    return seen


def test_a_full_zone_is_passed_over_by_the_next_scan() -> None:
    cache = ZonelistCache(LIST)
    assert walk(ZonelistScan(cache, 3), {0, 1}, NOW) == [0, 1, 2]
    assert cache.full == LIST[:2]
    # the first zone is always looked at: only its failure switches the cache on
    assert walk(ZonelistScan(cache, 3), {0, 1}, NOW + 1) == [0, 2]


def test_after_a_second_every_zone_is_tried_again() -> None:
    cache = ZonelistCache(LIST)
    walk(ZonelistScan(cache, 3), {0, 1, 2}, NOW)
    assert walk(ZonelistScan(cache, 3), {0}, NOW + ZLC_LIFETIME_NS - 1) == [0, 3]
    assert walk(ZonelistScan(cache, 3), {0}, NOW + ZLC_LIFETIME_NS) == [0, 1]
    assert cache.full == LIST[:1]


def test_the_second_is_counted_from_the_last_wipe_not_from_the_mark() -> None:
    cache = ZonelistCache(LIST)
    walk(ZonelistScan(cache, 3), {0}, NOW)
    walk(ZonelistScan(cache, 3), {0, 1}, NOW + ZLC_LIFETIME_NS - 1)
    assert cache.full == LIST[:2]
    assert walk(ZonelistScan(cache, 3), {0}, NOW + ZLC_LIFETIME_NS) == [0, 1]


def test_the_second_scan_ignores_the_cache() -> None:
    cache = ZonelistCache(LIST)
    scan = ZonelistScan(cache, 3)
    assert walk(scan, {0, 1, 2, 3}, NOW) == [0, 1, 2, 3]
    again = ZonelistScan(cache, 3)
    assert walk(again, {0, 1, 2, 3}, NOW + 1) == [0]
    assert again.scan_again()
    assert walk(again, {0, 1}, NOW + 1) == [0, 1, 2]
    assert not again.scan_again()
    # a zone served: its mark stays until the wipe
    assert cache.full == LIST


def test_reclaim_clears_it() -> None:
    cache = ZonelistCache(LIST)
    walk(ZonelistScan(cache, 3), {0, 1, 2}, NOW)
    cache.clear_zones_full()
    assert cache.full == ()
    assert walk(ZonelistScan(cache, 3), {0}, NOW + 1) == [0, 1]


def test_one_node_never_asks_it() -> None:
    cache = ZonelistCache(LIST[:2])
    scan = ZonelistScan(cache, 1)
    scan.zone_full(0, NOW)
    assert not scan.skips(0)
    assert not scan.scan_again()


def test_nodes_that_the_cpuset_forbids_are_passed_over_once_it_is_on() -> None:
    scan = ZonelistScan(ZonelistCache(LIST), 3, allowed_nodes=(0, 2))
    assert not scan.skips(2)
    assert walk(scan, {0, 1}, NOW) == [0, 1, 3]
