"""Daemons of a node: work that no request asks for, described as data so that every shell drives it alike.

A shell checks whether a daemon is `wanted`. If it is, the shell runs one round of its `steps`, and checks
again after as many ns as the round returns. If it is not, the shell checks again after `delay` ns, or when
:attr:`Node.wake` is called with the daemon's name. On Ray, kswapd is driven by an actor of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from numa_service.mm.slab.slab_alloc import REAPTIMEOUT_AC
from numa_service.node import ops
from numa_service.node.ask import Ask, Steps, through_outbox
from numa_service.node.errors import NodeError, NotFound, PeerUnavailable
from numa_service.node.inbox import Inbox
from numa_service.node.kmem import cache_reap
from numa_service.node.node import Node
from numa_service.node.ops.op import decode, encode
from numa_service.node.requests import close
from numa_service.node.task import khugepaged_round

#: One jiffy at HZ=250, in ns.
JIFFY_NS = 4_000_000
#: From one round of SLAB's reapers to the next (REAPTIMEOUT_AC), in ns.
REAP_NS = REAPTIMEOUT_AC * JIFFY_NS

#: Called with a session whose lease has run out, and the number of pages freed.
Ended = Callable[[int, int], None]


class Daemon(Protocol):
    """One daemon of one node."""

    @property
    def name(self) -> str:
        """The name by which :attr:`Node.wake` wakes it."""

    @property
    def overlaps(self) -> bool:
        """Whether a round may begin while an earlier one still waits for other nodes."""

    @property
    def endless(self) -> bool:
        """Whether it goes on as long as there are tasks, so that nobody waits for its end."""

    def wanted(self) -> bool:
        """Return whether there is work now."""

    def steps(self) -> Steps[int]:
        """Begin one round of work; its result is the virtual ns until the next round may begin."""

    def delay(self) -> int | None:
        """Return the ns until there may be work; None: there is none before the daemon is woken."""


@dataclass(frozen=True, slots=True)
class _Daemon:
    """A daemon of functions."""

    name: str
    wanted: Callable[[], bool]
    steps: Callable[[], Steps[int]]
    delay: Callable[[], int | None]
    overlaps: bool = False
    endless: bool = False


def kswapd(node: Node) -> Daemon:
    """Return the daemon of background reclaim; a round is one step of kswapd's run."""

    def steps() -> Steps[int]:
        step = node.apply(ops.KswapdStep())
        return step.scanned * node.machine.spec.latency.reclaim_page_ns
        yield  # never reached: it makes the function a generator

    return _Daemon("kswapd", lambda: node.kswapd_wanted, steps, lambda: None)


def vmstat(node: Node) -> Daemon:
    """Return the daemon of vmstat_update(), every vm.stat_interval seconds while there is anything to do."""

    def interval_ns() -> int:
        return node.machine.sysctls.stat_interval * 1_000_000_000 or JIFFY_NS

    def steps() -> Steps[int]:
        node.apply(ops.VmstatTick())
        return interval_ns()
        yield  # never reached: it makes the function a generator

    return _Daemon("vmstat", lambda: node.pgdat.vmstat_wanted or node.kmem.rcu_waits, steps, interval_ns)


def slab_reap(node: Node) -> Daemon:
    """Return the daemon of SLAB's cache_reap(), every two seconds while there is anything to do."""

    def steps() -> Steps[int]:
        yield from through_outbox(node, cache_reap(node))
        return REAP_NS

    return _Daemon("slab_reap", lambda: node.kmem.reap_wanted, steps, lambda: REAP_NS)


def khugepaged(node: Node) -> Daemon:
    """Return the daemon that makes huge pages of small ones, round by round, while tasks may have such."""

    def wanted() -> bool:
        thp = node.tasks.thp
        return thp is not None and bool(thp.scan.slots) and not thp.is_off

    def steps() -> Steps[int]:
        return (yield from through_outbox(node, khugepaged_round(node))) * 1_000_000

    def delay() -> int | None:
        thp = node.tasks.thp
        return None if thp is None else thp.settings.khugepaged_scan_sleep_millisecs * 1_000_000

    return _Daemon("khugepaged", wanted, steps, delay, endless=True)


def leases(
    node: Node, inbox: Inbox, ended: Callable[[int, int], None] = lambda session, freed: None
) -> Daemon:
    """Return the daemon that closes sessions whose lease has run out; `ended` is called for each."""

    def living() -> list[tuple[int, int]]:
        """Return (end of its lease in ns, id) of every session that is not being closed."""
        return [(s.expires_ns, s.id) for s in node.sessions.values() if not inbox.is_ending(s.id)]

    def wanted() -> bool:
        return any(expires_ns <= node.clock() for expires_ns, _ in living())

    def steps() -> Steps[int]:
        _, session = min(living())
        try:
            freed = yield from through_outbox(node, close(inbox, session))
        except NotFound:
            return 0  # the client closed it meanwhile
        ended(session, freed)
        return 0

    def delay() -> int | None:
        ends = living()
        return max(0, min(ends)[0] - node.clock()) if ends else None

    return _Daemon("leases", wanted, steps, delay, overlaps=True)


class Settle:
    """The daemon that repeats unanswered questions to node `nid` (``outbox.py``), one a round.

    A machine of many nodes has very many of it, one for each pair of nodes.
    """

    __slots__ = ("_nid", "_node")

    name = "settle"
    overlaps = False
    endless = False

    def __init__(self, node: Node, nid: int) -> None:
        self._node = node
        self._nid = nid

    def _next_ns(self) -> int | None:
        outbox = self._node.outbox
        return outbox.debts[self._nid].next_ns if outbox.is_away(self._nid) else None

    def wanted(self) -> bool:
        """Return whether a question is to be repeated now."""
        at = self._next_ns()
        return at is not None and at <= self._node.clock()

    def steps(self) -> Steps[int]:
        """Repeat the oldest question, and undo what came of it."""
        node, nid = self._node, self._nid
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

    def delay(self) -> int | None:
        """Return the ns until the next question is to be repeated, if there is one."""
        at = self._next_ns()
        return None if at is None else max(0, at - self._node.clock())


def daemons_of(node: Node, inbox: Inbox, ended: Ended = lambda session, freed: None) -> tuple[Daemon, ...]:
    """Return every daemon of a node except kswapd."""
    others = (other.nid for other in node.machine.spec.nodes if other.nid != node.nid)
    slab = (slab_reap(node),) if node.machine.spec.slab == "slab" else ()
    return (
        vmstat(node),
        khugepaged(node),
        *slab,
        leases(node, inbox, ended),
        *map(partial(Settle, node), others),
    )


def run_kswapd(node: Node) -> int:
    """Run kswapd until it sleeps, if it is wanted; return the number of pages reclaimed."""
    reclaimed, runs_on = 0, node.kswapd_wanted
    while runs_on:
        step = node.apply(ops.KswapdStep())
        reclaimed += step.reclaimed if step.did is ops.KswapdDid.SCANNED else 0
        runs_on = step.runs_on
    return reclaimed
