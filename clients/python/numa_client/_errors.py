"""What can go wrong, as exceptions with typed attributes: the one mapping from gRPC status codes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import grpc
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status


class NumaError(Exception):
    """Root of every error of this package. Raised itself for codes that have no class of their own."""

    #: What every error of a class is, on the wire and when this package raises it itself.
    CODE: ClassVar[grpc.StatusCode] = grpc.StatusCode.UNKNOWN

    def __init__(
        self,
        message: str,
        *,
        field: str = "",
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        code: grpc.StatusCode | None = None,
    ) -> None:
        """`code` is for codes that have no class: the others have their own."""
        super().__init__(message)
        #: One line: what was refused and why.
        self.message = message
        #: Of gRPC.
        self.code = code or self.CODE
        #: Field of the request that is wrong, e.g. "order"; empty when unknown, or when it is something else.
        self.field = field
        #: google.rpc.ErrorInfo.reason, e.g. "SESSION_EXPIRED"; empty when the service sent none.
        self.reason = reason
        #: google.rpc.ErrorInfo.metadata.
        self.metadata: dict[str, str] = dict(metadata or {})
        #: google.rpc.RetryInfo: how long to wait before another attempt; None when the service did not say.
        self.retry_seconds: float | None = None


class InvalidRequest(NumaError):
    """INVALID_ARGUMENT, or an argument that this package refused before it was sent; see `field`."""

    CODE = grpc.StatusCode.INVALID_ARGUMENT


class NotFound(NumaError):
    """NOT_FOUND: no such session, region, block, node or CPU. A session whose lease ran out is not found."""

    CODE = grpc.StatusCode.NOT_FOUND


class FailedPrecondition(NumaError):
    """FAILED_PRECONDITION: right request, wrong state; e.g. a session on a node without CPUs."""

    CODE = grpc.StatusCode.FAILED_PRECONDITION


class OutOfMemory(NumaError):
    """RESOURCE_EXHAUSTED: no zone that the request may use could give the pages. Nothing was taken."""

    CODE = grpc.StatusCode.RESOURCE_EXHAUSTED


class Unavailable(NumaError):
    """UNAVAILABLE after retries: the machine or the node cannot be reached, or restarts."""

    CODE = grpc.StatusCode.UNAVAILABLE


class DeadlineExceeded(NumaError):
    """DEADLINE_EXCEEDED: no answer in time. Whether the request was carried out is not known."""

    CODE = grpc.StatusCode.DEADLINE_EXCEEDED


class Aborted(NumaError):
    """ABORTED: overtaken by something else, e.g. a restart in the middle of an allocation."""

    CODE = grpc.StatusCode.ABORTED


_BY_CODE: dict[grpc.StatusCode, type[NumaError]] = {kind.CODE: kind for kind in NumaError.__subclasses__()}


def from_rpc_error(error: grpc.RpcError) -> NumaError:
    """The exception for a failed call: class by status code, attributes from google.rpc error details."""
    call: Any = error  # what is raised for a failed call is a grpc.Call too; the stubs do not say so
    try:
        status = rpc_status.from_call(call)
    except ValueError:  # details that contradict the status: the status itself is still right
        status = None
    return _error(call.code(), call.details() or "", status)


def from_status(data: bytes) -> NumaError:
    """The exception for a google.rpc.Status in an answer: one request of a stream failed."""
    status = status_pb2.Status.FromString(data)
    code = next((code for code in grpc.StatusCode if code.value[0] == status.code), grpc.StatusCode.UNKNOWN)
    return _error(code, status.message, status)


def _error(code: grpc.StatusCode, message: str, status: status_pb2.Status | None) -> NumaError:
    info, field, retry = error_details_pb2.ErrorInfo(), "", error_details_pb2.RetryInfo()
    for detail in status.details if status else ():
        bad_request = error_details_pb2.BadRequest()
        if detail.Unpack(bad_request) and bad_request.field_violations:
            field = bad_request.field_violations[0].field
        detail.Unpack(info)
        detail.Unpack(retry)
    kind = _BY_CODE.get(code, NumaError)
    error = kind(message, field=field, reason=info.reason, metadata=dict(info.metadata), code=code)
    if retry.HasField("retry_delay"):
        error.retry_seconds = retry.retry_delay.ToTimedelta().total_seconds()
    return error
