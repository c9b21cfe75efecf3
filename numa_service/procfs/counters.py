"""Counters of a zone, a node or the machine by their names; 0 for those that the model does not have.

Function names are the kernel's (``include/linux/vmstat.h``, ``mm/page_alloc.c``). Values are in pages unless
the counter's name says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator

from numa_service.mm.snapshot import MachineSnapshot, NodeSnapshot, ZoneSnapshot
from numa_service.procfs.names import NUMA_STAT

#: LRU counters of a node, and the zone counters that they are sums of if the node has none itself.
_ZONE_LRU = {
    "nr_inactive_anon": "nr_zone_inactive_anon",
    "nr_active_anon": "nr_zone_active_anon",
    "nr_inactive_file": "nr_zone_inactive_file",
    "nr_active_file": "nr_zone_active_file",
    "nr_unevictable": "nr_zone_unevictable",
}

#: Names of events in 3.0, and the names of the same events, or of their parts, in later kernels.
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
    """Every zone of every node, also the empty ones (``for_each_zone``)."""
    for node in snapshot.nodes:
        yield from node.zones


def first_populated_zone(node: NodeSnapshot) -> ZoneSnapshot | None:
    """The zone in which zoneinfo prints the node's own counters (``is_zone_first_populated``)."""
    return next((zone for zone in node.zones if zone.populated), None)


def is_highmem(snapshot: MachineSnapshot, zone: ZoneSnapshot) -> bool:
    """Whether a zone is high memory (``is_highmem``): HighMem, and a Movable that is taken from HighMem."""
    return snapshot.arch == "i386" and zone.name in ("HighMem", "Movable")


def min_wmark_pages(zone: ZoneSnapshot) -> int:
    """WMARK_MIN plus the boost, as the kernel's macro of this name has it."""
    return zone.wmark_min + zone.watermark_boost


def low_wmark_pages(zone: ZoneSnapshot) -> int:
    """WMARK_LOW plus the boost."""
    return zone.wmark_low + zone.watermark_boost


def high_wmark_pages(zone: ZoneSnapshot) -> int:
    """WMARK_HIGH plus the boost."""
    return zone.wmark_high + zone.watermark_boost


def promo_wmark_pages(zone: ZoneSnapshot) -> int:
    """WMARK_PROMO plus the boost."""
    return zone.wmark_promo + zone.watermark_boost


def zone_page_state(zone: ZoneSnapshot, name: str) -> int:
    """A per-zone counter or NUMA event by its name in zoneinfo."""
    if name == "nr_free_pages":
        return zone.free
    if name in NUMA_STAT:
        return zone.numa_stat.get(name, 0)
    return zone.vm_stat.get(name, 0)


def node_page_state(node: NodeSnapshot, name: str) -> int:
    """A per-node counter by its name in zoneinfo; an LRU size that is missing is summed from the zones."""
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
    """A counter of a zone in 3.0, where all counters are per zone.

    LRU sizes are the zone's own. A counter that the model has per node is shown in the node's first populated
    zone, so that sums over zones are right.
    """
    if name in _ZONE_LRU:
        return zone_page_state(zone, _ZONE_LRU[name])
    if name == "nr_free_pages" or name in NUMA_STAT or name in zone.vm_stat:
        return zone_page_state(zone, name)
    return node_page_state(node, name) if zone is first_populated_zone(node) else 0


def all_vm_events(snapshot: MachineSnapshot, name: str) -> int:
    """An event count by its name in vmstat, summed over the nodes; names that only 3.0 has are known too."""
    parts = _EVENT_PARTS.get(name, (name,))
    return sum(node.vm_event.get(part, 0) for node in snapshot.nodes for part in parts)


def totalreserve_pages(snapshot: MachineSnapshot) -> int:
    """Pages that are not available to userspace (``calculate_totalreserve_pages``).

    They are the sum over all zones of the high watermark and the largest lowmem_reserve of the zone, together
    at most its managed pages.
    """
    return sum(
        min(max((0, *zone.protection[zone.index :])) + high_wmark_pages(zone), zone.managed)
        for zone in zones(snapshot)
    )


def sysctl_int(snapshot: MachineSnapshot, key: str, default: int) -> int:
    """A numeric sysctl by its dotted name, or `default` if it is not set; ValueError if it is no number."""
    text = snapshot.sysctls.get(key)
    if text is None:
        return default
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"sysctl {key}: {text!r} is not a number") from None
