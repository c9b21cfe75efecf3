"""``/proc/buddyinfo`` (``frag_show_print`` in mm/vmstat.c)."""

from __future__ import annotations

from numa_service.mm.snapshot import MachineSnapshot
from numa_service.procfs.counters import zones


def buddyinfo(snapshot: MachineSnapshot) -> str:
    """The file: numbers of free blocks by order, on one line for each populated zone."""
    return "".join(
        f"Node {zone.nid}, zone {zone.name:>8} {''.join(f'{count:>6} ' for count in zone.nr_free)}\n"
        for zone in zones(snapshot)
        if zone.populated
    )
