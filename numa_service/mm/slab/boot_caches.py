"""The caches that a kernel has after boot: its own, kmalloc's, and those of its subsystems."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from numa_service.mm.slab.kmalloc import KmallocRules, KmemBuckets
from numa_service.mm.slab.kmem_cache import KmemCacheArgs
from numa_service.mm.slab.slab import SlabCaches, SlabParameters, SlabRules
from numa_service.mm.slab.slub import SlubCaches, SlubRules
from numa_service.mm.slab.slub_parameters import SlubParameters

#: P9_HDRSZ + 4: what stands before the payload in a buffer of 9P, which user space does not get.
_P9_HEADER = 11


@dataclass(frozen=True, slots=True)
class BootCaches:
    """What a kernel creates at boot besides the kmalloc caches, in that order, and what its modules add."""

    built_in: tuple[KmemCacheArgs | KmemBuckets, ...]
    #: By the name of the module.
    modules: Mapping[str, tuple[KmemCacheArgs, ...]]
    #: Names of those that only a machine with high memory has.
    of_highmem: frozenset[str] = frozenset()

    def args(self, kmalloc: KmallocRules, *, highmem: bool = True) -> list[KmemCacheArgs]:
        """The built-in caches, private sets of kmalloc caches spelt out."""
        args: list[KmemCacheArgs] = []
        for entry in self.built_in:
            if entry.name in self.of_highmem and not highmem:
                continue
            args += kmalloc.buckets(entry) if isinstance(entry, KmemBuckets) else [entry]
        return args


#: Of a kernel of which no boot was captured.
NO_BOOT_CACHES = BootCaches((), {})


def p9_fcall_cache(number: int, msize: int) -> KmemCacheArgs:
    """The cache of message buffers that a mounted 9P file system has (p9_client_create)."""
    return KmemCacheArgs(f"9p-fcall-cache-{number}", msize, usersize=msize - _P9_HEADER)


def boot_slub(
    rules: SlubRules,
    kmalloc: KmallocRules,
    boot: BootCaches,
    parameters: SlubParameters,
    *,
    present_cpus: int,
    possible_cpus: int,
    node_ids: int,
    highmem: bool = True,
) -> SlubCaches:
    """The caches of a machine that has booted with SLUB: kmem_cache_init, and then the subsystems' calls."""
    caches = SlubCaches(rules, parameters, present_cpus, possible_cpus)
    caches.kmem_cache_init(node_ids)
    for args in kmalloc.caches():
        caches.create_boot_cache(args)
    for args in boot.args(kmalloc, highmem=highmem):
        caches.kmem_cache_create(args)
    return caches


def boot_slab(
    rules: SlabRules,
    kmem_cache_bytes: int,
    kmalloc: KmallocRules,
    boot: BootCaches,
    parameters: SlabParameters,
    *,
    possible_cpus: int,
    node_ids: int,
    memory_bytes: int,
    highmem: bool = True,
) -> SlabCaches:
    """The caches of a machine that has booted with SLAB and so much memory."""
    caches = SlabCaches(rules, kmalloc, parameters, possible_cpus, node_ids, memory_bytes)
    caches.kmem_cache_init(kmem_cache_bytes)
    for args in kmalloc.caches():
        caches.create_boot_cache(args)
    for args in boot.args(kmalloc, highmem=highmem):
        caches.kmem_cache_create(args)
    return caches
