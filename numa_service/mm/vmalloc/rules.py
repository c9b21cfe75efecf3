"""What differs in vmalloc between kernel versions and between architectures, as data."""

from __future__ import annotations

from dataclasses import dataclass, replace

from numa_service.mm.profile import Profile

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT


def page_align(size: int) -> int:
    """PAGE_ALIGN: `size` in bytes, rounded up to whole pages."""
    return -(-size // PAGE_SIZE) * PAGE_SIZE


@dataclass(frozen=True, slots=True)
class VmallocRules:
    """Rules of one span of kernel versions."""

    #: First version (major, minor) with these rules.
    since: tuple[int, int]
    #: Parts of a module in the order in which load_module asks for their areas.
    module_parts: tuple[str, ...]
    #: Freed areas wait in vmap nodes, from which a CPU takes areas of the same size again (since 6.9). Else
    #: they wait in one list, in which neighbours become one area.
    vmap_nodes: bool
    #: An area is found by any address in it (since 3.11); else by its first one only.
    finds_inside: bool
    #: Areas are looked for in a tree that knows the largest free ones (since 5.2), with the alignment on top
    #: of the size. Else the lowest range that is aligned and large enough is taken.
    search_overshoots: bool
    #: Areas that wait for a purge are joined with their neighbours, and /proc/vmallocinfo shows them.
    merges_lazy: bool
    #: An ioremap area is aligned to its size rounded up to a power of two; until 3.11 a size that is one
    #: already was aligned to the next (fls).
    ioremap_order_rounds_up: bool
    #: VmallocUsed of /proc/meminfo counts pages (since 5.3); else the size of all areas with guard pages.
    counts_pages: bool
    #: What alloc_vmap_area prints when no free range is large enough.
    no_range: str
    #: What __vmalloc_node_range prints for more than all of RAM, and when there is no area.
    too_large: str
    no_area: str
    #: What __vmalloc_area_node prints when there are not enough pages: the size is that of those it got.
    no_pages: str
    #: What vunmap calls itself when it finds no area: it was __vunmap, which speaks of vfree, until 6.3.
    vunmap_name: str


#: What changed between 3.0 and 5.18 is not here: kernels between have these rules, unchecked.
_OLD_RULES = VmallocRules(
    since=(3, 0),
    module_parts=("core", "init"),
    vmap_nodes=False,
    finds_inside=False,
    search_overshoots=False,
    merges_lazy=False,
    ioremap_order_rounds_up=False,
    counts_pages=False,
    no_range="vmap allocation for size {size} failed: use vmalloc=<size> to increase size.",
    too_large="vmalloc: allocation failure: {size} bytes",
    no_area="vmalloc: allocation failure: {size} bytes",
    no_pages="vmalloc: allocation failure, allocated {size} of {wanted} bytes",
    vunmap_name="vfree",
)
_RULES = [
    _OLD_RULES,
    VmallocRules(
        since=(5, 18),  # callers ask for huge mappings by VM_ALLOW_HUGE_VMAP
        module_parts=("core", "init"),
        vmap_nodes=False,
        finds_inside=True,
        search_overshoots=True,
        merges_lazy=True,
        ioremap_order_rounds_up=True,
        counts_pages=True,
        no_range="vmap allocation for size {size} failed: use vmalloc=<size> to increase size",
        too_large="vmalloc error: size {size}, exceeds total pages",
        no_area="vmalloc error: size {size}, vm_struct allocation failed",
        no_pages="vmalloc error: size {size}, page order {order}, failed to allocate pages",
        vunmap_name="vfree",
    ),
]
_RULES.append(replace(_RULES[-1], since=(6, 3), vunmap_name="vunmap"))
_RULES.append(
    replace(
        _RULES[-1],
        since=(6, 4),  # struct module_memory, one area for each kind of memory
        module_parts=("text", "data", "rodata", "ro_after_init", "init_text", "init_data", "init_rodata"),
    )
)
_RULES.append(
    replace(
        _RULES[-1],
        since=(6, 5),  # and of huge pages that are not there, nothing: small ones are tried
        no_pages="vmalloc error: size {size}, failed to allocate pages",
    )
)
_RULES.append(replace(_RULES[-1], since=(6, 9), vmap_nodes=True))
_RULES.append(
    replace(
        _RULES[-1],
        since=(6, 11),
        no_range="vmalloc_node_range for size {size} failed: "
        "Address range restricted to {vstart:#x} - {vend:#x}",
    )
)


def vmalloc_rules(version: tuple[int, ...]) -> VmallocRules:
    """The rules of a kernel by its version (major, minor, …): those of the nearest older one that is here."""
    known = [rules for rules in _RULES if rules.since <= version]
    return known[-1] if known else _RULES[0]


def rules_of(profile: Profile) -> VmallocRules:
    """The rules of a profile's kernel."""
    return vmalloc_rules(profile.series)


@dataclass(frozen=True, slots=True)
class BootCallers:
    """Who maps kernel addresses without pages at boot, as a captured kernel prints it; "" for nobody."""

    irq_stack: str = ""
    hpet: str = ""
    acpi_hpet: str = ""


#: By version and architecture of captured boots. They depend on the build, as they say how far in a function.
_BOOT_CALLERS: dict[tuple[tuple[int, ...], str], BootCallers] = {
    ((6, 1), "x86_64"): BootCallers(
        "irq_init_percpu_irqstack+0xf0/0x120", "hpet_enable+0xef/0x46d", "acpi_os_map_iomem+0x1b6/0x1d0"
    ),
    ((6, 12), "x86_64"): BootCallers(
        "irq_init_percpu_irqstack+0xf4/0x130", "hpet_enable+0x9e/0x500", "acpi_os_map_iomem+0x1a9/0x1e0"
    ),
    ((6, 1), "i386"): BootCallers("", "hpet_enable+0xc7/0x3dc", "acpi_os_map_iomem+0x215/0x240"),
}


def boot_callers(profile: Profile, arch: str) -> BootCallers:
    """The callers of a profile's kernel; none if no boot of it was captured."""
    return _BOOT_CALLERS.get((profile.series, arch), BootCallers())


@dataclass(frozen=True, slots=True)
class AddressLayout:
    """Where an architecture has its kernel's virtual addresses. Ends are exclusive unless said."""

    vmalloc_start: int
    #: VMALLOC_END as the kernel has it: the last byte on x86-64, the first byte behind on i386.
    vmalloc_end: int
    modules_vaddr: int
    modules_end: int
    #: ULONG_MAX: the free tree begins as one area from 1 to here (vmap_init_free_space).
    ulong_max: int
    #: Size of a pointer in bytes, of which an area has one for each page.
    pointer: int
    #: Largest alignment of ioremap areas, as a power of two (IOREMAP_MAX_ORDER).
    ioremap_max_order: int
    #: Order of a huge mapping's pages, or None without HAVE_ARCH_HUGE_VMALLOC.
    huge_order: int | None
    #: Kernel stacks are vmalloc'ed (CONFIG_VMAP_STACK).
    vmap_stack: bool

    def __post_init__(self) -> None:
        if not 0 < self.vmalloc_start < self.vmalloc_end <= self.ulong_max:
            raise ValueError(f"no vmalloc space from {self.vmalloc_start:#x} to {self.vmalloc_end:#x}")


#: VMALLOC_START with four levels of page tables and without KASLR (Documentation/x86/x86_64/mm.rst).
_X86_64_START = 0xFFFF_C900_0000_0000
_PUD_SIZE = 1 << 30
#: VMALLOC_SIZE_TB_L4.
_X86_64_SIZE = 32 << 40


def x86_64_layout(vmalloc_start: int = _X86_64_START, module_load_offset: int = 0) -> AddressLayout:
    """x86-64. KASLR may move the start of vmalloc by 1 GiB steps, and that of modules by some pages.

    ValueError if a start is not one that KASLR gives (kernel_randomize_memory, get_module_load_offset).
    """
    if vmalloc_start % _PUD_SIZE:
        raise ValueError(f"vmalloc does not start at {vmalloc_start:#x}: not a multiple of 1 GiB")
    if module_load_offset % PAGE_SIZE or not 0 <= module_load_offset <= 1024 * PAGE_SIZE:
        raise ValueError(f"modules do not start {module_load_offset:#x} bytes late: by up to 1024 pages")
    return AddressLayout(
        vmalloc_start=vmalloc_start,
        vmalloc_end=vmalloc_start + _X86_64_SIZE - 1,
        modules_vaddr=0xFFFF_FFFF_C000_0000 + module_load_offset,
        modules_end=0xFFFF_FFFF_FF00_0000,
        ulong_max=(1 << 64) - 1,
        pointer=8,
        ioremap_max_order=30,
        huge_order=9,
        vmap_stack=True,
    )


_PAGE_OFFSET = 0xC000_0000
#: PKMAP_BASE less two pages, in a kernel with highmem and PAE.
_I386_VMALLOC_END = 0xFEFF_E000
#: VMALLOC_OFFSET: what is left free behind lowmem.
_VMALLOC_OFFSET = 8 << 20
#: __VMALLOC_RESERVE, which "vmalloc=" changes: lowmem ends where this much is left.
_VMALLOC_RESERVE = 128 << 20


def i386_layout(ram_pages: int, vmalloc: int | None = None) -> AddressLayout:
    """i386 with PAE and highmem, of a machine whose RAM ends at page `ram_pages`.

    Lowmem takes what RAM there is, up to MAXMEM; vmalloc and modules share what is behind it. `vmalloc`:
    bytes that the kernel parameter of that name asks for (parse_vmalloc).
    """
    reserve = _VMALLOC_RESERVE if vmalloc is None else vmalloc + _VMALLOC_OFFSET
    maxmem = _I386_VMALLOC_END - _PAGE_OFFSET - reserve
    start = _PAGE_OFFSET + min(ram_pages * PAGE_SIZE, maxmem) + _VMALLOC_OFFSET
    return AddressLayout(
        vmalloc_start=start,
        vmalloc_end=_I386_VMALLOC_END,
        modules_vaddr=start,
        modules_end=_I386_VMALLOC_END,
        ulong_max=(1 << 32) - 1,
        pointer=4,
        ioremap_max_order=21,
        huge_order=None,
        vmap_stack=False,
    )
