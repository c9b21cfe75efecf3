"""One attacked run: carries out a plan, and checks after every event what must hold."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np

from numa_service.machine.record import CacheArgs
from numa_service.mm.slab.flags import SlabFlag
from numa_service.node import ops
from numa_service.node.ask import ask
from numa_service.node.errors import NodeError
from numa_service.node.kmem import kmem_cache_shrink
from numa_service.node.node import Node
from numa_service.node.requests import CloseSession
from numa_service.node.restart import node_restarted
from numa_service.node.task_limbo import release_elsewhere
from numa_service.sim.attack import plan
from numa_service.sim.attack.client import PATIENCE_NS, Client
from numa_service.sim.attack.plan import MS, SECOND, Plan
from numa_service.sim.simulation import Host, Simulation

#: The pages of a client that is gone must be free GRACE_NS after the end of its lease, by the slowest clock;
#: and for each question of its home without an answer since then, its timeout and PAUSE_NS later.
GRACE_NS = 10 * SECOND
PAUSE_NS = SECOND
SLOWEST_CLOCK = 0.97
#: After the last action faults end, and the run waits this long for everything under way to end.
SETTLED_NS = 40 * SECOND


class Violation(Exception):
    """Something that must hold does not; the message says what, and when in the run."""


class Run:
    """A machine under attack."""

    def __init__(self, attacked: Plan) -> None:
        self._plan = attacked
        self.sim = Simulation(plan.machine(attacked.slab), attacked.seed, attacked.faults, vmstat=True)
        self._clients: dict[int, Client] = {}
        #: nid → managed pages; and nid → the lineages of other nodes that it has been told.
        self._managed = {nid: int(node.pgdat.pg.managed.sum()) for nid, node in self.sim.nodes.items()}
        self._known: dict[int, dict[int, int]] = {nid: {} for nid in self.sim.nodes}
        #: [events until the crash, nid, ns until the reboot] of crashes to come.
        self._crashes: list[list[int]] = []
        self._cuts = 0
        #: Client → unanswered questions of its home when it was gone.
        self._unanswered: dict[int, int] = {}
        #: Former clients, whose node has crashed while their session lived.
        self._earlier: list[Client] = []
        self._events = 0
        self._problems: list[str] = []
        #: By node, the process and the number of its last op when its pages were counted.
        self._checked: dict[int, tuple[Node, int]] = {}
        #: The slab caches of the machine, as they were when they were checked last.
        self._caches: object = None
        for host in self.sim.hosts.values():
            self._set_clock(host)

    def play(self) -> None:
        """Carry out the plan; raise Violation as soon as something that must hold does not."""
        sim = self.sim
        for action in self._plan.actions:
            sim.at(action.at_ns, partial(self._act, action))
        end_ns = max((action.at_ns for action in self._plan.actions), default=0)
        while sim.now_ns < end_ns + PATIENCE_NS and sim._events:
            self._next()
        sim.network.faults = type(sim.network.faults)(timeout_ns=2000 * MS)
        sim.network.partition = frozenset()
        sim.keeper.network.faults = sim.network.faults
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

    # actions

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
            case plan.WriteSysctl(key=key, value=value):
                self.sim.keeper.write_sysctl(key, value)
            case plan.CreateCache(name=name, size=size):
                with suppress(NodeError):  # one of this name is there
                    flags = int(SlabFlag.NO_MERGE) if name in plan.MADE_CACHES else 0
                    self.sim.keeper.create_cache(name, CacheArgs(size, flags=flags))
            case plan.DestroyCache(name=name):
                with suppress(NodeError):  # there is none
                    self.sim.keeper.destroy_cache(name)
            case plan.Evict(client=number, by_nid=by_nid):
                if number in self._clients:
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
        """Replace a client whose node has rebooted by a new one on the same node."""
        self._earlier.append(client)
        number = len(self._earlier) * 100 + client.number % 100
        again = self._clients[client.number % 100] = Client(self.sim, number, self._problems.append)
        again.do(plan.Open(self.sim.now_ns, number, client.nid, client.lease_ns))
        return again

    def _mend(self, cut: int) -> None:
        if cut == self._cuts:
            self.sim.network.partition = frozenset()

    def _kill_kswapd(self, nid: int, back_ns: int) -> None:
        """Delay kswapd's next step, as if its process were replaced; its run is state of the node."""
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
        """Crash a node, which loses its memory and the requests under way; schedule its reboot."""
        host = self.sim.hosts[nid]
        if not host.alive:
            return
        self.sim.crash(nid)
        for client in self._clients.values():
            client.lost(nid)
        self.sim.at(back_ns, partial(self._restart, nid))

    def _restart(self, nid: int) -> None:
        self._known[nid] = {}
        self._set_clock(self.sim.restart(nid))
        for other in self.sim.hosts:
            self.sim.at(self.sim.network.delay_ns(), partial(self._connect, other))

    def _connect(self, nid: int) -> None:
        """Tell a node which other nodes are alive, as a Ray actor's ``connect`` does after a restart."""
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
        """Check what must hold after every event.

        On each node every page is either free or has an owner; no request waits longer than its client; no
        block is held by two clients; and no pages are left of clients that are gone.
        """
        problems = self._problems
        for nid, host in self.sim.hosts.items():
            node = host.node
            at = (node, node.log_dropped + len(node.log))
            if host.alive and self._checked.get(nid) != at:  # only ops move pages
                self._checked[nid] = at
                if node.tasks and at[1] and node.log[-1].tag.startswith(("task_", "khugepaged_")):
                    problems += node.tasks.check()
                pages = free_pages(host) + int(node.pgdat.pg.owner_pages.sum())
                if pages != self._managed[nid]:
                    problems.append(f"node {nid}: {pages} pages, of {self._managed[nid]}")
        now = self.sim.now_ns
        given, caches = (
            any(client.was_given for client in self._clients.values()),
            self.sim.keeper.record.caches[1],
        )
        if given:
            self._check_blocks()
            self._check_objects()
        if given or caches is not self._caches:
            self._caches = caches
            self._check_caches()
        for client in self._clients.values():
            for request, until_ns in client.waiting.items():
                if now > until_ns + 3 * SECOND:
                    problems.append(f"client {client.number}: request {request} has no end")
            self._check_gone(client)
        for client in self._earlier:
            self._check_gone(client)
        if problems:
            raise Violation(f"at {now / 1e9:.6f} s, event {self._events}: {problems[0]}")

    def _check_blocks(self) -> None:
        """No page was given to two clients."""
        seen: dict[tuple[int, int], int] = {}
        for client in self._clients.values():
            client.was_given = False
            for nid, pfn, _ in client.blocks if client.gone_ns is None else ():
                if seen.setdefault((nid, pfn), client.number) != client.number:
                    self._problems.append(f"page {pfn:#x} of node {nid} is held by two clients")

    def _check_objects(self) -> None:
        """No object was given to two clients, and nodes have noted of each which home has it."""
        seen: dict[int, int] = {}
        for client in self._clients.values():
            for address in client.objects if client.gone_ns is None else ():
                if seen.setdefault(address, client.number) != client.number:
                    self._problems.append(f"object {address:#x} is held by two clients")
        for nid, host in self.sim.hosts.items():
            for address, slab in host.node.kmem.known_objects().items() if host.alive else ():
                there = self.sim.hosts[slab.nid]
                now = there.alive and there.node.lineage == slab.lineage
                if now and there.node.kmem.taken.get(address) != host.node.kernel:
                    self._problems.append(f"node {nid} has object {address:#x}, node {slab.nid} disagrees")

    def _check_caches(self) -> None:
        """No slab cache has gone of which a client has objects."""
        caches = {of.name for of in self.sim.keeper.record.caches[1].caches}
        for client in self._clients.values():
            held = {cache for cache, _ in client.objects.values()} if client.lives else set()
            for name in sorted(held.intersection(plan.MADE_CACHES) - caches):
                self._problems.append(f"client {client.number} has objects of {name}, which is no more")

    def _check_slabs(self) -> None:
        """At the end, objects and slabs that homes have are with their nodes as the homes', and no others."""
        known: set[tuple[int, int, int]] = set()
        frozen: set[tuple[int, int, int]] = set()
        for nid, host in self.sim.hosts.items():
            kmem = host.node.kmem
            known |= {(slab.nid, nid, address) for address, slab in kmem.known_objects().items()}
            frozen |= {(slab.nid, nid, slab.pfn) for slab in kmem.known_slabs()}
        for name, ours in (("taken", known), ("frozen", frozen)):
            theirs = {
                (nid, home.nid, what)
                for nid, host in self.sim.hosts.items()
                for what, home in getattr(host.node.kmem, name).items()
            }
            if theirs != ours:
                self._problems.append(f"{name}: nodes have {theirs - ours}, homes have {ours - theirs}")

    def _shrink(self) -> None:
        """Give back slabs and huge pages of zeros: a tick later not even kernels have pages."""
        for nid, host in self.sim.hosts.items():
            host.node.apply(ops.ShrinkHuge())
            self.sim.call(nid, release_elsewhere(host.node))
        for _ in range(2):  # empty slabs that a CPU of another node gave back go at the second time
            for nid, host in self.sim.hosts.items():
                for name in sorted(host.node.kmem.used):
                    self.sim.call(nid, kmem_cache_shrink(host.node, name))
        self.sim.advance(3 * SECOND)

    def _check_gone(self, client: Client) -> None:
        """Check that a client that is gone has no pages GRACE_NS after the end of its lease."""
        if client.gone_ns is None or not client.session or self._unwell:
            return
        unanswered = self.sim.unanswered[client.nid]
        waits = unanswered - self._unanswered.setdefault(client.number, unanswered)
        grace_ns = GRACE_NS + waits * (self._plan.faults.timeout_ns + PAUSE_NS)
        late_ns = client.gone_ns + int(client.lease_ns / SLOWEST_CLOCK)
        if self.sim.now_ns > max(late_ns, self._well_since) + grace_ns:
            home = self.sim.hosts[client.nid]
            if home.alive and home.node.lineage == client.lineage:
                for pid in home.node.tasks.of_session(client.session):
                    self._problems.append(f"task {pid} of node {client.nid} has outlived its client")
            for nid, host in self.sim.hosts.items():
                for owner, slot in host.node.slots.items():
                    dead = owner.nid == client.nid and owner.lineage == client.lineage
                    if dead and owner.id == client.session and host.node.pgdat.pg.owner_pages[slot]:
                        self._problems.append(f"node {nid}: {owner} is gone and has pages")

    @property
    def _unwell(self) -> bool:
        """Whether a node is down or cut off, so that it cannot be told that a client is gone."""
        ill = bool(self.sim.down or self.sim.network.partition)
        if ill:
            self._ill_ns = self.sim.now_ns
        return ill

    @property
    def _well_since(self) -> int:
        """Virtual time at which a node was last known to be down or cut off."""
        return getattr(self, "_ill_ns", 0)

    def _check_living(self) -> None:
        """Check that living clients hold the blocks that they know of, and no region has a page twice."""
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
            self._check_frames(host)
        for client in self._clients.values():
            if not client.lives or client.unsure or client.waiting:
                continue
            expected = dict.fromkeys(self.sim.hosts, 0)
            for nid, _, order in client.blocks:
                expected[nid] += 1 << order
            mine = self.sim.nodes[client.nid].sessions[client.session].objects
            if set(mine) != set(client.objects):
                what = f"was given {len(client.objects)} objects, and holds {len(mine)}"
                self._problems.append(f"client {client.number} {what}")
            for nid, host in self.sim.hosts.items():
                slot = host.node.slots.get(self.sim.nodes[client.nid].owner(client.session))
                held = int(host.node.pgdat.pg.owner_pages[slot]) if slot is not None else 0
                if held != expected[nid]:
                    given = f"was given {expected[nid]} pages of node {nid}"
                    self._problems.append(f"client {client.number} {given}, and holds {held}")
        self._check_step()

    def _check_frames(self, host: Host) -> None:
        """Pages that nodes have of the tasks of a home are those that the home knows of."""
        tasks = host.node.tasks
        numbers = np.arange(len(tasks.source.nids), dtype=np.uint32)
        for nid, other in self.sim.hosts.items():
            for owner in tasks.owners[:2]:
                if owner in other.node.slots:
                    there = other.node.pgdat.region_pfns(other.node.slots[owner], numbers) >= 0
                    strays = numbers[there & (tasks.source.nids != nid)]
                    if len(strays):
                        what = f"frames {strays[:4].tolist()} of {owner}"
                        self._problems.append(f"node {nid} has {what}, of which the home does not know")

    def _check_end(self) -> None:
        """Check that nothing is held, owed, locked or under way after the last client, and all invariants."""
        problems = self._problems
        self._check_slabs()
        if not problems:
            self._shrink()
        for nid, host in self.sim.hosts.items():
            node, inbox = host.node, host.inbox
            if node.held_pages() or node.swap_used:
                owners = [owner for owner, slot in node.slots.items() if node.pgdat.pg.owner_pages[slot]]
                problems.append(f"node {nid}: {node.held_pages()} pages are still held, by {owners}")
            for name, left in (
                ("sessions", node.sessions),
                ("regions", node.regions),
                ("tasks", node.tasks),
                ("owners", node.slots),
                ("debts", node.outbox.owed()),
                ("questions", node.outbox.asking),
                ("requests", inbox.running),
                ("locked regions", inbox.locked_regions()),
            ):
                if left:
                    problems.append(f"node {nid}: {name} are left: {left}")
            problems += node.check()
            if node.kmem.changed != self.sim.keeper.record.caches[1]:
                problems.append(f"node {nid}: knows other slab caches than were made")
            if any(cache.dying for cache in node.kmem.changed.caches):
                problems.append(f"node {nid}: a slab cache is dying, and nobody goes on with it")
            for key, value in self.sim.keeper.record.values().items():
                if (has := node.machine.sysctls.get(key)) != value:
                    problems.append(f"node {nid}: {key} is {has}, and {value} was written")
        machines = {
            repr((node.machine.sysctls.as_dict(), node.machine.managed, node.machine.watermarks))
            for node in self.sim.nodes.values()
        }
        if len(machines) > 1:
            problems.append("nodes disagree about the machine's sysctls, memory or watermarks")
        if problems:
            raise Violation(f"at the end: {problems[0]}")


def free_pages(host: Host) -> int:
    """Return the free pages of a node: those on its free lists and in its pagesets."""
    pgdat = host.node.pgdat
    free = sum(pgdat.free_pages(extent.index) for extent in pgdat.extents)
    return free + int(pgdat.pg.pcp_count.sum())


def attack(attacked: Plan) -> str:
    """Carry out a plan; return the text of the violation, "" if there is none."""
    try:
        Run(attacked).play()
    except Violation as violation:
        return str(violation)
    return ""
