"""The tasks of a home, with their address spaces, the files that they map, and the frames of all of it.

A task lives on the node where it was spawned; its CPU may be one of any node. It is a session's, and ends
with it at the latest. Pids are unique in the machine.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from numa_service.machine.booted import BootedMachine
from numa_service.mm.mempolicy.interleave import FIRST_TURN, Turn
from numa_service.mm.mempolicy.policy import Mempolicy
from numa_service.mm.mmap.dump import dump_processes, load_policy, load_processes
from numa_service.mm.mmap.entries import HWPOISON, PRESENT, ZERO, has, pfns_of
from numa_service.mm.mmap.errnos import Errno
from numa_service.mm.mmap.frames import FILE, HUGETLB, SHMEM, AddressSpace, Bools, Frames, Pfns
from numa_service.mm.mmap.huge_memory import split_huge_page
from numa_service.mm.mmap.hugetlb import ANON_HUGEPAGE
from numa_service.mm.mmap.limits import Committed, Limits
from numa_service.mm.mmap.memory_failure import PR_MCE_KILL_DEFAULT
from numa_service.mm.mmap.mm_struct import MmStruct
from numa_service.mm.mmap.process import Process
from numa_service.mm.mmap.rules import I386_PAE, X86_64, rules_of
from numa_service.mm.mmap.thp_dump import dump_thp, load_thp
from numa_service.mm.mmap.vma import DEV_ZERO, File
from numa_service.mm.mmzone import HUGE_INDEX
from numa_service.node.errors import NotFound, Precondition
from numa_service.node.owners import HUGETLB_ID, OF_TASKS, Owner
from numa_service.node.task_huge import HugeFrameSource, parts_of_heads, thp_of
from numa_service.node.task_hugetlb import check_pools, home_pools
from numa_service.node.task_pages import (
    FREED,
    HUGE,
    HUGE_ZERO,
    IDLE,
    OWNER_IDS,
    TableSource,
    nid_and_pfn,
)

#: Tasks of a home, and of one session.
MAX_TASKS = 1 << 13
#: VMAs and pages of page tables of all tasks of a home.
MAX_VMAS = 1 << 20
MAX_TABLES = 1 << 17
#: Files that tasks of a home map at one time, and pages that each of them has.
MAX_FILES = 1 << 12
FILE_PAGES = 1 << 24
#: The first pids are the kernel's own threads'; what khugepaged is called in ops.
FIRST_PID = 300
KHUGEPAGED = 0
#: When a task learns that memory of it is bad, if it does not say itself.
EARLY_KILL = "vm.memory_failure_early_kill"
#: What a task does at a signal: it ends, it ignores it; any other number is a function of it.
SIG_DFL = 0
SIG_IGN = 1
#: Device numbers, and the first inode, of files and of shared memory.
_OF_FILE = (0, 2, 17)
_OF_SHMEM = (0, 1, 1024)
_OF_HUGETLB = (0, 15, 1024)


def home_of(pid: int, nids: Sequence[int]) -> int:
    """The node on which a task of this pid lives, or would live; `nids`: all nodes of the machine."""
    return nids[(pid - FIRST_PID) % len(nids)]


@dataclass(slots=True)
class Task:
    """struct task_struct, as far as memory goes."""

    pid: int
    #: The pid of the task that it was forked from; 1 of one that was spawned.
    ppid: int
    session: int
    cpu: int
    cpu_nid: int
    comm: str
    cmdline: tuple[str, ...]
    process: Process
    policy: Mempolicy | None = None
    #: Where it is in its round under the interleave policies (il_prev and il_weight).
    turn: Turn = FIRST_TURN
    #: Pages that were got for it and are not used yet; see ``task_pages.py``.
    stock: dict[int, Pfns] = field(default_factory=dict)
    tables: dict[int, list[int]] = field(default_factory=dict)
    refused: dict[int, int] = field(default_factory=dict)
    #: Pages that were read back from swap, or from a disk.
    majflt: int = 0
    #: What is added to its score for the OOM killer, in thousandths of memory.
    oom_score_adj: int = 0
    #: What it does at SIGBUS, and when it learns of bad memory (PR_MCE_KILL_*).
    sigbus: int = SIG_DFL
    mce_kill: int = PR_MCE_KILL_DEFAULT
    #: Of a task that was killed, for who still has it: by whom. Not part of the state.
    killed_by: str = "the OOM killer"

    def dump(self) -> list[Any]:
        """Return all but the process as plain data."""
        who = self.pid, self.ppid, self.session, self.cpu, self.cpu_nid, self.comm, self.cmdline
        stock = [(kind, pfns.tobytes()) for kind, pfns in sorted(self.stock.items()) if len(pfns)]
        tables = [(order, pfns) for order, pfns in sorted(self.tables.items()) if pfns]
        refused = sorted(self.refused.items())
        counts = self.majflt, self.oom_score_adj, self.sigbus, self.mce_kill
        return [who, self.policy, self.turn, stock, tables, refused, counts]

    @classmethod
    def load(cls, dumped: list[Any], process: Process) -> Task:
        """Make it from what :meth:`dump` returned."""
        who, policy, turn, stock, tables, refused, counts = dumped
        pid, ppid, session, cpu, cpu_nid, comm, cmdline = who
        left = {kind: np.frombuffer(pfns, np.int64).copy() for kind, pfns in stock}
        task = cls(pid, ppid, session, cpu, cpu_nid, comm, tuple(cmdline), process, load_policy(policy))
        task.turn, task.stock, task.tables = Turn(*turn), left, dict(tables)
        task.refused = dict(refused)
        task.majflt, task.oom_score_adj, task.sigbus, task.mce_kill = counts
        return task


class KernelThread:
    """A kernel thread that gets pages (an Asker): khugepaged, on any CPU of its node."""

    def __init__(self, nid: int) -> None:
        self.pid = KHUGEPAGED
        self.policy: Mempolicy | None = None
        self.turn = FIRST_TURN
        self.cpu_nid = nid
        self.stock: dict[int, Pfns] = {}
        self.tables: dict[int, list[int]] = {}
        self.refused: dict[int, int] = {}

    def dump(self) -> list[Any]:
        """Return what was got for it as plain data."""
        stock = [(kind, pfns.tobytes()) for kind, pfns in sorted(self.stock.items()) if len(pfns)]
        return [stock, sorted(self.refused.items())]

    def load(self, dumped: list[Any]) -> None:
        """Replace the content by what :meth:`dump` returned."""
        stock, refused = dumped
        self.stock = {kind: np.frombuffer(pfns, np.int64).copy() for kind, pfns in stock}
        self.refused = dict(refused)


class Tasks(dict[int, Task]):
    """The tasks of one home, by pid."""

    def __init__(self, machine: BootedMachine, nid: int, lineage: int) -> None:
        super().__init__()
        self._machine = machine
        self._nid = nid
        self._lineage = lineage
        self.source = HugeFrameSource(machine, nid)
        self.thp = thp_of(machine, self.source)
        #: What tasks have of the pools of huge pages of all nodes, by the logarithm of the size in bytes.
        self.pools = home_pools(machine, nid, self.source)
        self.frames = self.source.frames = Frames(self.source, self.thp)
        #: For whom khugepaged gets pages.
        self.khugepaged = KernelThread(nid)
        self.tables = TableSource()
        self.tables.most = MAX_TABLES
        self.profile = machine.profile
        self.rules = rules_of(machine.profile)
        self.layout = X86_64 if machine.spec.arch == "x86_64" else I386_PAE
        pages = sum(machine.managed.values())
        self.committed = Committed(pages, machine.spec.swap_pages)
        #: The pages of every file that is mapped, by inode; and the inodes of files with a name.
        self.spaces: dict[int, AddressSpace] = {}
        self.inodes: dict[str, int] = {}
        self._last_inode = 0
        self._last_pid = 0
        #: Frames and page tables on other nodes that nothing needs any more, by owner id and node.
        self.limbo: dict[tuple[int, int], list[Pfns]] = {}
        #: The same of page tables, by node and order, as pfns.
        self.limbo_tables: dict[tuple[int, int], list[int]] = {}
        #: Tasks that the OOM killer has killed, and whose memory other nodes may still have.
        self.oom_victims: list[int] = []

    def task(self, session: int, pid: int) -> Task:
        """Return a task of a session; NotFound, or Precondition when it is another session's."""
        if pid not in self:
            raise NotFound("task", str(pid), "it has ended, or never was")
        if self[pid].session != session:
            raise Precondition(f"task {pid} belongs to another session")
        return self[pid]

    def of_session(self, session: int) -> list[int]:
        """The pids of a session's tasks, oldest first."""
        return [pid for pid, task in self.items() if task.session == session]

    def asker(self, pid: int) -> Task | KernelThread | None:
        """For whom pages are got: a task, khugepaged by the pid KHUGEPAGED, None if it has ended."""
        return self.khugepaged if pid == KHUGEPAGED else self.get(pid)

    def take_pid(self) -> int:
        """A new pid: nodes take turns, so that none is given twice in the machine."""
        nids = self._machine.spec.nids
        self._last_pid += 1
        return FIRST_PID + self._last_pid * len(nids) + list(nids).index(self._nid)

    def owner(self, kind: int) -> Owner:
        """The owner of pages of a kind on all nodes."""
        return Owner(self._nid, self._lineage, OWNER_IDS[kind])

    @property
    def owners(self) -> tuple[Owner, ...]:
        """The owners of all pages of tasks."""
        return tuple(Owner(self._nid, self._lineage, id) for id in OF_TASKS)

    @property
    def hugetlb_owner(self) -> Owner:
        """The owner of huge pages of pools on all nodes."""
        return Owner(self._nid, self._lineage, HUGETLB_ID)

    # address spaces and files

    def make_mm(self, limits: Limits, legacy: bool = False) -> MmStruct:
        """An empty address space."""
        mm = MmStruct(self.layout, self.rules, self.committed, limits, legacy=legacy)
        mm.huge_pools = self.pools
        return mm

    def nr_vmas(self) -> int:
        """VMAs of all tasks."""
        return sum(len(task.process.mm.tree) for task in self.values())

    def open(self, path: str, writable: bool) -> File:
        """open(): a file by its path, or with DEV_ZERO that of new shared memory. ENFILE."""
        inode = self.inodes.get(path)
        if inode is None:
            if len(self.spaces) >= MAX_FILES:
                raise Errno(errno.ENFILE, f"tasks of this node map {MAX_FILES} files already")
            self._last_inode += 1
            inode = self._last_inode
            if path != DEV_ZERO:
                self.inodes[path] = inode
        shmem = path == DEV_ZERO
        major, minor, first = _OF_SHMEM if shmem else _OF_FILE
        pages = self.spaces.setdefault(inode, AddressSpace(SHMEM if shmem else FILE))
        size = 0 if shmem else FILE_PAGES
        return File(
            path, major, minor, first + inode, True, writable, shmem, pages=pages, unlinked=shmem, size=size
        )

    def open_huge(self) -> File:
        """The file of new anonymous huge pages (hugetlb_file_setup). ENFILE."""
        if len(self.spaces) >= MAX_FILES:
            raise Errno(errno.ENFILE, f"tasks of this node map {MAX_FILES} files already")
        self._last_inode += 1
        major, minor, first = _OF_HUGETLB
        return File(ANON_HUGEPAGE, major, minor, first + self._last_inode, True, True, unlinked=True)

    def note_huge(self, file: File) -> None:
        """A file of huge pages has been mapped."""
        assert file.pages is not None
        self.spaces[file.inode - _OF_HUGETLB[2]] = file.pages

    def drop_unmapped(self) -> None:
        """Files that no task of this home maps any more leave memory: nothing else would ever read them."""
        for inode, space in list(self.spaces.items()):
            if not space.vmas:
                pages = space.all()
                if len(pages):
                    space.remove(np.arange(space.size, dtype=np.int64))
                    self.source.free(pages)
                self.frames.forget(space)
                del self.spaces[inode]
        self.inodes = {path: inode for path, inode in self.inodes.items() if inode in self.spaces}

    def page_tables(self) -> dict[int, int]:
        """nid → pages of page tables of that node that the kernel counts (NR_PAGETABLE): not the PGDs."""
        counted: dict[int, int] = {}
        for task in self.values():
            for block in task.process.tables.counted_pages(counts_pud=self.rules.counts_pud):
                nid, _ = nid_and_pfn(block)
                counted[nid] = counted.get(nid, 0) + 1
        return counted

    def anon_thps(self) -> dict[int, int]:
        """nid → huge pages of that node that a PMD entry maps (NR_ANON_THPS)."""
        counted: dict[int, int] = {}
        for head, page in self.thp.huge.items() if self.thp else ():
            if page.pmds:
                nid = int(self.source.nids[head])
                counted[nid] = counted.get(nid, 0) + 1
        return counted

    # migration

    def remap(self, numbers: npt.NDArray[np.uint32], from_nid: int, to_nid: int) -> Bools:
        """Note that pages are on another node now; True for those that were recorded on `from_nid`.

        Who moves a part of a huge page has split it: that is noted, too.
        """
        names = numbers.astype(np.int64)
        huge = (names & HUGE_INDEX) != 0
        frames = np.minimum(names & ~np.int64(HUGE_INDEX), len(self.source.nids) - 1)
        noted: Bools = (self.source.nids[frames] == from_nid) & (self.source.state[frames] == IDLE)
        if self.thp is not None and self.thp.huge:
            noted &= ~huge | (self.thp.compound(frames) & (frames % self.thp.nr == 0))
            for head in np.unique(frames[noted & ~huge & self.thp.compound(frames)] & -self.thp.nr).tolist():
                split_huge_page(self.frames, head)
        else:
            noted &= ~huge
        self.source.nids[frames[noted & ~huge]] = to_nid
        self.source.nids[parts_of_heads(frames[noted & huge])] = to_nid
        return noted

    # checks and snapshots

    def check(self) -> list[str]:
        """Recount mappings, resident sets and frames; return what does not agree."""
        problems = []
        counted = np.zeros(len(self.frames.mapcount), np.int64)
        for pid, task in self.items():
            process, rss, hwpoisons = task.process, [0, 0, 0], 0
            for start, end in process.leaves():
                entries = process.all_entries(start, end)
                pfns = pfns_of(entries[has(entries, PRESENT) & ~has(entries, ZERO)])
                np.add.at(counted, pfns, 1)
                hwpoisons += int(has(entries, HWPOISON).sum())
                for kind, pages in enumerate(np.bincount(self.frames.kind[pfns], minlength=3).tolist()):
                    rss[kind] += pages
            for entry in process.mm.tree.huge_entries.values():
                counted[entry >> 8] += 1
            if rss != process.rss:
                problems.append(
                    f"task {pid}: {rss} pages are mapped by kind, its resident set is {process.rss}"
                )
            if hwpoisons != process.hwpoisons:
                problems.append(f"task {pid}: {hwpoisons} pages are lost, {process.hwpoisons} are counted")
        pgds = len(self) << self.layout.pgd_order
        tables = pgds + sum(sum(task.process.tables.counts()) for task in self.values())
        if tables != self.tables.out:
            problems.append(f"node {self._nid}: {tables} pages of page tables, {self.tables.out} are counted")
        if (counted != self.frames.mapcount).any():
            wrong = np.flatnonzero(counted != self.frames.mapcount)[:4].tolist()
            problems.append(
                f"node {self._nid}: mapcounts of frames {wrong} are not how often they are mapped"
            )
        return problems + self._check_frames(counted)

    def _check_frames(self, counted: np.ndarray) -> list[str]:
        """Every frame with a page is mapped, of a file in memory, or in a stock; and the reverse."""
        size = max(len(counted), len(self.source.nids))
        used, on_node = np.zeros(size, np.bool_), np.zeros(size, np.bool_)
        used[: len(counted)] = counted > 0
        others = [space.all() for space in self.spaces.values()]
        askers: list[Task | KernelThread] = [*self.values(), self.khugepaged]
        for asker in askers:
            others += [
                parts_of_heads(pfns) if kind == HUGE else pfns
                for kind, pfns in asker.stock.items()
                if kind != HUGE_ZERO
            ]
        if self.thp is not None:
            others.append(parts_of_heads(np.array(list(self.thp.huge), np.int64)))
        others += [np.array(list(pool.pages), np.int64) for pool in self.pools.values()]
        for numbers in others:
            used[numbers] = True
        on_node[: len(self.source.nids)] = (self.source.nids >= 0) & (self.source.state != FREED)
        wrong = np.flatnonzero(used != on_node)[:4].tolist()
        return self._check_pools() + (
            [f"node {self._nid}: frames {wrong} are in use and on no node, or the reverse"] if wrong else []
        )

    def _check_pools(self) -> list[str]:
        in_use = set[int]()
        for task in self.values():
            in_use |= {entry >> 8 for entry in task.process.mm.tree.huge_entries.values()}
        for space in self.spaces.values():
            in_use |= set(space.all().tolist() if space.kind == HUGETLB else ())
        return [f"node {self._nid}: {problem}" for problem in check_pools(self.pools.values(), in_use)]

    def dump(self) -> list[Any]:
        """Return all of it as plain data, which :meth:`load` reads."""
        processes = {pid: task.process for pid, task in self.items()}
        limbo = [(key, np.concatenate(waiting).tobytes()) for key, waiting in sorted(self.limbo.items())]
        return [
            [task.dump() for task in self.values()],
            dump_processes(processes, self.frames),
            self.source.dump(),
            (self.tables.out, self.committed.pages, self._last_inode, self._last_pid),
            list(self.inodes.items()),
            (limbo, sorted(self.limbo_tables.items())),
            None if self.thp is None else dump_thp(self.thp, processes),
            self.khugepaged.dump(),
            self.oom_victims,
            [pool.dump() for pool in self.pools.values()],
        ]

    def load(self, dumped: list[Any]) -> None:
        """Replace the content by what :meth:`dump` returned."""
        tasks, of_processes, source, counted, inodes, (limbo, limbo_tables), *rest = dumped
        thp, khugepaged, victims, pools = rest
        for pool, of_pool in zip(self.pools.values(), pools, strict=True):
            pool.load(of_pool)
        self.oom_victims = list(victims)
        self.source.load(source)
        home = self.frames, self.tables, self.source.place, self.make_mm, self.pools
        made = load_processes(of_processes, *home)
        self.clear()
        if self.thp is not None:
            load_thp(self.thp, thp, made)
        self.khugepaged.load(khugepaged)
        for task, process in zip(tasks, made.values(), strict=True):
            one = Task.load(task, process)
            self[one.pid] = one
        self.tables.out, self.committed.pages, self._last_inode, self._last_pid = counted
        spaces = {}
        for task in self.values():
            for vma in task.process.mm.tree:
                if vma.file is not None and vma.file.pages is not None:
                    huge = vma.file.huge is not None
                    first = (_OF_HUGETLB if huge else _OF_SHMEM if vma.file.shmem else _OF_FILE)[2]
                    spaces[vma.file.inode - first] = vma.file.pages
        self.spaces = dict(sorted(spaces.items()))
        self.inodes = dict(inodes)
        self.limbo = {tuple(key): [np.frombuffer(pfns, np.int64).copy()] for key, pfns in limbo}
        self.limbo_tables = {tuple(key): pfns for key, pfns in limbo_tables}
