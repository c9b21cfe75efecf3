"""``vmalloc_init`` and what maps kernel addresses while a kernel boots (``mm/vmalloc.c``, ``init/main.c``).

A machine that has just booted has no tasks, no modules and no drivers here, and nothing has been taken from
its zones. So it has the areas of a captured boot that have no pages of their own: the interrupt stacks of its
CPUs, and the timer that every PC has.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from numa_service.machine.spec import MachineSpec
from numa_service.mm.profile import profile_named
from numa_service.mm.vmalloc.rules import AddressLayout, boot_callers, i386_layout, rules_of, x86_64_layout
from numa_service.mm.vmalloc.vmalloc import Vmalloc

#: THREAD_SIZE of x86-64 in pages: an interrupt stack is as large (IRQ_STACK_SIZE).
_IRQ_STACK_PAGES = 4
#: Physical address of the HPET, which chipsets of Intel have in common.
_HPET_ADDRESS = 0xFED0_0000
_HPET_MMAP_SIZE = 1024


class _Frames:
    """The page frames of a machine: whose they are. Blocks of them come and go by requests of nodes."""

    def __init__(self, spec: MachineSpec) -> None:
        self._starts, self._nids = zip(
            *sorted((start, node.nid) for node in spec.nodes for start, _ in node.ram), strict=True
        )

    def alloc_pages(self, node: int, order: int, count: int) -> Sequence[int]:
        """No page: while a kernel boots here it takes none, and later nodes are asked for them."""
        return ()

    def free_pages(self, pfns: Sequence[int], order: int) -> None:
        """Nothing is kept."""

    def page_to_nid(self, pfn: int) -> int:
        """The node of a page."""
        return int(self._nids[bisect_right(self._starts, pfn) - 1])


def vmalloc_nid(spec: MachineSpec) -> int:
    """The node that keeps the areas of all: the first with memory and CPUs, or else with memory."""
    with_memory = [node for node in spec.nodes if node.ram]
    return next((node.nid for node in with_memory if node.cpus), with_memory[0].nid)


def layout_of(spec: MachineSpec) -> AddressLayout:
    """Where the kernel of a machine has its virtual addresses, without KASLR."""
    if spec.arch == "i386":
        return i386_layout(max(end for node in spec.nodes for _, end in node.ram))
    return x86_64_layout()


def boot_areas(spec: MachineSpec, totalram_pages: int) -> Vmalloc:
    """The kernel addresses of a machine that has booted."""
    cpus, profile = spec.cpus, profile_named(spec.profile)
    vmalloc = Vmalloc(
        layout_of(spec),
        rules_of(profile),
        _Frames(spec),
        online_nodes=len([node for node in spec.nodes if node.ram]),
        possible_cpus=len(cpus),
        totalram_pages=totalram_pages,
    )
    callers = boot_callers(profile, spec.arch)
    for nth in range(len(cpus)):
        if callers.irq_stack:
            vmalloc.vmap(_IRQ_STACK_PAGES, callers.irq_stack)
        if nth == 0 and callers.hpet:
            vmalloc.ioremap(_HPET_ADDRESS, _HPET_MMAP_SIZE, callers.hpet)
    if callers.acpi_hpet:
        vmalloc.ioremap(_HPET_ADDRESS, _HPET_MMAP_SIZE, callers.acpi_hpet)
    return vmalloc
