"""How the nodes of a machine lie to each other, and what neighbours count (``score_nearby_nodes``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum

#: Distance of a node from itself.
LOCAL_DISTANCE = 10


class TopologyType(Enum):
    """NUMA_*: all nodes are equally far; traffic passes other nodes; groups of nodes have a backplane."""

    DIRECT = 0
    GLUELESS_MESH = 1
    BACKPLANE = 2


class Topology:
    """The nodes with their distances. What tasks may run on are the nodes with CPUs."""

    def __init__(self, distance: Mapping[tuple[int, int], int], with_cpus: tuple[int, ...]) -> None:
        self.nids = tuple(sorted({a for a, _ in distance}))
        self.with_cpus = with_cpus
        self.distance = distance
        #: All distances there are between nodes with CPUs (sched_domains_numa_distance).
        self.distances = sorted({distance[a, b] for a in with_cpus for b in with_cpus} | {LOCAL_DISTANCE})
        self.type = self._type()

    @property
    def max_distance(self) -> int:
        """sched_max_numa_distance."""
        return self.distances[-1]

    def _type(self) -> TopologyType:
        """init_numa_topology_type: whether some node is nearer to both of the two farthest ones."""
        if len(self.distances) <= 2:
            return TopologyType.DIRECT
        far, distance = self.max_distance, self.distance
        a, b = next((a, b) for a in self.with_cpus for b in self.with_cpus if distance[a, b] >= far)
        if any(distance[a, c] < far and distance[b, c] < far for c in self.with_cpus):
            return TopologyType.GLUELESS_MESH
        return TopologyType.BACKPLANE

    def nearest_with_cpus(self, nid: int) -> int:
        """numa_nearest_node: the node itself if it has CPUs."""
        return min(self.with_cpus, key=lambda other: (other != nid, self.distance[nid, other], other))

    def score_nearby_nodes(self, nid: int, limit: int, faults: Callable[[int], int]) -> int:
        """Return what other nodes' faults add to a node's score; on a backplane those nearer than `limit`."""
        if self.type is TopologyType.DIRECT:
            return 0
        far, score = self.max_distance, 0
        for node in self.nids:
            distance = self.distance[nid, node]
            if distance >= far or node == nid:
                continue
            if self.type is TopologyType.BACKPLANE:
                score += faults(node) if distance < limit else 0
            else:
                score += faults(node) * (far - distance) // (far - LOCAL_DISTANCE)
        return score

    def weight(self, nid: int, limit: int, total: int, faults: Callable[[int], int]) -> int:
        """task_weight and group_weight: the thousandths of all faults that count for a node."""
        if not total:
            return 0
        return 1000 * (faults(nid) + self.score_nearby_nodes(nid, limit, faults)) // total

    def preferred_group_nid(self, nid: int, total: int, faults: Callable[[int], int]) -> int:
        """preferred_group_nid: where a group should be, whose most used node is `nid`."""
        if self.type is TopologyType.DIRECT:
            return nid
        if self.type is TopologyType.GLUELESS_MESH:
            best = 0
            for node in self.with_cpus:
                score = self.weight(node, self.max_distance, total, faults)
                if score > best:
                    best, nid = score, node
            return nid
        return self._within_groups(nid, faults)

    def _within_groups(self, nid: int, faults: Callable[[int], int]) -> int:
        """The group of nodes that is used most, and within it again, down to one node."""
        nodes = list(self.with_cpus)
        for limit in reversed(self.distances[1:]):
            most, best = 0, list[int]()
            left = list(nodes)
            while left:
                a = left[0]
                group = [b for b in left if self.distance[a, b] < limit] or [a]
                left = [b for b in left if b not in group]
                used = sum(map(faults, group))
                if used > most:
                    most, best, nid = used, group, a
            if not most:
                break
            nodes = best
        return nid
