"""What differs in NUMA balancing between kernel versions, as data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from numa_service.mm.profile import Profile


@dataclass(frozen=True, slots=True)
class BalancingRules:
    """Rules of one span of kernel versions."""

    #: First version (major, minor) with these rules.
    since: tuple[int, int]
    #: A scan looks through at most eight times as many pages as it may give hints to (4620f8c1fda2
    #: sched/numa: Limit the amount of virtual memory scanned in task_numa_work(), 4.4).
    limits_virtual: bool
    #: The period begins, and slows down, by how much a group shares (37ec97deb3a8 sched/numa: Slow down scan
    #: rate if shared faults dominate, 4.14).
    slows_by_sharing: bool
    #: Early in a task's life pages move at the first fault (37355bdc5a12 sched/numa: Migrate pages to local
    #: nodes quicker early in the lifetime of a task, 4.20).
    early_faults_migrate: bool
    #: Private pages in use by more than their mapping get no hint, such as those that wait to be put on a
    #: LRU list (80d47f5de5e3 mm: don't try to NUMA-migrate COW pages that have other uses, 5.17); later only
    #: those mapped more than once (d2136d749d76 mm: support multi-size THP numa balancing, 6.10).
    skips_used: bool
    #: A VMA has a state of its own: it is not scanned before it is a scan delay old, nor by tasks that have
    #: not used it (fc137c0ddab2 sched/numa: enhance vma scanning logic, 6.4).
    vma_state: bool
    #: What was begun is completed, whoever scans; what nobody used is scanned when nothing else is left, a
    #: VMA at a time; no VMA twice in a sequence (b7a5b537c55c and f169c62ff770 sched/numa: Complete scanning
    #: of inactive VMAs when there is no alternative, 6.7).
    completes: bool
    #: The first two scans are counted for each VMA (84db47ca7146 sched/numa: Fix mm numa_scan_seq based
    #: unconditional scan, 6.8).
    counts_by_vma: bool
    #: A VMA is scanned again after as many sequences as the process has threads (f22cde4371f3 sched/numa: Fix
    #: the vma scan starving issue, 6.12).
    ends_starving: bool
    #: Pages that a CPU collects before it puts them on LRU lists (PAGEVEC_SIZE), which cannot move meanwhile:
    #: 26 were seen to wait in a captured 6.12, so the 31 of later kernels hold there.
    pagevec_size: int


_FIRST = BalancingRules(
    since=(3, 13),
    limits_virtual=False,
    slows_by_sharing=False,
    early_faults_migrate=False,
    skips_used=False,
    vma_state=False,
    completes=False,
    counts_by_vma=False,
    ends_starving=False,
    pagevec_size=14,
)

_CHANGES: tuple[tuple[tuple[int, int], dict[str, Any]], ...] = (
    ((4, 4), {"limits_virtual": True}),
    ((4, 14), {"slows_by_sharing": True}),
    ((4, 15), {"pagevec_size": 15}),
    ((4, 20), {"early_faults_migrate": True}),
    ((5, 17), {"skips_used": True}),
    ((6, 4), {"vma_state": True}),
    ((6, 7), {"completes": True}),
    ((6, 8), {"counts_by_vma": True}),
    ((6, 10), {"skips_used": False, "pagevec_size": 31}),
    ((6, 12), {"ends_starving": True}),
)
_RULES = [_FIRST]
for _since, _changes in _CHANGES:
    _RULES.append(replace(_RULES[-1], since=_since, **_changes))


def rules_of(profile: Profile) -> BalancingRules | None:
    """The rules of a profile's kernel; None: it has no NUMA balancing, or its first form (3.8).

    Rules that changed between 3.13 and 6.1 and are not listed are those of 6.1.
    """
    found = [rules for rules in _RULES if rules.since <= profile.series[:2]]
    return found[-1] if found else None
