"""The slab caches of a machine: those of boot, and what has become of them since."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import replace

from numa_service.machine.record import CacheArgs, SlabCaches
from numa_service.machine.spec import MachineSpec
from numa_service.mm.mmzone import PAGE_SHIFT
from numa_service.mm.slab.cache import Cache, Caches
from numa_service.mm.slab.flags import SlabFlag
from numa_service.mm.slab.kmem_cache import KmemCacheArgs, align_up
from numa_service.mm.slab.slob import SlobCache
from numa_service.mm.slab.slub import SlubCache, SlubCaches
from numa_service.mm.slab.start import booted_caches


def slab_caches_of(spec: MachineSpec, changed: SlabCaches | None = None) -> tuple[Cache, ...]:
    """The slab caches of a machine that has booted, in the order of creation, with what has changed since.

    Those that have not changed are shared by all callers: change none of them.
    """
    boot = _boot(spec)
    caches: dict[str, Cache] = {cache.name: cache for cache in boot.caches}
    for change in changed.caches if changed else ():
        if change.args:
            cache: Cache = boot.kmem_cache_open(kmem_cache_args(change.name, change.args))
        else:
            cache = caches[change.name]
        caches[change.name] = cache
        if isinstance(cache, SlobCache):
            continue
        users = [user for user in change.users if user != change.name]
        size = max(cache.object_size, change.object_size)
        cache = caches[change.name] = replace(cache, aliases=[*cache.aliases, *users], object_size=size)
        if isinstance(cache, SlubCache):
            assert isinstance(boot, SlubCaches)
            cache.inuse = max(cache.inuse, align_up(size, boot.rules.arch.word))
            for file, value in change.written:
                setattr(cache, file, value)
    return tuple(caches.values())


def kmem_cache_args(name: str, args: CacheArgs) -> KmemCacheArgs:
    """The arguments of kmem_cache_create as the allocators take them."""
    size, align, flags, ctor, usersize = args
    return KmemCacheArgs(name, size, align, SlabFlag(flags), ctor, usersize)


def created_beside(spec: MachineSpec, caches: Iterable[Cache], args: KmemCacheArgs) -> Cache:
    """The cache that a creator gets beside these, one of which it may be (kmem_cache_create).

    ValueError: no slab can hold an object.
    """
    made: Caches = copy.copy(_boot(spec))
    # the one that is shared changes
    made.caches = [  # type: ignore[assignment]  # they are of the allocator that `made` is of
        cache if isinstance(cache, SlobCache) else replace(cache, aliases=list(cache.aliases))
        for cache in caches
    ]
    return made.kmem_cache_create(args)


def _boot(spec: MachineSpec) -> Caches:
    pages = sum(end - start for node in spec.nodes for start, end in node.ram)
    return booted_caches(
        spec.slab,
        spec.profile,
        spec.cmdline,
        len(spec.cpus),
        spec.node_ids,
        pages << PAGE_SHIFT,
        spec.arch,
        any(zone.name == "HighMem" for node in spec.nodes for zone in node.zones),
    )
