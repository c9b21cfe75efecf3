"""``make plots``: how cost grows, measured into docs/scaling.json and drawn as docs/scaling.svg.

``python benchmarks/scaling.py draw`` only draws what was measured before.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import grpc.aio
from draw_scaling import DATA, PICTURE, draw
from memory import boot
from numa_client._gen.numa.v1 import memory_service_pb2 as pb2
from numa_client._gen.numa.v1 import memory_service_pb2_grpc as pb2_grpc
from servers import serving
from table import machine

#: Boots a machine, then every node allocates 1,000 pages and frees them. A small machine is booted before the
#: clock runs, so that the kernels are loaded.
_SIMULATED = r"""
import json, sys, time
from numa_service.machine.machinefile import parse_machine
from numa_service.mm.gfp import GFP_KERNEL
from numa_service.node import ops
from numa_service.node.mempolicy import Policy
from numa_service.node.free_pages import free_pages
from numa_service.node.page_alloc import alloc_pages
from numa_service.node.prepare import AllocRequest
from numa_service.sim.simulation import Simulation
def machine(nodes):
    text = "".join(f"[[node]]\ncpus=[{nid}]\nmemory='64MiB'\n" for nid in range(nodes))
    return parse_machine("name='big'\n" + text, "big", "big")
Simulation(machine(2))
spec = machine(int(sys.argv[1]))
start = time.perf_counter()
sim = Simulation(spec)
booted = time.perf_counter() - start
sessions = {nid: node.apply(ops.OpenSession("bench", 10**18, 0)) for nid, node in sim.nodes.items()}
rates = []
for _ in range(max(3, 512 // len(sessions))):
    start = time.perf_counter()
    for nid, node in sim.nodes.items():
        request = AllocRequest(sessions[nid], GFP_KERNEL, 0, 1000, nid, Policy())
        got = sim.call(nid, alloc_pages(node, request))
        sim.call(nid, free_pages(node, sessions[nid], 0, got.pages, nid))
    rates.append(2000 * len(sessions) / (time.perf_counter() - start))
status = open("/proc/self/status").read().splitlines()
rss = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
print(json.dumps([booted, sorted(rates)[len(rates) // 2], rss / 1024]))
"""

#: Pages of a call; 65,536 is the most that one may have.
_PAGES = [1, 8, 64, 512, 4096, 32768]
_NODES = [1, 4, 16, 64, 256, 1024]
_MEMORY_GIB = [16, 64, 256, 1024, 4096]
_IN_FLIGHT = [1, 2, 4, 8, 16, 32, 64]

_OPTIONS = (("grpc.max_receive_message_length", 64 << 20),)
_ROUNDS = 3
#: Seconds for which a point of a curve is measured.
_SECONDS = 0.7


class _Client:
    """A session that makes pairs of calls, an AllocPages and a FreePages."""

    def __init__(self, channel: Any) -> None:
        self._stub = pb2_grpc.MemoryServiceStub(channel)
        self._ids = itertools.count()
        #: Fields that every request of the session has.
        self._session: dict[str, Any] = {}

    async def open(self) -> None:
        request = pb2.OpenSessionRequest(client_name="scaling", lease_seconds=3600, request_id="open")
        opened = await self._stub.OpenSession(request)
        self._session = {"session": opened.session, "session_token": opened.session_token}

    async def pair(self, count: int) -> None:
        name = str(next(self._ids))
        ask = pb2.AllocPagesRequest(**self._session, request_id=name, count=count)
        got = await self._stub.AllocPages(ask)
        free = pb2.FreePagesRequest(**self._session, request_id=name + "f", pages=got.pages)
        await self._stub.FreePages(free)

    async def rate(self, count: int, in_flight: int) -> tuple[float, float]:
        """Pairs per second, and the median time of one in µs."""
        took: list[float] = []
        end = time.perf_counter() + _SECONDS

        async def worker() -> None:
            while (start := time.perf_counter()) < end:
                await self.pair(count)
                took.append(time.perf_counter() - start)

        began = time.perf_counter()
        await asyncio.gather(*(worker() for _ in range(in_flight)))
        return len(took) / (time.perf_counter() - began), 1e6 * statistics.median(took)


async def _serve(node: str) -> dict[str, list[dict[str, float]]]:
    async with grpc.aio.insecure_channel(node, options=_OPTIONS) as channel:
        client = _Client(channel)
        await client.open()
        for count in _PAGES:
            await client.pair(count)

        async def point(count: int, in_flight: int) -> tuple[float, float]:
            found = [await client.rate(count, in_flight) for _ in range(_ROUNDS)]
            return max(rate for rate, _ in found), min(took for _, took in found)

        pages = []
        for count in _PAGES:
            rate, took = await point(count, 1)
            pages.append({"pages": count, "us_per_pair": took, "pages_per_s": 2 * count * rate})
        flight = []
        for in_flight in _IN_FLIGHT:
            rate, took = await point(1, in_flight)
            flight.append({"in_flight": in_flight, "calls_per_s": 2 * rate, "us_per_pair": took})
    return {"pages_per_call": pages, "requests_in_flight": flight}


def _best(what: Callable[[], dict[str, float]], key: str) -> dict[str, float]:
    return min((what() for _ in range(_ROUNDS)), key=lambda found: found[key])


def _simulated(nodes: int) -> dict[str, float]:
    command = [sys.executable, "-c", _SIMULATED, str(nodes)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, pages, rss = json.loads(done.stdout)
    return {"nodes": nodes, "boot_s": seconds, "pages_per_s": pages, "rss_mib": rss}


def _booted(gib: int) -> dict[str, float]:
    found = boot(f"{gib}GiB")
    return {"gib": gib, "boot_s": found["seconds"], "rss_mib": found["kib"] / 1024}


def measure() -> dict[str, Any]:
    """The data of all curves, with the properties of the host."""
    found: dict[str, Any] = {"machine": machine() | {"load_before": os.getloadavg()[0]}}
    with serving("node") as (node, _):
        found |= asyncio.run(_serve(node))
    found["nodes"] = [_best(partial(_simulated, nodes), "boot_s") for nodes in _NODES]
    found["memory"] = [_best(partial(_booted, gib), "boot_s") for gib in _MEMORY_GIB]
    return found


def plot(anew: bool = True) -> None:
    """Measure, if `anew`, and draw."""
    if anew:
        DATA.write_text(json.dumps(measure(), indent=1) + "\n")
    PICTURE.write_text(draw(json.loads(DATA.read_text())))
    print(f"written to {DATA} and {PICTURE}")


if __name__ == "__main__":
    plot(sys.argv[1:] != ["draw"])
