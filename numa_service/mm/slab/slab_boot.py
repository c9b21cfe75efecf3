"""SLAB of a machine that has booted: which CPUs were counted when each cache was made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from numa_service.mm.slab.pages import PageSource
from numa_service.mm.slab.profile import SlabProfile
from numa_service.mm.slab.slab import SlabCaches
from numa_service.mm.slab.slab_alloc import Slab


def start_slab(
    profile: SlabProfile,
    caches: SlabCaches,
    cpus: Mapping[int, int],
    fallback: Mapping[int, tuple[int, ...]],
    source: PageSource,
) -> Slab:
    """Set the caches of `boot_slab` to work, as the CPUs come up; they have no slabs yet.

    Limits of a node follow from its CPUs. Of those, the caches of early boot know only what had come by then
    (Slab.slab_prepare_cpu), and the first CPU does not count for the very first.
    """
    slab = Slab(caches, profile.kmalloc, cpus, fallback, source)
    built_in, counted, parallel = _boot_order(profile)
    first, *others = sorted(cpus)
    waiting = list(caches.caches)
    early = -1  # the allocator's own and kmalloc's
    seen_built_in = False
    while waiting:
        cache = waiting.pop(0)
        seen_built_in = seen_built_in or cache.name in built_in
        place = built_in.get(cache.name, len(built_in) if seen_built_in else early)
        if place >= counted and not any(slab.online.values()):
            slab.boot_cpu_online(first)
        if place >= parallel:
            while others:
                slab.slab_prepare_cpu(others.pop(0))
        slab.add(cache)
    return slab


def counted_cpus(
    profile: SlabProfile, caches: Iterable[str], cpus: Mapping[int, int], nid: int
) -> dict[str, int]:
    """By name of a cache: the CPUs of a node that its limits know of after :func:`start_slab`."""
    built_in, counted, parallel = _boot_order(profile)
    first, *others = sorted(cpus)
    here = sum(of == nid for of in cpus.values())
    came_later = any(cpus[cpu] == nid for cpu in others)
    result, seen_built_in = {}, False
    for name in caches:
        seen_built_in = seen_built_in or name in built_in
        place = built_in.get(name, len(built_in) if seen_built_in else -1)
        if place >= parallel:
            result[name] = here
        elif came_later:  # all but the last
            result[name] = here - 1
        else:
            result[name] = int(place >= counted and cpus[first] == nid)
    return result


def _boot_order(profile: SlabProfile) -> tuple[dict[str, int], int, int]:
    """By name of a built-in cache when it is made; when the first CPU is counted, and when all run."""
    built_in = {args.name: number for number, args in enumerate(profile.boot.args(profile.kmalloc))}
    last = len(built_in)
    counted = built_in.get(profile.first_with_boot_cpu, last)
    return built_in, counted, built_in.get(profile.first_after_smp, last)
