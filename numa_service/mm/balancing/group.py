"""Tasks that fault on each other's pages are a group, which is placed as one (``struct numa_group``)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

#: A node is in use by a group if it has more than a third of the CPU faults of the one with most.
ACTIVE_NODE_FRACTION = 3

#: Faults by type (memory, CPU), node, and kind (shared, private).
Faults = npt.NDArray[np.int64]
_MEM, _CPU = range(2)


class NumaGroup:
    """Faults of all its tasks together."""

    def __init__(self, gid: int, faults: Faults, total: int) -> None:
        """A group of one task, with its faults."""
        #: The pid of the task that it began with.
        self.gid = gid
        self.tasks = 1
        self.active_nodes = 1
        self.max_faults_cpu = 0
        self.faults: Faults = faults[:2].copy()
        self.total_faults = total

    def join(self, faults: Faults, total: int) -> None:
        """A task comes with its faults."""
        self.faults += faults[:2]
        self.total_faults += total
        self.tasks += 1

    def leave(self, faults: Faults, total: int) -> None:
        """A task goes with its faults."""
        self.faults -= faults[:2]
        self.total_faults -= total
        self.tasks -= 1

    def faults_on(self, nid: int) -> int:
        """group_faults: pages of a node that faulted."""
        return int(self.faults[_MEM, nid].sum())

    def faults_cpu(self, nid: int) -> int:
        """group_faults_cpu: faults of CPUs of a node, by how much of the time their tasks ran."""
        return int(self.faults[_CPU, nid].sum())

    def by_kind(self) -> tuple[int, int]:
        """group_faults_shared and group_faults_priv."""
        shared, private = self.faults[_MEM].sum(axis=0).tolist()
        return shared, private

    def is_active(self, nid: int) -> bool:
        """numa_is_active_node: its tasks run on the node, too."""
        return self.faults_cpu(nid) * ACTIVE_NODE_FRACTION > self.max_faults_cpu

    def count_active_nodes(self, nids: tuple[int, ...]) -> None:
        """numa_group_count_active_nodes."""
        used = [self.faults_cpu(nid) for nid in nids]
        self.max_faults_cpu = max(used)
        self.active_nodes = sum(faults * ACTIVE_NODE_FRACTION > self.max_faults_cpu for faults in used)
