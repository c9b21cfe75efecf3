"""Runs a program whose calls a machine answers, until it and all that it made have ended."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from numa_service.calls import seccomp
from numa_service.calls.answers import Answers
from numa_service.calls.machine import MachineOfCalls
from numa_service.calls.processes import Process, Processes
from numa_service.calls.seccomp import Call, Listener, Notification


class Supervisor:
    """A program, and whoever answers its calls."""

    def __init__(self, machine: MachineOfCalls) -> None:
        """Calls are answered by this machine."""
        self._processes = Processes(machine.cpus)
        self.answers = Answers(machine, self._processes)
        self._known: dict[int, Process] = {}
        #: Calls that were received and not answered yet: from then on no signal but SIGKILL ends them.
        self._received: deque[Notification] = deque()

    def run(self, command: Callable[[int], Sequence[str]], *descriptors: int) -> int:
        """Run a program to its end; its exit status as subprocess has it: -N if signal N ended it.

        `command` is its command line, given the descriptor to which it has to send the listener; it inherits
        that one and the others. Interrupts from the terminal reach the program by themselves, and are its
        own business. What it leaves running in the background is waited for, as its calls could not be
        answered otherwise.
        """
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                to = theirs.fileno()
                program = subprocess.Popen(command(to), pass_fds=(to, *descriptors))
            with _passing_on(program):
                listener = seccomp.receive(ours)
                if listener is not None:
                    self._serve(Listener(listener), program)
                    os.close(listener)
                return program.wait()

    def report(self) -> str:
        """Return a report of the program's system calls, and of who answered them."""
        answers = self.answers
        lines = [f"{'call':<24} {'machine':>9} {'host':>9}"]
        for call in sorted({*answers.answered, *answers.left_to_host}, key=lambda call: call.name):
            counts = answers.answered[call], answers.left_to_host[call]
            lines.append(f"{call.name.lower():<24} {counts[0]:>9} {counts[1]:>9}")
        return "\n".join([*lines, "every other call was the host's"])

    def _serve(self, listener: Listener, program: subprocess.Popen[bytes]) -> None:
        poll = select.epoll()
        poll.register(listener.descriptor, select.EPOLLIN)
        self.answers.counting.meanwhile = lambda: self._receive(listener)
        told = False
        while True:
            # what arrived while others were answered waits behind what has happened meanwhile
            for descriptor, events in poll.poll(0 if self._received else None):
                if descriptor == listener.descriptor:
                    if events & select.EPOLLHUP:
                        poll.close()
                        self.answers.all_ended()
                        return
                    self._receive(listener)
                else:
                    poll.unregister(descriptor)
                    self.answers.ended(self._known.pop(descriptor))
            for _ in range(len(self._received)):
                self._answer(listener, self._received.popleft())
            for process in self._processes:
                if process.pidfd not in self._known:
                    self._known[process.pidfd] = process
                    poll.register(process.pidfd, select.EPOLLIN)
            if not told and program.poll() is not None:
                left = [process.name for process in self._processes if process.pid != program.pid]
                told = bool(left)
                if left:
                    message = "numa-service: still running, and answered until they end:"
                    print(message, ", ".join(left), file=sys.stderr)

    def _receive(self, listener: Listener) -> None:
        """Receive what has arrived: a signal could end calls with EINTR that wait for this."""
        while listener.has_some():
            asked = listener.receive()
            if asked is not None:
                self._received.append(asked)

    def _answer(self, listener: Listener, asked: Notification) -> None:
        if not listener.waits(asked):
            return  # killed meanwhile: its number may be another thread's by now
        found = self.answers.answer(asked)
        if found is None:
            listener.let_host_answer(asked)
        elif isinstance(found, bytes):
            flags = asked.args[1 if asked.call is Call.OPEN else 2]
            listener.answer_with_file(asked, found, close_on_exec=bool(flags & os.O_CLOEXEC))
        else:
            listener.answer(asked, found)


@contextmanager
def _passing_on(program: subprocess.Popen[bytes]) -> Iterator[None]:
    """Pass signals that are meant for the program on to it; those of the terminal it has already."""

    def pass_on(number: int, frame: FrameType | None) -> None:
        program.send_signal(number)

    def leave(number: int, frame: FrameType | None) -> None:
        """Nothing: not SIG_IGN, which a program that is started would inherit."""

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGHUP)}
    before |= {number: signal.signal(number, leave) for number in (signal.SIGINT, signal.SIGQUIT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
