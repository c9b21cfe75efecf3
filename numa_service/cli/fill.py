"""Filling a node before something is looked at: ``--fill NODE=PAGES|N%[:KIND]``."""

from __future__ import annotations

import re
from dataclasses import dataclass

import typer

from numa_service.cli.compile import compile_first
from numa_service.machine.notation import shown
from numa_service.machine.spec import MachineSpec
from numa_service.mm.gfp import GFP_KERNEL, Gfp
from numa_service.mm.mmzone import NR_ORDERS
from numa_service.mm.page_alloc import LRU_KIND_ANON, LRU_KIND_FILE
from numa_service.node import ops
from numa_service.node.mempolicy import Policy, PolicyMode
from numa_service.node.node import Node
from numa_service.node.ops.alloc import MAX_COUNT
from numa_service.node.ops.fields import MAX_REGION_PAGES
from numa_service.node.page_alloc import alloc_pages
from numa_service.node.prepare import AllocRequest
from numa_service.node.region import map_region, touch_region
from numa_service.node.unserved import AllocFailed
from numa_service.sim.simulation import Simulation

_KINDS = {"held": 0, "anon": LRU_KIND_ANON, "file": LRU_KIND_FILE}
_FILL = re.compile(rf"(\d{{1,4}})=(\d{{1,12}})(%?)(?::({'|'.join(_KINDS)}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Fill:
    """What to take of a node, in pages; a percentage is of its present pages."""

    nid: int
    pages: int
    kind: str

    @classmethod
    def parse(cls, text: str, spec: MachineSpec) -> Fill:
        """BadParameter says what is wrong."""
        match = _FILL.fullmatch(text)
        if match is None:
            raise typer.BadParameter(
                f"{shown(text)} is not NODE=PAGES or NODE=N%, with :held, :anon or :file", param_hint="--fill"
            )
        node, amount, percent, kind = match.groups()
        found = next((n for n in spec.nodes if n.nid == int(node)), None)
        if found is None:
            raise typer.BadParameter(f"{text!r}: there is no node {node}", param_hint="--fill")
        present = sum(zone.present for zone in found.zones)
        pages = present * int(amount) // 100 if percent else int(amount)
        if pages > present:
            raise typer.BadParameter(f"{text!r}: node {node} has {present} pages", param_hint="--fill")
        return cls(found.nid, pages, kind or "held")


def fill(sim: Simulation, wanted: Fill) -> int:
    """Take the pages on behalf of a session of the first node with CPUs; how many were to be had.

    Long before anything else happens: no memory is loaded by it.
    """
    compile_first()
    home = next(node for node in sim.nodes.values() if node.pgdat.cpus)
    session = home.apply(ops.OpenSession(f"fill node {wanted.nid}", ops.FOREVER_NS, 0))
    policy = Policy(PolicyMode.BIND, (wanted.nid,))
    taken = _hold if wanted.kind == "held" else _map
    got = taken(sim, home, session, wanted, policy)
    sim.run()
    for node in sim.nodes.values():
        node.apply(ops.Rest())
    return got


def _hold(sim: Simulation, home: Node, session: int, wanted: Fill, policy: Policy) -> int:
    """Large blocks first, then single pages: as far down as the watermarks let an ordinary request go."""
    got = 0
    for order in (NR_ORDERS - 1, 0):
        while blocks := min((wanted.pages - got) >> order, MAX_COUNT >> order):
            gfp = GFP_KERNEL | (Gfp.NORETRY if order else 0)
            request = AllocRequest(session, int(gfp), order, blocks, home.pgdat.cpus[0], policy, partial=True)
            try:
                allocation = sim.call(home.nid, alloc_pages(home, request))
            except AllocFailed:
                break
            got += allocation.got << order
            if allocation.got < blocks:
                break
    return got


def _map(sim: Simulation, home: Node, session: int, wanted: Fill, policy: Policy) -> int:
    """One region after the other, every page of it accessed once. What reclaim takes meanwhile is gone."""
    got = 0
    while pages := min(wanted.pages - got, MAX_REGION_PAGES):
        region = map_region(home, session, _KINDS[wanted.kind], pages, policy)
        for first in range(0, pages, MAX_COUNT):
            count = min(MAX_COUNT, pages - first)
            try:
                steps = touch_region(home, session, region, first, count, False, home.pgdat.cpus[0])
                sim.call(home.nid, steps)
            except AllocFailed:
                return got
            got += count
    return got
