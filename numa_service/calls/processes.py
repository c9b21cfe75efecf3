"""Which threads and processes call, and what each has from the one that made it.

A supervisor hears of a thread when it calls for the first time. What it inherited is what its maker had when
it was made: before something of a thread changes, and before its process ends, those that it has made are
looked for (:meth:`Processes.settle`). Who makes threads is noted, as no file says whose they are.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from numa_service.calls.placement import Key, Placement
from numa_service.mm.mempolicy.calls import Area
from numa_service.mm.mempolicy.interleave import FIRST_TURN, Turn
from numa_service.mm.mempolicy.policy import Mempolicy

#: Fields of /proc/PID/stat behind the name, in parentheses: state, ppid, …
_PPID, _STARTSTACK = 1, 25


class Gone(Exception):
    """The process has ended."""


@dataclass(slots=True)
class Thread:
    """A thread: what it has for itself, and its process."""

    tid: int
    process: Process
    policy: Mempolicy | None = None
    turn: Turn = FIRST_TURN
    #: The machine's CPUs that it may run on, a bit each; and the one that it is taken to run on.
    cpus: int = 0
    cpu: int = 0


@dataclass(slots=True, eq=False)
class Process:
    """A process: threads, and an address space."""

    pid: int
    #: Becomes readable when the process ends (pidfd_open).
    pidfd: int
    threads: dict[int, Thread] = field(default_factory=dict)
    #: Parts of the address space that have a policy, ascending.
    areas: tuple[Area, ...] = ()
    #: Where its pages are.
    placement: Placement = field(default_factory=Placement)
    #: Another address space than before has another (stack's address, as /proc/PID/stat has it): execve().
    space: int = 0
    #: The thread that made threads last, if any may not be known yet.
    maker: Thread | None = None
    #: Pages of files and of shared memory that are mapped: their keys in :class:`SharedPages`.
    shares: set[Key] = field(default_factory=set)

    @property
    def name(self) -> str:
        """The process's current comm and its pid, as "redis-server[4711]"."""
        try:
            comm = Path(f"/proc/{self.pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            comm = ""
        return f"{comm}[{self.pid}]"


class Processes:
    """The processes of a program."""

    def __init__(self, cpus: tuple[int, ...]) -> None:
        """None; those of which nobody known is the maker may run on all CPUs of the machine, `cpus`."""
        self._cpus = cpus
        self._by_pid: dict[int, Process] = {}
        #: How many threads are taken to run on each CPU.
        self._load = dict.fromkeys(cpus, 0)
        #: Of the process that ended last: who is not known, and has no parent any more, was made by it.
        self._orphans: Thread | None = None

    def __iter__(self) -> Iterator[Process]:
        return iter(self._by_pid.values())

    def __len__(self) -> int:
        return len(self._by_pid)

    def thread(self, tid: int) -> Thread:
        """The thread of this number, which waits for an answer; Gone."""
        known = self._known(tid)
        if known is not None:
            return known
        status = _status(tid)
        process = self._by_pid.get(status.pid)
        if process is None:
            return self._new_process(status, tid)
        return self._new_thread(process, tid, process.maker or process.threads[process.pid])

    def _known(self, tid: int) -> Thread | None:
        """A thread that is known, unless its number is another thread's by now."""
        process = self._by_pid.get(tid)
        if process is not None:
            return process.threads[tid]
        for process in self._by_pid.values():
            if tid in process.threads:
                if os.path.exists(f"/proc/{process.pid}/task/{tid}"):
                    return process.threads[tid]
                self._forget_thread(process.threads.pop(tid))
        return None

    def process(self, pid: int) -> Process | None:
        """A process that is one of the program's, also if it has not called yet; None for any other."""
        try:
            status = _status(pid)
            process = self._by_pid.get(status.pid)
            if process is None and self._parent(status) is not None:
                process = self._new_process(status, status.pid).process
        except Gone:
            return None
        return process

    def _parent(self, status: _Status) -> Process | None:
        """The process that made one, also if nobody heard of it yet; None for one of no process here."""
        known = self._by_pid.get(status.ppid)
        return known if known or status.ppid <= 1 else self.process(status.ppid)

    def _new_process(self, status: _Status, tid: int, maker: Thread | None = None) -> Thread:
        parent = self._parent(status) if maker is None else None
        if parent is not None:
            by = (thread for thread in parent.threads.values() if status.pid in _children(thread))
            maker = next(by, parent.threads[parent.pid])
        elif maker is None:
            maker = self._orphans
        try:
            pidfd = os.pidfd_open(status.pid)
        except OSError:
            raise Gone from None
        process = self._by_pid[status.pid] = Process(status.pid, pidfd, space=_space(status.pid))
        if maker and maker.process.space == process.space:
            process.areas = maker.process.areas
            process.placement = maker.process.placement.inherited()
        leader = self._new_thread(process, status.pid, maker)
        return leader if tid == status.pid else self._new_thread(process, tid, leader)

    def _new_thread(self, process: Process, tid: int, maker: Thread | None) -> Thread:
        cpus = maker.cpus if maker else sum(1 << cpu for cpu in self._cpus)
        policy, turn = (maker.policy, maker.turn) if maker else (None, FIRST_TURN)
        thread = process.threads[tid] = Thread(tid, process, policy, turn)
        self.run_on(thread, cpus)
        return thread

    def run_on(self, thread: Thread, cpus: int) -> None:
        """A thread may run on these CPUs: it is taken to run on the one where the fewest threads are."""
        if thread.cpus:
            self._load[thread.cpu] -= 1
        thread.cpus = cpus
        thread.cpu = min((cpu for cpu in self._cpus if cpus >> cpu & 1), key=lambda cpu: self._load[cpu])
        self._load[thread.cpu] += 1

    def makes_others(self, thread: Thread) -> None:
        """A thread makes a thread: what it has now is what that one begins with."""
        if thread.process.maker not in (None, thread):
            self.settle(thread)
        thread.process.maker = thread

    def settle(self, thread: Thread) -> None:
        """Before something of a thread changes: those that its process has made get what it had."""
        process = thread.process
        if process.maker is not None:
            for tid in _numbers(f"/proc/{process.pid}/task"):
                if tid not in process.threads:
                    self._new_thread(process, tid, process.maker)
            process.maker = None
        for maker in list(process.threads.values()):
            for pid in _children(maker):
                if pid not in self._by_pid:
                    with suppress(Gone):
                        self._new_process(_status(pid), pid, maker)

    def look_for_exec(self, process: Process) -> None:
        """Forget the address space of a process that has become another program since (execve)."""
        space = _space(process.pid)
        if space != process.space:
            process.space, process.areas = space, ()
            process.placement.forget_all()

    def ended(self, process: Process) -> None:
        """A process has ended; :attr:`Process.placement` is the caller's to give back."""
        self._orphans = process.threads[process.pid]
        os.close(process.pidfd)
        for thread in process.threads.values():
            self._forget_thread(thread)
        del self._by_pid[process.pid]

    def _forget_thread(self, thread: Thread) -> None:
        self._load[thread.cpu] -= 1


class _Status(NamedTuple):
    pid: int
    ppid: int


def _status(tid: int) -> _Status:
    """The process of a thread, and its parent; Gone."""
    try:
        text = Path(f"/proc/{tid}/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        raise Gone from None
    found = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    return _Status(int(found["Tgid"]), int(found["PPid"]))


def _space(pid: int) -> int:
    """The address of the first stack of a process, which another program has elsewhere; 0 if it has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    return int(text.rpartition(")")[2].split()[_STARTSTACK])


def _children(thread: Thread) -> list[int]:
    """The processes that a thread has made and that have not been waited for."""
    try:
        text = Path(f"/proc/{thread.process.pid}/task/{thread.tid}/children").read_text(encoding="ascii")
    except FileNotFoundError:
        # it has ended, or the host's kernel was built without CONFIG_PROC_CHILDREN
        return _children_of(thread.process.pid) if thread.tid == thread.process.pid else []
    except OSError:
        return []
    return [int(word) for word in text.split()]


def _children_of(pid: int) -> list[int]:
    found = list[int]()
    for number in _numbers("/proc"):
        with suppress(Gone):
            if _status(number).ppid == pid:
                found.append(number)
    return found


def _numbers(directory: str) -> list[int]:
    try:
        return sorted(int(name) for name in os.listdir(directory) if name.isdigit())
    except OSError:
        return []
