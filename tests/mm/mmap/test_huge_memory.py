"""Huge pages one by one: who gets them, what a write to a shared one costs, and what becomes of parts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from mm.balancing.box import Box
from mm.mmap.inhabited import check, process
from mm.mmap.spaces import HERE, PAGE, place

from numa_service.mm.balancing.change_prot import change_prot_numa
from numa_service.mm.balancing.fault import hint_faults
from numa_service.mm.gfp import Gfp
from numa_service.mm.mmap.carry_out import carry_out, exit_process, fork
from numa_service.mm.mmap.effects import Effect
from numa_service.mm.mmap.fault import touch
from numa_service.mm.mmap.frames import ANON, Frames, Numbered
from numa_service.mm.mmap.huge_memory import deferred_split_scan
from numa_service.mm.mmap.madvise import (
    MADV_COLD,
    MADV_DONTNEED,
    MADV_FREE,
    MADV_HUGEPAGE,
    MADV_NOHUGEPAGE,
    madvise,
)
from numa_service.mm.mmap.mprotect import mprotect
from numa_service.mm.mmap.mremap import MREMAP_FIXED, MREMAP_MAYMOVE, mremap
from numa_service.mm.mmap.munmap import munmap
from numa_service.mm.mmap.pgtables import Unlimited
from numa_service.mm.mmap.process import Process
from numa_service.mm.mmap.rules import I386, I386_PAE, X86_64, UserLayout
from numa_service.mm.mmap.thp import GFP_TRANSHUGE, GFP_TRANSHUGE_LIGHT, Thp, ThpSettings, settings_of
from numa_service.mm.mmap.thp_rules import thp_rules_of
from numa_service.mm.mmap.vma import Vma
from numa_service.mm.profile import profile_of_version
from numa_service.procfs.pid_smaps import numa_line, numbers, smaps, smaps_rollup

NR = 512


class Pages(Numbered):
    """Remembers how huge pages were asked for; there are as many as `left`."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[int, int, int]] = []
        self.left = 100

    def alloc_order(self, nid: int, order: int, gfp: int) -> int:
        self.asked.append((nid, order, gfp))
        self.left -= 1
        return super().alloc_order(nid, order, gfp) if self.left >= 0 else 0


@dataclass
class Machine:
    pages: Pages
    thp: Thp
    frames: Frames
    tables: Unlimited
    version: str
    layout: UserLayout

    def process(self) -> Process:
        return process(profile_of_version(self.version), self.frames, self.tables, self.layout)


def machine(version: str = "6.1", layout: UserLayout = X86_64, **settings: object) -> Machine:
    pages = Pages()
    chosen = ThpSettings(**settings) if settings else None  # type: ignore[arg-type]  # a test's words
    rules = thp_rules_of(profile_of_version(version))
    thp = Thp(rules, pages, chosen, order=layout.level_shifts[0] - 12)
    return Machine(pages, thp, Frames(pages, thp), Unlimited(), version, layout)


def inhabited(version: str = "6.1", huge: int = 4, **settings: object) -> tuple[Machine, Process]:
    """A machine, and a process with room for so many huge pages."""
    one = machine(version, **settings)
    its = one.process()
    place(its.mm, 0, huge * NR)
    return one, its


def go(one: Process, first: int, count: int = 1, *, write: bool = True) -> int:
    return touch(one, HERE + first * PAGE, HERE + (first + count) * PAGE, write=write)


def at(one: Process, page: int) -> Vma:
    vma = one.mm.tree.lookup(HERE + page * PAGE)
    assert vma is not None
    return vma


def advise(one: Process, first: int, count: int, advice: int) -> None:
    effects: list[Effect] = []
    madvise(one.mm, HERE + first * PAGE, count * PAGE, advice, effects)
    carry_out(one, effects, [one])


def protect(one: Process, count: int, prot: int) -> None:
    effects: list[Effect] = []
    mprotect(one.mm, HERE, count * PAGE, prot, effects)
    carry_out(one, effects)


def huge_of(one: Process) -> list[int]:
    """The first page of each huge page that a PMD entry maps, from HERE on."""
    return [(index << one.shift) - HERE >> 12 for index in one.tables.huge_between(HERE, HERE << 1)]


def test_a_huge_page_is_one_fault() -> None:
    one, its = inhabited()
    assert go(its, 5) == 1
    assert go(its, 0, NR) == 0
    assert go(its, NR, 2 * NR, write=True) == 2
    assert its.rss[ANON] == 3 * NR
    assert one.thp.events == {"thp_fault_alloc": 3}
    assert one.thp.nr_anon == 3
    assert huge_of(its) == [0, NR, 2 * NR]
    check([its])


@pytest.mark.parametrize(
    ("enabled", "advice", "huge"),
    [
        ("always", None, True),
        ("always", MADV_NOHUGEPAGE, False),
        ("madvise", None, False),
        ("madvise", MADV_HUGEPAGE, True),
        ("never", MADV_HUGEPAGE, False),
    ],
)
def test_who_gets_huge_pages(enabled: str, advice: int | None, huge: bool) -> None:
    _, its = inhabited(enabled=enabled)
    if advice is not None:
        advise(its, 0, 4 * NR, advice)
    go(its, 0)
    assert its.rss[ANON] == (NR if huge else 1)
    assert ("THPeligible:    1" in smaps(its)) is huge


def test_only_where_all_of_it_fits() -> None:
    one = machine()
    its = one.process()
    place(its.mm, 100, 3 * NR)
    assert go(its, 100, 3 * NR) == NR - 100 + 2 + 100
    assert huge_of(its) == [NR, 2 * NR]


def test_with_small_pages_there_it_stays_small() -> None:
    one, its = inhabited(enabled="never")
    go(its, 7)
    one.thp.settings.enabled = "always"
    go(its, 0, NR)
    assert huge_of(its) == []
    go(its, NR)
    assert huge_of(its) == [NR]


def test_without_a_huge_page_it_is_small_ones() -> None:
    one, its = inhabited()
    one.pages.left = 1
    assert go(its, 0, 2 * NR) == 1 + NR
    assert go(its, NR, NR) == 0
    assert one.thp.events == {"thp_fault_alloc": 1, "thp_fault_fallback": 1}
    assert its.rss[ANON] == 2 * NR
    check([its])


LIGHT, HARD = GFP_TRANSHUGE_LIGHT, GFP_TRANSHUGE
DIRECT, KSWAPD, NORETRY = Gfp.DIRECT_RECLAIM, Gfp.KSWAPD_RECLAIM, Gfp.NORETRY


@pytest.mark.parametrize(
    ("version", "defrag", "plain", "advised"),
    [
        ("6.1", "always", HARD | NORETRY, HARD),
        ("6.1", "defer", LIGHT | KSWAPD, LIGHT | KSWAPD),
        ("6.1", "defer+madvise", LIGHT | KSWAPD, LIGHT | DIRECT),
        ("6.1", "madvise", LIGHT, LIGHT | DIRECT),
        ("6.1", "never", LIGHT, LIGHT),
        ("4.4", "always", HARD | NORETRY, HARD | NORETRY),
    ],
)
def test_how_hard_a_fault_tries(version: str, defrag: str, plain: int, advised: int) -> None:
    one, its = inhabited(version, defrag=defrag)
    go(its, 0)
    advise(its, NR, NR, MADV_HUGEPAGE)
    go(its, NR)
    assert [gfp for _, _, gfp in one.pages.asked] == [plain, advised]
    assert {order for _, order, _ in one.pages.asked} == {9}


def test_boot_chooses_how_hard() -> None:
    chosen = {version: machine(version).thp.settings.defrag for version in ("3.0", "4.4", "4.6", "6.12")}
    assert chosen == {"3.0": "always", "4.4": "always", "4.6": "madvise", "6.12": "madvise"}


def test_policies_count_in_huge_pages() -> None:
    one, its = inhabited()
    its.place = lambda vma, numbers: (numbers % 2).astype(np.int16)
    go(its, 0, 4 * NR)
    first = (HERE >> 21) % 2
    assert [nid for nid, _, _ in one.pages.asked] == [first, 1 - first, first, 1 - first]


def test_reads_map_the_huge_page_of_zeros() -> None:
    one, its = inhabited()
    other = one.process()
    place(other.mm, 0, NR)
    assert go(its, 0, 2 * NR, write=False) == 2
    assert go(other, 3, write=False) == 1
    assert its.rss == [0, 0, 0]
    assert one.pages.out == NR
    assert one.thp.events == {"thp_zero_page_alloc": 1}
    assert one.thp.shrink_zero_page() == 0
    exit_process(its)
    exit_process(other)
    assert one.thp.shrink_zero_page() == NR
    assert one.pages.out == 0


def test_without_zero_page_a_read_takes_a_huge_page() -> None:
    for one, its in (inhabited("3.0"), inhabited(use_zero_page=0)):
        go(its, 0, write=False)
        assert its.rss[ANON] == NR
        assert "thp_zero_page_alloc" not in one.thp.events


def test_without_room_for_zeros_reads_are_small() -> None:
    one, its = inhabited()
    one.pages.left = 0
    assert go(its, 0, 3, write=False) == 3
    assert one.thp.events == {"thp_zero_page_alloc_failed": 1, "thp_fault_fallback": 1}


@pytest.mark.parametrize(
    ("version", "rss", "split"), [("5.7", NR, 0), ("6.1", 1, 1), ("6.12", 1, 1), ("6.13", NR, 0)]
)
def test_a_write_to_zeros(version: str, rss: int, split: int) -> None:
    one, its = inhabited(version)
    go(its, 0, write=False)
    assert go(its, 3) == 1
    assert its.rss[ANON] == rss
    assert one.thp.events.get("thp_split_pmd", 0) == split
    check([its])


@pytest.mark.parametrize(
    ("version", "copied", "split"), [("3.0", NR, 0), ("5.7", NR, 0), ("5.8", 1, 1), ("6.12", 1, 1)]
)
def test_a_write_to_a_shared_huge_page(version: str, copied: int, split: int) -> None:
    one, its = inhabited(version)
    go(its, 0)
    child = fork(its, one.tables)
    assert one.pages.out == NR
    assert go(child, 5) == 1
    assert one.pages.out == NR + copied
    assert one.thp.events.get("thp_split_pmd", 0) == split
    # who is alone with it then may write to it as it is
    exit_process(child)
    assert go(its, 9) == 1
    assert huge_of(its) == [0]
    assert go(its, 9) == 0


@pytest.mark.parametrize(
    ("version", "reused"), [("5.7", 20), ("5.9", 1), ("5.19", 1), ("6.9", 1), ("6.10", 0), ("6.15", 20)]
)
def test_writes_to_parts_that_were_shared(version: str, reused: int) -> None:
    """A huge page is mapped page by page, and twenty parts of it are left, all once shared."""
    one, its = inhabited(version)
    go(its, 0)
    child = fork(its, one.tables)
    carry_out(its, munmap(its.mm, HERE + 20 * PAGE, (NR - 20) * PAGE))
    exit_process(child)
    head = next(iter(one.thp.huge))
    assert go(its, 0, 20) == 20
    kept = its.all_entries(HERE, HERE + 20 * PAGE) >> 8
    assert int((kept & -NR == head).sum()) == reused
    check([its])


@pytest.mark.parametrize("version", ["5.19", "6.1", "6.12"])
def test_parts_that_nobody_shared_need_no_copy(version: str) -> None:
    one, its = inhabited(version)
    go(its, 0)
    protect(its, 20, 1)
    protect(its, 20, 3)
    assert huge_of(its) == []
    assert go(its, 0, 20) == 20
    assert one.pages.out == NR


def test_parts_that_go_wait_for_a_split() -> None:
    one, its = inhabited()
    go(its, 0)
    tables = its.tables.counts()
    carry_out(its, munmap(its.mm, HERE + 100 * PAGE, 16 * PAGE))
    assert one.thp.events == {"thp_fault_alloc": 1, "thp_split_pmd": 1, "thp_deferred_split_page": 1}
    assert its.tables.counts() == tables
    assert one.pages.out == NR
    assert deferred_split_scan(one.frames, 10) == 1
    assert one.thp.events["thp_split_page"] == 1
    assert one.pages.out == NR - 16
    assert deferred_split_scan(one.frames, 10) == 0
    # they are single pages now, of the same process
    check([its])
    exit_process(its)
    assert one.pages.out == one.tables.out == 0


def test_a_split_reaches_all_who_map_it() -> None:
    one, its = inhabited()
    go(its, 0)
    child = fork(its, one.tables)
    carry_out(child, munmap(child.mm, HERE, PAGE))
    exit_process(child)
    assert one.thp.deferred == {}
    child = fork(its, one.tables)
    carry_out(its, munmap(its.mm, HERE, PAGE))
    assert huge_of(child) == [0]
    assert one.thp.deferred == {}
    go(child, 0)
    assert list(one.thp.deferred) == list(one.thp.huge)
    deferred_split_scan(one.frames, 1)
    assert huge_of(child) == []
    assert one.thp.huge == {}
    check([its, child])


def test_before_4_5_a_split_is_a_split_of_the_page() -> None:
    one, its = inhabited("4.4")
    go(its, 0)
    child = fork(its, one.tables)
    carry_out(its, munmap(its.mm, HERE, PAGE))
    assert one.thp.events == {"thp_fault_alloc": 1, "thp_split": 1}
    assert huge_of(child) == []
    assert one.thp.huge == {}
    assert one.thp.nr_anon == 0
    exit_process(child)
    assert one.pages.out == NR - 1


@pytest.mark.parametrize(("version", "queued"), [("6.9", 1), ("6.10", 0)])
def test_what_goes_at_once_is_not_queued(version: str, queued: int) -> None:
    one, its = inhabited(version)
    go(its, 0)
    protect(its, 1, 1)
    protect(its, 1, 3)
    assert huge_of(its) == []
    advise(its, 0, NR, MADV_DONTNEED)
    assert one.thp.events.get("thp_deferred_split_page", 0) == queued
    assert one.pages.out == 0


def test_forgotten_huge_pages_come_back_huge() -> None:
    one, its = inhabited()
    go(its, 0, 2 * NR)
    tables = its.tables.counts()
    advise(its, 0, NR, MADV_DONTNEED)
    assert its.tables.counts()[0] == tables[0] - 1
    assert one.pages.out == NR
    assert go(its, 0) == 1
    assert huge_of(its) == [0, NR]
    assert "thp_split_pmd" not in one.thp.events


@pytest.mark.parametrize(("target", "huge"), [(8 * NR, [8 * NR]), (8 * NR + 1, [])])
def test_moves_keep_a_huge_page_where_it_fits(target: int, huge: list[int]) -> None:
    one, its = inhabited(huge=1)
    go(its, 0)
    flags = MREMAP_MAYMOVE | MREMAP_FIXED
    _, effects = mremap(its.mm, HERE, NR * PAGE, NR * PAGE, flags, HERE + target * PAGE)
    carry_out(its, effects)
    assert huge_of(its) == huge
    assert its.rss[ANON] == NR
    check([its])
    exit_process(its)
    assert one.pages.out == one.tables.out == 0


@pytest.mark.parametrize("advice", [MADV_FREE, MADV_COLD])
def test_advice_for_a_part_splits_the_page(advice: int) -> None:
    one, its = inhabited()
    go(its, 0, 2 * NR)
    advise(its, NR, NR, advice)
    assert huge_of(its) == [0, NR]
    advise(its, 0, 10, advice)
    assert huge_of(its) == [NR]
    assert one.thp.events["thp_split_page"] == 1
    assert len(one.thp.huge) == 1
    assert its.rss[ANON] == 2 * NR


def test_of_shared_huge_pages_nothing_is_split() -> None:
    one, its = inhabited()
    go(its, 0)
    fork(its, one.tables)
    advise(its, 0, 10, MADV_FREE)
    assert "thp_split_page" not in one.thp.events


def test_what_smaps_and_numa_maps_say() -> None:
    one, its = inhabited()
    go(its, 0, NR)
    go(its, NR, write=False)
    found = numbers(its, at(its, 0))
    assert (found["Rss"], found["AnonHugePages"], found["Private_Dirty"]) == (2048, 2048, 2048)
    assert "AnonHugePages:      2048 kB" in smaps_rollup(its)
    child = fork(its, one.tables)
    go(child, 1)
    assert numbers(its, at(its, 0))["AnonHugePages"] == 2048
    assert numbers(child, at(child, 0))["AnonHugePages"] == 0
    # of a huge page its first one says how often it is mapped
    assert " mapmax=2 N0=512" in numa_line(its, at(its, 0), "default")
    go(child, 0)
    assert "mapmax" not in numa_line(its, at(its, 0), "default")
    assert "mapmax=2" in numa_line(child, at(child, 0), "default")


@pytest.mark.parametrize(
    ("version", "line"), [("4.19", None), ("6.1", "THPeligible:    1"), ("6.12", "THPeligible:           1")]
)
def test_how_smaps_says_it(version: str, line: str | None) -> None:
    _, its = inhabited(version)
    lines = [text for text in smaps(its).splitlines() if text.startswith("THPeligible")]
    assert (line in lines) if line else (lines == [])
    # the program's own parts are too small
    assert len(lines) in (0, len(list(its.mm.tree)))
    assert lines.count(line or "") == (1 if line else 0)


@pytest.mark.parametrize(("layout", "pages"), [(I386_PAE, 512), (I386, 1024)])
def test_huge_pages_of_32_bit(layout: UserLayout, pages: int) -> None:
    one = machine("6.1", layout)
    its = one.process()
    start = 0x4000_0000
    place(its.mm, (start - HERE) // PAGE, 2 * pages)
    assert touch(its, start, start + PAGE, write=True) == 1
    assert its.rss[ANON] == pages
    assert one.pages.asked[0][1] == layout.level_shifts[0] - 12


def test_settings_come_from_files() -> None:
    files = {"enabled": "madvise", "use_zero_page": "0", "khugepaged/pages_to_scan": "8"}
    settings = settings_of(files)
    assert settings == ThpSettings(enabled="madvise", use_zero_page=0, khugepaged_pages_to_scan=8)


class NoTables(Unlimited):
    """Pages of tables, of which there are so many."""

    left = 100

    def alloc(self, order: int) -> int:
        if not self.left:
            raise MemoryError
        self.left -= 1
        return super().alloc(order)


def test_without_a_table_nothing_is_taken_and_it_can_be_tried_again() -> None:
    one = machine()
    one.tables = tables = NoTables()
    its = one.process()
    place(its.mm, 0, 2 * NR)
    # a page of each level but the last
    tables.left = 2
    with pytest.raises(MemoryError):
        go(its, 0)
    assert one.pages.out == 0
    assert its.rss == [0, 0, 0]
    assert one.thp.huge == {}
    assert one.thp.events == {}
    tables.left = 1
    assert go(its, 0) == 1
    assert huge_of(its) == [0]
    check([its])


def test_numa_balancing_marks_and_moves_huge_pages_whole() -> None:
    box = Box(pages=8)
    thp = box.process.frames.thp = Thp(thp_rules_of(profile_of_version("6.1")), box.source)
    start = 1 << 30
    vma = box.area(start, 2 * NR)
    touch(box.process, start, vma.end, write=True)
    assert thp.nr_anon == 2
    assert change_prot_numa(box.balancing, box.mm, vma, start, start + NR * PAGE, 0) == NR
    assert box.balancing.counters.numa_huge_pte_updates == 1
    found = hint_faults(box.balancing, box.task, start + PAGE, start + 3 * PAGE, 0)
    assert (found.faults, found.migrated_pages) == (1, NR)
    # of a part only its pages are marked, which are mapped page by page then
    assert change_prot_numa(box.balancing, box.mm, vma, start + NR * PAGE, start + (NR + 5) * PAGE, 0) == 5
    assert thp.nr_anon == 1
    assert thp.events["thp_split_pmd"] == 1
    check([box.process])
