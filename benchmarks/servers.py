"""Servers to measure: ``python servers.py KIND`` runs one and prints its address.

`node` is one NUMA node as the service runs it, but without Ray; `of-64` is one of 64 nodes; `pair` is node 0
of two, of which it starts the other one in a process. They use the event loop that Ray gives its actors.
`echo` is a bare grpc.aio server that replies with as many bytes as it is told to, and parses nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import uvloop

MACHINE = """
name = "bench"
[[node]]
cpus = "0-3"
memory = "8GiB"
"""
SIZE_BYTES = 8


async def _node() -> None:
    from numa_service.machine.machinefile import parse_machine
    from numa_service.metrics.collector import NodeCollector
    from numa_service.node.node import Node
    from numa_service.rpc.server import NodeServer, freeze_heap

    server = NodeServer(Node.boot(parse_machine(MACHINE, "bench", "bench"), 0))
    server.registry.register(NodeCollector(server))
    addresses = await server.start()
    freeze_heap()
    print(addresses.grpc, addresses.metrics_url, flush=True)
    await _terminated()
    await server.stop(0)


async def _of_64() -> None:
    """Node 0 of 64 with the largest metrics: traffic to all other nodes, and pages from all of them."""
    from numa_service.machine.machinefile import parse_machine
    from numa_service.metrics.collector import NodeCollector
    from numa_service.node.node import Node
    from numa_service.rpc.server import NodeServer, freeze_heap

    nodes = "".join(f'[[node]]\ncpus = "{2 * n}-{2 * n + 1}"\nmemory = "1GiB"\n' for n in range(64))
    node = Node.boot(parse_machine(f'name = "of-64"\n{nodes}', "of-64", "of-64"), 0)
    server = NodeServer(node)
    server.registry.register(NodeCollector(server))
    window_ns = node.machine.spec.latency.window_ns
    node.load.spend(0, 2 * window_ns, tuple((nid, 1 << 20) for nid in range(64)))
    for nid in range(1, 64):
        server._instruments.fallback(nid, 1)
    addresses = await server.start()
    freeze_heap()
    print(addresses.grpc, addresses.metrics_url, flush=True)
    await _terminated()
    await server.stop(0)


PAIR = (
    MACHINE
    + """
[[node]]
cpus = "4-7"
memory = "8GiB"
"""
)


async def _of_pair(nid: int) -> None:
    from numa_service.machine.machinefile import parse_machine
    from numa_service.node.node import Node
    from numa_service.rpc.server import NodeServer, freeze_heap

    server = NodeServer(Node.boot(parse_machine(PAIR, "pair", "pair"), nid))
    addresses = await server.start()
    freeze_heap()
    if nid:
        print(addresses.peers, addresses.metrics_url, flush=True)
        await _terminated()
    else:
        with serving("other") as (other, _):
            server.connect({1: other})
            print(addresses.grpc, addresses.metrics_url, flush=True)
            await _terminated()
    await server.stop(0)


async def _echo() -> None:
    import grpc.aio

    blob = bytes(1 << 20)

    async def echo(request: bytes, context: Any) -> bytes:
        return blob[: int.from_bytes(request[:SIZE_BYTES], "little")]

    server = grpc.aio.server()

    async def echo_stream(requests: Any, context: Any) -> None:
        while (request := await context.read()) is not grpc.aio.EOF:
            await context.write(await echo(request, context))

    handlers: dict[str, Any] = {
        "Echo": grpc.unary_unary_rpc_method_handler(echo),
        "EchoStream": grpc.stream_stream_rpc_method_handler(echo_stream),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bare", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    await _terminated()
    await server.stop(0)


async def _terminated() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()


@contextlib.contextmanager
def serving(kind: str) -> Iterator[list[str]]:
    """Run a server in a process; gives the words that it prints, its address first."""
    process = subprocess.Popen([sys.executable, __file__, kind], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        words = process.stdout.readline().split()
        if not words:
            raise RuntimeError(f"the {kind} server did not start")
        yield words
    finally:
        process.terminate()
        process.wait(10)


if __name__ == "__main__":
    match sys.argv[1]:
        case "node":
            uvloop.run(_node())
        case "of-64":
            uvloop.run(_of_64())
        case "pair":
            uvloop.run(_of_pair(0))
        case "other":
            uvloop.run(_of_pair(1))
        case _:
            asyncio.run(_echo())
