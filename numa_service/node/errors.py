"""The errors that a request may end with, all subclasses of NodeError.

Their mapping to gRPC status codes is in ``rpc/status.py``.
"""

from __future__ import annotations

import hashlib
from typing import Any


class NodeError(Exception):
    """A request was refused. It has changed nothing unless the class says otherwise."""

    #: The client is told to try again after so many seconds; None if waiting does not help.
    retry_seconds: float | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the attributes, because the constructors of subclasses take other arguments than `args`."""
        return _unpickled, (type(self), self.args, self.__dict__)


def _unpickled(kind: type[NodeError], args: tuple[Any, ...], fields: dict[str, Any]) -> NodeError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(fields)
    return error


class InvalidRequest(NodeError):
    """A field of the request has an invalid value; `field` is its name on the wire."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


class NotFound(NodeError):
    """The session, region, page or other thing that the request names does not exist."""

    def __init__(self, kind: str, name: str, reason: str = "not found") -> None:
        super().__init__(f"{kind} {name}: {reason}")
        self.kind = kind
        self.name = name


class Precondition(NodeError):
    """The thing that the request names exists, but its state does not allow the request."""


class Busy(Precondition):
    """EBUSY: a range of memory that has to be emptied has a page that cannot be moved."""


class KernelBug(Precondition):
    """What a kernel reports as a bug of its caller; `report` has the lines that it prints."""

    def __init__(self, report: tuple[str, ...]) -> None:
        super().__init__("; ".join(report))
        self.report = report


class SlabBug(KernelBug):
    """An object cannot be freed, or a slab cache cannot go."""


class UnknownObject(NodeError):
    """The session does not hold an object at the address; the node that has the page knows why."""

    def __init__(self, address: int) -> None:
        super().__init__(f"no object of the session is at {address:#x}")
        self.address = address


class LimitExceeded(NodeError):
    """A limit of the service, not of the emulated machine, was reached."""


class TooMany(LimitExceeded):
    """A limit of things that exist at one time was reached; a retry succeeds when one of them has ended."""

    retry_seconds = 1.0


class PeerUnavailable(NodeError):
    """Another node did not answer. The error is thrown into the generator that yielded the Ask.

    Whether the other node has carried out the op is not known; see :class:`NeverSent`.
    """

    #: The longest time after which this node itself asks the other one again (``outbox.SETTLE_NS``).
    retry_seconds = 1.0

    def __init__(self, nid: int, reason: str) -> None:
        super().__init__(f"node {nid} does not answer: {reason}")
        self.nid = nid
        self.reason = reason


class NeverSent(PeerUnavailable):
    """The question was not sent, so the other node has not carried it out."""


class MachineUnavailable(NodeError):
    """The machine actor, which keeps the record of the whole machine, does not answer."""

    retry_seconds = 1.0


def fault(error: BaseException) -> str:
    """Return an id of an unexpected error, 12 hexadecimal digits.

    It is a hash of the error's type and of the line that raised it, so the same fault always has the same id.
    """
    kind, place, at = type(error), "", error.__traceback__
    while at:
        place = f"{at.tb_frame.f_code.co_filename}:{at.tb_lineno}"
        at = at.tb_next
    return hashlib.sha256(f"{kind.__module__}.{kind.__qualname__} {place}".encode()).hexdigest()[:12]
