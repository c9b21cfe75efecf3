"""SLUB, SLAB and SLOB against one reference that knows none of them: a dict of objects and sets of pages.

Objects that live never overlap, lie in pages that the allocator holds, and are of the node that was asked for
while that has pages. Wrong calls are refused and change nothing. When all is freed, all pages come back.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mm.slab.made_up_pages import NODE_PAGES, MadeUpPages

from numa_service.mm.gfp import GFP_KERNEL
from numa_service.mm.profile import LINUX_3_0, LINUX_6_1, LINUX_6_12
from numa_service.mm.slab.allocator import SlabAllocator
from numa_service.mm.slab.cache import ALLOCATORS
from numa_service.mm.slab.flags import NO_FLAGS, SlabFlag
from numa_service.mm.slab.kmem_cache import PAGE_SIZE, KmemCacheArgs
from numa_service.mm.slab.pages import NUMA_NO_NODE, page_address, virt_to_pfn
from numa_service.mm.slab.reports import SlabBugError
from numa_service.mm.slab.start import SlabMachine, start

CPUS = {0: 0, 1: 0, 2: 1, 3: 1}
CACHES = {
    args.name: args
    for args in (
        KmemCacheArgs("tiny", 20),
        KmemCacheArgs("shared", 22),
        KmemCacheArgs("lines", 200, flags=SlabFlag.HWCACHE_ALIGN),
        KmemCacheArgs("large", 3000, flags=SlabFlag.NO_MERGE),
        KmemCacheArgs("made", 72, ctor="ctor"),
        KmemCacheArgs("rcu", 500, flags=SlabFlag.TYPESAFE_BY_RCU),
    )
}
SIZES = (1, 8, 60, 96, 100, 200, 1000, 4000, 8192, 20_000)
#: What is done, and how often of 16 times.
KINDS = (
    ("alloc",) * 4 + ("kmalloc",) * 3 + ("free",) * 4 + ("bulk", "free_bulk", "wrong", "shrink", "destroy")
)

#: The kind of a step, and numbers from which it takes what it needs.
Step = tuple[int, int, int, int]


class Reference:
    """What a user of an allocator may rely on."""

    def __init__(self, allocator: str, kernel: str) -> None:
        self.allocator = allocator
        self.source = MadeUpPages(2)
        machine = SlabMachine(kernel, "", CPUS, 4, {0: (0, 1), 1: (1, 0)}, 2, 1 << 30)
        self.slab: SlabAllocator = start(allocator, machine, self.source)
        for args in CACHES.values():
            self.slab.kmem_cache_create(args)
        #: Address → bytes and cache ("": kmalloc) of the objects that live; and their addresses in order.
        self.live: dict[int, tuple[int, str]] = {}
        self.addresses: list[int] = []
        #: Objects that were freed, and have not been allocated since.
        self.gone: dict[int, str] = {}

    def step(self, step: Step) -> None:
        kind, a, b, c = step
        getattr(self, KINDS[kind % len(KINDS)])(a, b, c)

    # what is right

    def alloc(self, a: int, b: int, c: int) -> None:
        args = list(CACHES.values())[a % len(CACHES)]
        node = (NUMA_NO_NODE, 0, 1)[c % 3]
        self.got(self.slab.kmem_cache_alloc(args.name, b % 4, GFP_KERNEL, node), args.size, args.name, node)

    def kmalloc(self, a: int, b: int, c: int) -> None:
        size, node = SIZES[a % len(SIZES)], (NUMA_NO_NODE, 0, 1)[c % 3]
        self.got(self.slab.kmalloc(size, b % 4, GFP_KERNEL, node), size, "", node)

    def bulk(self, a: int, b: int, c: int) -> None:
        args = list(CACHES.values())[a % len(CACHES)]
        objects = self.slab.kmem_cache_alloc_bulk(args.name, b % 4, GFP_KERNEL, c % 20 + 1)
        assert len(objects) == c % 20 + 1
        for address in objects:
            self.got(address, args.size, args.name, NUMA_NO_NODE)

    def got(self, address: int | None, size: int, cache: str, node: int) -> None:
        assert address is not None
        assert address % 8 == 0
        at = bisect_left(self.addresses, address)
        if at:
            before = self.addresses[at - 1]
            assert before + self.live[before][0] <= address
        if at < len(self.addresses):
            assert address + size <= self.addresses[at]
        first, last = virt_to_pfn(address), virt_to_pfn(address + size - 1)
        head = next(pfn for pfn in range(first, first - 512, -1) if pfn in self.source.held)
        assert last < head + (1 << self.source.held[head])
        if node != NUMA_NO_NODE:
            assert first // NODE_PAGES == node
        if CACHES.get(cache, CACHES["tiny"]).flags & SlabFlag.HWCACHE_ALIGN:
            assert address % 64 == 0
        insort(self.addresses, address)
        self.live[address] = size, cache
        self.gone.pop(address, None)

    def free(self, a: int, b: int, c: int) -> None:
        if self.addresses:
            address = self.addresses[a % len(self.addresses)]
            self.give_back(address, b % 4, named=bool(c % 2))
            self.ended([address])

    def give_back(self, address: int, cpu: int, *, named: bool) -> None:
        cache = self.live[address][1]
        if cache and (named or self.allocator == "slob"):  # whose kfree is of kmalloc's objects only
            self.slab.kmem_cache_free(cache, cpu, address)
        else:
            self.slab.kfree(cpu, address)

    def free_bulk(self, a: int, b: int, c: int) -> None:
        name = list(CACHES)[a % len(CACHES)]
        objects = [at for at, (_, cache) in self.live.items() if cache == name][: c % 30 + 1]
        if objects:
            self.slab.kmem_cache_free_bulk(name, b % 4, objects)
            self.ended(objects)

    def ended(self, objects: list[int]) -> None:
        for address in objects:
            self.gone[address] = self.live.pop(address)[1]
            del self.addresses[bisect_left(self.addresses, address)]

    def shrink(self, a: int, b: int, c: int) -> None:
        self.slab.kmem_cache_shrink(list(CACHES)[a % len(CACHES)])
        self.slab.rcu_callbacks()

    # what is wrong

    def wrong(self, a: int, b: int, c: int) -> None:
        """Free what is free, the middle of an object, and what nobody ever had."""
        freed = [at for at, cache in self.gone.items() if cache and cache != "rcu"]
        held = [at for at, (_, cache) in self.live.items() if cache]
        addresses = [page_address(2 * NODE_PAGES + a)]
        addresses += freed[a % len(freed) :][:1] if freed else []
        addresses += [held[a % len(held)] + 8] if held else []
        wrong = addresses[c % len(addresses)]
        name = list(CACHES)[a % len(CACHES)]
        before = self.state()
        cache = "" if b % 2 else self.gone.get(wrong) or name
        with pytest.raises(SlabBugError) as refused:
            self.slab.kmem_cache_free(cache, b % 4, wrong) if cache else self.slab.kfree(b % 4, wrong)
        assert refused.value.report
        assert self.state() == before

    def destroy(self, a: int, b: int, c: int) -> None:
        """A cache with objects stays, and one without goes and can be made again."""
        args = CACHES["large"]
        if any(cache == args.name for _, cache in self.live.values()):
            if self.allocator != "slob":  # which keeps no count
                with pytest.raises(SlabBugError, match="still has objects"):
                    self.slab.kmem_cache_destroy(args.name)  # CPUs and nodes have let go of free objects
            return
        self.slab.kmem_cache_destroy(args.name)
        self.slab.kmem_cache_create(args)
        self.gone = {at: cache for at, cache in self.gone.items() if cache != args.name}

    def state(self) -> tuple[object, ...]:
        return (
            self.slab.slabinfo(),
            dict(self.source.held),
            {nid: len(f) for nid, f in self.source.free.items()},
        )

    # the end

    def all_comes_back(self) -> None:
        for number, address in enumerate(self.addresses):
            self.give_back(address, number % 4, named=False)
        self.slab.rcu_callbacks()
        for name in CACHES:
            self.slab.kmem_cache_shrink(name)
        for info in 2 * self.slab.slabinfo():  # free lists that are off their slabs are objects of kmalloc
            self.slab.kmem_cache_shrink(info.name)
        self.slab.rcu_callbacks()
        for info in self.slab.slabinfo():
            self.slab.kmem_cache_shrink(info.name)
        assert self.source.held == {}
        assert [len(free) for free in self.source.free.values()] == [NODE_PAGES] * 2


def play(allocator: str, kernel: str, steps: list[Step]) -> Reference:
    reference = Reference(allocator, kernel)
    for step in steps:
        reference.step(step)
    pages = sum(PAGE_SIZE << order for order in reference.source.held.values())
    assert pages >= sum(size for size, _ in reference.live.values())
    reference.all_comes_back()
    return reference


def test_the_caches_are_of_all_kinds() -> None:
    assert {args.flags for args in CACHES.values()} >= {NO_FLAGS, SlabFlag.TYPESAFE_BY_RCU}


NUMBER = st.integers(0, 1 << 16)
KERNELS = st.sampled_from((LINUX_3_0.name, LINUX_6_1.name, LINUX_6_12.name))


@pytest.mark.parametrize("allocator", ALLOCATORS)
@settings(max_examples=25, deadline=None)
@given(kernel=KERNELS, steps=st.lists(st.tuples(NUMBER, NUMBER, NUMBER, NUMBER), max_size=120))
def test_objects_are_as_a_dict_has_them(allocator: str, kernel: str, steps: list[Step]) -> None:
    play(allocator, kernel, steps)


@pytest.mark.slow
@pytest.mark.parametrize("allocator", ALLOCATORS)
@settings(max_examples=3, deadline=None)
@given(kernel=KERNELS, seed=st.integers(0, 1 << 32))
def test_ten_thousand_operations(allocator: str, kernel: str, seed: int) -> None:
    random = Random(seed)
    steps = [(*(random.randrange(1 << 16) for _ in range(4)),) for _ in range(10_000)]
    play(allocator, kernel, [(kind, a, b, c) for kind, a, b, c in steps])
