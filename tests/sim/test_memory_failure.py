"""Bad memory: free pages leave the buddy system, pages of regions move or are lost, as captured."""

from __future__ import annotations

import pytest
from node.page_tables import pfns_of

from numa_service.machine.source import load
from numa_service.mm.gfp import GFP_KERNEL
from numa_service.mm.page_alloc import LRU_KIND_ANON, LRU_KIND_FILE
from numa_service.node import ops
from numa_service.node.errors import NotFound, Precondition
from numa_service.node.memory_failure import memory_failure, recovery_line, soft_offline_page
from numa_service.node.mempolicy import Policy
from numa_service.node.node import Node
from numa_service.node.ops.memory_failure import Poisoned
from numa_service.node.page_alloc import alloc_pages
from numa_service.node.pfns import unpack_pfns
from numa_service.node.prepare import AllocRequest
from numa_service.node.region import map_region, touch_region
from numa_service.node.struct_views import page_view
from numa_service.procfs import tree
from numa_service.sim.simulation import Simulation


class Driver:
    """One session on node 0."""

    def __init__(self) -> None:
        self.sim = Simulation(load("demo"))
        self.node = self.sim.nodes[0]
        self.session = self.node.apply(ops.OpenSession("driver", 10**15, 0))

    def region(self, kind: int, write: bool) -> tuple[int, list[int]]:
        """A region of 16 pages that have been touched, and their pfns."""
        region = map_region(self.node, self.session, kind, 16, Policy())
        self.sim.call(0, touch_region(self.node, self.session, region, 0, 16, write, 0))
        return region, self.pfns(region)

    def pfns(self, region: int) -> list[int]:
        return pfns_of(self.sim.nodes, 0, region).tolist()

    def touched(self, region: int) -> tuple[int, int]:
        touched = self.sim.call(0, touch_region(self.node, self.session, region, 0, 16, False, 0))
        return touched.hits, touched.faults

    def soft(self, pfn: int) -> None:
        self.sim.call(0, soft_offline_page(self.node, pfn))

    def hard(self, pfn: int) -> Poisoned:
        done: Poisoned = self.sim.call(0, memory_failure(self.node, pfn))
        return done

    def file(self, path: str) -> str:
        return tree.read(self.node.machine.snapshot(), path)

    def corrupted_kb(self) -> int:
        lines = self.file("/proc/meminfo").splitlines()
        return int(next(line for line in lines if line.startswith("HardwareCorrupted")).split()[1])


def test_a_free_page_leaves_the_buddy_system_alone() -> None:
    for soft in (True, False):
        driver = Driver()
        zone = max(driver.node.pgdat.extents, key=lambda extent: extent.managed)
        pfn, free = zone.start_pfn + zone.spanned - 5001, driver.node.pgdat.free_pages(zone.index)
        if soft:
            driver.soft(pfn)
        else:
            result = driver.hard(pfn)
            assert recovery_line(pfn, result).endswith("recovery action for free buddy page: Recovered")
        assert driver.node.pgdat.free_pages(zone.index) == free - 1
        assert driver.corrupted_kb() == 4
        assert "hwpoison" in page_view(driver.node, pfn).flags
        assert driver.node.pgdat.memory_failure.counts["recovered"] == (not soft)
        with pytest.raises(Precondition, match="EHWPOISON"):
            driver.hard(pfn)
        assert not driver.sim.check()
        copy = Node.boot(driver.sim.spec, 0)
        copy.restore(driver.node.snapshot())
        assert copy.digest() == driver.node.digest()
        assert Node.replay(driver.sim.spec, 0, list(driver.node.log)).digest() == driver.node.digest()


def test_a_region_does_not_notice_a_soft_offline() -> None:
    """misc/hwpoison: madvise 16 pages of a touched anonymous area, HardwareCorrupted +4 kB for each."""
    driver = Driver()
    region, before = driver.region(LRU_KIND_ANON, True)
    for pfn in before:
        driver.soft(pfn)
    assert driver.corrupted_kb() == 16 * 4
    assert not set(before) & set(driver.pfns(region))
    assert driver.touched(region) == (16, 0)
    assert driver.node.pgdat.memory_failure.snapshot()["total"] == 0
    assert not driver.sim.check()


@pytest.mark.parametrize(
    ("kind", "write", "name"),
    [
        (LRU_KIND_ANON, True, "dirty LRU page"),
        (LRU_KIND_FILE, False, "clean LRU page"),
        (LRU_KIND_FILE, True, "dirty LRU page"),
    ],
    ids=["anon", "clean", "dirty"],
)
def test_an_error_takes_the_page_from_its_region(kind: int, write: bool, name: str) -> None:
    """The ends of misc/hwpoison: who has lost which page is told; the other pages stay."""
    driver = Driver()
    region, before = driver.region(kind, write)
    result = driver.hard(before[3])
    assert (result.taken, result.kind, result.page_index) == (True, name, 3)
    assert result.owner == driver.node.owner(region)
    line = f"Memory failure: {before[3]:#x}: recovery action for {name}: Recovered"
    assert recovery_line(before[3], result) == line
    assert driver.touched(region) == (15, 1)
    assert before[3] not in driver.pfns(region)
    assert driver.node.pgdat.memory_failure.snapshot()["recovered"] == 1
    assert not driver.sim.check()


def test_an_error_of_a_page_that_the_kernel_uses_is_ignored() -> None:
    driver = Driver()
    got = driver.sim.call(
        0, alloc_pages(driver.node, AllocRequest(driver.session, GFP_KERNEL, 0, 1, 0, Policy()))
    )
    pfn = int(unpack_pfns(got.pages[0][1])[0])
    with pytest.raises(Precondition, match="EIO"):
        driver.soft(pfn)
    assert driver.corrupted_kb() == 0
    assert recovery_line(pfn, driver.hard(pfn)).endswith("kernel page: Ignored")
    assert driver.corrupted_kb() == 4
    assert driver.node.pgdat.memory_failure.snapshot()["ignored"] == 1
    with pytest.raises(NotFound):
        driver.hard(1 << 39)
    assert not driver.sim.check()
