"""Persistent huge pages of one node, added 64 at a time until it has no more (workload j-hugepages)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fidelity.compare import Field
from fidelity.workloads import StepRun

from lab.pagetypeinfo import read_occupancy
from lab.start import read_pagesets
from numa_service.machine.spec import MachineSpec
from numa_service.mm.gfp import parse_gfp
from numa_service.mm.snapshot import ZoneSnapshot
from numa_service.node.mempolicy import Policy, PolicyMode

#: alloc_buddy_huge_page with what htlb_alloc_mask and alloc_pool_huge_page give it.
_GFP = int(parse_gfp("GFP_HIGHUSER_MOVABLE|__GFP_COMP|__GFP_NOWARN|__GFP_RETRY_MAYFAIL|__GFP_THISNODE"))
_ORDER = 9

#: Free pages of a row are those on free lists, and the shell that reads them works out of the pagesets.
SHELL = "rounding, and what the pagesets hold for the shell between two rows"
COMPACTED = (
    "the kernel compacts and reclaims before it falls short: what free fragments and caches could give"
)


def compare_hugepages(directory: Path, spec: MachineSpec) -> Iterator[Field]:
    """Compare the huge pages taken from each zone in every row, and how many the node had in all."""
    before = directory / "j0-before"
    if not all((directory / name).is_file() for name in ("hugepages.json", "j0-before/zoneinfo.txt")):
        return
    rows: list[dict[str, Any]] = json.loads((directory / "hugepages.json").read_text())
    name = f"{directory.parent.name}/{directory.name}"
    for nid in sorted(node.nid for node in spec.nodes):
        # a node without memory has no file to write to: its rows are not JSON, and have no node
        own = [row for row in rows if row.get("node") == f"node{nid}" and isinstance(row["want"], int)]
        if own:
            yield from _node_fields(name, nid, own, StepRun(spec, before), before)


def _node_fields(
    name: str, nid: int, rows: list[dict[str, Any]], run: StepRun, before: Path
) -> Iterator[Field]:
    zones = {key: zone for key, zone in run.zones.items() if zone.nid == nid}
    if not zones:  # a node without memory gives none
        where = f"node {nid}, {rows[0]['want']} wanted"
        yield Field(name, "step", "huge pages got", where, rows[0]["got"], 0)
        return
    cpu, policy = run.spec.cpus[0], Policy(PolicyMode.PREFERRED, (nid,))
    first = rows[0]["free"]
    shell = {key: 1 + -(-_on_pagesets(before, nid, key) >> _ORDER) for key in zones}
    after_first: dict[str, int] = {}
    got = 0
    for row in rows:
        got += run.alloc(cpu, _GFP, _ORDER, row["want"] - got, policy, user=True)
        taken = {key: run.placed.get(key, 0) >> _ORDER for key in zones}
        where = f"node {nid}, {row['want']} wanted"
        if row["got"] < row["want"]:
            slack = _compactible(nid, zones, before) + sum(shell.values())
            yield Field(name, "step", "huge pages got", where, row["got"], got, slack, COMPACTED)
            return
        yield Field(name, "step", "huge pages got", where, row["got"], got)
        # the first row's free pages are the origin: what nodes before this one gave back is in them
        after_first = after_first or taken
        for key, zone in zones.items():
            pages = first[f"{nid},{zone.name}"] - row["free"][f"{nid},{zone.name}"]
            captured = round(pages / (1 << _ORDER))
            computed = taken[key] - after_first[key]
            place = f"{where}: {key}"
            yield Field(name, "step", "huge pages by zone", place, captured, computed, shell[key], SHELL)


def _on_pagesets(before: Path, nid: int, key: str) -> int:
    """Pages of a zone on all pagesets before the first row, plus those after the last."""
    snapshots = [before, before.parent / f"j1-node{nid}-full"]
    counts = [read_pagesets(snapshot) for snapshot in snapshots if snapshot.is_dir()]
    return sum(n for pages in counts for (at, zone, _), n in pages.items() if f"{at}:{zone}" == key)


def _compactible(nid: int, zones: dict[str, ZoneSnapshot], before: Path) -> int:
    """Huge pages that free fragments and page cache would amount to if compaction moved them together."""
    free = sum(zone.free for zone in zones.values())
    huge = sum(
        count << order
        for zone in read_occupancy(before)
        if zone.nid == nid
        for row in zone.nr_free
        for order, count in enumerate(row)
        if order >= _ORDER
    )
    cache = sum(
        pages
        for zone in zones.values()
        for key, pages in zone.vm_stat.items()
        if key.startswith("nr_zone_") and key.endswith(("_anon", "_file"))
    )
    pagesets = sum(pageset.count for zone in zones.values() for pageset in zone.pagesets)
    return -(-(free - huge + cache + pagesets) >> _ORDER)
