"""The zonelist cache of 3.0: what it remembers, for how long, and when it is used."""

from __future__ import annotations

from numa_service.mm.zonelist import Zoneref
from numa_service.mm.zonelist_cache import ZLC_LIFETIME_NS, ZonelistCache, ZonelistScan

LIST = (Zoneref(0, 2), Zoneref(0, 1), Zoneref(1, 2), Zoneref(2, 2))
NOW = 5 * ZLC_LIFETIME_NS


def walk(scan: ZonelistScan, full: set[int]) -> list[int]:
    """Positions that one scan visits; zones in `full` cannot serve, the first other one does."""
    seen = []
    for position in range(len(LIST)):
        if position and scan.skips(position):
            continue
        seen.append(position)
        if position not in full:
            break
        if scan.zones_full():
            scan.cache.setup(scan.now_ns)
        scan.cache.mark_zone_full(position)
    return seen


def test_a_full_zone_is_passed_over_by_the_next_scan() -> None:
    cache = ZonelistCache(LIST)
    assert walk(ZonelistScan(cache, 3, NOW), {0, 1}) == [0, 1, 2]
    assert cache.full == LIST[:2]
    # the first zone is always visited: only when it fails does the scan use the cache
    assert walk(ZonelistScan(cache, 3, NOW + 1), {0, 1}) == [0, 2]


def test_after_a_second_every_zone_is_tried_again() -> None:
    cache = ZonelistCache(LIST)
    walk(ZonelistScan(cache, 3, NOW), {0, 1, 2})
    assert walk(ZonelistScan(cache, 3, NOW + ZLC_LIFETIME_NS - 1), {0}) == [0, 3]
    assert walk(ZonelistScan(cache, 3, NOW + ZLC_LIFETIME_NS), {0}) == [0, 1]
    assert cache.full == LIST[:1]


def test_the_second_is_counted_from_the_last_wipe_not_from_the_mark() -> None:
    cache = ZonelistCache(LIST)
    walk(ZonelistScan(cache, 3, NOW), {0})
    walk(ZonelistScan(cache, 3, NOW + ZLC_LIFETIME_NS - 1), {0, 1})
    assert cache.full == LIST[:2]
    assert walk(ZonelistScan(cache, 3, NOW + ZLC_LIFETIME_NS), {0}) == [0, 1]


def test_the_second_scan_ignores_the_cache() -> None:
    cache = ZonelistCache(LIST)
    assert walk(ZonelistScan(cache, 3, NOW), {0, 1, 2, 3}) == [0, 1, 2, 3]
    again = ZonelistScan(cache, 3, NOW + 1)
    assert walk(again, {0, 1, 2, 3}) == [0]
    assert again.scan_again()
    assert walk(again, {0, 1}) == [0, 1, 2]
    assert not again.scan_again()
    # a zone that serves a request stays marked full until the cache is cleared
    assert cache.full == LIST


def test_a_scan_that_nothing_failed_is_not_repeated() -> None:
    cache = ZonelistCache(LIST)
    scan = ZonelistScan(cache, 3, NOW)
    assert walk(scan, set()) == [0]
    assert not scan.scan_again()


def test_without_watermarks_nothing_switches_it_on() -> None:
    cache = ZonelistCache(LIST, fullzones=0b1111, last_full_zap_ns=NOW)
    scan = ZonelistScan(cache, 3, NOW, watermarks=False)
    assert walk(scan, {0, 1}) == [0, 1, 2]
    assert not scan.scan_again()


def test_reclaim_clears_it() -> None:
    cache = ZonelistCache(LIST)
    walk(ZonelistScan(cache, 3, NOW), {0, 1, 2})
    cache.clear_zones_full()
    assert cache.full == ()
    assert walk(ZonelistScan(cache, 3, NOW + 1), {0}) == [0, 1]


def test_one_node_never_asks_it() -> None:
    cache = ZonelistCache(LIST[:2], fullzones=0b11, last_full_zap_ns=NOW)
    scan = ZonelistScan(cache, 1, NOW)
    assert not scan.zones_full()
    assert not scan.skips(1)
    assert not scan.scan_again()


def test_nodes_that_the_cpuset_forbids_are_passed_over_once_it_is_on() -> None:
    scan = ZonelistScan(ZonelistCache(LIST), 3, NOW, allowed_nodes=(0, 2))
    assert walk(scan, {0, 1}) == [0, 1, 3]
