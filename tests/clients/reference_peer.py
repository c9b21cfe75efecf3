"""A peer for the tests of the clients, on real grpc.aio servers.

It answers a repeated request id with the first reply, as the contract says. Tests can have it lose replies,
hang, or end a lease.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from grpc_status import rpc_status
from numa_client._gen.numa.v1 import (
    files_service_pb2_grpc,
    machine_service_pb2_grpc,
    memory_service_pb2_grpc,
    node_service_pb2_grpc,
)
from reference_node import ReferenceMemory, ReferenceNode, Refused

Context = grpc.aio.ServicerContext
WITHOUT_REQUEST_ID = ("GetMachine", "GetNode", "RenewSession", "WriteFile", "CheckInvariants")


class ReferenceMachine(ReferenceMemory, grpc.aio.ServerInterceptor):
    """Both nodes, and the means of tests to steer and observe them."""

    def __init__(self, pages_per_node: int) -> None:
        super().__init__(pages_per_node)
        self.calls: defaultdict[str, list[Any]] = defaultdict(list)
        self.deadlines: list[float | None] = []
        self.called = asyncio.Condition()
        self.lost_replies: defaultdict[str, int] = defaultdict(int)
        self.hanging: set[str] = set()
        #: By method: refusals yet to come, each of one call.
        self.refusals: defaultdict[str, list[Refused]] = defaultdict(list)
        self._replies: dict[str, Any] = {}
        self._servers: list[grpc.aio.Server] = []

    async def start(self) -> None:
        for nid in (0, 1):
            self.addresses.append("")
            self._servers.append(await self._serve(nid))

    async def _serve(self, nid: int, address: str = "127.0.0.1:0") -> grpc.aio.Server:
        server = grpc.aio.server(interceptors=[self])
        node = ReferenceNode(self, nid)
        files_service_pb2_grpc.add_FilesServiceServicer_to_server(node, server)
        machine_service_pb2_grpc.add_MachineServiceServicer_to_server(node, server)
        memory_service_pb2_grpc.add_MemoryServiceServicer_to_server(node, server)
        node_service_pb2_grpc.add_NodeServiceServicer_to_server(node, server)
        address = f"127.0.0.1:{server.add_insecure_port(address)}"
        await server.start()
        self.addresses[nid] = address
        return server

    async def take_away(self, nid: int) -> None:
        """Stop a node's server and forget its address."""
        await self._servers[nid].stop(None)
        self.addresses[nid] = ""

    async def bring_back(self, nid: int, address: str = "127.0.0.1:0") -> None:
        """Start a node's server again with the same lineage, by default at another address."""
        self._servers[nid] = await self._serve(nid, address)

    async def succeed(self, nid: int) -> None:
        """Start a new lineage of a node beside the old one, which is not told."""
        self.lineages[nid] += 1
        self._servers.append(self._servers[nid])
        self._servers[nid] = await self._serve(nid)

    async def stop(self) -> None:
        for server in self._servers:
            await server.stop(None)

    async def wait_for_calls(self, method: str, number: int) -> None:
        async with asyncio.timeout(30), self.called:
            await self.called.wait_for(lambda: len(self.calls[method]) >= number)

    async def intercept_service(
        self, continuation: Callable[..., Awaitable[Any]], details: grpc.HandlerCallDetails
    ) -> Any:
        """Record each call, then hang, replay, refuse or answer it as the test wants."""
        method = details.method.rpartition("/")[2]
        serve = (handler := await continuation(details)).unary_unary

        async def answer(request: Any, context: Context[Any, Any]) -> Any:
            async with self.called:
                self.calls[method].append(request)
                self.deadlines.append(context.time_remaining())
                self.called.notify_all()
            if method in self.hanging:
                await asyncio.Event().wait()
            request_id = "" if method in WITHOUT_REQUEST_ID else request.request_id
            try:
                if self.refusals[method]:
                    raise self.refusals[method].pop()
                reply = self._replies.get(request_id) or await serve(request, context)
            except Refused as refusal:
                await context.abort_with_status(rpc_status.to_status(refusal.status))
            if request_id:
                self._replies[request_id] = reply
            if self.lost_replies[method]:
                self.lost_replies[method] -= 1
                await context.abort(grpc.StatusCode.UNAVAILABLE, "reply lost")
            return reply

        return grpc.unary_unary_rpc_method_handler(
            answer, handler.request_deserializer, handler.response_serializer
        )
