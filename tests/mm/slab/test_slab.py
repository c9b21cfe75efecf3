"""SLAB's rules where no captured kernel shows them."""

from __future__ import annotations

import pytest

from numa_service.mm.slab.flags import SlabFlag
from numa_service.mm.slab.kmem_cache import KmemCacheArgs
from numa_service.mm.slab.profile import SLAB
from numa_service.mm.slab.slab import Freelist, SlabCaches, SlabParameters, enable_cpucache, slab_parameters

(RULES,) = SLAB.values()


def empty(cmdline: str = "", memory: int = 1 << 30, nodes: int = 2) -> SlabCaches:
    return SlabCaches(RULES.kmalloc, slab_parameters(cmdline), 4, nodes, memory)


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
