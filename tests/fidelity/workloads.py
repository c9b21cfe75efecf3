"""Steps of captured workloads, run again here: where pages came from, NUMA events, and when zones were left.

Each step that allocates starts from the state captured right before it (free blocks, pagesets), runs on the
same CPU under the same policy, page tables included, and is compared with the state captured right after it.
Steps in which the kernel reclaimed, compacted or killed are left out, and so are policies that are not
modelled.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from fidelity.compare import Field
from procfs.parse import machine_of_zoneinfo

from lab.evidence import Evidence
from lab.pagetypeinfo import read_occupancy
from lab.start import CapturedStart, read_pagesets
from numa_service.machine.source import load
from numa_service.machine.spec import MachineSpec
from numa_service.machine.sysctl import weight_name
from numa_service.mm.gfp import parse_gfp
from numa_service.mm.mmzone import PAGEBLOCK_NR_PAGES
from numa_service.mm.pgdata import PCP_HIGH_NOW
from numa_service.mm.profile import profile_named
from numa_service.mm.snapshot import ZoneSnapshot
from numa_service.mm.vmstat import NUMASTAT_NAMES
from numa_service.mm.watermark import Watermarks
from numa_service.node import ops
from numa_service.node.mempolicy import Policy, PolicyMode
from numa_service.node.node import Node
from numa_service.node.page_alloc import alloc_for_owner
from numa_service.node.pfns import unpack_pfns
from numa_service.sim.simulation import Simulation
from numa_service.sim.traced import TracedZones

PAGES_PER_MIB = 256
_TABLE_PAGES = 512
#: Pages of one call; a page table page is allocated before each.
_BATCH = _TABLE_PAGES
_USER = int(parse_gfp("GFP_HIGHUSER_MOVABLE|__GFP_ZERO|__GFP_COMP"))
_TABLE = int(parse_gfp("GFP_KERNEL_ACCOUNT|__GFP_ZERO"))
_HUGE = int(parse_gfp("GFP_TRANSHUGE"))

_MODES = {
    "default": PolicyMode.DEFAULT,
    "local": PolicyMode.DEFAULT,
    "bind": PolicyMode.BIND,
    "interleave": PolicyMode.INTERLEAVE,
    "preferred": PolicyMode.PREFERRED,
    "preferred_many": PolicyMode.PREFERRED_MANY,
    "weighted": PolicyMode.WEIGHTED_INTERLEAVE,
}
#: Where the files of weights are, up to the number of the node.
_WEIGHTS = "mempolicy/weighted_interleave/node"
#: Commands that allocate memory.
_ALLOCATES = ("alloc", "allocseq", "touch", "readfile", "writefile")
#: Counters that show that a step did more than allocate.
_DISTURBED = ("pgscan_kswapd", "pgscan_direct", "compact_stall", "oom_kill", "pgmigrate_success", "pswpout")

OWN = "what others allocated meanwhile, and what pagesets of zones that were left may have kept"
PHASE = "where between two refills a zone is left, and which pageblock page tables stole last"
TUNED = (
    "6.12 drains idle pagesets by the clock, which a step here has not, and doubles refills up to 32 batches"
)

#: CONFIG_PCP_BATCH_SCALE_MAX.
_REFILL_DOUBLES = 5


@dataclass(slots=True)
class _Shell:
    """Settings that the commands so far have made."""

    #: Nodes with memory: others drop out of every policy (mpol_set_nodemask).
    memory: frozenset[int]
    cpu: int = 0
    policy: Policy | None = field(default_factory=Policy)
    thp: bool = False
    #: Weights of weighted interleave that were written, as sysctls.
    weights: dict[str, str] = field(default_factory=dict)
    #: Size in pages and policy of each mapped region.
    regions: dict[str, tuple[int, Policy | None]] = field(default_factory=dict)


def compare_workload(directory: Path, skipped: list[str] | None = None) -> Iterator[Field]:
    """Compare every step of a workload that can be run; others are added to `skipped` with the reason."""
    spec = machine_of_workload(directory)
    if spec is None or not (directory / "steps.json").is_file():
        return
    steps: list[dict[str, Any]] = json.loads((directory / "steps.json").read_text())
    shell = _Shell(frozenset(node.nid for node in spec.nodes if node.zones))
    before: Path | None = None
    for step in steps:
        words = step["command"].split()
        wanted = _interpret(shell, words)
        snapshot = directory / "steps" / f"step{step['step']:02}"
        here = snapshot if (snapshot / "zoneinfo.txt").is_file() else None
        if words[0] in _ALLOCATES:
            if why := _obstacle(step, wanted, before, here):
                if skipped is not None:
                    name = f"{directory.parent.name}/{directory.name}"
                    skipped.append(f"{name} step {step['step']} {step['command']}: {why}")
            else:
                yield from _compare_step(directory, spec, shell, step, wanted, before, here)
        before = here or before
    ended = (directory / "rc.txt").read_text() if (directory / "rc.txt").is_file() else ""
    if skipped is not None and not all(line.endswith("rc=0") for line in ended.splitlines()):
        skipped.append(f"{directory.parent.name}/{directory.name}: the rest: {ended.strip()}")


def _obstacle(
    step: dict[str, Any], wanted: tuple[int, Policy] | None, before: Path | None, here: Path | None
) -> str:
    """Why a step cannot be run here; empty if it can."""
    if wanted is None:
        match step["command"].split()[0]:
            case "readfile" | "writefile":
                return "page cache"
            case "touch":
                return "its memory was there"
            case _:
                return "its policy is not modelled"
    if before is None or here is None:
        return "no snapshot before or after it"
    if step.get("rc") != 0 or "pages_per_zone" not in step:
        return "it failed"
    if disturbed := _disturbed(before, here):
        return f"the kernel did more than allocate: {', '.join(disturbed)}"
    return ""


def machine_of_workload(directory: Path) -> MachineSpec | None:
    """The workload's machine with the profile of its kernel; None if there is no capture of that topology."""
    topology = directory.parents[2] / "topologies" / directory.parent.name
    if not (topology / "zoneinfo.txt").is_file():
        return None
    spec = load(str(topology))
    is_612 = (directory / "version.txt").read_text().startswith("Linux version 6.12")
    return dataclasses.replace(spec, profile="linux-6.12") if is_612 else spec


def _interpret(shell: _Shell, words: list[str]) -> tuple[int, Policy] | None:
    """Process a command; for one that touches new memory, its size in pages and its policy."""
    match words:
        case ["cpu", number]:
            shell.cpu = int(number)
        case ["policy", mode, *nodes]:
            shell.policy = _policy(mode, nodes, shell.memory)
        case ["ws", path, value] if _WEIGHTS in path:
            shell.weights[weight_name(int(path.partition(_WEIGHTS)[2]))] = value
        case ["thp", state]:
            shell.thp = state == "on"
        case ["map", name, mib]:
            shell.regions[name] = int(mib) * PAGES_PER_MIB, None
        case ["mbind", name, mode, *nodes]:
            shell.regions[name] = shell.regions[name][0], _policy(mode, nodes, shell.memory)
        case ["touch", name] if name in shell.regions:
            pages, policy = shell.regions.pop(name)
            return (pages, policy) if policy else None
        case ["alloc" | "allocseq", _, mib, *_] if shell.policy is not None:
            return int(mib) * PAGES_PER_MIB, shell.policy
    return None


def _policy(mode: str, nodes: list[str], memory: frozenset[int]) -> Policy | None:
    """The policy in force; None if it is not modelled, or the kernel refuses it."""
    if mode not in _MODES:
        return None
    named = {int(nid) for nid in nodes[0].split(",")} if nodes else set()
    if named and not named & memory:
        return None
    return Policy(_MODES[mode], tuple(sorted(named & memory)))


def _values(path: Path) -> dict[str, int]:
    pairs = (line.split() for line in path.read_text().splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2}


def _disturbed(before: Path, after: Path) -> list[str]:
    """Counters that changed although an allocating step does not change them."""
    was, now = _values(before / "vmstat.txt"), _values(after / "vmstat.txt")
    return [name for name in _DISTURBED if now.get(name, 0) != was.get(name, 0)]


def _numastat(path: Path) -> dict[int, dict[str, int]]:
    result: dict[int, dict[str, int]] = {}
    for line in path.read_text().splitlines():
        if line.startswith("== node"):
            counters = result.setdefault(int(line.removeprefix("== node").split()[0]), {})
        elif line.split():
            name, value = line.split()
            counters[name] = int(value)
    return result


class StepRun:
    """One step, on a machine in the captured state: free blocks, pagesets and watermarks."""

    def __init__(self, spec: MachineSpec, before: Path) -> None:
        zones = TracedZones.read(before, spec.arch)
        spec, same = zones.fit(spec)
        assert same, f"{before}: not the machine of its workload"
        self.sim = Simulation(spec)
        nodes = self.sim.nodes
        self._sessions = {
            nid: node.apply(ops.OpenSession("step", ops.FOREVER_NS, 0))
            for nid, node in nodes.items()
            if node.pgdat.cpus
        }
        # user pages interleave by their offset, page tables by the task's own turn
        self._tables = {
            nid: nodes[nid].apply(ops.OpenSession("tables", ops.FOREVER_NS, 0)) for nid in self._sessions
        }
        keeper = nodes[next(iter(self._sessions))]
        start = CapturedStart(read_occupancy(before), read_pagesets(before), Evidence.nothing())
        start.occupy(spec, nodes, keeper)
        #: The captured zones with pages, by nid and name.
        self.zones = take_over_marks(self.sim, before)
        self.spec = spec
        self.numastat = {nid: self._counters(node) for nid, node in nodes.items()}
        #: Pages by nid and zone name, of user memory only.
        self.placed: dict[str, int] = {}
        #: Free pages of each zone when a page first came from one later in the walk.
        self.left: dict[str, int] = {}
        self._at = ""

    @staticmethod
    def _counters(node: Node) -> np.ndarray[Any, np.dtype[np.int64]]:
        totals: np.ndarray[Any, np.dtype[np.int64]] = node.pgdat.pg.numa_event.sum(axis=0)
        return totals

    def alloc(self, cpu: int, gfp: int, order: int, count: int, policy: Policy, user: bool) -> int:
        """Allocate blocks; where they are is recorded if they are user memory."""
        home = next(node.nid for node in self.spec.nodes if cpu in node.cpus)
        node = self.sim.nodes[home]
        session = (self._sessions if user else self._tables)[home]
        steps = alloc_for_owner(node, node.owner(session), session, gfp, order, count, cpu, policy)
        allocation = self.sim.call(home, steps)
        if user:
            for nid, pfns in allocation.pages:
                self._note(nid, unpack_pfns(pfns).astype(np.int64), order)
        return int(allocation.got)

    def _note(self, nid: int, pfns: np.ndarray[Any, np.dtype[np.int64]], order: int) -> None:
        for extent in reversed(self.sim.nodes[nid].pgdat.extents):
            inside = (pfns >= extent.start_pfn) & (pfns < extent.start_pfn + extent.spanned)
            if n := int(np.count_nonzero(inside)):
                zone = f"{nid}:{extent.name}"
                walk = [*self.placed, zone]
                if self._at and walk.index(zone) > walk.index(self._at):
                    self.left.setdefault(self._at, self._free(self._at))
                self._at = zone
                self.placed[zone] = self.placed.get(zone, 0) + (n << order)

    def _free(self, zone: str) -> int:
        nid, name = zone.split(":")
        pgdat = self.sim.nodes[int(nid)].pgdat
        return pgdat.free_pages(pgdat.zone_names.index(name))

    def counted(self, nid: int) -> dict[str, int]:
        """numastat of a node since the start of the step."""
        delta = self._counters(self.sim.nodes[nid]) - self.numastat[nid]
        return dict(zip(NUMASTAT_NAMES, map(int, delta), strict=True))


def _compare_step(
    directory: Path,
    spec: MachineSpec,
    shell: _Shell,
    step: dict[str, Any],
    wanted: tuple[int, Policy],
    before: Path,
    after: Path,
) -> Iterator[Field]:
    pages, policy = wanted
    run = StepRun(dataclasses.replace(spec, sysctls={**spec.sysctls, **shell.weights}), before)
    tables = shell.policy or Policy()
    left = pages
    while left > 0:
        run.alloc(shell.cpu, _TABLE, 0, 1, tables, user=False)
        if shell.thp and left >= _TABLE_PAGES and run.alloc(shell.cpu, _HUGE, 9, 1, policy, user=True):
            left -= _TABLE_PAGES
        else:
            run.alloc(shell.cpu, _USER, 0, min(_BATCH, left), policy, user=True)
            left -= _BATCH
    name = f"{directory.parent.name}/{directory.name}"
    where = f"step {step['step']} {step['command']}"
    edge = _Edge(run, after, shell.cpu, _tables_taken(before, after), thp=shell.thp)
    off = _others(step, before, after) + edge.on_pagesets() + sum(edge.pages(zone) for zone in edge.left)
    cause = TUNED if edge.tuned else OWN

    def row(kind: str, place: str, captured: int, computed: int) -> Field:
        return Field(name, "step", kind, f"{where}: {place}", captured, computed, off, cause)

    for zone in sorted({*step["pages_per_zone"], *run.placed}):
        yield row("pages per zone", zone, step["pages_per_zone"].get(zone, 0), run.placed.get(zone, 0))
    was, now = _numastat(before / "numastat.txt"), _numastat(after / "numastat.txt")
    for nid, counters in now.items():
        if nid in run.sim.nodes:
            for counter, value in run.counted(nid).items():
                captured = counters[counter] - was[nid][counter]
                yield row("numastat", f"node {nid} {counter}", captured, value)
    for file in sorted(directory.glob(f"steps/step{step['step']:02}.*.seq.json")):
        yield from _spills(name, where, json.loads(file.read_text()), run, edge)


def _others(step: dict[str, Any], before: Path, after: Path) -> int:
    """Pages allocated between two snapshots that are neither the step's own nor page tables.

    Only their number is known, not their places and times. They are those of khugepaged, of slab, and of
    reading the snapshots.
    """
    was, now = _values(before / "vmstat.txt"), _values(after / "vmstat.txt")
    taken = sum(value - was[name] for name, value in now.items() if name.startswith("pgalloc_"))
    user = sum(step["pages_per_zone"].values())
    return max(0, taken - user - _tables_taken(before, after))


def _tables_taken(before: Path, after: Path) -> int:
    """Change of the number of page table pages."""
    was, now = _values(before / "vmstat.txt"), _values(after / "vmstat.txt")
    return max(0, now["nr_page_table_pages"] - was["nr_page_table_pages"])


class _Edge:
    """How exactly the capture tells at how many free pages a zone is left."""

    def __init__(self, run: StepRun, after: Path, cpu: int, tables: int, *, thp: bool) -> None:
        self._run = run
        self._cpu = cpu
        self._tables = tables
        self._thp = thp
        self.tuned = profile_named(run.spec.profile).has_promo
        captured = machine_of_zoneinfo((after / "zoneinfo.txt").read_text())
        self._after = {f"{z.nid}:{z.name}": z for n in captured.nodes for z in n.zones if z.populated}
        full = {
            name for name, zone in self._after.items() if zone.free <= zone.wmark_high + max(zone.protection)
        }
        #: Zones left for another in the capture: what was left here must not widen what is allowed.
        self.left = sorted(full)

    def pages(self, zone: str) -> int:
        """Pages by which the zone may be left earlier or later, since the capture does not tell all.

        A refill takes a whole batch from a zone that is one page above its watermark; there may be one of the
        step and one of another task before the next check. Every CPU keeps changes up to the vmstat threshold
        to itself. A refill of huge pages takes two. From ZONE_NORMAL above a DMA32 of the same node no block
        is taken that would mix types (alloc_flags_nofragment); then it matters which pageblock the page
        tables took last.
        """
        captured = self._run.zones[zone]
        pages = 2 * captured.pagesets[0].batch << (_REFILL_DOUBLES if self.tuned else 0)
        pages += sum(pageset.stat_threshold for pageset in captured.pagesets)
        if self._thp:
            pages += 2 * _TABLE_PAGES
        if captured.name == "Normal" and f"{captured.nid}:DMA32" in self._run.zones:
            pages += PAGEBLOCK_NR_PAGES
        return pages

    def on_pagesets(self) -> int:
        """Pages on pagesets that the step may have been unable to use, of the zones that it left.

        The capture has the number of pages on a pageset, but not their types and orders: page tables that
        were freed before the step are there, and movable allocations do not take them. Those that the step's
        own pageset had when the zone was left are still there at the end, or have become page tables of the
        step. Pages that other CPUs' pagesets took from the zone or gave back are due to other tasks.
        """
        pages = self._tables if self.left else 0
        for zone in self.left:
            pairs = zip(self._run.zones[zone].pagesets, self._after[zone].pagesets, strict=True)
            for was, now in pairs:
                pages += now.count if now.cpu == self._cpu else abs(now.count - was.count)
        return pages


def _spills(
    name: str, where: str, sequence: list[dict[str, Any]], run: StepRun, edge: _Edge
) -> Iterator[Field]:
    """Compare the free pages that each zone had when an allocation first went past it."""
    transitions = [entry for entry in sequence if entry["type"] == "transition"]
    seen: set[str] = set()
    walk = list(run.placed)
    for leaving, entering in pairwise(transitions):
        zone = leaving["to"]
        known = zone in run.left and entering["to"] in walk
        if zone in seen or not known or walk.index(entering["to"]) < walk.index(zone):
            continue  # back to an earlier zone, which somebody gave a few pages
        seen.add(zone)
        cause = TUNED if edge.tuned else PHASE
        captured = entering["free"][zone]
        place = f"{where}: {zone}"
        yield Field(name, "step", "spill point", place, captured, run.left[zone], edge.pages(zone), cause)


def take_over_marks(sim: Simulation, before: Path) -> dict[str, ZoneSnapshot]:
    """Write captured watermarks and pageset sizes into a machine; the captured zones, by nid and name.

    They are those of that boot, in which the kernel image lies elsewhere than in the topology's own capture.
    How they are computed is compared on captured boots.
    """
    captured = machine_of_zoneinfo((before / "zoneinfo.txt").read_text())
    zones = {f"{z.nid}:{z.name}": z for n in captured.nodes for z in n.zones if z.populated}
    for zone in zones.values():
        pgdat = sim.nodes[zone.nid].pgdat
        marks = Watermarks(zone.wmark_min, zone.wmark_low, zone.wmark_high, zone.wmark_promo)
        pgdat.set_watermarks(zone.index, marks)
        pgdat.pg.watermark_boost[zone.index] = zone.watermark_boost
        pgdat.pg.lowmem_reserve[zone.index] = zone.protection
        pgdat.pg.pcp_batch[zone.index] = zone.pagesets[0].batch
        for position, pageset in enumerate(zone.pagesets):
            if profile_named(sim.spec.profile).has_promo:  # the size that 6.12 has tuned it to
                pgdat.pg.pcp_tuning[position, zone.index, PCP_HIGH_NOW] = pageset.high
            else:
                pgdat.set_pageset_high(zone.index, pageset.high, pageset.high)
    return zones


__all__ = ["compare_workload"]
