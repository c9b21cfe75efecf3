"""Faults one by one: how many, which pages they take, and what smaps, numa_maps and maps say of them."""

from __future__ import annotations

import numpy as np
import pytest
from mm.mmap.inhabited import check, process
from mm.mmap.spaces import HERE, PAGE, place

from numa_service.mm.mmap.carry_out import carry_out, exit_process, fork
from numa_service.mm.mmap.effects import Effect
from numa_service.mm.mmap.errnos import Errno
from numa_service.mm.mmap.fault import touch
from numa_service.mm.mmap.frames import ANON, FILE, SHMEM, AddressSpace, Numbered
from numa_service.mm.mmap.madvise import MADV_COLD, MADV_DONTNEED, MADV_FREE, madvise
from numa_service.mm.mmap.mlock import mlock
from numa_service.mm.mmap.mmap import MAP_ANONYMOUS, MAP_FIXED, MAP_NORESERVE, MAP_PRIVATE, MAP_SHARED, mmap
from numa_service.mm.mmap.mprotect import mprotect
from numa_service.mm.mmap.munmap import munmap
from numa_service.mm.mmap.pgtables import Unlimited
from numa_service.mm.mmap.process import Process
from numa_service.mm.mmap.rules import I386, I386_PAE, X86_64
from numa_service.mm.mmap.vma import DEV_ZERO, File, Vma
from numa_service.procfs.pid_smaps import numa_line, numa_maps, numbers, smaps, smaps_rollup
from numa_service.procfs.pid_status import statm, status_lines


def file_of(name: str = "/data") -> File:
    return File(name, 8, 1, 9, pages=AddressSpace(FILE), size=64)


def map_file(one: Process, file: File, first: int, count: int, *, shared: bool) -> int:
    flags = MAP_FIXED | (MAP_SHARED if shared else MAP_PRIVATE)
    return mmap(one.mm, HERE + first * PAGE, count * PAGE, 3, flags, file)[0]


def at(one: Process, page: int) -> Vma:
    vma = one.mm.tree.lookup(HERE + page * PAGE)
    assert vma is not None
    return vma


def go(one: Process, first: int, count: int, *, write: bool) -> int:
    return touch(one, HERE + first * PAGE, HERE + (first + count) * PAGE, write=write)


def test_reads_map_zeros_and_writes_take_pages() -> None:
    one = process()
    place(one.mm, 0, 64)
    assert go(one, 0, 64, write=False) == 64
    assert one.rss == [0, 0, 0]
    assert go(one, 0, 32, write=True) == 32
    assert one.rss[ANON] == 32
    assert go(one, 0, 64, write=False) == 0
    assert one.minflt == 96
    assert numbers(one, at(one, 0))["Rss"] == 128


def test_who_is_alone_with_a_page_writes_to_it() -> None:
    one = process()
    place(one.mm, 0, 16)
    go(one, 0, 16, write=True)
    source = one.frames.source
    assert isinstance(source, Numbered)
    child = fork(one, Unlimited())
    grandchild = fork(child, Unlimited())
    assert source.out == 16
    assert go(child, 0, 8, write=True) == 8
    assert source.out == 24
    assert go(one, 0, 4, write=True) == 4
    assert source.out == 28  # the grandchild has the old ones
    exit_process(grandchild)
    assert source.out == 24  # of four pages nobody is left
    assert go(one, 4, 4, write=True) == 4
    assert source.out == 24  # alone with them
    check([one, child])


def test_pages_of_a_file_come_around_a_fault() -> None:
    one, file = process(), file_of()
    map_file(one, file, 0, 64, shared=True)
    assert go(one, 20, 1, write=False) == 1
    # readahead has read 4 to 35; 16 to 31 are mapped, but for 28, which has the mark
    assert one.rss[FILE] == 15
    assert file.pages is not None
    assert len(file.pages.all()) == 32
    # so that one faults, and reads the next window
    assert go(one, 16, 16, write=False) == 1
    assert len(file.pages.all()) == 60
    assert numbers(one, at(one, 0))["Private_Clean"] == 64


def test_a_private_copy_leaves_the_file_alone() -> None:
    one, file = process(), file_of()
    map_file(one, file, 0, 32, shared=False)
    map_file(one, file, 100, 32, shared=True)
    go(one, 100, 32, write=True)
    assert go(one, 0, 8, write=False) == 1
    assert numbers(one, at(one, 0))["Shared_Dirty"] == 64
    go(one, 0, 4, write=True)
    found = numbers(one, at(one, 0))
    assert (found["Anonymous"], found["Private_Dirty"], found["Pss"]) == (16, 16, 40)
    line = numa_line(one, at(one, 0), "default")
    assert line.endswith("default file=/data anon=4 dirty=16 mapmax=2 N0=16 kernelpagesize_kB=4")


def test_what_may_not_be_touched() -> None:
    one = process()
    place(one.mm, 0, 4)
    place(one.mm, 4, 4, prot=1)
    place(one.mm, 8, 4, prot=0)
    with pytest.raises(Errno, match="EFAULT"):
        go(one, 0, 8, write=True)
    assert one.rss[ANON] == 4  # before the first that may not
    with pytest.raises(Errno, match="EFAULT"):
        go(one, 8, 1, write=False)
    assert go(one, 4, 4, write=False) == 4


def test_locked_memory_is_there() -> None:
    one = process()
    place(one.mm, 0, 8)
    carry_out(one, mlock(one.mm, HERE, 8 * PAGE))
    assert one.rss[ANON] == 8
    assert numbers(one, at(one, 0))["Locked"] == 32
    place(one.mm, 20, 8)
    carry_out(one, mlock(one.mm, HERE + 20 * PAGE, 8 * PAGE, 1))
    assert one.rss[ANON] == 8  # on fault only


def test_advice_about_pages() -> None:
    one = process()
    place(one.mm, 0, 8)
    go(one, 0, 8, write=True)
    effects: list[Effect] = []
    madvise(one.mm, HERE, 4 * PAGE, MADV_FREE, effects)
    madvise(one.mm, HERE + 4 * PAGE, 2 * PAGE, MADV_COLD, effects)
    carry_out(one, effects)
    found = numbers(one, at(one, 0))
    assert (found["LazyFree"], found["Referenced"], found["Private_Dirty"]) == (16, 8, 16)
    go(one, 0, 1, write=True)
    assert numbers(one, at(one, 0))["LazyFree"] == 12


def test_protection_is_taken_and_given_again() -> None:
    one = process()
    place(one.mm, 0, 4)
    go(one, 0, 4, write=True)
    for prot in (1, 3):
        effects: list[Effect] = []
        mprotect(one.mm, HERE, 4 * PAGE, prot, effects)
        carry_out(one, effects)
    assert one.rss[ANON] == 4
    assert go(one, 0, 4, write=False) == 0
    go(one, 0, 4, write=True)
    assert one.rss[ANON] == 4


def test_shared_memory_is_seen_by_children_and_goes_with_the_last() -> None:
    one = process()
    file = File(DEV_ZERO, 0, 1, 5, pages=AddressSpace(SHMEM), shmem=True, unlinked=True)
    mmap(one.mm, HERE, 8 * PAGE, 3, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, file)
    go(one, 0, 8, write=True)
    child = fork(one, Unlimited())
    assert child.rss == [0, 0, 0]
    assert go(child, 0, 8, write=False) == 1  # all are in memory: around one fault
    assert child.rss[SHMEM] == 8
    assert numbers(child, at(child, 0))["Pss"] == 16
    exit_process(one)
    assert numbers(child, at(child, 0))["Pss"] == 32
    source = child.frames.source
    assert isinstance(source, Numbered)
    exit_process(child)
    assert source.out == 0


@pytest.mark.parametrize("layout", [X86_64, I386_PAE, I386], ids=["x86_64", "pae", "i386"])
def test_every_architecture_has_its_tables(layout: object) -> None:
    one = process(layout=layout)  # type: ignore[arg-type]  # of the parameters
    address, _ = mmap(one.mm, 0x1000_0000, 3000 * PAGE, 3, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED)
    assert touch(one, address, address + 3000 * PAGE, write=True) == 3000
    entries = one.all_entries(address, address + 3000 * PAGE)
    assert len(np.unique(entries)) == 3000
    exit_process(one)


def test_the_files_of_a_process() -> None:
    one, file = process(), file_of()
    place(one.mm, 0, 4)
    go(one, 0, 4, write=True)
    map_file(one, file, 16, 8, shared=True)
    go(one, 16, 8, write=True)
    text = smaps(one)
    assert "Rss:                  16 kB\nPss:                  16 kB\n" in text
    assert text.count("VmFlags: ") == one.mm.map_count
    assert "100000000000 bind:0 anon=4 dirty=4 N0=4 kernelpagesize_kB=4\n" in numa_maps(
        one, lambda _: "bind:0"
    )
    rollup = smaps_rollup(one)
    assert rollup.startswith("00400000-7ffffffff000 ---p 00000000 00:00 0".ljust(73) + "[rollup]\n")
    assert "Pss_Anon:             16 kB\nPss_File:             32 kB\n" in rollup
    # the program's text, .bss with its heap and its stack of three pages, and what was mapped
    assert statm(one.mm, one.rss) == f"{9 + 4 + 8} 12 8 0 0 12 0\n"
    lines = status_lines(one.mm, one.tables, one.rss, one.hiwater_rss)
    assert "VmRSS:\t      48 kB" in lines
    carry_out(one, munmap(one.mm, HERE, 4 * PAGE))
    lines = status_lines(one.mm, one.tables, one.rss, one.hiwater_rss)
    assert {"VmHWM:\t      48 kB", "VmRSS:\t      32 kB", "RssFile:\t      32 kB"} <= set(lines)


def test_what_is_mapped_and_not_there_costs_nothing() -> None:
    """64 TiB, of which three pages are there."""
    one = process()
    many = 64 << 40
    address, _ = mmap(one.mm, 0, many, 3, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE)
    for offset in (0, many // 2, many - PAGE):
        touch(one, address + offset, address + offset + PAGE, write=True)
    child = fork(one, Unlimited())
    assert numbers(child, next(iter(child.mm.tree.intersecting(address, address + 1))))["Rss"] == 12
    effects: list[Effect] = []
    mprotect(one.mm, address, many, 1, effects)
    madvise(one.mm, address, many, MADV_DONTNEED, effects)
    carry_out(one, effects)
    assert one.rss[ANON] == 0
    exit_process(child)
    exit_process(one)


def test_numbers_of_what_pages_belong_to_are_not_kept() -> None:
    one = process()
    for _ in range(300):
        place(one.mm, 0, 1)
        go(one, 0, 1, write=True)
        carry_out(one, munmap(one.mm, HERE, PAGE))
    assert len(one.frames._owners) <= 65
