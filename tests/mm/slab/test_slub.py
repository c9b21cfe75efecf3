"""SLUB's rules where no captured kernel shows them: 3.0, lists of ``slub_debug``, who merges with whom."""

from __future__ import annotations

import pytest

from numa_service.mm.profile import PROFILES
from numa_service.mm.slab.boot_caches import boot_slub
from numa_service.mm.slab.flags import DEBUG_DEFAULT_FLAGS, SlabFlag
from numa_service.mm.slab.kmem_cache import KmemCacheArgs, calculate_alignment, get_order
from numa_service.mm.slab.profile import SLUB, SlubProfile
from numa_service.mm.slab.slub import SlubCaches, calculate_order, min_objects_of
from numa_service.mm.slab.slub_parameters import SlubParameters, parse_slub_debug, slub_parameters

OLD, NEW, NEWEST = SLUB["linux-3.0"], SLUB["linux-6.1"], SLUB["linux-6.12"]


def empty(slub: SlubProfile, cmdline: str = "", cpus: int = 4) -> SlubCaches:
    return SlubCaches(slub.rules, slub_parameters(cmdline, slub.rules.parameters), cpus, cpus)


def test_every_kernel_has_slub() -> None:
    assert SLUB.keys() == PROFILES.keys()


def test_alignment_follows_cache_lines_and_their_parts() -> None:
    hwcache = SlabFlag.HWCACHE_ALIGN
    assert [calculate_alignment(hwcache, 0, size) for size in (8, 16, 17, 32, 33, 200)] == [
        8,
        16,
        32,
        32,
        64,
        64,
    ]
    assert calculate_alignment(SlabFlag(0), 0, 100) == 8
    assert calculate_alignment(hwcache, 256, 200) == 256


def test_orders_of_pages() -> None:
    assert [get_order(size) for size in (0, 1, 4096, 4097, 8192, 8193)] == [0, 0, 0, 1, 1, 2]


@pytest.mark.parametrize(("present", "possible", "objects"), [(1, 1, 8), (1, 8, 20), (2, 8, 12), (4, 4, 16)])
def test_a_slab_should_have_more_objects_where_there_are_more_cpus(
    present: int, possible: int, objects: int
) -> None:
    assert min_objects_of(NEW.rules, present, possible) == objects
    assert min_objects_of(OLD.rules, present, possible) == 4 * (possible.bit_length() + 1)


def test_an_object_too_large_for_the_largest_order_gets_its_own() -> None:
    for slub in (OLD, NEW, NEWEST):
        assert calculate_order(40_000, slub.rules, SlubParameters(), 8) == 4
        with pytest.raises(ValueError, match="no slab can hold"):
            calculate_order(5 << 20, slub.rules, SlubParameters(), 8)


def test_waste_is_taken_before_fewer_objects_or_after() -> None:
    few = SlubParameters(min_objects=3, max_order=2)
    # 3 objects in order 2 waste 1,384 of 16,384 bytes: more than one part in 16, less than one in 8
    assert [calculate_order(5_000, slub.rules, few, 16) for slub in (NEW, NEWEST)] == [2, 2]
    # 1 object in order 1 wastes 3,192 of 8,192 bytes: 6.1 takes it as a last resort, 6.12 as less than half
    one = SlubParameters(max_order=1)
    assert [calculate_order(5_000, slub.rules, one, 16) for slub in (NEW, NEWEST)] == [1, 1]


def test_least_and_largest_order_agree_or_do_not() -> None:
    text = "slub_max_order=1 slub_min_order=2"
    assert slub_parameters(text, NEW.rules.parameters) == SlubParameters(min_order=2, max_order=1)
    assert slub_parameters(text, NEWEST.rules.parameters) == SlubParameters(min_order=2, max_order=2)
    text = "slab_min_order=2 slab_max_order=0x1"
    assert slub_parameters(text, NEWEST.rules.parameters) == SlubParameters(min_order=1, max_order=1)
    assert slub_parameters(text, NEW.rules.parameters) == SlubParameters()
    assert slub_parameters("slub_max_order=99 slub_min_objects=x", NEW.rules.parameters).max_order == 10


def test_who_forbids_merging() -> None:
    for text, nomerge in (
        ("slab_nomerge", True),
        ("slub_nomerge slab_merge", False),
        ("slab_merge slub_nomerge", True),
    ):
        assert slub_parameters(text, NEW.rules.parameters).nomerge is nomerge
    assert not slub_parameters("slab_nomerge", OLD.rules.parameters).nomerge


def test_debugging_of_some_caches() -> None:
    debug = parse_slub_debug("ZU,kmalloc-*,dentry;P,pid;F")
    user = SlabFlag.RED_ZONE | SlabFlag.STORE_USER
    assert debug.kmem_cache_flags("kmalloc-64", SlabFlag(0)) == user
    assert debug.kmem_cache_flags("dentry", SlabFlag.ACCOUNT) == user | SlabFlag.ACCOUNT
    assert debug.kmem_cache_flags("pid", SlabFlag(0)) == SlabFlag.POISON
    assert debug.kmem_cache_flags("pid_namespace", SlabFlag(0)) == SlabFlag.CONSISTENCY_CHECKS
    assert parse_slub_debug("").everywhere == DEBUG_DEFAULT_FLAGS
    only = parse_slub_debug(",pid")
    assert only.everywhere == SlabFlag(0)
    assert only.kmem_cache_flags("pid", SlabFlag(0)) == DEBUG_DEFAULT_FLAGS
    assert parse_slub_debug("FZ-").everywhere == SlabFlag(0)
    prefix = parse_slub_debug("Z,kmalloc", one_prefix=True)
    assert prefix.kmem_cache_flags("kmalloc-64", SlabFlag(0)) == SlabFlag.RED_ZONE
    quiet = parse_slub_debug("FZPU").kmem_cache_flags("kmemleak_object", SlabFlag.NOLEAKTRACE)
    assert SlabFlag.STORE_USER not in quiet


def test_debugging_can_be_kept_from_raising_an_order() -> None:
    page = KmemCacheArgs("page", 4096)
    assert empty(NEW, "slub_debug=FZ").kmem_cache_create(page).size == 4096 + 24
    kept = empty(NEW, "slub_debug=FZO").kmem_cache_create(page)
    assert (kept.size, kept.min_order, kept.flags) == (4096, 0, SlabFlag.CONSISTENCY_CHECKS)
    assert kept.cpu_partial == 0


def test_a_red_zone_is_on_both_sides_since_it_has_a_left_one() -> None:
    args = KmemCacheArgs("pair", 32, flags=SlabFlag.HWCACHE_ALIGN)
    old, new = (empty(slub, "slub_debug=Z").kmem_cache_create(args) for slub in (OLD, NEW))
    assert (old.size, old.red_left_pad) == (64, 0)  # 32 + 8 behind it + 8 at the end, aligned to 32
    assert (new.size, new.red_left_pad) == (96, 32)


def test_the_free_pointer_stays_in_the_object_where_it_may() -> None:
    plain = KmemCacheArgs("plain", 64)
    assert [empty(slub).kmem_cache_create(plain).offset for slub in (OLD, NEW)] == [0, 32]
    rcu = KmemCacheArgs("rcu", 64, flags=SlabFlag.TYPESAFE_BY_RCU)
    cache = empty(NEW).kmem_cache_create(rcu)
    assert (cache.offset, cache.inuse, cache.size) == (64, 64, 72)


def test_a_cache_merges_with_the_oldest_that_fits_or_the_newest() -> None:
    """First of 200 bytes, then two that could not merge with each other, then of 200 again."""
    for slub, into in ((NEW, "first"), (OLD, "second")):
        caches = empty(slub)
        caches.kmem_cache_create(KmemCacheArgs("first", 200))
        second = caches.create_boot_cache(KmemCacheArgs("second", 200))
        caches.kmem_cache_create(KmemCacheArgs("account", 200, flags=SlabFlag.ACCOUNT))
        merged = caches.kmem_cache_create(KmemCacheArgs("last", 196))
        assert merged.name == into
        assert merged.aliases == ["last"]
        assert merged.object_size == 200
        assert second.sysfs_name == (":t-0000200" if slub is OLD else ":0000200")
        assert len(caches.caches) == 3


@pytest.mark.parametrize(
    "args",
    [
        KmemCacheArgs("constructed", 64, ctor="ctor"),
        KmemCacheArgs("copied", 64, usersize=8),
        KmemCacheArgs("rcu", 64, flags=SlabFlag.TYPESAFE_BY_RCU),
        KmemCacheArgs("reclaimable", 64, flags=SlabFlag.RECLAIM_ACCOUNT),
        KmemCacheArgs("dma", 64, flags=SlabFlag.CACHE_DMA),
        KmemCacheArgs("smaller", 56),
        KmemCacheArgs("alone", 64, flags=SlabFlag.NO_MERGE),
        KmemCacheArgs("aligned", 64, align=128),
    ],
    ids=lambda args: args.name,
)
def test_what_does_not_merge(args: KmemCacheArgs) -> None:
    caches = empty(NEW)
    caches.kmem_cache_create(KmemCacheArgs("plain", 64))
    assert caches.kmem_cache_create(args).args is args


def test_the_old_kernel_keeps_twice_as_many_partial_slabs_and_none_on_cpus() -> None:
    old, new = (empty(slub).kmem_cache_create(KmemCacheArgs("one", 256)) for slub in (OLD, NEW))
    assert (old.min_partial, old.cpu_partial) == (8, 0)
    assert (new.min_partial, new.cpu_partial) == (5, 52)


def test_classes_of_kmalloc() -> None:
    assert [NEW.kmalloc.class_of(size) for size in (0, 8, 65, 97, 129, 193, 8192, 8193)] == [
        *(8, 8, 96, 128, 192, 256, 8192),
        None,
    ]
    assert [args.name for args in OLD.kmalloc.caches()][:3] == ["kmalloc-96", "kmalloc-192", "kmalloc-8"]
    assert "dma-kmalloc-1024" in {args.name for args in OLD.kmalloc.caches()}
    aligned = {args.name: args.align for args in NEWEST.kmalloc.caches()}
    assert (aligned["kmalloc-96"], aligned["kmalloc-192"], aligned["kmalloc-1k"]) == (32, 64, 1024)


def test_a_machine_with_more_nodes_has_larger_caches_of_caches() -> None:
    assert NEW.boot
    for nodes in (1, 8):
        caches = boot_slub(
            NEW.rules,
            NEW.kmalloc,
            NEW.boot,
            SlubParameters(),
            present_cpus=4,
            possible_cpus=4,
            node_ids=nodes,
        )
        assert caches.caches[0].object_size == 216 + 8 * nodes
        assert caches.caches[0].sysfs_name == "kmem_cache"
