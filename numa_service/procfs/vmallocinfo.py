"""``/proc/vmallocinfo`` (``vmalloc_info_show``, ``s_show`` in mm/vmalloc.c), as root reads it."""

from __future__ import annotations

from numa_service.machine.zonelists import has_numa
from numa_service.mm.snapshot import MachineSnapshot, VmallocSnapshot, VmAreaSnapshot
from numa_service.mm.vmalloc.vm_struct import (
    VM_ALLOC,
    VM_DMA_COHERENT,
    VM_IOREMAP,
    VM_MAP,
    VM_USERMAP,
)

#: What is printed of an area's flags, in this order.
_FLAGS = (
    (VM_IOREMAP, " ioremap"),
    (VM_ALLOC, " vmalloc"),
    (VM_MAP, " vmap"),
    (VM_USERMAP, " user"),
    (VM_DMA_COHERENT, " dma-coherent"),
)


def vmallocinfo(snapshot: MachineSnapshot) -> str:
    """The file: the areas, which one node keeps for the machine."""
    numa = has_numa(snapshot)
    return "".join(areas(node.vmalloc, numa=numa) for node in snapshot.nodes if node.vmalloc)


def areas(vmalloc: VmallocSnapshot, *, numa: bool = True) -> str:
    """All areas, one a line, and at the end what waits for a purge; pages by node if the kernel has NUMA."""
    busy = "".join(_line(vmalloc, area, numa) for area in vmalloc.areas)
    waiting = "".join(f"{_range(vmalloc, start, end)} unpurged vm_area\n" for start, end in vmalloc.unpurged)
    return busy + waiting


def _line(vmalloc: VmallocSnapshot, area: VmAreaSnapshot, numa: bool) -> str:
    line = f"{_range(vmalloc, area.start, area.end)} {area.caller}"
    if area.nr_pages:
        line += f" pages={area.nr_pages}"
    if area.phys_addr:
        line += f" phys=0x{area.phys_addr:016x}"
    line += "".join(text for flag, text in _FLAGS if area.flags & flag)
    if area.vpages:
        line += " vpages"
    if numa:
        line += "".join(f" N{node}={pages}" for node, pages in area.pages_per_node.items())
    return f"{line}\n"


def _range(vmalloc: VmallocSnapshot, start: int, end: int) -> str:
    digits = 2 * vmalloc.pointer
    return f"0x{start:0{digits}x}-0x{end:0{digits}x} {end - start:7}"
