"""What callers use: vmalloc and vfree, vmap and vunmap, ioremap and iounmap, over areas and pages.

Every area ends with a guard page that is not mapped, unless VM_NO_GUARD is given. A request says on which CPU
and under which policy it runs, where that counts; nothing here knows of tasks.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from numa_service.mm.snapshot import VmallocSnapshot, VmAreaSnapshot
from numa_service.mm.vmalloc.pages import NUMA_NO_NODE, Interleave, PageSource, vm_area_alloc_pages
from numa_service.mm.vmalloc.rules import PAGE_SHIFT, PAGE_SIZE, AddressLayout, VmallocRules, page_align
from numa_service.mm.vmalloc.vm_struct import (
    VM_ALLOC,
    VM_ALLOW_HUGE_VMAP,
    VM_FLUSH_RESET_PERMS,
    VM_IOREMAP,
    VM_MAP,
    VM_NO_GUARD,
    VmStruct,
)
from numa_service.mm.vmalloc.vmap_area import VmallocError, VmapAreas


class Vmalloc:
    """The kernel virtual memory of one machine."""

    def __init__(
        self,
        layout: AddressLayout,
        rules: VmallocRules,
        source: PageSource,
        *,
        online_nodes: int = 1,
        possible_cpus: int = 1,
        online_cpus: int | None = None,
        totalram_pages: int,
    ) -> None:
        self.layout = layout
        self.rules = rules
        self.source = source
        self.online_nodes = online_nodes
        self.totalram_pages = totalram_pages
        online = possible_cpus if online_cpus is None else online_cpus
        self.areas = VmapAreas(layout, rules, possible_cpus, online)
        #: Pages that vmalloc has: VmallocUsed of /proc/meminfo, in pages (nr_vmalloc_pages).
        self.nr_vmalloc_pages = 0

    # areas without pages

    def get_vm_area(
        self,
        size: int,
        flags: int,
        caller: str,
        *,
        align: int = PAGE_SIZE,
        start: int | None = None,
        end: int | None = None,
        cpu: int = 0,
    ) -> VmStruct:
        """Addresses for `size` bytes, and a guard page behind (__get_vm_area_node).

        An area of VM_IOREMAP is aligned to its size, rounded up to a power of two, so that huge pages can map
        it. VmallocError if there are none; ValueError for no bytes.
        """
        size = page_align(size)
        if size <= 0:
            raise ValueError("an area has to have a page")
        if flags & VM_IOREMAP:
            order = (size - self.rules.ioremap_order_rounds_up).bit_length()
            align = 1 << min(max(order, PAGE_SHIFT), self.layout.ioremap_max_order)
        if not flags & VM_NO_GUARD:
            size += PAGE_SIZE
        vstart = self.layout.vmalloc_start if start is None else start
        vend = self.layout.vmalloc_end if end is None else end
        va = self.areas.alloc_vmap_area(size, align, vstart, vend, cpu)
        va.vm = VmStruct(va.va_start, size, flags, caller)
        return va.vm

    def find_vm_area(self, addr: int) -> VmStruct | None:
        """The caller's area that has this address, guard page included (find_vm_area).

        Until 3.10 an area has but its first address.
        """
        va = self.areas.find_vmap_area(addr)
        return va.vm if va is not None else None

    def vm_unmap_aliases(self) -> None:
        """Purge what waits: who changes the attributes of pages wants no other mapping of them."""
        self.areas.purge_vmap_area_lazy()

    # vmalloc

    def vmalloc(
        self,
        size: int,
        caller: str,
        *,
        node: int = NUMA_NO_NODE,
        flags: int = 0,
        align: int = PAGE_SIZE,
        start: int | None = None,
        end: int | None = None,
        cpu: int = 0,
        policy: Interleave | None = None,
    ) -> VmStruct:
        """`size` bytes of pages, mapped one behind the other (__vmalloc_node_range).

        With VM_ALLOW_HUGE_VMAP (vmalloc_huge) an area whose share of each node is a huge page or more is made
        of huge pages, or of small ones if there are none. VmallocError, with what the kernel prints: not so
        many pages in the machine, no addresses, no pages. ValueError for no bytes, of which the kernel only
        warns.
        """
        if size <= 0:
            raise ValueError("vmalloc of nothing")
        if size >> PAGE_SHIFT > self.totalram_pages:
            raise VmallocError(self.rules.too_large.format(size=size))
        order = self.huge_order(size, node) if flags & VM_ALLOW_HUGE_VMAP else 0
        if order:
            huge = PAGE_SIZE << order
            rounded = -(-size // huge) * huge
            try:
                return self._vmalloc(
                    rounded, order, max(align, huge), caller, node, flags, start, end, cpu, policy
                )
            except VmallocError:
                pass  # on to small pages
        return self._vmalloc(size, 0, align, caller, node, flags, start, end, cpu, policy)

    def huge_order(self, size: int, node: int) -> int:
        """The order of the pages that an area of VM_ALLOW_HUGE_VMAP is tried with first; 0: small ones."""
        order = self.layout.huge_order
        if order is None:
            return 0
        share = size // self.online_nodes if node == NUMA_NO_NODE else size
        return order if share >= PAGE_SIZE << order else 0

    def _vmalloc(
        self,
        size: int,
        order: int,
        align: int,
        caller: str,
        node: int,
        flags: int,
        start: int | None,
        end: int | None,
        cpu: int,
        policy: Interleave | None,
    ) -> VmStruct:
        """An area, the array of its pages, and these (__vmalloc_area_node)."""
        try:
            area = self.get_vm_area(
                size, VM_ALLOC | flags, caller, align=align, start=start, end=end, cpu=cpu
            )
        except VmallocError as none:
            raise VmallocError(f"{none}\n{self.rules.no_area.format(size=size)}") from none
        nr_pages = area.mapped_size >> PAGE_SHIFT
        array = self.array_size(nr_pages)
        if array:
            try:
                area.pages_array = self.vmalloc(array, caller, node=node, cpu=cpu, policy=policy).addr
            except VmallocError as none:
                self._remove(area)
                text = f"{none}\nvmalloc error: size {size}, failed to allocated page array size {array}"
                raise VmallocError(text) from none
        pages = vm_area_alloc_pages(self.source, node, order, nr_pages, policy)
        self.map_pages(area, pages, order)
        if area.nr_pages != nr_pages:
            self._free(area)
            raise VmallocError(self.no_pages(area.size, order, area.nr_pages))
        return area

    def array_size(self, nr_pages: int) -> int:
        """Bytes of the area for pointers to so many pages; 0 if they fit in a page, of kmalloc."""
        array = nr_pages * self.layout.pointer
        return array if array > PAGE_SIZE else 0

    def map_pages(self, area: VmStruct, pages: list[int], order: int) -> None:
        """Give an area its pages: the first pfns of blocks of 2**order."""
        area.pages, area.page_order = pages, order
        area.nr_pages = len(pages) << order
        self.nr_vmalloc_pages += area.nr_pages

    def no_pages(self, size: int, order: int, nr_pages: int) -> str:
        """What the kernel prints of an area, of so many bytes with its guard page, that got too few pages."""
        return self.rules.no_pages.format(size=nr_pages << PAGE_SHIFT, wanted=size, order=order)

    def vfree(self, addr: int) -> None:
        """Free the area that has this address; 0 is nothing to free.

        As the kernel looks areas up by any of their addresses, a page inside one frees all of it.
        VmallocError with the kernel's report, and nothing changes, for an address that is not a page's and
        for one that no area has. An area of VM_FLUSH_RESET_PERMS is purged at once (vm_reset_perms).
        """
        area = self.area_to_free(addr, "vfree")
        if area is None:
            return
        self._free(area)
        if area.flags & VM_FLUSH_RESET_PERMS:
            self.vm_unmap_aliases()

    def area_to_free(self, addr: int, name: str) -> VmStruct | None:
        """The area that vfree or vunmap, called `name`, would free; None for address 0; VmallocError."""
        if not addr:
            return None
        if addr % PAGE_SIZE:
            raise VmallocError(f"Trying to vfree() bad address ({self.pointer(addr)})")
        area = self.find_vm_area(addr)
        if area is None:
            raise VmallocError(f"Trying to {name}() nonexistent vm area ({self.pointer(addr)})")
        return area

    def pointer(self, addr: int) -> str:
        """An address as %p prints it where pointers are not hashed."""
        return f"{addr:0{2 * self.layout.pointer}x}"

    def _remove(self, area: VmStruct) -> None:
        """Unmap an area: its addresses wait for a purge (remove_vm_area)."""
        va = self.areas.find_vmap_area(area.addr)
        assert va is not None
        self.areas.free_vmap_area(va)

    def _free(self, area: VmStruct) -> None:
        self.unmap_pages(area)
        if area.nr_pages:
            self.source.free_pages(area.pages, area.page_order)
        if area.pages_array is not None:
            self.vfree(area.pages_array)

    def unmap_pages(self, area: VmStruct) -> None:
        """End an area; its pages and the area of its page pointers are the caller's to free."""
        self._remove(area)
        self.nr_vmalloc_pages -= area.nr_pages

    def pages_per_node(self, area: VmStruct) -> dict[int, int]:
        """Pages of an area by node, in the order of nodes (show_numa_info)."""
        count: Counter[int] = Counter()
        for pfn in area.pages:
            count[self.source.page_to_nid(pfn)] += 1 << area.page_order
        return dict(sorted(count.items()))

    # pages of others

    def vmap(self, count: int, caller: str, *, flags: int = VM_MAP, cpu: int = 0) -> VmStruct:
        """Addresses at which `count` pages of somebody else's are mapped; vunmap leaves those alone.

        VmallocError for more pages than the machine has, of which the kernel says nothing.
        """
        if count > self.totalram_pages:
            raise VmallocError(f"vmap of {count} pages exceeds total pages")
        return self.get_vm_area(count << PAGE_SHIFT, flags, caller, cpu=cpu)

    def vunmap(self, addr: int) -> None:
        """End a mapping by vmap; 0 is none. VmallocError with the kernel's report, as vfree."""
        area = self.area_to_free(addr, self.rules.vunmap_name)
        if area is not None:
            self._remove(area)

    def ioremap(self, phys_addr: int, size: int, caller: str, *, cpu: int = 0) -> int:
        """The address at which `size` bytes from `phys_addr` on are mapped (__ioremap_caller).

        ValueError for no bytes and for a range that wraps around, for which the kernel returns NULL.
        """
        last = phys_addr + size - 1
        if size <= 0 or phys_addr < 0 or last > self.layout.ulong_max:
            raise ValueError(f"cannot map {size} bytes at {phys_addr:#x}")
        offset = phys_addr % PAGE_SIZE
        area = self.get_vm_area(page_align(offset + size), VM_IOREMAP, caller, cpu=cpu)
        area.phys_addr = phys_addr - offset
        return area.addr + offset

    def iounmap(self, addr: int) -> None:
        """End a mapping by ioremap; VmallocError with the kernel's report if there is none."""
        area = self.find_vm_area(addr - addr % PAGE_SIZE)
        if area is None:
            raise VmallocError(f"iounmap: bad address {self.pointer(addr)}")
        self._remove(area)

    # snapshots

    def dump(self) -> list[Any]:
        """All of it that changes, as plain data, which :meth:`load` reads."""
        return [self.areas.dump(), self.nr_vmalloc_pages]

    def load(self, dumped: list[Any]) -> None:
        """Replace what changes by what :meth:`dump` returned."""
        areas, self.nr_vmalloc_pages = dumped
        self.areas.load(areas)

    def snapshot(self) -> VmallocSnapshot:
        """The areas as /proc/vmallocinfo and /proc/meminfo show them."""
        shown = tuple(
            VmAreaSnapshot(
                start=vm.addr,
                end=vm.addr + vm.size,
                caller=vm.caller,
                nr_pages=vm.nr_pages,
                phys_addr=vm.phys_addr,
                flags=vm.flags,
                vpages=vm.pages_array is not None,
                pages_per_node=self.pages_per_node(vm),
            )
            for vm in (area.vm for area in self.areas.by_node())
            if vm is not None
        )
        used = self.nr_vmalloc_pages
        if not self.rules.counts_pages:
            used = sum(area.end - area.start for area in shown) >> PAGE_SHIFT
        waiting = tuple((area.va_start, area.va_end) for area in self.areas.unpurged())
        return VmallocSnapshot(
            areas=shown,
            unpurged=waiting if self.rules.merges_lazy else (),
            used_pages=used,
            pointer=self.layout.pointer,
        )
