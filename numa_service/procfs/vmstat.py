"""``/proc/vmstat`` (``vmstat_start`` in mm/vmstat.c) and the dirty thresholds in it."""

from __future__ import annotations

from numa_service.mm.mmzone import PAGE_SIZE
from numa_service.mm.profile import profile_named
from numa_service.mm.snapshot import MachineSnapshot
from numa_service.procfs.counters import (
    all_vm_events,
    global_node_page_state,
    global_zone_page_state,
    high_wmark_pages,
    is_highmem,
    per_zone_lru_state,
    sysctl_int,
    totalreserve_pages,
    zone_page_state,
    zones,
)
from numa_service.procfs.names import kernel_names, numa_stat_names


def vmstat(snapshot: MachineSnapshot) -> str:
    """The file, one counter a line: zone counters, NUMA events, node counters, thresholds, events."""
    names = kernel_names(snapshot)
    numa = numa_stat_names(snapshot)
    rows: list[tuple[str, int]] = []
    if names.counts_per_zone:
        rows += [
            (name, sum(per_zone_lru_state(n, z, name) for n in snapshot.nodes for z in n.zones))
            for name in (*names.zone_stat, *numa, *names.node_stat)
        ]
    else:
        rows += [(name, global_zone_page_state(snapshot, name)) for name in (*names.zone_stat, *numa)]
        rows += [(name, global_node_page_state(snapshot, name)) for name in names.node_stat]
    background, threshold = global_dirty_limits(snapshot)
    computed = {"nr_dirty_threshold": threshold, "nr_dirty_background_threshold": background}
    for name in names.vmstat_extra:
        rows.append((name, computed[name] if name in computed else global_node_page_state(snapshot, name)))
    rows += [(name, all_vm_events(snapshot, name)) for name in names.vm_event]
    return "".join(f"{name} {value}\n" for name, value in rows)


def global_dirty_limits(snapshot: MachineSnapshot) -> tuple[int, int]:
    """(background threshold, dirty threshold) in pages, from vm.dirty_* (``domain_dirty_limits``)."""
    available = global_dirtyable_memory(snapshot)

    def limit(prefix: str, default_percent: int) -> int:
        limit_bytes = sysctl_int(snapshot, f"vm.{prefix}_bytes", 0)
        if limit_bytes:
            return -(-limit_bytes // PAGE_SIZE)
        percent = sysctl_int(snapshot, f"vm.{prefix}_ratio", default_percent)
        # in two steps, each of which rounds down, as in the kernel
        return percent * PAGE_SIZE // 100 * available // PAGE_SIZE

    threshold = limit("dirty", 20)
    background = limit("dirty_background", 10)
    return (threshold // 2 if background >= threshold else background), threshold


def global_dirtyable_memory(snapshot: MachineSnapshot) -> int:
    """Pages that may become dirty page cache: free pages beyond the reserves, and file pages; at least 1."""
    free = global_zone_page_state(snapshot, "nr_free_pages")
    reserved = totalreserve_pages(snapshot) if profile_named(snapshot.profile).dirtyable_less_reserves else 0
    total = free - min(free, reserved)
    total += global_node_page_state(snapshot, "nr_inactive_file")
    total += global_node_page_state(snapshot, "nr_active_file")
    if not sysctl_int(snapshot, "vm.highmem_is_dirtyable", 0):
        total -= min(_highmem_dirtyable_memory(snapshot), total)
    return total + 1


def _highmem_dirtyable_memory(snapshot: MachineSnapshot) -> int:
    pages = 0
    for zone in zones(snapshot):
        if zone.populated and is_highmem(snapshot, zone):
            pages += zone.free - min(zone.free, high_wmark_pages(zone))
            pages += zone_page_state(zone, "nr_zone_inactive_file")
            pages += zone_page_state(zone, "nr_zone_active_file")
    return pages
