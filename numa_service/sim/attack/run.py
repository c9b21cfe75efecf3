"""One attacked run: the plan is carried out, and after every event what must hold is looked at."""

from __future__ import annotations

from functools import partial
from typing import Any

from numa_service.node.ask import ask
from numa_service.node.memory_hotplug import node_restarted
from numa_service.node.node import Node
from numa_service.node.requests import CloseSession
from numa_service.sim.attack import plan
from numa_service.sim.attack.client import PATIENCE_NS, Client
from numa_service.sim.attack.plan import MS, SECOND, Plan
from numa_service.sim.simulation import Host, Simulation

#: Pages of who is gone are free so long after its lease has run out, by the slowest clock.
GRACE_NS = 10 * SECOND
SLOWEST_CLOCK = 0.97
#: After the last action everything is whole again, and so long is waited for the end of all that goes on.
SETTLED_NS = 40 * SECOND


class Violation(Exception):
    """Something that must hold does not; the message says what, and when."""


class Run:
    """A machine under attack."""

    def __init__(self, attacked: Plan) -> None:
        self._plan = attacked
        self.sim = Simulation(plan.machine(), attacked.seed, attacked.faults, vmstat=True)
        self._clients: dict[int, Client] = {}
        #: Pages of each node; and what it knows of the other nodes' lineages.
        self._managed = {nid: int(node.pgdat.pg.managed.sum()) for nid, node in self.sim.nodes.items()}
        self._known: dict[int, dict[int, int]] = {nid: {} for nid in self.sim.nodes}
        #: (when it is to happen in events from now, node, when it is back)
        self._crashes: list[list[int]] = []
        self._cuts = 0
        #: Clients whose node was restarted under them.
        self._earlier: list[Client] = []
        self._events = 0
        self._problems: list[str] = []
        for host in self.sim.hosts.values():
            self._set_clock(host)

    def play(self) -> None:
        """Carry out the plan; Violation."""
        sim = self.sim
        for action in self._plan.actions:
            sim.at(action.at_ns, partial(self._act, action))
        end_ns = max((action.at_ns for action in self._plan.actions), default=0)
        while sim.now_ns < end_ns + PATIENCE_NS and sim._events:
            self._next()
        sim.network.faults = type(sim.network.faults)(timeout_ns=2000 * MS)
        sim.network.partition = frozenset()
        until = sim.now_ns + SETTLED_NS
        while sim._events and sim._events[0].at_ns < until:
            self._next()
        self._check_living()
        for client in self._clients.values():
            client.do(plan.Close(0, client.number))
        until = sim.now_ns + SETTLED_NS + max((c.lease_ns for c in self._clients.values()), default=0)
        while sim._events and sim._events[0].at_ns < until:
            self._next()
        self._check_end()

    def _next(self) -> None:
        self.sim.next()
        self._events += 1
        for crash in self._crashes:
            crash[0] -= 1
            if crash[0] < 0:
                self._crash(crash[1], crash[2])
        self._crashes = [crash for crash in self._crashes if crash[0] >= 0]
        self._check_step()

    # what is done

    def _act(self, action: Any) -> None:
        match action:
            case plan.Crash(nid=nid, events=events, back_ns=back_ns):
                self._crashes.append([events, nid, back_ns])
            case plan.Cut(nids=nids, for_ns=for_ns):
                self.sim.network.partition = nids
                self._cuts += 1
                self.sim.at(for_ns, partial(self._mend, self._cuts))
            case plan.KillKswapd(nid=nid, back_ns=back_ns):
                self._kill_kswapd(nid, back_ns)
            case plan.Evict(client=number, by_nid=by_nid):
                self._evict(self._clients[number], by_nid)
            case plan.Open(client=number):
                self._clients[number] = Client(self.sim, number, self._problems.append)
                self._clients[number].do(action)
            case _:
                client = self._clients.get(action.client)
                if client and client.homeless and self.sim.hosts[client.nid].alive:
                    client = self._open_again(client)
                if client:
                    client.do(action)

    def _open_again(self, client: Client) -> Client:
        """A client whose node was restarted begins anew, on the same node."""
        self._earlier.append(client)
        number = len(self._earlier) * 100 + client.number % 100
        again = self._clients[client.number % 100] = Client(self.sim, number, self._problems.append)
        again.do(plan.Open(self.sim.now_ns, number, client.nid, client.lease_ns))
        return again

    def _mend(self, cut: int) -> None:
        if cut == self._cuts:
            self.sim.network.partition = frozenset()

    def _kill_kswapd(self, nid: int, back_ns: int) -> None:
        """The run stands where it stood: it is state of the node."""
        host = self.sim.hosts[nid]
        (kswapd,) = host.daemons["kswapd"]
        if id(kswapd) in host.looks:
            self.sim._look_in(host, kswapd, back_ns)

    def _evict(self, client: Client, by_nid: int) -> None:
        if client.lives:
            node, session = self.sim.nodes[by_nid], client.session
            client.vanish()
            if by_nid != client.nid and self.sim.hosts[by_nid].alive:
                self.sim.spawn(by_nid, ask(node, client.nid, CloseSession(session)))

    def _crash(self, nid: int, back_ns: int) -> None:
        """A node dies with all that it holds, and with what it was doing."""
        host = self.sim.hosts[nid]
        if not host.alive:
            return
        host.alive = False
        self.sim.down.add(nid)
        for client in self._clients.values():
            client.lost(nid)
        self.sim.at(back_ns, partial(self._restart, nid, host.node.lineage + 1))

    def _restart(self, nid: int, lineage: int) -> None:
        node = Node.boot(self.sim.spec, nid, lineage)
        self.sim.down.discard(nid)
        self._known[nid] = {}
        self._set_clock(self.sim.host(node))
        for other in self.sim.hosts:
            self.sim.at(self.sim.network.delay_ns(), partial(self._connect, other))

    def _connect(self, nid: int) -> None:
        """The supervisor tells a node which others there are: what a Ray actor's ``connect`` does."""
        host = self.sim.hosts[nid]
        if not host.alive:
            return
        for other, peer in self.sim.hosts.items():
            if other != nid and peer.alive:
                host.node.outbox.hurry(other, host.node.clock())
                if peer.node.lineage > self._known[nid].get(other, 1):
                    self.sim.spawn(nid, node_restarted(host.node, other, peer.node.lineage))
                self._known[nid][other] = peer.node.lineage

    def _set_clock(self, host: Host) -> None:
        ahead_ns, rate = self._plan.clocks[host.node.nid]
        host.node.clock = lambda: ahead_ns + int(rate * self.sim.now_ns)
        host.node.replies.keep_ns = 12 * SECOND

    # what must hold

    def _check_step(self) -> None:
        """Local: every page is somewhere once, and who waits will not wait for ever."""
        problems = self._problems
        for nid, host in self.sim.hosts.items():
            pg = host.node.pgdat.pg
            if host.alive:
                pages = free_pages(host) + int(pg.owner_pages.sum())
                if pages != self._managed[nid]:
                    problems.append(f"node {nid}: {pages} pages, of {self._managed[nid]}")
        now = self.sim.now_ns
        seen: dict[tuple[int, int], int] = {}
        for client in self._clients.values():
            for request, until_ns in client.waiting.items():
                if now > until_ns + 3 * SECOND:
                    problems.append(f"client {client.number}: request {request} has no end")
            for nid, pfn, _ in client.blocks if client.gone_ns is None else ():
                if seen.setdefault((nid, pfn), client.number) != client.number:
                    problems.append(f"page {pfn:#x} of node {nid} is held by two clients")
            self._check_gone(client)
        for client in self._earlier:
            self._check_gone(client)
        if problems:
            raise Violation(f"at {now / 1e9:.6f} s, event {self._events}: {problems[0]}")

    def _check_gone(self, client: Client) -> None:
        """Pages of a dead client, and of a dead lineage, are gone within its lease and ten seconds."""
        if client.gone_ns is None or not client.session or self._unwell:
            return
        late_ns = client.gone_ns + int(client.lease_ns / SLOWEST_CLOCK) + GRACE_NS
        if self.sim.now_ns > max(late_ns, self._well_since + GRACE_NS):
            for nid, host in self.sim.hosts.items():
                for owner, slot in host.node.slots.items():
                    dead = owner.nid == client.nid and owner.lineage == client.lineage
                    if dead and owner.id == client.session and host.node.pgdat.pg.owner_pages[slot]:
                        self._problems.append(f"node {nid}: {owner} is gone and has pages")

    @property
    def _unwell(self) -> bool:
        """Nodes that are away, or cut off, cannot be told that somebody is gone."""
        ill = bool(self.sim.down or self.sim.network.partition)
        if ill:
            self._ill_ns = self.sim.now_ns
        return ill

    @property
    def _well_since(self) -> int:
        return getattr(self, "_ill_ns", 0)

    def _check_living(self) -> None:
        """What a client that lives was given, and has not given back, is what its owner holds.

        And no page of a region is there twice.
        """
        for nid, host in self.sim.hosts.items():
            for region in host.node.regions.values():
                owner = host.node.owner(region.id)
                there = sum(
                    int(other.node.pgdat.pg.owner_pages[other.node.slots[owner]])
                    for other in self.sim.hosts.values()
                    if owner in other.node.slots
                )
                entered = int((region.nids > 0).sum())
                if there > entered:
                    self._problems.append(f"region {region.id} of node {nid}: {there} pages for {entered}")
        for client in self._clients.values():
            if not client.lives or client.unsure or client.waiting:
                continue
            expected = dict.fromkeys(self.sim.hosts, 0)
            for nid, _, order in client.blocks:
                expected[nid] += 1 << order
            for nid, host in self.sim.hosts.items():
                slot = host.node.slots.get(self.sim.nodes[client.nid].owner(client.session))
                held = int(host.node.pgdat.pg.owner_pages[slot]) if slot is not None else 0
                if held != expected[nid]:
                    given = f"was given {expected[nid]} pages of node {nid}"
                    self._problems.append(f"client {client.number} {given}, and holds {held}")
        self._check_step()

    def _check_end(self) -> None:
        """Everybody is gone: nothing is held, owed, locked or under way, and all counters agree."""
        problems = self._problems
        for nid, host in self.sim.hosts.items():
            node, inbox = host.node, host.inbox
            if node.held_pages() or node.swap_used:
                owners = [owner for owner, slot in node.slots.items() if node.pgdat.pg.owner_pages[slot]]
                problems.append(f"node {nid}: {node.held_pages()} pages are still held, by {owners}")
            for name, left in (
                ("sessions", node.sessions),
                ("regions", node.regions),
                ("owners", node.slots),
                ("debts", node.outbox.owed()),
                ("questions", node.outbox.asking),
                ("requests", inbox.running),
                ("locked regions", inbox.locked_regions()),
            ):
                if left:
                    problems.append(f"node {nid}: {name} are left: {left}")
            problems += node.check()
        if problems:
            raise Violation(f"at the end: {problems[0]}")


def free_pages(host: Host) -> int:
    """Free pages of a node, on its buddy lists and in its pagesets."""
    pgdat = host.node.pgdat
    free = sum(pgdat.free_pages(extent.index) for extent in pgdat.extents)
    return free + int(pgdat.pg.pcp_count.sum())


def attack(attacked: Plan) -> str:
    """How a run violates what must hold; "" if it does not."""
    try:
        Run(attacked).play()
    except Violation as violation:
        return str(violation)
    return ""
