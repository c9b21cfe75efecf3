"""Transparent huge pages of tasks on nodes."""

from __future__ import annotations

import re

import pytest
from node.test_task import ANON, MIB, RW, Tasks

from numa_service.machine.snapshot import assemble
from numa_service.mm.mempolicy.policy import Mode
from numa_service.mm.mmap.madvise import MADV_COLLAPSE, MADV_DONTNEED, MADV_HUGEPAGE, MADV_NOHUGEPAGE
from numa_service.node import ops
from numa_service.node.task_files import of_tasks, task_files
from numa_service.procfs.meminfo import meminfo
from numa_service.procfs.vmstat import vmstat

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
HUGE = 2 * MIB
#: An address at which a huge page begins.
AT = 0x10_0000_0000


@pytest.fixture
def tasks() -> Tasks:
    return Tasks(machine=MACHINE)


def huge(tasks: Tasks) -> dict[int, int]:
    return tasks.node.tasks.anon_thps()


def events(tasks: Tasks) -> dict[str, int]:
    thp = tasks.node.tasks.thp
    assert thp is not None
    return thp.events


def mapped(tasks: Tasks, pid: int, length: int) -> None:
    assert tasks.do(pid, "mmap", AT, length, RW, ANON | 0x10, 0).value == AT


def test_a_fault_takes_a_huge_page(tasks: Tasks) -> None:
    pid = tasks.spawn()
    mapped(tasks, pid, 3 * HUGE)
    ran = tasks.do(pid, "touch", AT, 3 * HUGE, 1)
    assert (ran.faults, ran.hits) == (3, 3 * 511)
    assert huge(tasks) == {0: 3}
    assert events(tasks) == {"thp_fault_alloc": 3}
    assert tasks.nodes(pid, AT) == {0: 3 * 512}
    again = tasks.do(pid, "touch", AT, 3 * HUGE, 1)
    assert (again.faults, again.hits) == (0, 3 * 512)
    tasks.check()
    tasks.do(pid, "munmap", AT, 3 * HUGE)
    tasks.check()
    assert huge(tasks) == {}
    tasks.end()


def test_a_huge_page_of_another_node(tasks: Tasks) -> None:
    pid = tasks.spawn()
    mapped(tasks, pid, 4 * HUGE)
    tasks.do(pid, "mbind", AT, 4 * HUGE, Mode.BIND, 0b100, 0)
    tasks.do(pid, "touch", AT, 4 * HUGE, 1)
    assert huge(tasks) == {2: 4}
    ran = tasks.do(pid, "touch", AT + HUGE, HUGE, 0)
    assert (ran.faults, ran.hits, ran.remote_lookups) == (0, 512, 1)
    tasks.check()
    tasks.end()


def test_a_read_maps_the_huge_page_of_zeros(tasks: Tasks) -> None:
    pid = tasks.spawn()
    mapped(tasks, pid, 2 * HUGE)
    tasks.do(pid, "touch", AT, 2 * HUGE, 0)
    assert (huge(tasks), events(tasks)) == ({}, {"thp_zero_page_alloc": 1})
    tasks.do(pid, "touch", AT, 4096, 1)
    tasks.check()
    tasks.do(pid, "exit")
    assert sum(tasks.here().values()) == 512
    tasks.end()


def test_a_part_is_unmapped_protected_and_copied(tasks: Tasks) -> None:
    pid = tasks.spawn()
    mapped(tasks, pid, 4 * HUGE)
    tasks.do(pid, "mbind", AT, 2 * HUGE, Mode.BIND, 0b10, 0)
    tasks.do(pid, "touch", AT, 4 * HUGE, 1)
    assert huge(tasks) == {0: 2, 1: 2}
    tasks.do(pid, "munmap", AT + MIB, MIB)
    assert huge(tasks) == {0: 2, 1: 1}
    assert events(tasks)["thp_split_pmd"] == events(tasks)["thp_deferred_split_page"] == 1
    tasks.check()
    tasks.do(pid, "mprotect", AT + 2 * HUGE, 4096, 1)
    assert huge(tasks) == {0: 1, 1: 1}
    child = tasks.do(pid, "fork").value
    tasks.do(child, "touch", AT + HUGE, HUGE, 1)
    tasks.check()
    tasks.do(pid, "madvise", AT + HUGE, 3 * HUGE, MADV_DONTNEED)
    tasks.check()
    tasks.end()


def test_pages_move_as_a_whole_and_are_split_where_there_is_no_room(tasks: Tasks) -> None:
    pid = tasks.spawn()
    mapped(tasks, pid, 4 * HUGE)
    tasks.do(pid, "touch", AT, 4 * HUGE, 1)
    ran = tasks.do(pid, "migrate_pages", 0b1, 0b10)
    assert huge(tasks) == {1: 4}
    assert ran.moved >= 4 * 512
    ran = tasks.do(pid, "move_pages", 1, AT + 5 * 4096, 2)
    assert (ran.status, ran.moved) == ((0,), 512) or ran.status == (2,)
    assert huge(tasks) == {1: 3, 2: 1}
    tasks.check()
    tasks.sim.offline_node(1)
    assert sum(huge(tasks).values()) == 4
    assert 1 not in huge(tasks)
    tasks.do(pid, "touch", AT, 4 * HUGE, 1)
    tasks.do(pid, "exit")
    tasks.check()
    assert tasks.here() == dict.fromkeys(tasks.sim.nodes, 0)


def test_khugepaged_and_collapse(tasks: Tasks) -> None:
    pid = tasks.spawn()
    mapped(tasks, pid, 4 * HUGE)
    tasks.do(pid, "madvise", AT, 4 * HUGE, MADV_NOHUGEPAGE)
    tasks.do(pid, "mbind", AT, HUGE, Mode.BIND, 0b10, 0)
    tasks.do(pid, "touch", AT, 4 * HUGE, 1)
    assert huge(tasks) == {}
    tasks.do(pid, "madvise", AT, 3 * HUGE, MADV_HUGEPAGE)
    tasks.sim.advance(30_000_000_000)
    assert huge(tasks) == {0: 2, 1: 1}
    assert events(tasks)["thp_collapse_alloc"] == 3
    assert tasks.node.tasks.thp.scan.pages_collapsed == 3
    tasks.check()
    tasks.end()


def test_settings_are_followed(tasks: Tasks) -> None:
    pid = tasks.spawn()
    for nid in tasks.sim.nodes:
        tasks.sim.nodes[nid].apply(ops.WriteSysctl("transparent_hugepage.enabled", "madvise"))
    mapped(tasks, pid, 2 * HUGE)
    tasks.do(pid, "touch", AT, HUGE, 1)
    assert huge(tasks) == {}
    tasks.do(pid, "madvise", AT, 2 * HUGE, MADV_HUGEPAGE)
    tasks.do(pid, "touch", AT, 2 * HUGE, 1)
    assert huge(tasks) == {0: 2}  # khugepaged was woken in between
    for key, value in (("defrag", "never"), ("enabled", "never")):
        tasks.node.apply(ops.WriteSysctl(f"transparent_hugepage.{key}", value))
    tasks.do(pid, "madvise", AT, HUGE, MADV_DONTNEED)
    tasks.do(pid, "touch", AT, HUGE, 1)
    assert huge(tasks) == {0: 1}
    tasks.do(pid, "madvise", AT, HUGE, MADV_COLLAPSE)
    assert huge(tasks) == {0: 2}
    tasks.check()
    tasks.end()


def test_files_tell_of_them(tasks: Tasks) -> None:
    pid = tasks.spawn()
    mapped(tasks, pid, 3 * HUGE)
    tasks.do(pid, "mbind", AT, HUGE, Mode.BIND, 0b10, 0)
    tasks.do(pid, "touch", AT, 3 * HUGE, 1)
    tasks.do(pid, "munmap", AT, MIB)
    spec, nodes = tasks.sim.spec, tasks.sim.nodes
    parts = [node.machine.node_part(nid, of_tasks=of_tasks(node)) for nid, node in nodes.items()]
    shown = assemble(spec, parts)
    assert re.search(r"^AnonHugePages: +(\d+) kB$", meminfo(shown), re.M)[1] == "4096"  # type: ignore[index]  # it is there
    assert "thp_fault_alloc 3\n" in vmstat(shown)
    assert "thp_split_pmd 1\n" in vmstat(shown)
    smaps = task_files(tasks.node, pid)[pid]["smaps"]
    assert re.findall(r"^AnonHugePages: +([1-9]\d*) kB$", smaps, re.M) == ["4096"]


def test_a_snapshot_and_the_log_lead_to_the_same_state(tasks: Tasks) -> None:
    pid = tasks.spawn()
    mapped(tasks, pid, 4 * HUGE)
    tasks.do(pid, "mbind", AT, HUGE, Mode.BIND, 0b10, 0)
    tasks.do(pid, "touch", AT, 3 * HUGE, 1)
    tasks.do(pid, "touch", AT + 3 * HUGE, HUGE, 0)
    tasks.do(pid, "munmap", AT + HUGE, MIB)
    tasks.do(pid, "fork")
    tasks.check()
    for nid, node in tasks.sim.nodes.items():
        snapshot = node.snapshot()
        other = type(node).boot(tasks.sim.spec, nid)
        other.restore(snapshot)
        assert other.digest() == node.digest()
        assert other.check() == []
        assert type(node).replay(tasks.sim.spec, nid, list(node.log)).digest() == node.digest()
    tasks.end()
