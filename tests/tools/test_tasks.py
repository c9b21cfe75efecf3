"""numastat -p, pmap and ps read the tasks of a machine."""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path

import pytest
from emulated import namespaces_are_allowed, run_on
from node.test_task import MIB, Tasks
from skips import NO_MOUNT_NAMESPACE, needs

from numa_service.cli.files import Booted, _files
from numa_service.cli.mirror import File, Mirror
from numa_service.mm.mempolicy.policy import Mode


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
    return pid, child, tuple(_files(Booted(tasks.sim, 0.0)))


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


#: Pages of a task that are mapped twice and of anonymous memory, found as page-types finds them.
PAGE_TYPES = """
import os, struct, sys
def entry(path, at):
    file = os.open(path, os.O_RDONLY)
    [word] = struct.unpack("Q", os.pread(file, 8, at * 8))
    os.close(file)
    return word
found = 0
for line in open(f"/proc/{sys.argv[1]}/maps"):
    low, high = (int(end, 16) >> 12 for end in line.split()[0].split("-"))
    for page in range(low, high):
        word = entry(f"/proc/{sys.argv[1]}/pagemap", page)
        if word >> 63:
            pfn = word & (1 << 55) - 1
            anonymous = entry("/proc/kpageflags", pfn) >> 12 & 1
            found += anonymous and entry("/proc/kpagecount", pfn) == 2
print(found, os.stat("/proc/kpageflags").st_size // 8)
"""


def test_pages_are_found_through_pagemap_and_kpageflags() -> None:
    pid, _, _ = inhabited()
    [found] = printed(sys.executable, "-c", PAGE_TYPES, str(pid))
    assert found.split() == [str(2048 + 13), str(256 << 8)]


def test_a_mirror_has_them_as_sparse_files(tmp_path: Path) -> None:
    _, _, files = inhabited()
    arrays = [file._replace(content=os.dup(file.content)) for file in files if file.content >= 0]
    assert {file.path.rsplit("/", 1)[-1] for file in arrays} >= {"pagemap", "kpageflags", "kpagecount"}
    Mirror(tmp_path).write(arrays)
    for file in files:
        if file.path.endswith("/pagemap"):
            stat = (tmp_path / file.path).stat()
            assert (stat.st_size, stat.st_blocks * 512 < 1 << 20) == ((1 << 47) // 512 - 8, True)
