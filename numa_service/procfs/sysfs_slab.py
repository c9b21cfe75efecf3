"""``/sys/kernel/slab`` of SLUB (``slab_attrs`` in mm/slub.c): a directory a cache, and a link an alias.

Files are those of the captured kernels, 6.1 and 6.12, as root reads them, and ``shrink`` and ``validate``,
which are empty and can be written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from numa_service.mm.slab.flags import SlabFlag
from numa_service.mm.slab.slub import SlubCache
from numa_service.mm.slab.snapshot import SlabNodeSnapshot
from numa_service.mm.snapshot import MachineSnapshot
from numa_service.procfs.names import printed_by

#: Files that root can write, beside those of COMMANDS, and the largest number that each takes.
WRITABLE = {
    "min_partial": (1 << 64) - 1,
    "cpu_partial": (1 << 32) - 1,
    "remote_node_defrag_ratio": 100,
    "skip_kfence": 1,
}
#: Those of them that nothing in the model depends on.
ONLY_SHOWN = frozenset({"remote_node_defrag_ratio", "skip_kfence"})
#: Files that do something when they are written, and are empty.
COMMANDS = ("shrink", "validate")


@dataclass(frozen=True, slots=True)
class Seen:
    """A cache, and what is counted of it by node."""

    cache: SlubCache
    nodes: Mapping[int, SlabNodeSnapshot]

    def by_node(self, count: Callable[[SlabNodeSnapshot], int]) -> str:
        """A total and its parts, where they are not 0 (show_slab_objects)."""
        return _by_node({nid: count(node) for nid, node in self.nodes.items()})

    def cpu_slabs(self) -> str:
        """Slabs that CPUs have, by the node that the slabs are of."""
        total: Counter[int] = Counter()
        for node in self.nodes.values():
            total.update(node.cpu_slabs)
        return _by_node(total)

    def slabs_cpu_partial(self) -> str:
        """Objects and slabs on partial lists of CPUs: each slab is taken to be half full."""
        slabs = {cpu: count for node in self.nodes.values() for cpu, count in node.cpu_partial.items()}

        def both(count: int) -> str:
            return f"{count * self.cache.objects // 2}({count})"

        parts = (f" C{cpu}={both(count)}" for cpu, count in sorted(slabs.items()) if count)
        return both(sum(slabs.values())) + "".join(parts)


def _by_node(counts: Mapping[int, int]) -> str:
    parts = (f" N{nid}={count}" for nid, count in sorted(counts.items()) if count)
    return str(sum(counts.values())) + "".join(parts)


def _flag(flag: SlabFlag) -> Callable[[Seen], object]:
    return lambda seen: int(flag in seen.cache.flags)


#: Text of each file without its newline.
ATTRIBUTES: dict[str, Callable[[Seen], object]] = {
    "aliases": lambda seen: len(seen.cache.aliases),
    "align": lambda seen: seen.cache.align,
    "cache_dma": _flag(SlabFlag.CACHE_DMA),
    "cpu_partial": lambda seen: seen.cache.cpu_partial,
    "cpu_slabs": Seen.cpu_slabs,
    "ctor": lambda seen: seen.cache.args.ctor,
    "destroy_by_rcu": _flag(SlabFlag.TYPESAFE_BY_RCU),
    "hwcache_align": _flag(SlabFlag.HWCACHE_ALIGN),
    "min_partial": lambda seen: seen.cache.min_partial,
    "object_size": lambda seen: seen.cache.object_size,
    "objects": lambda seen: seen.by_node(lambda node: node.objects - node.free),
    "objects_partial": lambda seen: seen.by_node(lambda node: node.partial_inuse),
    "objs_per_slab": lambda seen: seen.cache.objects,
    "order": lambda seen: seen.cache.order,
    "partial": lambda seen: seen.by_node(lambda node: node.partial),
    "poison": _flag(SlabFlag.POISON),
    "reclaim_account": _flag(SlabFlag.RECLAIM_ACCOUNT),
    "red_zone": _flag(SlabFlag.RED_ZONE),
    "remote_node_defrag_ratio": lambda seen: seen.cache.remote_node_defrag_ratio,
    "sanity_checks": _flag(SlabFlag.CONSISTENCY_CHECKS),
    "skip_kfence": lambda seen: seen.cache.skip_kfence,
    "slab_size": lambda seen: seen.cache.size,
    "slabs": lambda seen: seen.by_node(lambda node: node.slabs),
    "slabs_cpu_partial": Seen.slabs_cpu_partial,
    "store_user": _flag(SlabFlag.STORE_USER),
    "total_objects": lambda seen: seen.by_node(lambda node: node.objects),
    "trace": _flag(SlabFlag.TRACE),
    "usersize": lambda seen: seen.cache.args.usersize,
}


def attribute_names(kernel: str) -> list[str]:
    """Names of the files of a cache, by the name of the kernel's profile."""
    absent = printed_by(kernel).absent_slab_files
    return [name for name in ATTRIBUTES if name not in absent]


def slub_caches(snapshot: MachineSnapshot) -> list[SlubCache]:
    """The caches of a machine with SLUB; those of other allocators have no files."""
    return [cache for cache in snapshot.slab_caches if isinstance(cache, SlubCache)]


def directories(snapshot: MachineSnapshot) -> Iterator[str]:
    """Every cache's directory."""
    return (cache.sysfs_name for cache in slub_caches(snapshot))


def files(snapshot: MachineSnapshot, directory: str) -> list[str]:
    """Files of a directory that can be read only."""
    return [name for name in attribute_names(snapshot.profile) if name not in WRITABLE]


def writable_files(snapshot: MachineSnapshot, directory: str) -> list[str]:
    """The other files of a directory."""
    return [*(name for name in attribute_names(snapshot.profile) if name in WRITABLE), *COMMANDS]


def cache_of(snapshot: MachineSnapshot, directory: str) -> SlubCache:
    """The cache whose directory it is."""
    return next(cache for cache in slub_caches(snapshot) if cache.sysfs_name == directory)


def aliases(snapshot: MachineSnapshot) -> Iterator[tuple[str]]:
    """Every link: names of caches whose directory has another one, or is that of another cache."""
    for cache in slub_caches(snapshot):
        names = (cache.name, *cache.aliases)
        yield from ((name,) for name in dict.fromkeys(names) if name != cache.sysfs_name)


def target(snapshot: MachineSnapshot, name: str) -> str:
    """What the link of a cache points to."""
    return next(cache.sysfs_name for cache in slub_caches(snapshot) if name in (cache.name, *cache.aliases))


def attribute(snapshot: MachineSnapshot, directory: str, name: str) -> str:
    """The text of one file."""
    if name in COMMANDS:
        return ""
    cache = cache_of(snapshot, directory)
    if name == "ctor" and not cache.args.ctor:
        return ""
    nodes = {node.nid: node.slab[cache.name] for node in snapshot.nodes if cache.name in node.slab}
    return f"{ATTRIBUTES[name](Seen(cache, nodes))}\n"
