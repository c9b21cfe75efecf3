"""What passes between nodes, and between a node and its clients, as far as a later answer depends on it."""

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
    """A request was carried out: keep its reply, for who repeats it."""

    tag = "remember"

    asker: int
    request_id: str
    #: Tells the request from another one under the same id.
    digest: int
    kind: str
    #: Not shown: that of an opening has the token of its session.
    reply: bytes = field(repr=False)
    now_ns: int
    #: [start, end) of the lists of page numbers in `reply`, where that is worth it: they are kept short.
    lists: tuple[tuple[int, int], ...] = ()

    def apply(self, node: NodeState) -> None:
        """Under who asked, and its request id."""
        reply = fold(self.reply, self.lists) if self.lists else self.reply
        first = FirstReply(self.digest, self.kind, reply)
        node.replies.remember((self.asker, self.request_id), first, self.now_ns)

    def check(self, node: NodeState) -> None:
        """Of an id that nobody used, and lists within the reply."""
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
        """Nothing: every request has one."""
        return ""

    @property
    def payload(self) -> int:
        """Of the reply."""
        return len(self.reply)


@dataclass(frozen=True, slots=True)
class ForgetReplies(Op[None]):
    """Drop first replies that nobody will ask for again, as far as there are too many."""

    tag = "forget_replies"

    now_ns: int

    def apply(self, node: NodeState) -> None:
        """By their age."""
        node.replies.forget_old(self.now_ns)

    def check(self, node: NodeState) -> None:
        """Of a time."""
        check_below("now_ns", self.now_ns, MAX_INT64)

    def text(self, node: NodeState, result: None) -> str:
        """Nothing."""
        return ""


@dataclass(frozen=True, slots=True)
class NumberQuestion(Op[int]):
    """The number of the next question to another node."""

    tag = "number_question"

    def apply(self, node: NodeState) -> int:
        """Never given before in this epoch."""
        node.outbox.asked += 1
        return node.outbox.asked

    def check(self, node: NodeState) -> None:
        """It says nothing."""

    def text(self, node: NodeState, result: int) -> str:
        """Nothing: the question itself is seen where it is answered."""
        return ""


@dataclass(frozen=True, slots=True)
class Owe(Op[None]):
    """A question to another node has no answer, and must not be lost."""

    tag = "owe"
    wakes = "settle"

    nid: int
    request_id: str
    #: The op that was asked for, encoded.
    question: bytes
    owner: Owner | None
    now_ns: int

    def apply(self, node: NodeState) -> None:
        """Behind what that node owes already."""
        node.outbox.owe(self.nid, Question(self.request_id, self.question, self.owner), self.now_ns)

    def check(self, node: NodeState) -> None:
        """Of a node, and an op that may be asked for."""
        check_nid(node, "node", self.nid)
        check_below("now_ns", self.now_ns, MAX_INT64)
        check_question(self.question)

    def text(self, node: NodeState, result: None) -> str:
        """One line."""
        return f"owes node{self.nid} {decode(self.question).tag}"

    @property
    def payload(self) -> int:
        """Of the question."""
        return len(self.question)


@dataclass(frozen=True, slots=True)
class Settle(Op[None]):
    """A node that was away has answered the oldest question that it owed an answer to."""

    tag = "settle"
    wakes = "settle"

    nid: int
    #: Encoded: the op that undoes what was answered; None when there is nothing to undo.
    back: bytes | None
    #: Why it refused.
    refused: str = ""

    def apply(self, node: NodeState) -> None:
        """Cross it out; what undoes it is asked next, under a name that follows from the question's."""
        undo = None
        if self.back is not None:
            first = node.outbox.debts[self.nid].questions[0]
            undo = Question(f"{first.request_id}.back", self.back, first.owner)
        node.outbox.settle(self.nid, undo)

    def check(self, node: NodeState) -> None:
        """Of a node that owes an answer."""
        if not node.outbox.is_away(self.nid):
            raise InvalidRequest("node", f"{self.nid} owes nothing")
        if self.back is not None:
            check_question(self.back)

    def text(self, node: NodeState, result: None) -> str:
        """One line."""
        back = f", gives back by {decode(self.back).tag}" if self.back is not None else ""
        return f"settled with node{self.nid}{back}{f': {self.refused}' if self.refused else ''}"


@dataclass(frozen=True, slots=True)
class Postpone(Op[None]):
    """A node that owes answers is still away: it is asked again later."""

    tag = "postpone"

    nid: int
    now_ns: int

    def apply(self, node: NodeState) -> None:
        """Twice as long each time, up to a second."""
        node.outbox.postpone(self.nid, self.now_ns)

    def check(self, node: NodeState) -> None:
        """Of a node that owes an answer."""
        if not node.outbox.is_away(self.nid):
            raise InvalidRequest("node", f"{self.nid} owes nothing")
        check_below("now_ns", self.now_ns, MAX_INT64)

    def text(self, node: NodeState, result: None) -> str:
        """Nothing: it only keeps time."""
        return ""


@dataclass(frozen=True, slots=True)
class PeerBack(Op[None]):
    """A node that was away may be back: what it owes is asked for at once."""

    tag = "peer_back"
    wakes = "settle"

    nid: int
    now_ns: int

    def apply(self, node: NodeState) -> None:
        """Do not wait for the next time."""
        node.outbox.hurry(self.nid, self.now_ns)

    def check(self, node: NodeState) -> None:
        """Of a node."""
        check_nid(node, "node", self.nid)
        check_below("now_ns", self.now_ns, MAX_INT64)

    def text(self, node: NodeState, result: None) -> str:
        """Nothing."""
        return ""


def check_question(question: bytes) -> Tagged[Any]:
    """What another node is asked for; InvalidRequest when none may ask for it."""
    try:
        op = decode(question)
    except ValueError as error:
        raise InvalidRequest("question", str(error)) from None
    if not op.asked:
        raise InvalidRequest("question", f"{op.tag} is not a question between nodes")
    return op
