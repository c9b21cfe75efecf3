"""The OOM killer over nodes: who goes, that its memory is back, what is printed, and what others are told."""

from __future__ import annotations

import errno
from dataclasses import replace
from typing import Any

import pytest
from node.test_task import ANON, MIB, RW, Tasks

from numa_service.machine.boot import start_kernel
from numa_service.machine.formats.mem_info import Report, parse_mem_info
from numa_service.mm.gfp import parse_gfp
from numa_service.mm.mempolicy.policy import Mode
from numa_service.node import ops
from numa_service.node.mempolicy import Policy
from numa_service.node.node import Node
from numa_service.node.oom_kill import OomSeen, look
from numa_service.node.page_alloc import alloc_pages
from numa_service.node.prepare import AllocRequest
from numa_service.node.task import Asked, Ran, spawn
from numa_service.node.task_program import run_call
from numa_service.node.unserved import AllocFailed
from numa_service.procfs.dmesg import kmsg
from numa_service.procfs.vmstat import vmstat

MACHINE = """
[[node]]
cpus = "0-1"
memory = "80MiB"
[[node]]
cpus = "2-3"
memory = "96MiB"
"""
NORESERVE = 0x4000


class Killing(Tasks):
    """A machine with a home on each node."""

    def __init__(self, machine: str = MACHINE, **sysctls: int) -> None:
        lines = [f'"vm.{name}" = "{value}"' for name, value in sysctls.items()]
        super().__init__(machine=machine + ("\n[sysctl]\n" + "\n".join(lines) if lines else ""))
        self.sessions = {
            nid: node.apply(ops.OpenSession("oom", ops.FOREVER_NS, 0)) for nid, node in self.sim.nodes.items()
        }

    def begin(self, nid: int, pages: int, adj: int = 0) -> tuple[int, int]:
        """A task of a home with a large area, of which it has touched some pages; its pid and the area."""
        node = self.sim.nodes[nid]
        ran = self.sim.call(nid, spawn(node, self.sessions[nid], node.pgdat.cpus[0], f"of-{nid}"))
        assert not ran.errno, ran.reason
        node.tasks[ran.value].oom_score_adj = adj
        area = self.ask(nid, ran.value, "mmap", 0, 512 * MIB, RW, ANON | NORESERVE, 0).value
        if pages:
            assert not self.ask(nid, ran.value, "touch", area, pages << 12, 1).errno
        return ran.value, area

    def steps(self, nid: int, pid: int, name: str, *numbers: int) -> Any:
        asked = Asked(name, tuple(map(int, numbers)), "")
        return run_call(self.sim.hosts[nid].inbox, self.sessions[nid], pid, asked)

    def ask(self, nid: int, pid: int, name: str, *numbers: int) -> Ran:
        return self.sim.call(nid, self.steps(nid, pid, name, *numbers))

    def alive(self) -> set[int]:
        return {pid for node in self.sim.nodes.values() for pid in node.tasks}

    def log(self, nid: int) -> list[str]:
        return [line.text for line in self.sim.nodes[nid].kernel_log]

    def report(self, nid: int) -> Report:
        return parse_mem_info("\n".join(self.log(nid)), "log")

    def kills(self) -> int:
        return sum(int(node.pgdat.snapshot().vm_event["oom_kill"]) for node in self.sim.nodes.values())

    def check(self) -> None:
        super().check()
        assert [node.tasks.oom_victims for node in self.sim.nodes.values()] == [[], []]
        for node in self.sim.nodes.values():
            assert node.tasks.check() == []


def test_the_largest_task_goes_and_its_memory_is_back_on_all_nodes() -> None:
    machine = Killing()
    small, _ = machine.begin(0, 1000)
    large, area = machine.begin(1, 4000)
    ran = machine.ask(1, large, "touch", area, 200 * MIB, 1)
    assert (ran.errno, ran.value) == (errno.ESRCH, -1)
    assert ran.reason == f"task {large} was killed by the OOM killer"
    assert machine.alive() == {small}
    # a later call finds nobody
    assert machine.ask(1, large, "touch", area, 4096, 1).errno == errno.ESRCH
    machine.check()
    owners = machine.sim.nodes[1].tasks.owners
    left = [
        int(n.pgdat.pg.owner_pages[n.slots[o]])
        for n in machine.sim.nodes.values()
        for o in owners
        if o in n.slots
    ]
    assert sum(left) == 0
    assert machine.kills() == 1
    # there is room again
    again, _ = machine.begin(1, 8000)
    assert machine.alive() == {small, again}


def test_a_task_on_another_home_is_killed_for_one_that_goes_on() -> None:
    machine = Killing()
    first, _ = machine.begin(1, 8000, adj=900)
    asker, area = machine.begin(0, 1000)
    ran = machine.ask(0, asker, "touch", area, 26_000 << 12, 1)
    assert ran.errno == 0
    assert ran.remote_lookups > 0
    assert machine.alive() == {asker}
    machine.check()
    assert machine.log(1) == []
    report = machine.report(0)
    assert report.killed == ["of-1"]
    assert (report.request.comm, report.request.order, report.request.constraint) == ("of-0", 0, "NONE")
    assert [task.pid for task in report.tasks] == sorted((first, asker))
    assert {(zone.nid, zone.name) for zone in report.zones} == {(0, "DMA"), (0, "DMA32"), (1, "DMA32")}


def test_what_it_has_just_got_counts_as_the_asker_s() -> None:
    """A kernel maps page by page: half of memory got by one touch makes it the largest task."""
    machine = Killing()
    other, _ = machine.begin(0, 8000)
    asker, area = machine.begin(1, 0)
    assert machine.ask(1, asker, "touch", area, 200 * MIB, 1).errno == errno.ESRCH
    assert machine.alive() == {other}


def test_nobody_may_be_killed() -> None:
    machine = Killing()
    machine.begin(0, 1000, adj=-1000)
    asker, area = machine.begin(1, 1000, adj=-1000)
    ran = machine.ask(1, asker, "touch", area, 200 * MIB, 1)
    assert ran.errno == errno.ENOMEM
    assert len(machine.alive()) == 2
    assert machine.log(1)[-1] == "Out of memory and no killable processes..."
    assert machine.kills() == 0
    machine.check()


def test_for_a_policy_the_report_shows_its_nodes_and_who_is_bound_elsewhere_stays() -> None:
    machine = Killing()
    elsewhere, area = machine.begin(0, 0)
    assert not machine.ask(0, elsewhere, "set_mempolicy", Mode.BIND, 1).errno
    assert not machine.ask(0, elsewhere, "touch", area, 5000 << 12, 1).errno
    asker, area = machine.begin(0, 0)
    assert not machine.ask(0, asker, "set_mempolicy", Mode.BIND, 2).errno
    assert machine.ask(0, asker, "touch", area, 100 * MIB, 1).errno == errno.ESRCH
    assert machine.alive() == {elsewhere}
    report = machine.report(0)
    assert (report.request.constraint, report.request.nodemask) == ("MEMORY_POLICY", (1,))
    assert {zone.nid for zone in report.zones} == {1}
    assert [task.pid for task in report.tasks] == [asker]
    machine.check()


@pytest.mark.parametrize(("value", "bound", "killed"), [(1, False, 0), (1, True, 1), (2, True, 0)])
def test_panic_on_oom_kills_nobody(value: int, bound: bool, killed: int) -> None:
    machine = Killing(panic_on_oom=value)
    asker, area = machine.begin(0, 0)
    if bound:
        machine.ask(0, asker, "set_mempolicy", Mode.BIND, 2)
    ran = machine.ask(0, asker, "touch", area, 200 * MIB, 1)
    assert ran.errno == (errno.ESRCH if killed else errno.ENOMEM)
    assert machine.kills() == killed
    if not killed:
        kind = "compulsory" if value == 2 else "system-wide"
        assert machine.log(0)[-1].endswith(f"Out of memory: {kind} panic_on_oom is enabled")


def test_the_task_that_asks_goes_if_the_sysctl_says_so() -> None:
    machine = Killing(oom_kill_allocating_task=1, oom_dump_tasks=0)
    large, _ = machine.begin(0, 12000)
    asker, area = machine.begin(1, 10)
    assert machine.ask(1, asker, "touch", area, 200 * MIB, 1).errno == errno.ESRCH
    assert machine.alive() == {large}
    assert machine.log(1)[-1].startswith(f"Out of memory (oom_kill_allocating_task): Killed process {asker} ")
    assert not any("total_vm" in line for line in machine.log(1))


@pytest.mark.parametrize("profile", ["linux-3.0", "linux-4.18", "linux-6.12"])
def test_reports_of_other_kernels_are_read_back(profile: str) -> None:
    machine = Killing(f'profile = "{profile}"\n{MACHINE}')
    parent, area = machine.begin(0, 6000)
    child = machine.ask(0, parent, "fork").value
    ran = machine.ask(0, parent, "touch", area, 200 * MIB, 1)
    report = machine.report(0)
    old = profile != "linux-6.12"
    # the child has less, and yet goes first where kernels do so
    assert ran.errno == errno.ESRCH
    assert report.killed == ["of-0"]
    assert {task.pid for task in report.tasks} == {parent, child}
    first = next(line for line in machine.log(0) if "illed process" in line)
    assert f"illed process {child if old else parent} (of-0)" in first
    assert sum("sacrifice child" in line for line in machine.log(0)) == (2 if old else 0)
    assert all(zone.blocks and zone.lowmem_reserve for zone in report.zones)
    machine.check()


def test_two_homes_that_run_out_at_the_same_time_kill_one_task() -> None:
    machine = Killing()
    victim, _ = machine.begin(1, 8000, adj=900)
    one, area = machine.begin(0, 2000)
    other, there = machine.begin(1, 2000)
    running = [
        machine.sim.spawn(0, machine.steps(0, one, "touch", area, 12_000 << 12, 1)),
        machine.sim.spawn(1, machine.steps(1, other, "touch", there, 12_000 << 12, 1)),
    ]
    machine.sim.run()
    assert [task.result.errno for task in running] == [0, 0]
    assert machine.alive() == {one, other}
    assert victim not in machine.alive()
    assert machine.kills() == 1
    assert len([line for nid in (0, 1) for line in machine.log(nid) if "Killed process" in line]) == 1
    machine.check()


def test_a_victim_in_the_midst_of_its_own_call_ends_with_it() -> None:
    machine = Killing()
    victim, there = machine.begin(1, 8000, adj=900)
    asker, area = machine.begin(0, 1000)
    call = machine.sim.spawn(1, machine.steps(1, victim, "touch", there, 30_000 << 12, 1))
    other = machine.sim.spawn(0, machine.steps(0, asker, "touch", area, 22_000 << 12, 1))
    machine.sim.run()
    assert call.result.errno == errno.ESRCH
    assert other.result.errno == 0
    assert machine.alive() == {asker}
    machine.check()


def test_tasks_of_a_node_that_does_not_answer_stay() -> None:
    machine = Killing(MACHINE + '[[node]]\ncpus = "4"\nmemory = "96MiB"\n')
    machine.begin(2, 6000, adj=900)
    asker, area = machine.begin(0, 1000)
    machine.sim.crash(2)
    ran = machine.ask(0, asker, "touch", area, 200 * MIB, 1)
    assert ran.errno == errno.ESRCH
    assert machine.report(0).killed == ["of-0"]


def test_requests_without_a_task_fail_as_before() -> None:
    machine = Killing()
    task, _ = machine.begin(0, 2000)
    node = machine.sim.nodes[0]
    request = AllocRequest(
        machine.sessions[0], parse_gfp("GFP_KERNEL"), 0, 1 << 15, 0, Policy(), False, False
    )
    with pytest.raises(AllocFailed):
        machine.sim.call(0, alloc_pages(node, request))
    assert machine.alive() == {task}
    assert machine.log(0) == []


def test_the_log_is_state_and_is_seen() -> None:
    machine = Killing()
    asker, area = machine.begin(0, 1000)
    machine.ask(0, asker, "touch", area, 200 * MIB, 1)
    machine.sim.run()
    node = machine.sim.nodes[0]
    copy = Node(start_kernel(machine.sim.spec).of_node(0), 0)
    copy.restore(node.snapshot())
    assert copy.kernel_log == node.kernel_log
    assert copy.digest() == node.digest()
    assert Node.replay(machine.sim.spec, 0, list(node.log)).digest() == node.digest()
    seen = look(node)
    assert OomSeen.unpack(seen.pack()) == seen


def test_kmsg_is_read_by_why() -> None:
    machine = Killing()
    asker, area = machine.begin(0, 1000)
    machine.ask(0, asker, "touch", area, 200 * MIB, 1)
    snapshot = machine.sim.nodes[0].machine.snapshot()
    lines = tuple((22.5, line.level, line.text) for line in machine.sim.nodes[0].kernel_log)
    text = kmsg(replace(snapshot, kmsg=lines))
    assert text.startswith("<4>[   22.500000] of-0 invoked oom-killer: ")
    report = parse_mem_info(text, "kmsg")
    assert report.killed == ["of-0"]
    assert report.totals["RAM"] == sum(zone.present for node in snapshot.nodes for zone in node.zones)
    assert "oom_kill 1\n" in vmstat(snapshot)
