"""Ops of sessions: opening and ending them, their leases, and on which nodes they have pages."""

from __future__ import annotations

from dataclasses import dataclass, field

from numa_service.mm.mempolicy.interleave import FIRST_TURN, Turn
from numa_service.node.errors import InvalidRequest, TooMany
from numa_service.node.mempolicy import Policy, take_turns
from numa_service.node.ops.alloc import MAX_COUNT
from numa_service.node.ops.fields import MAX_INT64, check_below, check_nid, check_policy, policy_text
from numa_service.node.ops.op import Op
from numa_service.node.ops.region import end_region
from numa_service.node.ops.task import end_task
from numa_service.node.session_state import TOKEN_BYTES, Session
from numa_service.node.state import NodeState
from numa_service.node.vm_areas import end_areas

MAX_SESSIONS = 1 << 14
#: A lease, in ns, that is taken as endless: 73 years.
FOREVER_NS = 1 << 61
#: Longest name of a client, in characters.
MAX_CLIENT_NAME = 256


@dataclass(frozen=True, slots=True)
class OpenSession(Op[int]):
    """Opens a session at its home; the result is its id. TooMany if there are MAX_SESSIONS already."""

    tag = "open_session"
    wakes = "leases"

    name: str
    lease_ns: int
    now_ns: int
    #: See :class:`Session`. The shell draws it, because ops are deterministic.
    token: bytes = field(default=b"", repr=False)

    @property
    def payload(self) -> int:
        """Bytes of the token."""
        return len(self.token)

    def apply(self, node: NodeState) -> int:
        """Make the session, with an id that was never used."""
        if len(node.sessions) >= MAX_SESSIONS:
            raise TooMany(f"node {node.nid} has {MAX_SESSIONS} sessions already")
        id = node.take_id()
        expires_ns = self.now_ns + self.lease_ns
        node.sessions[id] = Session(id, self.name, self.lease_ns, expires_ns, node.owner(id), self.token)
        return id

    def check(self, node: NodeState) -> None:
        """Check the name, the times and the token."""
        if len(self.name) > MAX_CLIENT_NAME:
            raise InvalidRequest("client_name", f"more than {MAX_CLIENT_NAME} characters")
        check_below("lease_ns", self.lease_ns, MAX_INT64 >> 1)
        check_below("now_ns", self.now_ns, MAX_INT64 >> 1)
        if len(self.token) not in (0, TOKEN_BYTES):
            raise InvalidRequest("session_token", f"{len(self.token)} bytes: it has {TOKEN_BYTES}")

    def text(self, node: NodeState, result: int) -> str:
        """Return the op and its result as one line, without the token."""
        return f"open session={result} name={self.name} lease_ns={self.lease_ns}"


@dataclass(frozen=True, slots=True)
class RenewSession(Op[int]):
    """Renews a session's lease, on a heartbeat; the result is the lease in ns. NotFound."""

    tag = "renew_session"

    session: int
    now_ns: int

    def apply(self, node: NodeState) -> int:
        """Let the lease begin again now."""
        session = node.session(self.session)
        session.expires_ns = self.now_ns + session.lease_ns
        return session.lease_ns

    def check(self, node: NodeState) -> None:
        """Check the time; `apply` checks the session."""
        check_below("now_ns", self.now_ns, MAX_INT64 >> 1)

    def text(self, node: NodeState, result: int) -> str:
        """Return "": the op only changes times."""
        return ""


@dataclass(frozen=True, slots=True)
class EndSession(Op[int]):
    """Ends a session at its home, after other nodes have freed its pages. NotFound.

    The pages of the session, of its regions and of what is vmalloc'ed for it on this node are freed; the
    result is their number. Its areas of kernel addresses wait for a purge.
    """

    tag = "end_session"

    session: int

    def apply(self, node: NodeState) -> int:
        """End the session's tasks and regions, then the session."""
        session = node.session(self.session)
        for pid in node.tasks.of_session(session.id):
            end_task(node, pid)
        freed = sum(end_region(node, region) for region in sorted(session.regions))
        freed += node.drop_owner(node.owner(session.id))
        if session.vmalloc_id:
            end_areas(node, node.owner(session.vmalloc_id))
            freed += node.drop_owner(node.owner(session.vmalloc_id))
        if node.highmem:
            node.highmem.local.end(self.session)
            if node.highmem.pool:
                node.highmem.pool.end(node.owner(self.session))
        node.page_bits.end(self.session)
        del node.sessions[session.id]
        return freed

    def check(self, node: NodeState) -> None:
        """Accept every value: `apply` checks the session."""

    def text(self, node: NodeState, result: int) -> str:
        """Return the op and its result as one line."""
        return f"end session={self.session} -> {result} pages"


@dataclass(frozen=True, slots=True)
class NoteHolding(Op[None]):
    """Notes that a session has, or may have, pages on another node. NotFound."""

    tag = "note_holding"

    session: int
    nid: int

    def apply(self, node: NodeState) -> None:
        """Note the node, so that the session's end frees its pages there."""
        node.session(self.session).holdings.add(self.nid)

    def check(self, node: NodeState) -> None:
        """Check the node; `apply` checks the session."""
        check_nid(node, "node", self.nid)

    def text(self, node: NodeState, result: None) -> str:
        """Return the op and its result as one line."""
        return f"holds session={self.session} on=node{self.nid}"


@dataclass(frozen=True, slots=True)
class Interleave(Op[Turn]):
    """Deals `count` blocks of a session out to nodes, by the turn of the session (il_prev). NotFound.

    The result is the turn before, from which :func:`take_turns` of ``mempolicy.py`` tells the nodes.
    """

    tag = "interleave"

    session: int
    count: int
    #: The policy, as Policy.plain().
    policy: tuple[int, tuple[int, ...], int, int]

    def apply(self, node: NodeState) -> Turn:
        """Advance the session's turn."""
        session = node.session(self.session)
        before = session.turn
        machine, policy = node.machine, Policy.of(self.policy)
        weights = machine.sysctls.interleave_weights
        _, session.turn = take_turns(policy, machine.zonelists, before, weights, self.count)
        return before

    def check(self, node: NodeState) -> None:
        """Check the policy and that a request may have so many blocks; `apply` checks the session."""
        check_below("count", self.count, MAX_COUNT + 1)
        check_policy(node, self.policy)
        if not Policy.of(self.policy).interleaves:
            raise InvalidRequest("policy.mode", "it does not interleave")

    def text(self, node: NodeState, result: Turn) -> str:
        """Return the op and its result as one line."""
        policy = policy_text(self.policy)
        after = "" if result == FIRST_TURN else f" after=node{result.prev}"
        return f"interleave session={self.session} {policy}{after} pages={self.count}"
