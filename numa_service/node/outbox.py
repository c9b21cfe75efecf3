"""What a node asks of others: the numbers of its questions, and what is owed to or by nodes that are away.

A lookup without an answer may have been carried out: it is asked again, under its own id, until the node
answers, and what it gave is given back. An owner's end that a node has not heard of is repeated likewise.
While a node owes answers it counts as away, and nobody waits for it.

State of the node, changed by ops (``ops/protocol.py``). Whoever drives the node carries the questions.
"""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

from numa_service.node.owners import Owner

#: How long to wait before a node that is away is asked again, in ns; doubles up to the second.
SETTLE_NS = (100_000_000, 1_000_000_000)


class Question(NamedTuple):
    """A question that has no answer yet."""

    request_id: str
    #: What is asked, encoded.
    op: bytes
    #: Whom it concerns.
    owner: Owner | None


class Debt:
    """Questions that one node has not answered, oldest first, and when to ask it again."""

    def __init__(self, now_ns: int) -> None:
        self.questions: deque[Question] = deque()
        self.next_ns = now_ns
        self.delay_ns = SETTLE_NS[0]


class Outbox:
    """The questions of one node."""

    def __init__(self) -> None:
        #: Questions asked in this epoch: numbers their request ids.
        self.asked = 0
        self.debts: dict[int, Debt] = {}
        #: (node, owner) of questions under way, by identity; not state: who drives the node notes them.
        self.asking: dict[int, tuple[int, Owner | None]] = {}

    def owe(self, nid: int, question: Question, now_ns: int) -> None:
        """Keep a question that went unanswered and must not be lost."""
        if nid not in self.debts:
            self.debts[nid] = Debt(now_ns)
        self.debts[nid].questions.append(question)

    def settle(self, nid: int, back: Question | None) -> None:
        """Cross out the oldest question to a node: it has its answer, which `back` is to undo."""
        debt = self.debts[nid]
        debt.questions.popleft()
        if back is not None:
            debt.questions.appendleft(back)
        if not debt.questions:
            del self.debts[nid]

    def postpone(self, nid: int, now_ns: int) -> None:
        """Wait twice as long for a node that is still away."""
        debt = self.debts[nid]
        debt.next_ns = now_ns + debt.delay_ns
        debt.delay_ns = min(2 * debt.delay_ns, SETTLE_NS[1])

    def hurry(self, nid: int, now_ns: int) -> None:
        """Ask a node at once that may have come back."""
        if nid in self.debts:
            self.debts[nid].next_ns = now_ns

    def is_away(self, nid: int) -> bool:
        """Whether a node owes answers."""
        return nid in self.debts

    def owed(self) -> dict[int, int]:
        """nid → questions that it has not answered, of the nodes that owe any."""
        return {nid: len(debt.questions) for nid, debt in sorted(self.debts.items())}

    def unsettled(self, nid: int) -> set[Owner]:
        """Owners of whom a node is asked something now, or owes an answer."""
        asked = {owner for to, owner in self.asking.values() if to == nid and owner}
        if nid in self.debts:
            asked |= {question.owner for question in self.debts[nid].questions if question.owner}
        return asked

    def dump(self) -> list[object]:
        """All of the state as plain data, in an order of its own: what a digest covers; see :meth:`load`."""
        debts = [
            (nid, debt.next_ns, debt.delay_ns, list(debt.questions))
            for nid, debt in sorted(self.debts.items())
        ]
        return [self.asked, debts]

    def load(self, dumped: list[Any]) -> None:
        """Take over what :meth:`dump` gave."""
        self.asked, debts = dumped
        self.debts = {}
        for nid, next_ns, delay_ns, questions in debts:
            debt = self.debts[nid] = Debt(next_ns)
            debt.delay_ns = delay_ns
            for request_id, op, owner in questions:
                debt.questions.append(Question(request_id, op, Owner(*owner) if owner else None))
