"""What differs in transparent huge pages between kernel versions, as data (``mm/huge_memory.c``)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from numa_service.mm.profile import Profile

#: Who may write to an anonymous page of a huge page without a copy, beside whom nobody else ever had it:
#: REUSE_MAPCOUNT: whoever is alone with every part of it (reuse_swap_page).
#: REUSE_REFERENCE: who has the last reference to it (09854ba94c6a mm: do_wp_page() simplification, 5.9).
#: REUSE_EXCLUSIVE: that, and who never shared this part of it (6c287605fd56 mm: remember exclusively mapped
#: anonymous pages with PG_anon_exclusive, 5.19).
#: REUSE_NEVER_SHARED: only who never shared it (mm: prohibit the last subpage from reusing the entire large
#: folio, 6.10).
#: REUSE_OWNED: that, and the process that has all references to it, if they are more than one
#: (mm: Copy-on-Write (COW) reuse support for PTE-mapped THP, 6.15).
REUSE_MAPCOUNT, REUSE_REFERENCE, REUSE_EXCLUSIVE, REUSE_NEVER_SHARED, REUSE_OWNED = range(5)

#: The words of the file ``enabled``, and of ``shmem_enabled``.
ENABLED: Final = ("always", "madvise", "never")
SHMEM_ENABLED: Final = ("always", "within_size", "advise", "never", "deny", "force")


@dataclass(frozen=True, slots=True)
class ThpRules:
    """Rules of one span of kernel versions."""

    #: First version with these rules.
    since: tuple[int, ...]
    #: There are transparent huge pages (71e3aac0724f thp: transparent hugepage core, 2.6.38).
    present: bool
    #: The words of the file ``defrag``, and the one that boot chooses: 444eb2a449ef mm: thp: set THP defrag
    #: by default to madvise and add a stall-free defrag option (4.6); 21440d7eb904 mm, thp: add new
    #: defer+madvise defrag option (4.11).
    defrag: tuple[str, ...]
    defrag_default: str
    #: Where MADV_HUGEPAGE asked for huge pages, ``always`` tries without __GFP_NORETRY (25160354b4ee mm, thp:
    #: remove __GFP_NORETRY from khugepaged and madvised allocations, 4.8).
    advised_retry: bool
    #: A fault asks the node of the CPU, or the preferred one, alone, unless its policy interleaves
    #: (077fcf116c8c mm/thp: allocate transparent hugepages on local node, 4.1).
    local: bool
    #: If that has none, others are asked by who may reclaim (76e654cc91bb mm, page_alloc: allow hugepage
    #: fallback to remote nodes when madvised, 5.4).
    local_then_all: bool
    #: A read maps a huge page of zeros (thp: huge zero page, 3.8).
    huge_zero_page: bool
    #: A PMD may be split and leave the huge page whole, which is split itself later (4.5); else both at once.
    splits_pmd_alone: bool
    #: Who writes to a shared huge page gets a copy of all of it, if there is one (until 3917c80280c9 thp:
    #: change CoW semantics for anon-THP, 5.8); else of the one page that is written to.
    copies_huge: bool
    #: Who writes to the huge page of zeros gets a huge page: until 5.8, and again since 6.13 (mm: allocate
    #: THP on hugezeropage wp-fault); else one small page.
    zero_becomes_huge: bool
    #: REUSE_*.
    reuse: int
    #: A huge page whose last mappings go together is not queued for a split first (mm/rmap: do not add fully
    #: unmapped large folio to deferred split list, 6.10).
    queues_partly_mapped_only: bool
    #: A migration splits a huge page that is queued for it (mm/migrate: split source folio if it is on
    #: deferred split list, 6.10), else it fails for its pages.
    migration_splits_queued: bool
    #: khugepaged takes turns among nodes with the same number of pages (9f1b868a13ac mm: thp: khugepaged: add
    #: policy for finding target node, 3.14), until it lets the allocator choose among them (e031ff96b334 mm:
    #: khugepaged: allow page allocation fallback to eligible nodes, 6.1).
    takes_turns: bool
    #: Pages in swap may be collapsed, up to max_ptes_swap (mm, thp: swapin readahead, 4.8).
    max_ptes_swap: bool
    #: Shared pages may be collapsed, up to max_ptes_shared (71a2c112a0f6 khugepaged: introduce
    #: 'max_ptes_shared' tunable, 5.8); else none.
    max_ptes_shared: bool
    #: smaps says of each VMA whether huge pages may be in it (7635d9cbe832 mm, thp, proc: report THP
    #: eligibility for each vma, 5.0).
    says_eligible: bool
    #: The number in that line has its column (smaps: fix THPeligible alignment, 6.6).
    aligns_eligible: bool
    #: There is a file ``shmem_enabled`` (shmem: prepare huge= mount option and sysfs knob, 4.8).
    shmem: bool
    #: Sizes between a page and a huge page have folders (multi-size THP sysfs interface, 6.8).
    sizes: bool
    #: Those have counts of their own and a file ``shmem_enabled``, as in a captured 6.12; 6.10 and 6.11 have
    #: some of them.
    size_files: bool
    #: There is a file ``shrink_underused`` (mm: add sysfs entry to disable splitting underused THPs, 6.12).
    underused: bool


_RULES = [
    ThpRules(
        since=(0, 0),
        present=False,
        defrag=("always", "madvise", "never"),
        defrag_default="always",
        advised_retry=False,
        local=False,
        local_then_all=False,
        huge_zero_page=False,
        splits_pmd_alone=False,
        copies_huge=True,
        zero_becomes_huge=True,
        reuse=REUSE_MAPCOUNT,
        queues_partly_mapped_only=False,
        migration_splits_queued=False,
        takes_turns=False,
        max_ptes_swap=False,
        max_ptes_shared=False,
        says_eligible=False,
        aligns_eligible=False,
        shmem=False,
        sizes=False,
        size_files=False,
        underused=False,
    )
]


def _from(*since: int, **changes: object) -> None:
    _RULES.append(replace(_RULES[-1], since=since, **changes))  # type: ignore[arg-type]  # names and types are tested


_from(2, 6, 38, present=True)
_from(3, 8, huge_zero_page=True)
_from(3, 14, takes_turns=True)
_from(4, 1, local=True)
_from(4, 5, splits_pmd_alone=True)
_from(4, 6, defrag=("always", "defer", "madvise", "never"), defrag_default="madvise")
_from(4, 8, advised_retry=True, max_ptes_swap=True, shmem=True)
_from(4, 11, defrag=("always", "defer", "defer+madvise", "madvise", "never"))
_from(5, 0, says_eligible=True)
_from(5, 4, local_then_all=True)
_from(5, 8, copies_huge=False, zero_becomes_huge=False, max_ptes_shared=True)
_from(5, 9, reuse=REUSE_REFERENCE)
_from(5, 19, reuse=REUSE_EXCLUSIVE)
_from(6, 1, takes_turns=False)
_from(6, 6, aligns_eligible=True)
_from(6, 8, sizes=True)
_from(
    6,
    10,
    reuse=REUSE_NEVER_SHARED,
    queues_partly_mapped_only=True,
    migration_splits_queued=True,
)
_from(6, 12, underused=True, size_files=True)
_from(6, 13, zero_becomes_huge=True)
_from(6, 15, reuse=REUSE_OWNED)


def thp_rules_of(profile: Profile) -> ThpRules:
    """The rules of a profile's kernel."""
    return [rules for rules in _RULES if rules.since <= tuple(profile.series)][-1]
