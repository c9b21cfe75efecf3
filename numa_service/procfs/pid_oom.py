"""``/proc/PID/oom_score``, ``oom_score_adj`` and ``oom_adj`` (``fs/proc/base.c``, ``mm/oom_kill.c``)."""

from __future__ import annotations

from typing import Final

from numa_service.mm.mmap.pgtables import PageTables
from numa_service.mm.mmap.rules import PAGE_SHIFT
from numa_service.mm.profile import Profile

#: OOM_SCORE_ADJ_MAX; a task with less than nothing of it is never killed (OOM_SCORE_ADJ_MIN).
ADJ_MAX: Final = 1000
#: OOM_DISABLE and OOM_ADJUST_MAX of oom_adj.
_DISABLE, _ADJUST_MAX = -17, 15

# How a task is scored, by the first release that does so.
#: oom_badness() counts in thousandths of memory; root has 30 of them free ("oom: badness heuristic rewrite").
_THOUSANDTHS = (2, 6, 36)
#: ... in pages ("mm, oom: normalize oom scores to oom_score_adj scale only for userspace").
_PAGES = (3, 6)
#: Root has 3 % of what it uses free ("mm, oom: base root bonus on current usage"), and then nothing
#: ("mm, oom: remove 3% bonus for CAP_SYS_ADMIN processes").
_SHARE_OF_ROOT = (3, 14)
_NOTHING_FOR_ROOT = (4, 17)
#: All levels of page tables count, not only pages of PTEs ("mm: consolidate page table accounting").
_ALL_TABLES = (4, 15)
#: Below nothing is told apart from nothing ("mm, oom: make the calculation of oom badness more accurate").
_BELOW_NOTHING = (5, 9)


def has_scores(profile: Profile) -> bool:
    """Whether the kernel has oom_score_adj; the scores of those before are not modelled."""
    return profile.series >= _THOUSANDTHS


def oom_score(profile: Profile, rss: int, tables: PageTables, adj: int, total_pages: int) -> int:
    """proc_oom_score of a task of root; `rss` and `total_pages` (RAM and swap) in pages. No swap is a task's.

    0 of a task that is not to be killed; 2,000 (1,000 before 5.9) at most.
    """
    series = profile.series
    if adj == -ADJ_MAX:
        return 0
    of_tables = tables.pgtables_bytes() >> PAGE_SHIFT if series >= _ALL_TABLES else tables.counts()[0]
    used = rss + of_tables
    if series < _PAGES:
        points = used * 1000 // total_pages - 30 + adj
        return min(points, ADJ_MAX) if points > 0 else 1
    if series < _SHARE_OF_ROOT:
        adj -= 30
    elif series < _NOTHING_FOR_ROOT:
        used -= used * 3 // 100
    points = used + adj * (total_pages // 1000)
    if series < _BELOW_NOTHING:
        return max(points, 1) * 1000 // total_pages
    return (1000 + _divided(points * 1000, total_pages)) * 2 // 3


def oom_adj_of(adj: int) -> int:
    """oom_adj_read: the old scale of -17 … 15."""
    return _ADJUST_MAX if adj == ADJ_MAX else min(_divided(adj * -_DISABLE, ADJ_MAX), _ADJUST_MAX)


def adj_of_oom_adj(value: int) -> int | None:
    """oom_adj_write: what a value on the old scale is on the new one; None for one that is refused."""
    if not _DISABLE <= value <= _ADJUST_MAX:
        return None
    return ADJ_MAX if value == _ADJUST_MAX else _divided(value * ADJ_MAX, -_DISABLE)


def _divided(number: int, by: int) -> int:
    """Division as C has it, towards zero."""
    return number // by if number >= 0 else -(-number // by)
