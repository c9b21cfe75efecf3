"""Where a slab allocator gets its pages, and the addresses at which they are mapped."""

from __future__ import annotations

from typing import Protocol

from numa_service.mm.slab.kmem_cache import I386, PAGE_SHIFT, PAGE_SIZE, X86_64, SlabArch

#: The caller has no preference for a node.
NUMA_NO_NODE = -1
#: What kmalloc returns for no bytes at all.
ZERO_SIZE_PTR = 16


class PageSource(Protocol):
    """The page allocator, as far as slab allocators use it."""

    def alloc_pages(self, node: int, order: int, gfp: int) -> tuple[int, int] | None:
        """First pfn and node of 2 ** `order` contiguous pages; None: there are none.

        `node` is where the search begins, NUMA_NO_NODE the node of the calling CPU.
        """

    def free_pages(self, pfn: int, order: int) -> None:
        """Give back what alloc_pages returned."""


def page_address(pfn: int, arch: SlabArch = X86_64) -> int:
    """Where the direct map has a page of low memory (page_address)."""
    return arch.page_offset + (pfn << PAGE_SHIFT)


def virt_to_pfn(address: int) -> int:
    """The page at an address of the direct map. One of 32 bits can only be a 32-bit kernel's."""
    arch = I386 if address < 1 << 32 else X86_64
    return address - arch.page_offset >> PAGE_SHIFT


def offset_in_page(address: int) -> int:
    """Bytes from the start of the page."""
    return address & (PAGE_SIZE - 1)
