"""The gRPC server of a node or a machine: servicers with health, reflection and call metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from numa_service.rpc.exposition import join_address
from numa_service.rpc.instruments import CallMetrics
from numa_service.rpc.methods import Methods
from numa_service.rpc.tracing import Tracing

#: Largest message in either direction. A reply with 65,536 PFNs has 512 KiB.
MAX_MESSAGE_BYTES = 64 << 20
#: Longest wait for one answer of a node. They come in about a millisecond; who takes so long counts as away.
ASK_SECONDS = 2.0

_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # With SO_REUSEPORT a second server on a taken port would share its calls; without it that is an error.
    ("grpc.so_reuseport", 0),
    # During a long call a client sends a keepalive ping every 2 s (numa_client._channel.CONNECTION). By
    # default gRPC disconnects a client that pings more than once in 5 min.
    ("grpc.http2.min_ping_interval_without_data_ms", 1000),
)


class GrpcServer:
    """A grpc.aio server with health per service, reflection, rich errors and call metrics."""

    def __init__(
        self,
        services: Sequence[str],
        calls: CallMetrics,
        add: Callable[[Any], None],
        tracing: Tracing | None = None,
    ) -> None:
        """`add` adds the servicers of `services` to the server it is given; `calls` counts their calls."""
        self._services = tuple(services)
        self._add = add
        self._calls = calls
        self._tracing = tracing
        self._server: grpc.aio.Server | None = None
        self._health = health.aio.HealthServicer()

    async def start(self, host: str, port: int) -> str:
        """Start to serve; returns the address as host:port. RuntimeError when the port is taken."""
        server = grpc.aio.server(options=_OPTIONS)
        methods = Methods(server, self._calls, self._tracing)
        self._add(methods)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, methods)
        names = (*self._services, health.SERVICE_NAME)
        reflection.enable_server_reflection((*names, reflection.SERVICE_NAME), server)
        bound = server.add_insecure_port(join_address(host, port))
        await server.start()
        for name in ("", *names):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        self._server = server
        return join_address(host, bound)

    async def stop(self, grace: float) -> None:
        """Report NOT_SERVING, refuse new calls, and give calls under way `grace` seconds to end."""
        if self._server:
            await self._health.enter_graceful_shutdown()
            await self._server.stop(grace)
            self._server = None
