"""numastat -p, pmap and ps read the tasks of a machine."""

from __future__ import annotations

from functools import cache

import pytest
from emulated import namespaces_are_allowed, run_on
from node.test_task import MIB, Tasks
from skips import NO_MOUNT_NAMESPACE, needs

from numa_service.cli.mirror import File
from numa_service.machine.snapshot import assemble
from numa_service.mm.mempolicy.policy import Mode
from numa_service.node.task_files import task_files
from numa_service.procfs import tree


@pytest.fixture(autouse=True)
def allowed() -> None:
    """Whether this host permits mount namespaces."""
    if not namespaces_are_allowed():
        pytest.skip(NO_MOUNT_NAMESPACE)


@cache
def inhabited() -> tuple[int, int, tuple[File, ...]]:
    """pids of a task and of its child, and the machine's files."""
    tasks = Tasks()
    pid = tasks.spawn()
    address = tasks.map(pid, 8 * MIB)
    tasks.do(pid, "mbind", address, 2 * MIB, Mode.BIND, 0b010, 0)
    tasks.do(pid, "touch", address, 8 * MIB, 1)
    child = tasks.do(pid, "fork").value
    parts = [node.machine.node_part(nid, tasks=task_files(node)) for nid, node in tasks.sim.nodes.items()]
    files = tree.walk(assemble(tasks.sim.spec, parts))
    return pid, child, tuple(File(path, entry.mode, entry.target, text) for path, entry, text in files)


def printed(*command: str) -> list[str]:
    _, _, files = inhabited()
    done = run_on(files, *command)
    assert done.returncode == 0, done.stderr
    return list(done.stdout.splitlines())


@needs("numastat")
def test_numastat_p_counts_a_tasks_pages_by_node() -> None:
    pid, _, _ = inhabited()
    rows = {line.split()[0]: line.split()[1:] for line in printed("numastat", "-p", str(pid)) if line}
    assert rows["Private"] == ["6.63", "2.00", "0.00", "8.63"]
    assert rows["Heap"] == ["0.02", "0.00", "0.00", "0.02"]
    assert rows["Stack"] == ["0.01", "0.00", "0.00", "0.01"]


@needs("pmap")
def test_pmap_shows_what_is_mapped() -> None:
    pid, _, _ = inhabited()
    lines = printed("pmap", "-x", str(pid))
    assert lines[0] == f"{pid}:   /bin/subj"
    assert "0000000000401000     496     496       0 r-x-- subj" in lines
    assert lines[-1].split()[:3] == ["total", "kB", "9356"]


@needs("ps")
def test_ps_lists_tasks_and_whose_children_they_are() -> None:
    pid, child, _ = inhabited()
    rows = [line.split() for line in printed("ps", "-e", "-o", "pid,ppid,comm,vsz,args")]
    assert [str(pid), "1", "subj", "9356", "/bin/subj"] in rows
    assert [str(child), str(pid), "subj", "9356", "/bin/subj"] in rows
