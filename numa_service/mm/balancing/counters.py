"""What NUMA balancing counts in ``/proc/vmstat``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """By the names of the file; a huge page counts as 512 pages in all but `numa_huge_pte_updates`."""

    numa_pte_updates: int = 0
    #: Entries of huge pages that got a hint.
    numa_huge_pte_updates: int = 0
    #: Faults: that of a huge page is one.
    numa_hint_faults: int = 0
    numa_hint_faults_local: int = 0
    numa_pages_migrated: int = 0
    pgmigrate_success: int = 0
    pgmigrate_fail: int = 0
