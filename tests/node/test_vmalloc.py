"""vmalloc in a machine: areas on one node, pages from many, whose they are, and how they end."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from numa_service.machine.source import load
from numa_service.machine.vmalloc_init import vmalloc_nid
from numa_service.mm.vmalloc.rules import PAGE_SIZE
from numa_service.node import ops
from numa_service.node.errors import InvalidRequest, KernelBug, NotFound, Precondition, TooMany
from numa_service.node.free_pages import free_pages
from numa_service.node.node import Node
from numa_service.node.owners import Owner
from numa_service.node.region import close_session
from numa_service.node.unserved import VmallocFailed
from numa_service.node.vmalloc import Vmalloced, vfree, vmalloc, vmap, vunmap
from numa_service.procfs import tree
from numa_service.sim.simulation import Simulation

CALLER = "load_module+0x1e3/0x2a0 [nfs]"
KIB, MIB = 1 << 10, 1 << 20


class Kernel:
    """A simulated machine and a session on a node, by default the one that keeps the kernel's addresses."""

    def __init__(
        self, preset: str = "two-socket", profile: str = "linux-6.1", home: int | None = None
    ) -> None:
        self.sim = Simulation(dataclasses.replace(load(preset), profile=profile))
        self.keeper = self.sim.nodes[vmalloc_nid(self.sim.spec)]
        self.home = self.keeper if home is None else self.sim.nodes[home]
        self.cpu = self.home.pgdat.cpus[0]
        self.session = self.open()
        self.before = self.file()

    def open(self) -> int:
        return self.home.apply(ops.OpenSession("module", ops.FOREVER_NS, 0))

    def vmalloc(self, size: int, nid: int = -1, **flags: bool) -> Vmalloced:
        return self.call(vmalloc(self.home, self.session, size, CALLER, self.cpu, nid, **flags))

    def vfree(self, addr: int, session: int | None = None) -> int:
        return self.call(vfree(self.home, session or self.session, addr, self.cpu))

    def vmap(self, count: int) -> int:
        return int(self.call(vmap(self.home, self.session, count, CALLER, self.cpu)))

    def vunmap(self, addr: int) -> None:
        self.call(vunmap(self.home, self.session, addr))

    @property
    def owner(self) -> Owner:
        return self.home.owner(self.home.sessions[self.session].vmalloc_id)

    def call(self, steps: Any) -> Any:
        return self.sim.call(self.home.nid, steps)

    def file(self, name: str = "vmallocinfo") -> str:
        return tree.read(self.keeper.machine.snapshot(), f"/proc/{name}")

    def used_kb(self) -> int:
        [line] = [line for line in self.file("meminfo").splitlines() if line.startswith("VmallocUsed")]
        return int(line.split()[1])

    def vmalloced(self, node: Node) -> int:
        slot = node.slots.get(self.owner)
        return 0 if slot is None else int(node.pgdat.pg.owner_pages[slot])


def lines(kernel: Kernel) -> list[str]:
    """Lines of the file that have come since boot, without addresses and size."""
    new = [line for line in kernel.file().splitlines() if line not in kernel.before.splitlines()]
    return [line.split(maxsplit=1)[1].strip() for line in new]


def test_an_area_has_pages_of_the_cpus_node_or_of_the_one_asked_for() -> None:
    kernel = Kernel()
    here, there = kernel.vmalloc(40 * KIB + 1), kernel.vmalloc(8 * KIB, nid=1)
    assert (here.pages, there.pages) == ({0: 11}, {1: 2})
    assert lines(kernel) == [
        f"49152 {CALLER} pages=11 vmalloc N0=11",
        f"12288 {CALLER} pages=2 vmalloc N1=2",
    ]
    assert there.addr == here.addr + 12 * PAGE_SIZE  # the guard page is between them
    assert kernel.used_kb() == 13 * 4
    assert [kernel.vmalloced(node) for node in kernel.sim.nodes.values()] == [11, 2]
    assert here.cost.latency_ns > 0
    assert kernel.sim.check() == []


def test_a_full_node_spills_as_any_request_does() -> None:
    kernel = Kernel("demo")
    free = sum(zone.free for zone in kernel.sim.nodes[1].pgdat.snapshot().zones)
    made = kernel.vmalloc((free - 500) * PAGE_SIZE, nid=1)
    assert set(made.pages) > {1}
    assert sum(made.pages.values()) - (free - 500) in range(30, 600)  # the array of page pointers has some
    assert "vpages" in kernel.file()
    assert kernel.vfree(made.addr) == sum(made.pages.values())
    assert kernel.sim.check() == []


def test_huge_pages_where_a_nodes_share_is_one() -> None:
    kernel = Kernel("uma")
    made = kernel.vmalloc(3 * MIB, huge=True)
    assert made.pages == {0: 1024 + 2}  # and 8 KiB of page pointers
    assert made.addr % (2 * MIB) == 0
    found = kernel.home.apply(ops.FindVmArea(kernel.owner, made.addr, False))
    assert (found.order, len(found.pfns) // 8, found.array != 0) == (9, 2, True)
    kernel = Kernel()
    assert kernel.vmalloc(3 * MIB, huge=True).pages == {0: 768 + 2}  # 1.5 MiB for each of two nodes


def test_freed_addresses_wait_for_a_purge_and_pages_do_not() -> None:
    kernel = Kernel()
    free = [sum(zone.free for zone in node.pgdat.snapshot().zones) for node in kernel.sim.nodes.values()]
    first = kernel.vmalloc(16 * KIB)
    assert kernel.vfree(first.addr) == 4
    assert kernel.vmalloced(kernel.home) == kernel.used_kb() == 0
    assert kernel.file().splitlines()[-1].endswith("20480 unpurged vm_area")
    assert kernel.vmalloc(16 * KIB).addr == first.addr + 5 * PAGE_SIZE
    assert kernel.home.apply(ops.PurgeVmapAreas()) == 1
    assert kernel.vmalloc(16 * KIB).addr == first.addr
    kernel.home.apply(ops.DrainPagesets())
    now = [sum(zone.free for zone in node.pgdat.snapshot().zones) for node in kernel.sim.nodes.values()]
    assert [a - b for a, b in zip(free, now, strict=True)] == [8, 0]


def test_a_session_that_ends_leaves_no_area_and_no_page() -> None:
    kernel = Kernel("demo")
    for nid in (-1, 1, 2):
        kernel.vmalloc(3 * MIB, nid)
    kernel.vmap(5)
    assert all(kernel.vmalloced(node) for node in kernel.sim.nodes.values())
    freed = kernel.call(close_session(kernel.home, kernel.session))
    assert freed == 3 * 770
    kernel.home.apply(ops.PurgeVmapAreas())
    assert kernel.file() == kernel.before
    assert (kernel.used_kb(), kernel.sim.check()) == (0, [])
    assert all(not node.slots for node in kernel.sim.nodes.values())


def test_what_is_vmalloced_is_freed_by_vfree_only() -> None:
    kernel = Kernel()
    kernel.vmalloc(PAGE_SIZE)
    assert kernel.home.vmalloc is not None
    [pfn] = next(area.vm.pages for area in kernel.home.vmalloc.areas.busy if area.vm and area.vm.nr_pages)
    packed = np.array([pfn], "<u8").tobytes()
    with pytest.raises(Precondition, match=f"{pfn:#x}"):
        kernel.call(free_pages(kernel.home, kernel.session, 0, [(0, packed)], kernel.cpu))


def test_vmap_takes_addresses_and_vunmap_leaves_the_pages() -> None:
    kernel = Kernel()
    addr = kernel.vmap(5)
    assert lines(kernel) == [f"24576 {CALLER} vmap"]
    kernel.vunmap(addr)
    made = kernel.vmalloc(PAGE_SIZE)
    kernel.vunmap(made.addr)
    assert kernel.vmalloced(kernel.home) == 1  # until the session ends, as it has lost the address


@pytest.mark.parametrize(
    ("profile", "name"), [("linux-3.0", "vfree"), ("linux-6.1", "vfree"), ("linux-6.12", "vunmap")]
)
def test_a_wrong_address_gets_the_kernels_report_and_changes_nothing(profile: str, name: str) -> None:
    kernel = Kernel(profile=profile)
    area, other = kernel.vmalloc(5 * PAGE_SIZE), kernel.open()
    before = kernel.home.digest()
    inside = area.addr + PAGE_SIZE
    for address, report in (
        (area.addr + 16, rf"Trying to vfree\(\) bad address \({area.addr + 16:016x}\)"),
        (area.addr + (1 << 40), r"Trying to vfree\(\) nonexistent vm area \(ffff"),
    ):
        with pytest.raises(KernelBug, match=report):
            kernel.vfree(address)
    with pytest.raises(KernelBug, match=rf"Trying to {name}\(\) nonexistent vm area"):
        kernel.vunmap(area.addr + (1 << 40))
    with pytest.raises(Precondition, match="belongs to another session"):
        kernel.vfree(area.addr, other)
    with pytest.raises(NotFound, match="session 77"):
        kernel.vfree(area.addr, 77)
    assert kernel.vfree(0) == 0
    assert kernel.home.digest() == before
    if profile == "linux-3.0":  # which finds an area by its first address only
        with pytest.raises(Precondition, match="nonexistent vm area"):
            kernel.vfree(inside)
        assert kernel.vfree(area.addr) == 5
    else:
        boot = int(kernel.before.split("-")[0], 16)
        with pytest.raises(Precondition, match="belongs to the kernel"):
            kernel.vfree(boot)
        assert kernel.vfree(inside) == 5


def test_too_much_is_refused_in_the_kernels_words_and_leaves_nothing() -> None:
    kernel = Kernel("demo")
    with pytest.raises(VmallocFailed, match=f"vmalloc error: size {1 << 40}, exceeds total pages"):
        kernel.vmalloc(1 << 40)
    assert kernel.home.vmalloc is not None
    most = min(kernel.home.vmalloc.totalram_pages, 1 << 16) * PAGE_SIZE
    kernel.vmalloc(most)

    def until_full() -> None:
        while True:
            kernel.vmalloc(most)

    with pytest.raises(VmallocFailed, match=r"size \d+, page order 0, failed to allocate pages"):
        until_full()
    used = kernel.used_kb()
    assert used == 4 * sum(kernel.vmalloced(node) for node in kernel.sim.nodes.values())
    assert kernel.sim.check() == []


def test_32_bit_addresses_run_out_before_memory_does() -> None:
    kernel = Kernel("i386-highmem")
    made = kernel.vmalloc(100 * MIB)
    zones = {zone.name: zone.managed - zone.free for zone in kernel.home.pgdat.snapshot().zones}
    assert made.pages == {0: 25_600 + 25}
    assert zones["HighMem"] >= 25_625  # where vmalloc gets its pages, as kernel data cannot
    assert zones["Normal"] == 0
    assert " N0" not in kernel.file()  # the kernel has no NUMA
    with pytest.raises(VmallocFailed) as failed:
        kernel.vmalloc(100 * MIB)
    assert str(failed.value) == (
        f"vmap allocation for size {100 * MIB + PAGE_SIZE} failed: use vmalloc=<size> to increase size\n"
        f"vmalloc error: size {100 * MIB}, vm_struct allocation failed"
    )


def test_bad_input_names_its_field(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel()
    before = kernel.home.digest()

    def refused(field: str, **wrong: Any) -> None:
        fields = {"session": kernel.session, "size": 1, "caller": CALLER, "cpu": kernel.cpu, "nid": 0} | wrong
        with pytest.raises(InvalidRequest) as error:
            kernel.call(vmalloc(kernel.home, **fields))
        assert error.value.field == field

    refused("size", size=0)
    refused("size", size=(1 << 28) + 1)
    refused("cpu", cpu=99)
    refused("node", nid=9)
    refused("caller", caller="two\nlines")
    refused("caller", caller="")
    with pytest.raises(InvalidRequest, match="count"):
        kernel.vmap(0)
    assert kernel.home.digest() == before
    monkeypatch.setattr("numa_service.node.ops.vmalloc.MAX_VM_AREAS", 10)
    assert kernel.before.count("\n") == 10
    with pytest.raises(TooMany, match="10 areas"):
        kernel.vmalloc(1)


@pytest.mark.parametrize("profile", ["linux-3.0", "linux-6.1", "linux-6.12"])
def test_a_log_and_a_snapshot_lead_to_the_same_areas(profile: str) -> None:
    kernel = Kernel("uma", profile)
    made = [kernel.vmalloc(size) for size in (1, 5000, 3 * MIB, 16 * KIB, 16 * KIB, 70_000)]
    for nth in (1, 2, 4):
        kernel.vfree(made[nth].addr)
    kernel.home.apply(ops.PurgeVmapAreas())
    kernel.vmalloc(16 * KIB)
    kernel.vfree(made[0].addr)
    node = kernel.home
    spec, log = node.machine.spec, list(node.log)
    restored = Node.boot(spec, 0)
    restored.restore(node.snapshot())
    nodes = (node, Node.replay(spec, 0, log), restored)
    for op in (
        ops.GetVmArea(kernel.owner, 30_000, 2, PAGE_SIZE, CALLER, 0),
        ops.FreeVmArea(kernel.owner, made[3].addr, False),
        ops.GetVmArea(kernel.owner, 16 * KIB, 2, 4 * PAGE_SIZE, CALLER, 1),
        ops.PurgeVmapAreas(),
        ops.EndSession(kernel.session),
    ):
        assert len({str(one.apply(op)) for one in nodes}) == 1
        assert len({one.digest() for one in nodes}) == 1


def test_a_session_of_any_node_may_ask_and_its_end_frees_everything() -> None:
    kernel = Kernel("demo", home=1)
    assert kernel.home is not kernel.keeper
    made = kernel.vmalloc(3 * MIB)  # with an area of page pointers
    assert made.pages == {1: 770}
    assert [line.split(" ", 1)[1] for line in lines(kernel)] == [
        f"{CALLER} pages=768 vmalloc vpages N1=768",
        f"{CALLER} pages=2 vmalloc N1=2",
    ]
    kernel.vmap(4)
    assert kernel.sim.check() == []
    before = kernel.keeper.digest()
    with pytest.raises(KernelBug, match="nonexistent vm area"):
        kernel.vfree(made.addr + (1 << 40))
    with pytest.raises(KernelBug, match="bad address"):
        kernel.vfree(made.addr + 1)
    with pytest.raises(Precondition, match="belongs to another session"):
        kernel.vfree(made.addr, kernel.open())
    assert kernel.keeper.digest() == before
    assert kernel.vfree(made.addr) == 770
    assert kernel.vmalloc(PAGE_SIZE, 2).pages == {2: 1}
    assert kernel.call(close_session(kernel.home, kernel.session)) == 1
    kernel.keeper.apply(ops.PurgeVmapAreas())
    assert kernel.file() == kernel.before
    assert kernel.sim.check() == []


def test_an_area_asked_for_by_a_node_that_has_rebooted_is_refused_and_its_others_end() -> None:
    kernel = Kernel("demo", home=1)
    kernel.vmalloc(PAGE_SIZE, 1)
    owner = kernel.owner
    kernel.keeper.apply(ops.FreeDeadOwners(1, 2))
    kernel.keeper.apply(ops.PurgeVmapAreas())
    assert kernel.file() == kernel.before
    with pytest.raises(Precondition, match="lineage 1 of node 1 is no more"):
        kernel.keeper.apply(ops.GetVmArea(owner, 1, 2, PAGE_SIZE, CALLER, 0))
    assert kernel.file() == kernel.before


def test_pages_that_an_area_has_no_room_for_are_refused() -> None:
    kernel = Kernel()
    kernel.vmalloc(PAGE_SIZE)
    got = kernel.home.apply(ops.GetVmArea(kernel.owner, PAGE_SIZE, 2, PAGE_SIZE, CALLER, 0))
    before = kernel.home.digest()
    for pfns, text in (([1, 2], "no room for 2 blocks"), ([1 << 40], "no page of the machine")):
        with pytest.raises(Precondition, match=text):
            kernel.home.apply(ops.MapVmArea(kernel.owner, got.addr, 0, np.array(pfns, "<u8").tobytes(), 0))
    with pytest.raises(NotFound, match="area 0x7000"):
        kernel.home.apply(ops.MapVmArea(kernel.owner, 0x7000, 0, bytes(8), 0))
    assert kernel.home.digest() == before
