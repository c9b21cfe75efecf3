"""What a simulated client has its tasks do, and what it knows of them."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any, Protocol

from numa_service.mm.mmap.madvise import MADV_DONTNEED
from numa_service.mm.mmap.mmap import MAP_ANONYMOUS, MAP_FIXED, MAP_PRIVATE, MAP_SHARED
from numa_service.node.inbox import Inbox
from numa_service.node.task import Asked, Ran, spawn
from numa_service.node.task_program import Step, run_program
from numa_service.sim.attack import plan

#: What tasks map lies here, each time 1 GiB further up.
_FIRST, _APART = 1 << 36, 1 << 30
#: Errors that a correct call may end with: no memory, and a task that a late repeat has ended.
_EXPECTED = (0, errno.ENOMEM, errno.ESRCH)


class Asker(Protocol):
    """The client."""

    session: int
    #: Whether it may not know all that was done for it.
    unsure: bool
    number: int
    violated: Callable[[str], None]

    def ask(
        self, about: tuple[Any, ...], begin: Callable[[Inbox], Any], then: Callable[[Any], None] = ...
    ) -> None:
        """Send a request, and repeat it until it is answered."""


class ClientTasks:
    """The tasks of one client."""

    def __init__(self, client: Asker) -> None:
        self._client = client
        #: pid → (address, pages) of what it has mapped, in order.
        self.areas: dict[int, list[tuple[int, int]]] = {}
        self._mapped = 0
        #: Requests that were sent, and answered.
        self._sent = self._answered = 0

    def spawn(self, cpu: int) -> None:
        """Begin a task."""

        def begun(ran: Ran) -> None:
            if ran.errno == 0:
                self.areas[ran.value] = []
            elif ran.errno not in _EXPECTED:
                self._client.violated(f"client {self._client.number}: spawn: {ran.reason}")

        session = self._client.session
        self._client.ask(("spawn", cpu), lambda inbox: spawn(inbox.node, session, cpu, "subj"), begun)

    def do(self, action: plan.TaskAction) -> None:
        """Carry out one action of the plan, if the task is able to."""
        pids = list(self.areas)
        pid = pids[int(action.which * len(pids))]
        areas = self.areas[pid]
        match action:
            case plan.TaskMap():
                self._map(pid, action)
            case plan.TaskTouch() if areas:
                address, pages = areas[-1]
                first = min(int(action.first * pages), pages - 1)
                count = max(1, min(int(action.share * pages), pages - first))
                self._run(pid, Asked("touch", (address + (first << 12), count << 12, int(action.write))))
            case plan.TaskUnmap() if areas:
                address, pages = areas.pop()
                count = max(1, int(action.share * pages))
                if action.dont_need:
                    areas.append((address, pages))
                    self._run(pid, Asked("madvise", (address, count << 12, MADV_DONTNEED)))
                else:
                    self._run(pid, Asked("munmap", (address, count << 12)))
            case plan.TaskFork():
                self._run(pid, Asked("fork"))
            case plan.TaskMigrate():
                self._run(pid, Asked("migrate_pages", (action.old, action.new)))
            case plan.TaskExit():
                del self.areas[pid]
                self._run(pid, Asked("exit"))

    def _map(self, pid: int, action: plan.TaskMap) -> None:
        address = _FIRST + self._mapped * _APART
        self._mapped += 1
        flags = MAP_ANONYMOUS | MAP_FIXED | (MAP_SHARED if action.shared else MAP_PRIVATE)
        length = action.pages << 12
        calls = [Asked("mmap", (address, length, 3, flags, 0))]
        if action.policy[0]:
            calls.append(Asked("mbind", (address, length, *action.policy, 0)))
        calls.append(Asked("touch", (address, max(1, int(action.share * action.pages)) << 12, 1)))
        self._run(pid, *calls)

    def _run(self, pid: int, *calls: Asked) -> None:
        """Have a task make calls, and note what is mapped and forked."""

        mapped = list(self.areas.get(pid, ()))
        alone = self._sent == self._answered
        self._sent += 1
        sent = self._sent

        def ran(done: list[Ran]) -> None:
            self._answered += 1
            last = done[-1]
            # requests that are under way together may arrive in any order: an munmap before an earlier fork
            expected = last.errno in _EXPECTED or not (alone and sent == self._sent)
            if not expected and not self._client.unsure:
                self._client.violated(f"client {self._client.number}: {calls[len(done) - 1]}: {last.reason}")
            for call, one in zip(calls, done, strict=False):
                if one.errno == 0 and call.name == "mmap" and pid in self.areas:
                    self.areas[pid].append((one.value, call.numbers[1] >> 12))
                if one.errno == 0 and call.name == "fork":
                    self.areas[one.value] = list(mapped)

        session, program = self._client.session, [Step(call) for call in calls]
        self._client.ask(("task", pid, calls), lambda inbox: run_program(inbox, session, pid, program), ran)
