"""The option ``--fill NODE=PAGES|N%[:KIND]``: takes pages of a node before a command looks at the machine.

With a zone (``NODE/ZONE=``), or with ``:order=N``, ``:type=T`` or ``:scatter=N%``, pages are held whatever
the watermarks say: of that zone, in blocks of that order and type, and so that N % of what stays free are
single pages whose buddies are held.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import typer

from numa_service.cli.compile import compile_first
from numa_service.machine.notation import shown
from numa_service.machine.spec import MachineSpec
from numa_service.mm.gfp import GFP_KERNEL, Gfp
from numa_service.mm.mmzone import MIGRATE_MOVABLE, MIGRATE_RECLAIMABLE, MIGRATE_UNMOVABLE, NR_ORDERS
from numa_service.mm.page_alloc import LRU_KIND_ANON, LRU_KIND_FILE
from numa_service.mm.pgdat import Pfns
from numa_service.mm.vmstat import NR_FREE_PAGES
from numa_service.node import ops
from numa_service.node.mempolicy import Policy, PolicyMode
from numa_service.node.node import Node
from numa_service.node.occupy import most_blocks, take_blocks
from numa_service.node.ops.alloc import MAX_COUNT
from numa_service.node.ops.fields import MAX_REGION_PAGES
from numa_service.node.owners import Owner
from numa_service.node.page_alloc import alloc_pages
from numa_service.node.pfns import pack_pfns
from numa_service.node.prepare import AllocRequest
from numa_service.node.region import map_region, touch_region
from numa_service.node.unserved import AllocFailed
from numa_service.sim.simulation import Simulation

_KINDS = {"held": 0, "anon": LRU_KIND_ANON, "file": LRU_KIND_FILE}
_TYPES = {"unmovable": MIGRATE_UNMOVABLE, "movable": MIGRATE_MOVABLE, "reclaimable": MIGRATE_RECLAIMABLE}
_FILL = re.compile(
    rf"(\d{{1,4}})(?:/(\w{{1,16}}))?=(\d{{1,12}})(%?)(?::({'|'.join(_KINDS)}))?(?::order=(\d{{1,2}}))?"
    rf"(?::type=({'|'.join(_TYPES)}))?(?::scatter=(\d{{1,3}})%)?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Fill:
    """How many pages to take of a node, and of which kind: held, anon or file."""

    nid: int
    pages: int
    kind: str
    #: The only zone to take from; None: any.
    zone: str | None = None
    #: Order of the blocks, and their migratetype; None: as they come, movable.
    order: int | None = None
    migratetype: int | None = None
    #: Percent of what stays free that is to be in single pages.
    scatter: int = 0

    @property
    def is_placed(self) -> bool:
        """Whether it says more than a node and a kind."""
        return (
            self.zone is not None
            or self.order is not None
            or self.migratetype is not None
            or self.scatter > 0
        )

    @classmethod
    def parse(cls, text: str, spec: MachineSpec) -> Fill:
        """Parse NODE=PAGES or NODE=N%, of the node's present pages. BadParameter says what is wrong."""
        match = _FILL.fullmatch(text)
        if match is None:
            raise typer.BadParameter(
                f"{shown(text)} is not NODE=PAGES or NODE=N%, with :held, :anon or :file "
                "(or NODE/ZONE=…, :order=N, :type=T, :scatter=N%)",
                param_hint="--fill",
            )
        node, zone, amount, percent, kind, order, migratetype, scatter = match.groups()
        found = next((n for n in spec.nodes if n.nid == int(node)), None)
        if found is None:
            raise typer.BadParameter(f"{text!r}: there is no node {node}", param_hint="--fill")
        zones = [own for own in found.zones if zone in (None, own.name)]
        if not zones:
            names = ", ".join(own.name for own in found.zones)
            raise typer.BadParameter(f"{text!r}: node {node} has the zones {names}", param_hint="--fill")
        present = sum(own.present for own in zones)
        pages = present * int(amount) // 100 if percent else int(amount)
        if pages > present:
            where = f"node {node}" if zone is None else f"node {node} {zone}"
            raise typer.BadParameter(f"{text!r}: {where} has {present} pages", param_hint="--fill")
        if order is not None and int(order) >= NR_ORDERS:
            raise typer.BadParameter(f"{text!r}: orders are 0 to {NR_ORDERS - 1}", param_hint="--fill")
        if scatter is not None and int(scatter) > 100:
            raise typer.BadParameter(f"{text!r}: scatter={scatter}%: at most 100", param_hint="--fill")
        wanted = cls(
            found.nid,
            pages,
            kind or "held",
            zone,
            None if order is None else int(order),
            None if migratetype is None else _TYPES[migratetype],
            int(scatter or 0),
        )
        if wanted.is_placed and wanted.kind != "held":
            raise typer.BadParameter(
                f"{text!r}: zone, order, type and scatter are of pages that are held", param_hint="--fill"
            )
        return wanted


def fill(sim: Simulation, wanted: Fill) -> int:
    """Take the pages in a session of the first node with CPUs; returns how many it got.

    Afterwards the nodes rest, so that the traffic of filling does not count as load.
    """
    compile_first()
    if wanted.is_placed:
        return _hold_placed(sim.nodes[wanted.nid], wanted)
    home = next(node for node in sim.nodes.values() if node.pgdat.cpus)
    session = home.apply(ops.OpenSession(f"fill node {wanted.nid}", ops.FOREVER_NS, 0))
    policy = Policy(PolicyMode.BIND, (wanted.nid,))
    taken = _hold if wanted.kind == "held" else _map
    got = taken(sim, home, session, wanted, policy)
    sim.run()
    for node in sim.nodes.values():
        node.apply(ops.Rest())
    return got


def _hold_placed(node: Node, wanted: Fill) -> int:
    """Hold pages of one zone, or of the node's zones from the highest down, whatever the watermarks say."""
    owner = node.owner(node.apply(ops.OpenSession(f"fill node {wanted.nid}", ops.FOREVER_NS, 0)))
    got = 0
    for zone in reversed(range(len(node.pgdat.zone_names))):
        if wanted.zone in (None, node.pgdat.zone_names[zone]):
            got += _hold_of_zone(node, owner, zone, wanted, wanted.pages - got)
    node.apply(ops.Rest())
    return got


def _hold_of_zone(node: Node, owner: Owner, zone: int, wanted: Fill, pages: int) -> int:
    free = int(node.pgdat.pg.vm_stat[zone, NR_FREE_PAGES])
    pages = min(pages, free)
    scattered = min((free - pages) * wanted.scatter // 100, pages)
    migratetype = MIGRATE_MOVABLE if wanted.migratetype is None else wanted.migratetype
    orders = range(NR_ORDERS - 1, -1, -1) if wanted.order is None else (wanted.order,)
    got = 0
    for order in orders:
        while blocks := (pages - scattered - got) >> order:
            batch = min(blocks, most_blocks(order))
            taken = len(take_blocks(node, owner, zone, order, migratetype, batch))
            got += taken << order
            if taken < batch:
                break
    back: list[Pfns] = []
    while scattered:
        batch = min(scattered, most_blocks(0) // 2)
        pfns = np.sort(take_blocks(node, owner, zone, 0, migratetype, 2 * batch))
        # of two buddies that are both ours, the first goes back; at the end, or it would be taken again
        first = (pfns[:-1] & np.uint64(1) == 0) & (pfns[1:] == pfns[:-1] + np.uint64(1))
        back.append(pfns[:-1][first])
        got += len(pfns) - int(first.sum())
        scattered -= batch
        if len(pfns) < 2 * batch:
            break
    for pfns in back:
        node.apply(ops.Free(owner, None, 0, pack_pfns(pfns)))
    node.apply(ops.DrainPagesets())
    return got


def _hold(sim: Simulation, home: Node, session: int, wanted: Fill, policy: Policy) -> int:
    """Take blocks of the largest order, then single pages, until the watermarks stop an ordinary request."""
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
    """Map regions and access each page once. Pages that reclaim takes meanwhile are not replaced."""
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
