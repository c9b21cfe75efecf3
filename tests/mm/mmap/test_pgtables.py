"""Pages of page tables: which are there after faults, and that they go with the last VMA that needs them."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mm.mmap.spaces import HERE, PAGE, space

from numa_service.mm.mmap.effects import Zap
from numa_service.mm.mmap.fork import dup_mm, vma_needs_copy
from numa_service.mm.mmap.limits import Committed
from numa_service.mm.mmap.mm_struct import MmStruct
from numa_service.mm.mmap.mmap import MAP_ANONYMOUS, MAP_FIXED, MAP_PRIVATE, mmap
from numa_service.mm.mmap.mremap import MREMAP_FIXED, MREMAP_MAYMOVE, mremap
from numa_service.mm.mmap.munmap import exit_mmap, munmap
from numa_service.mm.mmap.pgtables import PageTables, Unlimited
from numa_service.mm.mmap.rules import I386, I386_PAE, X86_64, UserLayout, rules_of
from numa_service.mm.profile import LINUX_6_1

HUGE = 2 << 20
FIXED = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED
#: Four pages a table of PTEs, and four tables each level above: every boundary is near.
SMALL = UserLayout(task_size=1 << 26, stack_top=1 << 26, level_shifts=(14, 16, 18), aligns_thp=False)


def test_levels_are_made_from_the_top() -> None:
    pages = Unlimited()
    tables = PageTables(X86_64, pages)
    assert (tables.counts(), pages.out) == ((0, 0, 0), 2)
    tables.fault(HERE)
    tables.fault(HERE + PAGE)
    assert tables.counts() == (1, 1, 1)
    tables.fault(HERE + HUGE)
    tables.fault(HERE + (1 << 30))
    tables.fault(HERE + (1 << 39))
    assert tables.counts() == (4, 3, 2)
    assert tables.pgtables_bytes() == 9 * 4096
    assert tables.nr_page_table_pages(counts_pud=False) == 7
    assert tables.nr_page_table_pages(counts_pud=True) == 9
    assert pages.out == 11


def test_i386_has_its_own_levels() -> None:
    pae = PageTables(I386_PAE, Unlimited())
    assert pae.counts() == (0, 4)
    two = PageTables(I386, Unlimited())
    for tables in (pae, two):
        tables.fault(0x1000_0000)
        tables.fault(0x1020_0000)
    assert pae.counts() == (2, 4)
    assert two.counts() == (1,)  # of 4 MiB
    for tables, layout in ((pae, I386_PAE), (two, I386)):
        mm = space(layout=layout)
        mmap(mm, 0x1000_0000, 8 << 20, 3, FIXED)
        tables.apply(munmap(mm, 0x1000_0000, 8 << 20))
        tables.release()


def test_a_huge_page_keeps_its_table_waiting() -> None:
    mm = space()
    mmap(mm, HERE, 4 * HUGE, 3, FIXED)
    tables = PageTables(X86_64, Unlimited())
    for nth in range(4):
        tables.fault(HERE + nth * HUGE, huge=True)
    tables.zap(HERE, HERE + HUGE)  # the whole huge page, and its table
    assert tables.counts()[0] == 3
    tables.zap(HERE + HUGE, HERE + HUGE + PAGE)  # a part: it gets PTEs
    assert not tables.is_huge(HERE + HUGE)
    tables.zap(HERE + HUGE, HERE + 2 * HUGE)  # which stay, empty
    assert tables.counts()[0] == 3
    tables.apply([Zap(HERE + 2 * HUGE, HERE + 4 * HUGE)])
    assert tables.counts() == (1, 1, 1)


def test_tables_move_whole_or_are_made_anew() -> None:
    mm = space()
    mmap(mm, HERE, 4 * HUGE, 3, FIXED)
    tables = PageTables(X86_64, Unlimited())
    for nth in range(4):
        tables.fault(HERE + nth * HUGE)
    there = HERE + (1 << 30)
    moved, effects = mremap(mm, HERE, 4 * HUGE, 4 * HUGE, MREMAP_MAYMOVE | MREMAP_FIXED, there)
    tables.apply(effects)
    assert moved == there
    assert tables.counts() == (4, 1, 1)
    odd = HERE + PAGE
    _, effects = mremap(mm, there, 4 * HUGE, 4 * HUGE, MREMAP_MAYMOVE | MREMAP_FIXED, odd)
    tables.apply(effects)
    assert tables.counts() == (5, 1, 1)
    tables.apply(exit_mmap(mm))
    tables.release()


def overlap(mm: MmStruct, index: int, shift: int) -> bool:
    return bool(mm.tree.intersecting(index << shift, (index + 1) << shift))


calls = st.lists(
    st.tuples(st.sampled_from(["map", "touch", "unmap"]), st.integers(16, 200), st.integers(1, 40)),
    max_size=40,
)


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(calls)
def test_tables_are_there_as_long_as_a_vma_needs_them(calls: list[tuple[str, int, int]]) -> None:
    """A table made by a fault goes when no VMA has an address in its range any more, and not before."""
    mm = MmStruct(SMALL, rules_of(LINUX_6_1), Committed(1 << 20))
    pages = Unlimited()
    tables = PageTables(SMALL, pages)
    expected: list[set[int]] = [set(), set(), set()]
    for what, first, count in calls:
        if what == "touch":
            if mm.tree.lookup(first * PAGE) is not None:
                tables.fault(first * PAGE)
                for level, shift in zip(expected, SMALL.level_shifts, strict=True):
                    level.add(first * PAGE >> shift)
        elif what == "map":
            # over what is there: it is unmapped before
            tables.apply(munmap(mm, first * PAGE, count * PAGE))
            for level, shift in zip(expected, SMALL.level_shifts, strict=True):
                level -= {index for index in level if not overlap(mm, index, shift)}
            mmap(mm, first * PAGE, count * PAGE, 3, FIXED)
        else:
            tables.apply(munmap(mm, first * PAGE, count * PAGE))
        for level, shift in zip(expected, SMALL.level_shifts, strict=True):
            level -= {index for index in level if not overlap(mm, index, shift)}
        assert tables.counts() == tuple(map(len, expected))
        assert all(tables.has_table(index << 14) for index in expected[0])
    child = PageTables(SMALL, pages)
    copied = dup_mm(mm)
    assert not any(vma_needs_copy(vma) for vma in mm.tree)
    for vma in mm.tree:
        tables.copy_to(child, vma.start, vma.end)
    assert child.counts() == tables.counts()
    for space_, its in ((mm, tables), (copied, child)):
        its.apply(exit_mmap(space_))
        its.release()
    assert pages.out == 0
