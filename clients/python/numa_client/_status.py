"""The one mapping from gRPC status codes, and their details, to exceptions."""

from __future__ import annotations

from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from numa_client._errors import NumaError

_BY_CODE = {grpc.StatusCode[kind.STATUS]: kind for kind in NumaError.__subclasses__()}


def from_rpc_error(error: grpc.RpcError) -> NumaError:
    """The exception for a failed call: class by status code, attributes from google.rpc error details."""
    call: Any = error  # the error of a failed call is a grpc.Call too; the type stubs do not say so
    try:
        status = rpc_status.from_call(call)
    except ValueError:  # the details contradict the status code; the code itself is still right
        status = None
    return _error(call.code(), call.details() or "", status)


def from_status(data: bytes) -> NumaError:
    """The exception for a serialised google.rpc.Status, with which a stream answers a request that failed."""
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
