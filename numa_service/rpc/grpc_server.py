"""A gRPC server as every process of a machine has one: health, reflection, call metrics."""

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

#: Largest message, both ways: a reply with 65,536 PFNs is 512 KiB.
MAX_MESSAGE_BYTES = 64 << 20

_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # A port that is taken is an error, not a second server to share calls with.
    ("grpc.so_reuseport", 0),
    # A client whose call takes long asks every 2 s whether this lives (numa_client._channel.CONNECTION). By
    # default one that asks more than once in 5 min is cut off.
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
        """`add` adds the servicers of `services` to what it is given; `calls` counts what they do."""
        self._services = tuple(services)
        self._add = add
        self._calls = calls
        self._tracing = tracing
        self._server: grpc.aio.Server | None = None
        self._health = health.aio.HealthServicer()

    async def start(self, host: str, port: int) -> str:
        """Serve; the address as host:port. RuntimeError when the port is taken."""
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
        """NOT_SERVING first; then no new calls, and `grace` seconds for those under way."""
        if self._server:
            await self._health.enter_graceful_shutdown()
            await self._server.stop(grace)
            self._server = None
