"""A client of a node in a simulation: it repeats what was not answered, and knows what it was given."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from numa_service.mm.gfp import GFP_KERNEL
from numa_service.node import ops
from numa_service.node.errors import InvalidRequest, NodeError, NotFound, PeerUnavailable
from numa_service.node.free_pages import begin_free
from numa_service.node.inbox import Call, Inbox
from numa_service.node.page_alloc import begin_alloc
from numa_service.node.prepare import AllocRequest
from numa_service.node.region import map_region
from numa_service.node.requests import close, touch, unmap
from numa_service.node.unserved import NodesAway
from numa_service.sim.attack import plan
from numa_service.sim.attack.plan import MS, SECOND
from numa_service.sim.simulation import Simulation

#: So long a client waits for one answer, and so long it repeats a request that has none.
ANSWER_NS = 2500 * MS
PATIENCE_NS = 10 * SECOND

#: A block by hand: node, first page, order.
Block = tuple[int, int, int]


class Client:
    """One session, from its opening to its end."""

    def __init__(self, sim: Simulation, number: int, violated: Callable[[str], None]) -> None:
        self._sim = sim
        self._violated = violated
        self.number = number
        self.nid = 0
        self.lineage = 0
        self.session = 0
        self.lease_ns = 0
        #: When its lease was last renewed.
        self.renewed_ns = 0
        #: Since when it is no more, and why; None while it lives.
        self.gone_ns: int | None = None
        self.blocks: set[Block] = set()
        #: A request ended without an answer, or failed half done: it may hold more, or less, than it knows.
        self.unsure = False
        #: Its node was restarted under it.
        self.homeless = False
        self._regions: list[tuple[int, int]] = []
        self._requests = 0
        #: Requests without an end; each has one within its patience.
        self.waiting: dict[str, int] = {}

    @property
    def lives(self) -> bool:
        """Whether it has a session that nobody has ended, as far as it knows."""
        return bool(self.session) and self.gone_ns is None

    def do(self, action: Any) -> None:
        """Carry out one action of the plan, if the client can."""
        if isinstance(action, plan.Open):
            self._open(action)
        elif self.lives:
            match action:
                case plan.Alloc():
                    self._alloc(action)
                case plan.Free():
                    self._free(action)
                case plan.Map():
                    self._map(action)
                case plan.Touch() if self._regions:
                    self._touch(action)
                case plan.Unmap() if self._regions:
                    region, _ = self._regions.pop()
                    self._ask(("unmap", region), lambda inbox: unmap(inbox, self.session, region))
                case plan.Close():
                    self.gone_ns = self._sim.now_ns
                    mine = self._name()
                    key = self.session, mine
                    self._ask(("close",), lambda inbox: close(inbox, self.session, key), name=mine)
                case plan.Vanish():
                    self.vanish()

    def vanish(self) -> None:
        """Say nothing more."""
        if self.gone_ns is None:
            self.gone_ns = self._sim.now_ns
            self.unsure = True

    # requests

    def _open(self, action: plan.Open) -> None:
        self.nid, self.lease_ns = action.nid, action.lease_ns
        name, asked_ns = f"client-{self.number}", self._sim.now_ns

        def begin(inbox: Inbox) -> tuple[int, int]:
            node = inbox.node
            return node.apply(ops.OpenSession(name, action.lease_ns, node.clock())), node.lineage

        def opened(answer: tuple[int, int]) -> None:
            self.session, self.lineage = answer
            # the answer may be late, or that of an earlier attempt
            self.renewed_ns = asked_ns
            self._sim.at(self.lease_ns // 3, self._renew, background=True)

        self._ask(("open", action.lease_ns), begin, opened, session=0)

    def _renew(self) -> None:
        """Heartbeat: not repeated, and nothing is kept for it."""
        host = self._sim.hosts[self.nid]
        if not self.lives:
            return
        if host.alive and host.node.lineage == self.lineage and not self._sim.network.loses():
            try:
                host.inbox.check_session(self.session)
                host.node.apply(ops.RenewSession(self.session, host.node.clock()))
                self.renewed_ns = self._sim.now_ns
            except NotFound:
                self._check_lease()
                self._ended()
                return
        self._sim.at(self.lease_ns // 3, self._renew, background=True)

    def _alloc(self, action: plan.Alloc) -> None:
        order, count, policy = action.order, action.count, action.policy
        cpu = 2 * self.nid
        request = AllocRequest(self.session, GFP_KERNEL, order, count, cpu, policy)

        def got(allocation: Any) -> None:
            new = {
                (nid, pfn, order)
                for nid, pfns in allocation.pages
                for pfn in np.frombuffer(pfns, "<u8").tolist()
            }
            # of a node that boots anew meanwhile an answer may name pages that are lost, and then again
            if not self.unsure and (new & self.blocks or len(new) != count):
                self._violated(f"client {self.number}: was given what it has, or not all of {count}")
            self.blocks |= new

        self._ask(("alloc", order, count, policy), lambda inbox: begin_alloc(inbox.node, request), got)

    def _free(self, action: plan.Free) -> None:
        if not self.blocks:
            return
        order = min(block[2] for block in self.blocks)
        mine = sorted(block for block in self.blocks if block[2] == order)
        some = mine[: max(1, int(action.share * len(mine)))]
        self.blocks -= set(some)
        pages = [
            (nid, np.array([pfn for at, pfn, _ in some if at == nid], "<u8").tobytes())
            for nid in sorted({block[0] for block in some})
        ]
        cpu, name = 2 * self.nid, self._name()

        def freed(answer: Any) -> None:
            if answer.pages != len(some) << order:
                self._violated(f"client {self.number}: {answer.pages} pages freed of {len(some) << order}")

        self._ask(
            ("free", order, tuple(pages)),
            lambda inbox: begin_free(inbox.node, self.session, order, pages, cpu, name),
            freed,
            name=name,
        )

    def _map(self, action: plan.Map) -> None:
        self._ask(
            ("map", action.lru_kind, action.pages, action.policy),
            lambda inbox: map_region(inbox.node, self.session, action.lru_kind, action.pages, action.policy),
            lambda region: self._regions.append((region, action.pages)),
        )

    def _touch(self, action: plan.Touch) -> None:
        region, pages = self._regions[-1]
        first = min(int(action.first * pages), pages - 1)
        count = max(1, min(int(action.share * pages), pages - first))
        self._ask(
            ("touch", region, first, count, action.write),
            lambda inbox: touch(inbox, self.session, region, first, count, action.write, 2 * self.nid),
        )

    def _name(self) -> str:
        self._requests += 1
        return f"{self.number}-{self._requests}"

    def _ask(
        self,
        about: tuple[Any, ...],
        begin: Callable[[Inbox], Any],
        then: Callable[[Any], None] = lambda answer: None,
        name: str | None = None,
        session: int | None = None,
    ) -> None:
        """Send a request, again until it is answered or patience ends."""
        name = name or self._name()
        call = Call(self.session if session is None else session, name, zlib.crc32(repr(about).encode()))
        _Exchange(self, call, begin, then).send()

    def answered(self, about: str, error: NodeError | None) -> None:
        """Draw conclusions from how a request ended."""
        if isinstance(error, NotFound) and error.kind == "session":
            self._check_lease()
            self._ended()
        elif isinstance(error, InvalidRequest):
            self._violated(f"client {self.number}: {about}: {error}")
        elif isinstance(error, PeerUnavailable | NodesAway):
            # half of a request that spans nodes may have been done, and is not undone where nobody heard
            self.unsure = True

    def _check_lease(self) -> None:
        """A session that its node does not know has ended by its client, by its lease, or with its node."""
        same = self._sim.nodes[self.nid].lineage == self.lineage
        if self.gone_ns is None and same and self._sim.now_ns < self.renewed_ns + self.lease_ns // 2:
            self._violated(f"client {self.number}: session {self.session} ended before its lease")

    def _ended(self) -> None:
        """The session is no more: its lease has run out, or its node was restarted."""
        if self.gone_ns is None:
            self.gone_ns = self._sim.now_ns
        self.unsure = True
        self.blocks.clear()

    def lost(self, nid: int) -> None:
        """What it had on a node is gone with that."""
        self.blocks = {block for block in self.blocks if block[0] != nid}
        self.unsure = True
        if nid == self.nid:
            self.homeless = self.gone_ns is None
            self._ended()


class _Exchange:
    """One request, with its repeats."""

    def __init__(
        self, client: Client, call: Call, begin: Callable[[Inbox], Any], then: Callable[[Any], None]
    ) -> None:
        self._client = client
        self._sim = client._sim
        self._call = call
        self._begin = begin
        self._then = then
        self._lineage = self._sim.hosts[client.nid].node.lineage
        self._until_ns = self._sim.now_ns + PATIENCE_NS
        self._over = False
        client.waiting[call.request_id] = self._until_ns

    def send(self) -> None:
        """Send it, again if there is no answer in time."""
        sim, nid = self._sim, self._client.nid
        if self._over:
            return
        if sim.now_ns >= self._until_ns:
            self._end(None, PeerUnavailable(nid, "no answer to its client"))
            return
        if not sim.network.loses():
            sim.at(sim.network.delay_ns(), self._arrive)
        if sim.network.repeats():
            sim.at(sim.network.delay_ns(), self._arrive)
        sim.at(ANSWER_NS, self.send)

    def _arrive(self) -> None:
        """It has come to the node, if that is there; a node that was restarted knows no session of before."""
        host = self._sim.hosts[self._client.nid]
        if host.alive and not self._over:
            self._sim.request(host, self._call, lambda: self._begin(host.inbox), self._reply)

    def _reply(self, value: Any, error: NodeError | None) -> None:
        if not self._sim.network.loses():
            self._sim.at(self._sim.network.delay_ns(), lambda: self._end(value, error))

    def _end(self, value: Any, error: NodeError | None) -> None:
        if self._over:
            return
        if isinstance(error, PeerUnavailable) and self._sim.now_ns < self._until_ns:
            return  # it is repeated
        self._over = True
        del self._client.waiting[self._call.request_id]
        if error is None:
            self._then(value)
        self._client.answered(self._call.request_id, error)
