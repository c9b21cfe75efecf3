"""The questions that a node asks other nodes, and those that have to be repeated because they got no answer.

A lookup without an answer may have been carried out. It is repeated under the same request id until the other
node answers, and the pages that it gave are freed there. The end of an owner is repeated likewise until every
node has heard of it. A node that owes an answer counts as away: requests do not wait for it.

The outbox is state of the node, changed by ops (``ops/protocol.py``). The shell that drives the node sends
the questions.
"""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

from numa_service.node.owners import Owner

#: Shortest and longest delay in ns before a node that is away is asked again; the delay doubles each time.
SETTLE_NS = (100_000_000, 1_000_000_000)


class Question(NamedTuple):
    """A question that has no answer yet."""

    request_id: str
    #: The op or request that is asked for, encoded.
    op: bytes
    #: The owner whose pages it concerns, if any.
    owner: Owner | None


class Debt:
    """The questions that one node has not answered, oldest first, and when it is asked again."""

    def __init__(self, now_ns: int) -> None:
        self.questions: deque[Question] = deque()
        self.next_ns = now_ns
        self.delay_ns = SETTLE_NS[0]


class Outbox:
    """The questions of one node."""

    def __init__(self) -> None:
        #: Number of questions asked in this epoch; their request ids are made of it.
        self.asked = 0
        #: nid → what that node has not answered.
        self.debts: dict[int, Debt] = {}
        #: id() of each Ask under way → (nid asked, owner). Not part of the state: the shell maintains it.
        self.asking: dict[int, tuple[int, Owner | None]] = {}

    def owe(self, nid: int, question: Question, now_ns: int) -> None:
        """Keep a question without an answer, to be repeated until node `nid` answers."""
        if nid not in self.debts:
            self.debts[nid] = Debt(now_ns)
        self.debts[nid].questions.append(question)

    def settle(self, nid: int, back: Question | None) -> None:
        """Remove the oldest question to a node, which has been answered. `back`, if any, is asked next."""
        debt = self.debts[nid]
        debt.questions.popleft()
        if back is not None:
            debt.questions.appendleft(back)
        if not debt.questions:
            del self.debts[nid]

    def postpone(self, nid: int, now_ns: int) -> None:
        """Set the time of the next repeat to a node that is still away, and double the delay after that."""
        debt = self.debts[nid]
        debt.next_ns = now_ns + debt.delay_ns
        debt.delay_ns = min(2 * debt.delay_ns, SETTLE_NS[1])

    def hurry(self, nid: int, now_ns: int) -> None:
        """Ask a node that may be back without further delay."""
        if nid in self.debts:
            self.debts[nid].next_ns = now_ns

    def is_away(self, nid: int) -> bool:
        """Whether a node owes answers."""
        return nid in self.debts

    def owed(self) -> dict[int, int]:
        """Return nid → number of questions that it has not answered, for the nodes that owe any."""
        return {nid: len(debt.questions) for nid, debt in sorted(self.debts.items())}

    def unsettled(self, nid: int) -> set[Owner]:
        """Return the owners that a node is being asked about, or owes an answer about."""
        asked = {owner for to, owner in self.asking.values() if to == nid and owner}
        if nid in self.debts:
            asked |= {question.owner for question in self.debts[nid].questions if question.owner}
        return asked

    def dump(self) -> list[object]:
        """Return the state as plain data in a fixed order, for digests and for :meth:`load`."""
        debts = [
            (nid, debt.next_ns, debt.delay_ns, list(debt.questions))
            for nid, debt in sorted(self.debts.items())
        ]
        return [self.asked, debts]

    def load(self, dumped: list[Any]) -> None:
        """Replace the state by what :meth:`dump` returned."""
        self.asked, debts = dumped
        self.debts = {}
        for nid, next_ns, delay_ns, questions in debts:
            debt = self.debts[nid] = Debt(next_ns)
            debt.delay_ns = delay_ns
            for request_id, op, owner in questions:
                debt.questions.append(Question(request_id, op, Owner(*owner) if owner else None))
