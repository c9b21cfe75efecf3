"""SLAB's rules where no captured kernel shows them."""

from __future__ import annotations

from pathlib import Path

import pytest

from numa_service.mm.gfp import Gfp
from numa_service.mm.slab.boot_caches import boot_slab
from numa_service.mm.slab.flags import NO_FLAGS, SlabFlag
from numa_service.mm.slab.kmem_cache import KmemCacheArgs
from numa_service.mm.slab.profile import SLAB, SlabProfile, slab_of
from numa_service.mm.slab.slab import Freelist, SlabCaches, SlabParameters, enable_cpucache, slab_parameters

RULES = SLAB["linux-6.1"]
#: See there whose it was.
SLABINFO = Path(__file__).resolve().parents[2] / "testdata/public/slabinfo-3.4.tsv"


OLD = SLAB["linux-3.0"]


def empty(cmdline: str = "", memory: int = 1 << 30, nodes: int = 2) -> SlabCaches:
    return SlabCaches(RULES.rules, RULES.kmalloc, slab_parameters(cmdline), 4, nodes, memory)


def test_where_the_free_list_is() -> None:
    caches = empty()
    for args, freelist, objects in (
        (KmemCacheArgs("plain", 64), Freelist.IN_OBJECT, 64),
        # 64 indices do not fit in an object of 56 bytes that takes 64
        (KmemCacheArgs("short", 56, flags=SlabFlag.HWCACHE_ALIGN), Freelist.ON_SLAB, 63),
        (KmemCacheArgs("constructed", 712, ctor="ctor"), Freelist.ON_SLAB, 11),
        # 16 objects leave nothing over, and their 16 indices are worth an object of their own
        (KmemCacheArgs("full", 256, ctor="ctor"), Freelist.OFF_SLAB, 16),
        (KmemCacheArgs("untracked", 256, ctor="ctor", flags=SlabFlag.NOLEAKTRACE), Freelist.ON_SLAB, 15),
    ):
        cache = caches.kmem_cache_create(args)
        assert (cache.freelist, cache.objects) == (freelist, objects), args.name


def test_an_object_has_sixteen_bytes_at_least() -> None:
    cache = empty().kmem_cache_create(KmemCacheArgs("tiny", 8))
    assert (cache.size, cache.objects) == (16, 240)


def test_large_slabs_are_for_machines_with_memory_and_caches_that_are_not_reclaimed() -> None:
    """Five objects of 712 bytes leave 536 of a page: more than one part in eight."""
    args = KmemCacheArgs("inode", 712, ctor="ctor")
    reclaimed = KmemCacheArgs("reclaimed", 712, ctor="ctor", flags=SlabFlag.RECLAIM_ACCOUNT)
    assert empty().kmem_cache_create(args).order == 1
    assert empty().kmem_cache_create(reclaimed).order == 0
    assert empty(memory=32 << 20).kmem_cache_create(args).order == 0
    assert empty("slab_max_order=3", memory=32 << 20).kmem_cache_create(args).order == 1


def test_colours_and_what_a_node_keeps() -> None:
    cache = empty().kmem_cache_create(KmemCacheArgs("inode", 712, ctor="ctor"))
    assert cache.colours() == [0, 64, 128, 192, 256]
    assert [cache.free_limit(cpus) for cpus in (1, 2)] == [65, 92]
    assert empty().kmem_cache_create(KmemCacheArgs("full", 256)).colours() == [0]


@pytest.mark.parametrize(
    ("size", "tunables"),
    [(256, (120, 60, 8)), (257, (54, 27, 8)), (4096, (24, 12, 8)), (4097, (8, 4, 0)), (131073, (1, 1, 0))],
)
def test_tunables_follow_the_size(size: int, tunables: tuple[int, int, int]) -> None:
    assert enable_cpucache(size, 4) == tunables
    assert enable_cpucache(size, 1) == (*tunables[:2], 0)


def test_caches_merge_only_where_alignments_divide() -> None:
    caches = empty()
    caches.kmem_cache_create(KmemCacheArgs("loose", 256))
    aligned = caches.kmem_cache_create(KmemCacheArgs("aligned", 256, align=256))
    assert aligned.name == "aligned"
    half = caches.kmem_cache_create(KmemCacheArgs("half", 250, flags=SlabFlag.HWCACHE_ALIGN))
    assert (half.name, half.aliases, half.object_size) == ("aligned", ["half"], 256)
    apart = empty("slab_nomerge")
    assert [apart.kmem_cache_create(KmemCacheArgs(name, 64)).name for name in "ab"] == ["a", "b"]


def test_objects_of_other_nodes_go_home_together() -> None:
    args = KmemCacheArgs("inode", 712)
    assert empty().kmem_cache_create(args).alien_limit == 12
    assert empty("noaliencache").kmem_cache_create(args).alien_limit == 0
    assert empty(nodes=1).kmem_cache_create(args).alien_limit == 0


def test_parameters() -> None:
    assert slab_parameters("slab_max_order=99 noaliencache quiet") == SlabParameters(10, False, True)
    assert slab_parameters("slab_max_order=-1 slab_nomerge") == SlabParameters(0, True, False)


def test_no_slab_holds_an_object_that_is_too_large() -> None:
    with pytest.raises(ValueError, match="no slab can hold"):
        empty().kmem_cache_create(KmemCacheArgs("huge", 5 << 20))


@pytest.mark.parametrize("text", ["", "inode", "inode 1 2", "inode 1 x 3", "other 2 1 0"])
def test_what_slabinfo_refuses(text: str) -> None:
    caches = empty()
    cache = caches.kmem_cache_create(KmemCacheArgs("inode", 712))
    with pytest.raises(ValueError, match=r"three numbers|no cache is called"):
        caches.slabinfo_write(text)
    assert cache.limit == 54


# SLAB of 3.0, from its source


def old(memory: int = 1 << 30, cmdline: str = "", profile: SlabProfile = OLD) -> SlabCaches:
    return SlabCaches(profile.rules, profile.kmalloc, slab_parameters(cmdline), 4, 2, memory)


def test_struct_slab_is_in_front_of_the_objects_or_off_the_slab() -> None:
    """Of 48 bytes, and four for each object; off the slab from 512 bytes on, unless there is room anyway."""
    caches = old()
    for size, freelist, objects, order, taken in (
        (32, Freelist.AT_START, 112, 0, 496),  # 48 + 4 * 112, and 112 * 32 = 3584 bytes of objects
        (200, Freelist.AT_START, 19, 0, 128),  # 48 + 4 * 19 = 124, rounded up to words
        (512, Freelist.OFF_SLAB, 8, 0, 80),
        (712, Freelist.AT_START, 11, 1, 96),  # 92 bytes of the 360 that are left over, in words
        (1024, Freelist.OFF_SLAB, 4, 0, 64),
        (3000, Freelist.AT_START, 2, 1, 56),
        (4096, Freelist.OFF_SLAB, 1, 0, 52),
        (1 << 22, Freelist.OFF_SLAB, 1, 10, 52),
    ):
        cache = caches.kmem_cache_create(KmemCacheArgs(f"of-{size}", size))
        measured = (cache.freelist, cache.objects, cache.order, cache.freelist_bytes)
        assert measured == (freelist, objects, order, taken), size


def test_nothing_merges_and_the_command_line_says_nothing_of_orders() -> None:
    caches = old(cmdline="slab_max_order=3")
    one, two = (caches.kmem_cache_create(KmemCacheArgs(name, 712)) for name in ("one", "two"))
    assert one is not two
    assert (one.order, old(32 << 20).kmem_cache_create(KmemCacheArgs("small", 712)).order) == (1, 0)


def test_colours_begin_behind_struct_slab() -> None:
    cache = old().kmem_cache_create(KmemCacheArgs("inode", 712))
    assert cache.colours() == [96, 160, 224, 288]  # 360 - 96 = 264 bytes are left: four lines


def test_caches_of_kmalloc_are_called_sizes_and_have_twins_for_dma() -> None:
    names = [args.name for args in OLD.kmalloc.caches()]
    assert names[:5] == ["size-32", "size-128", "size-32(DMA)", "size-64", "size-64(DMA)"]
    assert names[-2:] == ["size-4194304", "size-4194304(DMA)"]
    assert len(names) == 2 * 19
    cache_of = OLD.kmalloc.cache_of
    assert [cache_of(size, 0) for size in (1, 65, 129, 193, 8193)] == [
        *("size-32", "size-128", "size-192", "size-256", "size-16384")
    ]
    assert cache_of(100, Gfp.DMA) == "size-128(DMA)"
    assert cache_of(100, Gfp.RECLAIMABLE) == "size-128"
    assert cache_of((4 << 20) + 1, 0) is None


def test_the_cache_of_caches_has_the_first_order_that_holds_one() -> None:
    caches = old()
    caches.kmem_cache_init(OLD.kmem_cache_bytes)
    [cache] = caches.caches
    assert (cache.size, cache.order, cache.objects) == (4224, 1, 1)
    assert cache.freelist is Freelist.AT_START


def test_a_32_bit_kernel_has_shorter_words_and_lines() -> None:
    profile = slab_of("linux-3.0", "i386")
    cache = old(profile=profile).kmem_cache_create(KmemCacheArgs("inode", 300))
    assert (cache.size, cache.objects, cache.freelist_bytes) == (304, 13, 80)  # 28 + 4 * 13
    names = [args.name for args in profile.kmalloc.caches()]
    assert names[:3] == ["size-32", "size-64", "size-32(DMA)"]
    assert "size-96" in names
    new = slab_of("linux-6.1", "i386")
    words = SlabCaches(new.rules, new.kmalloc, slab_parameters(""), 4, 2, 1 << 30)
    assert words.kmem_cache_create(KmemCacheArgs("words", 20)).size == 24  # of eight bytes at least
    assert words.kmem_cache_create(KmemCacheArgs("lines", 40, flags=SlabFlag.HWCACHE_ALIGN)).size == 64


def test_caches_of_a_32_bit_kernel_are_as_booted() -> None:
    """Lines of /proc/slabinfo of 6.1.192, built for i386 with SLAB and HIGHMEM, on a machine of 2 GiB."""
    booted = {
        # size: objects and pages of a slab, limit, batchcount
        32: (124, 1, 120, 60),
        64: (64, 1, 120, 60),
        96: (42, 1, 120, 60),
        128: (32, 1, 120, 60),
        192: (21, 1, 120, 60),
        256: (16, 1, 120, 60),
        512: (8, 1, 54, 27),
        1024: (4, 1, 54, 27),
        2048: (2, 1, 24, 12),
        4096: (1, 1, 24, 12),
        8192: (1, 2, 8, 4),
    }
    slab = slab_of("linux-6.1", "i386")
    caches = boot_slab(
        slab.rules,
        slab.kmem_cache_bytes,
        slab.kmalloc,
        slab.boot,
        slab_parameters(""),
        possible_cpus=1,
        node_ids=1,
        memory_bytes=2 << 30,
    )
    general = [cache for cache in caches.caches if "kmalloc" in cache.name]
    assert len(general) == 3 * len(booted)
    for cache in [caches.caches[0], *general]:
        line = cache.objects, 1 << cache.order, cache.limit, cache.batchcount
        assert line == booted[cache.size], cache.name
    assert (caches.caches[0].name, caches.caches[0].size) == ("kmem_cache", 96)


@pytest.mark.parametrize(
    ("kernel", "merges"),
    [("linux-3.0", False), ("linux-3.10", False), ("linux-5.4", True), ("linux-6.1", True)],
)
def test_kernels_in_between_have_the_rules_of_an_older_one(kernel: str, merges: bool) -> None:
    assert slab_of(kernel).rules.merges == merges


#: Of a machine whose owner asked about it: (name, size, objects, pages) of each cache, the oldest first.
PUBLIC = [
    (name, *map(int, numbers))
    for name, *numbers in (
        line.split("\t") for line in SLABINFO.read_text().splitlines() if not line.startswith("#")
    )
][::-1]


def test_kmalloc_is_as_on_a_public_machine_of_the_era() -> None:
    """Names, their order, objects and pages of the 39 caches that SLAB makes for itself, of 3.4."""
    caches = old()
    caches.kmem_cache_init(104 + 8 * 8)  # of eight CPUs
    for args in OLD.kmalloc.caches():
        caches.create_boot_cache(args)
    ours = [(cache.name, cache.size, cache.objects, 1 << cache.order) for cache in caches.caches]
    assert ours == PUBLIC[: len(ours)]
    assert len(ours) == 39


def test_other_caches_of_that_machine_are_what_a_creator_can_have_asked_for() -> None:
    """The file does not say how long objects were before alignment, nor whose pages can be reclaimed."""
    caches, line, reclaimed = old(), SlabFlag.HWCACHE_ALIGN, SlabFlag.RECLAIM_ACCOUNT
    assert len(PUBLIC) == 39 + 158
    for name, size, objects, pages in PUBLIC[39:]:
        fits = set()
        for asked, flags in ((size, NO_FLAGS), (size, line), (size - 8, line)):
            for more in (NO_FLAGS, reclaimed):
                cache = caches.kmem_cache_open(KmemCacheArgs(name, asked, flags=flags | more))
                fits.add((cache.size, cache.objects, 1 << cache.order))
        assert (size, objects, pages) in fits, name
