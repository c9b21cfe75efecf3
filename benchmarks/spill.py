"""A batch of pages that another node serves, beside the same batch from the home node."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from typing import Any

import grpc.aio
from numa_client._gen.numa.v1 import memory_service_pb2 as pb2
from numa_client._gen.numa.v1 import memory_service_pb2_grpc as pb2_grpc
from numa_client._gen.numa.v1 import types_pb2
from servers import serving
from table import Row

#: CPUs that are needed at once: for a client and a server.
CPUS = 2
_OPTIONS = (("grpc.max_receive_message_length", 64 << 20),)
_COUNT = 32768
_PAIRS = 20
_ROUNDS = 7
#: Pairs before the clock runs, until the nodes' logs and kept first replies have reached their limits: memory
#: that a process touches for the first time is slow, above all on a virtual machine.
_WARM_UP = 300


class Spilling:
    """A session on node 0 that allocates batches from either node."""

    def __init__(self, channel: Any) -> None:
        self._stub = pb2_grpc.MemoryServiceStub(channel)
        self._ids = itertools.count()
        #: Fields that every request of the session has.
        self.session: dict[str, Any] = {}
        self.lookups = 0

    async def open(self) -> None:
        """Open the session."""
        request = pb2.OpenSessionRequest(client_name="bench", lease_seconds=3600, request_id="open")
        opened = await self._stub.OpenSession(request)
        self.session = {"session": opened.session, "session_token": opened.session_token}

    async def seconds(self, nid: int) -> float:
        """Allocate a batch bound to a node; returns the seconds. The free afterwards is not timed."""
        policy = types_pb2.Policy(mode=types_pb2.POLICY_MODE_BIND, nodes=[nid])
        request_id = str(next(self._ids))
        start = time.perf_counter()
        got = await self._stub.AllocPages(
            pb2.AllocPagesRequest(**self.session, request_id=request_id, count=_COUNT, policy=policy)
        )
        took = time.perf_counter() - start
        self.lookups = max(self.lookups, got.remote_lookups)
        free = pb2.FreePagesRequest(**self.session, request_id=request_id + "f", pages=got.pages)
        await self._stub.FreePages(free)
        return took


async def _measure(address: str) -> list[Row]:
    async with grpc.aio.insecure_channel(address, options=_OPTIONS) as channel:
        batches = Spilling(channel)
        await batches.open()
        took: dict[int, list[float]] = {0: [], 1: []}
        for turn in range(_WARM_UP + _ROUNDS * _PAIRS):
            for nid in (0, 1):
                found = await batches.seconds(nid)
                if turn >= _WARM_UP:
                    took[nid].append(found)
        here, there = (_COUNT / statistics.median(took[nid]) for nid in (0, 1))
    return [
        Row("spill_32k_to_one_node", there, "pages/s", "the same batch at home", here, 0.5),
        Row("spill_lookups", batches.lookups, "lookups", goal=2, goal_of_ratio=False, at_least=False),
    ]


def rows() -> list[Row]:
    """Every row of this part."""
    with serving("pair") as (address, _):
        return asyncio.run(_measure(address))


if __name__ == "__main__":
    from table import show

    show(rows())
