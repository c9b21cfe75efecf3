"""Files of pools of huge pages, and those that take pages off-line, against what booted kernels took."""

from __future__ import annotations

import errno

import pytest
from mm.mmap.recorded_mmap import RECORDINGS
from mm.recorded_calls import recorded

from numa_service.machine.presets import load_preset
from numa_service.machine.snapshot import assemble
from numa_service.mm.hugetlb.hstate import PMD_KB
from numa_service.mm.snapshot import MachineSnapshot
from numa_service.node import ops
from numa_service.node.errors import NodeError
from numa_service.node.hugetlb import keeper_of, set_max_huge_pages
from numa_service.node.memory_failure import memory_failure, soft_offline_page
from numa_service.procfs.write import (
    OfflinePage,
    ResizeHugepages,
    WriteSysctl,
    parse_sysctl_write,
    parse_write,
)
from numa_service.sim.simulation import Simulation

#: Python does not know it.
_EHWPOISON = 133


class Machine:
    """Two nodes, and who writes to their files."""

    def __init__(self) -> None:
        self.spec = load_preset("two-socket")
        self.sim = Simulation(self.spec)

    def snapshot(self) -> MachineSnapshot:
        return assemble(self.spec, [node.machine.node_part(nid) for nid, node in self.sim.nodes.items()])

    def write(self, path: str, value: str) -> str:
        """The result of a write and its errno, as the recorder prints them."""
        try:
            wanted = parse_sysctl_write(self.spec, path, value.encode())
            wanted = wanted or parse_write(self.snapshot(), path, value.encode())
            match wanted:
                case ResizeHugepages(kb, count, nid):
                    keeper = self.sim.hosts[keeper_of(self.sim.nodes[0])]
                    self.sim.call(keeper.node.nid, set_max_huge_pages(keeper.inbox, kb, count, nid))
                case WriteSysctl(key, number):
                    for node in self.sim.nodes.values():
                        node.apply(ops.WriteSysctl(key, number))
                case OfflinePage(pfn, soft):
                    self.offline(pfn, soft)
        except OSError as error:
            return f"-1 {error.errno}"
        except NodeError as error:
            name = str(error).split(":")[0]
            return f"-1 {_EHWPOISON if name == 'EHWPOISON' else getattr(errno, name)}"
        return "0 0"

    def offline(self, pfn: int, soft: bool) -> None:
        node = self.sim.nodes[0]
        if soft:
            self.sim.call(0, soft_offline_page(node, pfn))
        else:
            self.sim.call(0, memory_failure(node, pfn))

    def pools(self) -> str:
        counts = [node.pgdat.hugetlb.pools[PMD_KB].counts for node in self.sim.nodes.values()]
        free = [one.free for one in counts]
        return f"{sum(one.nr for one in counts)} {sum(free)} 0 {sum(one.surplus for one in counts)}"


@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
def test_files_of_pools_take_what_they_took(kernel: str) -> None:
    machine, writes = Machine(), 0
    for call, answer in recorded("pools", kernel, RECORDINGS):
        name, *words = call.split()
        if name == "write":
            writes += 1
            assert machine.write(*words) == answer, call
        elif name == "pool":
            assert machine.pools() == answer.split(" ; ")[0], call
    assert writes == 29


@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
def test_files_that_take_pages_off_line_take_what_they_took(kernel: str) -> None:
    """But for what the machines differ in: whether there is memory at an address, and the kernel's own."""
    machine, writes = Machine(), 0
    for call, answer in recorded("poison", kernel, RECORDINGS):
        name, *words = call.split()
        if name != "write" or answer in ("-1 6", "-1 13") or words[1] in ("0xa0000", "0x1000000"):
            continue
        writes += 1
        assert machine.write(*words) == answer, call
    assert writes == 12
