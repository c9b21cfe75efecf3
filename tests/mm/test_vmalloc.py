"""vmalloc and its users, by hand: nodes, huge mappings, stacks, modules, percpu chunks, bad input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from numa_service.mm.vmalloc.modules import Module
from numa_service.mm.vmalloc.pages import NUMA_NO_NODE, Interleave, vm_area_alloc_pages
from numa_service.mm.vmalloc.percpu import pcpu_get_vm_areas
from numa_service.mm.vmalloc.rules import PAGE_SIZE, i386_layout, vmalloc_rules, x86_64_layout
from numa_service.mm.vmalloc.stacks import ThreadStacks
from numa_service.mm.vmalloc.vm_struct import VM_ALLOW_HUGE_VMAP, VM_USERMAP, VmStruct
from numa_service.mm.vmalloc.vmalloc import Vmalloc
from numa_service.mm.vmalloc.vmap_area import VmallocError
from numa_service.procfs.vmallocinfo import areas

MIB = 1 << 20
OLD, NODES = (6, 1), (6, 12)


class Source:
    """Nodes with so many pages each, and with huge pages or not; who asks for no node runs on node 0."""

    def __init__(self, nodes: int = 2, pages: int = 1 << 16, largest: int = 9) -> None:
        self.free = [pages] * nodes
        self.largest = largest
        self.asked: list[tuple[int, int, int]] = []
        self._next = 0

    def alloc_pages(self, node: int, order: int, count: int) -> Sequence[int]:
        self.asked.append((node, order, count))
        node = max(node, 0)
        count = min(count, self.free[node] >> order) if order <= self.largest else 0
        self.free[node] -= count << order
        self._next += count << order
        return [node << 40 | self._next + (nth << order) for nth in range(count)]

    def free_pages(self, pfns: Sequence[int], order: int) -> None:
        for pfn in pfns:
            self.free[pfn >> 40] += 1 << order

    def page_to_nid(self, pfn: int) -> int:
        return pfn >> 40


def machine(
    version: tuple[int, int] = OLD, source: Source | None = None, i386: bool = False, cpus: int = 4
) -> Vmalloc:
    source = source or Source()
    return Vmalloc(
        i386_layout(1 << 18) if i386 else x86_64_layout(),
        vmalloc_rules(version),
        source,
        online_nodes=len(source.free),
        possible_cpus=cpus,
        totalram_pages=1 << 17,
    )


def at(kernel: Vmalloc, area: VmStruct) -> int:
    """Which page of the space it begins at."""
    return (area.addr - kernel.layout.vmalloc_start) // PAGE_SIZE


# pages


def test_pages_are_asked_for_a_hundred_at_a_time() -> None:
    source = Source()
    assert len(vm_area_alloc_pages(source, 1, 0, 250)) == 250
    assert source.asked == [(1, 0, 100), (1, 0, 100), (1, 0, 50)]


def test_a_batch_that_falls_short_is_made_up_page_by_page() -> None:
    source = Source(pages=103)
    assert len(vm_area_alloc_pages(source, 1, 0, 110)) == 103
    assert source.asked == [(1, 0, 100), (1, 0, 10), (1, 0, 1)]


def test_interleaving_gives_shares_and_the_first_in_turn_one_more() -> None:
    source = Source(nodes=4)
    policy = Interleave(range(4), previous=2)
    vm_area_alloc_pages(source, NUMA_NO_NODE, 0, 6, policy)
    assert source.asked == [(3, 0, 2), (0, 0, 2), (1, 0, 1), (2, 0, 1)]
    assert policy.previous == 2
    source.asked.clear()
    vm_area_alloc_pages(source, 1, 0, 6, policy)
    assert source.asked == [(1, 0, 6)]  # a node that is asked for counts more than the policy
    with pytest.raises(ValueError, match="needs a node"):
        Interleave([])


def test_huge_pages_are_interleaved_one_by_one() -> None:
    kernel = machine()
    area = kernel.vmalloc(4 * MIB, "huge+0x1/0x2", flags=VM_ALLOW_HUGE_VMAP, policy=Interleave([0, 1]))
    assert (area.page_order, area.addr % (2 * MIB), area.size) == (9, 0, 4 * MIB + PAGE_SIZE)
    assert kernel.pages_per_node(area) == {0: 512, 1: 512}
    assert kernel.nr_vmalloc_pages == 1024 + 2  # and the pages of its array


@pytest.mark.parametrize(
    ("size", "node", "order"),
    [(4 * MIB, NUMA_NO_NODE, 9), (2 * MIB, NUMA_NO_NODE, 0), (2 * MIB, 1, 9), (2 * MIB - 1, 1, 0)],
)
def test_a_mapping_is_huge_if_each_node_has_a_huge_page_of_it(size: int, node: int, order: int) -> None:
    kernel = machine()
    assert kernel.vmalloc(size, "x", node=node, flags=VM_ALLOW_HUGE_VMAP).page_order == order
    assert machine(i386=True).vmalloc(size, "x", node=node, flags=VM_ALLOW_HUGE_VMAP).page_order == 0


def test_without_huge_pages_a_mapping_is_of_small_ones() -> None:
    source = Source(largest=0)
    kernel = machine(source=source)
    area = kernel.vmalloc(5 * MIB, "x", flags=VM_ALLOW_HUGE_VMAP)
    assert (area.page_order, area.size) == (0, 5 * MIB + PAGE_SIZE)


def test_the_array_of_many_pages_is_an_area_too() -> None:
    """More than a page of pointers: 512 on x86-64, 1,024 on i386."""
    kernel = machine()
    assert kernel.vmalloc(512 * PAGE_SIZE, "x").pages_array is None
    area = kernel.vmalloc(513 * PAGE_SIZE, "x")
    assert area.pages_array == area.addr + area.size
    kernel.vfree(area.addr)
    assert kernel.nr_vmalloc_pages == 512
    assert machine(i386=True).vmalloc(1024 * PAGE_SIZE, "x").pages_array is None


# freeing, and bad input


def test_vfree_gives_back_pages_and_addresses() -> None:
    source = Source()
    kernel = machine(source=source)
    area = kernel.vmalloc(10 * PAGE_SIZE, "x", node=1)
    kernel.vfree(area.addr)
    assert source.free == [1 << 16] * 2
    assert kernel.nr_vmalloc_pages == 0
    assert kernel.find_vm_area(area.addr) is None
    kernel.vm_unmap_aliases()
    assert at(kernel, kernel.vmalloc(1, "x")) == 0
    kernel.vfree(0)


@pytest.mark.parametrize("version", [OLD, NODES])
def test_vfree_within_an_area(version: tuple[int, int]) -> None:
    """An address that is no page's is reported and nothing is freed; that of a page inside finds its area."""
    kernel = machine(version)
    area = kernel.vmalloc(40 * PAGE_SIZE, "x")
    text = areas(kernel.snapshot())
    with pytest.raises(VmallocError) as bad:
        kernel.vfree(area.addr + 8)
    assert str(bad.value) == "Trying to vfree() bad address (ffffc90000000008)"
    with pytest.raises(VmallocError) as missing:
        kernel.vfree(area.addr + area.size)
    assert str(missing.value) == "Trying to vfree() nonexistent vm area (ffffc90000029000)"
    assert areas(kernel.snapshot()) == text
    kernel.vfree(area.addr + 20 * PAGE_SIZE)
    with pytest.raises(VmallocError, match="nonexistent"):
        kernel.vfree(area.addr)


def test_who_unmaps_what_is_not_mapped() -> None:
    for version, name in ((OLD, "vfree"), (NODES, "vunmap")):
        with pytest.raises(VmallocError) as missing:
            machine(version).vunmap(0xFFFFC90000000000)
        assert str(missing.value) == f"Trying to {name}() nonexistent vm area (ffffc90000000000)"
    with pytest.raises(VmallocError) as bad:
        machine(i386=True).iounmap(0xF7800010)
    assert str(bad.value) == "iounmap: bad address f7800010"


def test_sizes_that_cannot_be() -> None:
    kernel = machine()
    with pytest.raises(ValueError, match="vmalloc of nothing"):
        kernel.vmalloc(0, "x")
    with pytest.raises(ValueError, match="has to have a page"):
        kernel.vmap(0, "x")
    with pytest.raises(VmallocError) as error:
        kernel.vmalloc(1 << 40, "x")
    assert str(error.value) == f"vmalloc error: size {1 << 40}, exceeds total pages"
    with pytest.raises(VmallocError, match="vmap of 131073 pages exceeds total pages"):
        kernel.vmap((1 << 17) + 1, "x")
    for address, size in ((0, 0), (-1, 5), ((1 << 64) - 1, 2)):
        with pytest.raises(ValueError, match="cannot map"):
            kernel.ioremap(address, size, "x")


@pytest.mark.parametrize(
    ("version", "words"),
    [
        (OLD, "vmalloc error: size 65536, page order 0, failed to allocate pages"),
        (NODES, "vmalloc error: size 65536, failed to allocate pages"),
    ],
)
def test_pages_that_are_not_there(version: tuple[int, int], words: str) -> None:
    """The size is that of the pages that there were."""
    source = Source(nodes=1, pages=20)
    kernel = machine(version, source=source)
    kernel.vmalloc(4 * PAGE_SIZE, "x")
    text = areas(kernel.snapshot())
    with pytest.raises(VmallocError) as error:
        kernel.vmalloc(30 * PAGE_SIZE, "x")
    assert str(error.value) == words
    kernel.vm_unmap_aliases()
    assert (source.free, kernel.nr_vmalloc_pages, areas(kernel.snapshot())) == ([16], 4, text)


def test_pages_for_the_array_that_are_not_there() -> None:
    source = Source(nodes=1, pages=1)
    kernel = machine(source=source)
    with pytest.raises(VmallocError) as error:
        kernel.vmalloc(2048 * PAGE_SIZE, "x")
    assert str(error.value) == (
        "vmalloc error: size 4096, page order 0, failed to allocate pages\n"
        "vmalloc error: size 8388608, failed to allocated page array size 16384"
    )
    kernel.vm_unmap_aliases()
    assert (source.free, areas(kernel.snapshot())) == ([1], "")


def test_addresses_that_are_not_there() -> None:
    kernel = machine(i386=True)
    kernel.vmap(8000, "x")
    with pytest.raises(VmallocError) as error:
        kernel.vmalloc(100 * MIB, "x")
    assert str(error.value) == (
        "vmap allocation for size 104861696 failed: use vmalloc=<size> to increase size\n"
        "vmalloc error: size 104857600, vm_struct allocation failed"
    )


# ioremap, and the text


def test_ioremap_is_aligned_to_its_size() -> None:
    kernel = machine()
    assert kernel.ioremap(0xFED00010, 16, "a") == kernel.layout.vmalloc_start + 0x10
    assert kernel.ioremap(0x3FFE0FFF, 2, "b") == kernel.layout.vmalloc_start + 2 * PAGE_SIZE + 0xFFF
    assert kernel.ioremap(0xB0000000, 256 * MIB, "c") == kernel.layout.vmalloc_start + 256 * MIB
    kernel.iounmap(kernel.layout.vmalloc_start + 0x10)
    assert [area.vm.caller for area in kernel.areas.by_node() if area.vm] == ["b", "c"]


def test_every_kind_of_line() -> None:
    kernel = machine()
    kernel.ioremap(0xFED00000, 4096, "hpet_enable")
    kernel.vmap(4, "irq_init_percpu_irqstack+0xf0/0x120")
    user = kernel.vmalloc(100, "ring_buffer", flags=VM_USERMAP, node=1)
    kernel.vmalloc(1024 * PAGE_SIZE, "big", policy=Interleave([0, 1]))
    kernel.vfree(user.addr)
    kernel.vmalloc(100, "ring_buffer", flags=VM_USERMAP, node=1)
    assert areas(kernel.snapshot()) == (
        "0xffffc90000000000-0xffffc90000002000    8192 hpet_enable phys=0x00000000fed00000 ioremap\n"
        "0xffffc90000002000-0xffffc90000007000   20480 irq_init_percpu_irqstack+0xf0/0x120 vmap\n"
        "0xffffc90000009000-0xffffc9000040a000 4198400 big pages=1024 vmalloc vpages N0=512 N1=512\n"
        "0xffffc9000040a000-0xffffc9000040d000   12288 big pages=2 vmalloc N0=1 N1=1\n"
        "0xffffc9000040d000-0xffffc9000040f000    8192 ring_buffer pages=1 vmalloc user N1=1\n"
        "0xffffc90000007000-0xffffc90000009000    8192 unpurged vm_area\n"
    )
    assert " N" not in areas(kernel.snapshot(), numa=False)


# stacks, modules, percpu chunks


def test_a_cpu_keeps_two_stacks() -> None:
    kernel = machine()
    stacks = ThreadStacks(kernel, 4)
    made = [stacks.alloc(1, "kernel_clone", node=1) for _ in range(4)]
    assert [at(kernel, stack) for stack in made] == [0, 8, 16, 24]
    for stack in made[:3]:
        stacks.free(1, stack)
    assert stacks.cached(1) == made[:2]
    assert stacks.alloc(1, "kernel_clone", node=0) is made[0]  # of node 1, all the same
    stacks.grace_period(1)
    assert stacks.cached(1) == [made[2], made[1]]  # there was room after all
    assert at(kernel, stacks.alloc(0, "kernel_clone")) == 32
    stacks.free(1, made[3])
    stacks.grace_period(1)
    assert kernel.find_vm_area(made[3].addr) is None
    stacks.offline_cpu(1)
    assert stacks.cached(1) == []
    assert kernel.nr_vmalloc_pages == 8
    with pytest.raises(ValueError, match="not vmalloc'ed"):
        ThreadStacks(machine(i386=True), 2)


def test_a_module_has_an_area_for_each_part() -> None:
    kernel = machine(NODES)
    base = kernel.layout.modules_vaddr
    module = Module(kernel, {"text": 9000, "data": 100, "init_text": 100}, "load_module")
    assert {part: area.addr - base for part, area in module.areas.items()} == {
        "text": 0,
        "data": 4 * PAGE_SIZE,
        "init_text": 6 * PAGE_SIZE,
    }
    module.free_init()
    assert list(kernel.areas.unpurged()) == []
    again = Module(kernel, {"text": 100}, "load_module")
    assert again.areas["text"].addr - base == 6 * PAGE_SIZE
    module.unload()
    assert [area.vm.addr - base for area in kernel.areas.by_node() if area.vm] == [6 * PAGE_SIZE]
    with pytest.raises(ValueError, match="has no part core"):
        Module(kernel, {"core": 1}, "load_module")
    assert set(Module(machine(OLD), {"core": 1, "init": 1}, "load_module").areas) == {"core", "init"}


def test_a_module_that_does_not_fit_leaves_nothing() -> None:
    kernel = machine(source=Source(nodes=1, pages=10))
    with pytest.raises(VmallocError):
        Module(kernel, {"core": 8 * PAGE_SIZE, "init": 4 * PAGE_SIZE}, "load_module")
    assert areas(kernel.snapshot()) == ""
    # the room that modules have runs out before the pages do
    layout = replace(x86_64_layout(), modules_end=x86_64_layout().modules_vaddr + 8 * PAGE_SIZE)
    small = Vmalloc(layout, vmalloc_rules(OLD), Source(), totalram_pages=1 << 17)
    with pytest.raises(VmallocError, match="vmap allocation for size 36864 failed"):
        Module(small, {"core": 8 * PAGE_SIZE}, "load_module")


def test_percpu_areas_are_congruent_and_highest() -> None:
    kernel = machine()
    distance, size = 512 * MIB, 2 * MIB
    first = pcpu_get_vm_areas(kernel, [0, distance], [size, size], size)
    assert first[1].addr + size == kernel.layout.vmalloc_end // size * size
    assert first[1].addr - first[0].addr == distance
    second = pcpu_get_vm_areas(kernel, [0, distance], [size, size], size)
    assert [area.addr for area in second] == [area.addr - size for area in first]
    # one that lies in the way of the lower area pulls both down
    kernel.areas.take(second[0].addr - size, second[0].addr - size + PAGE_SIZE)
    third = pcpu_get_vm_areas(kernel, [0, distance], [size, size], size)
    assert [area.addr for area in third] == [area.addr - 2 * size for area in second]
    assert areas(kernel.snapshot()).count("2097152 pcpu_get_vm_areas vmalloc\n") == 6


def test_percpu_areas_come_back_from_what_waits() -> None:
    kernel = machine(i386=True)
    pages = (kernel.layout.vmalloc_end - kernel.layout.vmalloc_start) // PAGE_SIZE
    everything = kernel.vmap(pages - 1, "x")
    with pytest.raises(VmallocError, match="no room for 1 percpu areas of 8192 bytes"):
        pcpu_get_vm_areas(kernel, [0], [2 * PAGE_SIZE], PAGE_SIZE)
    kernel.vunmap(everything.addr)
    assert pcpu_get_vm_areas(kernel, [0], [2 * PAGE_SIZE], PAGE_SIZE)[0].addr == 0xFEFFC000


@pytest.mark.parametrize(
    ("offsets", "sizes", "align", "words"),
    [
        ([0], [PAGE_SIZE], 100, "cannot be aligned"),
        ([0], [], PAGE_SIZE, "an offset and a size each"),
        ([100], [PAGE_SIZE], PAGE_SIZE, "is not aligned"),
        ([0, PAGE_SIZE], [2 * PAGE_SIZE, PAGE_SIZE], PAGE_SIZE, "overlap"),
    ],
)
def test_percpu_areas_that_cannot_be(offsets: list[int], sizes: list[int], align: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        pcpu_get_vm_areas(machine(), offsets, sizes, align)
