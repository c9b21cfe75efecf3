"""What differs in address spaces between kernel versions and between architectures, as data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from numa_service.mm.mmap.vm_flags import VM_LOCKONFAULT
from numa_service.mm.profile import Profile

PAGE_SHIFT: Final = 12
PAGE_SIZE: Final = 1 << PAGE_SHIFT
PAGE_MASK: Final = ~(PAGE_SIZE - 1)
PMD_SIZE: Final = 2 << 20

#: Which anonymous mappings get_unmapped_area aligns for huge pages.
THP_NONE, THP_LARGE, THP_MULTIPLE = range(3)

#: How two VMAs' anon_vmas have to agree for them to be merged.
#: ANON_SINGULAR: the one that remains has exactly one, or both have the same. ANON_UNFORKED: the one that has
#: pages has no relatives (vma_is_fork_child).
ANON_SINGULAR, ANON_UNFORKED = range(2)


def page_align(size: int) -> int:
    """PAGE_ALIGN: `size` in bytes, rounded up to whole pages."""
    return (size + PAGE_SIZE - 1) & PAGE_MASK


@dataclass(frozen=True, slots=True)
class MmapRules:
    """Rules of one span of kernel versions."""

    #: First version (major, minor) with these rules.
    since: tuple[int, int]
    #: THP_*: __get_unmapped_area aligns anonymous mappings of 2 MiB and more (efa7df3e3bb5 mm: align larger
    #: anonymous mappings on THP boundaries), later only multiples of 2 MiB (d4148aeab412 mm, mmap: limit THP
    #: alignment of anonymous mappings to PMD-aligned sizes).
    thp_alignment: int
    #: With a hint none is aligned (249608ee4713 mm: respect mmap hint address when aligning for THP).
    hint_is_not_aligned: bool
    #: brk() does not grow an area that ends where the heap begins, such as .bss: it looks no further down
    #: than start_brk (since the maple tree).
    brk_keeps_bss: bool
    #: brk() joins the grown heap with an area behind it, too (vma_merge in do_brk_flags).
    brk_merges_next: bool
    #: /proc/PID/maps calls an area that only touches the heap "[heap]" (show_map_vma; else
    #: vma_is_initial_heap, which wants them to overlap, since 6.6).
    heap_by_touch: bool
    #: mmap() joins the VMA before it only if that agrees with the anon_vma of the one behind, where both
    #: would be joined (mmap_region between the maple tree and vma_merge_new_range).
    mmap_prev_agrees_with_next: bool
    #: mmap() over mapped areas has unmapped them before memory is found to be promised too far; else it
    #: counts what they give back, and fails without a change (vms_gather_munmap_vmas).
    unmaps_before_charge: bool
    #: mremap() joins a VMA that has grown with the one behind it (mm: add merging after mremap resize, 6.0).
    mremap_merges_next: bool
    #: mremap(MREMAP_DONTUNMAP) may name mappings of files (a4609387859f, 5.13); None: no such flag (5.7).
    dontunmap_files: bool | None
    #: mprotect() gives back what a private area without pages had promised (VM_ACCOUNT) once it becomes
    #: read-only (mm/mprotect: allow unfaulted VMAs to be unaccounted on mprotect(), 6.6).
    mprotect_uncharges: bool
    #: MAP_STACK keeps huge pages away (mm: mmap: map MAP_STACK to VM_NOHUGEPAGE, 6.7).
    stack_is_not_huge: bool
    #: ANON_*.
    anon_rules: int
    #: Heuristic overcommit refuses only what is larger than all of RAM and swap (8c7829b04c52, 5.2); else it
    #: counts what is free now, which is not modelled: nothing is refused.
    guesses_by_total: bool
    #: Private data counts against RLIMIT_DATA in every call (84638335900f, 4.6); else in brk() only.
    rlimit_data_everywhere: bool
    #: mlock2() and MCL_ONFAULT are there (4.4).
    lock_on_fault: bool
    #: Flags for which smaps has no mnemonic: VM_LOCKONFAULT in a captured 6.1, not in 6.12.
    unnamed_flags: int
    #: Advices of madvise() by number: FREE came in 4.5, WIPEONFORK in 4.14, COLD and PAGEOUT in 5.4,
    #: POPULATE_* in 5.14, DONTNEED_LOCKED in 5.18, COLLAPSE in 6.1.
    advices: frozenset[int]
    #: MAP_FIXED_NOREPLACE (4.17) and MAP_SHARED_VALIDATE (4.15) are there; else they are an unknown flag,
    #: which a kernel ignores.
    fixed_noreplace: bool
    #: MAP_DROPPABLE is there (9651fcedf7b9 mm: add MAP_DROPPABLE for designating always lazily freeable
    #: mappings, 6.11).
    droppable: bool
    #: MADV_HUGEPAGE and MADV_NOHUGEPAGE are not for shared and special mappings (until shmem, thp: respect
    #: MADV_{NO,}HUGEPAGE for file mappings, 4.8).
    huge_advice_is_private: bool
    #: MADV_POPULATE_* ends at the first hole (mm/madvise: make MADV_POPULATE_(READ|WRITE) handle
    #: VM_FAULT_RETRY properly, 6.9); else it goes on behind it.
    populate_ends_at_hole: bool
    #: mremap() moves mappings of huge pages (550a7d60bd5e mm, hugepages: add mremap() support for hugepage
    #: backed vma, 5.16).
    moves_huge: bool
    #: MADV_DONTNEED is for mappings of huge pages, too (90e7e7f5ef3f mm: enable MADV_DONTNEED for hugetlb
    #: mappings, 5.18).
    dontneed_huge: bool
    #: A private huge page that is unmapped is promised again (df7a6d1f6405 mm/hugetlb: restore the
    #: reservation if needed, 6.9).
    zap_restores_huge: bool
    #: A page of shmem that was lost to an error of the memory stays lost to all who map the file, also later
    #: (a76054266661 mm: shmem: don't truncate page if memory failure happens, 5.16); else it is a new one.
    shmem_keeps_poisoned: bool
    #: Pages of the PUD level count as page tables of the machine (nr_page_table_pages).
    counts_pud: bool


_FIRST_ADVICES = frozenset({0, 1, 2, 3, 4, 9, 10, 11, 12, 13, 14, 15, 16, 17})

_FIRST = MmapRules(
    since=(0, 0),
    thp_alignment=THP_NONE,
    hint_is_not_aligned=False,
    brk_keeps_bss=False,
    brk_merges_next=True,
    heap_by_touch=True,
    mmap_prev_agrees_with_next=False,
    unmaps_before_charge=True,
    mremap_merges_next=False,
    dontunmap_files=None,
    mprotect_uncharges=False,
    stack_is_not_huge=False,
    anon_rules=ANON_SINGULAR,
    guesses_by_total=False,
    rlimit_data_everywhere=False,
    lock_on_fault=False,
    unnamed_flags=VM_LOCKONFAULT,
    advices=_FIRST_ADVICES,
    fixed_noreplace=False,
    counts_pud=False,
    droppable=False,
    huge_advice_is_private=True,
    populate_ends_at_hole=False,
    moves_huge=False,
    dontneed_huge=False,
    zap_restores_huge=False,
    shmem_keeps_poisoned=False,
)


def _later(rules: MmapRules, since: tuple[int, int], **changes: object) -> MmapRules:
    return replace(rules, since=since, **changes)  # type: ignore[arg-type]  # names and types are tested


_RULES = [_FIRST]
for _since, _changes in (
    ((4, 4), {"lock_on_fault": True}),
    ((4, 5), {"advices": _RULES[-1].advices | {8}}),
    ((4, 6), {"rlimit_data_everywhere": True}),
    ((4, 8), {"huge_advice_is_private": False}),
    ((4, 14), {"advices": _FIRST_ADVICES | {8, 18, 19}}),
    ((4, 17), {"fixed_noreplace": True}),
    ((5, 2), {"guesses_by_total": True}),
    ((5, 4), {"advices": _FIRST_ADVICES | {8, 18, 19, 20, 21}}),
    ((5, 7), {"dontunmap_files": False}),
    ((5, 13), {"dontunmap_files": True}),
    ((5, 14), {"advices": _FIRST_ADVICES | {8, 18, 19, 20, 21, 22, 23}}),
    ((5, 16), {"moves_huge": True, "shmem_keeps_poisoned": True}),
    ((5, 18), {"dontneed_huge": True, "advices": _FIRST_ADVICES | {8, 18, 19, 20, 21, 22, 23, 24}}),
    ((6, 0), {"mremap_merges_next": True}),
    (
        (6, 1),
        {
            "advices": _FIRST_ADVICES | {8, 18, 19, 20, 21, 22, 23, 24, 25},
            "brk_keeps_bss": True,
            "brk_merges_next": False,
            "mmap_prev_agrees_with_next": True,
        },
    ),
    ((6, 6), {"heap_by_touch": False, "mprotect_uncharges": True}),
    ((6, 7), {"thp_alignment": THP_LARGE, "stack_is_not_huge": True}),
    ((6, 9), {"zap_restores_huge": True, "populate_ends_at_hole": True}),
    ((6, 11), {"droppable": True}),
    (
        (6, 12),
        {
            "thp_alignment": THP_MULTIPLE,
            "hint_is_not_aligned": True,
            "mmap_prev_agrees_with_next": False,
            "unmaps_before_charge": False,
            "counts_pud": True,
            "unnamed_flags": 0,
        },
    ),
    ((6, 16), {"anon_rules": ANON_UNFORKED}),
):
    _RULES.append(_later(_RULES[-1], _since, **_changes))


def rules_of(profile: Profile) -> MmapRules:
    """The rules of a profile's kernel."""
    return [rules for rules in _RULES if rules.since <= profile.series[:2]][-1]


@dataclass(frozen=True, slots=True)
class UserLayout:
    """Where an architecture has the addresses of a process, in bytes."""

    #: TASK_SIZE: the first address that is not a process's.
    task_size: int
    #: STACK_TOP: where the first stack ends.
    stack_top: int
    #: Bits of an address below each level of page tables above the PTEs, lowest first: (21, 30, 39) is a PMD
    #: entry of 2 MiB, a PUD entry of 1 GiB, a PGD entry of 512 GiB. The last is the PGD.
    level_shifts: tuple[int, ...]
    #: Order of the PGD's pages: page-table isolation has it twice.
    pgd_order: int = 0
    #: PMD pages that come with the PGD: three of i386 with PAE (pgd_alloc with preallocated PMDs).
    preallocated_pmds: int = 0
    #: Bytes of a pointer: how wide the files write addresses.
    pointer: int = 8
    #: Large anonymous mappings may be aligned for huge pages (64 bit only).
    aligns_thp: bool = True
    #: vm.mmap_min_addr.
    mmap_min_addr: int = 65536
    #: stack_guard_gap: 256 pages (4.12 and all later stable releases).
    stack_guard_gap: int = 256 << PAGE_SHIFT


#: x86-64 with four levels; the PGD has two pages, as with page-table isolation.
X86_64: Final = UserLayout(
    task_size=(1 << 47) - PAGE_SIZE,
    stack_top=(1 << 47) - PAGE_SIZE,
    level_shifts=(21, 30, 39),
    pgd_order=1,
)
#: i386 with PAE: a PGD of four entries, whose PMD pages are all there from the beginning.
I386_PAE: Final = UserLayout(
    task_size=0xC000_0000,
    stack_top=0xC000_0000,
    level_shifts=(21, 30),
    preallocated_pmds=4,
    pointer=4,
    aligns_thp=False,
)
#: i386 without PAE: PTE pages of 4 MiB below one PGD page.
I386: Final = UserLayout(
    task_size=0xC000_0000, stack_top=0xC000_0000, level_shifts=(22,), pointer=4, aligns_thp=False
)

_MIN_GAP = 128 << 20


def mmap_base(layout: UserLayout, stack_limit: int, *, legacy: bool = False) -> int:
    """Where mmap() begins to look for room, downwards; upwards from a third of the addresses if `legacy`.

    mmap_base() of x86 without randomization: below the room that the stack may take (`stack_limit`:
    RLIMIT_STACK in bytes) with its guard gap, but at least 128 MiB and at most five sixths of all addresses.
    """
    if legacy:
        return page_align(layout.task_size // 3)
    gap = min(max(stack_limit + layout.stack_guard_gap, _MIN_GAP), layout.task_size // 6 * 5)
    return page_align(layout.task_size - gap)
