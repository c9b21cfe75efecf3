"""The boot log of a machine, cut into the steps of a boot: each is a function of the kernel."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

#: At most so many lines of a step are sent to browsers; a machine of 64 nodes prints thousands.
LINES_SENT = 200


@dataclass(slots=True)
class BootStep:
    """One step of the boot."""

    #: Name of the kernel's function.
    function: str
    #: A sentence that says what it does.
    what: str
    lines: list[str] = field(default_factory=list)
    #: Nids that its lines name.
    nodes: set[int] = field(default_factory=set)
    #: Timestamp of its first line.
    seconds: float = 0.0


#: The steps in the kernel's order: (regular expression of the first line, function, what it does).
_STEPS = (
    (
        r"Linux version",
        "start_kernel",
        "The kernel says which one it is; it knows nothing of the machine yet.",
    ),
    (r"BIOS-provided", "e820__memory_setup", "Firmware tells where RAM is. Not yet: whose."),
    (r"SRAT:|ACPI: SRAT", "acpi_numa_init", "SRAT gives every CPU and every range of RAM its node."),
    (r"NUMA: Init", "numa_init", "SLIT: how far every node is from every other."),
    (
        r"NODE_DATA|Initmem setup node \d+ \[?0*\w+-",
        "initmem_init",
        "Each node's pg_data_t, in its own memory.",
    ),
    (r"cma: Reserved", "dma_contiguous_reserve", "Areas for large contiguous allocations are set aside."),
    (
        r"Zone ranges|Zone PFN ranges",
        "free_area_init",
        "Zones: what devices can address, by physical address.",
    ),
    (
        r"mminit::memmap_init|Initmem setup node \d+ \[mem|On node \d+ totalpages",
        "memmap_init",
        "A struct page for every page of every node; every one of them reserved.",
    ),
    (r"On node \d+, zone", "init_unavailable_range", "Holes in the memory map are marked as such."),
    (r"setup_percpu|PERCPU", "setup_per_cpu_areas", "Per-CPU areas, each on its CPU's node."),
    (
        r"Fallback order|mminit::zonelist|Built \d+ zonelists",
        "build_all_zonelists",
        "For every node, the order in which the others are asked when it is full.",
    ),
    (
        r"memblock_reserve|bootmem::|Memory: ",
        "mem_init",
        "The boot allocator retires: what it did not keep goes to the buddy system.",
    ),
    (
        r"SLUB:",
        "kmem_cache_init",
        "Slab caches: the allocator's own, kmalloc's, then those of the subsystems.",
    ),
    (r"kswapd\d+", "kswapd_init", "Watermarks are set, pagesets sized; a kswapd a node goes to sleep."),
)


#: Steps that print nothing here: function → what it does.
_SILENT = {
    "page_cgroup_init_flatmem": "Where the memory map is one table, memory cgroups would get one beside it.",
    "page_ext_init_flatmem": "Where the memory map is one table, debugging would get one beside it.",
    "page_ext_init_flatmem_late": "The same again, for what needs the slab allocator.",
    "percpu_init_late": "Maps of percpu chunks move into memory of kmalloc.",
    "vmalloc_init": "The kernel's virtual addresses: what nobody has mapped yet is free.",
    "kmem_cache_init_late": "Interrupts are on: SLAB's per-CPU arrays get their full size.",
}


def boot_steps(dmesg: Iterable[tuple[float, str]], mm_init: Sequence[str] = ()) -> list[BootStep]:
    """Cut a boot log, (seconds, text) for each line, into steps.

    A line that matches no later step belongs to the current one. `mm_init` has the functions by which the
    kernel sets up memory, in its order (``Profile.mm_init``): those that print nothing are put in between.
    """
    steps = _printed(dmesg)
    for place, function in enumerate(mm_init):
        names = [step.function for step in steps]
        if function in names or "mem_init" not in names:
            continue
        at = names.index(mm_init[place - 1]) + 1 if place else names.index("mem_init")
        # it is over as soon as it begins: the next step has the same time
        seconds = steps[min(at, len(steps) - 1)].seconds
        steps.insert(at, BootStep(function, _SILENT[function], seconds=seconds))
    return steps


def _printed(dmesg: Iterable[tuple[float, str]]) -> list[BootStep]:
    steps: list[BootStep] = []
    at = -1
    for seconds, text in dmesg:
        for index in range(at + 1, len(_STEPS)):
            pattern, function, what = _STEPS[index]
            if re.match(pattern, text):
                at = index
                steps.append(BootStep(function, what, seconds=seconds))
                break
        if not steps:
            steps.append(BootStep(_STEPS[0][1], _STEPS[0][2], seconds=seconds))
        step = steps[-1]
        step.lines.append(f"[{seconds:12.6f}] {text}")
        step.nodes |= {int(nid) for nid in re.findall(r"(?:[Nn]ode\s+|NODE_DATA\(|kswapd)(\d+)", text)}
    return steps


def boot_view(steps: Iterable[BootStep]) -> list[dict[str, object]]:
    """The steps as JSON objects for browsers."""
    return [
        {
            "function": step.function,
            "what": step.what,
            "seconds": step.seconds,
            "nodes": sorted(step.nodes),
            "lines": step.lines[:LINES_SENT],
            "left_out": max(0, len(step.lines) - LINES_SENT),
        }
        for step in steps
    ]
