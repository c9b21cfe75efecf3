"""CMA: areas from the command line, movable pages in them, and allocation of contiguous pages."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from node.page_tables import pfns_of
from numa_client import FreelistPass

from numa_service.machine.boot import start_kernel
from numa_service.machine.cmdline import CmaArea, parse_cmdline
from numa_service.machine.source import load
from numa_service.machine.spec import MachineSpec, SpecError
from numa_service.mm.gfp import GFP_HIGHUSER_MOVABLE, GFP_KERNEL
from numa_service.mm.memory_hotplug import MEMORY_BLOCK_PAGES
from numa_service.mm.mmzone import MIGRATE_CMA
from numa_service.mm.page_alloc import LRU_KIND_ANON, LRU_KIND_FILE
from numa_service.node import ops
from numa_service.node.cma import cma_alloc
from numa_service.node.errors import Busy, InvalidRequest, NotFound
from numa_service.node.free_pages import free_pages
from numa_service.node.mempolicy import Policy, PolicyMode
from numa_service.node.node import Node
from numa_service.node.page_alloc import Allocation, alloc_pages
from numa_service.node.pfns import unpack_pfns
from numa_service.node.prepare import AllocRequest
from numa_service.node.region import close_session, map_region, touch_region
from numa_service.procfs.show import SHOW
from numa_service.sim.simulation import Simulation

DEMO = load("demo")
#: Size of the area of node 1, in pages.
AREA = 4096


def machine(cmdline: str = "cma=16M@1") -> MachineSpec:
    return dataclasses.replace(DEMO, cmdline=cmdline)


class Driver:
    """One session on node 1, whose zone DMA32 has the area."""

    def __init__(self) -> None:
        self.sim = Simulation(machine())
        self.node = self.sim.nodes[1]
        self.cpu = self.node.pgdat.cpus[0]
        [self.area] = self.node.pgdat.cma_areas
        self.session = self.node.apply(ops.OpenSession("driver", 10**15, 0))

    def cma_alloc(self, count: int, align_order: int = 0) -> tuple[int, int]:
        return self.sim.call(1, cma_alloc(self.node, self.session, 0, count, align_order))

    def cma_release(self, start: int, end: int) -> None:
        pfns = np.arange(start, end, dtype="<u8").tobytes()
        self.sim.call(1, free_pages(self.node, self.session, 0, [(1, pfns)], self.cpu))

    def alloc(self, gfp: int, count: int, explain: bool = False) -> Allocation:
        policy = Policy(PolicyMode.BIND, (1,))
        request = AllocRequest(self.session, gfp, 0, count, self.cpu, policy, True, explain)
        return self.sim.call(1, alloc_pages(self.node, request))

    def region(self, pages: int, kind: int = LRU_KIND_ANON) -> int:
        region = map_region(self.node, self.session, kind, pages, Policy(PolicyMode.BIND, (1,)))
        for first in range(0, pages, 4096):
            count = min(4096, pages - first)
            self.sim.call(1, touch_region(self.node, self.session, region, first, count, True, self.cpu))
        return region

    def pfns(self, region: int) -> np.ndarray:
        return pfns_of(self.sim.nodes, 1, region)

    def in_area(self, pfns: np.ndarray) -> int:
        return int(((pfns >= self.area[0]) & (pfns < self.area[1])).sum())

    @property
    def nr_free_cma(self) -> int:
        return self.node.pgdat.snapshot().zones[1].vm_stat["nr_free_cma"]


@pytest.fixture
def driver() -> Driver:
    return Driver()


# boot


def test_the_command_line() -> None:
    assert parse_cmdline("quiet cma=64M").cma == (CmaArea(16384),)
    assert parse_cmdline("cma=0").cma == ()
    assert parse_cmdline("cma=64M@1 numa_cma=0:4M,2:8M").cma == (
        CmaArea(16384, 1),
        CmaArea(1024, 0),
        CmaArea(2048, 2),
    )


@pytest.mark.parametrize(
    "text", ["cma=", "cma", "cma=x", "cma=50%", "cma=1M@4G", "numa_cma=4M", "numa_cma=1:0"]
)
def test_a_command_line_that_is_wrong(text: str) -> None:
    with pytest.raises(SpecError, match="cma"):
        parse_cmdline(text)


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        (machine("cma=4M@7"), "no node 7"),
        (machine("cma=1G@1"), "no 262144 free pages in a row"),
        (dataclasses.replace(machine(), profile="linux-3.0"), "linux-3.0 has no CMA"),
    ],
)
def test_an_area_that_cannot_be(spec: MachineSpec, why: str) -> None:
    with pytest.raises(SpecError, match=why):
        start_kernel(spec, [])


def test_an_area_is_managed_memory_and_every_file_shows_it(driver: Driver) -> None:
    without = Simulation(DEMO).nodes[1].pgdat.extents[1].managed
    # the pages of the area count as managed
    assert driver.node.pgdat.extents[1].managed == without
    assert driver.area[1] - driver.area[0] == AREA
    assert driver.nr_free_cma == AREA
    snapshot = driver.node.machine.snapshot()
    assert f"nr_free_cma {AREA}\n" in SHOW["vmstat"](snapshot)
    assert "CmaTotal:          16384 kB\nCmaFree:           16384 kB\n" in SHOW["meminfo"](snapshot)
    zoneinfo = SHOW["zoneinfo"](snapshot)
    assert f"        cma      {AREA}\n" in zoneinfo
    assert f"      nr_free_cma  {AREA}\n" in zoneinfo
    assert "CMA" in SHOW["pagetypeinfo"](snapshot)
    assert any("16384K cma-reserved" in text for _, text in driver.node.machine.dmesg)
    for name in ("vmstat", "meminfo", "pagetypeinfo"):
        assert "Cma" not in SHOW[name](Simulation(DEMO).nodes[0].machine.snapshot())


def test_above_4_gib_areas_spare_the_low_zones() -> None:
    spec = dataclasses.replace(load("two-socket"), cmdline="cma=64M")
    areas = [area for pgdat in start_kernel(spec).pgdats.values() for area in pgdat.cma_areas]
    assert len(areas) == 1
    assert areas[0][0] >= 1 << 20


# use by movable pages


def test_only_movable_requests_get_into_an_area(driver: Driver) -> None:
    got = driver.alloc(GFP_KERNEL, 1 << 16)
    pfns = unpack_pfns(got.pages[0][1])
    assert driver.in_area(pfns) == 0
    assert driver.nr_free_cma == AREA
    # more than half of the free pages are in the area now: movable allocations prefer it then
    movable = unpack_pfns(driver.alloc(GFP_HIGHUSER_MOVABLE, 100).pages[0][1])
    assert driver.in_area(movable) == 100
    assert driver.sim.check() == []


def test_explain_says_that_free_cma_pages_do_not_count(driver: Driver) -> None:
    explanation = driver.alloc(GFP_KERNEL, 1, explain=True).explanation
    assert explanation is not None
    [step] = [step for step in explanation.steps if isinstance(step, FreelistPass)]
    [visit] = step.nodes
    assert visit.zones[0].before.cma_pages == AREA


# contiguous allocation


def test_pages_in_a_row_and_back(driver: Driver) -> None:
    start, end = driver.cma_alloc(100)
    assert (start, end - start) == (driver.area[0], 100)
    assert driver.nr_free_cma == AREA - 100
    second, _ = driver.cma_alloc(64, align_order=6)
    assert second == -(-end // 64) * 64
    assert driver.sim.check() == []
    driver.cma_release(start, end)
    driver.node.apply(ops.DrainPagesets())
    assert driver.nr_free_cma == AREA - 64
    assert driver.cma_alloc(100)[0] == start
    driver.sim.call(1, close_session(driver.node, driver.session))
    driver.node.apply(ops.DrainPagesets())
    assert driver.nr_free_cma == AREA
    labels = driver.node.pgdat.pg.pb_migratetype
    assert np.count_nonzero(labels == MIGRATE_CMA) == AREA // 512
    assert driver.sim.check() == []


@pytest.mark.parametrize("kind", [LRU_KIND_ANON, LRU_KIND_FILE])
def test_movable_pages_make_way(driver: Driver, kind: int) -> None:
    driver.alloc(GFP_KERNEL, 1 << 16)  # so that CMA is most of what is free
    region = driver.region(1500, kind)
    inside = driver.in_area(driver.pfns(region))
    assert inside > 500
    start, end = driver.cma_alloc(AREA)
    assert (start, end) == driver.area
    assert driver.in_area(driver.pfns(region)) == 0
    touched = driver.sim.call(
        1, touch_region(driver.node, driver.session, region, 0, 1500, False, driver.cpu)
    )
    assert touched.faults == 0
    assert driver.node.pgdat.snapshot().vm_event["pgmigrate_success"] == inside
    driver.sim.run()
    assert driver.sim.check() == []
    for nid, node in driver.sim.nodes.items():
        assert Node.replay(driver.sim.spec, nid, list(node.log)).digest() == node.digest()


def test_a_page_held_by_hand_is_gone_around_or_ebusy(driver: Driver) -> None:
    driver.alloc(GFP_KERNEL, 1 << 16)
    held = unpack_pfns(driver.alloc(GFP_HIGHUSER_MOVABLE, 1).pages[0][1]).tolist()
    assert driver.in_area(np.array(held)) == 1
    digest = driver.node.digest()
    with pytest.raises(Busy, match="EBUSY: no 4096 pages in a row"):
        driver.cma_alloc(AREA)
    assert driver.node.digest() == digest
    start, end = driver.cma_alloc(1000)
    assert not start <= held[0] < end
    assert driver.sim.check() == []


def test_what_may_not_be_asked(driver: Driver) -> None:
    with pytest.raises(NotFound):
        driver.sim.call(1, cma_alloc(driver.node, driver.session, 1, 1))
    with pytest.raises(NotFound):
        driver.sim.call(1, cma_alloc(driver.node, 99, 0, 1))
    with pytest.raises(InvalidRequest):
        driver.cma_alloc(0)
    with pytest.raises(InvalidRequest):
        driver.cma_alloc(1, align_order=11)
    with pytest.raises(Busy):
        driver.cma_alloc(AREA + 1)


def test_a_block_with_an_area_does_not_go_off_line() -> None:
    sim = Simulation(dataclasses.replace(load("cxl-tier"), cmdline="numa_cma=2:16M"))
    [area] = sim.nodes[2].pgdat.cma_areas
    with pytest.raises(Busy, match="in a CMA area"):
        sim.change_memory_block(area[0] // MEMORY_BLOCK_PAGES, "offline")
