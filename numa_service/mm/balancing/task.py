"""What a machine, its tasks and its address spaces remember for NUMA balancing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from numa_service.mm.balancing.counters import Counters
from numa_service.mm.balancing.group import NumaGroup
from numa_service.mm.balancing.parameters import Parameters
from numa_service.mm.balancing.rules import BalancingRules
from numa_service.mm.balancing.topology import Topology
from numa_service.mm.mempolicy.nodemask import NUMA_NO_NODE
from numa_service.mm.mempolicy.policy import Mempolicy
from numa_service.mm.mmap.frames import Pfns
from numa_service.mm.mmap.process import Process


class PageMover(Protocol):
    """Moves pages, which keep their numbers (migrate_misplaced_page)."""

    def migrate_misplaced(self, pfns: Pfns, nid: int) -> bool:
        """Move pages that belong together; False: the node is nearly full, or a page could not be had."""
        ...


@dataclass(slots=True)
class NumaBalancing:
    """NUMA balancing of one machine."""

    rules: BalancingRules
    topology: Topology
    #: The node of each CPU.
    cpu_node: Mapping[int, int]
    mover: PageMover
    parameters: Parameters = field(default_factory=Parameters)
    counters: Counters = field(default_factory=Counters)
    #: Pages that a CPU has collected and not yet put on a LRU list, and cannot be isolated (lru_add batches).
    batched: set[int] = field(default_factory=set)
    #: The task that runs on each CPU, of those that have one (rq->curr).
    running: dict[int, NumaTask] = field(default_factory=dict)

    @property
    def nids(self) -> tuple[int, ...]:
        """All nodes."""
        return self.topology.nids


@dataclass(slots=True, eq=False)
class NumaMm:
    """The part of struct mm_struct."""

    process: Process
    #: Scans that came round.
    scan_seq: int = 0
    #: The jiffy before which nobody scans; 0: not set yet, as after execve().
    next_scan: int = 0
    #: The address at which the next scan begins.
    scan_offset: int = 0
    #: Tasks that have it (mm_users, and the threads).
    users: int = 0


#: faults[type, nid, kind]: numa_faults of a task or of a group.
NUMA_MEM, NUMA_CPU, NUMA_MEMBUF, NUMA_CPUBUF = range(4)
#: Kinds of faults.
SHARED, PRIVATE = range(2)
#: Places of faults_locality, in pages: from another node, from the own one, and not migrated.
REMOTE, LOCAL, FAILED = range(3)


@dataclass(slots=True, eq=False)
class NumaTask:
    """The part of struct task_struct. Times are in ns, but for `scan_period`, which is in ms."""

    pid: int
    mm: NumaMm
    cpu: int
    #: Policy of the task; None is the default one.
    policy: Mempolicy | None
    scan_period: int
    scan_period_max: int = 0
    scan_seq: int = 0
    #: Run time at which the last scan was due (node_stamp).
    node_stamp: int = 0
    #: A scan has been asked for and not been done (numa_work is queued).
    work: bool = False
    preferred_nid: int = NUMA_NO_NODE
    #: The jiffy after which a task that is not on its preferred node tries again.
    migrate_retry: int = 0
    #: numa_faults; None until the first fault.
    faults: npt.NDArray[np.int64] | None = None
    total_faults: int = 0
    faults_locality: list[int] = field(default_factory=lambda: [0, 0, 0])
    pages_migrated: int = 0
    group: NumaGroup | None = None
    #: Time on the CPU so far (se.sum_exec_runtime), which the caller keeps.
    sum_exec_runtime: int = 0
    #: When it was placed last, and its run time then.
    last_placement: int = 0
    last_sum_exec_runtime: int = 0
