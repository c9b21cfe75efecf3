"""Huge pages of pools that tasks on nodes map."""

from __future__ import annotations

import errno
import random
import re

import pytest
from node.test_task import ANON, MIB, RW, Tasks

from numa_service.machine.snapshot import assemble
from numa_service.mm.hugetlb.hstate import PMD_KB
from numa_service.mm.mempolicy.policy import Mode
from numa_service.mm.mmap.hugetlb import MAP_HUGE_1GB, MAP_HUGE_2MB, MAP_HUGETLB
from numa_service.mm.mmap.madvise import MADV_DONTNEED
from numa_service.mm.mmap.mmap import MAP_ANONYMOUS, MAP_NORESERVE, MAP_SHARED
from numa_service.node import ops
from numa_service.node.hugetlb import set_max_huge_pages
from numa_service.node.node import Node
from numa_service.node.restart import node_restarted
from numa_service.node.task_files import of_tasks, task_files
from numa_service.procfs.meminfo import meminfo
from numa_service.sim.network import Faults

MACHINE = """
[[node]]
cpus = "0-1"
memory = "96MiB"
[[node]]
cpus = "2-3"
memory = "128MiB"
[[node]]
cpus = "4"
memory = "128MiB"
"""
HUGE = 2 * MIB
AT = 0x10_0000_0000
PRIVATE = ANON | MAP_HUGETLB | 0x10
SHARED = MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB | 0x10


class Pools(Tasks):
    """Tasks of one home, with pools on all nodes."""

    def __init__(self, pages: int = 6, home: int = 1, faults: Faults | None = None, seed: int = 0) -> None:
        super().__init__(faults, home, seed, MACHINE)
        self.keeper = self.sim.nodes[0].machine.vmalloc_nid
        self.pages = pages
        self.resize(pages)

    def resize(self, pages: int) -> None:
        inbox = self.sim.hosts[self.keeper].inbox
        assert self.sim.call(self.keeper, set_max_huge_pages(inbox, PMD_KB, pages)) == pages

    def overcommit(self, pages: int) -> None:
        for node in self.sim.nodes.values():
            node.apply(ops.WriteSysctl("vm.nr_overcommit_hugepages", str(pages)))

    def pools(self) -> dict[int, int]:
        """nid → free huge pages."""
        return {nid: len(node.pgdat.hugetlb.pools[PMD_KB].free) for nid, node in self.sim.nodes.items()}

    @property
    def resv(self) -> int:
        return self.sim.nodes[self.keeper].pgdat.hugetlb.totals[PMD_KB].resv_huge_pages

    def check(self) -> None:
        super().check()
        pool = self.node.tasks.pools[21]
        pools = {nid: node.pgdat.hugetlb.pools[PMD_KB] for nid, node in self.sim.nodes.items()}
        there = [page for page in pool.pages.values() if page[1] >= 0]
        assert sorted(there) == sorted((nid, pfn) for nid in pools for pfn in pools[nid].used)
        assert (pool.limbo, pool.spent, pool.grants, pool.kept) == ([], 0, 0, self.resv)
        assert self.resv <= sum(self.pools().values())
        restored = Node.boot(self.sim.spec, self.nid)
        restored.restore(self.node.snapshot())
        assert restored.digest() == self.node.digest()
        assert restored.tasks.check() == []
        replayed = Node.replay(self.sim.spec, self.nid, list(self.node.log))
        assert replayed.digest() == self.node.digest()

    def end(self) -> None:
        """Without tasks all pages are free, and none is promised."""
        for pid in list(self.node.tasks):
            self.do(pid, "exit")
        self.check()
        assert (self.resv, sum(self.pools().values())) == (0, self.pages)
        self.resize(0)
        super().end()

    def file(self, pid: int, name: str, key: str, at: int = AT) -> str:
        """The line of a VMA in numa_maps, or what its part of smaps says of a key."""
        text = task_files(self.node, pid)[pid][name]
        if name == "numa_maps":
            return next(line for line in text.splitlines() if line.startswith(f"{at:08x} "))
        part = text[text.index(f"{at:x}-") :]
        return next(line.split(":")[1].strip() for line in part.splitlines() if line.startswith(f"{key}:"))


def test_a_mapping_is_promised_pages_and_faults_take_them() -> None:
    tasks = Pools()
    pid = tasks.spawn(cpu=2)
    assert tasks.do(pid, "mmap", AT, 3 * HUGE, RW, PRIVATE, 0).value == AT
    tasks.do(pid, "mmap", 2 * AT, HUGE, RW, SHARED, 0)
    assert (tasks.resv, tasks.pools()) == (4, {0: 2, 1: 2, 2: 2})
    ran = tasks.do(pid, "touch", AT, 3 * HUGE, 1)
    assert (ran.faults, ran.hits) == (3, 3 * 511)
    # those of its own node first, then of the next one
    assert (tasks.resv, tasks.pools()) == (1, {0: 2, 1: 0, 2: 1})
    line = tasks.file(pid, "numa_maps", "")
    assert line.endswith(" huge anon=3 dirty=3 N1=2 N2=1 kernelpagesize_kB=2048")
    assert tasks.file(pid, "smaps", "Private_Hugetlb") == "6144 kB"
    assert tasks.file(pid, "smaps", "KernelPageSize") == "2048 kB"
    assert "HugetlbPages:\t    6144 kB" in task_files(tasks.node, pid)[pid]["status"]
    nodes = tasks.sim.nodes
    parts = [node.machine.node_part(nid, of_tasks=of_tasks(node)) for nid, node in nodes.items()]
    shown = meminfo(assemble(tasks.sim.spec, parts))
    assert re.findall(r"^HugePages_(\w+): +(\d+)$", shown, re.M) == [
        ("Total", "6"),
        ("Free", "3"),
        ("Rsvd", "1"),
        ("Surp", "0"),
    ]
    again = tasks.do(pid, "touch", AT, 3 * HUGE, 1)
    assert (again.faults, again.hits) == (0, 3 * 512)
    tasks.check()
    tasks.do(pid, "munmap", AT, HUGE)
    assert sum(tasks.pools().values()) == 4
    tasks.do(pid, "exit")
    assert (tasks.resv, tasks.pools()) == (0, {0: 2, 1: 2, 2: 2})
    tasks.end()


def test_nodes_that_restart_lose_pages_and_promises() -> None:
    tasks = Pools()
    pid = tasks.spawn(cpu=2)
    tasks.do(pid, "mmap", AT, 5 * HUGE, RW, PRIVATE, 0)
    tasks.do(pid, "touch", AT, 3 * HUGE, 1)
    for nid in (2, tasks.keeper):
        tasks.sim.crash(nid)
        again = tasks.sim.restart(nid).node
        for other in tasks.sim.nodes.values():
            if other is not again:
                tasks.sim.call(other.nid, node_restarted(other, nid, again.lineage))
    assert (tasks.resv, tasks.pools()) == (0, {0: 0, 1: 0, 2: 0})
    # the mapping has its promises still, but there is no page
    assert tasks.run(pid, "touch", AT, 4 * HUGE, 1).errno == errno.EFAULT
    assert tasks.resv == 2
    tasks.resize(5)
    tasks.do(pid, "touch", AT, 5 * HUGE, 1)
    tasks.check()
    tasks.pages = 5
    tasks.end()


def test_without_enough_pages_mmap_fails_and_nothing_is_left() -> None:
    tasks = Pools()
    pid = tasks.spawn(cpu=2)
    assert tasks.run(pid, "mmap", AT, 7 * HUGE, RW, PRIVATE, 0).errno == errno.ENOMEM
    assert tasks.run(pid, "mmap", AT, 1 << 46, RW, PRIVATE, 0).errno == errno.ENOMEM
    assert tasks.run(pid, "mmap", AT, HUGE, RW, PRIVATE | MAP_HUGE_1GB, 0).errno == errno.EINVAL
    assert tasks.resv == 0
    tasks.do(pid, "mmap", AT, 6 * HUGE, RW, PRIVATE | MAP_HUGE_2MB, 0)
    assert tasks.run(pid, "mmap", 2 * AT, HUGE, RW, SHARED, 0).errno == errno.ENOMEM
    tasks.do(pid, "mmap", 2 * AT, 2 * HUGE, RW, PRIVATE | MAP_NORESERVE, 0)
    ran = tasks.run(pid, "touch", 2 * AT, HUGE, 1)
    assert (ran.errno, "empty" in ran.reason) == (errno.EFAULT, True)
    tasks.check()
    # with surplus pages there is one, which goes when it is not needed any more
    tasks.overcommit(1)
    tasks.do(pid, "touch", 2 * AT, HUGE, 1)
    assert tasks.run(pid, "touch", 2 * AT, 2 * HUGE, 1).errno == errno.EFAULT
    tasks.do(pid, "munmap", 2 * AT, 2 * HUGE)
    tasks.check()
    tasks.end()


def test_pages_are_of_the_nodes_of_a_policy() -> None:
    tasks = Pools(pages=9)
    pid = tasks.spawn(cpu=2)
    tasks.do(pid, "mmap", AT, 3 * HUGE, RW, PRIVATE, 0)
    tasks.do(pid, "mbind", AT, 3 * HUGE, Mode.INTERLEAVE, 0b111, 0)
    tasks.do(pid, "touch", AT, 3 * HUGE, 1)
    assert tasks.pools() == {0: 2, 1: 2, 2: 2}
    tasks.do(pid, "mmap", 2 * AT, 3 * HUGE, RW, SHARED, 0)
    tasks.do(pid, "mbind", 2 * AT, 3 * HUGE, Mode.BIND, 0b100, 0)
    ran = tasks.run(pid, "touch", 2 * AT, 3 * HUGE, 1)
    assert (ran.errno, tasks.pools()) == (errno.EFAULT, {0: 2, 1: 2, 2: 0})
    assert tasks.do(pid, "get_mempolicy", 3, 2 * AT).value == 2
    tasks.check()
    tasks.end()


def test_a_child_copies_what_it_writes_to_until_there_is_no_page() -> None:
    tasks = Pools(pages=3)
    pid = tasks.spawn(cpu=2)
    tasks.do(pid, "mmap", AT, 2 * HUGE, RW, PRIVATE, 0)
    tasks.do(pid, "touch", AT, 2 * HUGE, 1)
    child = tasks.do(pid, "fork").value
    tasks.do(child, "touch", AT, HUGE, 1)
    assert sum(tasks.pools().values()) == 0
    assert tasks.run(child, "touch", AT + HUGE, HUGE, 1).errno == errno.EFAULT
    # the parent takes its page from the child
    tasks.do(pid, "touch", AT + HUGE, HUGE, 1)
    tasks.check()
    tasks.end()


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_lost_on_a_bad_network(seed: int) -> None:
    tasks, rng = Pools(pages=8, seed=seed), random.Random(seed)
    tasks.sim.network.faults = Faults(lose=0.1, duplicate=0.1, timeout_ns=5_000_000)
    pids = [tasks.spawn(cpu=rng.choice([0, 2, 4])) for _ in range(2)]
    for _ in range(40):
        pid, at, pages = rng.choice(pids), AT + rng.randrange(6) * HUGE, rng.randint(1, 3)
        match rng.randrange(6):
            case 0 | 1:
                flags = rng.choice([PRIVATE, SHARED]) | rng.choice([0, MAP_NORESERVE])
                tasks.run(pid, "mmap", at, pages * HUGE, RW, flags, 0)
            case 2 | 3:
                tasks.run(pid, "touch", at, pages * HUGE, rng.randrange(2))
            case 4:
                tasks.run(pid, "munmap", at, pages * HUGE)
                tasks.run(pid, "madvise", at + pages * HUGE, HUGE, MADV_DONTNEED)
            case 5 if len(pids) < 4:
                pids.append(tasks.do(pid, "fork").value)
    tasks.sim.network.faults = Faults()
    tasks.sim.advance(20_000_000_000)
    tasks.check()
    tasks.end()
