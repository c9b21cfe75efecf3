"""Hint faults: which pages move, what is counted, and what a task learns from it."""

from __future__ import annotations

import pytest
from mm.balancing.box import BASE, MS, Box

from numa_service.mm.balancing.fault import HintFaults, hint_faults
from numa_service.mm.balancing.fork import exit_task
from numa_service.mm.balancing.migrate import NodeLoad, task_numa_migrate, wants_to_migrate
from numa_service.mm.balancing.scan import task_numa_work
from numa_service.mm.balancing.task import NumaTask
from numa_service.mm.balancing.topology import Topology, TopologyType
from numa_service.mm.mempolicy.policy import MPOL_F_NUMA_BALANCING, Mempolicy, Mode


def use(box: Box, task: NumaTask, ms: int = 2_000) -> HintFaults:
    """Give hints to all pages, and have a task use them."""
    box.mm.next_scan = 1
    task_numa_work(box.balancing, task, ms * MS)
    task.sum_exec_runtime = ms * MS
    return hint_faults(box.balancing, task, BASE, box.end, ms * MS)


def test_pages_come_to_the_node_that_uses_them() -> None:
    box = Box()
    found = use(box, box.task)
    assert found == HintFaults(faults=64, local=0, migrated_pages=64, failed_pages=0)
    assert box.nodes() == [64, 0]
    assert use(box, box.task).faults == 0, "they are where they are used"
    counters = box.balancing.counters
    assert (counters.numa_pte_updates, counters.numa_hint_faults, counters.numa_pages_migrated) == (64,) * 3


def test_a_full_node_takes_none_and_the_period_doubles() -> None:
    box = Box()
    box.moves.full = {0}
    assert use(box, box.task).failed_pages == 64
    period = box.task.scan_period
    use(box, box.task, 4_000)
    assert box.nodes() == [0, 64]
    assert box.task.scan_period == 2 * period


def test_a_page_moves_back_only_after_two_faults_of_the_other_node() -> None:
    box = Box()
    other = box.thread(101, 2)
    use(box, box.task)
    assert box.nodes() == [64, 0], "nobody had used them: they move at once"
    assert use(box, other, 4_000).migrated_pages == 0, "the first time it may be by chance"
    assert use(box, other, 6_000).migrated_pages == 64


def test_what_a_policy_allows() -> None:
    box = Box(policy=Mempolicy(Mode.BIND, 0b10, MPOL_F_NUMA_BALANCING))
    assert use(box, box.task).migrated_pages == 0, "node 0 is not among its nodes"
    box.vma.policy = Mempolicy(Mode.BIND, 0b11, MPOL_F_NUMA_BALANCING)
    assert use(box, box.task, 4_000).migrated_pages == 64


def test_threads_that_use_the_same_pages_become_a_group() -> None:
    box = Box()
    other = box.thread(101, 2)
    use(box, box.task)
    assert box.task.group is None
    use(box, other, 4_000)
    assert other.group is not None
    use(box, box.task, 6_000)
    assert box.task.group is other.group
    assert other.group.tasks == 2
    exit_task(box.balancing, other)
    assert box.task.group.tasks == 1
    assert box.mm.users == 1


def test_faults_decay_and_make_the_preferred_node() -> None:
    box = Box()
    other = box.thread(101, 2)  # with a thread, pages of the own node get hints, too
    seen = []
    for ms in (2_000, 4_000, 6_000, 8_000):
        use(box, box.task, ms)
        assert box.task.faults is not None
        seen.append(int(box.task.faults[0].sum()))
    # each scan's are counted at the next; then half of the old ones and the new
    assert seen == [0, 64, 96, 112]
    assert box.task.preferred_nid == 0
    assert other.preferred_nid == -1


def test_a_task_whose_memory_is_near_is_scanned_less_often() -> None:
    box = Box()
    box.thread(101, 2)
    periods = []
    for ms in (2_000, 4_000, 6_000, 8_000):
        use(box, box.task, ms)
        periods.append(box.task.scan_period)
    assert periods == [2_000, 4_000, 5_200, 6_760], "doubled while no fault was local; then three tenths more"


def test_the_cpu_to_move_to() -> None:
    box = Box()
    box.moves.full = {0}  # the memory stays on node 1
    use(box, box.task)
    use(box, box.task, 4_000)
    assert box.task.preferred_nid == 1
    assert wants_to_migrate(box.balancing, box.task)
    here = NodeLoad(0, 1024, 1, (1,), (0, 1))
    free = NodeLoad(1, 0, 0, (2, 3), (2, 3))
    busy = NodeLoad(1, 4096, 4, (), (2, 3))
    same = NodeLoad(1, 2048, 2, (), (2, 3))
    crowded = NodeLoad(0, 4096, 4, (), (0, 1))
    assert task_numa_migrate(box.balancing, box.task, 1024, [here, free]) == 2
    assert task_numa_migrate(box.balancing, box.task, 1024, [here, busy]) is None
    assert task_numa_migrate(box.balancing, box.task, 1024, [crowded, same]) == 2, "loads become more equal"


def ring(far: int) -> dict[tuple[int, int], int]:
    distance = {(a, a): 10 for a in range(4)}
    for a in range(4):
        distance |= {(a, (a + 1) % 4): 16, (a, (a + 3) % 4): 16, (a, (a + 2) % 4): far}
    return distance


#: Two groups of two nodes, with nothing between them.
PAIRS = {(a, b): 10 if a == b else 16 if a // 2 == b // 2 else 32 for a in range(4) for b in range(4)}


@pytest.mark.parametrize(
    ("topology", "kind"),
    [
        (Topology({(0, 0): 10, (0, 1): 20, (1, 0): 20, (1, 1): 10}, (0, 1)), TopologyType.DIRECT),
        (Topology(ring(22), (0, 1, 2, 3)), TopologyType.GLUELESS_MESH),
        (Topology(PAIRS, (0, 1, 2, 3)), TopologyType.BACKPLANE),
    ],
)
def test_topologies(topology: Topology, kind: TopologyType) -> None:
    assert topology.type is kind
    # a node with most faults, and another pair with more together
    faults = {0: 50, 1: 0, 2: 40, 3: 45}
    best = topology.preferred_group_nid(0, sum(faults.values()), lambda nid: faults.get(nid, 0))
    assert best == {TopologyType.DIRECT: 0, TopologyType.GLUELESS_MESH: 3, TopologyType.BACKPLANE: 3}[kind]


def test_a_node_without_cpus_stands_for_the_nearest_with_some() -> None:
    topology = Topology(ring(22), (0, 1))
    assert topology.nearest_with_cpus(3) == 0
    assert topology.nearest_with_cpus(2) == 1
    assert topology.nearest_with_cpus(1) == 1
