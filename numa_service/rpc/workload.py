"""WorkloadService: programs that run on the node's event loop, in slices between which others are served."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import grpc.aio
from numa_client import Program, ProgramProgress
from numa_client._gen.numa.v1 import workload_service_pb2 as pb2
from numa_client._gen.numa.v1 import workload_service_pb2_grpc as pb2_grpc

from numa_service.node.ask import through_outbox
from numa_service.node.errors import LimitExceeded, NodeError, NotFound, Precondition, TooMany
from numa_service.node.node import Node
from numa_service.rpc import program_messages
from numa_service.rpc.peers import Peers
from numa_service.rpc.requests import Requests
from numa_service.rpc.tokens import session_of
from numa_service.workload.run import run_program, to_next_progress
from numa_service.workload.tally import Result

#: Programs that a node runs at a time.
MAX_PROGRAMS = 8

#: Turns of the event loop that others get after a slice: a call of another client takes about so many, from
#: its arrival to its answer, and should not wait for a slice in each of them.
TURNS = 12

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class Pace:
    """Real times, in seconds."""

    #: How long a program keeps the node to itself.
    slice: float = 0.002
    #: Between two messages of progress.
    progress: float = 0.25
    #: How long a client may leave a message unread.
    read: float = 10.0


@dataclass(slots=True)
class _Reports:
    """What passes between a program and the call that runs it: the newest progress, the wish to stop."""

    newest: ProgramProgress | None = None
    cut: NodeError | None = None
    #: What `newest` was last, taken or not.
    latest: ProgramProgress | None = None

    def take(self) -> ProgramProgress | None:
        newest, self.newest = self.newest, None
        return newest


class WorkloadServicer(pb2_grpc.WorkloadServiceServicer):
    """Runs programs. Each happens once per request id, and ends with its call, its session or its limits."""

    def __init__(self, node: Node, requests: Requests, peers: Peers, pace: Pace | None = None) -> None:
        self._node = node
        self._requests = requests
        self._peers = peers
        self._pace = pace or Pace()
        #: Those that run, in order, each with where it stands.
        self._running: dict[int, tuple[Program, _Reports]] = {}

    def running(self) -> list[tuple[str, str]]:
        """Name and phase of each program that runs now."""
        return [
            (program.name, reports.latest.phase_name if reports.latest else program.phases[0].name)
            for program, reports in self._running.values()
        ]

    async def RunProgram(  # type: ignore[override]  # grpc.aio takes a coroutine that writes, too
        self, request: pb2.RunProgramRequest, context: Context
    ) -> None:
        """Progress, then the result."""
        session_of(self._node, request)
        program = program_messages.program(request.program)
        reports = _Reports()
        running = asyncio.ensure_future(self._once(request, program, reports))
        try:
            while not (await asyncio.wait([running], timeout=self._pace.progress))[0]:
                if progress := reports.take():
                    await self._tell(context, progress, running, reports)
            await context.write(await running)
        finally:
            # the program ends at its next batch, as a task of its own
            reports.cut = reports.cut or Precondition("the call that ran the program has ended")
            running.cancel()

    async def _tell(
        self,
        context: Context,
        progress: ProgramProgress,
        running: asyncio.Future[pb2.RunProgramResponse],
        reports: _Reports,
    ) -> None:
        """Send progress; LimitExceeded when nobody reads it, and the program is over by then.

        The status can only follow the message: a client finds it when it reads again.
        """
        write = asyncio.ensure_future(context.write(program_messages.progress(progress)))
        try:
            if (await asyncio.wait([write], timeout=self._pace.read))[0]:
                return await write
            reports.cut = LimitExceeded(
                f"the client has not read its stream for {self._pace.read:g} s: the program is stopped"
            )
            await asyncio.wait([running])
            await write
            raise reports.cut
        finally:
            write.cancel()

    async def _once(
        self, request: pb2.RunProgramRequest, program: Program, reports: _Reports
    ) -> pb2.RunProgramResponse:
        """The result of a program that is run now, was run before, or runs for an earlier call."""
        result: pb2.RunProgramResponse = await self._requests.once_in_task(
            request.session, request, lambda: self._run(request, program, reports)
        )
        return result

    async def _run(
        self, request: pb2.RunProgramRequest, program: Program, reports: _Reports
    ) -> pb2.RunProgramResponse:
        if len(self._running) >= MAX_PROGRAMS:
            raise TooMany(f"node {self._node.nid} runs {MAX_PROGRAMS} programs already")
        self._running[id(reports)] = program, reports
        try:
            return program_messages.result(await self._batches(request, program, reports))
        finally:
            del self._running[id(reports)]

    async def _batches(self, request: pb2.RunProgramRequest, program: Program, reports: _Reports) -> Result:
        steps = run_program(self._node, request.session, request.cpu, program, time.monotonic_ns)
        cut: NodeError | None = None
        turn_ends = time.monotonic() + self._pace.slice
        while True:
            thrown = None
            if cut is None:  # else what follows is the program cleaning up
                cut = thrown = self._reason_to_stop(request.session, reports)
            found = await self._peers.run(through_outbox(self._node, to_next_progress(steps, thrown)))
            if isinstance(found, Result):
                return found
            reports.newest = reports.latest = found
            if time.monotonic() >= turn_ends:
                for _ in range(TURNS):
                    await asyncio.sleep(0)
                turn_ends = time.monotonic() + self._pace.slice

    def _reason_to_stop(self, session: int, reports: _Reports) -> NodeError | None:
        """Nobody listens any more, or the session comes to its end."""
        try:
            self._requests.inbox.check_session(session)
        except NotFound as error:
            return error
        return reports.cut
