"""What can go wrong, as exceptions with typed attributes. What a call's status becomes: ``_status.py``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import grpc


class NumaError(Exception):
    """Root of every error of this package. Raised itself for codes that have no class of their own."""

    #: grpc.StatusCode by name: what every error of a class is, on the wire and when raised by this package.
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
        """`code` is for codes that have no class: the others have their own."""
        super().__init__(message)
        #: One line: what was refused and why.
        self.message = message
        self._code = code
        #: Field of the request that is wrong, e.g. "order"; empty when unknown, or when it is something else.
        self.field = field
        #: google.rpc.ErrorInfo.reason, e.g. "SESSION_EXPIRED"; empty when the service sent none.
        self.reason = reason
        #: google.rpc.ErrorInfo.metadata.
        self.metadata: dict[str, str] = dict(metadata or {})
        #: google.rpc.RetryInfo: how long to wait before another attempt; None when the service did not say.
        self.retry_seconds: float | None = None

    @property
    def code(self) -> grpc.StatusCode:
        """Of gRPC, which is not imported before: who only reads a program or a policy does without it."""
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
    """RESOURCE_EXHAUSTED: no zone that the request may use could give the pages. Nothing was taken."""

    STATUS = "RESOURCE_EXHAUSTED"


class Unavailable(NumaError):
    """UNAVAILABLE after retries: the machine or the node cannot be reached, or restarts."""

    STATUS = "UNAVAILABLE"


class DeadlineExceeded(NumaError):
    """DEADLINE_EXCEEDED: no answer in time. Whether the request was carried out is not known."""

    STATUS = "DEADLINE_EXCEEDED"


class Aborted(NumaError):
    """ABORTED: overtaken by something else, e.g. a restart in the middle of an allocation."""

    STATUS = "ABORTED"
