"""Values behind the names: what a zone, a node or the machine counts, zero for what the model has not.

Function names are the kernel's (``include/linux/vmstat.h``, ``mm/page_alloc.c``); everything is in pages
unless the counter's own name says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator

from numa_service.mm.snapshot import MachineSnapshot, NodeSnapshot, ZoneSnapshot
from numa_service.procfs.names import NUMA_STAT

#: Node LRU counters and the zone counters that they are the sums of, where a node does not count by itself.
_ZONE_LRU = {
    "nr_inactive_anon": "nr_zone_inactive_anon",
    "nr_active_anon": "nr_zone_active_anon",
    "nr_inactive_file": "nr_zone_inactive_file",
    "nr_active_file": "nr_zone_active_file",
    "nr_unevictable": "nr_zone_unevictable",
}

#: Events that 3.0 counts under one name and later kernels under another, or in parts.
_EVENT_PARTS = {
    "allocstall": (
        "allocstall_dma",
        "allocstall_dma32",
        "allocstall_normal",
        "allocstall_high",
        "allocstall_movable",
    ),
    "kswapd_steal": ("pgsteal_kswapd",),
    "thp_split": ("thp_split_page",),
}


def zones(snapshot: MachineSnapshot) -> Iterator[ZoneSnapshot]:
    """Every zone of every node, the empty ones included (``for_each_zone``)."""
    for node in snapshot.nodes:
        yield from node.zones


def first_populated_zone(node: NodeSnapshot) -> ZoneSnapshot | None:
    """The zone in which zoneinfo prints the node's own counters (``is_zone_first_populated``)."""
    return next((zone for zone in node.zones if zone.populated), None)


def is_highmem(snapshot: MachineSnapshot, zone: ZoneSnapshot) -> bool:
    """``is_highmem``: HighMem, and Movable where it is cut from HighMem."""
    return snapshot.arch == "i386" and zone.name in ("HighMem", "Movable")


def min_wmark_pages(zone: ZoneSnapshot) -> int:
    """WMARK_MIN with the boost, as everybody but the kernel's own arithmetic sees it."""
    return zone.wmark_min + zone.watermark_boost


def low_wmark_pages(zone: ZoneSnapshot) -> int:
    """WMARK_LOW with the boost."""
    return zone.wmark_low + zone.watermark_boost


def high_wmark_pages(zone: ZoneSnapshot) -> int:
    """WMARK_HIGH with the boost."""
    return zone.wmark_high + zone.watermark_boost


def promo_wmark_pages(zone: ZoneSnapshot) -> int:
    """WMARK_PROMO with the boost."""
    return zone.wmark_promo + zone.watermark_boost


def zone_page_state(zone: ZoneSnapshot, name: str) -> int:
    """A per-zone counter by its zoneinfo name, NUMA events included."""
    if name == "nr_free_pages":
        return zone.free
    if name in NUMA_STAT:
        return zone.numa_stat.get(name, 0)
    return zone.vm_stat.get(name, 0)


def node_page_state(node: NodeSnapshot, name: str) -> int:
    """A per-node counter by its zoneinfo name; an LRU size that is missing is summed from the zones."""
    if name in node.node_stat:
        return node.node_stat[name]
    zone_name = _ZONE_LRU.get(name)
    return 0 if zone_name is None else sum_zone_node_page_state(node, zone_name)


def sum_zone_node_page_state(node: NodeSnapshot, name: str) -> int:
    """A per-zone counter, summed over one node."""
    return sum(zone_page_state(zone, name) for zone in node.zones)


def global_zone_page_state(snapshot: MachineSnapshot, name: str) -> int:
    """A per-zone counter, summed over the machine."""
    return sum(sum_zone_node_page_state(node, name) for node in snapshot.nodes)


def global_node_page_state(snapshot: MachineSnapshot, name: str) -> int:
    """A per-node counter, summed over the machine."""
    return sum(node_page_state(node, name) for node in snapshot.nodes)


def per_zone_lru_state(node: NodeSnapshot, zone: ZoneSnapshot, name: str) -> int:
    """A counter of 3.0, where all are per zone.

    LRU sizes are the zone's own. What the model counts per node is shown in the node's first populated
    zone, so that sums over zones are right.
    """
    if name in _ZONE_LRU:
        return zone_page_state(zone, _ZONE_LRU[name])
    if name == "nr_free_pages" or name in NUMA_STAT or name in zone.vm_stat:
        return zone_page_state(zone, name)
    return node_page_state(node, name) if zone is first_populated_zone(node) else 0


def all_vm_events(snapshot: MachineSnapshot, name: str) -> int:
    """An event count by its vmstat name, summed over the nodes; events renamed since 3.0 are found too."""
    parts = _EVENT_PARTS.get(name, (name,))
    return sum(node.vm_event.get(part, 0) for node in snapshot.nodes for part in parts)


def totalreserve_pages(snapshot: MachineSnapshot) -> int:
    """Pages that userspace cannot count on (``calculate_totalreserve_pages``).

    Per zone its high watermark and the largest lowmem_reserve it keeps, at most what it manages.
    """
    return sum(
        min(max((0, *zone.protection[zone.index :])) + high_wmark_pages(zone), zone.managed)
        for zone in zones(snapshot)
    )


def sysctl_int(snapshot: MachineSnapshot, key: str, default: int) -> int:
    """A numeric sysctl (dotted name), or the kernel's default. ValueError names a value that is no number."""
    text = snapshot.sysctls.get(key)
    if text is None:
        return default
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"sysctl {key}: {text!r} is not a number") from None
