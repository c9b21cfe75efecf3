"""Transparent huge pages of a machine: settings, what there is of them, and counters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from numa_service.mm.gfp import GFP_MASKS, Gfp
from numa_service.mm.mmap import vm_flags as vf
from numa_service.mm.mmap.rules import PAGE_SHIFT
from numa_service.mm.mmap.thp_rules import ThpRules

Pfns = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Counts = npt.NDArray[np.int32]

GFP_TRANSHUGE: Final = int(GFP_MASKS["GFP_TRANSHUGE"])
GFP_TRANSHUGE_LIGHT: Final = int(GFP_MASKS["GFP_TRANSHUGE_LIGHT"])


class OrderSource(Protocol):
    """Where blocks of pages come from: what a node serves beside single pages."""

    def alloc_order(self, nid: int, order: int, gfp: int) -> int:
        """The first page of a block of 2**order, aligned to its size; 0: there is none.

        `nid`: the node of the policy; another one may serve it unless `gfp` has __GFP_THISNODE. `gfp` also
        says how hard to try.
        """
        ...

    def free_order(self, pfn: int, order: int) -> None:
        """A block that was never split goes back."""
        ...

    def split_order(self, pfn: int, order: int) -> None:
        """split_page: a block is 2**order single pages from now on, which go back one by one."""
        ...


class Mapper(Protocol):
    """A process, as far as huge pages know of it."""

    def split_pmd(self, index: int) -> None:
        """A PMD entry of it becomes a page of PTEs."""
        ...


@dataclass(slots=True)
class ThpSettings:
    """Files below ``/sys/kernel/mm/transparent_hugepage``, by name; those of khugepaged/ with its name."""

    enabled: str = "always"
    #: Of the size of a PMD entry, where sizes have files: "inherit" is what `enabled` says.
    pmd_enabled: str = "inherit"
    defrag: str = "madvise"
    use_zero_page: int = 1
    khugepaged_defrag: int = 1
    #: Pages, of one round.
    khugepaged_pages_to_scan: int = 4096
    #: ms between rounds, and after no huge page was found.
    khugepaged_scan_sleep_millisecs: int = 10_000
    khugepaged_alloc_sleep_millisecs: int = 60_000
    #: Of the pages of a huge page at most so many may be none, in swap, or mapped elsewhere, too.
    khugepaged_max_ptes_none: int = 511
    khugepaged_max_ptes_swap: int = 64
    khugepaged_max_ptes_shared: int = 256


#: Where `pmd_enabled` is.
_PMD_ENABLED: Final = "hugepages-2048kB/enabled"


def settings_of(files: Mapping[str, str]) -> ThpSettings:
    """Settings from what files hold, by their path below transparent_hugepage; others keep the defaults."""
    settings = ThpSettings()
    for one in fields(ThpSettings):
        path = one.name.replace("khugepaged_", "khugepaged/", 1)
        text = files.get(_PMD_ENABLED if one.name == "pmd_enabled" else path)
        if text is not None:
            setattr(settings, one.name, text if one.type == "str" else int(text))
    return settings


@dataclass(slots=True)
class HugePage:
    """A page of the order of a PMD entry, until it is split (a compound page)."""

    #: PMD entries that map all of it, in the order in which they came; their number is its entire_mapcount.
    pmds: dict[tuple[Mapper, int], None] = field(default_factory=dict)


@dataclass(slots=True)
class KhugepagedScan:
    """Whom khugepaged looks at, how far it is, and its counts (``khugepaged_scan``)."""

    #: Processes, in the order in which they first had room for huge pages (mm_slots).
    slots: dict[Mapper, None] = field(default_factory=dict)
    #: Whom it looks at, and the next address there; None: a pass is about to begin.
    current: Mapper | None = None
    address: int = 0
    full_scans: int = 0
    pages_collapsed: int = 0
    #: Of a round that sleeps as there was no huge page: pages looked at, and passes begun.
    slept: tuple[int, int] | None = None
    #: Of a round that waits for a huge page to be got: the same, whether it had slept, and pages looked at of
    #: the process at which it is.
    paused: tuple[int, int, bool, int] | None = None
    #: The node that was chosen last, where nodes take turns.
    last_target: int = -1
    #: Whether the daemon has something to do since it was told last.
    woken: bool = False

    def enter(self, who: Mapper) -> None:
        """__khugepaged_enter: the daemon is woken for the first one."""
        self.woken |= not self.slots
        self.slots.setdefault(who)

    def next_slot(self) -> None:
        """The process that is looked at is done with: it is the next one's turn."""
        order = list(self.slots)
        behind = order[order.index(self.current) + 1 :] if self.current is not None else []
        self.current, self.address = (behind[0] if behind else None), 0
        self.full_scans += not behind

    def exit(self, who: Mapper) -> None:
        """__khugepaged_exit: a process ends."""
        if who is self.current:
            self.next_slot()
        self.slots.pop(who, None)


class Thp:
    """What all processes of a machine have together of huge pages. `order`: that of a PMD entry."""

    def __init__(
        self, rules: ThpRules, pages: OrderSource, settings: ThpSettings | None = None, order: int = 9
    ) -> None:
        self.rules = rules
        self.pages = pages
        self.settings = settings or ThpSettings(defrag=rules.defrag_default)
        self.order = order
        #: Pages and bytes of a huge page.
        self.nr = 1 << order
        self.size = self.nr << PAGE_SHIFT
        #: Events of /proc/vmstat by name, as far as there were any.
        self.events: dict[str, int] = {}
        #: nr_anon_transparent_hugepages: huge pages that a PMD entry maps.
        self.nr_anon = 0
        #: Huge pages by their first page.
        self.huge: dict[int, HugePage] = {}
        #: Those of which a part is not mapped, and which memory pressure splits (deferred_split_queue).
        self.deferred: dict[int, None] = {}
        #: Which blocks are huge pages, by pfn >> order.
        self._blocks = np.zeros(64, np.bool_)
        #: Parts of huge pages that were shared once (they are not PG_anon_exclusive).
        self.shared = np.zeros(64 << order, np.bool_)
        #: The huge page of zeros, or 0, and the processes that had it (MMF_HUGE_ZERO_PAGE).
        self.zero = 0
        self.zero_users: dict[Mapper, None] = {}
        self.scan = KhugepagedScan()

    def count(self, event: str, by: int = 1) -> None:
        """count_vm_event."""
        self.events[event] = self.events.get(event, 0) + by

    def is_on(self, flags: int) -> bool:
        """Whether the files ``enabled`` allow huge pages in a VMA with these flags."""
        mode = self.settings.pmd_enabled
        if mode == "inherit":
            mode = self.settings.enabled
        return mode == "always" or (mode == "madvise" and bool(flags & vf.VM_HUGEPAGE))

    @property
    def is_off(self) -> bool:
        """Whether nobody gets huge pages (hugepage_pmd_enabled is false)."""
        return not self.is_on(vf.VM_HUGEPAGE)

    def fault_gfp(self, flags: int) -> int:
        """How hard a fault in a VMA with these flags tries (alloc_hugepage_direct_gfpmask)."""
        advised = flags & vf.VM_HUGEPAGE
        defrag = self.settings.defrag
        if defrag == "always":
            retries = advised and self.rules.advised_retry
            return GFP_TRANSHUGE if retries else GFP_TRANSHUGE | Gfp.NORETRY
        if defrag == "defer":
            return GFP_TRANSHUGE_LIGHT | Gfp.KSWAPD_RECLAIM
        if defrag == "defer+madvise" and not advised:
            return GFP_TRANSHUGE_LIGHT | Gfp.KSWAPD_RECLAIM
        if defrag in ("madvise", "defer+madvise") and advised:
            return GFP_TRANSHUGE_LIGHT | Gfp.DIRECT_RECLAIM
        return GFP_TRANSHUGE_LIGHT

    def collapse_gfp(self, *, by_daemon: bool) -> int:
        """How hard a collapse tries (alloc_hugepage_khugepaged_gfpmask; MADV_COLLAPSE always tries hard)."""
        return GFP_TRANSHUGE if self.settings.khugepaged_defrag or not by_daemon else GFP_TRANSHUGE_LIGHT

    def alloc(self, nid: int, gfp: int) -> int:
        """The first page of a new huge page that nothing maps yet; 0: there is none."""
        head = self.pages.alloc_order(nid, self.order, gfp)
        if head:
            self.adopt(head)
        return head

    def adopt(self, head: int) -> None:
        """A block of pages is a huge page from now on, which nobody ever shared."""
        block = head >> self.order
        while block >= len(self._blocks):
            self._blocks = np.concatenate([self._blocks, np.zeros_like(self._blocks)])
            self.shared = np.concatenate([self.shared, np.zeros_like(self.shared)])
        self._blocks[block] = True
        self.shared[head : head + self.nr] = False
        self.huge[head] = HugePage()

    def head_of(self, pfn: int) -> int:
        """The first page of the huge page that a page is of."""
        return pfn & -self.nr

    def compound(self, pfns: Pfns) -> Bools:
        """Which pages are of huge pages."""
        if not self.huge:
            return np.zeros(len(pfns), np.bool_)
        blocks = pfns >> self.order
        return (blocks < len(self._blocks)) & self._blocks[np.minimum(blocks, len(self._blocks) - 1)]

    def references(self, mapcount: Counts, head: int) -> int:
        """page_count: every PMD entry has one, and every PTE."""
        pmds = len(self.huge[head].pmds)
        return int(mapcount[head : head + self.nr].sum()) - pmds * self.nr + pmds

    def share(self, pfns: Pfns) -> None:
        """A fork maps pages once more: who had them for himself has not any longer."""
        self.shared[pfns[self.compound(pfns)]] = True

    def own(self, pfns: Pfns) -> None:
        """SetPageAnonExclusive: parts of huge pages are somebody's own again."""
        self.shared[pfns[self.compound(pfns)]] = False

    def was_shared(self, pfns: Pfns) -> Bools:
        """Return which pages of huge pages are marked as shared (not PageAnonExclusive)."""
        return self.shared[pfns]

    def map_pmd(self, head: int, who: Mapper, index: int) -> None:
        """A PMD entry more maps a huge page; `mapcount` of its pages is the caller's."""
        pmds = self.huge[head].pmds
        self.nr_anon += not pmds
        pmds[who, index] = None

    def unmap_pmd(self, mapcount: Counts, head: int, who: Mapper, index: int) -> None:
        """page_remove_rmap(compound): `mapcount` is what is left, without this entry."""
        self._leave(head, who, index)
        mapped = int((mapcount[head : head + self.nr] > 0).sum())
        if not mapped:
            self.free(head)
        elif mapped < self.nr and not self.huge[head].pmds:
            self._defer(head)

    def split_pmd(self, head: int, who: Mapper, index: int) -> bool:
        """__split_huge_pmd: a PMD entry gives way to PTEs. True: the huge page has to be split with it."""
        self.count_pmd_split()
        self._leave(head, who, index)
        return not self.rules.splits_pmd_alone

    def count_pmd_split(self) -> None:
        """A PMD entry is split, that of the huge page of zeros, too."""
        if self.rules.splits_pmd_alone:
            self.count("thp_split_pmd")

    def move_pmd(self, head: int, who: Mapper, old: int, new: int) -> None:
        """move_huge_pmd."""
        pmds = self.huge[head].pmds
        del pmds[who, old]
        pmds[who, new] = None

    def unmapped(self, mapcount: Counts, pfns: Pfns, done: Pfns) -> Pfns:
        """PTEs of pages are gone, and of those in `done` all: returned are those that go back one by one."""
        where = self.compound(pfns)
        if not where.any():
            return done
        single = done[~self.compound(done)]
        for head, mine in self._by_head(pfns[where]):
            gone = mapcount[mine] == 0
            if not gone.any():
                continue
            left = bool((mapcount[head : head + self.nr] > 0).any())
            at_once = bool(gone.all()) and int(mine[-1] - mine[0]) == len(mine) - 1
            if left or not at_once or not self.rules.queues_partly_mapped_only:
                self._defer(head)
            if not left:
                self.free(head)
        return single

    def _by_head(self, pfns: Pfns) -> Iterator[tuple[int, Pfns]]:
        heads = pfns & -self.nr
        for head in np.unique(heads).tolist():
            yield head, pfns[heads == head]

    def _leave(self, head: int, who: Mapper, index: int) -> None:
        pmds = self.huge[head].pmds
        del pmds[who, index]
        self.nr_anon -= not pmds

    def _defer(self, head: int) -> None:
        """deferred_split_huge_page."""
        if self.rules.splits_pmd_alone and head not in self.deferred:
            self.deferred[head] = None
            self.count("thp_deferred_split_page")

    def free(self, head: int) -> None:
        """A huge page that nothing maps goes back whole."""
        self._forget(head)
        self.pages.free_order(head, self.order)

    def _forget(self, head: int) -> None:
        del self.huge[head]
        self.deferred.pop(head, None)
        self._blocks[head >> self.order] = False

    def split_page(self, mapcount: Counts, head: int) -> Pfns:
        """split_huge_page: a huge page is single pages from now on; those that nothing maps are returned."""
        while head in self.huge and (left := self.huge[head].pmds):
            # where a PMD is not split alone, this one splits the others
            who, index = next(iter(left))
            who.split_pmd(index)
        if head in self.huge:
            self._forget(head)
            self.pages.split_order(head, self.order)
            self.count("thp_split_page" if self.rules.splits_pmd_alone else "thp_split")
        pfns = np.arange(head, head + self.nr, dtype=np.int64)
        return pfns[mapcount[pfns] == 0]

    def get_zero_page(self, who: Mapper, nid: int) -> bool:
        """mm_get_huge_zero_page: whether there is a huge page of zeros, which is made at first use."""
        if not self.zero:
            gfp = (GFP_TRANSHUGE | Gfp.ZERO) & ~Gfp.MOVABLE
            self.zero = self.pages.alloc_order(nid, self.order, gfp)
            if not self.zero:
                self.count("thp_zero_page_alloc_failed")
                return False
            self.count("thp_zero_page_alloc")
        self.zero_users[who] = None
        return True

    def exit(self, who: Mapper) -> None:
        """A process ends. The huge page of zeros that it had stays until memory is short."""
        self.zero_users.pop(who, None)
        self.scan.exit(who)

    def shrink_zero_page(self) -> int:
        """shrink_huge_zero_page_scan: pages freed, if nobody has the huge page of zeros any more."""
        if not self.zero or self.zero_users:
            return 0
        self.pages.free_order(self.zero, self.order)
        self.zero = 0
        return self.nr
