"""Areas of addresses from allocation to purge: alloc_vmap_area, free_vmap_area_noflush, and the lazy purge.

A freed area is unmapped at once, but may still be in some CPU's TLB. So it waits, and is free only after a
purge, which costs a flush of all TLBs for as many areas as wait: when too many pages wait, when no address is
left, when somebody changes page attributes (vm_unmap_aliases) or frees a module.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from numa_service.mm.vmalloc.free_tree import FreeTree
from numa_service.mm.vmalloc.rules import PAGE_SHIFT, PAGE_SIZE, AddressLayout, VmallocRules
from numa_service.mm.vmalloc.vm_struct import VmStruct

#: Areas of up to this many pages, guard page included, are kept in pools (MAX_VA_SIZE_PAGES).
_MAX_POOL_PAGES = 256
#: Addresses go to vmap nodes in turn, this many bytes each (vmap_zone_size).
_VMAP_ZONE_SIZE = 16 * PAGE_SIZE
#: As many vmap nodes as CPUs, but not more than this (vmap_init_nodes).
_MAX_VMAP_NODES = 128
#: What may wait for a purge, in pages, for each doubling of the CPUs (lazy_max_pages): 32 MiB.
_LAZY_PAGES = (32 << 20) >> PAGE_SHIFT


class VmallocError(Exception):
    """What the kernel prints when vmalloc refuses; nothing has changed."""


@dataclass(slots=True, eq=False)
class VmapArea:
    """A range of addresses that is in use, or that waits for a purge (struct vmap_area)."""

    va_start: int
    va_end: int
    #: The area of a caller that the addresses are for; None once it is freed.
    vm: VmStruct | None = None
    #: The vmap node in whose pool it goes when it is purged; None for an area of the global free tree.
    vn_id: int | None = None

    @property
    def size(self) -> int:
        """In bytes."""
        return self.va_end - self.va_start

    def dump(self) -> list[Any]:
        """All of it as plain data, which :meth:`load` reads."""
        return [self.va_start, self.va_end, self.vm.dump() if self.vm is not None else None, self.vn_id]

    @classmethod
    def load(cls, dumped: list[Any]) -> VmapArea:
        """Make it from what :meth:`dump` returned."""
        va_start, va_end, vm, vn_id = dumped
        return cls(va_start, va_end, VmStruct(*vm) if vm is not None else None, vn_id)


class SortedAreas:
    """Areas by address, none of which overlap."""

    def __init__(self, areas: Iterable[VmapArea] = ()) -> None:
        """Areas that are given by address."""
        self._areas = list(areas)
        self._starts = [area.va_start for area in self._areas]

    def __iter__(self) -> Iterator[VmapArea]:
        return iter(self._areas)

    def __len__(self) -> int:
        return len(self._areas)

    def find(self, address: int) -> VmapArea | None:
        """The area that has this address, guard page included (__find_vmap_area)."""
        at = bisect_right(self._starts, address) - 1
        return self._areas[at] if at >= 0 and address < self._areas[at].va_end else None

    def insert(self, area: VmapArea) -> None:
        """Add an area (insert_vmap_area)."""
        at = bisect_left(self._starts, area.va_start)
        self._starts.insert(at, area.va_start)
        self._areas.insert(at, area)

    def remove(self, area: VmapArea) -> None:
        """Take out an area that is here (unlink_va)."""
        at = bisect_left(self._starts, area.va_start)
        assert self._areas[at] is area
        del self._starts[at], self._areas[at]

    def merge(self, area: VmapArea) -> None:
        """Insert an area, joined with those that it touches (merge_or_add_vmap_area)."""
        below, above = self.find(area.va_start - 1), self.find(area.va_end)
        for neighbour in (below, above):
            if neighbour is not None:
                self.remove(neighbour)
        start = below.va_start if below is not None else area.va_start
        end = above.va_end if above is not None else area.va_end
        self.insert(VmapArea(start, end))


class VmapAreas:
    """Every area of a kernel: busy ones, ones that wait for a purge, and what is free."""

    def __init__(
        self, layout: AddressLayout, rules: VmallocRules, possible_cpus: int, online_cpus: int
    ) -> None:
        if not 0 < online_cpus <= possible_cpus:
            raise ValueError(f"{online_cpus} CPUs cannot be on-line of {possible_cpus}")
        self.layout = layout
        self.rules = rules
        self.online_cpus = online_cpus
        self.free = FreeTree(1, layout.ulong_max, overshoot=rules.search_overshoots)
        self.busy = SortedAreas()
        nodes = min(possible_cpus, _MAX_VMAP_NODES) if rules.vmap_nodes else 1
        #: What waits for a purge, by vmap node.
        self.lazy = [SortedAreas() for _ in range(nodes)]
        #: Areas for the CPUs of a vmap node to take again, by their pages; oldest first.
        self.pools: list[dict[int, deque[VmapArea]]] = [{} for _ in range(nodes)]
        #: Pages that wait for a purge (vmap_lazy_nr).
        self.lazy_pages = 0

    @property
    def lazy_max_pages(self) -> int:
        """How many pages may wait: it grows with the logarithm of the CPUs (lazy_max_pages)."""
        return self.online_cpus.bit_length() * _LAZY_PAGES

    def node_of_address(self, address: int) -> int:
        """The vmap node of an address (addr_to_node_id)."""
        return address // _VMAP_ZONE_SIZE % len(self.lazy)

    def by_node(self) -> Iterator[VmapArea]:
        """Busy areas in the order of /proc/vmallocinfo: vmap node by vmap node, in each by address."""
        for node in range(len(self.lazy)):
            for area in self.busy:
                if self.node_of_address(area.va_start) == node:
                    yield area

    def unpurged(self) -> Iterator[VmapArea]:
        """Areas that wait for a purge, as show_purge_info goes through them."""
        for waiting in self.lazy:
            yield from waiting

    def alloc_vmap_area(self, size: int, align: int, vstart: int, vend: int, cpu: int = 0) -> VmapArea:
        """`size` bytes of addresses, the lowest that the kernel finds in [vstart, vend).

        The request comes from `cpu`. `size` is whole pages and `align` a power of two of at least a page:
        ValueError otherwise. VmallocError if no free range is large enough after a purge.
        """
        if size <= 0 or size % PAGE_SIZE:
            raise ValueError(f"an area of {size} bytes is not one of whole pages")
        if align < PAGE_SIZE or align & (align - 1):
            raise ValueError(f"areas cannot be aligned to {align} bytes")
        vn_id = None
        start = None
        if len(self.lazy) > 1 and (vstart, vend) == (self.layout.vmalloc_start, self.layout.vmalloc_end):
            vn_id = cpu % len(self.lazy)
            start = self._take_from_pool(vn_id, size, align)
        if start is None:
            start = self.free.allocate(size, align, vstart, vend)
        if start is None:
            self.reclaim_and_purge_vmap_areas()
            start = self.free.allocate(size, align, vstart, vend)
        if start is None:
            raise VmallocError(self.rules.no_range.format(size=size, vstart=vstart, vend=vend))
        area = VmapArea(start, start + size, vn_id=vn_id)
        self.busy.insert(area)
        return area

    def take(self, start: int, end: int) -> VmapArea:
        """An area of exactly these addresses; VmallocError if they are not all free."""
        if not self.free.take(start, end):
            raise VmallocError(self.rules.no_range.format(size=end - start, vstart=start, vend=end))
        area = VmapArea(start, end)
        self.busy.insert(area)
        return area

    def find_vmap_area(self, address: int) -> VmapArea | None:
        """The busy area that has this address (find_vmap_area); until 3.10 only by its first address."""
        area = self.busy.find(address)
        if area is not None and area.va_start != address and not self.rules.finds_inside:
            return None
        return area

    def free_vmap_area(self, area: VmapArea) -> None:
        """A busy area waits from now on; too many waiting pages are purged (free_vmap_area_noflush).

        The kernel leaves the purge to a work item (drain_vmap_area_work); here it is done before this
        returns.
        """
        self.busy.remove(area)
        area.vm = None
        self.lazy_pages += area.size >> PAGE_SHIFT
        if not self.rules.vmap_nodes:
            add = self.lazy[0].merge if self.rules.merges_lazy else self.lazy[0].insert
            add(area)
        else:
            node = area.vn_id if area.vn_id is not None else self.node_of_address(area.va_start)
            self.lazy[node].insert(area)
        if self.lazy_pages > self.lazy_max_pages:
            self.purge_vmap_area_lazy()

    def purge_vmap_area_lazy(self) -> int:
        """Make free what waits, and return how many areas that were (__purge_vmap_area_lazy).

        With vmap nodes, areas go into the pools they came from, which lose a quarter of what they have first.
        """
        return self._purge(whole_pools=False)

    def reclaim_and_purge_vmap_areas(self) -> int:
        """A purge when no address is left: the pools of vmap nodes are emptied, too."""
        return self._purge(whole_pools=True)

    def _purge(self, *, whole_pools: bool) -> int:
        purged = 0
        for node, waiting in enumerate(self.lazy):
            self._decay_pools(node, whole=whole_pools)
            areas = list(waiting)
            self.lazy[node] = SortedAreas()
            purged += len(areas)
            for area in areas:
                self.lazy_pages -= area.size >> PAGE_SHIFT
                pages = area.size >> PAGE_SHIFT
                if area.vn_id is not None and not whole_pools and pages <= _MAX_POOL_PAGES:
                    self.pools[node].setdefault(pages, deque()).append(area)
                else:
                    self.free.add(area.va_start, area.va_end)
        return purged

    def _take_from_pool(self, node: int, size: int, align: int) -> int | None:
        """The oldest pooled area of this size; a misaligned one goes to the end (node_pool_del_va)."""
        pool = self.pools[node].get(size >> PAGE_SHIFT)
        if not pool:
            return None
        if pool[0].va_start % align:
            pool.rotate(-1)
            return None
        return pool.popleft().va_start

    def _decay_pools(self, node: int, *, whole: bool) -> None:
        """Give back a quarter of each pool, or all of it (decay_va_pool_node).

        A pool of fewer than four areas has no quarter, and the kernel's count then runs down from zero and
        never ends: all of that pool goes.
        """
        for pool in self.pools[node].values():
            quarter = len(pool) >> 2
            for _ in range(quarter if quarter and not whole else len(pool)):
                area = pool.popleft()
                self.free.add(area.va_start, area.va_end)

    # snapshots

    def dump(self) -> list[Any]:
        """All areas as plain data, which :meth:`load` reads."""
        return [
            self.free.dump(),
            [area.dump() for area in self.busy],
            [[area.dump() for area in waiting] for waiting in self.lazy],
            [
                [(pages, [area.dump() for area in pool]) for pages, pool in sorted(pools.items())]
                for pools in self.pools
            ],
        ]

    def load(self, dumped: list[Any]) -> None:
        """Replace all areas by those that :meth:`dump` returned."""
        free, busy, lazy, pools = dumped
        self.free.load(free)
        self.busy = SortedAreas(map(VmapArea.load, busy))
        self.lazy = [SortedAreas(map(VmapArea.load, waiting)) for waiting in lazy]
        self.pools = [{pages: deque(map(VmapArea.load, pool)) for pages, pool in of} for of in pools]
        self.lazy_pages = sum(area.size >> PAGE_SHIFT for area in self.unpurged())
