"""SLAB at work, beside a model of lists, and where no captured kernel shows its rules."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mm.slab.made_up_pages import MadeUpPages
from mm.slab.reference_slab import ReferenceSlab

from numa_service.mm.gfp import GFP_KERNEL, Gfp
from numa_service.mm.slab.boot_caches import boot_slab
from numa_service.mm.slab.flags import SlabFlag
from numa_service.mm.slab.kmem_cache import KmemCacheArgs
from numa_service.mm.slab.pages import page_address, virt_to_pfn
from numa_service.mm.slab.profile import SLAB, SlabProfile
from numa_service.mm.slab.reports import SlabBugError
from numa_service.mm.slab.slab import SlabCaches, slab_parameters
from numa_service.mm.slab.slab_alloc import REAPTIMEOUT_AC, Slab
from numa_service.mm.slab.slab_boot import start_slab

RULES = SLAB["linux-6.1"]
CPUS = {0: 0, 1: 0, 2: 1}
NODES = {0: (0, 1), 1: (1, 0)}
INODE = KmemCacheArgs("inode", 1024)


def machine(
    *args: KmemCacheArgs,
    cmdline: str = "",
    pages: int = 256,
    cpus: dict[int, int] | None = None,
    profile: SlabProfile = RULES,
) -> tuple[Slab, MadeUpPages]:
    """A machine of two nodes with these caches and those of kmalloc."""
    caches = SlabCaches(
        profile.rules, profile.kmalloc, slab_parameters(f"slab_nomerge {cmdline}"), 4, 2, 1 << 30
    )
    for boot in profile.kmalloc.caches():
        caches.create_boot_cache(boot)
    for new in args or (INODE,):
        caches.kmem_cache_create(new)
    source = MadeUpPages(2, pages)
    slab = Slab(caches, profile.kmalloc, cpus or CPUS, NODES, source)
    for nid in (cpus or CPUS).values():
        slab.online[nid] += 1
    for cache in caches.caches:
        slab.add(cache, next_reap=0)
    return slab, source


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("alloc"), st.integers(0, 2), st.integers(1, 40)),
        st.tuples(st.just("node"), st.integers(0, 2), st.integers(0, 1)),
        st.tuples(st.just("free"), st.integers(0, 2), st.integers(1, 60)),
        st.tuples(st.just("newest"), st.integers(0, 2), st.integers(1, 60)),
        st.tuples(st.just("reap"), st.integers(0, 2), st.integers(0, 5)),
        st.tuples(st.just("tune"), st.integers(0, 2), st.integers(0, 3)),
    ),
    max_size=60,
)
TUNES = ((4, 2, 1), (10, 3, 0), (3, 3, 4), (54, 27, 8))


@settings(max_examples=200, deadline=None)
@example([("alloc", 0, 9), ("free", 0, 8), ("tune", 0, 1), ("tune", 0, 0)], False, 3)
@given(STEPS, st.booleans(), st.sampled_from([3, 12, 200]))
def test_objects_are_where_a_model_of_lists_has_them(
    steps: list[tuple[str, int, int]], alien: bool, pages: int
) -> None:
    slab, source = machine(cmdline="" if alien else "noaliencache", pages=pages)
    cache = slab.caches["inode"]
    reference = ReferenceSlab(CPUS, {nid: set(free) for nid, free in source.free.items()}, alien)
    live: list[int] = []
    jiffies = 0
    for step, cpu, number in steps:
        if step in ("alloc", "node"):
            for _ in range(number if step == "alloc" else 1):
                where = number if step == "node" else -1
                address = slab.kmem_cache_alloc("inode", cpu, GFP_KERNEL, where)
                assert address == reference.alloc(cpu, where)
                if address is not None:
                    live.append(address)
        elif step in ("free", "newest"):
            for _ in range(min(number, len(live))):
                address = live.pop(0 if step == "free" else -1)
                slab.kmem_cache_free("inode", cpu, address)
                reference.give(cpu, address)
        elif step == "reap":
            jiffies += number * 250
            slab.cache_reap(cpu, jiffies)
            reference.reap(cpu, jiffies)
        else:
            slab.slabinfo_write(f"inode {' '.join(map(str, TUNES[number]))}")
            reference.tune(*TUNES[number])
        assert source.free == reference.pages
        assert cache.objects == set(live)
        for nid, node in cache.nodes.items():
            theirs = reference.nodes[nid]
            assert list(node.partial) == theirs.partial
            assert list(node.empty) == theirs.empty
            assert node.free_objects == reference.count(nid)
            assert (node.shared.entry if node.shared else []) == theirs.shared
        assert {cpu: array.entry for cpu, array in cache.cpus.items()} == reference.arrays


def test_a_new_slab_is_used_downwards_and_colours_go_round() -> None:
    slab, source = machine(KmemCacheArgs("inode", 712, ctor="ctor"))
    got = [slab.kmem_cache_alloc("inode", 0, GFP_KERNEL) for _ in range(11 * 6)]
    starts = []
    for first in range(0, len(got), 11):
        objects = [address for address in got[first : first + 11] if address is not None]
        assert [a - b for a, b in pairwise(objects)] == [712] * 10
        starts.append((objects[-1] - page_address(0)) % 8192)
    assert starts == [64, 128, 192, 256, 0, 64]
    exact = (Gfp.IO | Gfp.FS | Gfp.NOWARN | Gfp.THISNODE | Gfp.COMP) & ~Gfp.DIRECT_RECLAIM
    assert source.asked == [(0, 1, exact)] * 6


def test_objects_of_another_node_go_home_by_twelves() -> None:
    slab, _ = machine()
    got = [slab.kmem_cache_alloc("inode", 0, GFP_KERNEL) for _ in range(26)]
    node = slab.caches["inode"].nodes[0]
    home = []
    for address in got:
        assert address
        slab.kmem_cache_free("inode", 2, address)
        assert node.shared
        home.append(len(node.shared.entry))
    assert home == [0] * 12 + [12] * 12 + [24] * 2


def test_pages_of_a_cache_that_is_read_under_rcu_wait() -> None:
    slab, source = machine(
        KmemCacheArgs("inode", 1024, flags=SlabFlag.TYPESAFE_BY_RCU), cmdline="noaliencache"
    )
    addresses = [slab.kmem_cache_alloc("inode", 0, GFP_KERNEL) for _ in range(400)]
    for address in addresses:
        assert address
        slab.kmem_cache_free("inode", 2, address)
    held = len(source.held)
    assert len(slab.rcu) > 60
    slab.rcu_callbacks()
    assert not slab.rcu
    assert len(source.held) < held - 60


def test_free_lists_off_their_slabs_are_objects_of_kmalloc() -> None:
    slab, source = machine(KmemCacheArgs("inode", 256, ctor="ctor"), cmdline="noaliencache")
    addresses = [slab.kmem_cache_alloc("inode", 0, GFP_KERNEL) for _ in range(16 * 40)]
    assert len(slab.caches["kmalloc-32"].objects) == 40
    for address in addresses:
        assert address
        slab.kmem_cache_free("inode", 2, address)
    assert len(slab.caches["kmalloc-32"].objects) == slab.caches["inode"].info().slabs < 40
    assert source.asked


def test_without_memory_at_home_objects_are_of_another_node() -> None:
    slab, source = machine(pages=2)
    got = [slab.kmem_cache_alloc("inode", 0, GFP_KERNEL) for _ in range(17)]
    assert got[-1] is None
    assert len({address for address in got[:16] if address}) == 16
    assert slab.kmem_cache_alloc("inode", 0, GFP_KERNEL | Gfp.THISNODE, 0) is None
    assert source.free == {0: set(), 1: set()}


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("twice", "slab: double free detected in cache 'inode', objp ffff88"),
        ("inside", "kernel BUG at mm/slab.c: no object of 'inode'"),
        ("other cache", "cache_from_obj: Wrong slab cache. dentry but object is from inode"),
        ("no slab", "virt_to_cache: Object is not a Slab page!"),
        ("no object of kmalloc", "object pointer: 0xffff88"),
    ],
)
def test_a_bad_free_says_what_the_kernel_says_and_changes_nothing(bad: str, words: str) -> None:
    slab, source = machine(INODE, KmemCacheArgs("dentry", 192))
    address, freed = (slab.kmem_cache_alloc("inode", 0, GFP_KERNEL) for _ in range(2))
    assert address
    assert freed
    slab.kmem_cache_free("inode", 0, freed)
    frees = {
        "twice": lambda: slab.kmem_cache_free("inode", 0, freed),
        "inside": lambda: slab.kmem_cache_free("inode", 0, address + 8),
        "other cache": lambda: slab.kmem_cache_free("dentry", 0, address),
        "no slab": lambda: slab.kmem_cache_free("inode", 0, page_address(99)),
        "no object of kmalloc": lambda: slab.kfree(0, page_address(99)),
    }
    cache = slab.caches["inode"]
    before = cache.info(), list(cache.cpus[0].entry), dict(source.held)
    with pytest.raises(SlabBugError, match=words):
        frees[bad]()
    assert (cache.info(), list(cache.cpus[0].entry), dict(source.held)) == before


def test_kmalloc() -> None:
    slab, source = machine()
    assert slab.kmalloc(0, 0, GFP_KERNEL) == 16
    small = slab.kmalloc(100, 0, GFP_KERNEL)
    large = slab.kmalloc(10000, 0, GFP_KERNEL)
    assert small in slab.caches["kmalloc-128"].objects
    assert large
    assert source.asked[-1] == (0, 2, GFP_KERNEL | Gfp.COMP)
    for address in (0, 16, small, large):
        assert address is not None
        slab.kfree(0, address)
    assert slab.caches["kmalloc-128"].objects == set()
    assert list(source.held.values()) == [0]


def test_tunables_empty_all_arrays_and_bad_ones_change_nothing() -> None:
    slab, _ = machine()
    for address in [slab.kmem_cache_alloc("inode", 0, GFP_KERNEL) for _ in range(100)]:
        assert address
        slab.kmem_cache_free("inode", 0, address)
    cache = slab.caches["inode"]
    before = replace(cache.info())
    assert before.shared
    slab.slabinfo_write("inode 5 6 1")
    assert cache.info() == before
    slab.slabinfo_write("inode 20 5 2")
    assert (cache.info().shared_available, cache.info().active_objects, cache.nodes[0].free_limit) == (
        0,
        0,
        19,
    )
    with pytest.raises(ValueError, match="no cache is called"):
        slab.slabinfo_write("nothing 20 5 2")


def test_limits_count_the_cpus_that_had_come() -> None:
    """The last CPU of a node is not counted for caches of before, the first not for the very first."""
    caches = boot_slab(
        RULES.rules,
        RULES.kmem_cache_bytes,
        RULES.kmalloc,
        RULES.boot,
        slab_parameters(""),
        possible_cpus=4,
        node_ids=2,
        memory_bytes=1 << 30,
    )
    four = {0: 0, 1: 0, 2: 1, 3: 1}
    slab = start_slab(RULES, caches, four, NODES, MadeUpPages(2))
    limits = {name: [node.free_limit for node in slab.caches[name].nodes.values()] for name in slab.caches}
    assert limits["maple_node"] == [2 * 60 + 16] * 2
    assert limits["shmem_inode_cache"] == [2 * 27 + 11] * 2
    assert limits["UDP"] == [3 * 27 + 4] * 2
    slab.slabinfo_write("shmem_inode_cache 54 27 8")
    assert slab.caches["shmem_inode_cache"].nodes[0].free_limit == 92


def test_the_reaper_leaves_alone_what_was_used() -> None:
    slab, _ = machine(cmdline="noaliencache")
    for address in [slab.kmem_cache_alloc("inode", 0, GFP_KERNEL) for _ in range(54)]:
        assert address
        slab.kmem_cache_free("inode", 0, address)
    array = slab.caches["inode"].cpus[0]
    left = []
    for number in range(1, 5):
        slab.cache_reap(0, number * REAPTIMEOUT_AC)
        left.append(len(array.entry))
    assert left == [29, 18, 7, 3]  # a fifth of the limit, 11, and of fewer than that a half


# SLAB of 3.0, from its source


def test_a_slab_of_3_0_goes_as_its_last_object_comes_back() -> None:
    """6.1 gives back the slab that was empty first, and once all objects are back."""
    gone = {}
    for profile in SLAB.values():
        slab, source = machine(profile=profile)
        slab.slabinfo_write("inode 4 2 0")  # a node keeps 3 * 2 + 4 free objects
        objects = slab.kmem_cache_alloc_bulk("inode", 0, GFP_KERNEL, 20)
        by_page: dict[int, list[int]] = {}
        for address in objects:
            by_page.setdefault(virt_to_pfn(address), []).append(address)
        order = [address for page in sorted(by_page) for address in by_page[page]]
        slab.kmem_cache_free_bulk("inode", 0, order)
        gone[profile is RULES] = [nr for nr, pfn in enumerate(sorted(by_page)) if pfn not in source.held]
    assert gone == {True: [0, 1], False: [2, 3]}


def test_struct_slab_comes_from_kmalloc() -> None:
    slab, _ = machine(profile=SLAB["linux-3.0"])
    first = slab.kmem_cache_alloc("inode", 0, GFP_KERNEL)
    assert first is not None
    info = {info.name: info for info in slab.slabinfo()}
    assert [name for name, info in info.items() if info.slabs] == ["size-64", "inode"]  # 48 + 4 * 4 bytes
    page = slab.struct_pages[virt_to_pfn(first)]
    assert slab.struct_pages[virt_to_pfn(page.off_slab or 0)].cache.name == "size-64"
    assert page.start == page_address(page.pfn)
    slab.kmem_cache_free("inode", 0, first)
    slab.kmem_cache_shrink("inode")
    slab.kmem_cache_shrink("size-64")
    assert not slab.struct_pages


def test_colours_of_3_0_begin_with_the_first() -> None:
    slab, _ = machine(KmemCacheArgs("odd", 712), profile=SLAB["linux-3.0"])
    objects = slab.kmem_cache_alloc_bulk("odd", 0, GFP_KERNEL, 60)
    slabs = {id(of): of for of in (slab.struct_pages[virt_to_pfn(at)] for at in objects)}.values()
    assert [of.start - page_address(of.pfn) for of in slabs][:5] == [96, 160, 224, 288, 96]
