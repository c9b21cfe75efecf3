"""A simulated machine whose requests can be asked for explanations."""

from __future__ import annotations

import dataclasses

import numpy as np
from numa_client import Explanation

from numa_service.machine.source import load
from numa_service.mm.gfp import parse_gfp
from numa_service.node import ops
from numa_service.node.free_pages import free_pages
from numa_service.node.mempolicy import Policy, PolicyMode
from numa_service.node.page_alloc import Allocation, alloc_pages
from numa_service.node.prepare import AllocRequest
from numa_service.node.region import map_region, touch_region
from numa_service.node.unserved import AllocFailed
from numa_service.sim.simulation import Simulation

LEASE_NS = 10**12
THISNODE = "GFP_KERNEL|__GFP_THISNODE"


def bind(*nids: int) -> Policy:
    return Policy(PolicyMode.BIND, nids)


class Asking:
    """A simulation with one session, which makes its requests on CPU 0 of node 0."""

    def __init__(self, preset: str = "demo", profile: str = "linux-6.1") -> None:
        self.sim = Simulation(dataclasses.replace(load(preset), profile=profile))
        self.home = self.sim.nodes[0]
        self.session = self.home.apply(ops.OpenSession("why", LEASE_NS, 0))

    def request(
        self,
        count: int,
        order: int = 0,
        gfp: str = "GFP_KERNEL",
        policy: Policy | None = None,
        partial: bool = False,
        explain: bool = False,
    ) -> AllocRequest:
        return AllocRequest(
            self.session, parse_gfp(gfp), order, count, 0, policy or Policy(), partial, explain
        )

    def take(
        self,
        count: int,
        order: int = 0,
        gfp: str = "GFP_KERNEL",
        policy: Policy | None = None,
        partial: bool = False,
    ) -> Allocation:
        return self.sim.call(0, alloc_pages(self.home, self.request(count, order, gfp, policy, partial)))

    def ask(
        self, count: int, order: int = 0, gfp: str = "GFP_KERNEL", policy: Policy | None = None
    ) -> Explanation:
        """Allocate with an explanation and return it, also that of a request that fails."""
        request = self.request(count, order, gfp, policy, explain=True)
        try:
            explanation = self.sim.call(0, alloc_pages(self.home, request)).explanation
        except AllocFailed as failed:
            explanation = failed.explanation
        assert explanation is not None
        return explanation

    def give_back(self, nid: int, pfns: list[int], order: int = 0) -> None:
        pages = [(nid, np.array(pfns, "<u8").tobytes())]
        self.sim.call(0, free_pages(self.home, self.session, order, pages, 0))

    def read_file(self, pages: int, policy: Policy) -> None:
        region = map_region(self.home, self.session, 2, pages, policy)
        for first in range(0, pages, 4096):
            count = min(4096, pages - first)
            self.sim.call(0, touch_region(self.home, self.session, region, first, count, False, 0))

    def run(self) -> None:
        """Run the simulation until every kswapd sleeps."""
        self.sim.run()
