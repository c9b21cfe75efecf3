"""Random lives of tasks on a small machine: after each step everything is counted anew."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from node.test_task import ANON, RW, Tasks

from numa_service.mm.mempolicy.policy import Mode
from numa_service.mm.mmap.madvise import (
    MADV_COLLAPSE,
    MADV_DONTNEED,
    MADV_FREE,
    MADV_HUGEPAGE,
    MADV_NOHUGEPAGE,
)
from numa_service.mm.mmap.mmap import MAP_ANONYMOUS, MAP_SHARED, PROT_READ
from numa_service.node import ops
from numa_service.node.memory_hotplug import memory_blocks
from numa_service.node.task_limbo import release_elsewhere
from numa_service.node.task_pages import TABLE

#: Nodes whose memory can go off-line, block by block.
MACHINE = """
swap = "24MiB"
[[node]]
cpus = "0-1"
memory = "128MiB"
[[node]]
cpus = "2-3"
memory = "256MiB"
[[node]]
cpus = "4"
memory = "256MiB"
"""
#: Tasks map memory between these addresses.
LOW, PAGES = 0x10_0000_0000, 2048
pages = st.integers(0, PAGES - 1)
lengths = st.integers(1, 600)
masks = st.integers(1, 7)
ADVICES = st.sampled_from((MADV_HUGEPAGE, MADV_HUGEPAGE, MADV_COLLAPSE, MADV_NOHUGEPAGE, MADV_FREE))


class TaskLives(RuleBasedStateMachine):
    """What tasks do, and memory that goes off-line under them."""

    def __init__(self) -> None:
        super().__init__()
        self.tasks = Tasks(machine=MACHINE)

    @initialize()
    def begin(self) -> None:
        self.tasks.spawn()

    @property
    def pids(self) -> list[int]:
        return list(self.tasks.node.tasks)

    def run(self, which: int, name: str, *numbers: int) -> Any:
        ran = self.tasks.run(self.pids[which % len(self.pids)], name, *numbers)
        assert (ran.value == -1) == bool(ran.errno)
        return ran

    @precondition(lambda self: len(self.pids) < 6)
    @rule(cpu=st.integers(0, 4))
    def spawn(self, cpu: int) -> None:
        self.tasks.spawn(cpu)

    @precondition(lambda self: self.pids)
    @rule(which=st.integers(0, 9), first=pages, length=lengths, shared=st.booleans())
    def mmap(self, which: int, first: int, length: int, shared: bool) -> None:
        flags = (MAP_SHARED | MAP_ANONYMOUS if shared else ANON) | 0x10
        self.run(which, "mmap", LOW + (first << 12), length << 12, RW, flags, 0)

    @precondition(lambda self: self.pids)
    @rule(which=st.integers(0, 9), first=pages, length=lengths, write=st.booleans())
    def touch(self, which: int, first: int, length: int, write: bool) -> None:
        self.run(which, "touch", LOW + (first << 12), length << 12, write)

    @precondition(lambda self: 0 < len(self.pids) < 6)
    @rule(which=st.integers(0, 9))
    def fork(self, which: int) -> None:
        self.run(which, "fork")

    @precondition(lambda self: self.pids)
    @rule(which=st.integers(0, 9), first=pages, length=lengths, writable=st.booleans())
    def mprotect(self, which: int, first: int, length: int, writable: bool) -> None:
        self.run(which, "mprotect", LOW + (first << 12), length << 12, RW if writable else PROT_READ)

    @precondition(lambda self: self.pids)
    @rule(which=st.integers(0, 9), first=pages, length=lengths, drop=st.booleans())
    def munmap(self, which: int, first: int, length: int, drop: bool) -> None:
        if drop:
            self.run(which, "madvise", LOW + (first << 12), length << 12, MADV_DONTNEED)
        else:
            self.run(which, "munmap", LOW + (first << 12), length << 12)

    @precondition(lambda self: self.pids)
    @rule(which=st.integers(0, 9), first=pages, old=lengths, new=lengths)
    def mremap(self, which: int, first: int, old: int, new: int) -> None:
        self.run(which, "mremap", LOW + (first << 12), old << 12, new << 12, 1, 0)

    @precondition(lambda self: self.pids)
    @rule(
        which=st.integers(0, 9), first=pages, length=lengths, mode=st.sampled_from((1, 2, 3, 5)), nodes=masks
    )
    def mbind(self, which: int, first: int, length: int, mode: int, nodes: int) -> None:
        self.run(which, "mbind", LOW + (first << 12), length << 12, Mode(mode), nodes, 2)

    @precondition(lambda self: self.pids)
    @rule(which=st.integers(0, 9), old=masks, new=masks)
    def migrate(self, which: int, old: int, new: int) -> None:
        self.run(which, "migrate_pages", old, new)

    @precondition(lambda self: self.pids)
    @rule(which=st.integers(0, 9))
    def exit(self, which: int) -> None:
        self.run(which, "exit")

    @rule(nid=st.sampled_from((1, 2)))
    def offline(self, nid: int) -> None:
        stayed = self.tasks.sim.offline_node(nid)
        blocks = list(memory_blocks(self.tasks.sim.nodes[nid]))
        for block in blocks:
            if block not in stayed:
                self.tasks.sim.change_memory_block(block, "online_movable")
        # page tables do not move
        tables = self.tasks.node.tasks.owner(TABLE) in self.tasks.sim.nodes[nid].slots
        assert len(stayed) < len(blocks) or tables

    @precondition(lambda self: self.pids)
    @rule(which=st.integers(0, 9), first=st.integers(0, 3), count=st.integers(1, 3), advice=ADVICES)
    def huge(self, which: int, first: int, count: int, advice: int) -> None:
        """Map what huge pages fit in, advise it, and write to it."""
        low, length = LOW + (first << 21), count << 21
        if advice != MADV_COLLAPSE:
            self.run(which, "mmap", low, length, RW, ANON | 0x10, 0)
        self.run(which, "madvise", low, length, advice)
        self.run(which, "touch", low, length, advice != MADV_FREE)

    @rule()
    def khugepaged(self) -> None:
        self.tasks.sim.advance(11_000_000_000)

    @rule()
    def shrink(self) -> None:
        self.tasks.node.apply(ops.ShrinkHuge())
        self.tasks.sim.call(0, release_elsewhere(self.tasks.node))

    @rule(nid=st.integers(0, 2), pages=st.integers(1, 40))
    def reclaim(self, nid: int, pages: int) -> None:
        self.tasks.sim.nodes[nid].apply(ops.Reclaim(3, 0, pages))

    @invariant()
    def agrees(self) -> None:
        """Mapcounts are mappings, resident sets are page tables, and each page is where its home thinks."""
        tasks = self.tasks.node.tasks
        assert tasks.check() == []
        assert not tasks.limbo
        zeros = tasks.thp.nr if tasks.thp.zero else 0
        owned = sum(self.tasks.here().values()) - tasks.tables.out - zeros
        assert owned <= int((tasks.source.nids >= 0).sum())

    def teardown(self) -> None:
        self.tasks.sim.run()
        assert self.tasks.sim.check() == []
        for pid in self.pids:
            self.tasks.do(pid, "exit")
        self.tasks.node.apply(ops.ShrinkHuge())
        self.tasks.sim.call(0, release_elsewhere(self.tasks.node))
        assert self.tasks.here() == dict.fromkeys(self.tasks.sim.nodes, 0)
        assert sum(node.swap_used for node in self.tasks.sim.nodes.values()) == 0


TaskLives.TestCase.settings = settings(
    max_examples=6,
    stateful_step_count=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
TestTaskLives = TaskLives.TestCase
