"""Thousands of tasks: what they take of the host's memory, and that nothing is left of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from node.test_task import ANON, RW, Tasks

from numa_service.node import ops
from numa_service.node.requests import close
from numa_service.node.task import Asked, spawn
from numa_service.node.task_program import run_call
from numa_service.sim.attack.run import free_pages

FOUR_NODES = "".join(f'[[node]]\ncpus = "{nid}"\nmemory = "4GiB"\n' for nid in range(4))
#: What one node's process may take, with 1,000 tasks of which half have forked.
NODE_BYTES = 1536 << 20
#: Pages that each task maps, and touches.
PAGES = 64


def resident_bytes() -> int:
    """What this process takes of the host's memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) << 12


@pytest.mark.slow
def test_four_thousand_tasks_on_four_nodes_of_which_half_fork() -> None:
    """All four nodes are in this process: together they take less than one of them may."""
    tasks = Tasks(machine=FOUR_NODES)
    sim = tasks.sim
    sessions = {
        nid: node.apply(ops.OpenSession("many", ops.FOREVER_NS, 0)) for nid, node in sim.nodes.items()
    }
    free = {nid: free_pages(host) for nid, host in sim.hosts.items()}
    before = resident_bytes()

    def do(nid: int, pid: int, name: str, *numbers: int) -> int:
        steps = run_call(sim.hosts[nid].inbox, sessions[nid], pid, Asked(name, numbers))
        ran = sim.call(nid, steps)
        assert not ran.errno, ran.reason
        return int(ran.value)

    for number in range(1000):
        for nid, node in sim.nodes.items():
            pid = int(sim.call(nid, spawn(node, sessions[nid], nid, "many")).value)
            address = do(nid, pid, "mmap", 0, PAGES << 12, RW, ANON, 0)
            do(nid, pid, "touch", address, PAGES << 12, 1)
            if number % 2:
                child = do(nid, pid, "fork")
                do(nid, child, "touch", address, PAGES << 10, 1)
    assert {nid: len(node.tasks) for nid, node in sim.nodes.items()} == dict.fromkeys(range(4), 1500)
    assert resident_bytes() - before < NODE_BYTES
    for nid, session in sessions.items():
        sim.call(nid, close(sim.hosts[nid].inbox, session))
    sim.run()
    assert {nid: free_pages(host) for nid, host in sim.hosts.items()} == free
    assert sim.check() == []
