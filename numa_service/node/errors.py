"""What can go wrong with a request. One root; the mapping to gRPC status is in ``rpc/status.py``."""

from __future__ import annotations

import hashlib
from typing import Any


class NodeError(Exception):
    """A request was refused; nothing changed unless the class says so."""

    #: After so long it may well be granted: the client is told. None: to wait does not help.
    retry_seconds: float | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled by what it has, not by the arguments that it was made of."""
        return _unpickled, (type(self), self.args, self.__dict__)


def _unpickled(kind: type[NodeError], args: tuple[Any, ...], fields: dict[str, Any]) -> NodeError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(fields)
    return error


class InvalidRequest(NodeError):
    """A field of the request is wrong."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


class NotFound(NodeError):
    """There is no such session, region or allocation."""

    def __init__(self, kind: str, name: str, reason: str = "not found") -> None:
        super().__init__(f"{kind} {name}: {reason}")
        self.kind = kind
        self.name = name


class Precondition(NodeError):
    """The thing exists, and is not in a state that allows this."""


class Busy(Precondition):
    """EBUSY: memory that is to be emptied has a page that cannot be moved."""


class LimitExceeded(NodeError):
    """A limit of the service, not of the emulated machine, was reached."""


class TooMany(LimitExceeded):
    """As many as there may be at one time: there is room again when one of them has ended."""

    retry_seconds = 1.0


class PeerUnavailable(NodeError):
    """Another node did not answer; thrown into the generator that asked it."""

    #: The longest wait before it is asked again by the node itself.
    retry_seconds = 1.0

    def __init__(self, nid: int, reason: str) -> None:
        super().__init__(f"node {nid} does not answer: {reason}")
        self.nid = nid
        self.reason = reason


class NeverSent(PeerUnavailable):
    """The node cannot have heard the question."""


class MachineUnavailable(NodeError):
    """Who keeps what is the whole machine's does not answer."""

    retry_seconds = 1.0


def fault(error: BaseException) -> str:
    """Number of a fault, 12 hexadecimal digits: the same for every error of its type raised at its place."""
    kind, place, at = type(error), "", error.__traceback__
    while at:
        place = f"{at.tb_frame.f_code.co_filename}:{at.tb_lineno}"
        at = at.tb_next
    return hashlib.sha256(f"{kind.__module__}.{kind.__qualname__} {place}".encode()).hexdigest()[:12]
