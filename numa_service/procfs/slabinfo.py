"""``/proc/slabinfo`` (``cache_show``, ``print_slabinfo_header`` in mm/slab_common.c), as root reads it.

A kernel with SLOB has no such file.
"""

from __future__ import annotations

from collections.abc import Iterable

from numa_service.mm.slab.allocator import SlabInfo
from numa_service.mm.slab.slab import SlabCache
from numa_service.mm.snapshot import MachineSnapshot

HEADER = (
    "slabinfo - version: 2.1\n"
    "# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab>"
    " : tunables <limit> <batchcount> <sharedfactor>"
    " : slabdata <active_slabs> <num_slabs> <sharedavail>\n"
)


def cache_show(info: SlabInfo) -> str:
    """The line of one cache."""
    return (
        f"{info.name:<17} {info.active_objects:6} {info.objects:6} {info.size:6} {info.objects_per_slab:4} "
        f"{1 << info.order:4} : tunables {info.limit:4} {info.batchcount:4} {info.shared:4} : slabdata "
        f"{info.active_slabs:6} {info.slabs:6} {info.shared_available:6}\n"
    )


def render(infos: Iterable[SlabInfo]) -> str:
    """The file, from the caches in the order of creation: the newest stands first."""
    return HEADER + "".join(map(cache_show, reversed(list(infos))))


def slabinfo(snapshot: MachineSnapshot) -> str:
    """The file of a machine. Only the header if its caches are not known, as of 32-bit kernels."""
    infos = []
    for cache in snapshot.slab_caches:
        seen = [node.slab[cache.name] for node in snapshot.nodes if cache.name in node.slab]
        objects = sum(count.objects for count in seen)
        slabs = sum(count.slabs for count in seen)
        limit = batchcount = shared = 0
        if isinstance(cache, SlabCache):
            made = cache.limit, cache.batchcount, cache.shared
            limit, batchcount, shared = next((count.tunables for count in seen if count.tunables), made)
        infos.append(
            SlabInfo(
                name=cache.name,
                size=cache.size,
                objects_per_slab=cache.objects,
                order=cache.order,
                active_objects=objects - sum(count.free for count in seen),
                objects=objects,
                active_slabs=slabs - sum(count.empty for count in seen),
                slabs=slabs,
                limit=limit,
                batchcount=batchcount,
                shared=shared,
                shared_available=sum(count.shared_available for count in seen),
            )
        )
    return render(infos)
