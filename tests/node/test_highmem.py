"""High memory in a machine: pages that a session maps, requests that wait, and who may use which zone."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from numa_service.machine.source import load
from numa_service.mm.gfp import parse_gfp
from numa_service.mm.highmem.rules import LAST_PKMAP, PKMAP_BASE
from numa_service.mm.structs import PAGE_OFFSET
from numa_service.node import ops
from numa_service.node.errors import NotFound, Precondition
from numa_service.node.highmem import bounced_pages
from numa_service.node.kmem import kmem_cache_alloc
from numa_service.node.mempolicy import Policy
from numa_service.node.node import Node
from numa_service.node.page_alloc import alloc_pages
from numa_service.node.prepare import AllocRequest
from numa_service.node.requests import close, kmap, kunmap
from numa_service.node.struct_views import highmem_view, page_view
from numa_service.node.unserved import AllocFailed
from numa_service.node.vmalloc import vmalloc
from numa_service.sim.simulation import Simulation


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
    kunmap(machine.inbox, machine.session, pfn)
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
    kunmap(machine.inbox, machine.session, pfn)
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
    assert (machine.inbox.pkmap_waiters, [task.done for task in tasks]) == (2, [False, False])
    assert machine.kmap(machine.pages[3]) == PKMAP_BASE + 4 * 4096  # of a mapped page there is an entry
    kunmap(machine.inbox, machine.session, machine.pages[3])
    assert machine.inbox.pkmap_waiters == 2  # it still has a user
    kunmap(machine.inbox, machine.session, machine.pages[3])
    machine.sim.run()
    assert [task.done for task in tasks] == [True, False]
    assert tasks[0].result == PKMAP_BASE + 4 * 4096
    kunmap(machine.inbox, machine.session, machine.pages[512])
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
    assert machine.inbox.pkmap_waiters == 0
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
    assert machine.inbox.pkmap_waiters == 2
    machine.sim.call(0, close(machine.inbox, machine.session))
    machine.sim.run()
    assert waits.result >= PKMAP_BASE
    assert isinstance(own.error, NotFound)
    view = highmem_view(machine.node)
    assert (view.pkmap_count["more"], view.kmap_slots, machine.inbox.pkmap_waiters) == (1, {}, 0)
    assert machine.sim.check() == []


def test_bad_input() -> None:
    machine = Mapping(pages=2)
    mine, other = machine.pages[0], machine.open()
    before = machine.node.digest()
    for op, error, reason in (
        (ops.Kmap(other, mine), Precondition, "is not the session's"),
        (ops.Kmap(77, mine), NotFound, "session 77"),
        (ops.Kmap(other, 1 << 40), NotFound, "no page of node 0"),
        (ops.Kunmap(other, mine), Precondition, "kernel BUG at mm/highmem.c: kunmap of page"),
        (ops.KmapLocal(other, mine, 0), Precondition, "is not the session's"),
        (ops.KunmapLocal(machine.session, mine, 0), Precondition, "is not in the last slot"),
    ):
        with pytest.raises(error, match=reason):
            # ops of several kinds in one table, whose types mypy joins
            machine.node.apply(op)  # type: ignore[arg-type]
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
            kunmap(machine.inbox, machine.session, pfn)
    for nth in range(3):
        machine.node.apply(ops.KmapLocal(machine.session, machine.pages[nth], 1))
    spec, node = machine.node.machine.spec, machine.node
    restored = Node.boot(spec, 0)
    restored.restore(node.snapshot())
    nodes = (node, Node.replay(spec, 0, list(node.log)), restored)
    later: list[ops.Op[Any]] = [ops.Kmap(machine.session, pfn) for pfn in machine.pages[250:599]]
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


def test_objects_of_a_32_bit_kernels_caches_are_refused() -> None:
    machine = Mapping(pages=1)
    before = machine.node.digest()
    with pytest.raises(Precondition, match="32-bit kernel"):
        machine.sim.call(0, kmem_cache_alloc(machine.node, machine.session, "filp", 0, 1, 0))
    assert machine.node.digest() == before
