"""Tasks on nodes: their pages come from all nodes, are found again, and none is left when they end."""

from __future__ import annotations

import errno
from typing import Any

import numpy as np
import pytest

from numa_service.machine.machinefile import parse_machine
from numa_service.machine.source import load
from numa_service.mm.mempolicy.policy import Mode
from numa_service.mm.mmap.madvise import MADV_DONTNEED, MADV_NOHUGEPAGE
from numa_service.mm.mmap.mmap import MAP_ANONYMOUS, MAP_PRIVATE, MAP_SHARED, PROT_READ, PROT_WRITE
from numa_service.mm.page_alloc import LRU_KIND_ANON
from numa_service.node import ops
from numa_service.node.errors import InvalidRequest, NotFound, Precondition
from numa_service.node.node import Node
from numa_service.node.owners import TASKS_ID
from numa_service.node.requests import close
from numa_service.node.task import Asked, Ran, here_of, spawn
from numa_service.node.task_program import Step, run_call, run_program
from numa_service.procfs.pid_maps import map_lines
from numa_service.procfs.pid_smaps import numa_maps
from numa_service.sim.attack.run import free_pages
from numa_service.sim.network import Faults
from numa_service.sim.simulation import Simulation

MACHINE = """
swap = "24MiB"
[[node]]
cpus = "0-1"
memory = "40MiB"
[[node]]
cpus = "2-3"
memory = "48MiB"
[[node]]
cpus = "4"
memory = "48MiB"
"""
KIB, MIB = 1 << 10, 1 << 20
ANON = MAP_PRIVATE | MAP_ANONYMOUS
RW = PROT_READ | PROT_WRITE


class Tasks:
    """A simulated machine with a session on a node, and what its tasks are told."""

    def __init__(
        self, faults: Faults | None = None, home: int = 0, seed: int = 0, machine: str = MACHINE
    ) -> None:
        spec = (
            parse_machine(machine, source="tasks", default_name="tasks") if "\n" in machine else load(machine)
        )
        self.sim = Simulation(spec, seed, faults)
        self.nid = home
        self.before = self.free()
        self.session = self.node.apply(ops.OpenSession("tasks", ops.FOREVER_NS, 0))

    @property
    def node(self) -> Node:
        return self.sim.nodes[self.nid]

    @property
    def inbox(self) -> Any:
        return self.sim.hosts[self.nid].inbox

    def free(self) -> dict[int, int]:
        return {nid: free_pages(host) for nid, host in self.sim.hosts.items()}

    def spawn(self, cpu: int = 0) -> int:
        ran = self.sim.call(self.nid, spawn(self.node, self.session, cpu, "subj"))
        assert not ran.errno, ran.reason
        return int(ran.value)

    def run(self, pid: int, name: str, *numbers: int, text: str = "") -> Ran:
        asked = Asked(name, tuple(int(number) for number in numbers), text)
        return self.sim.call(self.nid, run_call(self.inbox, self.session, pid, asked))

    def do(self, pid: int, name: str, *numbers: int, text: str = "") -> Ran:
        ran = self.run(pid, name, *numbers, text=text)
        assert not ran.errno, ran.reason
        return ran

    def map(self, pid: int, length: int, flags: int = ANON, text: str = "") -> int:
        return self.do(pid, "mmap", 0, length, RW, flags, 0, text=text).value

    def nodes(self, pid: int, address: int) -> dict[int, int]:
        """Pages of the VMA at an address by node, as numa_maps says."""
        lines = numa_maps(self.node.tasks[pid].process, lambda vma: "default").splitlines()
        line = next(line for line in lines if line.startswith(f"{address:08x} "))
        return {
            int(word[1:].split("=")[0]): int(word.split("=")[1]) for word in line.split() if word[0] == "N"
        }

    def here(self) -> dict[int, int]:
        """Pages that each node has of this home's tasks."""
        owners = self.node.tasks.owners
        return {
            nid: sum(int(n.pgdat.pg.owner_pages[n.slots[owner]]) for owner in owners if owner in n.slots)
            for nid, n in self.sim.nodes.items()
        }

    def check(self) -> None:
        self.sim.run()
        assert self.sim.check() == []
        assert not self.node.tasks.limbo

    def end(self) -> None:
        """Close the session: no page is left of it, on any node."""
        self.sim.call(self.nid, close(self.inbox, self.session))
        self.node.apply(ops.ShrinkHuge())  # the huge page of zeros stays until memory is short
        self.sim.advance(5_000_000_000)
        self.check()
        assert not self.node.tasks
        assert self.here() == dict.fromkeys(self.sim.nodes, 0)
        assert self.free() == self.before
        left = {nid: (dict(node.slots), node.swap_used) for nid, node in self.sim.nodes.items()}
        assert left == dict.fromkeys(left, ({}, 0))
        assert (self.node.tasks.tables.out, self.node.tasks.committed.pages) == (0, 0)


@pytest.fixture
def tasks() -> Tasks:
    return Tasks()


def test_a_program_that_has_begun_is_as_a_kernel_shows_it(tasks: Tasks) -> None:
    pid = tasks.spawn()
    process = tasks.node.tasks[pid].process
    assert [line.split()[:2] for line in map_lines(process.mm)] == [
        ["00400000-00401000", "r--p"],
        ["00401000-0047d000", "r-xp"],
        ["0047d000-004a5000", "r--p"],
        ["004a5000-004a9000", "r--p"],
        ["004a9000-004ac000", "rw-p"],
        ["004ac000-004da000", "rw-p"],
        ["004da000-004fc000", "rw-p"],
        ["7ffff7ff9000-7ffff7ffd000", "r--p"],
        ["7ffff7ffd000-7ffff7fff000", "r-xp"],
        ["7ffffffde000-7ffffffff000", "rw-p"],
    ]
    assert (process.mm.counters.total_vm, process.mm.counters.stack_vm) == (291, 33)
    assert tasks.nodes(pid, 0x401000) == {0: 124}
    assert tasks.nodes(pid, 0x4A9000) == {0: 3}
    # pages of tables: a PGD of two, a PUD page, and for its two ends a PMD page and a PTE page each, one more
    assert tasks.node.tasks.tables.out == 2 + sum(process.tables.counts())
    tasks.end()


def test_a_first_write_from_the_home_is_one_op(tasks: Tasks) -> None:
    pid = tasks.spawn()
    address = tasks.map(pid, 4 * MIB)
    seen: list[str] = []
    tasks.node.observer = lambda node, op, result: seen.append(op.tag)
    ran = tasks.do(pid, "touch", address, 4 * MIB, 1)
    assert ran.faults == 1024
    assert seen == ["task_touch", "spend"]
    assert tasks.do(pid, "touch", address, 4 * MIB, 1).hits == 1024
    tasks.end()


def test_pages_come_from_other_nodes_and_are_freed_there(tasks: Tasks) -> None:
    pid = tasks.spawn()
    address = tasks.map(pid, 64 * MIB)
    for at in range(0, 64 * MIB, 8 * MIB):
        assert tasks.do(pid, "touch", address + at, 8 * MIB, 1).faults == 2048
    spread = tasks.nodes(pid, address)
    assert sum(spread.values()) == 64 * MIB >> 12
    assert len(spread) > 1
    tasks.check()
    tasks.do(pid, "munmap", address, 64 * MIB)
    tasks.check()
    assert sum(tasks.here().values()) < 400
    tasks.end()


def test_what_was_reclaimed_is_faulted_in_again(tasks: Tasks) -> None:
    pid, other = tasks.spawn(), tasks.spawn()
    first = tasks.map(pid, 8 * MIB)
    tasks.do(pid, "touch", first, 8 * MIB, 1)
    hogs = [tasks.map(other, 64 * MIB) for _ in range(2)]
    for at in range(0, 120 * MIB, 4 * MIB):
        if tasks.run(other, "touch", hogs[at // (64 * MIB)] + at % (64 * MIB), 4 * MIB, 1).errno:
            break
    # the OOM killer has freed what it had
    assert other not in tasks.node.tasks
    swapped = sum(node.swap_used for node in tasks.sim.nodes.values())
    assert swapped > 0
    ran = tasks.do(pid, "touch", first, 8 * MIB, 0)
    assert ran.faults + ran.hits == 2048
    assert 0 < ran.major_faults == ran.faults <= swapped
    assert tasks.do(pid, "touch", first, 8 * MIB, 0).hits == 2048
    tasks.end()


def test_reclaimed_pages_come_back_where_their_vma_wants_them(tasks: Tasks) -> None:
    """Not where the task's policy says, nor near the CPU: as when they were new."""
    pid = tasks.spawn()
    bound, spread = tasks.map(pid, 512 * KIB), tasks.map(pid, MIB)
    tasks.do(pid, "mbind", bound, 512 * KIB, Mode.BIND, 0b010, 0)
    tasks.do(pid, "mbind", spread, MIB, Mode.INTERLEAVE, 0b110, 0)
    for address, length in ((bound, 512 * KIB), (spread, MIB)):
        tasks.do(pid, "touch", address, length, 1)
    before = tasks.nodes(pid, bound), tasks.nodes(pid, spread)
    assert before == ({1: 128}, {1: 128, 2: 128})
    for nodes in (0b010, 0b100):
        other = tasks.spawn()
        hog = tasks.map(other, 40 * MIB)
        tasks.do(other, "mbind", hog, 40 * MIB, Mode.BIND, nodes, 0)
        for at in range(0, 40 * MIB, 4 * MIB):
            if tasks.run(other, "touch", hog + at, 4 * MIB, 1).errno:
                break  # the OOM killer has killed it
        if other in tasks.node.tasks:
            tasks.do(other, "exit")
    ran = tasks.do(pid, "touch", bound, 512 * KIB, 0), tasks.do(pid, "touch", spread, MIB, 0)
    assert min(one.major_faults for one in ran) > 0
    assert (tasks.nodes(pid, bound), tasks.nodes(pid, spread)) == before
    tasks.end()


def test_a_child_gets_copies_of_what_is_written_to(tasks: Tasks) -> None:
    pid = tasks.spawn()
    address = tasks.map(pid, 1 * MIB)
    tasks.do(pid, "touch", address, 1 * MIB, 1)
    before = tasks.here()[0]
    child = tasks.do(pid, "fork").value
    assert child not in (0, pid)
    shared = tasks.here()[0] - before
    assert shared < 20  # page tables only
    assert tasks.do(child, "touch", address, 512 * KIB, 1).faults == 128
    assert tasks.here()[0] - before - shared == 128
    tasks.check()
    tasks.do(pid, "exit")
    tasks.check()
    assert tasks.do(child, "touch", address, 1 * MIB, 1).hits + 128 >= 128
    tasks.end()


def test_policies_of_vmas_decide_where_pages_are(tasks: Tasks) -> None:
    pid = tasks.spawn()
    bound, dealt, task = tasks.map(pid, 2 * MIB), tasks.map(pid, 2 * MIB), tasks.map(pid, 2 * MIB)
    tasks.do(pid, "mbind", bound, 2 * MIB, Mode.BIND, 0b100, 0)
    tasks.do(pid, "mbind", dealt, 2 * MIB, Mode.INTERLEAVE, 0b110, 0)
    tasks.do(pid, "set_mempolicy", Mode.PREFERRED, 0b010)
    for address in (bound, dealt, task):
        tasks.do(pid, "touch", address, 2 * MIB, 1)
    assert tasks.nodes(pid, bound) == {2: 512}
    assert tasks.nodes(pid, dealt) == {1: 256, 2: 256}
    assert tasks.nodes(pid, task) == {1: 512}
    told = tasks.do(pid, "get_mempolicy", 2, bound)
    assert (told.value, told.status) == (Mode.BIND, (2,))
    assert tasks.do(pid, "get_mempolicy", 3, bound).value == 2  # MPOL_F_NODE | MPOL_F_ADDR
    tasks.check()
    tasks.end()


def test_the_cpu_of_a_task_may_be_another_nodes(tasks: Tasks) -> None:
    pid = tasks.spawn(cpu=4)
    address = tasks.map(pid, 2 * MIB)
    tasks.do(pid, "touch", address, 2 * MIB, 1)
    assert tasks.nodes(pid, address) == {2: 512}
    assert tasks.here()[0] == 0  # its page tables are there, too
    tasks.end()


def test_page_tables_that_a_node_has_lost_keep_none_of_its_new_ones(tasks: Tasks) -> None:
    pid = tasks.spawn(cpu=4)  # with its page tables on node 2
    tasks.sim.crash(2)
    tasks.sim.restart(2)
    address = tasks.map(pid, 8 * MIB)
    tasks.do(pid, "touch", address, 8 * MIB, 1)
    assert tasks.here()[2] > 2048, "some of its tables are there again"
    tasks.end()


def test_pages_move_as_they_are_told(tasks: Tasks) -> None:
    pid = tasks.spawn()
    address = tasks.map(pid, 1 * MIB)
    tasks.do(pid, "touch", address, 1 * MIB, 1)
    assert tasks.run(pid, "mbind", address, MIB, Mode.BIND, 0b010, 1).errno == errno.EIO  # MPOL_MF_STRICT
    assert tasks.do(pid, "mbind", address, MIB, Mode.BIND, 0b010, 2).moved == 256  # MPOL_MF_MOVE
    assert tasks.nodes(pid, address) == {1: 256}
    assert tasks.do(pid, "migrate_pages", 0b010, 0b100).moved == 256
    assert tasks.nodes(pid, address) == {2: 256}
    ran = tasks.do(pid, "move_pages", 1, address, address + 4096, 1, 7 << 12, 0, 0, 0, 0)
    assert ran.status == (0, 0, -errno.EFAULT, -errno.EFAULT)
    assert tasks.nodes(pid, address) == {0: 2, 2: 254}
    assert tasks.do(pid, "move_pages", 0, address).status == (0,)
    assert tasks.do(pid, "touch", address, MIB, 1).hits == 256
    tasks.check()
    tasks.end()


def test_shared_memory_and_files_are_the_same_pages_for_all(tasks: Tasks) -> None:
    pid = tasks.spawn()
    shared = tasks.map(pid, MIB, MAP_SHARED | MAP_ANONYMOUS)
    child = tasks.do(pid, "fork").value
    tasks.do(pid, "touch", shared, MIB, 1)
    before = tasks.here()[0]
    tasks.do(child, "touch", shared, MIB, 1)
    assert tasks.here()[0] - before <= 1  # a page table
    other = tasks.spawn()
    mapped = tasks.do(other, "mmap", 0, MIB, PROT_READ, MAP_PRIVATE, 0, text="/bin/subj").value
    assert (
        tasks.do(other, "touch", mapped, 512 * KIB, 0).faults <= 128 / 16 + 1
    )  # it is in memory: around faults
    tasks.check()
    tasks.end()


@pytest.mark.parametrize("preset", ["uma", "i386-highmem"])
def test_other_machines_have_tasks_too(preset: str) -> None:
    tasks = Tasks(machine=preset)
    pid = tasks.spawn(tasks.node.pgdat.cpus[0])
    address = tasks.map(pid, 4 * MIB)
    tasks.do(pid, "madvise", address, 4 * MIB, MADV_NOHUGEPAGE)
    assert tasks.do(pid, "touch", address, 4 * MIB, 1).faults == 1024
    child = tasks.do(pid, "fork").value
    assert tasks.do(child, "touch", address, MIB, 1).faults == 256
    assert tasks.do(pid, "mremap", address, 4 * MIB, 8 * MIB, 1, 0).value
    tasks.check()
    tasks.end()


def test_calls_end_as_linux_ends_them(tasks: Tasks) -> None:
    pid = tasks.spawn()
    digest = tasks.node.digest()
    for number, name, *numbers in (
        (errno.EINVAL, "mmap", 0, 0, RW, ANON, 0),
        (errno.EBADF, "mmap", 0, MIB, RW, MAP_PRIVATE, 0),
        (errno.EEXIST, "mmap", 0x400000, MIB, RW, ANON | 0x100000, 0),
        (errno.EINVAL, "munmap", 1, 4096),
        (errno.ENOMEM, "mprotect", 0x10000000, 4096, RW),
        (errno.EINVAL, "mbind", 0x400000, 4096, Mode.BIND, 0, 0),
        (errno.EINVAL, "mbind", 0x400000, 4096, Mode.BIND, 1 << 40, 0),
        (errno.EPERM, "mbind", 0x400000, 4096, Mode.BIND, 1, 4),
        (errno.EINVAL, "madvise", 0x400000, 4096, 999),
        (errno.EINVAL, "madvise", 0x4AC000, 4096, 25),  # MADV_COLLAPSE: tasks have no huge pages yet
        (errno.EFAULT, "touch", 0x10000000, 4096, 1),
        (errno.EFAULT, "touch", 0x400000, 4096, 1),
        (errno.EINVAL, "touch", 0x400000, 0, 1),
        (errno.EFAULT, "get_mempolicy", 2, 0x10000000),
        (errno.EINVAL, "migrate_pages", 1, 0),
    ):
        ran = tasks.run(pid, name, *numbers)
        assert (ran.value, ran.errno) == (-1, number), (name, ran.reason)
        assert ran.reason
    # but for what a call costs, and the order of free pages
    assert tasks.node.tasks.check() == []
    assert len(tasks.node.tasks[pid].process.mm.tree) == 10
    assert digest
    tasks.end()


@pytest.mark.parametrize(
    ("program", "field"),
    [
        ([], "calls"),
        ([Step(Asked("ptrace"))], "calls.name"),
        ([Step(Asked("munmap", (1,)))], "calls.numbers"),
        ([Step(Asked("munmap", (1, 1 << 64)))], "calls.length"),
        ([Step(Asked("munmap", (-1, 1)))], "calls.addr"),
        ([Step(Asked("munmap", (1, 1), "/x"))], "calls.text"),
        ([Step(Asked("mmap", (0, 1, 1, 2, 0), "x"))], "path"),
        ([Step(Asked("fork"), 0)], "calls.by"),
        ([Step(Asked("exit")), Step(Asked("fork"), 0)], "calls.by"),
        ([Step(Asked("move_pages", (1, 2)))], "calls.numbers"),
        ([Step(Asked("fork"))] * 2000, "calls"),
    ],
)
def test_a_wrong_program_is_refused_before_it_begins(tasks: Tasks, program: list[Step], field: str) -> None:
    pid = tasks.spawn()
    length = tasks.node.log_length
    with pytest.raises(InvalidRequest) as refused:
        tasks.sim.call(0, run_program(tasks.inbox, tasks.session, pid, program))
    assert refused.value.field == field
    assert tasks.node.log_length == length


def test_a_program_makes_its_calls_in_order_and_ends_at_the_first_that_fails(tasks: Tasks) -> None:
    pid = tasks.spawn()
    program = [
        Step(Asked("mmap", (0x10000000, MIB, RW, ANON | 0x10, 0))),
        Step(Asked("touch", (0x10000000, MIB, 1))),
        Step(Asked("fork")),
        Step(Asked("touch", (0x10000000, MIB, 1)), 2),
        Step(Asked("madvise", (0x10000000, MIB, MADV_DONTNEED))),
        Step(Asked("munmap", (1, 1))),
        Step(Asked("exit")),
    ]
    done = tasks.sim.call(0, run_program(tasks.inbox, tasks.session, pid, program))
    assert [ran.errno for ran in done] == [0, 0, 0, 0, 0, errno.EINVAL]
    assert [ran.faults for ran in done] == [0, 256, 0, 256, 0, 0]
    tasks.check()
    tasks.end()


def test_tasks_are_of_their_session_alone(tasks: Tasks) -> None:
    pid = tasks.spawn()
    other = tasks.node.apply(ops.OpenSession("other", ops.FOREVER_NS, 0))
    with pytest.raises(Precondition):
        tasks.sim.call(0, run_program(tasks.inbox, other, pid, [Step(Asked("exit"))]))
    with pytest.raises(NotFound):
        tasks.sim.call(0, run_program(tasks.inbox, tasks.session, 7, [Step(Asked("exit"))]))
    assert pid in tasks.node.tasks


def test_a_snapshot_has_all_of_it() -> None:
    tasks = Tasks(home=1)
    pid = tasks.spawn(cpu=2)
    address = tasks.map(pid, 4 * MIB)
    tasks.do(pid, "mbind", address, 2 * MIB, Mode.INTERLEAVE, 0b111, 0)
    tasks.do(pid, "touch", address, 4 * MIB, 1)
    tasks.map(pid, MIB, MAP_SHARED | MAP_ANONYMOUS)
    child = tasks.do(pid, "fork").value
    tasks.do(child, "touch", address, MIB, 1)
    tasks.do(child, "mprotect", address + MIB, MIB, PROT_READ)
    restored = Node.boot(tasks.sim.spec, 1)
    restored.restore(tasks.node.snapshot())
    assert restored.digest() == tasks.node.digest()
    assert restored.tasks.check() == []
    op = ops.TaskCall(child, "munmap", (address, 4 * MIB), "", here_of(tasks.node, 2))
    assert restored.apply(op) == tasks.node.apply(op)
    op_exit = ops.TaskExit(pid)
    restored.apply(op_exit)
    tasks.node.apply(op_exit)
    assert restored.digest() == tasks.node.digest()


def test_a_log_replays_to_the_same_digest() -> None:
    tasks = Tasks()
    pid = tasks.spawn()
    address = tasks.map(pid, MIB)
    tasks.do(pid, "touch", address, MIB, 1)
    tasks.do(pid, "fork")
    tasks.do(pid, "mremap", address, MIB, 2 * MIB, 1, 0)
    log = [ops.decode(ops.encode(op)) for op in tasks.node.log]
    assert Node.replay(tasks.sim.spec, 0, log).digest() == tasks.node.digest()


@pytest.mark.parametrize("seed", range(6))
def test_lost_questions_leave_no_page_behind(seed: int) -> None:
    tasks = Tasks(Faults(lose=0.15, duplicate=0.2, timeout_ns=5_000_000), seed=seed)
    for _ in range(3):
        pid = int(tasks.sim.call(0, spawn(tasks.node, tasks.session, seed % 5, "subj")).value)
        if pid < 0:
            continue  # nodes that do not answer may have had the memory for it
        address = tasks.map(pid, 24 * MIB)
        tasks.run(pid, "mbind", address, 8 * MIB, Mode.INTERLEAVE, 0b111, 0)
        tasks.run(pid, "touch", address, 24 * MIB, 1)
        child = tasks.run(pid, "fork").value
        if child > 0:
            tasks.run(child, "touch", address, 4 * MIB, 1)
        tasks.run(pid, "migrate_pages", 0b001, 0b110)
        tasks.run(pid, "munmap", address, 12 * MIB)
        assert tasks.node.tasks.check() == []
    tasks.sim.network.faults = Faults()
    tasks.end()


def test_pages_of_a_file_come_in_another_order() -> None:
    tasks = Tasks()
    pid = tasks.spawn()
    at = tasks.map(pid, 4 * 4096, MAP_SHARED | MAP_ANONYMOUS)
    tasks.do(pid, "remap_file_pages", at, 4096, 0, 2, 0)
    offsets = [line.split()[2] for line in map_lines(tasks.node.tasks[pid].process.mm) if "/dev/zero" in line]
    assert offsets == ["00002000", "00001000"]
    tasks.do(pid, "msync", at, 4 * 4096, 4)
    tasks.do(pid, "mlock", at, 4096, 0)
    assert tasks.run(pid, "msync", at, 4096, 2).errno == errno.EBUSY
    assert tasks.run(pid, "remap_file_pages", at, 4096, PROT_READ, 2, 0).errno == errno.EINVAL
    assert not tasks.sim.check()


def _reclaimed(node: Node) -> tuple[ops.Alloc, Any]:
    """A node has given anonymous pages to tasks of another, and has reclaimed them since."""
    owner = node.owner(0)._replace(nid=0, id=TASKS_ID)
    indexes = np.arange(1, 9, dtype="<u4").tobytes()
    alloc = ops.Alloc(owner, (1,), 0, 0, 8, 1, 2, 0, 0, lru_kind=LRU_KIND_ANON, indexes=indexes)
    result = node.apply(alloc)
    while node.swap_used < 8:
        node.apply(ops.Reclaim(2, 0, 64))
    return alloc, result


def test_tasks_of_a_home_are_forgotten_when_all_that_they_had_was_reclaimed(tasks: Tasks) -> None:
    node = tasks.sim.nodes[1]
    alloc, _ = _reclaimed(node)
    touched = node.apply(ops.Touch(alloc.owner, alloc.indexes, write=True))
    assert (sum(touched.gone), touched.swapped_in, node.swap_used) == (8, 8, 0)
    assert alloc.owner not in node.slots, "the home gets its pages elsewhere, and nothing ends this owner"


def test_pages_that_came_too_late_leave_no_swap_when_they_were_reclaimed(tasks: Tasks) -> None:
    node = tasks.sim.nodes[1]
    alloc, result = _reclaimed(node)
    undo = alloc.undo(result)
    assert undo is not None
    assert node.apply(undo) == 0
    assert node.swap_used == 0
    assert alloc.owner not in node.slots
