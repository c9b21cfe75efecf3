"""WorkloadService: workload programs that run on the node's event loop, in short slices between requests."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import grpc.aio
from numa_client import Program, ProgramProgress, ProgramResult
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

#: Programs that a node runs at a time.
MAX_PROGRAMS = 8

#: Turns of the event loop that a program yields after each slice. A client's call takes about so many turns
#: from its arrival to its answer, so that it waits for one slice at most, not for one in each turn.
TURNS = 12

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class Pace:
    """How programs share the event loop with requests: real times, in seconds."""

    #: Length of a slice, in which a program has the event loop to itself.
    slice: float = 0.002
    #: Interval between two messages of progress.
    progress: float = 0.25
    #: How long a client may leave a message unread before its program is stopped.
    read: float = 10.0


@dataclass(slots=True)
class _Reports:
    """Shared by a program and the call that runs it: progress, and whether the program is to stop."""

    #: Progress that the call has not taken yet.
    newest: ProgramProgress | None = None
    #: The error to stop the program with, once it is to stop.
    cut: NodeError | None = None
    #: The last progress, whether taken or not.
    latest: ProgramProgress | None = None

    def take(self) -> ProgramProgress | None:
        newest, self.newest = self.newest, None
        return newest


class WorkloadServicer(pb2_grpc.WorkloadServiceServicer):
    """Runs programs, each once per request id. A program is stopped when its call or its session ends."""

    def __init__(self, node: Node, requests: Requests, peers: Peers, pace: Pace | None = None) -> None:
        self._node = node
        self._requests = requests
        self._peers = peers
        self._pace = pace or Pace()
        #: The programs that run, in the order in which they began.
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
        """Run a program: stream its progress, then its result."""
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
            # the program, a task of its own, stops at its next batch
            reports.cut = reports.cut or Precondition("the call that ran the program has ended")
            running.cancel()

    async def _tell(
        self,
        context: Context,
        progress: ProgramProgress,
        running: asyncio.Future[pb2.RunProgramResponse],
        reports: _Reports,
    ) -> None:
        """Send progress. LimitExceeded, after the program has stopped, when the client does not read it.

        The status comes after the unread message: the client sees it once it reads again.
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
        """The result of the program, which runs unless it already did, or runs for an earlier call."""
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

    async def _batches(
        self, request: pb2.RunProgramRequest, program: Program, reports: _Reports
    ) -> ProgramResult:
        steps = run_program(
            self._node,
            request.session,
            request.cpu,
            program,
            time.monotonic_ns,
            inbox=self._requests.inbox,
        )
        cut: NodeError | None = None
        turn_ends = time.monotonic() + self._pace.slice
        while True:
            thrown = None
            if cut is None:  # once it is stopped, its last steps only clean up
                cut = thrown = self._reason_to_stop(request.session, reports)
            found = await self._peers.run(through_outbox(self._node, to_next_progress(steps, thrown)))
            if isinstance(found, ProgramResult):
                return found
            reports.newest = reports.latest = found
            if time.monotonic() >= turn_ends:
                for _ in range(TURNS):
                    await asyncio.sleep(0)
                turn_ends = time.monotonic() + self._pace.slice

    def _reason_to_stop(self, session: int, reports: _Reports) -> NodeError | None:
        """The error to stop the program with: its session is closing, or its call has ended; else None."""
        try:
            self._requests.inbox.check_session(session)
        except NotFound as error:
            return error
        return reports.cut
