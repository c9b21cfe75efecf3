"""The bits of ``/proc/kpageflags`` and of ``/proc/PID/pagemap``, and which kernels set them.

Numbers are those of include/uapi/linux/kernel-page-flags.h and of Documentation/admin-guide/mm/pagemap.rst.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from numa_service.mm.memory_hotplug import MEMORY_BLOCK_PAGES
from numa_service.mm.mmap.rules import I386_PAE, PAGE_SHIFT, X86_64
from numa_service.mm.profile import Profile, profile_named
from numa_service.mm.snapshot import MachineSnapshot

# kpageflags: numbers of bits
KPF_LOCKED: Final = 0
KPF_REFERENCED: Final = 2
KPF_UPTODATE: Final = 3
KPF_DIRTY: Final = 4
KPF_LRU: Final = 5
KPF_ACTIVE: Final = 6
KPF_SLAB: Final = 7
KPF_WRITEBACK: Final = 8
KPF_BUDDY: Final = 10
KPF_MMAP: Final = 11
KPF_ANON: Final = 12
KPF_SWAPBACKED: Final = 14
KPF_COMPOUND_HEAD: Final = 15
KPF_COMPOUND_TAIL: Final = 16
KPF_HUGE: Final = 17
KPF_HWPOISON: Final = 19
KPF_NOPAGE: Final = 20
KPF_PGTABLE: Final = 26
KPF_RESERVED: Final = 32

# pagemap: numbers of bits, below which the page frame number is, or the place in swap
PM_SOFT_DIRTY: Final = 55
PM_MMAP_EXCLUSIVE: Final = 56
PM_FILE: Final = 61
PM_SWAP: Final = 62
PM_PRESENT: Final = 63
#: Where kernels that had no such bits said how large the page is (PM_PSHIFT), whatever is there.
PM_PSHIFT: Final = 55

#: Bytes of an entry of each of these files.
ENTRY: Final = 8


@dataclass(frozen=True, slots=True)
class PageRules:
    """What kernels since a release say of a page."""

    #: First release, as (major, minor), or (major, minor, patch) before 3.0.
    since: tuple[int, ...]
    #: Every page of a free block is KPF_BUDDY, not only the first ("/proc/kpageflags: return KPF_BUDDY for
    #: 'tail' buddy pages"), and every page of a slab KPF_SLAB ("... KPF_SLAB for slab tail pages").
    tails: bool
    #: Pages of page tables are KPF_PGTABLE ("mm: mark pages in use for page tables").
    pgtable: bool
    #: There is /proc/kpagecgroup ("memcg: add /proc/kpagecgroup").
    kpagecgroup: bool
    #: Bits of pagemap, by the releases that pagemap.rst tells: PM_FILE,
    #: PM_SOFT_DIRTY instead of the page's size, and PM_MMAP_EXCLUSIVE.
    pm_file: bool
    pm_soft_dirty: bool
    pm_exclusive: bool


_FIRST = PageRules((0, 0), False, False, False, False, False, False)
_RULES = [_FIRST]
for _since, _changes in (
    ((3, 5), {"pm_file": True}),
    ((4, 2), {"pm_soft_dirty": True, "pm_exclusive": True}),
    ((4, 3), {"kpagecgroup": True}),
    ((4, 6), {"tails": True}),
    ((4, 18), {"pgtable": True}),
):
    _RULES.append(replace(_RULES[-1], since=_since, **_changes))


def page_rules(profile: Profile) -> PageRules:
    """The rules of a profile's kernel."""
    return [rules for rules in _RULES if rules.since <= profile.series][-1]


def kpage_size(snapshot: MachineSnapshot, name: str) -> int:
    """Bytes of kpageflags, kpagecount or kpagecgroup; 0 if the kernel has no such file."""
    if name == "kpagecgroup" and not page_rules(profile_named(snapshot.profile)).kpagecgroup:
        return 0
    return max_dump_pfn(snapshot.arch, (node.ram for node in snapshot.nodes)) * ENTRY


def pagemap_size(snapshot: MachineSnapshot) -> int:
    """Bytes of /proc/PID/pagemap."""
    return pagemap_entries(snapshot.arch) * ENTRY


def max_dump_pfn(arch: str, rams: Iterable[tuple[tuple[int, int], ...]]) -> int:
    """get_max_dump_pfn: where arrays by page frame number end; `rams`: the RAM of each node."""
    end = max((end for ram in rams for _, end in ram), default=0)
    # SPARSEMEM: struct pages are there for whole sections
    return -(-end // MEMORY_BLOCK_PAGES) * MEMORY_BLOCK_PAGES if arch == "x86_64" else end


def pagemap_entries(arch: str) -> int:
    """Pages of a task's addresses (task_size)."""
    return (X86_64 if arch == "x86_64" else I386_PAE).task_size >> PAGE_SHIFT
