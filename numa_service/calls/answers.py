"""What a program's calls are answered. The rules of the memory policy calls are those of ``mm/mempolicy``."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from numa_service.calls.areas import address_space, bind, with_policy
from numa_service.calls.counting import TASK_SIZE, Counting
from numa_service.calls.credentials import CAP_SYS_NICE, has_capability, may_change, may_look_at
from numa_service.calls.machine import MachineOfCalls
from numa_service.calls.moving import Moving
from numa_service.calls.own_files import OwnFiles
from numa_service.calls.placement import PAGE_SHIFT
from numa_service.calls.processes import Gone, Process, Processes, Thread
from numa_service.calls.program_memory import ProgramMemory
from numa_service.calls.remap import MREMAP_DONTUNMAP, MREMAP_FIXED, MREMAP_MAYMOVE, Remaps, move
from numa_service.calls.seccomp import Call, Notification
from numa_service.mm.mempolicy import calls, moves
from numa_service.mm.mempolicy.calls import PAGE_SIZE, Area, Caller, Pointer
from numa_service.mm.mempolicy.policy import CallError

#: The call returns a number, or fails with the errno of a negative one; a text is a file that it opens; None:
#: the host answers.
Answer = int | bytes | None

#: Most pages of one move_pages(): the kernel reads the list in parts, here it is read at once.
MAX_PAGES: Final = 1 << 20
#: The directory of a call that a relative path begins at: the current one.
_AT_FDCWD: Final = -100


class Answers:
    """Answers calls, each at once."""

    def __init__(self, machine: MachineOfCalls, processes: Processes) -> None:
        """Calls of these processes are answered by this machine."""
        self._machine = machine
        self._processes = processes
        self.counting = Counting(machine, processes)
        self._moving = Moving(machine, self.counting)
        self._remaps = Remaps()
        self._files = OwnFiles(machine, processes, self.counting)
        #: How many calls the machine answered, and the host.
        self.answered: Counter[Call] = Counter()
        self.left_to_host: Counter[Call] = Counter()
        self._table: dict[Call, Callable[[Thread, tuple[int, ...], ProgramMemory], Answer]] = {
            Call.OPEN: lambda thread, args, memory: self._open(thread, _AT_FDCWD, args[0], memory),
            Call.OPENAT: lambda thread, args, memory: self._open(thread, _int(args[0]), args[1], memory),
            Call.OPENAT2: lambda thread, args, memory: self._open(thread, _int(args[0]), args[1], memory),
            Call.MMAP: lambda thread, args, memory: self._unmapped(thread, args[0], args[1]),
            Call.MUNMAP: lambda thread, args, memory: self._unmapped(thread, args[0], args[1]),
            Call.MREMAP: self._mremap,
            Call.CLONE: self._makes_others,
            Call.CLONE3: self._makes_others,
            Call.EXIT_GROUP: self._exit_group,
            Call.SYSINFO: self._sysinfo,
            Call.SCHED_SETAFFINITY: self._sched_setaffinity,
            Call.SCHED_GETAFFINITY: self._sched_getaffinity,
            Call.GETCPU: self._getcpu,
            Call.SET_MEMPOLICY: self._set_mempolicy,
            Call.GET_MEMPOLICY: self._get_mempolicy,
            Call.MBIND: self._mbind,
            Call.SET_MEMPOLICY_HOME_NODE: self._set_mempolicy_home_node,
            Call.MOVE_PAGES: self._move_pages,
            Call.MIGRATE_PAGES: self._migrate_pages,
        }

    def answer(self, asked: Notification) -> Answer:
        """The answer to a call."""
        try:
            thread = self._processes.thread(asked.tid)
            self._remaps.end(thread)
            found = self._table[asked.call](thread, asked.args, ProgramMemory(asked.tid))
        except CallError as error:
            found = -error.errno
        except Gone:
            found = None
        (self.left_to_host if found is None else self.answered)[asked.call] += 1
        return found

    def ended(self, process: Process) -> None:
        """A process has ended: its memory is free."""
        self._processes.ended(process)
        self._remaps.forget(process)
        self.counting.shared.mapped(process, set())
        self._machine.end(process.pid)

    def all_ended(self) -> None:
        """The program has ended: nothing of it is left."""
        for process in list(self._processes):
            self.ended(process)
        self.counting.shared.end()

    # threads and address spaces

    def _makes_others(self, thread: Thread, args: tuple[int, ...], memory: ProgramMemory) -> None:
        self._processes.makes_others(thread)

    def _exit_group(self, thread: Thread, args: tuple[int, ...], memory: ProgramMemory) -> None:
        """A process ends: what it has touched until now has been the machine's memory."""
        self._processes.look_for_exec(thread.process)
        self.counting.count(thread.process)
        self._processes.settle(thread)
        self.counting.shared.mapped(thread.process, set())

    def _unmapped(self, thread: Thread, start: int, length: int) -> None:
        """Addresses are unmapped, or something else is mapped there: they have no policy any more.

        What was touched there has been the machine's memory until now.
        """
        process, end = thread.process, min(start + length, TASK_SIZE)
        self._processes.look_for_exec(process)
        maps = self.counting.count(process, start, end)
        process.placement.forget_range(start >> PAGE_SHIFT, -(-end // PAGE_SIZE))
        self.counting.give_back(process)
        left = {vma.key for vma in maps if vma.inode and not start <= vma.start < vma.end <= end}
        self.counting.shared.mapped(process, left)
        if process.areas:
            self._processes.settle(thread)
            process.areas = with_policy(process.areas, start, end, None)

    def _mremap(self, thread: Thread, args: tuple[int, ...], memory: ProgramMemory) -> None:
        """Pages and policies move with their addresses."""
        old, old_length, new_length, flags, new = args[:5]
        process = thread.process
        self._processes.look_for_exec(process)
        self.counting.count(process, old & ~(PAGE_SIZE - 1), min(old + old_length, TASK_SIZE))
        self._processes.settle(thread)
        if not flags & MREMAP_FIXED:
            if flags & MREMAP_MAYMOVE:
                self._remaps.begin(thread, args)
            return
        self._unmapped(thread, new, new_length)
        length = min(old_length, new_length)
        move(process, old, length, new, stays=bool(flags & MREMAP_DONTUNMAP))

    # CPUs

    def _sched_setaffinity(self, thread: Thread, args: tuple[int, ...], memory: ProgramMemory) -> int:
        whose = self._whose(thread, args[0], changes=True)
        size = min(args[1] & 0xFFFFFFFF, PAGE_SIZE)
        cpus = int.from_bytes(memory.read(args[2], size), "little")
        possible = sum(1 << cpu for cpu in self._machine.cpus)
        if not cpus & possible:
            raise CallError(errno.EINVAL)
        self._processes.settle(whose)
        self._processes.run_on(whose, cpus & possible)
        return 0

    def _sched_getaffinity(self, thread: Thread, args: tuple[int, ...], memory: ProgramMemory) -> int:
        size = args[1] & 0xFFFFFFFF
        # as large as a cpumask of the machine, in words of 64 bits
        needed = -(-(max(self._machine.cpus) + 1) // 64) * 8
        if size % 8 or size < needed:
            raise CallError(errno.EINVAL)
        memory.write(args[2], self._whose(thread, args[0]).cpus.to_bytes(needed, "little"))
        return needed

    def _whose(self, thread: Thread, pid: int, *, changes: bool = False) -> Thread:
        """The thread that a call names, 0 being the caller.

        CallError(ESRCH) for one of another program, CallError(EPERM) for another user's if it is to change.
        """
        if pid in (0, thread.tid):
            return thread
        try:
            if self._processes.process(pid) is None:
                raise CallError(errno.ESRCH)
            found = self._processes.thread(pid)
        except Gone:
            raise CallError(errno.ESRCH) from None
        if changes and not may_change(thread.tid, found.tid):
            raise CallError(errno.EPERM)
        return found

    def _getcpu(self, thread: Thread, args: tuple[int, ...], memory: ProgramMemory) -> int:
        for address, value in ((args[0], thread.cpu), (args[1], self._machine.node_of_cpu[thread.cpu])):
            if address:
                memory.write(address, struct.pack("I", value))
        return 0

    def _sysinfo(self, thread: Thread, args: tuple[int, ...], memory: ProgramMemory) -> int:
        """The machine's memory; uptime, load and processes are those of the host, as its processes are."""
        memory.write(args[0], self._files.sysinfo())
        return 0

    # memory policies

    def _caller(self, thread: Thread, privileged: bool = False) -> Caller:
        """The task that calls; whether it is privileged is found out only if it asks for what needs it."""
        machine, allowed = self._machine, self._machine.nodes.memory
        nice = privileged and has_capability(thread.tid, CAP_SYS_NICE)
        return Caller(machine.profile, machine.nodes, allowed, thread.policy, thread.turn, nice)

    def _set_mempolicy(self, thread: Thread, args: tuple[int, ...], memory: ProgramMemory) -> int:
        mode, address, maxnode = _int(args[0]), args[1], args[2]
        policy, turn = calls.set_mempolicy(self._caller(thread), mode, memory.mask(address, maxnode), maxnode)
        self._processes.settle(thread)
        if thread.tid == thread.process.pid:
            self.counting.count(thread.process)  # what is there was placed by the policy until now
        thread.policy, thread.turn = policy, turn
        return 0

    def _get_mempolicy(self, thread: Thread, args: tuple[int, ...], memory: ProgramMemory) -> int:
        mode, address, maxnode, at, flags = args[:5]
        process, space = self._space(thread) if flags & calls.MPOL_F_ADDR else (thread.process, [])
        told = calls.get_mempolicy(
            self._caller(thread),
            space,
            _Pages(self.counting, process, memory),
            _pointer(mode),
            _pointer(address),
            maxnode,
            at,
            flags,
        )
        if mode:
            memory.write(mode, struct.pack("i", told.mode))
        if told.words:
            nodes = told.nodes & ((1 << 64 * told.words) - 1)
            memory.write(address, nodes.to_bytes(8 * told.words, "little"))
        return -told.errno

    def _mbind(self, thread: Thread, args: tuple[int, ...], memory: ProgramMemory) -> int:
        start, length, mode, address, maxnode, flags = args[:6]
        process, space = self._space(thread)
        mask = memory.mask(address, maxnode)
        pages = _Pages(self.counting, process, memory)
        flags &= 0xFFFFFFFF
        caller = self._caller(thread, bool(flags & calls.MPOL_MF_MOVE_ALL))
        bound = calls.mbind(caller, space, pages, start, length, _int(mode), mask, maxnode, flags)
        if bound is None:
            return 0
        self._processes.settle(thread)
        maps = self.counting.count(process, bound.start, bound.end)
        bind(process, self.counting.shared, maps, bound.start, bound.end, bound.policy)
        if bound.keeps is not None and bound.policy is not None:
            left = self._moving.move_range(
                thread, bound.start, bound.end, bound.keeps, bound.policy, bound.shared
            )
            if left and bound.strict:
                return -errno.EIO
        return 0

    def _set_mempolicy_home_node(self, thread: Thread, args: tuple[int, ...], memory: ProgramMemory) -> int:
        process, space = self._space(thread)
        done = calls.set_mempolicy_home_node(self._caller(thread), space, *args[:4])
        self._processes.settle(thread)
        maps = self._files.maps(process)
        for area in done.changed:
            bind(process, self.counting.shared, maps, area.start, area.end, area.policy)
        return -done.errno

    def _space(self, thread: Thread) -> tuple[Process, list[Area]]:
        process = thread.process
        self._processes.look_for_exec(process)
        return process, address_space(process, self.counting.shared, self._files.maps(process))

    # pages that move

    def _move_pages(self, thread: Thread, args: tuple[int, ...], memory: ProgramMemory) -> int:
        pid, count, pages, nodes, status, flags = args[:6]
        if count > MAX_PAGES:
            raise CallError(errno.E2BIG)
        whose = self._target(thread, pid)
        states = self._moving.states(whose.process, memory.words(pages, count)) if whose else None
        wanted: Sequence[int] | None = memory.integers(nodes, count) if nodes else None
        flags &= 0xFFFFFFFF
        done = moves.move_pages(
            self._caller(thread, bool(flags & calls.MPOL_MF_MOVE_ALL)),
            self._looked_at(thread, whose),
            states,
            wanted,
            _pointer(status),
            count,
            flags,
        )
        addresses, told = memory.words(pages, count), list(done.status)
        if whose and done.moves:
            everybodys = bool(flags & calls.MPOL_MF_MOVE_ALL)
            for at in self._moving.carry_out(whose, addresses, done.moves, everybodys):
                if at < len(told):
                    told[at] = -errno.ENOMEM
        memory.write(status, struct.pack(f"{len(told)}i", *told)) if told else None
        return -done.errno

    def _migrate_pages(self, thread: Thread, args: tuple[int, ...], memory: ProgramMemory) -> int:
        pid, maxnode, old, new = args[:4]
        whose = self._target(thread, pid)
        masks = memory.mask(old, maxnode), memory.mask(new, maxnode)
        caller = self._caller(thread, True)
        done = moves.migrate_pages(caller, self._looked_at(thread, whose), maxnode, *masks)
        return self._moving.migrate(whose, done.pairs, done.shared) if whose else 0

    def _looked_at(self, thread: Thread, whose: Thread | None) -> moves.Target | None:
        """The task that a call is about, as the caller may look at it."""
        if whose is None:
            return None
        permitted = whose.process is thread.process or may_look_at(thread.tid, whose.tid)
        return moves.Target(self._machine.nodes.memory, permitted)

    def _target(self, thread: Thread, pid: int) -> Thread | None:
        """The first thread of the process that a call names."""
        if pid in (0, thread.process.pid, thread.tid):
            return thread.process.threads[thread.process.pid]
        process = self._processes.process(pid)
        return process.threads[process.pid] if process else None

    # files

    def _open(self, thread: Thread, directory: int, address: int, memory: ProgramMemory) -> Answer:
        """A file that is opened to be read: one of the machine, or None."""
        path = memory.path(address)
        if not path.startswith("/"):
            begin = "cwd" if directory == _AT_FDCWD else f"fd/{directory}"
            try:
                path = os.path.join(os.readlink(f"/proc/{thread.tid}/{begin}"), path)
            except OSError:
                return None
        return self._files.text(thread, os.path.normpath(path))


class _Pages:
    """The pages of a process, as the policy calls ask for them."""

    def __init__(self, counting: Counting, process: Process, memory: ProgramMemory) -> None:
        self._counting, self._process, self._memory = counting, process, memory

    def node_of(self, addr: int) -> int:
        """The node of a page, which is there once it is read; the page of zeros is of the first node."""
        self._memory.read(addr, 1)
        at = addr & ~(PAGE_SIZE - 1)
        self._counting.count(self._process, at, at + PAGE_SIZE)
        return max(self._process.placement.node(addr >> PAGE_SHIFT), 0)

    def misplaced(self, start: int, end: int, nodes: int) -> bool:
        """Whether a page in the range is on none of the nodes."""
        self._counting.count(self._process, start, end)
        there = self._process.placement.by_node(start >> PAGE_SHIFT, end >> PAGE_SHIFT)
        return any(not nodes >> nid & 1 for nid in there)


def _pointer(address: int) -> Pointer:
    """Whether a pointer is null; one that is bad is found out when it is written to."""
    return Pointer.GOOD if address else Pointer.NULL


def _int(argument: int) -> int:
    """An argument that is an int of C, in a register of 64 bits."""
    return ctypes.c_int(argument & 0xFFFFFFFF).value
