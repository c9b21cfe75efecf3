"""Calls at random, against a table of pages: what is mapped where, and that VMAs are as few as may be.

Nothing is faulted in here, so that no anon_vma keeps neighbours apart: what is alike is one VMA.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from mm.mmap.reference_pages import PAGE, Page, Pages
from mm.mmap.spaces import outcome

from numa_service.mm.mmap import vm_flags as vf
from numa_service.mm.mmap.attributes import mbind_range
from numa_service.mm.mmap.fork import dup_mm
from numa_service.mm.mmap.limits import Committed, Limits
from numa_service.mm.mmap.madvise import MADV_NOHUGEPAGE, MADV_NORMAL, MADV_SEQUENTIAL, madvise
from numa_service.mm.mmap.mlock import mlock, munlock
from numa_service.mm.mmap.mm_struct import MmStruct
from numa_service.mm.mmap.mmap import MAP_ANONYMOUS, MAP_FIXED, MAP_NORESERVE, MAP_PRIVATE, MAP_SHARED, mmap
from numa_service.mm.mmap.mprotect import mprotect
from numa_service.mm.mmap.mremap import MREMAP_MAYMOVE, mremap
from numa_service.mm.mmap.munmap import exit_mmap, munmap
from numa_service.mm.mmap.rules import UserLayout, rules_of
from numa_service.mm.mmap.vma import File
from numa_service.mm.profile import LINUX_3_0, LINUX_6_1, LINUX_6_12, Profile

LAYOUT = UserLayout(task_size=1 << 30, stack_top=1 << 30, level_shifts=(21, 30), aligns_thp=False)
#: Places are few, so that calls meet.
FIRST = (512 << 20) // PAGE
places = st.integers(FIRST, FIRST + 20)
counts = st.integers(1, 12)
prots = st.sampled_from([0, 1, 3, 5])
kinds = st.sampled_from(["private", "unreserved", "file", "shared file"])


class Calls(RuleBasedStateMachine):
    profile: Profile

    def __init__(self) -> None:
        super().__init__()
        rules = rules_of(self.profile)
        self.mm = MmStruct(LAYOUT, rules, Committed(1 << 20), Limits(memlock=1 << 40))
        self.model = Pages(self.mm.mmap_base, uncharges=rules.mprotect_uncharges)
        self.file = File("/f", 8, 1, 7)
        # so that calls have something to meet
        self.map_fixed(FIRST, 26, "private", 3, False, 0)

    def wanted(self, kind: str, prot: int, offset: int) -> tuple[int, File | None, Page]:
        if kind in ("private", "unreserved"):
            reserve = kind == "private"
            flags = MAP_PRIVATE | MAP_ANONYMOUS | (0 if reserve else MAP_NORESERVE)
            promised = reserve and bool(prot & 2)
            return flags, None, Page(prot, False, "", 0, reserve=reserve, promised=promised)
        if kind == "file":
            return MAP_PRIVATE, self.file, Page(prot, False, "/f", offset, promised=bool(prot & 2))
        return MAP_SHARED, self.file, Page(prot, True, "/f", offset)

    @rule(count=counts, kind=kinds, prot=prots, offset=st.integers(0, 20))
    def map_anywhere(self, count: int, kind: str, prot: int, offset: int) -> None:
        flags, file, page = self.wanted(kind, prot, offset)
        expected = self.model.highest(count)
        address, _ = mmap(self.mm, 0, count * PAGE - 5, prot, flags, file, offset * PAGE if file else 0)
        assert address == expected * PAGE
        self.model.map(expected, count, page)

    @rule(
        first=places, count=counts, kind=kinds, prot=prots, aligned=st.booleans(), offset=st.integers(0, 20)
    )
    def map_fixed(self, first: int, count: int, kind: str, prot: int, aligned: bool, offset: int) -> None:
        # pages of the file that continue a neighbour's, more often than by chance
        offset = first - FIRST if aligned else offset
        flags, file, page = self.wanted(kind, prot, offset)
        place = offset * PAGE if file else 0
        mmap(self.mm, first * PAGE, count * PAGE, prot, flags | MAP_FIXED, file, place)
        self.model.map(first, count, page)

    @rule(first=places, count=counts)
    def unmap(self, first: int, count: int) -> None:
        munmap(self.mm, first * PAGE, count * PAGE)
        self.model.unmap(first, count)

    @rule(first=places, count=counts, prot=prots)
    def protect(self, first: int, count: int, prot: int) -> None:
        expected = self.model.protect(first, count, prot)
        assert outcome(lambda: mprotect(self.mm, first * PAGE, count * PAGE, prot, [])) == expected

    @rule(first=places, count=counts, policy=st.sampled_from(["", "bind 1", "interleave"]))
    def bind(self, first: int, count: int, policy: str) -> None:
        whole = all(page in self.model.pages for page in range(first, first + count))
        expected = "EFAULT" if policy and not whole else ""
        assert outcome(lambda: mbind_range(self.mm, first * PAGE, count * PAGE, policy or None)) == expected
        if not expected:
            self.model.change(first, count, stop=False, policy=policy)

    @rule(first=places, count=counts, advice=st.sampled_from(["sequential", "normal", "no huge"]))
    def advise(self, first: int, count: int, advice: str) -> None:
        number = {"sequential": MADV_SEQUENTIAL, "normal": MADV_NORMAL, "no huge": MADV_NOHUGEPAGE}[advice]
        what: dict[str, object] = (
            {"no_huge": True} if advice == "no huge" else {"sequential": advice == "sequential"}
        )
        pages = (self.model.pages.get(first + nth) for nth in range(count))
        shared = any(page is not None and page.shared for page in pages)
        if advice == "no huge" and shared and self.mm.rules.huge_advice_is_private:
            return  # refused, in the midst of the range: compared with recorded calls
        expected = self.model.change(first, count, stop=False, **what)
        assert outcome(lambda: madvise(self.mm, first * PAGE, count * PAGE, number, [])) == expected

    @rule(first=places, count=counts, locked=st.booleans())
    def lock(self, first: int, count: int, locked: bool) -> None:
        expected = self.model.change(first, count, stop=True, locked=locked)
        if locked:
            if not expected and any(self.model.pages[first + nth].prot == 0 for nth in range(count)):
                expected = "ENOMEM"  # it is locked, but its pages cannot be had
            assert outcome(lambda: mlock(self.mm, first * PAGE + 9, count * PAGE - 9)) == expected
        else:
            assert outcome(lambda: munlock(self.mm, first * PAGE, count * PAGE)) == expected

    @rule(first=places, old=counts, new=counts, may_move=st.booleans())
    def remap(self, first: int, old: int, new: int, may_move: bool) -> None:
        flags = MREMAP_MAYMOVE if may_move else 0
        area = next((run for run in self.model.areas() if run[0] <= first < run[1]), None)
        grown = new - old
        places: list[int] = []

        def call() -> None:
            places.append(mremap(self.mm, first * PAGE, old * PAGE, new * PAGE, flags)[0])

        result = outcome(call)
        if area is None or (old < new and first + old > area[1]):
            assert result == "EFAULT"
            return
        room = first + old == area[1] and self.model.free(first + old, grown)
        if old < new and not room and not may_move:
            assert result == "ENOMEM"
            return
        assert result == ""
        (address,) = places
        if new <= old:
            assert address == first * PAGE
            self.model.unmap(first + new, old - new)
            return
        page = self.model.pages[first]
        place = first if room else self.model.highest(new)
        assert address == place * PAGE
        if not room:
            self.model.unmap(first, old)
        self.model.map(place, new, page)

    @invariant()
    def is_the_same(self) -> None:
        pages = {}
        for vma in self.mm.tree:
            file = vma.file.path if vma.file else ""
            for nth in range(vma.pages):
                flags = vma.flags
                pages[vma.start // PAGE + nth] = Page(
                    flags & 7,
                    bool(flags & vf.VM_SHARED),
                    file,
                    vma.pgoff + nth,
                    bool(flags & vf.VM_LOCKED),
                    not flags & vf.VM_NORESERVE,
                    bool(flags & vf.VM_ACCOUNT),
                    str(vma.policy or ""),
                    bool(flags & vf.VM_SEQ_READ),
                    bool(flags & vf.VM_NOHUGEPAGE),
                )
        assert pages == self.model.pages
        found = [(vma.start // PAGE, vma.end // PAGE) for vma in self.mm.tree]
        assert found == self.model.areas()

    @invariant()
    def is_counted(self) -> None:
        pages = self.model.pages.values()
        counters = self.mm.counters
        assert counters.total_vm == len(pages)
        assert counters.locked_vm == sum(page.locked for page in pages)
        assert counters.data_vm == sum(page.prot & 2 == 2 and not page.shared for page in pages)
        assert counters.exec_vm == sum(page.prot & 6 == 4 for page in pages)
        assert self.mm.committed.pages == sum(page.promised for page in pages)
        assert self.file.mappings == sum(vma.file is self.file for vma in self.mm.tree)

    @invariant()
    def a_child_has_the_same(self) -> None:
        before = self.mm.committed.pages
        child = dup_mm(self.mm)
        locked = vf.VM_LOCKED_MASK
        mine = [(vma.start, vma.end, vma.flags & ~locked, vma.pgoff, vma.policy) for vma in self.mm.tree]
        assert [(vma.start, vma.end, vma.flags, vma.pgoff, vma.policy) for vma in child.tree] == mine
        assert child.counters.locked_vm == 0
        exit_mmap(child)
        assert len(child.tree) == child.counters.total_vm == 0
        assert self.mm.committed.pages == before


@pytest.mark.parametrize("profile", [LINUX_3_0, LINUX_6_1, LINUX_6_12], ids=lambda profile: profile.name)
def test_calls_at_random(profile: Profile) -> None:
    chosen = settings(
        max_examples=60,
        stateful_step_count=60,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(type("Of", (Calls,), {"profile": profile}), settings=chosen)
