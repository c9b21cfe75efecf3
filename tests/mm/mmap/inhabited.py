"""Processes of tests with pages, and what must be true of all of them together."""

from __future__ import annotations

from collections import Counter

import numpy as np
from mm.mmap.spaces import space

from numa_service.mm.mmap import rmap
from numa_service.mm.mmap.entries import PRESENT, WRITE, ZERO, has, pfns_of
from numa_service.mm.mmap.frames import ANON, Frames, Nids, Numbered, Pfns
from numa_service.mm.mmap.limits import Committed, Limits
from numa_service.mm.mmap.pgtables import PageTables, Unlimited
from numa_service.mm.mmap.process import Process
from numa_service.mm.mmap.rules import X86_64, UserLayout
from numa_service.mm.mmap.vma import Vma
from numa_service.mm.profile import LINUX_6_1, Profile


def on_node_0(vma: Vma, numbers: Pfns) -> Nids:
    return np.zeros(len(numbers), np.int16)


def process(
    profile: Profile = LINUX_6_1,
    frames: Frames | None = None,
    tables: Unlimited | None = None,
    layout: UserLayout = X86_64,
) -> Process:
    """A process with a program, and no page yet."""
    mm = space(profile, Limits(memlock=1 << 40), layout, Committed(1 << 24))
    return Process(mm, PageTables(layout, tables or Unlimited()), frames or Frames(Numbered()), on_node_0)


def check(processes: list[Process]) -> None:
    """Mapcounts equal mappings, resident sets equal entries, and nobody may write to what others map."""
    mappings: Counter[int] = Counter()
    for one in processes:
        rss: Counter[int] = Counter()
        inside = np.zeros(0, np.int64)
        for vma in one.mm.tree:
            entries = one.all_entries(vma.start, vma.end)
            inside = np.concatenate([inside, entries[entries != 0]])
            mapped = has(entries, PRESENT) & ~has(entries, ZERO)
            pfns = pfns_of(entries[mapped])
            mappings.update(pfns.tolist())
            rss.update(one.frames.kind[pfns].tolist())
            writable = pfns_of(entries[has(entries, WRITE)])
            anonymous = writable[one.frames.kind[writable] == ANON]
            assert (one.frames.mapcount[anonymous] == 1).all()
        assert [rss[kind] for kind in range(3)] == one.rss
        # no entry is outside of a VMA
        everything = one.all_entries(0, 0)
        for index in sorted(one.leaves()):
            everything = np.concatenate([everything, one.all_entries(*index)])
        assert Counter(inside.tolist()) == Counter(everything[everything != 0].tolist())
    if processes:
        frames = processes[0].frames
        # and each page knows where: its anon_vma, or its file, leads to all of them
        for pfn, count in mappings.items():
            walked = [(id(one), address) for one, _, address in rmap.mappings(processes, pfn)]
            assert len(set(walked)) == len(walked) == count
        counted = {pfn: count for pfn, count in enumerate(frames.mapcount.tolist()) if count}
        assert counted == dict(mappings)
