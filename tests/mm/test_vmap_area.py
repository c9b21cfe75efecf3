"""Areas of addresses: the free tree and the lazy purge, beside a reference that has neither."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from mm.reference_areas import ReferenceAreas

from numa_service.mm.profile import LINUX_3_0, LINUX_6_1, LINUX_6_12
from numa_service.mm.vmalloc.free_tree import FreeArea, FreeTree
from numa_service.mm.vmalloc.rules import (
    PAGE_SIZE,
    AddressLayout,
    i386_layout,
    rules_of,
    vmalloc_rules,
    x86_64_layout,
)
from numa_service.mm.vmalloc.vmap_area import VmallocError, VmapArea, VmapAreas

OLD, NODES = (6, 1), (6, 12)


def layout(pages: int) -> AddressLayout:
    """A vmalloc space of so many pages."""
    start = 1 << 20
    return AddressLayout(
        vmalloc_start=start,
        vmalloc_end=start + pages * PAGE_SIZE,
        modules_vaddr=start,
        modules_end=start + pages * PAGE_SIZE,
        ulong_max=(1 << 32) - 1,
        pointer=8,
        ioremap_max_order=30,
        huge_order=9,
        vmap_stack=True,
    )


def areas(pages: int = 64, version: tuple[int, int] = OLD, cpus: int = 4) -> VmapAreas:
    return VmapAreas(layout(pages), vmalloc_rules(version), cpus, cpus)


def alloc(model: VmapAreas, pages: int, align: int = 1, cpu: int = 0) -> VmapArea:
    space = model.layout
    return model.alloc_vmap_area(
        pages * PAGE_SIZE, align * PAGE_SIZE, space.vmalloc_start, space.vmalloc_end, cpu
    )


def page(model: VmapAreas, area: VmapArea) -> int:
    """Which page of the space an area begins at."""
    return (area.va_start - model.layout.vmalloc_start) // PAGE_SIZE


def check_tree(tree: FreeTree) -> list[tuple[int, int]]:
    """Free ranges by address; that the tree is red-black, in order, and knows its largest areas."""

    def walk(node: FreeArea | None, parent: FreeArea | None) -> int:
        if node is None:
            return 1
        assert node.parent is parent
        assert not (node.red and parent is not None and parent.red)
        blacks = walk(node.left, node)
        assert blacks == walk(node.right, node)
        assert node.max_size == node.compute_max_size()
        return blacks + (not node.red)

    assert tree.root is None or not tree.root.red
    walk(tree.root, None)
    ranges = [(area.va_start, area.va_end) for area in tree]
    assert all(low < high for low, high in ranges)
    assert all(before[1] < after[0] for before, after in pairwise(ranges))
    return ranges


class Machine(RuleBasedStateMachine):
    """Areas of one kernel without vmap nodes, whose space is small enough to run out."""

    PAGES = 96

    def __init__(self) -> None:
        super().__init__()
        self.model = areas(self.PAGES)
        space = self.model.layout
        self.reference = ReferenceAreas(1, space.ulong_max)
        self.busy: list[VmapArea] = []

    @initialize(pages=st.lists(st.integers(1, 6), max_size=20))
    def some(self, pages: list[int]) -> None:
        for count in pages:
            self.alloc(count, 1, 0, self.PAGES)

    @rule(
        pages=st.integers(1, 12),
        align=st.sampled_from([1, 1, 1, 2, 4, 8]),
        first=st.integers(0, 40),
        last=st.integers(41, 96),
    )
    def alloc(self, pages: int, align: int, first: int, last: int) -> None:
        space = self.model.layout
        vstart, vend = space.vmalloc_start + first * PAGE_SIZE, space.vmalloc_start + last * PAGE_SIZE
        size, step = pages * PAGE_SIZE, align * PAGE_SIZE
        try:
            area = self.model.alloc_vmap_area(size, step, vstart, vend)
        except VmallocError:
            # it has purged, and then nothing is there; an alignment may have cost it what is
            self.reference.purge()
            exact = align == 1 or vend - vstart == size
            surely, begins = (size, step) if exact else (size + step - 1, PAGE_SIZE)
            assert self.reference.fitting(surely, begins, vstart, vend) == []
            return
        places = self.reference.fitting(size, step, vstart, vend)
        if self.reference.waiting and self.model.lazy_pages == 0:
            # nothing was found at first; what is free and aligned is not always seen
            assert places == [] or align > 1
            self.reference.purge()
            places = self.reference.fitting(size, step, vstart, vend)
        if align == 1:
            assert area.va_start == places[0]
        else:
            # not always the lowest place, but never beyond the lowest that is large enough however it begins
            assert area.va_start in places
            if first == 0 and (large := self.reference.fitting(size + step - 1, PAGE_SIZE, vstart, vend)):
                assert area.va_start <= -(-large[0] // step) * step
        assert area.va_end == area.va_start + size
        self.reference.take(area.va_start, size)
        self.busy.append(area)

    @precondition(lambda self: self.busy)
    @rule(which=st.integers(0, 1 << 30))
    def free(self, which: int) -> None:
        area = self.busy.pop(which % len(self.busy))
        self.model.free_vmap_area(area)
        self.reference.free(area.va_start)

    @rule()
    def purge(self) -> None:
        self.model.purge_vmap_area_lazy()
        self.reference.purge()

    @rule(at=st.integers(0, 96 * PAGE_SIZE))
    def find(self, at: int) -> None:
        address = self.model.layout.vmalloc_start + at
        found = self.model.find_vmap_area(address)
        expected = [area for area in self.busy if area.va_start <= address < area.va_end]
        assert [found] == (expected or [None])

    @invariant()
    def the_same_is_free(self) -> None:
        assert check_tree(self.model.free) == self.reference.holes()
        waiting = self.reference.waiting
        assert self.model.lazy_pages * PAGE_SIZE == sum(self.reference.taken[at] for at in waiting)


def test_areas_are_where_a_sorted_list_has_them() -> None:
    run_state_machine_as_test(
        Machine, settings=settings(max_examples=60, stateful_step_count=60, deadline=None, derandomize=True)
    )


def test_the_lowest_hole_that_fits() -> None:
    model = areas()
    first, second, third = alloc(model, 3), alloc(model, 2), alloc(model, 4)
    assert [page(model, area) for area in (first, second, third)] == [0, 3, 5]
    model.free_vmap_area(second)
    assert page(model, alloc(model, 2)) == 9  # not purged, not free
    model.purge_vmap_area_lazy()
    assert page(model, alloc(model, 2)) == 3


class Space(RuleBasedStateMachine):
    """Areas of a kernel with vmap nodes: whatever happens, each address is in one place."""

    PAGES = 128

    def __init__(self) -> None:
        super().__init__()
        self.model = areas(self.PAGES, NODES, cpus=3)
        self.busy: list[VmapArea] = []

    @rule(pages=st.integers(1, 8), align=st.sampled_from([1, 1, 4]), cpu=st.integers(0, 5))
    def alloc(self, pages: int, align: int, cpu: int) -> None:
        pool = list(self.model.pools[cpu % 3].get(pages, ()))
        try:
            area = alloc(self.model, pages, align, cpu)
        except VmallocError:
            assert not any(any(pools.values()) for pools in self.model.pools)
            assert self.model.lazy_pages == 0
            return
        assert area.va_start % (align * PAGE_SIZE) == 0
        if pool and pool[0].va_start % (align * PAGE_SIZE) == 0:
            assert area.va_start == pool[0].va_start
        self.busy.append(area)

    @precondition(lambda self: self.busy)
    @rule(which=st.integers(0, 1 << 30))
    def free(self, which: int) -> None:
        self.model.free_vmap_area(self.busy.pop(which % len(self.busy)))

    @rule(whole=st.booleans())
    def purge(self, whole: bool) -> None:
        if whole:
            self.model.reclaim_and_purge_vmap_areas()
            assert not any(any(pools.values()) for pools in self.model.pools)
        else:
            self.model.purge_vmap_area_lazy()
        assert list(self.model.unpurged()) == []

    @invariant()
    def every_address_is_in_one_place(self) -> None:
        everywhere = check_tree(self.model.free)
        pooled = [area for pools in self.model.pools for pool in pools.values() for area in pool]
        waiting = list(self.model.unpurged())
        assert self.model.lazy_pages == sum(area.size for area in waiting) // PAGE_SIZE
        everywhere += [(area.va_start, area.va_end) for area in (*self.busy, *pooled, *waiting)]
        everywhere.sort()
        assert everywhere[0][0] == 1
        assert everywhere[-1][1] == self.model.layout.ulong_max
        assert all(before[1] == after[0] for before, after in pairwise(everywhere))


def test_no_address_is_lost_between_vmap_nodes() -> None:
    run_state_machine_as_test(
        Space, settings=settings(max_examples=40, stateful_step_count=60, deadline=None, derandomize=True)
    )


def two_holes(freed: tuple[int, int]) -> VmapAreas:
    """A space with holes of eight pages at pages 8 and 24, freed in this order, and all behind page 40."""
    model = areas(1024)
    blocks = [alloc(model, 8) for _ in range(5)]
    for nth in freed:
        model.free_vmap_area(blocks[nth])
        model.purge_vmap_area_lazy()
    return model


@pytest.mark.parametrize(("freed", "taken"), [((1, 3), [8, 24]), ((3, 1), [24, 8])])
def test_an_aligned_search_does_not_see_every_hole_that_fits(
    freed: tuple[int, int], taken: list[int]
) -> None:
    """It goes by subtrees with a hole of the size and the alignment together, so by the shape of the tree.

    A search without alignment finds the lowest all the same, and so does one in a range of just the size.
    """
    model = two_holes(freed)
    assert [page(model, alloc(model, 8, align=8)) for _ in freed] == taken
    model = two_holes(freed)
    assert page(model, alloc(model, 8)) == 8
    model = two_holes(freed)
    there, end = (model.layout.vmalloc_start + at * PAGE_SIZE for at in (8, 16))
    assert page(model, model.alloc_vmap_area(8 * PAGE_SIZE, 8 * PAGE_SIZE, there, end)) == 8


def test_freed_neighbours_wait_as_one_area() -> None:
    model = areas()
    blocks = [alloc(model, 2) for _ in range(4)]
    for nth in (0, 2, 1):
        model.free_vmap_area(blocks[nth])
    assert [(page(model, area), area.size // PAGE_SIZE) for area in model.unpurged()] == [(0, 6)]
    assert model.purge_vmap_area_lazy() == 1
    assert model.lazy_pages == 0


@pytest.mark.parametrize(("cpus", "pages"), [(1, 8192), (2, 16384), (4, 24576), (8, 32768)])
def test_too_many_waiting_pages_are_purged(cpus: int, pages: int) -> None:
    """32 MiB for each doubling of the on-line CPUs: what goes beyond is purged, and all else with it."""
    model = areas(1 << 17, cpus=cpus)
    assert model.lazy_max_pages == pages
    large, one = alloc(model, pages), alloc(model, 1)
    model.free_vmap_area(large)
    assert model.lazy_pages == pages
    model.free_vmap_area(one)
    assert model.lazy_pages == 0
    assert page(model, alloc(model, pages)) == 0


def test_no_addresses_are_left_until_what_waits_is_purged() -> None:
    model = areas(8)
    first = alloc(model, 5)
    alloc(model, 3)
    with pytest.raises(
        VmallocError, match="vmap allocation for size 4096 failed: use vmalloc=<size> to increase size"
    ):
        alloc(model, 1)
    model.free_vmap_area(first)
    assert page(model, alloc(model, 5)) == 0


def test_a_kernel_with_vmap_nodes_says_where_there_was_no_room() -> None:
    model = areas(8, NODES)
    alloc(model, 8)
    with pytest.raises(VmallocError) as refused:
        alloc(model, 1)
    assert str(refused.value) == (
        "vmalloc_node_range for size 4096 failed: Address range restricted to 0x100000 - 0x108000"
    )


def test_a_cpu_takes_an_area_of_its_vmap_node_again() -> None:
    """The oldest of its size, not the lowest; another CPU's request goes to the free tree."""
    model = areas(256, NODES)
    blocks = [alloc(model, 5, cpu=1) for _ in range(8)]
    for nth in (6, 2, 4, 0):
        model.free_vmap_area(blocks[nth])
    assert [page(model, area) for area in model.unpurged()] == [0, 10, 20, 30]  # they wait by address
    model.purge_vmap_area_lazy()
    assert page(model, alloc(model, 5, cpu=0)) == 40
    assert page(model, alloc(model, 5, cpu=5)) == 0  # CPU 5 has the vmap node of CPU 1
    assert page(model, alloc(model, 5, cpu=1)) == 10
    assert page(model, alloc(model, 4, cpu=1)) == 45


def test_a_pooled_area_that_is_not_aligned_goes_to_the_end() -> None:
    model = areas(256, NODES)
    blocks = [alloc(model, 5, cpu=1) for _ in range(6)]
    for nth in (1, 4):
        model.free_vmap_area(blocks[nth])
    model.purge_vmap_area_lazy()
    assert page(model, alloc(model, 5, align=4, cpu=1)) == 32
    assert page(model, alloc(model, 5, align=4, cpu=1)) == 20


def test_pools_lose_a_quarter_at_a_purge_and_all_when_addresses_are_short() -> None:
    model = areas(64, NODES)
    blocks = [alloc(model, 5, cpu=1) for _ in range(12)]
    for block in blocks[:8]:
        model.free_vmap_area(block)
    model.purge_vmap_area_lazy()
    model.purge_vmap_area_lazy()
    assert len(model.pools[1][5]) == 6
    assert page(model, alloc(model, 30)) == 0  # the first ten pages were free, the pool's are too now
    assert not model.pools[1][5]


def test_small_pools_are_given_back_whole() -> None:
    model = areas(64, NODES)
    for block in [alloc(model, 5, cpu=1) for _ in range(3)]:
        model.free_vmap_area(block)
    model.purge_vmap_area_lazy()
    assert len(model.pools[1][5]) == 3
    model.purge_vmap_area_lazy()
    assert not model.pools[1][5]


def test_areas_are_shown_by_vmap_node() -> None:
    """64 KiB of addresses belong to each in turn."""
    model = areas(256, NODES)
    for _ in range(6):
        alloc(model, 12)
    assert [page(model, area) for area in model.by_node()] == [0, 12, 24, 36, 48, 60]
    assert [model.node_of_address(area.va_start) for area in model.by_node()] == [0, 0, 1, 2, 3, 3]


def test_what_is_no_area_is_refused() -> None:
    model = areas()
    for size in (0, -PAGE_SIZE, 100):
        with pytest.raises(ValueError, match="not one of whole pages"):
            model.alloc_vmap_area(size, PAGE_SIZE, 0, 1 << 30)
    for align in (0, 3 * PAGE_SIZE, 64):
        with pytest.raises(ValueError, match="cannot be aligned to"):
            model.alloc_vmap_area(PAGE_SIZE, align, 0, 1 << 30)
    with pytest.raises(ValueError, match="is free already"):
        model.free.add(model.layout.vmalloc_start, model.layout.vmalloc_start + PAGE_SIZE)
    with pytest.raises(ValueError, match="cannot be on-line"):
        VmapAreas(layout(8), vmalloc_rules(OLD), 2, 3)
    taken = model.take(model.layout.vmalloc_start, model.layout.vmalloc_start + PAGE_SIZE)
    with pytest.raises(VmallocError):
        model.take(taken.va_start, taken.va_end)


def test_layouts() -> None:
    assert i386_layout(1 << 18).vmalloc_start == 0xF77FE000  # of 1 GiB, lowmem takes 879 MiB
    assert i386_layout(1 << 17).vmalloc_start == 0xE0800000
    # what vmalloc=256M asks for is 256 MiB more than the hole behind lowmem
    assert i386_layout(1 << 19, 256 << 20).vmalloc_start == 0xFEFFE000 - (256 << 20)
    assert x86_64_layout().vmalloc_end == 0xFFFFE8FFFFFFFFFF
    with pytest.raises(ValueError, match="not a multiple of 1 GiB"):
        x86_64_layout(0xFFFFC90000001000)
    with pytest.raises(ValueError, match="by up to 1024 pages"):
        x86_64_layout(module_load_offset=100)


def test_kernels_between_have_the_rules_of_the_nearest_older_one() -> None:
    assert vmalloc_rules((5, 17)) is vmalloc_rules((2, 6, 32)) is vmalloc_rules((3, 0))
    assert vmalloc_rules((5, 18)).finds_inside
    profiles = (LINUX_3_0, LINUX_6_1, LINUX_6_12)
    assert [rules_of(profile).vmap_nodes for profile in profiles] == [False, False, True]
    assert [rules_of(profile).finds_inside for profile in profiles] == [False, True, True]
    assert vmalloc_rules((6, 8)).vmap_nodes is False
    assert vmalloc_rules((6, 9)).vmap_nodes is True
