"""What a program's calls are answered. The rules of the memory policy calls are those of ``mm/mempolicy``."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from numa_service.calls.counting import TASK_SIZE, Counting, address_space
from numa_service.calls.machine import SimulatedMachine
from numa_service.calls.own_files import OwnFiles
from numa_service.calls.placement import CHUNK, INHERITED, NOWHERE, PAGE_SHIFT, Vma
from numa_service.calls.processes import Gone, Process, Processes, Thread
from numa_service.calls.program_memory import ProgramMemory
from numa_service.calls.seccomp import Call, Notification
from numa_service.mm.mempolicy import calls, moves
from numa_service.mm.mempolicy.calls import PAGE_SIZE, Area, Caller, Pointer
from numa_service.mm.mempolicy.policy import CallError, Mempolicy

#: The call returns a number, or fails with the errno of a negative one; a text is a file that it opens; None:
#: the host answers.
Answer = int | bytes | None

#: Most pages of one move_pages(): the kernel reads the list in parts, here it is read at once.
MAX_PAGES: Final = 1 << 20
_MREMAP_FIXED: Final = 2
_MREMAP_DONTUNMAP: Final = 4
#: The directory of a call that a relative path begins at: the current one.
_AT_FDCWD: Final = -100


class Answers:
    """Answers calls, each at once."""

    def __init__(self, machine: SimulatedMachine, processes: Processes) -> None:
        """Calls of these processes are answered by this machine."""
        self._machine = machine
        self._processes = processes
        self.counting = Counting(machine)
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
            Call.FORK: self._makes_others,
            Call.VFORK: self._makes_others,
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
            memory = ProgramMemory(asked.tid)
        except (Gone, OSError):
            return None
        try:
            found = self._table[asked.call](thread, asked.args, memory)
        except CallError as error:
            found = -error.errno
        except Gone:
            found = -errno.ESRCH
        finally:
            memory.close()
        (self.left_to_host if found is None else self.answered)[asked.call] += 1
        return found

    def ended(self, process: Process) -> None:
        """A process has ended: its memory is free."""
        self._processes.ended(process)
        self._machine.end(process.pid)

    # threads and address spaces

    def _makes_others(self, thread: Thread, args: tuple[int, ...], memory: ProgramMemory) -> None:
        self._processes.makes_others(thread)

    def _exit_group(self, thread: Thread, args: tuple[int, ...], memory: ProgramMemory) -> None:
        """A process ends: what it has touched until now has been the machine's memory."""
        self._processes.look_for_exec(thread.process)
        self.counting.count(thread.process)

    def _unmapped(self, thread: Thread, start: int, length: int) -> None:
        """Addresses are unmapped, or something else is mapped there: they have no policy any more.

        What was touched there has been the machine's memory until now.
        """
        process, end = thread.process, min(start + length, TASK_SIZE)
        self._processes.look_for_exec(process)
        self.counting.count(process, start, end)
        process.placement.forget_range(start >> PAGE_SHIFT, -(-end // PAGE_SIZE))
        self.counting.give_back(process)
        if process.areas:
            self._processes.settle(thread)
            self._set_policy(process, start, end, None)

    def _mremap(self, thread: Thread, args: tuple[int, ...], memory: ProgramMemory) -> None:
        """A policy moves with its addresses where the program says where to; elsewhere it is lost."""
        old, old_length, new_length, flags, new = args[:5]
        if not flags & _MREMAP_FIXED:
            return
        moved = [area for area in thread.process.areas if old <= area.start and area.end <= old + old_length]
        self._unmapped(thread, new, new_length)
        if not flags & _MREMAP_DONTUNMAP:
            self._unmapped(thread, old, old_length)
        for area in moved:
            at = area.start - old + new
            self._set_policy(thread.process, at, at + area.end - area.start, area.policy)

    @staticmethod
    def _set_policy(process: Process, start: int, end: int, policy: Mempolicy | None) -> None:
        """Give addresses a policy; the default policy is none at all, and nothing is kept of it."""
        kept = list[Area]()
        for area in process.areas:
            if area.start < min(area.end, start):
                kept.append(area._replace(end=min(area.end, start)))
            if max(area.start, end) < area.end:
                kept.append(area._replace(start=max(area.start, end)))
        if policy is not None:
            kept.append(Area(start, end, policy))
        process.areas = tuple(sorted(kept))

    # CPUs

    def _sched_setaffinity(self, thread: Thread, args: tuple[int, ...], memory: ProgramMemory) -> int:
        whose = self._whose(thread, args[0])
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

    def _whose(self, thread: Thread, pid: int) -> Thread:
        """The thread that a call names, 0 being the caller; CallError(ESRCH) for one of another program."""
        if pid in (0, thread.tid):
            return thread
        try:
            if self._processes.process(pid) is None:
                raise CallError(errno.ESRCH)
            return self._processes.thread(pid)
        except Gone:
            raise CallError(errno.ESRCH) from None

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

    def _caller(self, thread: Thread) -> Caller:
        allowed = self._machine.nodes.memory
        machine = self._machine
        return Caller(machine.profile, machine.nodes, allowed, thread.policy, thread.turn, cap_sys_nice=True)

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
        bind = calls.mbind(
            self._caller(thread), space, pages, start, length, _int(mode), mask, maxnode, flags & 0xFFFFFFFF
        )
        if bind is None:
            return 0
        self._processes.settle(thread)
        self.counting.count(process, bind.start, bind.end)
        self._set_policy(process, bind.start, bind.end, bind.policy)
        if bind.keeps is not None and bind.policy is not None:
            left = self._move_range(thread, bind.start, bind.end, bind.keeps, bind.policy)
            if left and bind.strict:
                return -errno.EIO
        return 0

    def _set_mempolicy_home_node(self, thread: Thread, args: tuple[int, ...], memory: ProgramMemory) -> int:
        process, space = self._space(thread)
        done = calls.set_mempolicy_home_node(self._caller(thread), space, *args[:4])
        self._processes.settle(thread)
        for area in done.changed:
            self._set_policy(process, area.start, area.end, area.policy)
        return -done.errno

    def _space(self, thread: Thread) -> tuple[Process, list[Area]]:
        process = thread.process
        self._processes.look_for_exec(process)
        return process, address_space(process, self._files.maps(process))

    # pages that move

    def _move_range(self, thread: Thread, start: int, end: int, keeps: int, policy: Mempolicy) -> int:
        """Move the pages that are on none of the nodes `keeps` to nodes of the policy; how many could not."""
        process = thread.process
        targets = [nid for nid in range(policy.nodes.bit_length()) if policy.nodes >> nid & 1]
        first, behind = start >> PAGE_SHIFT, -(-end // PAGE_SIZE)
        failed = 0
        for at in process.placement.chunks(first, behind):
            nids = process.placement.of_chunk(at)
            for page in range(max(first, at * CHUNK), min(behind, (at + 1) * CHUNK)):
                there = int(nids[page % CHUNK])
                if there == NOWHERE or there & INHERITED or keeps >> there & 1:
                    continue
                to = targets[page % len(targets)] if targets else self._machine.node_of_cpu[thread.cpu]
                failed += not self._move(thread, page, to)
        self.counting.give_back(process)
        return failed

    def _move(self, thread: Thread, page: int, nid: int) -> bool:
        """Move one page; False if the node has no memory for it."""
        process = thread.process
        if not self._machine.take_on(process.pid, process.name, thread.cpu, nid, 1):
            return False
        nids = process.placement.of_chunk(page // CHUNK)
        there = nids[page % CHUNK : page % CHUNK + 1]
        process.placement.note_left(there[there < INHERITED])
        there[:] = nid
        return True

    def _move_pages(self, thread: Thread, args: tuple[int, ...], memory: ProgramMemory) -> int:
        pid, count, pages, nodes, status, flags = args[:6]
        if count > MAX_PAGES:
            raise CallError(errno.E2BIG)
        whose = self._target(thread, pid)
        states = self._states(whose.process, memory.words(pages, count)) if whose else None
        wanted: Sequence[int] | None = memory.integers(nodes, count) if nodes else None
        target = moves.Target(self._machine.nodes.memory) if whose else None
        done = moves.move_pages(
            self._caller(thread), target, states, wanted, _pointer(status), count, flags & 0xFFFFFFFF
        )
        addresses, told = memory.words(pages, count), list(done.status)
        if whose:
            for at, nid in done.moves:
                if not self._move(whose, addresses[at] >> PAGE_SHIFT, nid) and at < len(told):
                    told[at] = -errno.ENOMEM
            self.counting.give_back(whose.process)
        memory.write(status, struct.pack(f"{len(told)}i", *told)) if told else None
        return -done.errno

    def _migrate_pages(self, thread: Thread, args: tuple[int, ...], memory: ProgramMemory) -> int:
        pid, maxnode, old, new = args[:4]
        whose = self._target(thread, pid)
        target = moves.Target(self._machine.nodes.memory) if whose else None
        masks = memory.mask(old, maxnode), memory.mask(new, maxnode)
        done = moves.migrate_pages(self._caller(thread), target, maxnode, *masks)
        failed = 0
        if whose:
            self.counting.count(whose.process)
            placement = whose.process.placement
            for source, to in done.pairs:
                for at in placement.chunks(0, 1 << 52):
                    for offset in (placement.of_chunk(at) == source).nonzero()[0].tolist():
                        failed += not self._move(whose, at * CHUNK + offset, to)
            self.counting.give_back(whose.process)
        return failed

    def _target(self, thread: Thread, pid: int) -> Thread | None:
        """The first thread of the process that a call names."""
        if pid in (0, thread.process.pid, thread.tid):
            return thread.process.threads[thread.process.pid]
        process = self._processes.process(pid)
        return process.threads[process.pid] if process else None

    def _states(self, process: Process, addresses: Sequence[int]) -> list[moves.PageState]:
        """Return the state of the page at each address, as move_pages() needs it."""
        if not addresses:
            return []
        low, high = min(addresses) & ~(PAGE_SIZE - 1), max(addresses) + 1
        maps = self.counting.count(process, low, -(-high // PAGE_SIZE) * PAGE_SIZE)
        found = list[moves.PageState]()
        for address in addresses:
            vma = _at(maps, address)
            nid = process.placement.node(address >> PAGE_SHIFT)
            found.append(moves.PageState(nid, vma is not None, 1, vma is None or not vma.of_file))
        return found

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


def _at(maps: Sequence[Vma], address: int) -> Vma | None:
    return next((vma for vma in maps if vma.start <= address < vma.end), None)


def _pointer(address: int) -> Pointer:
    """Whether a pointer is null; one that is bad is found out when it is written to."""
    return Pointer.GOOD if address else Pointer.NULL


def _int(argument: int) -> int:
    """An argument that is an int of C, in a register of 64 bits."""
    return ctypes.c_int(argument & 0xFFFFFFFF).value
