"""A process with an area of memory, on a machine of two nodes with two CPUs each."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from numa_service.mm.balancing.fork import init_numa_balancing
from numa_service.mm.balancing.rules import rules_of
from numa_service.mm.balancing.task import NumaBalancing, NumaMm, NumaTask
from numa_service.mm.balancing.topology import Topology
from numa_service.mm.mmap import vm_flags as vf
from numa_service.mm.mmap.entries import NUMA, Entries, pfns_of
from numa_service.mm.mmap.fault import touch
from numa_service.mm.mmap.frames import Frames, Nids, Numbered, Pfns
from numa_service.mm.mmap.limits import Committed
from numa_service.mm.mmap.mm_struct import MmStruct
from numa_service.mm.mmap.pgtables import PageTables, Unlimited
from numa_service.mm.mmap.process import Process
from numa_service.mm.mmap.rules import PAGE_SIZE, X86_64
from numa_service.mm.mmap.rules import rules_of as mmap_rules_of
from numa_service.mm.mmap.thp import Thp
from numa_service.mm.mmap.thp_rules import thp_rules_of
from numa_service.mm.mmap.vma import File, Vma
from numa_service.mm.profile import profile_named

MS = 1_000_000
BASE = 0x7000_0000_0000
TWO_NODES = Topology({(0, 0): 10, (0, 1): 20, (1, 0): 20, (1, 1): 10}, (0, 1))


@dataclass
class Moves:
    """Moves pages under their numbers; `full` nodes take none."""

    source: Numbered
    full: set[int] = field(default_factory=set)

    def migrate_misplaced(self, pfns: Pfns, nid: int) -> bool:
        if nid in self.full:
            return False
        self.source.migrate(pfns, nid)
        return True


class Box:
    """What a test works on: `pages` of an area that was written to on node 1, and a task on CPU 0."""

    def __init__(
        self, profile: str = "linux-6.1", pages: int = 64, *, huge: bool = False, **vma: object
    ) -> None:
        kernel = profile_named(profile)
        rules = rules_of(kernel)
        assert rules
        self.source = Numbered()
        self.moves = Moves(self.source)
        self.balancing = NumaBalancing(rules, TWO_NODES, {0: 0, 1: 0, 2: 1, 3: 1}, self.moves)
        thp = Thp(thp_rules_of(kernel), self.source) if huge else None
        frames = Frames(self.source, thp)
        mm = MmStruct(X86_64, mmap_rules_of(kernel), Committed(1 << 20, 0))
        self.process = Process(mm, PageTables(X86_64, Unlimited()), frames, self._place)
        self.mm = NumaMm(self.process)
        self.pages = pages
        self.task = init_numa_balancing(self.balancing.parameters, self.mm, 100, 0, 0)
        self.balancing.running[0] = self.task
        self.vma = self.area(BASE, pages, **vma)
        touch(self.process, BASE, self.end, write=True)

    @property
    def end(self) -> int:
        return BASE + self.pages * PAGE_SIZE

    def area(
        self, start: int, pages: int, *, file: File | None = None, flags: int = 0, **rest: object
    ) -> Vma:
        """One more VMA; with `flags` instead of read and write."""
        flags = flags or vf.VM_READ | vf.VM_WRITE
        vma = Vma(
            start,
            start + pages * PAGE_SIZE,
            flags | vf.VM_MAY_ACCESS,
            0 if file else start >> 12,
            file,
            **rest,
        )  # type: ignore[arg-type]  # of tests
        self.process.mm.tree.insert(vma)
        return vma

    def thread(self, pid: int, cpu: int, now_ns: int = 0) -> NumaTask:
        """One more task of the process."""
        task = init_numa_balancing(self.balancing.parameters, self.mm, pid, cpu, now_ns, self.task)
        self.balancing.running[cpu] = task
        return task

    def _place(self, vma: Vma, numbers: Pfns) -> Nids:
        return np.ones(len(numbers), np.int16)

    def entries(self, start: int = BASE, pages: int = 0) -> Entries:
        return self.process.all_entries(start, start + (pages or self.pages) * PAGE_SIZE)

    def hints(self) -> int:
        """Pages of the area that have a hint."""
        return int(((self.entries() & NUMA) != 0).sum())

    def nodes(self) -> list[int]:
        """Pages of the area by node."""
        return np.bincount(self.source.nids_of(pfns_of(self.entries())), minlength=2).tolist()
