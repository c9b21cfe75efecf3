"""Processes that map, touch, fork and unmap huge pages at random: none is lost, and no promise is left."""

from __future__ import annotations

import random

import pytest
from mm.mmap.huge_pool import Pool
from mm.mmap.inhabited import process
from mm.mmap.spaces import HERE

from numa_service.mm.mmap.carry_out import carry_out, exit_process, fork
from numa_service.mm.mmap.errnos import Errno
from numa_service.mm.mmap.fault import touch
from numa_service.mm.mmap.frames import AddressSpace
from numa_service.mm.mmap.hugetlb import ANON_HUGEPAGE, MAP_HUGETLB, hugetlb_usage
from numa_service.mm.mmap.madvise import MADV_DONTNEED, madvise
from numa_service.mm.mmap.mmap import (
    MAP_ANONYMOUS,
    MAP_FIXED_NOREPLACE,
    MAP_NORESERVE,
    MAP_PRIVATE,
    MAP_SHARED,
    mmap,
)
from numa_service.mm.mmap.munmap import munmap
from numa_service.mm.mmap.pgtables import Unlimited
from numa_service.mm.mmap.process import Process
from numa_service.mm.mmap.vma import File
from numa_service.mm.profile import LINUX_6_1, LINUX_6_12, Profile

HUGE = 2 << 20


def check(pool: Pool, processes: list[Process]) -> None:
    """Pages in use are those that are mapped or of a file, and promises are kept by free pages."""
    mapped = [entry >> 8 for one in processes for entry in one.mm.tree.huge_entries.values()]
    frames = processes[0].frames
    assert all(frames.mapcount[pfn] == mapped.count(pfn) for pfn in mapped)
    files = {id(vma.file): vma.file for one in processes for vma in one.mm.tree if vma.file is not None}
    cached = [
        pfn
        for file in files.values()
        if file.huge is not None and isinstance(file.pages, AddressSpace)
        for pfn in file.pages.all().tolist()
    ]
    total, free, resv, surplus = pool.counts
    assert total - free == len({*mapped, *cached})
    assert 0 <= resv <= free
    assert 0 <= surplus <= total
    for one in processes:
        assert hugetlb_usage(one.mm.tree) == 512 * len(one.mm.tree.huge_entries)


def step(rng: random.Random, processes: list[Process]) -> None:
    """One call of one of them, which may be refused."""
    one = rng.choice(processes)
    at, pages = HERE + rng.randrange(12) * HUGE, rng.randint(1, 4)
    effects = []
    match rng.randrange(7):
        case 0 | 1:
            flags = rng.choice([MAP_PRIVATE, MAP_SHARED]) | MAP_ANONYMOUS | MAP_HUGETLB | MAP_FIXED_NOREPLACE
            flags |= rng.choice([0, 0, MAP_NORESERVE])
            file = File(ANON_HUGEPAGE, 0, 15, 1, unlinked=True)
            effects = mmap(one.mm, at, pages * HUGE, 3, flags, file)[1]
        case 2 | 3 | 4:
            touch(one, at, at + rng.randint(1, pages) * HUGE, write=rng.random() < 0.7)
        case 5:
            effects = munmap(one.mm, at, pages * HUGE)
        case 6:
            madvise(one.mm, at, pages * HUGE, MADV_DONTNEED, effects)
    carry_out(one, effects, processes)


@pytest.mark.parametrize("profile", [LINUX_6_1, LINUX_6_12], ids=lambda one: one.name)
@pytest.mark.parametrize("seed", range(12))
def test_no_huge_page_and_no_promise_is_lost(seed: int, profile: Profile) -> None:
    rng, pool = random.Random(seed), Pool()
    pool.set_max_huge_pages(rng.randint(2, 9))
    pool.overcommit = rng.choice([0, 0, 3])
    first = process(profile)
    first.mm.huge_pools = {pool.shift: pool}
    processes, refused = [first], 0
    for _ in range(150):
        if len(processes) < 3 and rng.random() < 0.05:
            processes.append(fork(rng.choice(processes), Unlimited()))
        elif len(processes) > 1 and rng.random() < 0.03:
            exit_process(processes.pop(rng.randrange(len(processes))))
        else:
            try:
                step(rng, processes)
            except Errno as error:
                refused += 1
                carry_out(processes[0], error.effects, processes)
        check(pool, processes)
    assert 0 < refused < 150
    for one in processes:
        exit_process(one)
    total, free, resv, surplus = pool.counts
    assert (total - surplus, resv) == (free, 0)
    assert not surplus
