"""Wraps the methods of servicers: calls are counted, and exceptions become gRPC statuses.

A method is wrapped once, when its servicer is added to the server. gRPC's own interceptors would be awaited
for every call.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import Message

from numa_service.rpc.instruments import UNCOUNTED, CallMetrics, CallTally, code_name
from numa_service.rpc.last_bytes import PACKED, reading
from numa_service.rpc.status import Behavior, abort
from numa_service.rpc.tracing import Tracing

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class Methods:
    """Takes the server's place where generated code adds a servicer, and adds its methods wrapped."""

    def __init__(self, server: grpc.aio.Server, calls: CallMetrics, tracing: Tracing | None) -> None:
        self._server = server
        self._calls = calls
        self._tracing = tracing

    def add_generic_rpc_handlers(self, handlers: Sequence[Any]) -> None:
        """Ignore the handlers: generated code passes the same ones to add_registered_method_handlers."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler]) -> None:
        """Add a servicer's methods to the server, wrapped."""
        wrapped = {method: self._wrapped(service, method, handler) for method, handler in handlers.items()}
        self._server.add_registered_method_handlers(service, wrapped)

    def _wrapped(self, service: str, method: str, handler: Handler) -> Handler:
        if handler.unary_unary is not None:
            make, behavior, kind = grpc.unary_unary_rpc_method_handler, handler.unary_unary, "unary"
        elif handler.unary_stream is not None:
            make, behavior, kind = grpc.unary_stream_rpc_method_handler, handler.unary_stream, "server_stream"
        elif handler.stream_stream is not None:
            make, behavior, kind = grpc.stream_stream_rpc_method_handler, handler.stream_stream, "bidi_stream"
        if inspect.isasyncgenfunction(behavior):
            return handler  # only the Watch method of gRPC's own health service is one
        path = f"/{service}/{method}"
        wrapped: Any = _served(behavior, path, self._calls.method(service, method, kind))
        if self._tracing:
            wrapped = self._tracing.served(wrapped, path)
        parse = handler.request_deserializer
        assert parse, f"{path}: generated code gives every method one"
        made: Handler = make(wrapped, reading(parse), PACKED.of)
        return made


def _served(behavior: Behavior, path: str, tally: CallTally) -> Behavior:
    clock, handled, seconds = time.perf_counter, tally.handled, tally.seconds

    async def serve(request: Any, context: Any) -> Any:
        tally.started += 1
        begin = clock()
        code = "OK"
        try:
            reply = behavior(request, context)
            if not isinstance(reply, Message):
                reply = await reply
            return reply
        except BaseException as raised:
            code = "CANCELLED"
            if not isinstance(raised, Exception):
                raise
            try:
                await abort(raised, request, context, path)
            except grpc.aio.AbortError:
                code = code_name(context.code())
                raise
        finally:
            handled[code] += 1
            seconds.new.append(clock() - begin)
            if len(seconds.new) >= UNCOUNTED:
                seconds.count()

    return serve
