"""Runs a load: its sessions, the pacing of requests, and what happens when one fails."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from time import perf_counter

from numa_client import (
    AsyncMachine,
    AsyncSession,
    InvalidRequest,
    NumaError,
    OutOfMemory,
)

from numa_loadgen.plan import LoadPlan, PlanError
from numa_loadgen.report import LoadProgress, LoadReport, Recorder
from numa_loadgen.workloads import WORKLOADS, Workload

_FIRST_BACKOFF_SECONDS = 0.1
_LAST_BACKOFF_SECONDS = 2.0


async def run_load(
    plan: LoadPlan,
    on_progress: Callable[[LoadProgress], None] | None = None,
    *,
    progress_seconds: float = 0.5,
    stop: asyncio.Event | None = None,
) -> LoadReport:
    """Runs the plan to its end, or until `stop` is set; sessions are always closed.

    `on_progress` is called in the event loop every `progress_seconds` and once at the end. Operations that
    find no memory, or a node that is away, are counted as errors and the load goes on. NumaError if nobody
    answers, a first session is refused, or a request is invalid. PlanError if the machine has no such node or
    CPU, or the workload is unknown.
    """
    if plan.workload not in WORKLOADS:
        raise PlanError(f"unknown workload {plan.workload!r}: choose from {', '.join(WORKLOADS)}")
    async with await AsyncMachine.connect(plan.target, plan.timeout_seconds) as machine:
        return await _Run(plan, machine, stop or asyncio.Event()).run(on_progress, progress_seconds)


class _Run:
    """One load: the clients and what they share."""

    def __init__(self, plan: LoadPlan, machine: AsyncMachine, stop: asyncio.Event) -> None:
        self.plan = plan
        self.machine = machine
        self.stop = stop
        self.recorder = Recorder()
        self.started = 0.0
        self._left = plan.operations
        self._ended = asyncio.Event()
        cpus = self._cpus()
        self._clients = [_Client(self, index, cpu) for index, cpu in enumerate(cpus)]
        #: nid → number of clients on the node.
        self.neighbours: dict[int, int] = {}
        for cpu in cpus:
            nid = machine.info.node_of_cpu(cpu).node
            self.neighbours[nid] = self.neighbours.get(nid, 0) + 1

    def _cpus(self) -> list[int]:
        """The CPU of every client: in turn those of the plan's node, or of the machine. PlanError."""
        info, plan = self.machine.info, self.plan
        if plan.cpu is not None:
            if plan.cpu not in info.cpus:
                raise PlanError(f"no CPU {plan.cpu} in machine {info.name!r}: it has {len(info.cpus)}")
            return [plan.cpu] * plan.clients
        try:
            cpus = info.cpus if plan.node is None else info.node(plan.node).cpus
        except KeyError:
            raise PlanError(f"no node {plan.node} in machine {info.name!r}") from None
        if not cpus:
            raise PlanError(f"node {plan.node} has no CPUs: a client needs one")
        return [cpus[index % len(cpus)] for index in range(plan.clients)]

    @property
    def over(self) -> bool:
        """Whether no client should start another operation."""
        return self._ended.is_set()

    def take_ticket(self) -> bool:
        """Take one of the plan's operations; False if there are none left or the load is over."""
        if self.over:
            return False
        if self._left is None:
            return True
        self._left -= 1
        if self._left < 0:
            self._ended.set()
            return False
        return True

    async def pause(self, seconds: float) -> None:
        """Wait, but not longer than until the load is over."""
        if seconds > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), seconds)

    async def run(
        self, on_progress: Callable[[LoadProgress], None] | None, progress_seconds: float
    ) -> LoadReport:
        """Open every session, let the clients work, and close every session."""
        elapsed = 0.0
        try:
            # all are awaited before the first failure is raised, so that every open session is closed below
            opened = await asyncio.gather(*(c.open() for c in self._clients), return_exceptions=True)
            for outcome in opened:
                if outcome is not None:
                    raise outcome
            self.started = perf_counter()
            timer = asyncio.get_running_loop().call_later(self.plan.duration_seconds, self._ended.set)
            helpers = [asyncio.create_task(self._watch_stop())]
            if on_progress:
                helpers.append(asyncio.create_task(self._tick(on_progress, progress_seconds)))
            try:
                async with asyncio.TaskGroup() as clients:
                    for client in self._clients:
                        clients.create_task(client.work())
            except* NumaError as refusals:
                raise _first(refusals) from None
            finally:
                timer.cancel()
                elapsed = perf_counter() - self.started
                for helper in helpers:
                    helper.cancel()
                await asyncio.wait(helpers)
        finally:
            await asyncio.gather(*(client.close() for client in self._clients))
        if on_progress:
            on_progress(self.recorder.progress(elapsed, self.plan.duration_seconds))
        return self.recorder.report(
            workload=self.plan.workload,
            clients=self.plan.clients,
            elapsed_seconds=elapsed,
            interrupted=self.stop.is_set(),
            open_loop=self.plan.rate is not None,
        )

    async def _watch_stop(self) -> None:
        await self.stop.wait()
        self._ended.set()

    async def _tick(self, on_progress: Callable[[LoadProgress], None], seconds: float) -> None:
        while True:
            await asyncio.sleep(seconds)
            on_progress(self.recorder.progress(perf_counter() - self.started, self.plan.duration_seconds))


class _Client:
    """One session and its workload, with at most one request under way."""

    def __init__(self, run: _Run, index: int, cpu: int) -> None:
        self._run = run
        self._index = index
        self._cpu = cpu
        self._held_pages = 0
        self._session: AsyncSession | None = None
        self._workload: Workload | None = None

    async def open(self) -> None:
        """Open a session with a new workload."""
        plan, info = self._run.plan, self._run.machine.info
        session = self._run.machine.session(cpu=self._cpu, name=f"loadgen-{plan.workload}-{self._index}")
        await session.open()
        self._session = session
        home = info.node_of_cpu(self._cpu)
        choices = random.Random(f"{plan.seed}/{self._index}")
        share = home.managed_pages // self._run.neighbours[home.node]
        self._workload = WORKLOADS[plan.workload](plan, session, share, choices)

    async def close(self) -> None:
        """Close the session. A node that is away closes it when the lease runs out."""
        session, self._session = self._session, None
        self._run.recorder.held_pages -= self._held_pages
        self._held_pages = 0
        if session is not None:
            with suppress(NumaError):
                # in a statement of its own: `x += await …` reads x before it waits, and would lose additions
                freed_pages = await session.close()
                self._run.recorder.released_pages += freed_pages

    async def work(self) -> None:
        """Do the steps of the workload until the load is over."""
        run, operation = self._run, 0
        while run.take_ticket():
            due = self._due(operation)
            operation += 1
            if due is not None:
                await run.pause(due - perf_counter())
                if run.over:
                    return
            if self._workload is None or self._session is None:
                raise RuntimeError("a client works in an open session")
            # In an open loop, latency counts from the time a request was due: a stalled service delays the
            # sending of the next requests, and real users would have waited that time, too.
            began = perf_counter() if due is None else due
            try:
                step = await self._workload.step()
            except InvalidRequest:
                raise
            except OutOfMemory as error:
                run.recorder.error(error.code.name, error.message)
                self._workload.refused()
            except NumaError as error:
                run.recorder.error(error.code.name, error.message)
                await self._reopen()
            else:
                held = run.recorder.held_pages
                run.recorder.step(step, perf_counter() - began, self._session.info.node)
                self._held_pages += run.recorder.held_pages - held

    def _due(self, operation: int) -> float | None:
        """When this client's n-th operation should start: the clients share the rate in turns."""
        plan = self._run.plan
        if plan.rate is None:
            return None
        return self._run.started + (operation * plan.clients + self._index) / plan.rate

    async def _reopen(self) -> None:
        """Open a new session as soon as the node is back. What the old one held is freed."""
        await self.close()
        backoff = _FIRST_BACKOFF_SECONDS
        while not self._run.over:
            try:
                await self._run.machine.refresh()
                await self.open()
            except NumaError as error:
                self._run.recorder.error(error.code.name, error.message)
                await self._run.pause(backoff)
                backoff = min(2 * backoff, _LAST_BACKOFF_SECONDS)
            else:
                self._run.recorder.reopened_sessions += 1
                return


def _first(group: BaseExceptionGroup[NumaError]) -> NumaError:
    """The first error of a possibly nested group."""
    for error in group.exceptions:
        return _first(error) if isinstance(error, BaseExceptionGroup) else error
    raise ValueError("an empty group")
