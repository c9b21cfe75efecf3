"""What becomes of a machine's slab caches when one is made, destroyed or written to (``mm/slab_common.c``).

The keeper of the machine's record calls these, for all nodes; each returns the caches as they are then. What
a node does about it is ``Kmem.follow``.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import NamedTuple

from numa_service.machine.record import CacheArgs, ChangedCache, SlabCaches
from numa_service.machine.slab_caches import created_beside, kmem_cache_args, slab_caches_of
from numa_service.machine.spec import MachineSpec
from numa_service.mm.slab.flags import SlabFlag
from numa_service.mm.slab.slob import SlobCache
from numa_service.node.errors import InvalidRequest, NotFound, Precondition, SlabBug, TooMany
from numa_service.node.kmem_calls import KMALLOC, Shutdown

#: Caches that clients can have made at one time.
MAX_CACHES = 256
MAX_NAME = 64
MAX_CTOR = 128
#: KMALLOC_MAX_SIZE.
MAX_SIZE = 4 << 20
MAX_ALIGN = 4096
#: What a creator may pass (SLAB_FLAGS_PERMITTED); the others are what an allocator notes for itself.
PERMITTED = (
    SlabFlag.HWCACHE_ALIGN
    | SlabFlag.CACHE_DMA
    | SlabFlag.CACHE_DMA32
    | SlabFlag.RECLAIM_ACCOUNT
    | SlabFlag.TYPESAFE_BY_RCU
    | SlabFlag.NOLEAKTRACE
    | SlabFlag.NO_MERGE
    | SlabFlag.ACCOUNT
    | SlabFlag.RED_ZONE
    | SlabFlag.POISON
    | SlabFlag.STORE_USER
    | SlabFlag.TRACE
    | SlabFlag.CONSISTENCY_CHECKS
)


def parse_flags(text: str) -> int:
    """The flags of "SLAB_HWCACHE_ALIGN|SLAB_ACCOUNT"; "" is none. InvalidRequest."""
    flags = SlabFlag(0)
    for word in filter(None, (part.strip() for part in text.split("|"))):
        flag = SlabFlag.__members__.get(word.removeprefix("SLAB_"))
        if flag is None or not word.startswith("SLAB_") or not flag & PERMITTED:
            known = ", ".join(f"SLAB_{flag.name}" for flag in SlabFlag if flag & PERMITTED)
            raise InvalidRequest("flags", f"{word!r:.40} is none of {known}")
        flags |= flag
    return int(flags)


def check_args(name: str, args: CacheArgs) -> None:
    """Check what kmem_cache_create was called with. InvalidRequest."""
    size, align, flags, ctor, usersize = args
    plain = name.isascii() and name.isprintable() and not set(name) & set(" /")
    if not 1 <= len(name) <= MAX_NAME or not plain or name[0] in ":.":
        raise InvalidRequest("name", f"{name!r:.80} is not 1 to {MAX_NAME} characters that a file can have")
    if name.startswith(KMALLOC):
        raise InvalidRequest("name", f"{name!r:.80}: caches of kmalloc are the kernel's")
    if not 1 <= size <= MAX_SIZE:
        raise InvalidRequest("size", f"{size} is not in 1…{MAX_SIZE}")
    if not 0 <= align <= MAX_ALIGN or align & (align - 1):
        raise InvalidRequest("align", f"{align} is no power of two up to {MAX_ALIGN}")
    if flags & ~int(PERMITTED):
        raise InvalidRequest("flags", f"{flags:#x} has flags that no creator passes")
    if len(ctor) > MAX_CTOR or not (ctor.isascii() and (ctor.isprintable() or not ctor)):
        raise InvalidRequest("ctor", f"{ctor!r:.40} is no name of a function")
    if not 0 <= usersize <= size:
        raise InvalidRequest("usersize", f"{usersize} is not in 0…{size}")


def kmem_cache_create(spec: MachineSpec, now: SlabCaches, name: str, args: CacheArgs) -> SlabCaches:
    """Make a cache, or share one that fits (kmem_cache_create_usercopy). InvalidRequest, TooMany."""
    check_args(name, args)
    if len(now.caches) >= MAX_CACHES or sum(len(change.users) for change in now.caches) >= MAX_CACHES:
        raise TooMany(f"the machine has {MAX_CACHES} slab caches that were made since boot")
    caches = slab_caches_of(spec, now)
    for cache in caches:
        if name in (cache.name, *cache.aliases):
            raise InvalidRequest("name", f"there is a cache {name}")
    dying = {change.name for change in now.caches if change.dying}
    try:
        cache = created_beside(
            spec, [cache for cache in caches if cache.name not in dying], kmem_cache_args(name, args)
        )
    except ValueError as refused:
        raise InvalidRequest("size", str(refused)) from None
    if cache.name == name:
        return SlabCaches((*now.caches, ChangedCache(name, args, (name,), args.size)))
    assert not isinstance(cache, SlobCache)
    grown = cache.object_size
    return _changed(
        now, cache.name, lambda c: c._replace(users=(*c.users, name), object_size=max(c.object_size, grown))
    )


def kmem_cache_destroy(spec: MachineSpec, now: SlabCaches, name: str) -> tuple[SlabCaches, str]:
    """A creator needs its cache no more (kmem_cache_destroy). NotFound; Precondition if boot made it.

    If it was the last creator, the cache begins to die, and is the second of the result: when no object of it
    is found, :func:`shut_down` follows, else :func:`revive`.
    """
    for change in now.caches:
        if change.dying and change.name == name:
            return now, name  # a keeper before this one has begun
        if name not in change.users:
            continue
        if change.args and change.users == (name,):
            return _changed(now, change.name, lambda c: c._replace(dying=True)), change.name
        return _changed(now, change.name, lambda c: c._replace(users=_without(c.users, name))), ""
    if any(name in (cache.name, *cache.aliases) for cache in slab_caches_of(spec, now)):
        raise Precondition(f"cache {name}: who made it still needs it")
    raise NotFound("cache", name, "the machine has no such slab cache")


def _without(users: tuple[str, ...], name: str) -> tuple[str, ...]:
    return tuple(user for user in users if user != name)


class ShutdownStep(NamedTuple):
    """What a node is to do now, with the slabs of a cache that is dying."""

    nid: int
    #: "flush": its CPUs give them back (flush_all); "shutdown": it frees those that are empty (KmemShutdown).
    call: str


def shutdown_on_all(nids: Iterable[int], cache: str) -> Generator[ShutdownStep, Shutdown | None, None]:
    """All CPUs give their slabs back, then nodes free those that are empty (__kmem_cache_shutdown).

    What a node answers to "shutdown" is sent in. SlabBug if there are others: as in the kernel, no node is
    asked after the first that has some. Precondition with SLOB, which would not see them.
    """
    for nid in nids:
        yield ShutdownStep(nid, "flush")
    for nid in nids:
        found = yield ShutdownStep(nid, "shutdown")
        if found and found.report:
            raise SlabBug(found.report)
        if found and found.slabs:
            raise Precondition(f"cache {cache}: {found.slabs} pages of node {nid} have objects of it")


def shut_down(now: SlabCaches, cache: str) -> SlabCaches:
    """A cache without objects is no more."""
    return SlabCaches(tuple(change for change in now.caches if change.name != cache))


def revive(now: SlabCaches, cache: str) -> SlabCaches:
    """A cache that was to die has objects: it stays as it was."""
    return _changed(now, cache, lambda c: c._replace(dying=False))


def with_written(now: SlabCaches, cache: str, file: str, value: int) -> SlabCaches:
    """A number was written to a file of a cache below /sys/kernel/slab."""
    return _changed(now, cache, lambda c: c._replace(written=tuple({**dict(c.written), file: value}.items())))


def _changed(now: SlabCaches, name: str, change: Callable[[ChangedCache], ChangedCache]) -> SlabCaches:
    if all(cache.name != name for cache in now.caches):  # boot's, which has not changed yet
        now = SlabCaches((*now.caches, ChangedCache(name)))
    return SlabCaches(tuple(change(cache) if cache.name == name else cache for cache in now.caches))
