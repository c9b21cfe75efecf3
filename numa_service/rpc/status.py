"""The one mapping between NodeErrors and gRPC statuses with google.rpc details, in both directions."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, NamedTuple, NoReturn, TypeAlias

import grpc
import grpc.aio
from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from numa_service.machine.notation import one_line
from numa_service.node.errors import (
    InvalidRequest,
    KernelBug,
    LimitExceeded,
    MachineUnavailable,
    NodeError,
    NotFound,
    PeerUnavailable,
    Precondition,
    SlabBug,
    fault,
)
from numa_service.node.unserved import AllocFailed, NodesAway, VmallocFailed

#: ErrorInfo.domain of every error.
DOMAIN = "numa.v1"
#: Longest text of an error, and longest report of a kernel, in bytes. A status travels in HTTP/2 headers, of
#: which gRPC takes 8 KiB: a longer one reaches the client as RESOURCE_EXHAUSTED. The text is in a status five
#: times, once with three characters for each byte that is not ASCII.
MAX_TEXT = 480
MAX_REPORT = 2048

_log = logging.getLogger(__name__)


def to_status(error: NodeError) -> status_pb2.Status:
    """Convert a NodeError to a google.rpc.Status.

    Its details are ErrorInfo, one for the error's class if it has any (BadRequest, ResourceInfo), and
    RetryInfo if the error says when to try again. TypeError for an unknown class.
    """
    match error:
        case InvalidRequest():
            field = text(error.field)
            violation = {"field": field, "description": text(error.reason)}
            detail = error_details_pb2.BadRequest(field_violations=[violation])
            return _status(code_pb2.INVALID_ARGUMENT, error, "INVALID_REQUEST", {"field": field}, detail)
        case NotFound():
            name = text(error.name)
            detail = error_details_pb2.ResourceInfo(
                resource_type=error.kind, resource_name=name, description=text(str(error))
            )
            reason = f"{error.kind.upper()}_NOT_FOUND"
            return _status(code_pb2.NOT_FOUND, error, reason, {error.kind: name}, detail)
        case SlabBug():
            report = {"report": _report(error.report)}
            return _status(code_pb2.FAILED_PRECONDITION, error, "SLAB_BUG", report)
        case KernelBug():
            report = {"report": _report(error.report)}
            return _status(code_pb2.FAILED_PRECONDITION, error, "KERNEL_BUG", report)
        case Precondition():
            return _status(code_pb2.FAILED_PRECONDITION, error, "PRECONDITION", {})
        case AllocFailed():
            metadata = {
                "order": str(error.order),
                "wanted": str(error.wanted),
                "got": str(error.got),
                "nodes": text(",".join(map(str, error.nodes))),
            }
            if isinstance(error, VmallocFailed):
                metadata["report"] = _report(str(error).split("\n"))
            return _status(code_pb2.RESOURCE_EXHAUSTED, error, "OUT_OF_MEMORY", metadata)
        case LimitExceeded():
            return _status(code_pb2.RESOURCE_EXHAUSTED, error, "LIMIT_EXCEEDED", {})
        case NodesAway():
            metadata = {
                "order": str(error.order),
                "wanted": str(error.wanted),
                "got": str(error.got),
                "node": text(",".join(map(str, error.nids))),
            }
            return _status(code_pb2.UNAVAILABLE, error, "NODE_UNAVAILABLE", metadata)
        case MachineUnavailable():
            return _status(code_pb2.UNAVAILABLE, error, "MACHINE_UNAVAILABLE", {})
        case PeerUnavailable():
            return _status(code_pb2.UNAVAILABLE, error, "NODE_UNAVAILABLE", {"node": str(error.nid)})
    raise TypeError(f"no gRPC status for {type(error).__name__}")


def _status(
    code: int, error: NodeError, reason: str, metadata: dict[str, str], *more: Any
) -> status_pb2.Status:
    details = []
    told = [error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata=metadata), *more]
    if error.retry_seconds is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(round(1000 * error.retry_seconds))
        told.append(error_details_pb2.RetryInfo(retry_delay=delay))
    for detail in told:
        packed = any_pb2.Any()
        packed.Pack(detail)
        details.append(packed)
    return status_pb2.Status(code=code, message=text(str(error)), details=details)


def text(said: str) -> str:
    """A text as a status has it: one line of at most MAX_TEXT bytes, whatever it quotes."""
    line = one_line(said, MAX_TEXT)
    return line.encode()[:MAX_TEXT].decode(errors="ignore")


def _report(lines: Sequence[str]) -> str:
    """As many lines of a kernel's report as a status has room for, and how many more there are."""
    told = [text(line) for line in lines]
    sizes = accumulate(len(line.encode()) + 1 for line in told)
    fit = sum(size <= MAX_REPORT for size in sizes)
    more = [f"... and {len(told) - fit} lines more"] if fit < len(told) else []
    return "\n".join([*told[:fit], *more])


def from_rpc_error(nid: int, error: grpc.aio.AioRpcError) -> NodeError:
    """Convert the status of a call to node `nid` back to a NodeError.

    A refusal becomes the error that it was on the other node. Every other status, including an internal error
    of the other node, becomes PeerUnavailable.
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
            info = found.get("ErrorInfo")
            if info is not None and info.reason == "KERNEL_BUG":
                return KernelBug(tuple(info.metadata["report"].split("\n")))
            return Precondition(message)
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            limit = LimitExceeded(message)
            if retry := found.get("RetryInfo"):
                limit.retry_seconds = retry.retry_delay.ToMilliseconds() / 1000
            return limit
        case code:
            return PeerUnavailable(nid, f"{code.name} {message}".rstrip())


def _details(error: grpc.aio.AioRpcError) -> dict[str, Any]:
    """The google.rpc details of a failed call, by message name."""
    try:
        status = rpc_status.from_call(error)
    except ValueError:  # the details contradict the status code; the code itself is still right
        return {}
    found: dict[str, Any] = {}
    for packed in status.details if status else ():
        for kind in (
            error_details_pb2.BadRequest,
            error_details_pb2.ErrorInfo,
            error_details_pb2.ResourceInfo,
            error_details_pb2.RetryInfo,
        ):
            if packed.Is(kind.DESCRIPTOR):
                found[kind.DESCRIPTOR.name] = detail = kind()
                packed.Unpack(detail)
    return found


class _PushedBack(NamedTuple):
    """The fields of a grpc.Status, which is abstract."""

    code: grpc.StatusCode
    details: str
    trailing_metadata: tuple[tuple[str, str | bytes], ...]


def _with_push_back(error: NodeError) -> grpc.Status:
    """The status of an error. If the error says when to retry, gRPC's own retries are switched off.

    They would come sooner, and would use up the deadline before the caller sees the error.
    """
    # grpc_status has no types, and grpc.Status cannot be made: both are Any here
    status: Any = rpc_status.to_status(to_status(error))
    if error.retry_seconds is None:
        return status  # type: ignore[no-any-return]
    metadata = (*status.trailing_metadata, ("grpc-retry-pushback-ms", "-1"))
    pushed_back: Any = _PushedBack(status.code, status.details, metadata)
    return pushed_back  # type: ignore[no-any-return]


#: A method of a servicer: (request, context) → reply, or an awaitable of it. gRPC itself accepts only
#: awaitables; ``rpc/methods.py`` makes one of both.
Behavior: TypeAlias = Callable[[Any, Any], Any]


async def abort(
    error: Exception, request: Any, context: grpc.aio.ServicerContext[Any, Any], method: str
) -> NoReturn:
    """End a call with the status of the exception that its method raised.

    An exception that is no NodeError becomes INTERNAL, and is logged with the name `method`. The client is
    told an incident number that is the same for each repeat of the same fault, so that it can be found in a
    log that leaves out repeats.
    """
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if isinstance(error, NodeError):
        try:
            await context.abort_with_status(_with_push_back(error))
        except grpc.aio.InternalError:
            raise asyncio.CancelledError from None  # the client has gone: nobody would get the status
    incident = fault(error)
    about = {"request_id": getattr(request, "request_id", ""), "incident": incident}
    _log.error("%s failed (incident %s)", method, incident, exc_info=error, extra=about)
    await context.abort(grpc.StatusCode.INTERNAL, f"internal error, incident {incident}")
