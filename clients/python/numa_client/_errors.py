"""The exceptions of this package. ``_status.py`` makes them of the gRPC status of a failed call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import grpc


class NumaError(Exception):
    """Base class of all errors of this package; raised itself for codes that have no class of their own."""

    #: Name of the grpc.StatusCode that the errors of this class have.
    STATUS: ClassVar[str] = "UNKNOWN"

    def __init__(
        self,
        message: str,
        *,
        field: str = "",
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        code: grpc.StatusCode | None = None,
    ) -> None:
        """`code` is given for codes that have no class of their own."""
        super().__init__(message)
        #: One line that says what was refused, and why.
        self.message = message
        self._code = code
        #: Field of the request that is wrong, e.g. "order"; empty if it is unknown, or no field is wrong.
        self.field = field
        #: google.rpc.ErrorInfo.reason, e.g. "SESSION_EXPIRED"; empty when the service sent none.
        self.reason = reason
        #: google.rpc.ErrorInfo.metadata.
        self.metadata: dict[str, str] = dict(metadata or {})
        #: google.rpc.RetryInfo: seconds to wait before another attempt; None if the service did not say.
        self.retry_seconds: float | None = None

    @property
    def code(self) -> grpc.StatusCode:
        """The gRPC status code. gRPC is imported only here: parsing a program or policy does without it."""
        from grpc import StatusCode

        return self._code or StatusCode[self.STATUS]


class InvalidRequest(NumaError):
    """INVALID_ARGUMENT, or an argument that this package refused before it was sent; see `field`."""

    STATUS = "INVALID_ARGUMENT"


class NotFound(NumaError):
    """NOT_FOUND: no such session, region, block, node or CPU. A session whose lease ran out is not found."""

    STATUS = "NOT_FOUND"


class FailedPrecondition(NumaError):
    """FAILED_PRECONDITION: right request, wrong state; e.g. a session on a node without CPUs."""

    STATUS = "FAILED_PRECONDITION"


class OutOfMemory(NumaError):
    """RESOURCE_EXHAUSTED: a limit is reached, or no zone that the request may use has the pages.

    An allocation that raises it has taken no page.
    """

    STATUS = "RESOURCE_EXHAUSTED"


class Unavailable(NumaError):
    """UNAVAILABLE after retries: the machine or the node cannot be reached, or restarts."""

    STATUS = "UNAVAILABLE"


class DeadlineExceeded(NumaError):
    """DEADLINE_EXCEEDED: no answer in time. Whether the request was carried out is not known."""

    STATUS = "DEADLINE_EXCEEDED"


class Aborted(NumaError):
    """ABORTED: the operation was ended by another event, e.g. a restart during an allocation."""

    STATUS = "ABORTED"
