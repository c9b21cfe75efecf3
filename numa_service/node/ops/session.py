"""Sessions: their leases, and where they have pages."""

from __future__ import annotations

from dataclasses import dataclass, field

from numa_service.node.errors import InvalidRequest, TooMany
from numa_service.node.ops.alloc import MAX_COUNT
from numa_service.node.ops.fields import MAX_INT64, check_below, check_nid
from numa_service.node.ops.op import Op
from numa_service.node.ops.region import end_region
from numa_service.node.session import TOKEN_BYTES, Session
from numa_service.node.state import NodeState

MAX_SESSIONS = 1 << 14
#: A lease in ns that does not end: 73 years.
FOREVER_NS = 1 << 61
#: Longest name of a client, in characters.
MAX_CLIENT_NAME = 256


@dataclass(frozen=True, slots=True)
class OpenSession(Op[int]):
    """Start a session; its number. TooMany."""

    tag = "open_session"
    wakes = "leases"

    name: str
    lease_ns: int
    now_ns: int
    #: See :class:`Session`. The shell draws it.
    token: bytes = field(default=b"", repr=False)

    @property
    def payload(self) -> int:
        """Of its token."""
        return len(self.token)

    def apply(self, node: NodeState) -> int:
        """Give it a number that was never used."""
        if len(node.sessions) >= MAX_SESSIONS:
            raise TooMany(f"node {node.nid} has {MAX_SESSIONS} sessions already")
        id = node.take_id()
        expires_ns = self.now_ns + self.lease_ns
        node.sessions[id] = Session(id, self.name, self.lease_ns, expires_ns, node.owner(id), self.token)
        return id

    def check(self, node: NodeState) -> None:
        """Of its name, times and token."""
        if len(self.name) > MAX_CLIENT_NAME:
            raise InvalidRequest("client_name", f"more than {MAX_CLIENT_NAME} characters")
        check_below("lease_ns", self.lease_ns, MAX_INT64 >> 1)
        check_below("now_ns", self.now_ns, MAX_INT64 >> 1)
        if len(self.token) not in (0, TOKEN_BYTES):
            raise InvalidRequest("session_token", f"{len(self.token)} bytes: it has {TOKEN_BYTES}")

    def text(self, node: NodeState, result: int) -> str:
        """One line, without the token."""
        return f"open session={result} name={self.name} lease_ns={self.lease_ns}"


@dataclass(frozen=True, slots=True)
class RenewSession(Op[int]):
    """Heartbeat; the lease in ns. NotFound."""

    tag = "renew_session"

    session: int
    now_ns: int

    def apply(self, node: NodeState) -> int:
        """Let the lease begin now."""
        session = node.session(self.session)
        session.expires_ns = self.now_ns + session.lease_ns
        return session.lease_ns

    def check(self, node: NodeState) -> None:
        """Of its time."""
        check_below("now_ns", self.now_ns, MAX_INT64 >> 1)

    def text(self, node: NodeState, result: int) -> str:
        """Nothing: heartbeats only keep time."""
        return ""


@dataclass(frozen=True, slots=True)
class EndSession(Op[int]):
    """Forget a session whose pages elsewhere are free; frees what it has here. Pages freed. NotFound."""

    tag = "end_session"

    session: int

    def apply(self, node: NodeState) -> int:
        """Its regions first."""
        session = node.session(self.session)
        freed = sum(end_region(node, region) for region in sorted(session.regions))
        freed += node.drop_owner(node.owner(session.id))
        del node.sessions[session.id]
        return freed

    def check(self, node: NodeState) -> None:
        """Whether there is such a session, `apply` says."""

    def text(self, node: NodeState, result: int) -> str:
        """One line."""
        return f"end session={self.session} -> {result} pages"


@dataclass(frozen=True, slots=True)
class NoteHolding(Op[None]):
    """A session has pages on another node from now on. NotFound."""

    tag = "note_holding"

    session: int
    nid: int

    def apply(self, node: NodeState) -> None:
        """Remember where its end has to free something."""
        node.session(self.session).holdings.add(self.nid)

    def check(self, node: NodeState) -> None:
        """Of a node of the machine."""
        check_nid(node, "node", self.nid)

    def text(self, node: NodeState, result: None) -> str:
        """One line."""
        return f"holds session={self.session} on=node{self.nid}"


@dataclass(frozen=True, slots=True)
class Interleave(Op[int]):
    """Advance a session's interleave position by some pages; the position before (il_prev). NotFound."""

    tag = "interleave"

    session: int
    count: int

    def apply(self, node: NodeState) -> int:
        """Of the session's own position."""
        session = node.session(self.session)
        before = session.interleaved
        session.interleaved += self.count
        return before

    def check(self, node: NodeState) -> None:
        """As many as one request may have."""
        check_below("count", self.count, MAX_COUNT + 1)

    def text(self, node: NodeState, result: int) -> str:
        """One line."""
        return f"interleave session={self.session} from={result} pages={self.count}"
