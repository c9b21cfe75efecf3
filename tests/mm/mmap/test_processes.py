"""Processes that map, touch, fork and end at random, beside a reference that knows what each page says."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from mm.mmap.inhabited import check, process
from mm.mmap.spaces import HERE, PAGE, outcome

from numa_service.mm.mmap.carry_out import carry_out, exit_process, fork
from numa_service.mm.mmap.effects import Effect
from numa_service.mm.mmap.entries import PRESENT, ZERO
from numa_service.mm.mmap.fault import touch
from numa_service.mm.mmap.frames import ANON, FILE, SHMEM, AddressSpace, Frames, Numbered
from numa_service.mm.mmap.madvise import MADV_DONTNEED, MADV_REMOVE, madvise
from numa_service.mm.mmap.mmap import MAP_ANONYMOUS, MAP_FIXED, MAP_PRIVATE, MAP_SHARED, mmap
from numa_service.mm.mmap.mprotect import mprotect
from numa_service.mm.mmap.mremap import MREMAP_FIXED, MREMAP_MAYMOVE, mremap
from numa_service.mm.mmap.munmap import munmap
from numa_service.mm.mmap.pgtables import Unlimited
from numa_service.mm.mmap.process import Process
from numa_service.mm.mmap.vma import DEV_ZERO, File

#: Around the end of a page of PTEs, so that ranges are in two of them.
FIRST = 500
places = st.integers(FIRST, FIRST + 24)
counts = st.integers(1, 10)
who = st.integers(0, 3)


@dataclass
class Mapped:
    """What the reference knows of a page: where it reads from, and what a write did to it."""

    writable: bool
    #: The file and page whose content it has until it is written to; of shared pages always.
    backing: tuple[str, int] | None
    shared: bool
    #: Number of the last write to it, which a fork hands down; 0: none.
    written: int = 0


@dataclass
class Known:
    pages: dict[int, Mapped] = field(default_factory=dict)


class Life(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.frames = Frames(Numbered())
        self.tables = Unlimited()
        self.file = File("/f", 8, 1, 7, pages=AddressSpace(FILE), size=64)
        self.processes: list[Process] = []
        self.known: list[Known] = []
        self.shmems: dict[str, File] = {}
        self.writes = 0
        self.begin()
        self.map(0, FIRST, 20, "anon", True)

    @precondition(lambda self: len(self.processes) < 4)
    @rule()
    def begin(self) -> None:
        self.processes.append(process(frames=self.frames, tables=self.tables))
        self.known.append(Known())

    @rule(
        at=who,
        first=places,
        count=counts,
        kind=st.sampled_from(["anon", "shared", "file", "shared file"]),
        writable=st.booleans(),
    )
    def map(self, at: int, first: int, count: int, kind: str, writable: bool) -> None:
        at %= len(self.processes)
        flags = MAP_FIXED | (MAP_SHARED if kind.startswith("shared") else MAP_PRIVATE)
        flags |= 0 if "file" in kind else MAP_ANONYMOUS
        file, name = (self.file, "/f") if "file" in kind else (None, "")
        if kind == "shared":
            name = f"zero {len(self.shmems)}"
            file = self.shmems[name] = File(
                DEV_ZERO, 0, 1, len(self.shmems), pages=AddressSpace(SHMEM), shmem=True, unlinked=True
            )
        offset = first - FIRST if "file" in kind else 0
        one = self.processes[at]
        prot = 3 if writable else 1
        _, effects = mmap(one.mm, HERE + first * PAGE, count * PAGE, prot, flags, file, offset * PAGE)
        carry_out(one, effects, self.processes)
        for nth in range(count):
            backing = (name, offset + nth) if name else None
            self.known[at].pages[first + nth] = Mapped(writable, backing, kind.startswith("shared"))

    @rule(at=who, first=places, count=counts)
    def unmap(self, at: int, first: int, count: int) -> None:
        at %= len(self.processes)
        one = self.processes[at]
        carry_out(one, munmap(one.mm, HERE + first * PAGE, count * PAGE), self.processes)
        for page in range(first, first + count):
            self.known[at].pages.pop(page, None)

    @rule(at=who, first=places, count=counts, write=st.booleans())
    def touch(self, at: int, first: int, count: int, write: bool) -> None:
        at %= len(self.processes)
        one, pages = self.processes[at], self.known[at].pages
        fine = 0
        while fine < count and (page := pages.get(first + fine)) and (page.writable or not write):
            fine += 1
        low, high = HERE + first * PAGE, HERE + (first + count) * PAGE
        assert outcome(lambda: touch(one, low, high, write=write)) == ("" if fine == count else "EFAULT")
        for page in range(first, first + fine):
            if write:
                self.writes += 1
                pages[page].written = self.writes
            entries = one.all_entries(HERE + page * PAGE, HERE + (page + 1) * PAGE)
            assert entries[0] & PRESENT
        # a second time nothing faults
        if fine == count:
            assert touch(one, low, high, write=write) == 0

    @rule(at=who, first=places, count=counts, writable=st.booleans())
    def protect(self, at: int, first: int, count: int, writable: bool) -> None:
        at %= len(self.processes)
        one, pages = self.processes[at], self.known[at].pages
        whole = all(page in pages for page in range(first, first + count))
        effects: list[Effect] = []
        start, prot = HERE + first * PAGE, 3 if writable else 1
        result = outcome(lambda: mprotect(one.mm, start, count * PAGE, prot, effects))
        assert result == ("" if whole else "ENOMEM")
        carry_out(one, effects, self.processes)
        for page in range(first, first + count):
            if page not in pages:
                break
            pages[page].writable = writable

    @rule(at=who, first=places, count=counts)
    def forget(self, at: int, first: int, count: int) -> None:
        """MADV_DONTNEED: private pages say again what they said at first."""
        at %= len(self.processes)
        one, pages = self.processes[at], self.known[at].pages
        effects: list[Effect] = []
        whole = all(page in pages for page in range(first, first + count))
        result = outcome(lambda: madvise(one.mm, HERE + first * PAGE, count * PAGE, MADV_DONTNEED, effects))
        assert result == ("" if whole else "ENOMEM")
        carry_out(one, effects, self.processes)
        for page in range(first, first + count):
            if page in pages and not pages[page].shared:
                pages[page].written = 0

    @rule(at=who, first=places, count=counts)
    def punch(self, at: int, first: int, count: int) -> None:
        """MADV_REMOVE: pages of shared memory are gone for everybody."""
        at %= len(self.processes)
        one, pages = self.processes[at], self.known[at].pages
        fine = all(
            page in pages and pages[page].writable and (pages[page].backing or ("",))[0].startswith("zero")
            for page in range(first, first + count)
        )
        effects: list[Effect] = []
        if fine:
            madvise(one.mm, HERE + first * PAGE, count * PAGE, MADV_REMOVE, effects)
            carry_out(one, effects, self.processes)
            for page in range(first, first + count):
                backing = pages[page].backing
                assert backing is not None
                cache = self.shmems[backing[0]].pages
                assert cache is not None
                assert not cache.find(np.array([backing[1]]))[0]

    @rule(at=who, first=places, count=counts, to=st.sampled_from([100, 520, 1024]))
    def move(self, at: int, first: int, count: int, to: int) -> None:
        at %= len(self.processes)
        one, pages = self.processes[at], self.known[at].pages
        if to + count > first and first + count > to:
            return
        flags = MREMAP_MAYMOVE | MREMAP_FIXED
        old, new = HERE + first * PAGE, HERE + to * PAGE
        vma = one.mm.tree.lookup(old)
        if vma is None or vma.end < old + count * PAGE:
            return
        moved = [pages[first + nth] for nth in range(count)]
        _, effects = mremap(one.mm, old, count * PAGE, count * PAGE, flags, new)
        carry_out(one, effects, self.processes)
        for nth in range(count):
            pages.pop(first + nth)
            pages[to + nth] = moved[nth]

    @precondition(lambda self: len(self.processes) < 4)
    @rule(at=who)
    def fork(self, at: int) -> None:
        at %= len(self.processes)
        self.processes.append(fork(self.processes[at], self.tables))
        copies = {
            number: Mapped(page.writable, page.backing, page.shared, page.written)
            for number, page in self.known[at].pages.items()
        }
        self.known.append(Known(copies))

    @precondition(lambda self: len(self.processes) > 1)
    @rule(at=who)
    def end(self, at: int) -> None:
        at %= len(self.processes)
        exit_process(self.processes.pop(at))
        self.known.pop(at)

    @invariant()
    def is_counted(self) -> None:
        check(self.processes)
        cached = [self.file.pages, *(file.pages for file in self.shmems.values())]
        anonymous = (self.frames.kind == ANON) & (self.frames.mapcount > 0)
        files = sum(len(cache.all()) for cache in cached if cache is not None)
        assert self.frames.source.out == files + int(anonymous.sum())  # type: ignore[attr-defined]  # Numbered

    @invariant()
    def pages_say_what_was_written(self) -> None:
        """One page never stands for two contents; written private pages are the process's own."""
        content: dict[int, object] = {}
        for one, known in zip(self.processes, self.known, strict=True):
            for number, page in known.pages.items():
                entry = int(one.all_entries(HERE + number * PAGE, HERE + (number + 1) * PAGE)[0])
                if not entry:
                    assert page.shared or not page.written
                elif entry & ZERO:
                    assert not page.written
                    assert page.backing is None
                else:
                    said = page.backing if page.shared or not page.written else page.written
                    assert content.setdefault(entry >> 8, said) == said

    def teardown(self) -> None:
        for one in self.processes:
            exit_process(one)
        assert self.file.pages is not None
        assert self.frames.source.out == len(self.file.pages.all())  # type: ignore[attr-defined]  # Numbered
        assert self.tables.out == 0


def test_processes_at_random() -> None:
    chosen = settings(
        max_examples=25,
        stateful_step_count=40,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(Life, settings=chosen)
