"""A simulated client of a node: it repeats requests that get no answer, and knows what it holds."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from numa_service.mm.gfp import GFP_KERNEL
from numa_service.mm.slab.pages import virt_to_pfn
from numa_service.node import ops
from numa_service.node.errors import InvalidRequest, NodeError, NotFound, PeerUnavailable, SlabBug
from numa_service.node.free_pages import begin_free
from numa_service.node.inbox import Call, Inbox
from numa_service.node.kmem import begin_kmem_cache_alloc, begin_kmem_cache_free
from numa_service.node.page_alloc import begin_alloc
from numa_service.node.prepare import AllocRequest
from numa_service.node.region import map_region
from numa_service.node.requests import close, touch, unmap
from numa_service.node.unserved import NodesAway
from numa_service.sim.attack import plan
from numa_service.sim.attack.plan import MS, SECOND
from numa_service.sim.attack.tasks import ClientTasks
from numa_service.sim.simulation import Simulation

#: A client waits ANSWER_NS for an answer before it repeats a request, and gives up after PATIENCE_NS.
ANSWER_NS = 2500 * MS
PATIENCE_NS = 10 * SECOND

#: A block that a client holds: (nid, first pfn, order).
Block = tuple[int, int, int]


class Client:
    """A client with one session, from the session's opening to its end."""

    def __init__(self, sim: Simulation, number: int, violated: Callable[[str], None]) -> None:
        self._sim = sim
        self.violated = violated
        self.number = number
        self.nid = 0
        self.lineage = 0
        self.session = 0
        self.lease_ns = 0
        #: Virtual time at which the lease was last renewed.
        self.renewed_ns = 0
        #: Virtual time at which the session ended; None while it lives.
        self.gone_ns: int | None = None
        self.blocks: set[Block] = set()
        #: Whether it has been given blocks since these were last compared with other clients' blocks.
        self.was_given = False
        #: The slab cache and the node of each object that it holds, by address.
        self.objects: dict[int, tuple[str, int]] = {}
        #: Slab caches whose objects it frees without a name, as a name was refused.
        self._given_up: set[str] = set()
        #: Whether it may hold other blocks than it knows, because a request got no answer or was half done.
        self.unsure = False
        #: Whether its node has crashed while the session lived.
        self.homeless = False
        #: nid → virtual time at which the node crashed last.
        self._lost_ns: dict[int, int] = {}
        self.tasks = ClientTasks(self)
        #: (id, pages) of its regions.
        self._regions: list[tuple[int, int]] = []
        self._requests = 0
        #: Request id → time by which the request must have ended, for requests under way.
        self.waiting: dict[str, int] = {}

    @property
    def lives(self) -> bool:
        """Whether it has a session that has not ended, as far as it knows."""
        return bool(self.session) and self.gone_ns is None

    def do(self, action: Any) -> None:
        """Carry out one action of the plan, if the client is able to."""
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
                    self.ask(("unmap", region), lambda inbox: unmap(inbox, self.session, region))
                case plan.AllocObjects():
                    self._alloc_objects(action)
                case plan.FreeObjects():
                    self._free_objects(action)
                case plan.Spawn():
                    self.tasks.spawn(action.cpu)
                case plan.TaskAction() if self.tasks.areas:
                    self.tasks.do(action)
                case plan.Close():
                    self.gone_ns = self._sim.now_ns
                    mine = self._name()
                    key = self.session, mine
                    self.ask(("close",), lambda inbox: close(inbox, self.session, key), name=mine)
                case plan.Vanish():
                    self.vanish()

    def vanish(self) -> None:
        """Die: send nothing more, so that the lease runs out."""
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
            # the answer may be late, or be that to an earlier attempt: count from the first one
            self.renewed_ns = asked_ns
            self._sim.at(self.lease_ns // 3, self._renew, background=True)

        self.ask(("open", action.lease_ns), begin, opened, session=0)

    def _renew(self) -> None:
        """Send a heartbeat, which is not repeated and has no first reply; schedule the next one."""
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
        asked_ns = self._sim.now_ns

        def got(allocation: Any) -> None:
            new = {
                (nid, pfn, order)
                for nid, pfns in allocation.pages
                for pfn in np.frombuffer(pfns, "<u8").tolist()
            }
            # if a node reboots meanwhile, it may give the same pages again, and an answer may name lost ones:
            # a client learns of that when it frees them
            if not self.unsure and (new & self.blocks or len(new) != count):
                self.violated(f"client {self.number}: was given what it has, or not all of {count}")
            self.blocks |= {block for block in new if self._lost_ns.get(block[0], -1) < asked_ns}
            self.was_given = True

        self.ask(("alloc", order, count, policy), lambda inbox: begin_alloc(inbox.node, request), got)

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
                self.violated(f"client {self.number}: {answer.pages} pages freed of {len(some) << order}")

        self.ask(
            ("free", order, tuple(pages)),
            lambda inbox: begin_free(inbox.node, self.session, order, pages, cpu, name),
            freed,
            name=name,
        )

    def _alloc_objects(self, action: plan.AllocObjects) -> None:
        cache, count, of = action.cache, action.count, action.nid
        asked_ns = self._sim.now_ns

        def got(addresses: list[int]) -> None:
            if not self.unsure and (len(set(addresses) - set(self.objects)) != count):
                self.violated(f"client {self.number}: was given objects it has, or not all of {count}")
            for address in addresses:
                nid = self._nid_of(address)
                if self._is_of_the_dead(address, nid):
                    self.unsure = True  # a CPU had it when its node crashed, which the home does not know yet
                elif self._lost_ns.get(nid, -1) < asked_ns:
                    self.objects[address] = cache, nid
            self.was_given = True

        self.ask(
            ("alloc objects", cache, count, of),
            lambda inbox: begin_kmem_cache_alloc(
                inbox.node, self.session, cache, GFP_KERNEL, count, 2 * self.nid, of
            ),
            got,
        )

    def _free_objects(self, action: plan.FreeObjects) -> None:
        if not self.objects:
            return
        cache = next(iter(self.objects.values()))[0]
        mine = [address for address, (of, _) in self.objects.items() if of == cache]
        some = {
            address: self.objects.pop(address) for address in mine[: max(1, int(action.share * len(mine)))]
        }
        name, asked_ns = "" if cache in self._given_up else cache, self._sim.now_ns

        def refused(error: NodeError) -> bool:
            """A name that was given up may be none, or another cache's, while others share the cache."""
            unknown = isinstance(error, NotFound) and error.kind == "cache"
            if cache != plan.SHARED_CACHE or not (unknown or isinstance(error, SlabBug)):
                return False
            self._given_up.add(cache)
            if self.lives:
                there = {at: held for at, held in some.items() if self._lost_ns.get(held[1], -1) < asked_ns}
                self.objects.update(there)
            return True

        self.ask(
            ("free objects", name, tuple(some)),
            lambda inbox: begin_kmem_cache_free(inbox.node, self.session, name, list(some), 2 * self.nid),
            refused=refused,
        )

    def _is_of_the_dead(self, address: int, nid: int) -> bool:
        """Whether an object that was given is of a node that has crashed since its slab was made."""
        home, there = self._sim.hosts[self.nid].node, self._sim.hosts[nid]
        held = home.sessions[self.session].objects.get(address) if self.session in home.sessions else None
        return not there.alive or (held is not None and held.slab.lineage != there.node.lineage)

    def _nid_of(self, address: int) -> int:
        pfn = virt_to_pfn(address)
        return next(node.nid for node in self._sim.spec.nodes for low, high in node.ram if low <= pfn < high)

    def _map(self, action: plan.Map) -> None:
        self.ask(
            ("map", action.lru_kind, action.pages, action.policy),
            lambda inbox: map_region(inbox.node, self.session, action.lru_kind, action.pages, action.policy),
            lambda region: self._regions.append((region, action.pages)),
        )

    def _touch(self, action: plan.Touch) -> None:
        region, pages = self._regions[-1]
        first = min(int(action.first * pages), pages - 1)
        count = max(1, min(int(action.share * pages), pages - first))
        self.ask(
            ("touch", region, first, count, action.write),
            lambda inbox: touch(inbox, self.session, region, first, count, action.write, 2 * self.nid),
        )

    def _name(self) -> str:
        self._requests += 1
        return f"{self.number}-{self._requests}"

    def ask(
        self,
        about: tuple[Any, ...],
        begin: Callable[[Inbox], Any],
        then: Callable[[Any], None] = lambda answer: None,
        name: str | None = None,
        session: int | None = None,
        refused: Callable[[NodeError], bool] = lambda error: False,
    ) -> None:
        """Send a request, and repeat it until it is answered or PATIENCE_NS have passed.

        `about` identifies the content of the request; `begin` carries it out on the node; `then` is called
        with the answer. `refused` is called with an error, and returns whether it is one that may occur.
        """
        name = name or self._name()
        call = Call(self.session if session is None else session, name, zlib.crc32(repr(about).encode()))
        _Exchange(self, call, begin, then, refused).send()

    def answered(self, about: str, error: NodeError | None) -> None:
        """Note what the end of a request says about the session, and report errors that must not occur."""
        if isinstance(error, NotFound) and error.kind == "session":
            self._check_lease()
            self._ended()
        elif isinstance(error, InvalidRequest) or (isinstance(error, SlabBug) and not self.unsure):
            self.violated(f"client {self.number}: {about}: {error}")
        elif isinstance(error, PeerUnavailable | NodesAway):
            # a request that involves several nodes may be half done
            self.unsure = True

    def _check_lease(self) -> None:
        """Report a violation if the session has ended long before its lease, and its node did not reboot."""
        same = self._sim.nodes[self.nid].lineage == self.lineage
        if self.gone_ns is None and same and self._sim.now_ns < self.renewed_ns + self.lease_ns // 2:
            self.violated(f"client {self.number}: session {self.session} ended before its lease")

    def _ended(self) -> None:
        """Note that the session has ended, with its lease or with its node."""
        if self.gone_ns is None:
            self.gone_ns = self._sim.now_ns
        self.unsure = True
        self.tasks.areas.clear()
        self.blocks.clear()
        self.objects.clear()

    def lost(self, nid: int) -> None:
        """Note that a node has crashed, with all pages that the client had there."""
        self.blocks = {block for block in self.blocks if block[0] != nid}
        self.objects = {address: held for address, held in self.objects.items() if held[1] != nid}
        self._lost_ns[nid] = self._sim.now_ns
        self.unsure = True
        if nid == self.nid:
            self.homeless = self.gone_ns is None
            self._ended()


class _Exchange:
    """One request with its repeats."""

    def __init__(
        self,
        client: Client,
        call: Call,
        begin: Callable[[Inbox], Any],
        then: Callable[[Any], None],
        refused: Callable[[NodeError], bool],
    ) -> None:
        self._client = client
        self._sim = client._sim
        self._call = call
        self._begin = begin
        self._then = then
        self._refused = refused
        self._lineage = self._sim.hosts[client.nid].node.lineage
        self._until_ns = self._sim.now_ns + PATIENCE_NS
        self._over = False
        client.waiting[call.request_id] = self._until_ns

    def send(self) -> None:
        """Send the request, and again after ANSWER_NS unless it has ended by then."""
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
        """Let the request arrive at the node, if the node is alive.

        A node that has rebooted answers that it does not know the session.
        """
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
        elif self._refused(error):
            return
        self._client.answered(self._call.request_id, error)
