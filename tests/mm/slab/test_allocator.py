"""What SLUB, SLAB and SLOB have in common: the interface, and what is said of wrong use."""

from __future__ import annotations

import pytest
from mm.slab.made_up_pages import NODE_PAGES, MadeUpPages

from numa_service.mm.gfp import GFP_KERNEL, Gfp
from numa_service.mm.profile import LINUX_3_0, LINUX_6_1, LINUX_6_12
from numa_service.mm.slab.allocator import SlabAllocator
from numa_service.mm.slab.cache import ALLOCATORS
from numa_service.mm.slab.flags import SlabFlag
from numa_service.mm.slab.kmem_cache import KmemCacheArgs
from numa_service.mm.slab.pages import ZERO_SIZE_PTR, virt_to_pfn
from numa_service.mm.slab.reports import SlabBugError
from numa_service.mm.slab.start import SlabMachine, start

KERNELS = (LINUX_3_0.name, LINUX_6_1.name, LINUX_6_12.name)


def machine(kernel: str = LINUX_6_1.name, cmdline: str = "") -> SlabMachine:
    cpus = {0: 0, 1: 0, 2: 1, 3: 1}
    return SlabMachine(kernel, cmdline, cpus, 4, {0: (0, 1), 1: (1, 0)}, 2, 1 << 30)


def begin(allocator: str, kernel: str = LINUX_6_1.name, **pages: int) -> tuple[SlabAllocator, MadeUpPages]:
    source = MadeUpPages(2, **pages)
    return start(allocator, machine(kernel), source), source


every_allocator = pytest.mark.parametrize("allocator", ALLOCATORS)


@every_allocator
@pytest.mark.parametrize("kernel", KERNELS)
def test_all_that_was_allocated_goes_back(allocator: str, kernel: str) -> None:
    slab, source = begin(allocator, kernel)
    slab.kmem_cache_create(KmemCacheArgs("mine", 200))
    objects = [slab.kmem_cache_alloc("mine", cpu % 4, GFP_KERNEL) for cpu in range(100)]
    assert len(set(objects)) == 100
    assert all(objects)
    for at, address in enumerate(objects):
        slab.kmem_cache_free("mine", 3 - at % 4, address or 0)
    bulk = slab.kmem_cache_alloc_bulk("mine", 2, GFP_KERNEL, 70)
    assert len(set(bulk)) == 70
    slab.kmem_cache_free_bulk("mine", 1, bulk)
    slab.kmem_cache_shrink("mine")
    slab.kmem_cache_destroy("mine")
    assert source.held == {}
    with pytest.raises(KeyError):
        slab.kmem_cache_alloc("mine", 0, GFP_KERNEL)


@every_allocator
@pytest.mark.parametrize("node", [0, 1])
def test_objects_of_a_node_are_of_it(allocator: str, node: int) -> None:
    slab, _ = begin(allocator)
    addresses = [slab.kmalloc(96, 0, GFP_KERNEL, node) for _ in range(100)]
    assert {virt_to_pfn(address or 0) // NODE_PAGES for address in addresses} == {node}


@every_allocator
def test_kmalloc_by_size(allocator: str) -> None:
    slab, source = begin(allocator)
    assert slab.kmalloc(0, 0, GFP_KERNEL) == ZERO_SIZE_PTR
    slab.kfree(0, ZERO_SIZE_PTR)
    slab.kfree(0, 0)
    assert source.held == {}
    pages = slab.kmalloc(5 << 12, 0, GFP_KERNEL)
    assert list(source.held.values()) == [3]
    slab.kfree(3, pages or 0)
    assert source.held == {}


@every_allocator
@pytest.mark.parametrize("bad", ["twice", "middle", "never"])
def test_wrong_frees_are_refused(allocator: str, bad: str) -> None:
    slab, source = begin(allocator)
    slab.kmem_cache_create(KmemCacheArgs("mine", 200))
    kept, gone = (slab.kmem_cache_alloc("mine", 0, GFP_KERNEL) or 0 for _ in range(2))
    slab.kmem_cache_free("mine", 0, gone)
    before = slab.slabinfo(), dict(source.held)
    wrong = {"twice": gone, "middle": kept + 8, "never": kept + (1 << 30)}[bad]
    for free in (
        lambda: slab.kmem_cache_free("mine", 1, wrong),
        lambda: slab.kfree(1, wrong),
        lambda: slab.kmem_cache_free_bulk("mine", 1, [kept, wrong]),
    ):
        with pytest.raises(SlabBugError) as error:
            free()
        assert error.value.report
    assert (slab.slabinfo(), source.held) == before
    slab.kmem_cache_free("mine", 0, kept)


@pytest.mark.parametrize("allocator", ["slub", "slab"])
def test_a_cache_with_objects_stays(allocator: str) -> None:
    slab, source = begin(allocator)
    slab.kmem_cache_create(KmemCacheArgs("mine", 200, flags=SlabFlag.NO_MERGE))
    address = slab.kmem_cache_alloc("mine", 0, GFP_KERNEL) or 0
    with pytest.raises(SlabBugError, match="kmem_cache_destroy mine: Slab cache still has objects"):
        slab.kmem_cache_destroy("mine")
    slab.kmem_cache_free("mine", 2, address)
    slab.kmem_cache_destroy("mine")
    assert source.held == {}


@pytest.mark.parametrize("allocator", ["slub", "slab"])
def test_a_cache_that_is_shared_goes_with_its_last_creator(allocator: str) -> None:
    slab, source = begin(allocator)
    for name in ("first", "second"):
        slab.kmem_cache_create(KmemCacheArgs(name, 1000))
    with pytest.raises(ValueError, match="there is a cache second"):
        slab.kmem_cache_create(KmemCacheArgs("second", 1000))
    address = slab.kmem_cache_alloc("first", 0, GFP_KERNEL) or 0
    slab.kmem_cache_destroy("first")
    slab.kfree(0, address)
    slab.kmem_cache_destroy("second")
    assert source.held == {}


@every_allocator
def test_pages_read_without_a_lock_go_back_after_a_grace_period(allocator: str) -> None:
    slab, source = begin(allocator)
    slab.kmem_cache_create(KmemCacheArgs("rcu", 2000, flags=SlabFlag.TYPESAFE_BY_RCU))
    address = slab.kmem_cache_alloc("rcu", 0, GFP_KERNEL) or 0
    slab.kmem_cache_free("rcu", 0, address)
    slab.kmem_cache_shrink("rcu")
    assert source.held
    slab.rcu_callbacks()
    assert source.held == {}


@pytest.mark.parametrize(
    ("gfp", "name"),
    [
        (GFP_KERNEL, "kmalloc-1k"),
        (Gfp.ACCOUNT, "kmalloc-cg-1k"),
        (Gfp.ACCOUNT | Gfp.RECLAIMABLE, "kmalloc-rcl-1k"),
        (Gfp.DMA | Gfp.RECLAIMABLE, "dma-kmalloc-1k"),
    ],
)
def test_the_kind_of_kmalloc_cache_follows_the_flags(gfp: int, name: str) -> None:
    slab, _ = begin("slub")
    slab.kmalloc(600, 0, GFP_KERNEL | gfp)
    assert [info.name for info in slab.slabinfo() if info.slabs] == [name]


@every_allocator
def test_without_memory_bulk_leaves_nothing(allocator: str) -> None:
    slab, source = begin(allocator, pages=8)
    slab.kmem_cache_create(KmemCacheArgs("mine", 1000))
    assert slab.kmem_cache_alloc_bulk("mine", 0, GFP_KERNEL, 1000) == []
    slab.kmem_cache_shrink("mine")
    assert source.held == {}
