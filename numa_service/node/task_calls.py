"""The calls of a task by name: their arguments, and what they do to its address space.

A call is (name, numbers, text): numbers in the order of the call's arguments, and the path of a file or a
name where the call has one. All of it is done at once but for pages that are to be faulted in (Populate).
"""

from __future__ import annotations

import errno
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from numa_service.mm.mempolicy.calls import (
    Area,
    Caller,
    Nodes,
    UserMask,
    set_mempolicy,
    set_mempolicy_home_node,
)
from numa_service.mm.mempolicy.calls import mbind as check_mbind
from numa_service.mm.mempolicy.nodemask import nids_of
from numa_service.mm.mempolicy.policy import CallError, Mempolicy
from numa_service.mm.mmap.attributes import mbind_range, set_anon_name
from numa_service.mm.mmap.brk import brk
from numa_service.mm.mmap.effects import Effect
from numa_service.mm.mmap.entries import pfns_of
from numa_service.mm.mmap.errnos import Errno
from numa_service.mm.mmap.frames import Pfns
from numa_service.mm.mmap.hugetlb import MAP_HUGETLB, align, huge_size, of_vma, pool_of
from numa_service.mm.mmap.madvise import MADV_DONTNEED, MADV_DONTNEED_LOCKED, MADV_REMOVE, madvise
from numa_service.mm.mmap.memory_failure import PR_MCE_KILL_DEFAULT
from numa_service.mm.mmap.mlock import mlock, mlockall, munlock, munlockall
from numa_service.mm.mmap.mmap import MAP_ANONYMOUS, MAP_NORESERVE, MAP_SHARED, MAP_TYPE, PROT_WRITE, mmap
from numa_service.mm.mmap.mprotect import mprotect
from numa_service.mm.mmap.mremap import mremap
from numa_service.mm.mmap.msync import msync
from numa_service.mm.mmap.munmap import munmap
from numa_service.mm.mmap.process import Process
from numa_service.mm.mmap.remap_file_pages import remap_file_pages
from numa_service.mm.mmap.rules import PAGE_MASK, PAGE_SIZE
from numa_service.mm.mmap.vm_flags import VM_HUGETLB
from numa_service.mm.mmap.vma import DEV_ZERO
from numa_service.mm.zonelist import MAX_NUMNODES
from numa_service.node.task_state import MAX_VMAS, Task, Tasks

Numbers = tuple[int, ...]


@dataclass(slots=True)
class CallContext:
    """The state that a call may read and change, and the effects that it leaves to be carried out."""

    tasks: Tasks
    task: Task
    #: What policies ask of the machine.
    nodes: Nodes
    effects: list[Effect]

    def caller(self) -> Caller:
        """The task as a caller of memory policies: it may use every node with memory, and is not root."""
        task, nodes = self.task, self.nodes
        return Caller(self.tasks.profile, nodes, nodes.memory, task.policy, task.turn)

    def areas(self) -> list[Area]:
        """Return the task's VMAs with their policies."""
        return [
            Area(vma.start, vma.end, vma.policy if isinstance(vma.policy, Mempolicy) else None)
            for vma in self.task.process.mm.tree
        ]


Do = Callable[[CallContext, Numbers, str], int]


class CallOf(NamedTuple):
    """A call: the names of its numbers, what it does, and whether it has a text."""

    arguments: tuple[str, ...]
    do: Do
    text: str = ""


class PagesOf:
    """The pages of a task, as its home knows them."""

    def __init__(self, task: Task) -> None:
        self._process = task.process

    def node_of(self, addr: int) -> int:
        """The node of the page at an address; EFAULT if there is none, as of a page of zeros."""
        page = addr & PAGE_MASK
        pfns = pfns_of(self._process.mapped_entries(page, page + PAGE_SIZE))
        vma = self._process.mm.tree.lookup(addr)
        if vma is not None and vma.flags & VM_HUGETLB:
            entry = self._process.mm.tree.huge_entries.get(addr & -huge_size(vma), 0)
            pfns = pfns_of(np.array([entry] if entry else [], np.int64))
        if not len(pfns):
            raise CallError(errno.EFAULT)
        return int(self._process.frames.source.nids_of(pfns)[0])

    def misplaced(self, start: int, end: int, nodes: int) -> bool:
        """Whether a page of the range is on none of the nodes."""
        return len(frames_outside(self._process, start, end, nodes, shared=True)) > 0


def frames_outside(process: Process, start: int, end: int, nodes: int, *, shared: bool) -> Pfns:
    """The frames that a range maps and that are on none of the nodes; without `shared`, its own alone."""
    pfns = np.unique(pfns_of(process.mapped_entries(start, end)))
    outside = ~np.isin(process.frames.source.nids_of(pfns), nids_of(nodes))
    if not shared:
        outside &= process.frames.mapcount[pfns] == 1
    return pfns[outside]


def _mmap(on: CallContext, numbers: Numbers, path: str) -> int:
    addr, length, prot, flags, offset = numbers
    if on.tasks.nr_vmas() >= MAX_VMAS:
        raise Errno(errno.ENOMEM, f"tasks of this node have {MAX_VMAS} VMAs already")
    file, shared = None, flags & MAP_TYPE != 2
    huge = bool(flags & MAP_ANONYMOUS and flags & MAP_HUGETLB)
    if huge:
        file = on.tasks.open_huge()
        if not flags & MAP_NORESERVE:
            pool = on.tasks.pools[pool_of(on.tasks.pools, flags).shift]
            pool.require(on.task.pid, align(length, pool.shift) >> pool.shift)
    elif flags & MAP_ANONYMOUS:
        if flags & MAP_TYPE == MAP_SHARED:
            file = on.tasks.open(DEV_ZERO, writable=True)
    elif path:
        file = on.tasks.open(path, writable=shared or bool(prot & PROT_WRITE))
    address, effects = mmap(on.task.process.mm, addr, length, prot, flags, file, offset)
    on.effects += effects
    if huge:
        assert file is not None
        on.tasks.note_huge(file)
    return address


def _munmap(on: CallContext, numbers: Numbers, text: str) -> int:
    on.effects += munmap(on.task.process.mm, *numbers)
    return 0


def _mprotect(on: CallContext, numbers: Numbers, text: str) -> int:
    start, length, prot = numbers
    mprotect(on.task.process.mm, start, length, prot, on.effects)
    return 0


def _mremap(on: CallContext, numbers: Numbers, text: str) -> int:
    address, old, new, flags, target = numbers
    # pages of tables for the place where it may go to: half as many again, and those above them
    there = sum(address < high and low < address + old for low, high in on.task.process.leaves())
    on.tasks.tables.require(2 * there + 8, 0)
    address, effects = mremap(on.task.process.mm, address, old, new, flags, target)
    on.effects += effects
    return address


def _madvise(on: CallContext, numbers: Numbers, text: str) -> int:
    start, length, advice = numbers
    mm = on.task.process.mm
    if advice in (MADV_DONTNEED, MADV_DONTNEED_LOCKED, MADV_REMOVE) and mm.rules.zap_restores_huge:
        for vma in mm.tree.intersecting(start, start + length):
            if vma.flags & VM_HUGETLB:
                on.tasks.pools[of_vma(vma).pool.shift].require_surplus()
    madvise(on.task.process.mm, start, length, advice, on.effects)
    return 0


def _brk(on: CallContext, numbers: Numbers, text: str) -> int:
    address, effects = brk(on.task.process.mm, *numbers)
    on.effects += effects
    return address


def _mlock(on: CallContext, numbers: Numbers, text: str) -> int:
    on.effects += mlock(on.task.process.mm, *numbers)
    return 0


def _munlock(on: CallContext, numbers: Numbers, text: str) -> int:
    munlock(on.task.process.mm, *numbers)
    return 0


def _mlockall(on: CallContext, numbers: Numbers, text: str) -> int:
    on.effects += mlockall(on.task.process.mm, *numbers)
    return 0


def _munlockall(on: CallContext, numbers: Numbers, text: str) -> int:
    munlockall(on.task.process.mm)
    return 0


def _msync(on: CallContext, numbers: Numbers, text: str) -> int:
    msync(on.task.process.mm, *numbers)
    return 0


def _remap_file_pages(on: CallContext, numbers: Numbers, text: str) -> int:
    if on.tasks.nr_vmas() >= MAX_VMAS:
        raise Errno(errno.ENOMEM, f"tasks of this node have {MAX_VMAS} VMAs already")
    on.effects += remap_file_pages(on.task.process.mm, *numbers)
    return 0


def user_mask(nodemask: int) -> UserMask:
    """A nodemask as a call is given it."""
    words = tuple(nodemask >> at & ((1 << 64) - 1) for at in range(0, MAX_NUMNODES, 64))
    return UserMask(words)


def _set_mempolicy(on: CallContext, numbers: Numbers, text: str) -> int:
    mode, nodemask = numbers
    policy, on.task.turn = set_mempolicy(on.caller(), mode, user_mask(nodemask), MAX_NUMNODES + 1)
    on.task.policy = None if policy is None else policy._replace(cpuset_mems_allowed=0)
    return 0


def _mbind(on: CallContext, numbers: Numbers, text: str) -> int:
    start, length, mode, nodemask, flags = numbers
    mask = user_mask(nodemask)
    bind = check_mbind(
        on.caller(), on.areas(), PagesOf(on.task), start, length, mode, mask, MAX_NUMNODES + 1, flags
    )
    if bind is not None:
        # what differs only in when it was bound is merged (mpol_equal)
        policy = None if bind.policy is None else bind.policy._replace(cpuset_mems_allowed=0)
        mbind_range(on.task.process.mm, start, length, policy)
    return 0


def _home_node(on: CallContext, numbers: Numbers, text: str) -> int:
    start, length, home_node, flags = numbers
    done = set_mempolicy_home_node(on.caller(), on.areas(), start, length, home_node, flags)
    for area in done.changed:
        mbind_range(on.task.process.mm, area.start, area.end - area.start, area.policy)
    if done.errno:
        raise CallError(done.errno)
    return 0


def _name(on: CallContext, numbers: Numbers, name: str) -> int:
    start, length = numbers
    set_anon_name(on.task.process.mm, start, length, name or None)
    return 0


def _rt_sigaction(on: CallContext, numbers: Numbers, text: str) -> int:
    signum, handler = numbers
    if not 1 <= signum <= _NSIG or signum in (signal.SIGKILL, signal.SIGSTOP):
        raise Errno(errno.EINVAL, f"signal {signum} can have no handler")
    if signum == signal.SIGBUS:
        on.task.sigbus = handler
    return 0


def _prctl(on: CallContext, numbers: Numbers, text: str) -> int:
    """Carry out PR_MCE_KILL and PR_MCE_KILL_GET, the only options there are."""
    option, *rest = numbers
    if option == _PR_MCE_KILL_GET and not any(rest):
        return on.task.mce_kill
    what, policy, *unused = rest
    known = policy == 0 if what == 0 else what == 1 and policy <= PR_MCE_KILL_DEFAULT
    if option != _PR_MCE_KILL or any(unused) or not known:
        raise Errno(errno.EINVAL, f"prctl({option}) has other arguments, or is not there")
    on.task.mce_kill = policy if what else PR_MCE_KILL_DEFAULT
    return 0


#: Signals of x86 (_NSIG), and options of prctl() (uapi/linux/prctl.h).
_NSIG = 64
_PR_MCE_KILL, _PR_MCE_KILL_GET = 33, 34

#: Every call by its name, with its arguments as manual pages name them; nodemask has a bit for each node.
CALLS: dict[str, CallOf] = {
    "mmap": CallOf(("addr", "length", "prot", "flags", "offset"), _mmap, "path"),
    "munmap": CallOf(("addr", "length"), _munmap),
    "mprotect": CallOf(("addr", "length", "prot"), _mprotect),
    "mremap": CallOf(("old_address", "old_size", "new_size", "flags", "new_address"), _mremap),
    "madvise": CallOf(("addr", "length", "advice"), _madvise),
    "brk": CallOf(("addr",), _brk),
    "mlock": CallOf(("addr", "length", "flags"), _mlock),
    "munlock": CallOf(("addr", "length"), _munlock),
    "mlockall": CallOf(("flags",), _mlockall),
    "munlockall": CallOf((), _munlockall),
    "msync": CallOf(("addr", "length", "flags"), _msync),
    "remap_file_pages": CallOf(("addr", "size", "prot", "pgoff", "flags"), _remap_file_pages),
    "set_mempolicy": CallOf(("mode", "nodemask"), _set_mempolicy),
    "mbind": CallOf(("addr", "length", "mode", "nodemask", "flags"), _mbind),
    "set_mempolicy_home_node": CallOf(("addr", "length", "home_node", "flags"), _home_node),
    "rt_sigaction": CallOf(("signum", "handler"), _rt_sigaction),
    "prctl": CallOf(("option", "arg2", "arg3", "arg4", "arg5"), _prctl),
    "set_anon_name": CallOf(("addr", "length"), _name, "name"),
}
