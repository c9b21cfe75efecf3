"""Errors and gRPC status: the one mapping, in both directions, with google.rpc details."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import grpc
import grpc.aio
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from numa_service.node.errors import (
    AllocFailed,
    InvalidRequest,
    LimitExceeded,
    NodeError,
    NotFound,
    PeerUnavailable,
    Precondition,
)

#: ErrorInfo.domain of every error.
DOMAIN = "numa.v1"

_log = logging.getLogger(__name__)


def to_status(error: NodeError) -> status_pb2.Status:
    """A node's error as google.rpc.Status: ErrorInfo always, and what its class has to say."""
    match error:
        case InvalidRequest():
            violation = {"field": error.field, "description": error.reason}
            detail = error_details_pb2.BadRequest(field_violations=[violation])
            return _status(
                code_pb2.INVALID_ARGUMENT, error, "INVALID_REQUEST", {"field": error.field}, detail
            )
        case NotFound():
            detail = error_details_pb2.ResourceInfo(
                resource_type=error.kind, resource_name=error.name, description=str(error)
            )
            reason = f"{error.kind.upper()}_NOT_FOUND"
            return _status(code_pb2.NOT_FOUND, error, reason, {error.kind: error.name}, detail)
        case Precondition():
            return _status(code_pb2.FAILED_PRECONDITION, error, "PRECONDITION", {})
        case AllocFailed():
            metadata = {
                "order": str(error.order),
                "wanted": str(error.wanted),
                "got": str(error.got),
                "nodes": ",".join(map(str, error.nodes)),
            }
            return _status(code_pb2.RESOURCE_EXHAUSTED, error, "OUT_OF_MEMORY", metadata)
        case LimitExceeded():
            return _status(code_pb2.RESOURCE_EXHAUSTED, error, "LIMIT_EXCEEDED", {})
        case PeerUnavailable():
            return _status(code_pb2.UNAVAILABLE, error, "NODE_UNAVAILABLE", {"node": str(error.nid)})
    raise TypeError(f"no gRPC status for {type(error).__name__}")


def _status(
    code: int, error: NodeError, reason: str, metadata: dict[str, str], *more: Any
) -> status_pb2.Status:
    details = []
    for detail in (error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata=metadata), *more):
        packed = any_pb2.Any()
        packed.Pack(detail)
        details.append(packed)
    return status_pb2.Status(code=code, message=str(error), details=details)


def from_rpc_error(nid: int, error: grpc.aio.AioRpcError) -> NodeError:
    """What another node's answer means here.

    Refusals become the class that they were there; everything else, a peer's own failures included, is a
    node that does not answer.
    """
    message = error.details() or ""
    found = _details(error)
    match error.code():
        case grpc.StatusCode.INVALID_ARGUMENT:
            bad = found.get("BadRequest")
            if bad is not None and bad.field_violations:
                return InvalidRequest(bad.field_violations[0].field, bad.field_violations[0].description)
            return InvalidRequest("request", message)
        case grpc.StatusCode.NOT_FOUND:
            resource = found.get("ResourceInfo")
            if resource is None:
                return NotFound("resource", f"on node {nid}", message)
            prefix = f"{resource.resource_type} {resource.resource_name}: "
            return NotFound(resource.resource_type, resource.resource_name, message.removeprefix(prefix))
        case grpc.StatusCode.FAILED_PRECONDITION:
            return Precondition(message)
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return LimitExceeded(message)
        case code:
            return PeerUnavailable(nid, f"{code.name} {message}".rstrip())


def _details(error: grpc.aio.AioRpcError) -> dict[str, Any]:
    """google.rpc details of a failed call, by message name."""
    try:
        status = rpc_status.from_call(error)
    except ValueError:  # details that contradict the code: the code itself is still right
        return {}
    found: dict[str, Any] = {}
    for packed in status.details if status else ():
        for kind in (error_details_pb2.BadRequest, error_details_pb2.ResourceInfo):
            if packed.Is(kind.DESCRIPTOR):
                found[kind.DESCRIPTOR.name] = detail = kind()
                packed.Unpack(detail)
    return found


Behavior: TypeAlias = Callable[[Any, Any], Awaitable[Any]]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


def wrap_handler(handler: Handler, wrap: Callable[[Behavior, str], Behavior]) -> Handler:
    """A method with its behaviour wrapped; `wrap` is told its gRPC type. Generators stay as they are."""
    if handler.unary_unary is not None:
        make, behavior, kind = grpc.unary_unary_rpc_method_handler, handler.unary_unary, "unary"
    elif handler.unary_stream is not None and asyncio.iscoroutinefunction(handler.unary_stream):
        make, behavior, kind = grpc.unary_stream_rpc_method_handler, handler.unary_stream, "server_stream"
    elif handler.stream_stream is not None and asyncio.iscoroutinefunction(handler.stream_stream):
        make, behavior, kind = grpc.stream_stream_rpc_method_handler, handler.stream_stream, "bidi_stream"
    else:
        return handler
    wrapped: Any = wrap(behavior, kind)
    return make(wrapped, handler.request_deserializer, handler.response_serializer)


class StatusInterceptor(grpc.aio.ServerInterceptor):
    """Turns what a servicer raises into a status; what is no NodeError is INTERNAL, and logged."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wrap the handlers of this service's methods."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method

        def wrap(behavior: Behavior, _: str) -> Behavior:
            async def serve(request: Any, context: Any) -> Any:
                try:
                    return await behavior(request, context)
                except NodeError as error:
                    try:
                        await context.abort_with_status(rpc_status.to_status(to_status(error)))
                    except grpc.aio.InternalError:
                        raise asyncio.CancelledError from None  # nobody is there to be told
                except grpc.aio.AbortError:
                    raise
                except Exception:
                    incident = uuid.uuid4().hex[:12]
                    about = {"request_id": getattr(request, "request_id", ""), "incident": incident}
                    _log.exception("%s failed (incident %s)", method, incident, extra=about)
                    await context.abort(grpc.StatusCode.INTERNAL, f"internal error, incident {incident}")

            return serve

        return wrap_handler(handler, wrap)
