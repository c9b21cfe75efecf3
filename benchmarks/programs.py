"""Workload programs: pages per second next to one node, and next to two nodes in two processes."""

from __future__ import annotations

import asyncio
import itertools
import statistics
from typing import Any

import grpc.aio
from host import busy_loops
from numa_client import Distribution, Mix, Phase, Program, ProgramResult, list_programs
from numa_client._codec import session_info
from numa_client._gen.numa.v1 import memory_service_pb2, memory_service_pb2_grpc, workload_service_pb2_grpc
from numa_client._program_codec import report, run_request
from servers import serving
from table import Row

#: Two nodes in two processes.
CPUS = 2
_ROUNDS = 5
#: Single pages of random lifetimes, some 100,000 held at a time; about a second.
_PAGES = Program(
    (
        Phase(
            name="pages",
            events=4_000_000,
            batch=16384,
            mixes=(Mix(lifetime=Distribution("exponential", mean=0.01)),),
        ),
    )
)


def two_cores() -> Row:
    """Two busy loops beside one: the most that two nodes in two processes can reach on this host."""
    one, two = busy_loops(_ROUNDS)
    return Row("busy_loops_two", statistics.median(two), "rounds/s", "one busy loop", statistics.median(one))


class Running:
    """A session on a node that runs programs."""

    def __init__(self, channel: Any) -> None:
        self._memory = memory_service_pb2_grpc.MemoryServiceStub(channel)
        self._workload = workload_service_pb2_grpc.WorkloadServiceStub(channel)
        self._ids = map(str, itertools.count())

    async def open(self) -> None:
        """Open the session."""
        request = memory_service_pb2.OpenSessionRequest(lease_seconds=3600, request_id=next(self._ids))
        self._session = session_info(await self._memory.OpenSession(request))

    async def run(self, program: Program | str) -> ProgramResult:
        """Run a program to its end."""
        last = None
        async for message in self._workload.RunProgram(
            run_request(self._session, next(self._ids), program, 0)
        ):
            last = report(message)
        assert isinstance(last, ProgramResult)
        return last


async def _measure(addresses: list[str]) -> list[Row]:
    rows = []
    async with (
        grpc.aio.insecure_channel(addresses[0]) as first,
        grpc.aio.insecure_channel(addresses[1]) as other,
    ):
        nodes = [Running(first), Running(other)]
        for node in nodes:
            await node.open()
            await node.run(_PAGES)
        alone: list[float] = []
        together: list[float] = []
        for i in range(_ROUNDS):
            alone.append((await nodes[i % 2].run(_PAGES)).pages_per_second)
            both = await asyncio.gather(*(node.run(_PAGES) for node in nodes))
            together.append(sum(result.pages_per_second for result in both))
        one = statistics.median(alone)
        rows.append(Row("program_one_node", one, "pages/s"))
        rows.append(
            Row(
                "programs_two_nodes",
                statistics.median(together),
                "pages/s",
                "one node, the other idle",
                one,
                1.8,
            )
        )
        for name in list_programs():
            result = await nodes[0].run(name)
            rows.append(Row(f"program_{name.replace('-', '_')}", result.pages_per_second, "pages/s"))
    return rows


def rows() -> list[Row]:
    """Every row of this part."""
    with serving("node") as (one, _), serving("node") as (two, _):
        return [two_cores(), *asyncio.run(_measure([one, two]))]


if __name__ == "__main__":
    from table import show

    show(rows())
