"""A simulated machine whose sessions allocate and free objects of slab caches."""

from __future__ import annotations

import dataclasses
from collections import deque
from typing import Any

from numa_service.machine.source import load
from numa_service.mm.gfp import GFP_KERNEL, Gfp
from numa_service.node import ops
from numa_service.node.kmem import kmem_cache_alloc, kmem_cache_free
from numa_service.node.node import Node
from numa_service.node.restart import node_restarted
from numa_service.sim.simulation import Simulation

LEASE_NS = 10**15


class Machine:
    """A simulated machine with a session on each node."""

    def __init__(
        self, profile: str = "linux-6.1", cmdline: str = "", slab: str = "slub", source: str = "demo"
    ) -> None:
        self.spec = dataclasses.replace(load(source), profile=profile, cmdline=cmdline, slab=slab)
        self.sim = Simulation(self.spec)
        self.sessions = {nid: self.open(nid) for nid in self.sim.nodes}

    def open(self, nid: int) -> int:
        return self.sim.nodes[nid].apply(ops.OpenSession("kmem", LEASE_NS, 0))

    def cpus(self, nid: int) -> tuple[int, ...]:
        return tuple(self.sim.nodes[nid].pgdat.cpus)

    def alloc(
        self, nid: int, cache: str, count: int, cpu: int | None = None, of: int = -1, gfp: int = GFP_KERNEL
    ) -> list[int]:
        node = self.sim.nodes[nid]
        cpu = self.cpus(nid)[0] if cpu is None else cpu
        return self.sim.call(nid, kmem_cache_alloc(node, self.sessions[nid], cache, gfp, count, cpu, of))

    def free(self, nid: int, cache: str, objects: list[int], cpu: int | None = None) -> None:
        cpu = self.cpus(nid)[0] if cpu is None else cpu
        self.sim.call(nid, kmem_cache_free(self.sim.nodes[nid], self.sessions[nid], cache, objects, cpu))

    def restart(self, nid: int) -> Node:
        """Crash a node and boot it with empty memory; the others are told."""
        self.sim.crash(nid)
        node = self.sim.restart(nid).node
        for other in self.sim.nodes.values():
            if other is not node:
                self.sim.call(other.nid, node_restarted(other, nid, node.lineage))
        self.sessions[nid] = self.open(nid)
        return node

    def slabs(self, nid: int) -> dict[int, str]:
        kmem = self.sim.nodes[nid].kmem
        views = {pfn: kmem.view(pfn) for pfn in kmem.slab_pages()}
        return {pfn: view.cache for pfn, view in views.items() if view}


class SamePages:
    """Hands out the pages that the nodes took for slabs."""

    def __init__(self) -> None:
        self.taken: deque[tuple[int, int]] = deque()
        self.freed: list[int] = []

    def seen(self, node: Node, op: Any, result: Any) -> None:
        if isinstance(op, ops.Alloc) and op.slab and result.pfns:
            self.taken.append((int.from_bytes(result.pfns, "little"), node.nid))

    def alloc_pages(self, node: int, order: int, gfp: int) -> tuple[int, int] | None:
        if gfp & Gfp.THISNODE and (not self.taken or self.taken[0][1] != node):
            return None  # the node has no memory
        return self.taken.popleft()

    def free_pages(self, pfn: int, order: int) -> None:
        self.freed.append(pfn)
