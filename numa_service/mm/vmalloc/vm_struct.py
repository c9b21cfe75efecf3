"""An area as its caller sees it: what it is for, and the pages that are mapped there."""

from __future__ import annotations

from dataclasses import astuple, dataclass, field
from typing import Any

from numa_service.mm.vmalloc.rules import PAGE_SIZE

# Flags of an area (include/linux/vmalloc.h).
VM_IOREMAP = 0x1
VM_ALLOC = 0x2
VM_MAP = 0x4
VM_USERMAP = 0x8
VM_DMA_COHERENT = 0x10
VM_NO_GUARD = 0x40
VM_FLUSH_RESET_PERMS = 0x100
VM_ALLOW_HUGE_VMAP = 0x400


@dataclass(slots=True, eq=False)
class VmStruct:
    """An area of a caller (struct vm_struct)."""

    addr: int
    #: In bytes, with the guard page.
    size: int
    flags: int
    #: The code that asked for it, as /proc/vmallocinfo prints it: "kernel_clone+0xbf/0x430".
    caller: str
    #: First pfns of the blocks that are mapped, in the order of addresses.
    pages: list[int] = field(default_factory=list)
    page_order: int = 0
    #: In pages of 4 KiB; 0 where the pages are not the area's (vmap, ioremap).
    nr_pages: int = 0
    #: Physical address that is mapped, of ioremap.
    phys_addr: int = 0
    #: Address of the array of page pointers if that is an area itself.
    pages_array: int | None = None
    #: Whom the area is for, as pages have owners: home node, its lineage, id there. None: the kernel's own.
    owner: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        if self.owner is not None:
            nid, lineage, id = self.owner  # a list, if it was read from a snapshot
            self.owner = nid, lineage, id

    @property
    def mapped_size(self) -> int:
        """The area's bytes without the guard page (get_vm_area_size)."""
        return self.size if self.flags & VM_NO_GUARD else self.size - PAGE_SIZE

    def dump(self) -> list[Any]:
        """All of it as plain data: the arguments of the constructor."""
        return list(astuple(self))
