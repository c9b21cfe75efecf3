"""VMAs once there are pages, stacks and children; where mappings lie; what kernels differ in."""

from __future__ import annotations

import pytest
from mm.mmap.spaces import HEAP, HERE, PAGE, place, runs, space

from numa_service.mm.mmap.anon_vma import anon_vma_prepare
from numa_service.mm.mmap.attributes import set_anon_name
from numa_service.mm.mmap.brk import brk
from numa_service.mm.mmap.errnos import Errno
from numa_service.mm.mmap.fork import dup_mm
from numa_service.mm.mmap.limits import RLIM_INFINITY, Limits
from numa_service.mm.mmap.madvise import MADV_DONTFORK, MADV_NORMAL, MADV_SEQUENTIAL, MADV_WIPEONFORK, madvise
from numa_service.mm.mmap.mm_struct import MmStruct
from numa_service.mm.mmap.mmap import MAP_ANONYMOUS, MAP_PRIVATE, MAP_SHARED, mmap
from numa_service.mm.mmap.mprotect import mprotect
from numa_service.mm.mmap.mremap import MREMAP_DONTUNMAP, MREMAP_FIXED, MREMAP_MAYMOVE, mremap
from numa_service.mm.mmap.munmap import exit_mmap, munmap
from numa_service.mm.mmap.rules import I386_PAE, X86_64, mmap_base
from numa_service.mm.mmap.stack import expand_stack
from numa_service.mm.mmap.vma import DEV_ZERO, AnonVma, File, Vma
from numa_service.mm.profile import LINUX_3_0, LINUX_6_1, LINUX_6_12, Profile, profile_named
from numa_service.procfs.pid_maps import maps

NEWEST = profile_named("linux-6.19")
ANON = MAP_PRIVATE | MAP_ANONYMOUS


def vma_at(mm: MmStruct, page: int) -> Vma:
    found = mm.tree.lookup(HERE + page * PAGE)
    assert found is not None
    return found


def touch(mm: MmStruct, page: int) -> AnonVma:
    vma = vma_at(mm, page)
    anon_vma_prepare(mm.tree, vma)
    assert vma.anon_vma is not None
    return vma.anon_vma


@pytest.mark.parametrize(("profile", "expected"), [(LINUX_6_1, [(0, 2), (2, 4)]), (NEWEST, [(0, 4)])])
def test_touched_memory_joins_an_untouched_neighbour_in_new_kernels(
    profile: Profile, expected: list[tuple[int, int]]
) -> None:
    mm = space(profile)
    place(mm, 0, 4)
    madvise(mm, HERE + 2 * PAGE, 2 * PAGE, MADV_SEQUENTIAL, [])
    touch(mm, 2)
    madvise(mm, HERE + 2 * PAGE, 2 * PAGE, MADV_NORMAL, [])
    assert runs(mm) == expected


def test_neighbours_that_differ_in_protection_share_an_anon_vma() -> None:
    mm = space()
    place(mm, 0, 6)
    mprotect(mm, HERE + 2 * PAGE, 2 * PAGE, 1, [])
    first = touch(mm, 0)
    assert touch(mm, 2) is first
    assert touch(mm, 5) is first
    mprotect(mm, HERE + 2 * PAGE, 2 * PAGE, 3, [])
    assert runs(mm) == [(0, 6)]
    assert (first.active, len(first.vmas)) == (1, 1)


@pytest.mark.parametrize(
    ("profile", "expected"),
    [(LINUX_3_0, [(0, 4), (4, 6)]), (LINUX_6_1, [(0, 2), (2, 6)]), (LINUX_6_12, [(0, 4), (4, 6)])],
)
def test_areas_touched_apart_stay_apart(profile: Profile, expected: list[tuple[int, int]]) -> None:
    """What is mapped between the two joins one of them: they have pages of different anon_vmas."""
    mm = space(profile)
    place(mm, 0, 2)
    place(mm, 4, 2)
    assert touch(mm, 0) is not touch(mm, 4)
    place(mm, 2, 2)
    assert runs(mm) == expected


def test_a_mapping_closes_a_gap_in_front_of_touched_memory() -> None:
    for profile, expected in ((LINUX_3_0, [(0, 6)]), (LINUX_6_1, [(0, 2), (2, 6)]), (LINUX_6_12, [(0, 6)])):
        mm = space(profile)
        place(mm, 0, 2)
        place(mm, 4, 2)
        touch(mm, 4)
        place(mm, 2, 2)
        assert runs(mm) == expected, profile.name


def test_a_child_shares_and_has_its_own() -> None:
    mm = space()
    place(mm, 0, 2)
    place(mm, 8, 2)
    own = touch(mm, 0)
    child = dup_mm(mm)
    copy = vma_at(child, 0)
    assert copy.anon_vma is not own
    assert copy.chain == (own, copy.anon_vma)
    assert own.children == 2  # itself and the child's
    assert vma_at(child, 8).chain == ()
    # a VMA with pages of its parent's is not joined with new memory
    place(child, 2, 2)
    assert runs(child) == [(0, 2), (2, 4), (8, 10)]
    place(mm, 2, 2)
    assert runs(mm) == [(0, 4), (8, 10)]
    # a grandchild has its grandparent's anon_vma for its own, once that has no VMA of its own
    munmap(mm, HERE, 4 * PAGE)
    exit_mmap(mm)
    assert own.active == 0
    grandchild = dup_mm(child)
    assert vma_at(grandchild, 0).anon_vma in vma_at(grandchild, 0).chain
    exit_mmap(child)
    exit_mmap(grandchild)
    assert (len(own.vmas), own.active) == (0, 0)


def test_what_was_advised_about_children() -> None:
    mm = space()
    place(mm, 0, 6)
    touch(mm, 0)
    madvise(mm, HERE, 2 * PAGE, MADV_DONTFORK, [])
    madvise(mm, HERE + 4 * PAGE, 2 * PAGE, MADV_WIPEONFORK, [])
    child = dup_mm(mm)
    assert runs(child) == [(2, 4), (4, 6)]
    assert vma_at(child, 2).anon_vma is not None
    assert vma_at(child, 4).anon_vma is None


def test_the_stack_grows_to_the_page_and_keeps_away() -> None:
    mm = space()
    low = X86_64.stack_top - 3 * PAGE
    assert expand_stack(mm, low - 40 * PAGE + 8).start == low - 40 * PAGE
    assert mm.counters.stack_vm == 43
    near = low - 300 * PAGE
    mmap(mm, near - PAGE, PAGE, 3, ANON | 0x10)
    assert expand_stack(mm, near + 256 * PAGE).pages == 303 - 256
    with pytest.raises(Errno, match="ENOMEM"):
        expand_stack(mm, near + 255 * PAGE)
    # what cannot be accessed may be as near as it likes
    mprotect(mm, near - PAGE, PAGE, 0, [])
    assert expand_stack(mm, near + 2 * PAGE).start == near + 2 * PAGE


def test_nothing_is_mapped_into_the_guard_gap() -> None:
    mm = space(limits=Limits(stack=RLIM_INFINITY))
    low = X86_64.stack_top - 3 * PAGE
    # asked for within it: the hint is not followed
    inside, _ = mmap(mm, low - 200 * PAGE, PAGE, 3, ANON)
    assert inside == mm.mmap_base - PAGE
    outside, _ = mmap(mm, low - 300 * PAGE, PAGE, 3, ANON)
    assert outside == low - 300 * PAGE


def test_where_mmap_begins() -> None:
    assert mmap_base(X86_64, 8 << 20) == 0x7FFF_F7FF_F000  # norandmaps: as captured
    assert mmap_base(X86_64, 1 << 30) == X86_64.task_size - (1 << 30) - (1 << 20)
    assert mmap_base(X86_64, RLIM_INFINITY) == (X86_64.task_size - X86_64.task_size // 6 * 5 + 4095) & ~4095
    assert mmap_base(I386_PAE, 8 << 20) == 0xB800_0000
    assert mmap_base(X86_64, 8 << 20, legacy=True) == 0x2AAA_AAAA_B000


def test_room_above_where_mmap_begins_is_the_last() -> None:
    mm = space(layout=I386_PAE)
    everything = mm.mmap_base - (1 << 20)
    mmap(mm, 1 << 20, HEAP - PAGE - (1 << 20), 0, ANON)
    mmap(mm, HEAP + 4 * PAGE, everything - HEAP - 4 * PAGE + (1 << 20), 0, ANON | 0x10)
    mmap(mm, 65536, HEAP - PAGE - 65536, 0, ANON | 0x10)
    assert mmap(mm, 0, PAGE, 3, ANON)[0] == mm.mmap_base


def test_large_mappings_are_aligned_where_kernels_do() -> None:
    huge = 2 << 20
    for profile, whole, odd in (
        (LINUX_6_1, False, False),
        (profile_named("linux-6.8"), True, True),
        (LINUX_6_12, True, False),
    ):
        mm = space(profile)
        mmap(mm, 0, PAGE, 3, ANON)
        assert (mmap(mm, 0, 2 * huge, 3, ANON)[0] % huge == 0) is whole, profile.name
        assert (mmap(mm, 0, huge + PAGE, 3, ANON)[0] % huge == 0) is odd, profile.name
    mm = space(LINUX_6_12, layout=I386_PAE)
    mmap(mm, 0, PAGE, 3, ANON)
    assert mmap(mm, 0, 2 * huge, 3, ANON)[0] % huge


def test_the_heap_and_what_is_before_it() -> None:
    """.bss ends where the heap begins; from 6.1 on brk() does not look at it."""
    for profile, merged in ((LINUX_3_0, True), (LINUX_6_1, False)):
        mm = space(profile)
        munmap(mm, HEAP, 4 * PAGE)
        mm.brk = HEAP
        brk(mm, HEAP + 5 * PAGE)
        heap = mm.tree.lookup(HEAP)
        assert heap is not None
        assert (heap.start == HEAP - PAGE) is merged
        assert brk(mm, HEAP - PAGE)[0] == HEAP + 5 * PAGE
        assert brk(mm, HEAP + 2 * PAGE + 3)[0] == HEAP + 2 * PAGE + 3
        assert heap.end == HEAP + 3 * PAGE
    mm.limits = Limits(data=4 * PAGE)
    assert brk(mm, HEAP + 5 * PAGE)[0] == HEAP + 2 * PAGE + 3


def test_a_mapping_behind_the_heap_stops_it() -> None:
    mm = space()
    mmap(mm, HEAP + 8 * PAGE, PAGE, 3, ANON | 0x10)
    assert brk(mm, HEAP + 8 * PAGE)[0] == HEAP + 4 * PAGE
    assert brk(mm, HEAP + 7 * PAGE)[0] == HEAP + 7 * PAGE


def test_pages_move_with_their_numbers() -> None:
    mm = space()
    place(mm, 0, 4)
    touch(mm, 0)
    place(mm, 4, 1, prot=0)
    address, _ = mremap(mm, HERE, 4 * PAGE, 8 * PAGE, MREMAP_MAYMOVE)
    moved = mm.tree.lookup(address)
    assert moved is not None
    assert (moved.pgoff, moved.pages) == (HERE // PAGE, 8)
    back, _ = mremap(mm, address, 8 * PAGE, 8 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, HERE + 8 * PAGE)
    assert (back - HERE) // PAGE == 8
    assert vma_at(mm, 8).pgoff == HERE // PAGE


def test_a_mapping_is_left_empty() -> None:
    mm = space()
    place(mm, 0, 4)
    old = touch(mm, 0)
    flags = MREMAP_MAYMOVE | MREMAP_DONTUNMAP
    address, effects = mremap(mm, HERE, 4 * PAGE, 4 * PAGE, flags)
    moved = mm.tree.lookup(address)
    assert moved is not None
    assert moved.anon_vma is old
    assert vma_at(mm, 0).anon_vma is None
    assert mm.committed.pages == 16
    assert len(effects) == 1


def test_grown_memory_joins_what_is_behind_it() -> None:
    for profile, expected in ((profile_named("linux-5.15"), [(0, 4), (4, 6)]), (LINUX_6_1, [(0, 6)])):
        mm = space(profile)
        place(mm, 0, 6)
        munmap(mm, HERE + 2 * PAGE, 2 * PAGE)
        mremap(mm, HERE, 2 * PAGE, 4 * PAGE, 0)
        assert runs(mm) == expected, profile.name


def test_a_failed_mapping_over_another_leaves_it_in_new_kernels() -> None:
    for profile, left in ((LINUX_6_1, []), (LINUX_6_12, [(0, 4)])):
        mm = space(profile)
        place(mm, 0, 4)
        mm.committed.total_ram = 2
        with pytest.raises(Errno, match="ENOMEM"):
            place(mm, 0, 8)
        assert runs(mm) == left, profile.name
        assert mm.committed.pages == 8 + 4 * len(left)


def test_shared_memory_is_promised_until_nobody_maps_it() -> None:
    mm = space()
    before = mm.committed.pages
    file = File(DEV_ZERO, 0, 1, 5, shmem=True)
    address, _ = mmap(mm, 0, 8 * PAGE, 3, MAP_SHARED | MAP_ANONYMOUS, file)
    child = dup_mm(mm)
    assert mm.committed.pages == 2 * before + 8
    exit_mmap(child)
    munmap(mm, address, 7 * PAGE)
    assert mm.committed.pages == before + 8
    munmap(mm, address + 7 * PAGE, PAGE)
    assert mm.committed.pages == before


def test_names_are_seen_and_keep_areas_apart() -> None:
    mm = space(LINUX_6_12)
    place(mm, 0, 4)
    set_anon_name(mm, HERE + PAGE, PAGE, "pool")
    assert runs(mm) == [(0, 1), (1, 2), (2, 4)]
    lines = [line for line in maps(mm).splitlines() if line.startswith("1000000")]
    assert lines[1] == "100000001000-100000002000 rw-p 00000000 00:00 0".ljust(73) + "[anon:pool]"
    set_anon_name(mm, HERE + PAGE, PAGE, None)
    assert runs(mm) == [(0, 4)]


def test_addresses_of_32_bits_are_written_short() -> None:
    mm = space(layout=I386_PAE)
    assert maps(mm).splitlines()[-1] == "bfffd000-c0000000 rw-p 00000000 00:00 0".ljust(49) + "[stack]"
