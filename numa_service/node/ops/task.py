"""Ops of tasks: their beginning and end, their calls, and accesses to their memory.

An op that lacks pages says which (`Did.want`); it is applied again when they are in the task's stock.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass

import numpy as np

from numa_service.mm.mempolicy.calls import Nodes
from numa_service.mm.mempolicy.nodemask import mask_of
from numa_service.mm.mempolicy.policy import CallError
from numa_service.mm.mmap import vm_flags as vf
from numa_service.mm.mmap.carry_out import carry_out, exit_process, fork
from numa_service.mm.mmap.effects import Effect, Populate
from numa_service.mm.mmap.entries import pfns_of
from numa_service.mm.mmap.errnos import Errno, Sigbus, errno_name
from numa_service.mm.mmap.fault import fault_in, until_hwpoison
from numa_service.mm.mmap.frames import Pfns
from numa_service.mm.mmap.huge_memory import huge_faults, may_fault_huge, split_huge_page
from numa_service.mm.mmap.hugetlb import huge_size
from numa_service.mm.mmap.limits import Limits
from numa_service.mm.mmap.pgtables import PageTables
from numa_service.mm.mmap.process import Process
from numa_service.mm.mmap.rules import PAGE_MASK, PAGE_SHIFT
from numa_service.mm.mmap.stack import expand_stack
from numa_service.mm.mmap.vma import Vma
from numa_service.mm.mmap.vma_tree import VmaTree
from numa_service.mm.mmzone import PAGEBLOCK_NR_PAGES
from numa_service.mm.vmstat import PGFAULT
from numa_service.node.errors import InvalidRequest, LimitExceeded, TooMany
from numa_service.node.ops.fields import check_below, check_cpu
from numa_service.node.ops.op import Op
from numa_service.node.ops.task_work import Did, Here, Work, by_owner, check_here
from numa_service.node.state import NodeState
from numa_service.node.task_calls import CALLS, CallContext
from numa_service.node.task_huge import names_of, unnamed
from numa_service.node.task_image import load_image
from numa_service.node.task_pages import HUGE, Short
from numa_service.node.task_state import MAX_TASKS, MAX_VMAS, Task

#: Longest comm of a task (TASK_COMM_LEN less the end), and longest command line and path, in characters.
MAX_COMM = 15
MAX_TEXT = 4096
#: Arguments of a command line.
MAX_ARGS = 64
_ADDRESSES = 1 << 64
#: Bytes that are faulted in together: as many pages of PTEs as are worked on at a time, of 2 MiB each.
_PIECE = 128 << 20


@dataclass(frozen=True, slots=True)
class TaskSpawn(Op[Did]):
    """Begins a task that runs a program; the result's value is its pid. TooMany, NotFound."""

    tag = "task_spawn"

    session: int
    cpu: int
    cpu_nid: int
    comm: str
    cmdline: tuple[str, ...]
    #: The program's file.
    path: str
    #: Bytes of memory that it may lock.
    memlock: int
    here: Here
    #: Blocks for its page tables that were got before, by order: (order, block).
    tables: tuple[tuple[int, int], ...] = ()

    def apply(self, node: NodeState) -> Did:
        """Make the task with the VMAs of its program, or say which pages are missing."""
        node.session(self.session)
        tasks = node.tasks
        if len(tasks) >= MAX_TASKS:
            raise TooMany(f"node {node.nid} has {MAX_TASKS} tasks already")
        mm = tasks.make_mm(Limits(memlock=self.memlock))
        task = Task(0, 1, self.session, self.cpu, self.cpu_nid, self.comm, self.cmdline, None)  # type: ignore[arg-type]  # it comes below
        for order, block in self.tables:
            task.tables.setdefault(order, []).append(block)
        work = Work(node, task, self.here)
        try:
            tasks.tables.require(1, tasks.layout.pgd_order)
            tasks.tables.require(tasks.layout.preallocated_pmds, 0)
            program = tasks.open(self.path, writable=False)
            load_image(mm, program)
        except Short as short:
            # what was got before is brought along again
            for order, block in self.tables:
                task.tables[order].remove(block)
            work.give_stock_back()
            work.settle()
            return Did(want=short.want, path=work.path())
        except Errno as error:
            tasks.drop_unmapped()
            work.give_stock_back()
            work.settle()
            return Did(-1, error.number, error.reason, path=work.path())
        task.pid = tasks.take_pid()
        task.process = Process(mm, PageTables(mm.layout, tasks.tables), tasks.frames, tasks.source.place)
        tasks[task.pid] = task
        work.give_stock_back()
        work.settle()
        return Did(task.pid, taken=work.taken, path=work.path())

    def check(self, node: NodeState) -> None:
        """Check names, the CPU and the zones."""
        check_cpu(node, self.cpu)
        check_here(node, self.here)
        if len(self.comm) > MAX_COMM or not self.comm or not self.comm.isprintable():
            raise InvalidRequest("comm", f"1…{MAX_COMM} printable characters")
        if len(self.cmdline) > MAX_ARGS or sum(map(len, self.cmdline)) > MAX_TEXT:
            raise InvalidRequest("cmdline", f"at most {MAX_ARGS} words, {MAX_TEXT} characters together")
        check_path(self.path)
        check_below("memlock", self.memlock, _ADDRESSES)

    def text(self, node: NodeState, result: Did) -> str:
        """Return the op and its result as one line."""
        return f"spawn session={self.session} {self.comm} cpu={self.cpu} -> {_ended(result, 'pid')}"


@dataclass(frozen=True, slots=True)
class TaskCall(Op[Did]):
    """A task makes a call of ``task_calls.py``."""

    tag = "task_call"

    pid: int
    name: str
    numbers: tuple[int, ...]
    call_text: str
    here: Here

    def apply(self, node: NodeState) -> Did:
        """Make the call, and do to its pages what it leaves to be done."""
        task = node.tasks[self.pid]
        node.tasks.committed.total_ram = sum(node.machine.managed.values())
        work = Work(node, task, self.here)
        on = call_context(node, task)
        value = number = 0
        reason = ""
        try:
            value = CALLS[self.name].do(on, self.numbers, self.call_text)
        except Short as short:
            work.pause()
            return Did(want=short.want, taken=work.taken, path=work.path())
        except Errno as error:
            value, number, reason = -1, error.number, error.reason
            on.effects += error.effects
        except CallError as error:
            value, number, reason = -1, error.errno, str(error)
        populate: tuple[tuple[int, int], ...] = ()
        try:
            populate = _carry_out(node, task, on.effects)
        except Short as short:
            # of MADV_COLLAPSE: what it has made huge stays so, and the call begins anew
            work.pause()
            return Did(want=short.want, taken=work.taken, path=work.path())
        except Errno as error:  # MADV_COLLAPSE
            value, number, reason = -1, error.number, error.reason
        work.give_stock_back()
        work.settle()
        return Did(value, number, reason, populate=populate, taken=work.taken, path=work.path())

    def check(self, node: NodeState) -> None:
        """Check the task, the call's name, and the size of its arguments."""
        check_pid(node, self.pid)
        check_here(node, self.here)
        check_call(self.name, self.numbers, self.call_text)

    def text(self, node: NodeState, result: Did) -> str:
        """Return the op and its result as one line."""
        words = [f"{number:#x}" if number > 9 else str(number) for number in self.numbers]
        words += [repr(self.call_text)] if self.call_text else []
        return f"task {self.pid} {self.name}({', '.join(words)}) -> {_ended(result, '')}"


def call_context(node: NodeState, task: Task) -> CallContext:
    """Collect the state of the task and the node that a call may read and change."""
    lists = node.machine.zonelists
    memory = mask_of(nid for nid, of in lists.items() if of.thisnode)
    nodes = Nodes(mask_of(lists), memory, max(node.machine.spec.nids) + 1)
    return CallContext(node.tasks, task, nodes, [])


def _carry_out(node: NodeState, task: Task, effects: list[Effect]) -> tuple[tuple[int, int], ...]:
    """Do to pages what a call left to be done; return the ranges that are to be faulted in."""
    sharers = [other.process for other in node.tasks.values()]
    carry_out(task.process, [effect for effect in effects if not isinstance(effect, Populate)], sharers)
    # also what was opened for a call that failed
    node.tasks.drop_unmapped()
    return tuple((effect.start, effect.end) for effect in effects if isinstance(effect, Populate))


@dataclass(frozen=True, slots=True)
class TaskTouch(Op[Did]):
    """A task reads or writes something in every page of a range, or has it faulted in (mm_populate)."""

    tag = "task_touch"

    pid: int
    #: In bytes; `end` is exclusive.
    start: int
    end: int
    write: bool
    #: As mm_populate: what is mapped there, each as its VMA wants it, and holes are passed over.
    populate: bool
    here: Here

    def apply(self, node: NodeState) -> Did:
        """Fault in what is missing, as far as there are pages; access what this node has."""
        task = node.tasks[self.pid]
        touching = _Touching(Work(node, task, self.here), task, self)
        return touching.run()

    def check(self, node: NodeState) -> None:
        """Check the task and the range."""
        check_pid(node, self.pid)
        check_here(node, self.here)
        check_below("start", self.start, _ADDRESSES)
        check_below("end", self.end, _ADDRESSES)

    def text(self, node: NodeState, result: Did) -> str:
        """Return the op and its result as one line."""
        how = "populate" if self.populate else "write" if self.write else "read"
        pages = self.end - self.start >> PAGE_SHIFT
        return (
            f"task {self.pid} {how} {self.start:#x} pages={pages} faults={result.faults} hits={result.hits} "
            f"-> {_ended(result, '')}"
        )


def next_populated(tree: VmaTree, at: int, end: int) -> Vma | None:
    """The first VMA of a range that mm_populate faults in: it passes over holes, and over what it may not."""
    while (vma := tree.find(at)) is not None and vma.start < end:
        if not vma.flags & vf.VM_LOCKONFAULT and vma.flags & vf.VM_ACCESS_FLAGS and vma.special is None:
            return vma
        at = vma.end
    return None


class _Touching:
    """A touch under way."""

    def __init__(self, work: Work, task: Task, op: TaskTouch) -> None:
        self.work = work
        self.task = task
        self.op = op
        self.at = op.start & PAGE_MASK
        self.faults = self.hits = self.swapped = 0
        self.elsewhere: dict[tuple[int, int], list[Pfns]] = {}
        self.gone: dict[int, list[Pfns]] = {}

    def run(self) -> Did:
        work, op, want, number, reason = self.work, self.op, None, 0, ""
        end = (op.end + ~PAGE_MASK) & PAGE_MASK
        try:
            while self.at < end:
                vma = self._vma(end)
                if vma is None:
                    self.at = end
                    break
                write = self._write(vma)
                part = min(vma.end, end, (self.at // _PIECE + 1) * _PIECE)
                if vma.flags & vf.VM_HUGETLB:
                    self._touch_hugetlb(vma, part, write)
                    continue
                if may_fault_huge(self.task.process, vma):
                    part = self._pmd(vma, part, write)
                part = until_hwpoison(self.task.process, vma, self.at, part)
                self._touch(vma, part, write)
                self.at = part
        except Short as short:
            want = short.want
        except Errno as error:
            number, reason = error.number, error.reason
        except LimitExceeded as error:
            number, reason = errno.ENOMEM, str(error)
        self.task.process.minflt += self.faults
        work.node.pgdat.pg.vm_event[PGFAULT] += self.faults
        if want is None:
            work.give_stock_back()
            work.settle()
        else:
            work.pause()
        return Did(
            0,
            number,
            reason,
            want,
            at=self.at,
            faults=self.faults,
            hits=self.hits,
            elsewhere=tuple((*key, *self._named(some)) for key, some in self.elsewhere.items()),
            gone=tuple((kind, _packed(some)) for kind, some in self.gone.items()),
            swapped_in=self.swapped,
            taken=work.taken,
            path=work.path(),
            wait_ns=work.node.load.memory.wait_ns,
        )

    def _pmd(self, vma: Vma, end: int, write: bool) -> int:
        """Where the PMD entry ends that is touched next: before it has PTEs, it may get a huge page."""
        process, source = self.task.process, self.work.node.tasks.source
        if not len(self.task.stock.get(HUGE, ())):
            source.likely_huge = max(1, huge_faults(process, vma, self.at, end)) if write else 1
        return min(end, ((self.at >> process.shift) + 1) << process.shift)

    def _named(self, parts: list[Pfns]) -> tuple[bytes, int]:
        """What frames are called on the node that has them, packed, and how many they are."""
        frames = np.concatenate(parts)
        return names_of(self.work.node.tasks.thp, frames).astype("<u4").tobytes(), len(frames)

    def _vma(self, end: int) -> Vma | None:
        """The VMA that is touched next; None if there is none more. EFAULT stands for SIGSEGV."""
        tree = self.task.process.mm.tree
        if not self.op.populate:
            vma = tree.lookup(self.at)
            if vma is None:
                try:
                    vma = expand_stack(self.task.process.mm, self.at)
                except Errno as error:
                    raise Errno(errno.EFAULT, error.reason) from error
            allowed = vf.VM_WRITE if self.op.write else vf.VM_ACCESS_FLAGS
            if not vma.flags & allowed or vma.special is not None:
                raise Errno(errno.EFAULT, f"{self.at:#x} may not be {'written' if self.op.write else 'read'}")
            return vma
        vma = next_populated(tree, self.at, end)
        if vma is not None:
            self.at = max(self.at, vma.start)
        return vma

    def _write(self, vma: Vma) -> bool:
        """Whether it is written to: to populate, private memory that may be."""
        if not self.op.populate:
            return self.op.write
        return vma.flags & (vf.VM_WRITE | vf.VM_SHARED) == vf.VM_WRITE

    def _touch_hugetlb(self, vma: Vma, end: int, write: bool) -> None:
        """Touch huge pages of a pool, one by one: each may be missing. To populate, the next VMA goes on."""
        process, size = self.task.process, huge_size(vma)
        while self.at < end:
            part = min(end, (self.at & -size) + size)
            try:
                faults = fault_in(process, vma, self.at, part, write=write)
            except Sigbus:
                if not self.op.populate:
                    raise
                self.at = vma.end
                return
            self.faults += faults
            self.hits += (part - self.at >> PAGE_SHIFT) - faults
            self.at = part

    def _touch(self, vma: Vma, end: int, write: bool) -> None:
        """Touch pages of one VMA, from where the touch stands."""
        process, node = self.task.process, self.work.node
        there = pfns_of(process.mapped_entries(self.at, end))
        tables = node.tasks.tables
        first, last = self.at >> process.shift, (end - 1) >> process.shift
        missing = sum(
            not process.tables.has_table(index << process.shift) for index in range(first, last + 1)
        )
        tables.likely = max(1, missing)
        faults = 0
        if may_fault_huge(process, vma):
            pieces = [(self.at, end)]
        else:
            chunks = process.chunks(self.at, end, make=True)
            pieces = [(address, address + (len(part) << PAGE_SHIFT)) for address, part in chunks]
        for low, high in pieces:
            some = fault_in(process, vma, low, high, write=write)
            faults += some
            self.faults += some
        self.hits += (end - self.at >> PAGE_SHIFT) - faults
        if vma.file is not None:
            # what was in memory and is mapped only now may have been reclaimed, too
            there = pfns_of(process.mapped_entries(self.at, end))
        if len(there):
            self._access(there[node.tasks.frames.mapcount[there] > 0], write)

    def _access(self, frames: Pfns, write: bool) -> None:
        """Access pages that were mapped before: those of this node now."""
        node, tasks = self.work.node, self.work.node.tasks
        for kind, nid, some in by_owner(node, frames):
            if nid != node.nid:
                self.elsewhere.setdefault((kind, nid), []).append(some)
                continue
            slot = node.slot_of(tasks.owner(kind))
            lost = self._access_here(slot, some, write)
            if len(lost):
                self.gone.setdefault(kind, []).append(lost)
                if tasks.owner(kind) in node.slots:
                    self.swapped += node.pgdat.swap_in(slot, len(lost))
                    node.forget_if_tasks_empty(tasks.owner(kind))

    def _access_here(self, slot: int, frames: Pfns, write: bool) -> Pfns:
        """Access pages of this node; return those that it has no more. Splits of huge ones are noted."""
        node, tasks = self.work.node, self.work.node.tasks
        names = names_of(tasks.thp, frames)
        gone = node.pgdat.touch(slot, names.astype(np.uint32), write)
        lost = names[gone == 1]
        _, broken = unnamed(names[gone == 2])
        if len(broken):
            for head in broken.tolist():
                split_huge_page(tasks.frames, head)
            parts = frames[np.isin(frames & -PAGEBLOCK_NR_PAGES, broken)]
            parts = parts[tasks.frames.mapcount[parts] > 0]
            lost_too = node.pgdat.touch(slot, parts.astype(np.uint32), write) == 1
            lost = np.concatenate([lost, parts[lost_too]])
        return np.asarray(lost)


def _packed(parts: list[Pfns]) -> bytes:
    return np.concatenate(parts).astype("<u4").tobytes()


@dataclass(frozen=True, slots=True)
class TaskFork(Op[Did]):
    """A task forks; the result's value is the pid of its child."""

    tag = "task_fork"

    pid: int
    here: Here

    def apply(self, node: NodeState) -> Did:
        """Copy the address space; the pages are shared until somebody writes to them."""
        tasks, parent = node.tasks, node.tasks[self.pid]
        work = Work(node, parent, self.here)
        process = parent.process
        if len(tasks) >= MAX_TASKS or tasks.nr_vmas() + len(process.mm.tree) > MAX_VMAS:
            return Did(-1, errno.EAGAIN, "there are too many tasks or VMAs on this node", path=work.path())
        try:
            tables, levels = tasks.tables, sum(process.tables.counts())
            if tables.out + levels + 2 > tables.most:
                raise Errno(errno.ENOMEM, "the page tables of all tasks are too large")
            tables.require(1, tasks.layout.pgd_order)
            tables.require(levels + (1 if not tasks.layout.pgd_order else 0), 0)
            child = fork(process, tables)
        except Short as short:
            work.settle()
            return Did(want=short.want, taken=work.taken, path=work.path())
        except Errno as error:
            work.give_stock_back()
            work.settle()
            return Did(-1, error.number, error.reason, path=work.path())
        pid = tasks.take_pid()
        of_parent = parent.session, parent.cpu, parent.cpu_nid, parent.comm, parent.cmdline
        tasks[pid] = Task(pid, parent.pid, *of_parent, child, parent.policy, parent.turn)
        tasks[pid].oom_score_adj = parent.oom_score_adj
        tasks[pid].sigbus, tasks[pid].mce_kill = parent.sigbus, parent.mce_kill
        work.give_stock_back()
        work.settle()
        return Did(pid, taken=work.taken, path=work.path())

    def check(self, node: NodeState) -> None:
        """Check the task."""
        check_pid(node, self.pid)
        check_here(node, self.here)

    def text(self, node: NodeState, result: Did) -> str:
        """Return the op and its result as one line."""
        return f"task {self.pid} fork -> {_ended(result, 'pid')}"


@dataclass(frozen=True, slots=True)
class TaskExit(Op[None]):
    """A task ends: everything that it has goes (exit_mmap). Other nodes are told later of their pages."""

    tag = "task_exit"

    pid: int

    def apply(self, node: NodeState) -> None:
        """Unmap everything, and forget the task."""
        end_task(node, self.pid)

    def check(self, node: NodeState) -> None:
        """Check the task."""
        check_pid(node, self.pid)

    def text(self, node: NodeState, result: None) -> str:
        """Return the op as one line."""
        return f"task {self.pid} exit"


@dataclass(frozen=True, slots=True)
class ReturnStock(Op[None]):
    """A task's call has failed for want of memory: what was got for it is freed."""

    tag = "return_stock"

    pid: int

    def apply(self, node: NodeState) -> None:
        """Free it, or have it freed where it is."""
        work = Work(node, node.tasks[self.pid], None)
        work.give_stock_back()
        work.settle()

    def check(self, node: NodeState) -> None:
        """Check the task."""
        check_pid(node, self.pid)

    def text(self, node: NodeState, result: None) -> str:
        """Return the op as one line."""
        return f"task {self.pid} gives its stock back"


def end_task(node: NodeState, pid: int) -> None:
    """End a task."""
    tasks, task = node.tasks, node.tasks[pid]
    work = Work(node, task, None)
    exit_process(task.process)
    del tasks[pid]
    tasks.drop_unmapped()
    work.give_stock_back()
    work.settle()


def check_pid(node: NodeState, pid: int) -> None:
    """Check that the node has a task."""
    if pid not in node.tasks:
        raise InvalidRequest("pid", f"there is no task {pid}")


def check_path(path: str) -> None:
    """Check the path of a file: absolute, printable, and not too long."""
    if not path.startswith("/") or len(path) > MAX_TEXT or not path.isprintable():
        raise InvalidRequest("path", f"an absolute path of at most {MAX_TEXT} printable characters")


def check_call(name: str, numbers: tuple[int, ...], text: str) -> None:
    """Check that there is such a call, and that its arguments are as many and as large as it takes."""
    call = CALLS.get(name)
    if call is None:
        raise InvalidRequest("calls.name", f"there is no call {name!r:.40}")
    if len(numbers) != len(call.arguments):
        raise InvalidRequest("calls.numbers", f"{name} takes {', '.join(call.arguments) or 'none'}")
    for argument, number in zip(call.arguments, numbers, strict=True):
        check_below(f"calls.{argument}", number, 1 << 1024 if argument == "nodemask" else _ADDRESSES)
    if text and not call.text:
        raise InvalidRequest("calls.text", f"{name} takes none")
    if call.text == "path" and text:
        check_path(text)
    if len(text) > MAX_TEXT or not text.isprintable():
        raise InvalidRequest("calls.text", f"at most {MAX_TEXT} printable characters")


def _ended(result: Did, what: str) -> str:
    if result.want:
        return f"wants {result.want.pages} pages"
    if result.errno:
        return errno_name(result.errno)
    return f"{what} {result.value}".strip() if what else f"{result.value:#x}"
