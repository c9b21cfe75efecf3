"""Ops of the protocol between nodes and with clients: first replies, and questions to be repeated."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from numa_service.node.errors import InvalidRequest
from numa_service.node.first_replies import FirstReply
from numa_service.node.folded import fold
from numa_service.node.ops.fields import MAX_INT64, check_below, check_nid
from numa_service.node.ops.op import Op, Tagged, decode
from numa_service.node.outbox import Question
from numa_service.node.owners import Owner
from numa_service.node.state import NodeState

#: Longest request id, in characters.
MAX_REQUEST_ID = 256


@dataclass(slots=True)
class Remember(Op[None]):
    """Keeps the reply to a request that was carried out, as the answer to repeats of the request."""

    tag = "remember"

    #: The session or node that asked (``first_replies.Key``).
    asker: int
    request_id: str
    #: Digest of the request: a different request under the same id is refused.
    digest: int
    #: Type of the reply, by which the shell unpacks it.
    kind: str
    #: Not part of repr(), as the reply to OpenSession has the session's token.
    reply: bytes = field(repr=False)
    now_ns: int
    #: [start, end) of the lists of pfns in `reply` that are to be stored in short form (``folded.py``).
    lists: tuple[tuple[int, int], ...] = ()

    def apply(self, node: NodeState) -> None:
        """Keep the reply under the asker and the request id."""
        reply = fold(self.reply, self.lists) if self.lists else self.reply
        first = FirstReply(self.digest, self.kind, reply)
        node.replies.remember((self.asker, self.request_id), first, self.now_ns)

    def check(self, node: NodeState) -> None:
        """Check that the id has no reply yet, and that the lists are within the reply."""
        if not 0 < len(self.request_id) <= MAX_REQUEST_ID:
            raise InvalidRequest("request_id", f"not 1 to {MAX_REQUEST_ID} characters")
        if (self.asker, self.request_id) in node.replies:
            raise InvalidRequest("request_id", "has its reply")
        check_below("now_ns", self.now_ns, MAX_INT64)
        at = 0
        for start, end in self.lists:
            if not at <= start <= end <= len(self.reply) or (end - start) % 8:
                raise InvalidRequest("lists", f"{start}-{end} of {len(self.reply)} bytes")
            at = end

    def text(self, node: NodeState, result: None) -> str:
        """Return "": every request has this op."""
        return ""

    @property
    def payload(self) -> int:
        """Bytes of the reply."""
        return len(self.reply)


@dataclass(frozen=True, slots=True)
class ForgetReplies(Op[None]):
    """Drops the first replies that are too old to be asked for again, while there are too many."""

    tag = "forget_replies"

    now_ns: int

    def apply(self, node: NodeState) -> None:
        """Drop the old replies."""
        node.replies.forget_old(self.now_ns)

    def check(self, node: NodeState) -> None:
        """Check the time."""
        check_below("now_ns", self.now_ns, MAX_INT64)

    def text(self, node: NodeState, result: None) -> str:
        """Return "": the op only accounts for time."""
        return ""


@dataclass(frozen=True, slots=True)
class NumberQuestion(Op[int]):
    """Takes the next number for a question to another node, which makes its request id unique."""

    tag = "number_question"

    def apply(self, node: NodeState) -> int:
        """Return a number that was not returned before in this epoch."""
        node.outbox.asked += 1
        return node.outbox.asked

    def check(self, node: NodeState) -> None:
        """Accept: the op has no fields."""

    def text(self, node: NodeState, result: int) -> str:
        """Return "": a transcript has the question as an op of the node that answers it."""
        return ""


@dataclass(frozen=True, slots=True)
class Owe(Op[None]):
    """Keeps a question that another node has not answered, so that it is repeated until it is answered."""

    tag = "owe"
    wakes = "settle"

    nid: int
    request_id: str
    #: The op or request that was asked for, encoded.
    question: bytes
    #: The owner whose pages it concerns, if any.
    owner: Owner | None
    now_ns: int

    def apply(self, node: NodeState) -> None:
        """Append the question to those that the node has not answered."""
        node.outbox.owe(self.nid, Question(self.request_id, self.question, self.owner), self.now_ns)

    def check(self, node: NodeState) -> None:
        """Check the node, the time, and that other nodes may ask for the op."""
        check_nid(node, "node", self.nid)
        check_below("now_ns", self.now_ns, MAX_INT64)
        check_question(self.question)

    def text(self, node: NodeState, result: None) -> str:
        """Return the op and its result as one line."""
        return f"owes node{self.nid} {decode(self.question).tag}"

    @property
    def payload(self) -> int:
        """Bytes of the question."""
        return len(self.question)


@dataclass(frozen=True, slots=True)
class Settle(Op[None]):
    """Removes the oldest question that a node has not answered: it has answered now."""

    tag = "settle"
    wakes = "settle"

    nid: int
    #: The encoded op that undoes what the node has done; None if nothing has to be undone.
    back: bytes | None
    #: The text of the error, if the node refused.
    refused: str = ""

    def apply(self, node: NodeState) -> None:
        """Remove the question. `back` is asked next, under a request id derived from the question's."""
        undo = None
        if self.back is not None:
            first = node.outbox.debts[self.nid].questions[0]
            undo = Question(f"{first.request_id}.back", self.back, first.owner)
        node.outbox.settle(self.nid, undo)

    def check(self, node: NodeState) -> None:
        """Check that the node owes an answer, and that other nodes may ask for `back`."""
        if not node.outbox.is_away(self.nid):
            raise InvalidRequest("node", f"{self.nid} owes nothing")
        if self.back is not None:
            check_question(self.back)

    def text(self, node: NodeState, result: None) -> str:
        """Return the op and its result as one line."""
        back = f", gives back by {decode(self.back).tag}" if self.back is not None else ""
        return f"settled with node{self.nid}{back}{f': {self.refused}' if self.refused else ''}"


@dataclass(frozen=True, slots=True)
class Postpone(Op[None]):
    """Delays the next repeat of questions to a node that still does not answer."""

    tag = "postpone"

    nid: int
    now_ns: int

    def apply(self, node: NodeState) -> None:
        """Set the time of the next repeat; the delay doubles each time, up to a second."""
        node.outbox.postpone(self.nid, self.now_ns)

    def check(self, node: NodeState) -> None:
        """Check that the node owes an answer, and the time."""
        if not node.outbox.is_away(self.nid):
            raise InvalidRequest("node", f"{self.nid} owes nothing")
        check_below("now_ns", self.now_ns, MAX_INT64)

    def text(self, node: NodeState, result: None) -> str:
        """Return "": the op only changes times."""
        return ""


@dataclass(frozen=True, slots=True)
class PeerBack(Op[None]):
    """Repeats the questions to a node without further delay, because the node may be back."""

    tag = "peer_back"
    wakes = "settle"

    nid: int
    now_ns: int

    def apply(self, node: NodeState) -> None:
        """Make the next repeat due now."""
        node.outbox.hurry(self.nid, self.now_ns)

    def check(self, node: NodeState) -> None:
        """Check the node and the time."""
        check_nid(node, "node", self.nid)
        check_below("now_ns", self.now_ns, MAX_INT64)

    def text(self, node: NodeState, result: None) -> str:
        """Return "": the op only accounts for time."""
        return ""


def check_question(question: bytes) -> Tagged[Any]:
    """Decode a question to another node; InvalidRequest if it is no op, or one that may not be asked for."""
    try:
        op = decode(question)
    except ValueError as error:
        raise InvalidRequest("question", str(error)) from None
    if not op.asked:
        raise InvalidRequest("question", f"{op.tag} is not a question between nodes")
    return op
