"""``/proc/zoneinfo`` (``zoneinfo_show_print`` in mm/vmstat.c)."""

from __future__ import annotations

import math
from collections.abc import Iterator

from numa_service.mm.profile import profile_named
from numa_service.mm.snapshot import MachineSnapshot, NodeSnapshot, ZoneSnapshot
from numa_service.procfs.counters import (
    first_populated_zone,
    high_wmark_pages,
    low_wmark_pages,
    min_wmark_pages,
    node_page_state,
    per_zone_lru_state,
    promo_wmark_pages,
    zone_page_state,
)
from numa_service.procfs.names import KernelNames, kernel_names, numa_stat_names


def zoneinfo(snapshot: MachineSnapshot) -> str:
    """The file: every zone of every node. An unpopulated zone has a short block, or in 3.0 none."""
    names = kernel_names(snapshot)
    print_zone = _zone_with_counters if names.counts_per_zone else _zone
    lines = [
        line
        for node in snapshot.nodes
        for zone in node.zones
        for line in print_zone(snapshot, names, node, zone)
    ]
    return "".join(f"{line}\n" for line in lines)


def _zone(
    snapshot: MachineSnapshot, names: KernelNames, node: NodeSnapshot, zone: ZoneSnapshot
) -> Iterator[str]:
    kernel = profile_named(snapshot.profile)
    if not (zone.populated or kernel.prints_empty_zones):
        return
    yield f"Node {node.nid}, zone {zone.name:>8}"
    if zone is first_populated_zone(node):
        yield "  per-node stats"
        for name in names.node_stat:
            yield f"      {name:<12} {node_page_state(node, name)}"
    yield f"  pages free     {zone.free}"
    if kernel.prints_boost:
        yield f"        boost    {zone.watermark_boost}"
    yield f"        min      {min_wmark_pages(zone)}"
    yield f"        low      {low_wmark_pages(zone)}"
    yield f"        high     {high_wmark_pages(zone)}"
    if kernel.has_promo:
        yield f"        promo    {promo_wmark_pages(zone)}"
    yield f"        spanned  {zone.spanned}"
    yield f"        present  {zone.present}"
    yield f"        managed  {zone.managed}"
    if kernel.prints_cma:
        yield f"        cma      {zone.vm_stat.get('cma', 0)}"
    yield f"        protection: ({', '.join(map(str, zone.protection))})"
    if not zone.populated:
        return
    for name in (*names.zone_stat, *numa_stat_names(snapshot)):
        yield f"      {name:<12} {zone_page_state(zone, name)}"
    yield from _pagesets(zone)
    yield f"  node_unreclaimable:  {int(node.unreclaimable)}"
    yield f"  start_pfn:           {zone.start_pfn}"


def _zone_with_counters(
    snapshot: MachineSnapshot, names: KernelNames, node: NodeSnapshot, zone: ZoneSnapshot
) -> Iterator[str]:
    """The block of a zone before 4.8: it has all counters; ``scanned`` is always 0."""
    kernel = profile_named(snapshot.profile)
    if not zone.populated:
        return
    yield f"Node {node.nid}, zone {zone.name:>8}"
    yield f"  pages free     {zone.free}"
    yield f"        min      {zone.wmark_min}"
    yield f"        low      {zone.wmark_low}"
    yield f"        high     {zone.wmark_high}"
    yield "        scanned  0"
    yield f"        spanned  {zone.spanned}"
    yield f"        present  {zone.present}"
    if kernel.prints_managed:
        yield f"        managed  {zone.managed}"
    for name in (*names.zone_stat, *numa_stat_names(snapshot), *names.node_stat):
        yield f"    {name:<12} {per_zone_lru_state(node, zone, name)}"
    known = kernel.zone_device
    reserves = [r for z, r in zip(node.zones, zone.protection, strict=True) if known or z.name != "Device"]
    yield f"        protection: ({', '.join(map(str, reserves))})"
    yield from _pagesets(zone)
    yield f"  all_unreclaimable: {int(node.unreclaimable)}"
    yield f"  start_pfn:         {zone.start_pfn}"
    yield f"  inactive_ratio:    {_inactive_ratio(zone)}"


def _inactive_ratio(zone: ZoneSnapshot) -> int:
    """The square root of ten times the zone's GiB, at least 1 (calculate_zone_inactive_ratio)."""
    gigabytes = zone.present >> (30 - 12)
    return math.isqrt(10 * gigabytes) if gigabytes else 1


def _pagesets(zone: ZoneSnapshot) -> Iterator[str]:
    yield "  pagesets"
    for pageset in zone.pagesets:
        yield f"    cpu: {pageset.cpu}"
        yield f"              count: {pageset.count}"
        yield f"              high:  {pageset.high}"
        yield f"              batch: {pageset.batch}"
        yield f"  vm stats threshold: {pageset.stat_threshold}"
