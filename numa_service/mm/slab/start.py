"""A slab allocator for a machine: any of the three, with the caches of the kernel's boot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from numa_service.mm.slab.allocator import SlabAllocator
from numa_service.mm.slab.boot_caches import NO_BOOT_CACHES, boot_slab, boot_slub
from numa_service.mm.slab.cache import Caches
from numa_service.mm.slab.kmem_cache import KmemCacheArgs
from numa_service.mm.slab.pages import PageSource
from numa_service.mm.slab.profile import slab_of, slob_of, slub_of
from numa_service.mm.slab.slab import SlabCaches, slab_parameters
from numa_service.mm.slab.slab_boot import start_slab
from numa_service.mm.slab.slob import SlobCache, SlobCaches
from numa_service.mm.slab.slob_alloc import Slob
from numa_service.mm.slab.slub import SlubCaches
from numa_service.mm.slab.slub_alloc import Slub
from numa_service.mm.slab.slub_cpu import SlubMachine
from numa_service.mm.slab.slub_parameters import slub_parameters


@dataclass(frozen=True, slots=True)
class SlabMachine:
    """The facts about a machine that a slab allocator needs."""

    #: Name of the kernel's profile.
    kernel: str
    #: Parameters of the kernel.
    cmdline: str
    #: By CPU: its nearest node with memory.
    cpus: Mapping[int, int]
    possible_cpus: int
    #: By node with memory: nodes from the nearest to the farthest, itself first.
    fallback: Mapping[int, tuple[int, ...]]
    #: One more than the largest node number that is possible (nr_node_ids).
    node_ids: int
    memory_bytes: int
    arch: str = "x86_64"
    #: It has high memory.
    highmem: bool = False


def start(allocator: str, machine: SlabMachine, source: PageSource) -> SlabAllocator:
    """An allocator with the caches of a boot, which have no slabs yet.

    A kernel that has SLAB no more, or whose SLAB is not known, gets that of 6.1.
    """
    if allocator == "slub":
        return start_slub(machine, source)
    if allocator == "slab":
        return _start_slab(machine, source)
    slob = Slob(machine.cpus, source, slob_of(machine.kernel, machine.arch))
    for args in slob_boot_args(machine.kernel, machine.arch, highmem=machine.highmem):
        slob.kmem_cache_create(args)
    return slob


def boot_caches(
    kernel: str,
    cmdline: str,
    present_cpus: int,
    possible_cpus: int,
    node_ids: int,
    arch: str = "x86_64",
    *,
    highmem: bool = False,
) -> SlubCaches:
    """The caches of a machine that has booted with SLUB; `highmem`: a 32-bit one with high memory."""
    profile = slub_of(kernel, arch)
    return boot_slub(
        profile.rules,
        profile.kmalloc,
        profile.boot or NO_BOOT_CACHES,
        slub_parameters(cmdline, profile.rules.parameters),
        present_cpus=present_cpus,
        possible_cpus=possible_cpus,
        node_ids=node_ids,
        highmem=highmem,
    )


@lru_cache(maxsize=16)
def booted_caches(
    allocator: str,
    kernel: str,
    cmdline: str,
    cpus: int,
    node_ids: int,
    memory_bytes: int,
    arch: str = "x86_64",
    highmem: bool = False,
) -> Caches:
    """The caches of a machine that has booted with all its CPUs. Callers share them: change nothing of it."""
    if allocator == "slub":
        return boot_caches(kernel, cmdline, cpus, cpus, node_ids, arch, highmem=highmem)
    if allocator == "slab":
        return _boot_slab(kernel, cmdline, cpus, node_ids, memory_bytes, arch, highmem=highmem)
    rules = slob_of(kernel, arch)
    return SlobCaches(
        rules, (SlobCache(args, rules) for args in slob_boot_args(kernel, arch, highmem=highmem))
    )


def slob_boot_args(kernel: str, arch: str = "x86_64", *, highmem: bool = False) -> list[KmemCacheArgs]:
    """The caches that a kernel's boot makes, of which SLOB merges none and has none for kmalloc."""
    profile = slub_of(kernel, arch)
    return (profile.boot or NO_BOOT_CACHES).args(profile.kmalloc, highmem=highmem)


def _boot_slab(
    kernel: str,
    cmdline: str,
    cpus: int,
    node_ids: int,
    memory_bytes: int,
    arch: str = "x86_64",
    *,
    highmem: bool = False,
) -> SlabCaches:
    profile = slab_of(kernel, arch)
    return boot_slab(
        profile.rules,
        profile.kmem_cache_bytes,
        profile.kmalloc,
        profile.boot,
        slab_parameters(cmdline),
        possible_cpus=cpus,
        node_ids=node_ids,
        memory_bytes=memory_bytes,
        highmem=highmem,
    )


def start_slub(machine: SlabMachine, source: PageSource) -> Slub:
    """SLUB with the caches of a boot."""
    profile = slub_of(machine.kernel, machine.arch)
    caches = boot_caches(
        machine.kernel,
        machine.cmdline,
        len(machine.cpus),
        machine.possible_cpus,
        machine.node_ids,
        machine.arch,
        highmem=machine.highmem,
    )
    slub = SlubMachine(
        rules=profile.work,
        cpu_to_mem=machine.cpus,
        zonelists=machine.fallback,
        source=source,
        arch=profile.rules.arch,
    )
    return Slub(caches, profile.kmalloc, slub)


def _start_slab(machine: SlabMachine, source: PageSource) -> SlabAllocator:
    profile = slab_of(machine.kernel, machine.arch)
    caches = _boot_slab(
        machine.kernel,
        machine.cmdline,
        machine.possible_cpus,
        machine.node_ids,
        machine.memory_bytes,
        machine.arch,
        highmem=machine.highmem,
    )
    return start_slab(profile, caches, machine.cpus, machine.fallback, source)
