"""What calls are refused with: manual pages and kernels' sources, call by call. Nothing is changed by it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from mm.mmap.spaces import HEAP, HERE, PAGE, TEXT, place, space

from numa_service.mm.mmap.attributes import mbind_range, set_anon_name
from numa_service.mm.mmap.brk import brk
from numa_service.mm.mmap.errnos import Errno
from numa_service.mm.mmap.fork import dup_mm
from numa_service.mm.mmap.limits import OVERCOMMIT_NEVER, Committed, Limits
from numa_service.mm.mmap.madvise import madvise
from numa_service.mm.mmap.mlock import mlock, mlockall
from numa_service.mm.mmap.mm_struct import MmStruct
from numa_service.mm.mmap.mmap import mmap
from numa_service.mm.mmap.mprotect import mprotect
from numa_service.mm.mmap.mremap import mremap
from numa_service.mm.mmap.munmap import munmap
from numa_service.mm.mmap.rules import X86_64
from numa_service.mm.mmap.stack import expand_stack
from numa_service.mm.mmap.vma import File
from numa_service.mm.profile import LINUX_3_0, LINUX_6_1, Profile
from numa_service.procfs.pid_maps import maps

PRIVATE, SHARED, ANON, FIXED, NOREPLACE = 2, 1, 0x20, 0x10, 0x100000
LOCKED = 0x2000
TOP = X86_64.task_size
#: Memory from HERE on: pages 0 to 3 writable, 4 and 5 read-only, 8 and 9 writable.
Call = Callable[[MmStruct], object]

READ_ONLY = File("/ro", 8, 1, 1, writable=False)
WRITE_ONLY = File("/wo", 8, 1, 2, readable=False)
FILE = File("/f", 8, 1, 3)

CALLS: dict[str, tuple[str, Call]] = {
    "mmap no length": ("EINVAL", lambda mm: mmap(mm, 0, 0, 3, PRIVATE | ANON)),
    "mmap offset": ("EINVAL", lambda mm: mmap(mm, 0, PAGE, 3, PRIVATE, FILE, 5)),
    "mmap no file": ("EBADF", lambda mm: mmap(mm, 0, PAGE, 3, PRIVATE)),
    "mmap neither": ("EINVAL", lambda mm: mmap(mm, 0, PAGE, 3, ANON)),
    "mmap file neither": ("EINVAL", lambda mm: mmap(mm, 0, PAGE, 3, 0, FILE)),
    "mmap all addresses": ("ENOMEM", lambda mm: mmap(mm, 0, TOP + PAGE, 3, PRIVATE | ANON)),
    "mmap no room": ("ENOMEM", lambda mm: mmap(mm, 0, TOP - 64 * PAGE, 0, PRIVATE | ANON)),
    "mmap length wraps": ("ENOMEM", lambda mm: mmap(mm, 0, (1 << 64) - 1, 3, PRIVATE | ANON)),
    "mmap offset wraps": ("EOVERFLOW", lambda mm: mmap(mm, 0, PAGE, 3, PRIVATE, FILE, (1 << 76) - PAGE)),
    "mmap fixed odd": ("EINVAL", lambda mm: mmap(mm, HERE + 5, PAGE, 3, PRIVATE | ANON | FIXED)),
    "mmap fixed low": ("EPERM", lambda mm: mmap(mm, 0, PAGE, 3, PRIVATE | ANON | FIXED)),
    "mmap fixed beyond": ("ENOMEM", lambda mm: mmap(mm, TOP, PAGE, 3, PRIVATE | ANON | FIXED)),
    "mmap noreplace": ("EEXIST", lambda mm: mmap(mm, HERE - PAGE, 2 * PAGE, 3, PRIVATE | ANON | NOREPLACE)),
    "mmap shared read-only": ("EACCES", lambda mm: mmap(mm, 0, PAGE, 3, SHARED, READ_ONLY)),
    "mmap write-only": ("EACCES", lambda mm: mmap(mm, 0, PAGE, 1, PRIVATE, WRITE_ONLY)),
    "mmap validate": ("EOPNOTSUPP", lambda mm: mmap(mm, 0, PAGE, 1, 3 | 0x80000, FILE)),
    "mmap locked": ("EAGAIN", lambda mm: mmap(mm, 0, 64 * PAGE, 3, PRIVATE | ANON | LOCKED)),
    "mmap limit": ("ENOMEM", lambda mm: mmap(mm, 0, 4096 * PAGE, 1, PRIVATE | ANON)),
    "mmap data limit": ("ENOMEM", lambda mm: mmap(mm, 0, 600 * PAGE, 3, PRIVATE | ANON)),
    "munmap odd": ("EINVAL", lambda mm: munmap(mm, HERE + 1, PAGE)),
    "munmap no length": ("EINVAL", lambda mm: munmap(mm, HERE, 0)),
    "munmap beyond": ("EINVAL", lambda mm: munmap(mm, TOP - PAGE, 2 * PAGE)),
    "mprotect odd": ("EINVAL", lambda mm: mprotect(mm, HERE + 1, PAGE, 1, [])),
    "mprotect unknown": ("EINVAL", lambda mm: mprotect(mm, HERE, PAGE, 0x40, [])),
    "mprotect hole": ("ENOMEM", lambda mm: mprotect(mm, HERE + 6 * PAGE, PAGE, 1, [])),
    "mprotect wraps": ("ENOMEM", lambda mm: mprotect(mm, HERE, (1 << 64) - PAGE, 1, [])),
    "mprotect both": ("EINVAL", lambda mm: mprotect(mm, HERE, PAGE, 1 | 0x3000000, [])),
    "mprotect no stack": ("EINVAL", lambda mm: mprotect(mm, HERE, PAGE, 1 | 0x1000000, [])),
    "mprotect shared file": ("EACCES", lambda mm: mprotect(mm, HERE + 16 * PAGE, PAGE, 3, [])),
    "mremap flags": ("EINVAL", lambda mm: mremap(mm, HERE, PAGE, PAGE, 8)),
    "mremap fixed only": ("EINVAL", lambda mm: mremap(mm, HERE, PAGE, PAGE, 2, TEXT)),
    "mremap odd": ("EINVAL", lambda mm: mremap(mm, HERE + 1, PAGE, PAGE, 1)),
    "mremap no length": ("EINVAL", lambda mm: mremap(mm, HERE, PAGE, 0, 1)),
    "mremap hole": ("EFAULT", lambda mm: mremap(mm, HERE + 6 * PAGE, PAGE, PAGE, 1)),
    "mremap two": ("EFAULT", lambda mm: mremap(mm, HERE + 2 * PAGE, 4 * PAGE, 5 * PAGE, 1)),
    "mremap overlap": ("EINVAL", lambda mm: mremap(mm, HERE, 2 * PAGE, 2 * PAGE, 3, HERE + PAGE)),
    "mremap to odd": ("EINVAL", lambda mm: mremap(mm, HERE, PAGE, PAGE, 3, HERE + PAGE + 1)),
    "mremap to beyond": ("EINVAL", lambda mm: mremap(mm, HERE, PAGE, PAGE, 3, TOP)),
    "mremap no old": ("EINVAL", lambda mm: mremap(mm, HERE, 0, PAGE, 1)),
    "mremap stay": ("ENOMEM", lambda mm: mremap(mm, HERE, 4 * PAGE, 5 * PAGE, 0)),
    "mremap dontunmap length": ("EINVAL", lambda mm: mremap(mm, HERE, PAGE, 2 * PAGE, 5)),
    "madvise unknown": ("EINVAL", lambda mm: madvise(mm, HERE, PAGE, 77, [])),
    "madvise odd": ("EINVAL", lambda mm: madvise(mm, HERE + 1, PAGE, 0, [])),
    "madvise wraps": ("EINVAL", lambda mm: madvise(mm, HERE, (1 << 64) - 1, 0, [])),
    "madvise hole": ("ENOMEM", lambda mm: madvise(mm, HERE + 6 * PAGE, PAGE, 2, [])),
    "madvise free of file": ("EINVAL", lambda mm: madvise(mm, TEXT, PAGE, 8, [])),
    "madvise remove private": ("EINVAL", lambda mm: madvise(mm, HERE, PAGE, 9, [])),
    "madvise remove read-only": ("EACCES", lambda mm: madvise(mm, HERE + 16 * PAGE, PAGE, 9, [])),
    "madvise wipe file": ("EINVAL", lambda mm: madvise(mm, TEXT, PAGE, 18, [])),
    "mlock hole": ("ENOMEM", lambda mm: mlock(mm, HERE + 6 * PAGE, PAGE)),
    "mlock limit": ("ENOMEM", lambda mm: mlock(mm, HERE, 17 * PAGE)),
    "mlock2 flags": ("EINVAL", lambda mm: mlock(mm, HERE, PAGE, 2)),
    "mlockall none": ("EINVAL", lambda mm: mlockall(mm, 0)),
    "mlockall onfault": ("EINVAL", lambda mm: mlockall(mm, 4)),
    "mlockall limit": ("ENOMEM", lambda mm: mlockall(mm, 1)),
    "mbind odd": ("EINVAL", lambda mm: mbind_range(mm, HERE + 1, PAGE, "bind")),
    "mbind hole": ("EFAULT", lambda mm: mbind_range(mm, HERE, 7 * PAGE, "bind")),
    "name of file": ("EBADF", lambda mm: set_anon_name(mm, TEXT, PAGE, "a")),
    "name of hole": ("ENOMEM", lambda mm: set_anon_name(mm, HERE + 6 * PAGE, PAGE, "a")),
    "stack none": ("EFAULT", lambda mm: expand_stack(mm, HEAP - 9 * PAGE)),
    "stack limit": ("ENOMEM", lambda mm: expand_stack(mm, TOP - (9 << 20))),
}


def busy(profile: Profile = LINUX_6_1) -> MmStruct:
    limits = Limits(memlock=16 * PAGE, address_space=1200 * PAGE, data=500 * PAGE)
    mm = space(profile, limits)
    place(mm, 0, 4)
    place(mm, 4, 2, prot=1)
    place(mm, 8, 2)
    mmap(mm, HERE + 16 * PAGE, PAGE, 1, SHARED | FIXED, READ_ONLY)
    return mm


@pytest.mark.parametrize("name", CALLS)
def test_a_call_is_refused(name: str) -> None:
    expected, call = CALLS[name]
    mm = busy()
    if name == "mmap no room":
        mm.limits = Limits()
    before, counters, promised = maps(mm), str(mm.counters), mm.committed.pages
    with pytest.raises(Errno) as caught:
        call(mm)
    assert caught.value.name == expected
    assert (maps(mm), str(mm.counters), mm.committed.pages) == (before, counters, promised)


def test_the_task_may_not_lock() -> None:
    mm = space(limits=Limits(memlock=0))
    place(mm, 0, 4)
    for call in (
        lambda: mlock(mm, HERE, PAGE),
        lambda: mlockall(mm, 3),
        lambda: mmap(mm, 0, PAGE, 3, PRIVATE | ANON | LOCKED),
    ):
        with pytest.raises(Errno, match="EPERM"):
            call()
    mm.limits = Limits(memlock=0, cap_ipc_lock=True)
    mlock(mm, HERE, PAGE)
    assert mm.counters.locked_vm == 1


def test_what_is_before_a_hole_is_changed() -> None:
    mm = busy()
    with pytest.raises(Errno, match="ENOMEM"):
        mprotect(mm, HERE, 10 * PAGE, 0, [])
    allowed = {line.split()[1] for line in maps(mm).splitlines() if line.startswith("10000000")}
    assert allowed == {"---p", "rw-p"}
    with pytest.raises(Errno, match="ENOMEM"):
        madvise(mm, HERE, 10 * PAGE, 2, [])
    sequential = [vma for vma in mm.tree.intersecting(HERE, HERE + 10 * PAGE) if vma.flags & 0x8000]
    assert sum(vma.pages for vma in sequential) == 8


def test_there_are_no_more_vmas_than_max_map_count() -> None:
    mm = space(limits=Limits(max_map_count=6))
    place(mm, 0, 9)
    assert mm.map_count == 5
    place(mm, 20, 1)
    before = maps(mm)
    for call in (
        lambda: mprotect(mm, HERE + PAGE, PAGE, 1, []),
        lambda: munmap(mm, HERE + PAGE, PAGE),
        lambda: mlock(mm, HERE + PAGE, PAGE),
    ):
        with pytest.raises(Errno, match="ENOMEM"):
            call()
    with pytest.raises(Errno, match="EAGAIN"):
        madvise(mm, HERE + PAGE, PAGE, 2, [])
    assert maps(mm) == before
    munmap(mm, HERE, PAGE)  # nothing is cut in three
    place(mm, 30, 1)
    with pytest.raises(Errno, match="ENOMEM"):
        place(mm, 40, 1)


def test_memory_is_promised_up_to_the_limit() -> None:
    committed = Committed(total_ram=200, total_swap=20, mode=OVERCOMMIT_NEVER, admin_reserve_kbytes=40)
    mm = space(committed=committed)
    assert committed.limit() == 120
    assert committed.pages == 8
    # less the reserves: 10 pages for administrators, and a part of what the process has
    place(mm, 0, 100)
    with pytest.raises(Errno, match="ENOMEM"):
        place(mm, 200, 3)
    with pytest.raises(Errno, match="ENOMEM"):
        dup_mm(mm)
    assert brk(mm, mm.brk + 3 * PAGE) == (mm.brk, [])
    assert committed.pages == 108
    place(mm, 200, 900, prot=1)
    with pytest.raises(Errno, match="ENOMEM"):
        mprotect(mm, HERE + 200 * PAGE, 900 * PAGE, 3, [])
    assert committed.pages == 108
    munmap(mm, HERE, 100 * PAGE)
    assert committed.pages == 8


def test_a_guess_refuses_what_there_is_not() -> None:
    committed = Committed(total_ram=200, total_swap=20)
    place(space(committed=committed), 0, 220)
    place(space(committed=committed), 0, 220)
    with pytest.raises(Errno, match="ENOMEM"):
        place(space(committed=committed), 0, 221)


def test_old_kernels_do_not_know_new_flags() -> None:
    mm = busy(LINUX_3_0)
    for call in (
        lambda: madvise(mm, HERE, PAGE, 8, []),
        lambda: mremap(mm, HERE, PAGE, PAGE, 5),
        lambda: mlockall(mm, 4),
    ):
        with pytest.raises(Errno, match="EINVAL"):
            call()
    with pytest.raises(Errno, match="ENOSYS"):
        mlock(mm, HERE, PAGE, 1)
    # an unknown flag of mmap() is ignored: the address is a hint, and taken
    assert mmap(mm, HERE, PAGE, 3, PRIVATE | ANON | NOREPLACE)[0] != HERE
