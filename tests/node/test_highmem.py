"""High memory in a machine: pages that a session maps, requests that wait, and who may use which zone."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from numa_service.machine.source import load
from numa_service.mm.gfp import parse_gfp
from numa_service.mm.highmem.rules import LAST_PKMAP, PKMAP_BASE
from numa_service.mm.structs import PAGE_OFFSET
from numa_service.node import ops
from numa_service.node.errors import InvalidRequest, KernelBug, NotFound, Precondition
from numa_service.node.highmem import bounced_pages
from numa_service.node.kmap import inspect_page, kmap, kmap_atomic, kunmap
from numa_service.node.mempolicy import Policy, PolicyMode
from numa_service.node.node import Node
from numa_service.node.owners import Owner
from numa_service.node.page_alloc import alloc_pages
from numa_service.node.prepare import AllocRequest
from numa_service.node.requests import close
from numa_service.node.restart import node_restarted
from numa_service.node.struct_views import highmem_view, page_view
from numa_service.node.unserved import AllocFailed
from numa_service.node.vmalloc import vmalloc
from numa_service.sim.simulation import Simulation

#: 896 MiB of low memory, and 1,152 MiB of high memory, most of it on the second node.
TWO_NODES_32_BIT = """arch = "i386"
distances = [[10, 20], [20, 10]]

[[node]]
cpus = "0-1"
memory = "1GiB"

[[node]]
cpus = "2-3"
memory = "1GiB"
"""


class Mapping:
    """A simulated 32-bit machine, and a session with pages of high memory."""

    def __init__(self, preset: str = "i386-highmem", profile: str = "linux-6.1", pages: int = 600) -> None:
        self.sim = Simulation(dataclasses.replace(load(preset), profile=profile))
        self.node = self.sim.nodes[0]
        self.inbox = self.sim.hosts[0].inbox
        self.session = self.open()
        self.pages = self.take(pages)

    def open(self) -> int:
        return self.node.apply(ops.OpenSession("driver", ops.FOREVER_NS, 0))

    def take(self, count: int, gfp: str = "GFP_HIGHUSER", session: int | None = None) -> list[int]:
        request = AllocRequest(session or self.session, parse_gfp(gfp), 0, count, 0, Policy())
        got = self.sim.call(0, alloc_pages(self.node, request))
        return [pfn for _, pfns in got.pages for pfn in np.frombuffer(pfns, "<u8").tolist()]

    def kmap(self, pfn: int, session: int | None = None, **how: bool) -> int:
        return self.sim.call(0, kmap(self.inbox, session or self.session, pfn, **how))

    def kunmap(self, pfn: int, session: int | None = None) -> None:
        self.sim.call(0, kunmap(self.inbox, session or self.session, pfn))

    def zone_of(self, pfn: int) -> str:
        [zone] = [e.name for e in self.node.pgdat.extents if e.start_pfn <= pfn < e.start_pfn + e.spanned]
        return zone


def test_virtual_of_a_high_page_is_where_kmap_has_mapped_it() -> None:
    machine = Mapping()
    pfn = machine.pages[0]
    assert machine.zone_of(pfn) == "HighMem"
    assert page_view(machine.node, pfn).virtual is None
    address = machine.kmap(pfn)
    assert address == PKMAP_BASE + 4096
    assert page_view(machine.node, pfn).virtual == address
    view = highmem_view(machine.node)
    assert view.page_address_htable[f"{address:#x}"].startswith(f"pfn={pfn:#x} bucket=")
    assert (view.pkmap_count, view.last_pkmap_nr) == ({"0": 511, "1": 0, "more": 1}, 1)
    machine.kunmap(pfn)
    assert highmem_view(machine.node).pkmap_count == {"0": 511, "1": 1, "more": 0}
    assert page_view(machine.node, pfn).virtual == address  # until a flush
    assert machine.node.apply(ops.KmapFlushUnused()) == 1
    assert page_view(machine.node, pfn).virtual is None


@pytest.mark.parametrize("preset", ["i386-highmem", "uma"])
def test_a_page_of_low_memory_has_its_address_all_the_time(preset: str) -> None:
    machine = Mapping(preset)
    [pfn] = machine.take(1, "GFP_KERNEL")
    arch = machine.node.pgdat.arch
    assert machine.kmap(pfn) == page_view(machine.node, pfn).virtual == PAGE_OFFSET[arch] + (pfn << 12)
    machine.kunmap(pfn)
    assert machine.node.apply(ops.KmapLocal(machine.session, pfn, 0)) == -1
    machine.node.apply(ops.KunmapLocal(machine.session, pfn, 0))
    if preset == "uma":
        with pytest.raises(NotFound, match="all memory has an address"):
            highmem_view(machine.node)
    else:
        assert highmem_view(machine.node).pkmap_count["0"] == LAST_PKMAP


def test_requests_wait_for_an_entry_in_turn() -> None:
    machine = Mapping()
    for pfn in machine.pages[:LAST_PKMAP]:
        machine.kmap(pfn)
    tasks = [
        machine.sim.spawn(0, kmap(machine.inbox, machine.session, pfn)) for pfn in machine.pages[512:514]
    ]
    machine.sim.run()
    assert (len(machine.node.pkmap_wait), [task.done for task in tasks]) == (2, [False, False])
    assert machine.kmap(machine.pages[3]) == PKMAP_BASE + 4 * 4096  # of a mapped page there is an entry
    machine.kunmap(machine.pages[3])
    assert len(machine.node.pkmap_wait) == 2  # it still has a user
    machine.kunmap(machine.pages[3])
    machine.sim.run()
    assert [task.done for task in tasks] == [True, False]
    assert tasks[0].result == PKMAP_BASE + 4 * 4096
    machine.kunmap(machine.pages[512])
    machine.sim.run()
    assert tasks[1].result == PKMAP_BASE + 4 * 4096


def test_who_may_not_sleep_is_refused_in_the_kernels_words() -> None:
    machine = Mapping()
    for pfn in machine.pages[:LAST_PKMAP]:
        machine.kmap(pfn)
    before = machine.node.digest()
    report = f"BUG: scheduling while atomic: driver/{machine.session}/0x00000002"
    with pytest.raises(Precondition, match=report):
        machine.kmap(machine.pages[520], atomic=True)
    assert machine.node.digest() == before
    assert len(machine.node.pkmap_wait) == 0
    assert machine.kmap(machine.pages[1], atomic=True) == PKMAP_BASE + 2 * 4096


def test_the_end_of_a_session_ends_its_mappings_and_wakes_who_waits() -> None:
    machine = Mapping()
    other = machine.open()
    [theirs] = machine.take(1, session=other)
    for pfn in machine.pages[:LAST_PKMAP]:
        machine.kmap(pfn)
    machine.node.apply(ops.KmapLocal(machine.session, machine.pages[0], 1))
    waits = machine.sim.spawn(0, kmap(machine.inbox, other, theirs))
    own = machine.sim.spawn(0, kmap(machine.inbox, machine.session, machine.pages[550]))
    machine.sim.run()
    assert len(machine.node.pkmap_wait) == 2
    machine.sim.call(0, close(machine.inbox, machine.session))
    machine.sim.run()
    assert waits.result >= PKMAP_BASE
    assert isinstance(own.error, NotFound)
    view = highmem_view(machine.node)
    assert (view.pkmap_count["more"], view.kmap_slots, len(machine.node.pkmap_wait)) == (1, {}, 0)
    assert machine.sim.check() == []


def test_bad_input() -> None:
    machine = Mapping(pages=2)
    mine, other = machine.pages[0], machine.open()
    before = machine.node.digest()
    for steps, error, reason in (
        (kmap(machine.inbox, other, mine), Precondition, "is not the session's"),
        (kmap(machine.inbox, 77, mine), NotFound, "session 77"),
        (kmap(machine.inbox, other, 1 << 40), NotFound, "no page of i386-highmem"),
        (kunmap(machine.inbox, other, mine), Precondition, "kernel BUG at mm/highmem.c: kunmap of page"),
        (kmap_atomic(machine.inbox, other, mine, 0), Precondition, "is not the session's"),
    ):
        with pytest.raises(error, match=reason):
            # requests with results of several types in one table, which mypy joins
            machine.sim.call(0, steps)  # type: ignore[arg-type]
    with pytest.raises(Precondition, match="is not in the last slot"):
        machine.node.apply(ops.KunmapLocal(machine.session, mine, 0))
    for op in (ops.Kmap(Owner(0, 1, 5), 7), ops.Kunmap(Owner(0, 1, 5), 7)):
        with pytest.raises(InvalidRequest, match="no page of high memory"):
            op.check(machine.node)
    assert machine.node.digest() == before
    slots = [machine.node.apply(ops.KmapLocal(machine.session, mine, 1)) for _ in range(15)]
    assert slots == list(range(16, 31))
    with pytest.raises(Precondition, match=r"kernel BUG at mm/highmem\.c: slot 15, KM_MAX_IDX is 16"):
        machine.node.apply(ops.KmapLocal(machine.session, mine, 1))


def test_what_is_vmalloced_may_be_mapped_too() -> None:
    machine = Mapping(pages=1)
    machine.sim.call(0, vmalloc(machine.node, machine.session, 1, "driver_probe", 0))
    assert machine.node.vmalloc is not None
    [page] = [area.vm.pages[0] for area in machine.node.vmalloc.areas.busy if area.vm and area.vm.owner]
    assert machine.zone_of(page) == "HighMem"
    assert machine.kmap(page) >= PKMAP_BASE


@pytest.mark.parametrize("profile", ["linux-3.0", "linux-6.1"])
def test_a_log_and_a_snapshot_lead_to_the_same_mappings(profile: str) -> None:
    machine = Mapping(profile=profile)
    for pfn in machine.pages[:300]:
        machine.kmap(pfn)
        if pfn % 3:
            machine.kunmap(pfn)
    for nth in range(3):
        machine.node.apply(ops.KmapLocal(machine.session, machine.pages[nth], 1))
    spec, node = machine.node.machine.spec, machine.node
    restored = Node.boot(spec, 0)
    restored.restore(node.snapshot())
    nodes = (node, Node.replay(spec, 0, list(node.log)), restored)
    me = node.owner(machine.session)
    later: list[ops.Op[Any]] = [ops.Kmap(me, pfn) for pfn in machine.pages[250:599]]
    later += [ops.KunmapLocal(machine.session, machine.pages[2], 1), ops.EndSession(machine.session)]
    for op in later:
        assert len({str(one.apply(op)) for one in nodes}) == 1
    assert len({one.digest() for one in nodes}) == 1


def test_kernel_data_cannot_have_high_pages_and_user_pages_leave_low_memory_to_it() -> None:
    """Lowmem against highmem: who may use which zone, and what lowmem_reserve keeps from those who may."""
    machine = Mapping(pages=1)
    zones = {zone.name: zone for zone in machine.node.pgdat.snapshot().zones}
    high = zones["HighMem"].managed
    taken = dict.fromkeys(zones, 0)
    for _ in range(high // 50_000 + 2):
        for pfn in machine.take(50_000):
            taken[machine.zone_of(pfn)] += 1
    assert taken["HighMem"] > 0.98 * high
    assert taken["Normal"] > 0  # it has spilled into low memory
    assert {machine.zone_of(pfn) for pfn in machine.take(1000, "GFP_KERNEL")} <= {"Normal", "DMA"}

    def until_full() -> None:
        while True:
            machine.take(20_000, "GFP_HIGHUSER|__GFP_NORETRY")

    with pytest.raises(AllocFailed):
        until_full()
    left = {zone.name: zone.free for zone in machine.node.pgdat.snapshot().zones}
    reserve = {zone.name: zone.protection[-2] for zone in machine.node.pgdat.snapshot().zones}
    assert left["DMA"] > reserve["DMA"] > 0
    assert left["Normal"] > reserve["Normal"] > 0
    kernel = machine.take(1000, "GFP_KERNEL")  # which the reserve is kept for
    assert {machine.zone_of(pfn) for pfn in kernel} == {"Normal"}


def test_what_bounces_on_the_way_to_a_device() -> None:
    machine = Mapping(pages=3)
    low = machine.take(2, "GFP_KERNEL")
    isa = (1 << 24) - 1
    assert bounced_pages(machine.node, low + machine.pages, isa).pfns == ()
    assert bounced_pages(machine.node, low + machine.pages, isa, no_highmem=True).pfns == tuple(machine.pages)
    old = Mapping(profile="linux-3.0", pages=3)
    low = old.take(2, "GFP_KERNEL")
    seen = bounced_pages(old.node, low + old.pages, isa)
    assert (seen.pfns, seen.pool) == ((*low, *old.pages), "isa_page_pool")
    flat = Mapping("uma", pages=3)
    assert bounced_pages(flat.node, flat.pages, (1 << 64) - 1, no_highmem=True).pfns == ()


class Two:
    """A simulated 32-bit machine of two nodes, the second of which has high memory only."""

    def __init__(self, tmp_path: Path, profile: str = "linux-6.1") -> None:
        file = tmp_path / "two.toml"
        file.write_text(TWO_NODES_32_BIT)
        self.sim = Simulation(dataclasses.replace(load(str(file)), profile=profile))
        self.sessions = {nid: self.open(nid) for nid in (0, 1)}

    def open(self, nid: int) -> int:
        return self.sim.nodes[nid].apply(ops.OpenSession("driver", ops.FOREVER_NS, 0))

    def take(self, nid: int, count: int, of: int) -> list[int]:
        """Pages of high memory of a node for the session of another."""
        node, policy = self.sim.nodes[nid], Policy(PolicyMode.BIND, (of,))
        cpu = node.pgdat.cpus[0]
        request = AllocRequest(self.sessions[nid], parse_gfp("GFP_HIGHUSER"), 0, count, cpu, policy)
        got = self.sim.call(nid, alloc_pages(node, request))
        return [pfn for _, pfns in got.pages for pfn in np.frombuffer(pfns, "<u8").tolist()]

    def kmap(self, nid: int, pfn: int, **how: bool) -> int:
        return self.sim.call(nid, kmap(self.sim.hosts[nid].inbox, self.sessions[nid], pfn, **how))

    def kunmap(self, nid: int, pfn: int) -> None:
        self.sim.call(nid, kunmap(self.sim.hosts[nid].inbox, self.sessions[nid], pfn))

    def users(self) -> int:
        highmem = self.sim.nodes[0].highmem
        assert highmem
        assert highmem.pool
        return len(highmem.pool.users)

    def restart(self, nid: int) -> None:
        lineage = self.sim.nodes[nid].lineage + 1
        self.sim.hosts[nid].alive = False
        node = Node.boot(self.sim.spec, nid, lineage)
        self.sim.host(node)
        other = self.sim.nodes[1 - nid]
        self.sim.call(other.nid, node_restarted(other, nid, lineage))
        self.sessions[nid] = self.open(nid)


def test_pages_of_any_node_are_mapped_in_the_one_pool(tmp_path: Path) -> None:
    two = Two(tmp_path)
    pools = [node.highmem.pool for node in two.sim.nodes.values() if node.highmem]
    assert [pool is not None for pool in pools] == [True, False]
    addresses = []
    for home in (0, 1):
        for of in (0, 1):
            [pfn] = two.take(home, 1, of)
            addresses.append(two.kmap(home, pfn))
            assert two.kmap(home, pfn) == addresses[-1]
            with pytest.raises(Precondition, match=f"page {pfn:#x} on node {of} is not the session's"):
                two.kmap(1 - home, pfn)
            two.kunmap(home, pfn)
    assert addresses == [PKMAP_BASE + 4096 * nr for nr in (1, 2, 3, 4)]
    assert two.users() == 4
    [pfn] = two.take(1, 1, 0)
    with pytest.raises(KernelBug, match="kunmap of page"):
        two.kunmap(1, pfn)
    two.sim.call(1, close(two.sim.hosts[1].inbox, two.sessions[1]))
    assert two.users() == 2
    assert two.sim.check() == []


def test_virtual_of_a_page_is_known_by_the_node_with_the_pool(tmp_path: Path) -> None:
    two = Two(tmp_path)

    def virtual(pfn: int, of: int) -> int | None:
        return two.sim.call(of, inspect_page(two.sim.hosts[of].inbox, pfn)).virtual

    for of in (0, 1):
        [pfn] = two.take(0, 1, of)
        assert virtual(pfn, of) is None
        assert two.kmap(0, pfn) == virtual(pfn, of)
    two.sim.crash(0)
    assert virtual(pfn, 1) is None
    with pytest.raises(NotFound):
        virtual(pfn, 0)


def test_who_waits_on_another_node_is_woken_there(tmp_path: Path) -> None:
    two = Two(tmp_path)
    mine, theirs = two.take(0, LAST_PKMAP + 1, 0), two.take(1, 2, 1)
    for pfn in mine[:LAST_PKMAP]:
        two.kmap(0, pfn)
    with pytest.raises(KernelBug, match=f"scheduling while atomic: driver/{two.sessions[1]}/"):
        two.kmap(1, theirs[0], atomic=True)
    waits = [two.sim.spawn(1, kmap(two.sim.hosts[1].inbox, two.sessions[1], pfn)) for pfn in theirs]
    here = two.sim.spawn(0, kmap(two.sim.hosts[0].inbox, two.sessions[0], mine[-1]))
    two.sim.run()
    assert [task.done for task in (*waits, here)] == [False] * 3
    two.kunmap(0, mine[7])
    two.sim.run()
    assert sum(task.done for task in (*waits, here)) == 1
    for pfn in mine[8:10]:
        two.kunmap(0, pfn)
    two.sim.run()
    assert [task.done for task in (*waits, here)] == [True] * 3
    for node in two.sim.nodes.values():
        again = Node.boot(two.sim.spec, node.nid)
        again.restore(node.snapshot())
        assert again.digest() == node.digest()
        assert Node.replay(two.sim.spec, node.nid, list(node.log)).digest() == node.digest()


def test_a_session_that_ends_makes_room_for_those_of_other_nodes(tmp_path: Path) -> None:
    two = Two(tmp_path)
    for pfn in two.take(1, LAST_PKMAP, 1):
        two.kmap(1, pfn)
    [pfn] = two.take(0, 1, 0)
    waits = two.sim.spawn(0, kmap(two.sim.hosts[0].inbox, two.sessions[0], pfn))
    two.sim.run()
    assert not waits.done
    two.sim.call(1, close(two.sim.hosts[1].inbox, two.sessions[1]))
    two.sim.run()
    assert waits.result >= PKMAP_BASE
    assert two.users() == 1


@pytest.mark.parametrize("restarts", [0, 1])
def test_mappings_end_with_either_node(tmp_path: Path, restarts: int) -> None:
    two = Two(tmp_path)
    high = two.take(1, LAST_PKMAP + 1, 1)
    for pfn in high[:LAST_PKMAP]:
        two.kmap(1, pfn)
    [pfn] = two.take(0, 1, 0)
    home = 1 - restarts
    other = high[-1] if home else pfn
    waits = two.sim.spawn(home, kmap(two.sim.hosts[home].inbox, two.sessions[home], other))
    two.sim.run()
    assert not waits.done
    two.restart(restarts)
    two.sim.run()
    assert waits.result >= PKMAP_BASE
    assert two.users() == 1
    if restarts == 0:
        with pytest.raises(NotFound, match="lost in the restart of node 0"):
            two.kunmap(1, high[0])


def test_slots_are_at_home_and_pages_elsewhere(tmp_path: Path) -> None:
    two = Two(tmp_path)
    mine, other = two.take(1, 1, 0) + two.take(1, 1, 1), two.take(0, 1, 1)
    inbox, session = two.sim.hosts[1].inbox, two.sessions[1]
    cpu = two.sim.nodes[1].pgdat.cpus[0]
    slots = [two.sim.call(1, kmap_atomic(inbox, session, pfn, cpu)) for pfn in mine]
    assert slots == [16 * cpu, 16 * cpu + 1]
    with pytest.raises(Precondition, match="is not the session's"):
        two.sim.call(1, kmap_atomic(inbox, session, other[0], cpu))
