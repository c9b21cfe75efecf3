"""SLUB at work beside a reference of sets and dicts; what it says of wrong frees; flags of its pages."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from mm.slab.reference_slub import FewPages, ReferenceSlub

from numa_service.mm.gfp import GFP_KERNEL, GFP_MASKS, Gfp, parse_gfp
from numa_service.mm.profile import LINUX_6_1, LINUX_6_12
from numa_service.mm.slab.flags import NO_FLAGS, SlabFlag
from numa_service.mm.slab.kmem_cache import PAGE_SIZE, X86_64, KmemCacheArgs
from numa_service.mm.slab.profile import SLUB
from numa_service.mm.slab.reports import SlabBugError
from numa_service.mm.slab.slub import SlubCaches
from numa_service.mm.slab.slub_cpu import KmemCache, SlubMachine
from numa_service.mm.slab.slub_parameters import SlubParameters
from numa_service.mm.slab.slub_place import SlabRef


class Pages:
    """The test's pages as the model asks for them."""

    def __init__(self, few: FewPages) -> None:
        self.few = few
        self.asked: list[int] = []

    def alloc_pages(self, node: int, order: int, gfp: int) -> SlabRef | None:
        self.asked.append(gfp)
        block = self.few.take(node, order, alone=bool(gfp & Gfp.THISNODE))
        return None if block is None else SlabRef(*block)

    def free_pages(self, pfn: int, order: int) -> None:
        self.few.give(pfn, order)


class Work:
    """Caches on a machine of two nodes with two CPUs each."""

    CPUS = (0, 0, 1, 1)

    def __init__(self, kernel: str = LINUX_6_1.name, *, blocks: int = 1000, defrag: bool = False) -> None:
        profile = SLUB[kernel]
        assert profile.work
        self.few = FewPages({0: blocks, 1: blocks})
        self.pages = Pages(self.few)
        self.caches = SlubCaches(profile.rules, SlubParameters(nomerge=True), 4, 4)
        self.machine = SlubMachine(
            rules=profile.work,
            cpu_to_mem=dict(enumerate(self.CPUS)),
            zonelists={0: (0, 1), 1: (1, 0)},
            source=self.pages,
            remote_node_defrag=defrag,
        )

    def cache(self, size: int = 1024, flags: SlabFlag = NO_FLAGS, name: str = "test") -> KmemCache:
        return KmemCache(self.caches.kmem_cache_create(KmemCacheArgs(name, size, flags=flags)), self.machine)


class Machine(RuleBasedStateMachine):
    """Any CPU allocates and frees; now and then memory is short."""

    @initialize(
        kernel=st.sampled_from([LINUX_6_1.name, LINUX_6_12.name]),
        size=st.sampled_from([1024, 1600, 2048, 4096, 8192]),
        blocks=st.sampled_from([4, 60]),
        defrag=st.booleans(),
        debug=st.booleans(),
    )
    def begin(self, kernel: str, size: int, blocks: int, defrag: bool, debug: bool) -> None:
        self.work = Work(kernel, blocks=blocks, defrag=defrag)
        self.model = self.work.cache(size, SlabFlag.CONSISTENCY_CHECKS if debug else NO_FLAGS)
        cache = self.model.cache
        self.reference = ReferenceSlub(
            pages=FewPages({0: blocks, 1: blocks}),
            size=size,
            per_slab=cache.objects,
            order=cache.order,
            min_order=cache.min_order,
            min_partial=cache.min_partial,
            cpu_partial_slabs=self.model.cpu_partial_slabs,
            homes=list(Work.CPUS),
            preferred_first=kernel == LINUX_6_12.name,
            defrag=defrag,
            debug=debug,
        )
        self.busy: list[int] = []

    @rule(cpu=st.integers(0, 3), nid=st.sampled_from([-1, -1, -1, 0, 1, 7]), count=st.integers(1, 40))
    def alloc(self, cpu: int, nid: int, count: int) -> None:
        for _ in range(count):
            got = self.model.kmem_cache_alloc(cpu, GFP_KERNEL, nid)
            assert got == self.reference.alloc(cpu, nid if nid in (0, 1) else None)
            if got is not None:
                self.busy.append(got)

    @precondition(lambda self: self.busy)
    @rule(cpu=st.integers(0, 3), data=st.data(), count=st.integers(1, 40), near=st.booleans())
    def free(self, cpu: int, data: st.DataObject, count: int, near: bool) -> None:
        first = data.draw(st.integers(0, len(self.busy) - 1))
        for step in range(min(count, len(self.busy))):
            address = self.busy.pop((first if near else first + 7 * step) % len(self.busy))
            self.model.kmem_cache_free(cpu, address)
            self.reference.free(cpu, address)

    @rule(cpu=st.integers(0, 3), count=st.integers(1, 60))
    def alloc_bulk(self, cpu: int, count: int) -> None:
        got = self.model.kmem_cache_alloc_bulk(cpu, GFP_KERNEL, count)
        wanted: list[int] = []
        while len(wanted) < count:
            address = self.reference.alloc(cpu, None)
            if address is None:
                self.reference.free_bulk(cpu, wanted)
                wanted = []
                break
            wanted.append(address)
        assert got == wanted
        self.busy += got

    @precondition(lambda self: self.busy)
    @rule(cpu=st.integers(0, 3), dice=st.randoms(use_true_random=False), count=st.integers(1, 60))
    def free_bulk(self, cpu: int, dice: Random, count: int) -> None:
        objects = dice.sample(self.busy, min(count, len(self.busy)))
        dice.choice([objects.sort, lambda: None])()
        self.busy = [address for address in self.busy if address not in set(objects)]
        self.model.kmem_cache_free_bulk(cpu, objects)
        self.reference.free_bulk(cpu, objects)

    @rule(cpu=st.integers(0, 3), dice=st.randoms(use_true_random=False), past=st.sampled_from([0, 8]))
    def free_wrongly(self, cpu: int, dice: Random, past: int) -> None:
        """What is free, or no object begins there, is refused with all that is named beside it."""
        free = [at for at in self.reference.stamp if past == 0 or at + past not in self.reference.allocated]
        if free:
            wrong = [*self.busy[:3], dice.choice(free) + past, *self.busy[3:5]]
            with pytest.raises(SlabBugError, match="already free" if past == 0 else "Invalid object pointer"):
                self.model.kmem_cache_free_bulk(cpu, wrong)

    @rule(largest=st.sampled_from([1, 3, 3]))
    def fragment(self, largest: int) -> None:
        self.work.few.largest = self.reference.pages.largest = largest

    @rule()
    def shrink(self) -> None:
        self.reference.shrink()
        assert self.model.kmem_cache_shrink() == bool(self.reference.where)

    @invariant()
    def agree(self) -> None:
        reference, model = self.reference, self.model
        for nid, node in model.nodes.items():
            assert list(node.partial) == reference.at("node", nid)
            mine = [slab for slab in reference.where if reference.nid(slab) == nid]
            assert node.nr_slabs == len(mine)
            assert node.total_objects == sum(len(reference.objects[slab]) for slab in mine)
            for pfn in mine:
                slab = node.slab(pfn)
                assert slab.frozen == (reference.where[pfn][0] in ("cpu", "partial"))
                assert slab.inuse == slab.objects - len(reference.free_of(pfn) - reference.with_cpu)
                assert set(slab.freelist) == reference.free_of(pfn) - reference.with_cpu
        for cpu, c in model.cpus.items():
            assert (c.slab and c.slab.pfn) == reference.current(cpu)
            assert c.freelist == reference.on_cpu(cpu)
            assert [slab.pfn for slab in c.partial[::-1]] == reference.partials(cpu)
        assert set(self.busy) == reference.allocated
        place = model.machine.place
        for slab, objects in reference.objects.items():
            frames = range(slab, slab + (1 << reference.orders[slab]))
            assert {model.machine.slabs[reference.nid(slab)].heads[frame] for frame in frames} == {slab}
            out = [bool(place.home_of(address)) for address in objects]
            assert out == [at in reference.allocated or at in reference.with_cpu for at in objects]
        assert sorted(self.work.few.log) == sorted(reference.pages.log)

    def teardown(self) -> None:
        if not hasattr(self, "model"):
            return
        for address in self.busy:
            self.model.kmem_cache_free(0, address)
        self.model.kmem_cache_destroy()
        assert self.work.machine.slabs[0].heads == self.work.machine.slabs[1].heads == {}


TestReference = Machine.TestCase
TestReference.settings = settings(max_examples=60, stateful_step_count=30, deadline=None, derandomize=True)


def refused(call: Callable[[], object]) -> tuple[str, ...]:
    with pytest.raises(SlabBugError) as error:
        call()
    return error.value.report


def state(cache: KmemCache) -> str:
    """All that there is of a cache, of its place too."""
    place = cache.machine.place
    arrays = [
        getattr(place.data, name).tolist() for name in ("nodes", "cpus", "slabs", "link", "home", "frames")
    ]
    cpus = [(c.slab, c.freelist, c.partial) for c in cache.cpus.values()]
    nodes = [(n.partial, n.nr_slabs, list(cache.machine.slabs[nid].slabs)) for nid, n in cache.nodes.items()]
    return repr([cpus, nodes, arrays])


@pytest.mark.parametrize("flags", [NO_FLAGS, SlabFlag.CONSISTENCY_CHECKS])
def test_wrong_frees_say_what_the_kernel_says_and_change_nothing(flags: SlabFlag) -> None:
    work = Work()
    cache, other = work.cache(flags=flags), work.cache(name="other")
    objects = [cache.kmem_cache_alloc(0, GFP_KERNEL) or 0 for _ in range(3)]
    cache.kmem_cache_free(0, objects[0])
    before = state(cache), state(other)
    at = f"0x{objects[0]:016x}"
    twice = ("BUG test (Not tainted): Object already free", f"FIX test: Object at {at} not freed")
    assert refused(lambda: cache.kmem_cache_free(0, objects[0])) == twice
    assert refused(lambda: cache.kmem_cache_free(3, objects[0])) == twice
    middle = objects[1] + 8
    assert refused(lambda: cache.kmem_cache_free(0, middle)) == (
        f"BUG test (Not tainted): Invalid object pointer 0x{middle:016x}",
        f"FIX test: Object at 0x{middle:016x} not freed",
    )
    assert refused(lambda: other.kmem_cache_free(0, objects[1])) == (
        "cache_from_obj: Wrong slab cache. other but object is from test",
    )
    nowhere = X86_64.page_offset + 5 * PAGE_SIZE
    assert refused(lambda: cache.kmem_cache_free(0, nowhere)) == (
        "virt_to_cache: Object is not a Slab page!",
    )
    twice_in_bulk = [objects[1], objects[2], objects[1]]
    assert "already free" in refused(lambda: cache.kmem_cache_free_bulk(0, twice_in_bulk))[0]
    assert (state(cache), state(other)) == before


def test_a_cache_with_objects_is_not_destroyed() -> None:
    cache = Work().cache()
    slab_of = cache.cache.objects
    objects = cache.kmem_cache_alloc_bulk(0, GFP_KERNEL, slab_of + 2)
    assert refused(cache.kmem_cache_destroy) == (
        "BUG test (Not tainted): Objects remaining in test on __kmem_cache_shutdown()",
        f"Object 0x{objects[-2]:016x} @offset=0",
        f"Object 0x{objects[-1]:016x} @offset=1024",
        "kmem_cache_destroy test: Slab cache still has objects",
    )
    assert cache.nodes[0].nr_slabs == 2  # the full one is on no list
    cache.kmem_cache_free_bulk(1, objects)
    cache.kmem_cache_destroy()
    assert cache.nodes[0].nr_slabs == 0


def test_bulk_is_all_or_nothing_and_frees_by_slabs() -> None:
    work = Work(blocks=1)
    cache = work.cache()
    count = cache.cache.objects
    assert cache.kmem_cache_alloc_bulk(0, GFP_KERNEL, 2 * count + 1) == []
    assert cache.kmem_cache_shrink() is False  # all that it got went back
    objects = cache.kmem_cache_alloc_bulk(0, GFP_KERNEL, 2 * count)
    cache.kmem_cache_free_bulk(2, [objects[0], objects[-1], objects[1], objects[-2]])
    # the first slab was full; the second is still the other CPU's
    first, second = cache.cpus[2].partial[0], cache.cpus[0].slab
    assert second
    assert (first.nid, second.nid) == (0, 1)
    assert cache.nodes[0].slab(first.pfn).freelist == [objects[1], objects[0]]
    assert cache.nodes[1].slab(second.pfn).freelist == [objects[-2], objects[-1]]


def test_slabs_of_another_node_are_put_aside_for_a_request_that_names_one() -> None:
    cache = Work().cache()
    first = cache.kmem_cache_alloc(0, GFP_KERNEL)
    named = cache.kmem_cache_alloc(0, GFP_KERNEL, 1)
    assert first
    assert named
    assert cache.cpus[0].slab
    assert cache.cpus[0].slab.nid == 1
    assert cache.nodes[0].nr_partial == 1
    cache.kmem_cache_free(0, first)
    assert cache.nodes[0].nr_partial == 1  # empty, and kept: fewer than min_partial


@pytest.mark.parametrize(
    ("kernel", "flags", "size", "asked"),
    [  # as traces of captured kernels print them: dentry, shmem_inode_cache
        (
            LINUX_6_1.name,
            SlabFlag.RECLAIM_ACCOUNT,
            192,
            "GFP_KERNEL|__GFP_NOWARN|__GFP_NORETRY|__GFP_RECLAIMABLE",
        ),
        (
            LINUX_6_12.name,
            SlabFlag.RECLAIM_ACCOUNT,
            192,
            "GFP_KERNEL|__GFP_NOWARN|__GFP_NORETRY|__GFP_COMP|__GFP_RECLAIMABLE",
        ),
        (
            LINUX_6_1.name,
            NO_FLAGS,
            768,
            "__GFP_IO|__GFP_FS|__GFP_NOWARN|__GFP_NORETRY|__GFP_COMP|__GFP_NOMEMALLOC",
        ),
    ],
)
def test_pages_are_asked_for_as_captured_kernels_do(
    kernel: str, flags: SlabFlag, size: int, asked: str
) -> None:
    work = Work(kernel)
    work.cache(size, flags).kmem_cache_alloc(0, GFP_KERNEL | Gfp.ACCOUNT | Gfp.ZERO)
    assert work.pages.asked == [parse_gfp(asked)]


def test_a_smaller_order_is_asked_for_without_holding_back() -> None:
    work = Work()
    work.few.largest = 0
    cache = work.cache(768)
    cache.kmem_cache_alloc(0, GFP_KERNEL)
    assert work.pages.asked[1] == GFP_MASKS["GFP_KERNEL"] | Gfp.COMP
    assert cache.nodes[0].total_objects == PAGE_SIZE // 768
