"""The processes of ``test_processes.py`` with huge pages of 16 pages each, so that ranges meet some."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule, run_state_machine_as_test
from mm.mmap.inhabited import check, process
from mm.mmap.spaces import HERE, PAGE
from mm.mmap.test_processes import Known, Life

from numa_service.mm.mmap.carry_out import carry_out, exit_process
from numa_service.mm.mmap.effects import Effect
from numa_service.mm.mmap.entries import HUGE, PRESENT, WRITE, ZERO, has, pfns_of
from numa_service.mm.mmap.errnos import Errno
from numa_service.mm.mmap.frames import ANON, Frames, Numbered
from numa_service.mm.mmap.huge_memory import deferred_split_scan
from numa_service.mm.mmap.khugepaged import Khugepaged
from numa_service.mm.mmap.madvise import (
    MADV_COLD,
    MADV_COLLAPSE,
    MADV_FREE,
    MADV_HUGEPAGE,
    MADV_NOHUGEPAGE,
    madvise,
)
from numa_service.mm.mmap.pgtables import Unlimited
from numa_service.mm.mmap.process import Process
from numa_service.mm.mmap.rules import X86_64
from numa_service.mm.mmap.thp import Thp, ThpSettings
from numa_service.mm.mmap.thp_rules import thp_rules_of
from numa_service.mm.profile import profile_of_version

LAYOUT = replace(X86_64, level_shifts=(16, 25, 34), aligns_thp=False)
ORDER = 4
NR = 1 << ORDER
who = st.integers(0, 3)
starts = st.integers(480, 560)


class Scarce(Numbered):
    """Pages without end, but huge ones only if there are some."""

    has_huge = True

    def alloc_order(self, nid: int, order: int, gfp: int) -> int:
        return super().alloc_order(nid, order, gfp) if self.has_huge else 0


class HugeLife(Life):
    version = ""

    def __init__(self) -> None:
        super().__init__()
        # all anew, with huge pages
        self.tables = Unlimited()
        self.pages = Scarce()
        chosen = ThpSettings(khugepaged_max_ptes_none=10, khugepaged_max_ptes_shared=8)
        self.thp = Thp(thp_rules_of(profile_of_version(self.version)), self.pages, chosen, ORDER)
        self.frames = Frames(self.pages, self.thp)
        self.daemon = Khugepaged(self.frames)
        self.processes.clear()
        self.known.clear()
        self.begin()
        self.map_large(0, 490, 60)

    @precondition(lambda self: len(self.processes) < 4)
    @rule()
    def begin(self) -> None:
        version = profile_of_version(self.version)
        self.processes.append(process(version, self.frames, self.tables, LAYOUT))
        self.known.append(Known())

    @rule(at=who, first=starts, count=st.integers(NR, 5 * NR))
    def map_large(self, at: int, first: int, count: int) -> None:
        self.map(at, first, count, "anon", True)

    @rule(at=who, first=starts, count=st.integers(1, 3 * NR), write=st.booleans())
    def touch_large(self, at: int, first: int, count: int, write: bool) -> None:
        self.touch(at, first, count, write)

    @rule(at=who, first=starts, count=st.integers(NR, 3 * NR))
    def forget_large(self, at: int, first: int, count: int) -> None:
        self.forget(at, first, count)

    @rule(at=who, first=starts, count=st.integers(NR, 2 * NR), to=st.sampled_from([1024, 1040, 1033]))
    def move_large(self, at: int, first: int, count: int, to: int) -> None:
        self.move(at, first, count, to)

    @rule(
        at=who,
        first=starts,
        count=st.integers(1, 3 * NR),
        advice=st.sampled_from([MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_FREE, MADV_COLD, MADV_COLLAPSE]),
    )
    def advise(self, at: int, first: int, count: int, advice: int) -> None:
        one = self.processes[at % len(self.processes)]
        effects: list[Effect] = []
        for call in (
            lambda: madvise(one.mm, HERE + first * PAGE, count * PAGE, advice, effects),
            lambda: carry_out(one, effects, self.processes),
        ):
            # what it says is tested elsewhere: here, what it leaves behind
            with contextlib.suppress(Errno):
                call()

    @rule()
    def khugepaged(self) -> None:
        self.daemon.do_scan()

    @rule(most=st.integers(1, 3))
    def memory_is_short(self, most: int) -> None:
        deferred_split_scan(self.frames, most)
        assert all(self.thp.huge[head] for head in self.thp.deferred)

    @rule(enabled=st.sampled_from(["always", "always", "madvise", "never"]), has_huge=st.booleans())
    def change(self, enabled: str, has_huge: bool) -> None:
        self.thp.settings.enabled = enabled
        self.pages.has_huge = has_huge

    @invariant()
    def is_counted(self) -> None:
        """Every page that is out is a file's, a single one that is mapped, or of a huge page that is."""
        check(self.processes)
        cached = [self.file.pages, *(file.pages for file in self.shmems.values())]
        files = sum(len(cache.all()) for cache in cached if cache is not None)
        mapped = [self.frames.mapcount[head : head + NR] for head in self.thp.huge]
        assert all((counts > 0).any() for counts in mapped)
        huge = sum(int((counts > 0).sum()) for counts in mapped)
        anonymous = int(((self.frames.kind == ANON) & (self.frames.mapcount > 0)).sum())
        zero = NR if self.thp.zero else 0
        assert self.pages.out == files + anonymous - huge + NR * len(self.thp.huge) + zero
        self.pmd_entries_are_whole()

    def pmd_entries_are_whole(self) -> None:
        """A PMD entry is one huge page in one VMA, alike in all its parts, with a page of PTEs behind it."""
        pmds: dict[int, int] = {}
        for one in self.processes:
            huge = one.tables.huge_between(0, one.mm.layout.task_size)
            for start, end in one.leaves():
                row = one.all_entries(start, end)
                assert has(row, HUGE).all() == has(row, HUGE).any() == (start >> one.shift in huge)
            for index in huge:
                self.is_one_pmd(one, index)
                head = int(pfns_of(one.row(index)[:1])[0])
                if head:
                    pmds[head] = pmds.get(head, 0) + 1
        assert pmds == {head: len(page.pmds) for head, page in self.thp.huge.items() if page.pmds}
        assert self.thp.nr_anon == len(pmds)

    def is_one_pmd(self, one: Process, index: int) -> None:
        row = one.row(index)
        vma = one.mm.tree.lookup(index << one.shift)
        assert vma is not None
        assert vma.end >= (index + 1) << one.shift
        assert len({int(entry) & 0xFF for entry in row}) == 1
        assert row[0] & PRESENT
        if row[0] & ZERO:
            assert not row[0] & WRITE
            return
        head = int(pfns_of(row[:1])[0])
        assert (pfns_of(row) == range(head, head + NR)).all()
        assert head % NR == 0
        assert (one, index) in self.thp.huge[head].pmds

    def teardown(self) -> None:
        while self.processes:
            exit_process(self.processes.pop())
        assert not self.thp.huge
        assert not self.thp.scan.slots
        assert self.thp.shrink_zero_page() == (NR if self.thp.events.get("thp_zero_page_alloc") else 0)
        super().teardown()


@pytest.mark.parametrize("version", ["3.0", "5.4", "6.1", "6.12", "6.15"])
def test_huge_pages_at_random(version: str) -> None:
    chosen = settings(
        max_examples=12,
        stateful_step_count=40,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(type("Of", (HugeLife,), {"version": version}), settings=chosen)
