"""What an error of a page's memory does to the processes that map it (``mm/memory-failure.c``)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import numpy as np

from numa_service.mm.mmap.entries import DIRTY, HWPOISON
from numa_service.mm.mmap.frames import FILE, SHMEM, AddressSpace, Frames
from numa_service.mm.mmap.huge_memory import split_huge_page
from numa_service.mm.mmap.process import Process
from numa_service.mm.mmap.rmap import mappings
from numa_service.mm.mmap.rules import PAGE_SHIFT, PAGE_SIZE

#: prctl(PR_MCE_KILL): when a process learns of an error, at once or at its next access; or as
#: vm.memory_failure_early_kill says.
PR_MCE_KILL_LATE: Final = 0
PR_MCE_KILL_EARLY: Final = 1
PR_MCE_KILL_DEFAULT: Final = 2


def task_early_kill(mce_kill: int, early_kill: int) -> bool:
    """Whether a process is told of an error at once; `early_kill`: vm.memory_failure_early_kill."""
    if mce_kill == PR_MCE_KILL_DEFAULT:
        return bool(early_kill)
    return mce_kill == PR_MCE_KILL_EARLY


def in_use(frames: Frames, pfn: int) -> bool:
    """Whether a page is mapped, or one of a file that is in memory: others have no content yet."""
    return bool(frames.mapcount[pfn]) or cache_of(frames, pfn) is not None


def cache_of(frames: Frames, pfn: int) -> AddressSpace | None:
    """The file of which a page is in memory."""
    owner = frames._owners.get(int(frames.mapping[pfn]))
    if not isinstance(owner, AddressSpace):
        return None
    return owner if int(owner.find(frames.index[pfn : pfn + 1])[0]) == pfn else None


def hwpoison_user_mappings(
    processes: Sequence[Process], frames: Frames, pfn: int, *, shmem_keeps: bool
) -> list[Process]:
    """Take a page, whose content is lost, from all who map it: they get SIGBUS when they access it.

    The page has an owner no more: it goes back to its source. `shmem_keeps`: a page of shmem stays lost to
    who maps it later. Returned are those that are told at once if they want to be (collect_procs): nobody of
    a page that nobody has written to.
    """
    if frames.thp is not None and frames.thp.compound(np.array([pfn]))[0]:
        split_huge_page(frames, pfn & -frames.thp.nr)
    dirty = bool(frames.dirty[pfn])
    cache, number = cache_of(frames, pfn), int(frames.index[pfn])
    told: dict[Process, None] = {}
    mapped = list(mappings(processes, pfn)) if frames.mapcount[pfn] else []
    if cache is not None:
        told.update(dict.fromkeys(_covering(processes, cache, number)))
    for process, _, address in mapped:
        told[process] = None
        for _, part in process.chunks(address, address + PAGE_SIZE):
            dirty |= bool(part[0] & DIRTY)
            part[0] = HWPOISON
        process.hwpoisons += 1
        process.hiwater_rss = max(process.hiwater_rss, sum(process.rss))
        process.count(np.array([pfn]), -1)
        frames.unmap(np.array([pfn]))
    if cache is not None:
        cache.remove(np.array([number]))
        if shmem_keeps and cache.kind == SHMEM:
            cache.poisoned.add(number)
        frames.source.free(np.array([pfn]))
    return [process for process in processes if process in told] if dirty or _is_file(cache) else []


def _is_file(cache: AddressSpace | None) -> bool:
    """Pages of files are only lost when they are dirty."""
    return cache is not None and cache.kind == FILE


def _covering(processes: Iterable[Process], cache: AddressSpace, number: int) -> Iterator[Process]:
    """Who maps that part of a file, also without an entry for the page (collect_procs_file)."""
    by_space = {id(process.mm.tree): process for process in processes}
    for vma in cache.vmas:
        process = by_space.get(id(vma.space))
        if process is not None and vma.pgoff <= number < vma.pgoff + (vma.end - vma.start >> PAGE_SHIFT):
            yield process
