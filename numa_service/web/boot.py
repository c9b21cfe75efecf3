"""The boot of a machine in steps: its boot log, cut where the kernel goes on to the next function."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

#: Lines of a step that are sent; a machine of 64 nodes prints thousands.
LINES_SENT = 200


@dataclass(slots=True)
class BootStep:
    """One step."""

    #: The kernel's function.
    function: str
    #: What it does, for people.
    what: str
    lines: list[str] = field(default_factory=list)
    #: Nodes that its lines name.
    nodes: set[int] = field(default_factory=set)
    seconds: float = 0.0


#: In the kernel's order: what the first line of each step looks like.
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
    (r"kswapd\d+", "kswapd_init", "Watermarks are set, pagesets sized; a kswapd a node goes to sleep."),
)


def boot_steps(dmesg: Iterable[tuple[float, str]]) -> list[BootStep]:
    """The boot log in steps. A step never goes back: a line that starts none belongs to the one under way."""
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
    """As browsers get it."""
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
