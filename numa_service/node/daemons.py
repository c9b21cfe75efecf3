"""Daemons of a node: work that nobody asks for, as data that every shell drives alike.

A shell looks whether a daemon is `wanted`. If so it runs one round of its `steps`, and looks again after as
many ns as the round says that it took; if not, after its `delay`, or when the node's :attr:`Node.wake` names
it. kswapd has an actor of its own on Ray, and is driven by that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from numa_service.node import ops
from numa_service.node.ask import Ask, Steps, through_outbox
from numa_service.node.errors import NodeError, NotFound, PeerUnavailable
from numa_service.node.inbox import Inbox
from numa_service.node.node import Node
from numa_service.node.ops.op import decode, encode
from numa_service.node.requests import close

#: HZ=250, in ns.
JIFFY_NS = 4_000_000


#: Told the session whose lease has ended, and the pages freed.
Ended = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Daemon:
    """One daemon of one node."""

    #: What it is woken by.
    name: str
    #: Whether there is something to do now.
    wanted: Callable[[], bool]
    #: One round; the ns that it takes, in virtual time where that is modelled.
    steps: Callable[[], Steps[int]]
    #: ns until there may be something to do; None: not before it is woken.
    delay: Callable[[], int | None]
    #: A round may wait for other nodes while the next one begins.
    overlaps: bool = False


def kswapd(node: Node) -> Daemon:
    """Background reclaim: a round is one step of its run."""

    def steps() -> Steps[int]:
        step = node.apply(ops.KswapdStep())
        return step.scanned * node.machine.spec.latency.reclaim_page_ns
        yield  # a generator: it asks nobody

    return Daemon("kswapd", lambda: node.kswapd_wanted, steps, lambda: None)


def vmstat(node: Node) -> Daemon:
    """vmstat_update() every vm.stat_interval seconds, if there is anything to do."""

    def interval_ns() -> int:
        return node.machine.sysctls.stat_interval * 1_000_000_000 or JIFFY_NS

    def steps() -> Steps[int]:
        node.apply(ops.VmstatTick())
        return interval_ns()
        yield  # a generator: it asks nobody

    return Daemon("vmstat", lambda: node.pgdat.vmstat_wanted, steps, interval_ns)


def leases(
    node: Node, inbox: Inbox, ended: Callable[[int, int], None] = lambda session, freed: None
) -> Daemon:
    """The end of sessions whose clients are gone."""

    def living() -> list[tuple[int, int]]:
        """(end of its lease, session) of every session that is not being closed."""
        return [(s.expires_ns, s.id) for s in node.sessions.values() if not inbox.is_ending(s.id)]

    def wanted() -> bool:
        return any(expires_ns <= node.clock() for expires_ns, _ in living())

    def steps() -> Steps[int]:
        _, session = min(living())
        try:
            freed = yield from through_outbox(node, close(inbox, session))
        except NotFound:
            return 0  # its client closed it meanwhile
        ended(session, freed)
        return 0

    def delay() -> int | None:
        ends = living()
        return max(0, min(ends)[0] - node.clock()) if ends else None

    return Daemon("leases", wanted, steps, delay, overlaps=True)


def settle(node: Node, nid: int) -> Daemon:
    """Ask a node again that has not answered, until it does."""

    def next_ns() -> int | None:
        return node.outbox.debts[nid].next_ns if node.outbox.is_away(nid) else None

    def wanted() -> bool:
        at = next_ns()
        return at is not None and at <= node.clock()

    def steps() -> Steps[int]:
        question = node.outbox.debts[nid].questions[0]
        op = decode(question.op)
        try:
            answer = yield Ask(nid, op, question.request_id)
        except PeerUnavailable:
            node.apply(ops.Postpone(nid, node.clock()))
        except NodeError as error:
            node.apply(ops.Settle(nid, None, str(error)))
        else:
            back = op.undo(answer)
            node.apply(ops.Settle(nid, None if back is None else encode(back)))
        return 0

    def delay() -> int | None:
        at = next_ns()
        return None if at is None else max(0, at - node.clock())

    return Daemon("settle", wanted, steps, delay)


def daemons_of(node: Node, inbox: Inbox, ended: Ended = lambda session, freed: None) -> tuple[Daemon, ...]:
    """Every daemon of a node but kswapd."""
    others = (other.nid for other in node.machine.spec.nodes if other.nid != node.nid)
    return vmstat(node), leases(node, inbox, ended), *map(partial(settle, node), others)


def run_kswapd(node: Node) -> int:
    """Let kswapd do all its work at once, if it is wanted; pages reclaimed."""
    reclaimed, runs_on = 0, node.kswapd_wanted
    while runs_on:
        step = node.apply(ops.KswapdStep())
        reclaimed += step.reclaimed if step.did is ops.KswapdDid.SCANNED else 0
        runs_on = step.runs_on
    return reclaimed
