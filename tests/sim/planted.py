"""Bugs that are planted one at a time into the protocol, to see whether attacks find them.

The docstring of each says what it breaks; the table in docs/attack.md consists of these docstrings.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from numa_service.machine.kept_record import KeptRecord
from numa_service.node import ask, daemons, region, task
from numa_service.node import ops as node_ops
from numa_service.node.ask import Steps
from numa_service.node.first_replies import FirstReplies
from numa_service.node.inbox import Inbox
from numa_service.node.kmem_slab import SlabKmem
from numa_service.node.kmem_state import Kmem
from numa_service.node.node import Node
from numa_service.node.outbox import Outbox
from numa_service.node.owners import OF_TASKS, OwnerSlots
from numa_service.node.state import NodeState
from numa_service.sim import keeper

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
    """Pages of a lookup whose answer was lost are not freed."""
    patch.setattr(node_ops.Alloc, "undo", lambda self, result: None)


def renumber_questions(patch: pytest.MonkeyPatch) -> None:
    """A question that is repeated has another request id."""
    owe = Outbox.owe

    def renamed(self: Outbox, nid: int, question: Any, now_ns: int) -> None:
        owe(self, nid, question._replace(request_id=f"{question.request_id}.again"), now_ns)

    patch.setattr(Outbox, "owe", renamed)


def number_questions_twice(patch: pytest.MonkeyPatch) -> None:
    """Numbers of questions are used again after eight questions."""

    def short(self: node_ops.NumberQuestion, node: NodeState) -> int:
        node.outbox.asked = node.outbox.asked % 8 + 1
        return node.outbox.asked

    patch.setattr(node_ops.NumberQuestion, "apply", short)


def settle_the_wrong_question(patch: pytest.MonkeyPatch) -> None:
    """The newest unanswered question is removed when the oldest is answered."""

    def newest(self: Outbox, nid: int, back: Any) -> None:
        debt = self.debts[nid]
        debt.questions.pop()
        if back is not None:
            debt.questions.appendleft(back)
        if not debt.questions:
            del self.debts[nid]

    patch.setattr(Outbox, "settle", newest)


def unlock_a_region_early(patch: pytest.MonkeyPatch) -> None:
    """The lock of a region is released before a fault is over."""

    def open_to_all(self: Inbox, region: int, steps: Any) -> Any:
        return (yield from steps)

    patch.setattr(Inbox, "locked", open_to_all)


def never_unlock_a_region(patch: pytest.MonkeyPatch) -> None:
    """Requests that wait for a region's lock are not woken."""

    def silent(self: Inbox, region: int) -> None:
        if not self._regions[region]:
            del self._regions[region]
        else:
            self._regions[region].popleft()

    patch.setattr(Inbox, "_unlock", silent)


def forget_holdings(patch: pytest.MonkeyPatch) -> None:
    """The nodes where a session has pages are not noted: its end frees none there."""
    patch.setattr(node_ops.NoteHolding, "apply", lambda self, node: None)


def keep_dead_owners(patch: pytest.MonkeyPatch) -> None:
    """Pages of dead lineages are not freed."""
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
    """Questions of a rebooted node have the request ids of its earlier questions."""

    def same_names(node: Node, nid: int, asked: Any) -> Any:
        number = node.apply(node_ops.NumberQuestion())
        return (yield ask.Ask(nid, asked, f"{node.nid}.1.{number}"))

    patch.setattr(ask, "ask", same_names)


def give_up_a_debt(patch: pytest.MonkeyPatch) -> None:
    """A question is not repeated any more after two repeats without an answer."""
    postpone, count = Outbox.postpone, dict[int, int]()

    def tired(self: Outbox, nid: int, now_ns: int) -> None:
        count[id(self)] = count.get(id(self), 0) + 1
        if count[id(self)] > 2:
            del self.debts[nid]
        else:
            postpone(self, nid, now_ns)

    patch.setattr(Outbox, "postpone", tired)


def undo_nothing(patch: pytest.MonkeyPatch) -> None:
    """A request that fails keeps the blocks that it got."""
    patch.setattr("numa_service.node.page_alloc._undo", lambda *_: iter(()))


def never_tell_again(patch: pytest.MonkeyPatch) -> None:
    """A node that was told the machine's record is taken to have it."""
    is_behind = KeptRecord.is_behind

    def trusting(self: KeptRecord, listener: Any) -> bool:
        behind = is_behind(self, listener)
        listener.version = self.record.version
        return behind

    patch.setattr(KeptRecord, "is_behind", trusting)


def forget_a_lost_free(patch: pytest.MonkeyPatch) -> None:
    """Slab objects whose free got no answer are not freed later."""
    owed = node_ops.KmemCall.owed
    patch.setattr(node_ops.KmemCall, "owed", lambda self, heard: self.call != "free" and owed(self, heard))


def keep_dead_homes(patch: pytest.MonkeyPatch) -> None:
    """What CPUs and sessions of a node had of slabs is not taken back when the node is restarted."""
    patch.setattr(Kmem, "home_restarted", lambda self, nid, lineage: None)


def trust_an_old_slab(patch: pytest.MonkeyPatch) -> None:
    """A slab that its node has lost in a restart is used all the same."""
    patch.setattr(Kmem, "node_restarted", lambda self, nid, lineage: set())


def forget_a_batch(patch: pytest.MonkeyPatch) -> None:
    """Objects that SLAB sends home in a batch whose answer was lost are not sent again."""
    owed = node_ops.KmemCall.owed
    patch.setattr(
        node_ops.KmemCall, "owed", lambda self, heard: self.call != "take_home" and owed(self, heard)
    )


def trust_an_old_array(patch: pytest.MonkeyPatch) -> None:
    """An array of SLAB keeps objects that their node has lost in a restart."""
    patch.setattr(SlabKmem, "_forget", lambda self, nid, lineage: None)


def forget_a_lost_release(patch: pytest.MonkeyPatch) -> None:
    """Pages of tasks whose Release got no answer are not freed later."""
    owed = node_ops.Release.owed
    patch.setattr(
        node_ops.Release, "owed", lambda self, heard: self.owner.id not in OF_TASKS and owed(self, heard)
    )


def leave_tasks_behind(patch: pytest.MonkeyPatch) -> None:
    """The end of a session does not tell other nodes to free what its tasks had there."""

    def nothing(node: Node, session: int) -> Steps[None]:
        return
        yield

    patch.setattr(region, "exit_tasks", nothing)


def go_on_after_the_kill(patch: pytest.MonkeyPatch) -> None:
    """A task that the OOM killer has killed in the midst of a call goes on with it."""
    patch.setattr(task, "_killed", lambda node, victim, ran: False)


def destroy_without_asking(patch: pytest.MonkeyPatch) -> None:
    """A slab cache goes although nodes have objects of it."""

    def nothing(nids: Any, cache: str) -> Any:
        return
        yield

    patch.setattr(keeper, "shutdown_on_all", nothing)


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
    never_tell_again,
    forget_a_lost_free,
    keep_dead_homes,
    trust_an_old_slab,
    forget_a_batch,
    trust_an_old_array,
    forget_a_lost_release,
    leave_tasks_behind,
    go_on_after_the_kill,
    destroy_without_asking,
)
