"""Bugs, planted one at a time into the protocol: what each breaks, and how it is put in and taken out.

The list in docs/attack.md is made of these.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from numa_service.node import ask, daemons
from numa_service.node import ops as node_ops
from numa_service.node.first_replies import FirstReplies
from numa_service.node.inbox import Inbox
from numa_service.node.node import Node
from numa_service.node.outbox import Outbox
from numa_service.node.owners import OwnerSlots
from numa_service.node.state import NodeState

Plant = Callable[[pytest.MonkeyPatch], None]


def forget_a_first_reply(patch: pytest.MonkeyPatch) -> None:
    """Every third first reply is not kept: a repeat is carried out again."""
    remember, count = FirstReplies.remember, [0]

    def forgetful(self: FirstReplies, key: Any, first: Any, now_ns: int) -> None:
        count[0] += 1
        if count[0] % 3:
            remember(self, key, first, now_ns)

    patch.setattr(FirstReplies, "remember", forgetful)


def skip_a_debt(patch: pytest.MonkeyPatch) -> None:
    """A question without an answer is not asked again."""
    patch.setattr(ask, "owe", lambda node, question: None)


def keep_what_came_late(patch: pytest.MonkeyPatch) -> None:
    """What a lookup gave whose answer was lost is not given back."""
    patch.setattr(node_ops.Alloc, "undo", lambda self, result: None)


def renumber_questions(patch: pytest.MonkeyPatch) -> None:
    """A question that is asked again has another name."""
    owe = Outbox.owe

    def renamed(self: Outbox, nid: int, question: Any, now_ns: int) -> None:
        owe(self, nid, question._replace(request_id=f"{question.request_id}.again"), now_ns)

    patch.setattr(Outbox, "owe", renamed)


def number_questions_twice(patch: pytest.MonkeyPatch) -> None:
    """Numbers of questions begin anew after eight."""

    def short(self: node_ops.NumberQuestion, node: NodeState) -> int:
        node.outbox.asked = node.outbox.asked % 8 + 1
        return node.outbox.asked

    patch.setattr(node_ops.NumberQuestion, "apply", short)


def settle_the_wrong_question(patch: pytest.MonkeyPatch) -> None:
    """The newest debt is crossed out when the oldest is answered."""

    def newest(self: Outbox, nid: int, back: Any) -> None:
        debt = self.debts[nid]
        debt.questions.pop()
        if back is not None:
            debt.questions.appendleft(back)
        if not debt.questions:
            del self.debts[nid]

    patch.setattr(Outbox, "settle", newest)


def unlock_a_region_early(patch: pytest.MonkeyPatch) -> None:
    """A region is free again before its fault is over."""

    def open_to_all(self: Inbox, region: int, steps: Any) -> Any:
        return (yield from steps)

    patch.setattr(Inbox, "locked", open_to_all)


def never_unlock_a_region(patch: pytest.MonkeyPatch) -> None:
    """Who waits for a region is not told that it is free."""

    def silent(self: Inbox, region: int) -> None:
        if not self._regions[region]:
            del self._regions[region]
        else:
            self._regions[region].popleft()

    patch.setattr(Inbox, "_unlock", silent)


def forget_holdings(patch: pytest.MonkeyPatch) -> None:
    """Where a session has pages is not noted: its end frees none there."""
    patch.setattr(node_ops.NoteHolding, "apply", lambda self, node: None)


def keep_dead_owners(patch: pytest.MonkeyPatch) -> None:
    """Pages of a dead lineage stay."""
    patch.setattr(OwnerSlots, "restarted", lambda self, nid, lineage: [])


def leases_never_end(patch: pytest.MonkeyPatch) -> None:
    """The lease of a client that is gone does not run out."""
    leases = daemons.leases

    def endless(node: Node, at: Inbox, ended: Any) -> Any:
        daemon = leases(node, at, ended)
        return daemons.Daemon(daemon.name, lambda: False, daemon.steps, lambda: None, overlaps=True)

    patch.setattr(daemons, "leases", endless)


def leases_end_early(patch: pytest.MonkeyPatch) -> None:
    """A heartbeat does not renew the lease."""
    patch.setattr(node_ops.RenewSession, "apply", lambda self, node: node.session(self.session).lease_ns)


def leak_at_merge(patch: pytest.MonkeyPatch) -> None:
    """Off by one: the last block of a Free is forgotten."""
    apply = node_ops.Free.apply

    def one_less(self: node_ops.Free, node: NodeState) -> int:
        if len(self.pfns) > 8 * 64:
            short = node_ops.Free(self.owner, self.cpu, self.order, self.pfns[:-8], self.spends)
            return apply(short, node) + (1 << self.order)
        return apply(self, node)

    patch.setattr(node_ops.Free, "apply", one_less)


def answer_from_an_earlier_epoch(patch: pytest.MonkeyPatch) -> None:
    """Questions of a node that booted anew have the names of its earlier ones."""

    def same_names(node: Node, nid: int, asked: Any) -> Any:
        number = node.apply(node_ops.NumberQuestion())
        return (yield ask.Ask(nid, asked, f"{node.nid}.1.{number}"))

    patch.setattr(ask, "ask", same_names)


def give_up_a_debt(patch: pytest.MonkeyPatch) -> None:
    """A node that is still away is not asked a third time."""
    postpone, count = Outbox.postpone, dict[int, int]()

    def tired(self: Outbox, nid: int, now_ns: int) -> None:
        count[id(self)] = count.get(id(self), 0) + 1
        if count[id(self)] > 2:
            del self.debts[nid]
        else:
            postpone(self, nid, now_ns)

    patch.setattr(Outbox, "postpone", tired)


def undo_nothing(patch: pytest.MonkeyPatch) -> None:
    """A request that gets too little keeps what it got."""
    patch.setattr("numa_service.node.page_alloc._undo", lambda *_: iter(()))


PLANTED: tuple[Plant, ...] = (
    forget_a_first_reply,
    skip_a_debt,
    keep_what_came_late,
    renumber_questions,
    number_questions_twice,
    settle_the_wrong_question,
    unlock_a_region_early,
    never_unlock_a_region,
    forget_holdings,
    keep_dead_owners,
    leases_never_end,
    leases_end_early,
    leak_at_merge,
    answer_from_an_earlier_epoch,
    give_up_a_debt,
    undo_nothing,
)
