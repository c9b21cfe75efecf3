"""Steps of captured workloads, run again here: where pages went, how they were counted, where zones spilled.

Each allocating step starts from the captured state right before it (free blocks, pagesets), runs under the
same CPU and policy, with its page tables, and is compared with the captured state right after it. Steps in
which the kernel reclaimed, compacted or killed, and policies that are not modelled, are left out.
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

from numa_service.machine.source import load
from numa_service.machine.spec import MachineSpec
from numa_service.mm.gfp import parse_gfp
from numa_service.mm.mmzone import WMARK_LOW
from numa_service.mm.pgdat import Pgdat
from numa_service.mm.vmstat import NUMASTAT_NAMES
from numa_service.node import ops
from numa_service.node.books import unpack_pfns
from numa_service.node.mempolicy import Policy, PolicyMode
from numa_service.node.node import Node
from numa_service.node.page_alloc import alloc_for_owner
from numa_service.sim.replay_start import CapturedStart, read_pagesets
from numa_service.sim.simulation import Simulation
from numa_service.sim.traced import TracedZones
from numa_service.trace.evidence import Evidence
from numa_service.trace.occupancy import read_occupancy

PAGES_PER_MIB = 256
_TABLE_PAGES = 512
#: Pages of one call; a page table page goes before each.
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
}
#: Counters that say that a step did more than allocate.
_DISTURBED = ("pgscan_kswapd", "pgscan_direct", "compact_stall", "oom_kill", "pgmigrate_success", "pswpout")

OWN = "the kernel's own allocations meanwhile (snapshots over 9p, slab), and pages freed by others"
PHASE = "how full the pageset was: a zone is left at a refill, within one batch of its mark (as booted)"
TUNED = "6.12 tunes pageset high, and doubles refills up to 32 batches, at run time: not modelled"
TWICE = "preferred_many walks its nodes at LOW and at MIN before it asks the others: the step ends in between"

#: CONFIG_PCP_BATCH_SCALE_MAX.
_REFILL_DOUBLES = 5


@dataclass(slots=True)
class _Shell:
    """What the commands so far have set."""

    cpu: int = 0
    policy: Policy | None = field(default_factory=Policy)
    thp: bool = False
    #: Size in pages and policy of mapped regions.
    regions: dict[str, tuple[int, Policy | None]] = field(default_factory=dict)


def compare_workload(directory: Path) -> Iterator[Field]:
    """Every step of one workload that can be run here."""
    spec = _machine(directory)
    if spec is None or not (directory / "steps.json").is_file():
        return
    steps: list[dict[str, Any]] = json.loads((directory / "steps.json").read_text())
    shell = _Shell()
    before: Path | None = None
    for step in steps:
        words = step["command"].split()
        wanted = _interpret(shell, words)
        snapshot = directory / "steps" / f"step{step['step']:02}"
        here = snapshot if (snapshot / "zoneinfo.txt").is_file() else None
        usable = wanted is not None and before is not None and here is not None and "pages_per_zone" in step
        if usable and step.get("rc") == 0 and not _disturbed(before, here):
            yield from _compare_step(directory, spec, shell, step, wanted, before, here)
        before = here or before


def _machine(directory: Path) -> MachineSpec | None:
    """The topology of the workload, under the kernel that ran it; None if it was not captured by itself."""
    topology = directory.parents[2] / "topologies" / directory.parent.name
    if not (topology / "zoneinfo.txt").is_file():
        return None
    spec = load(str(topology))
    is_612 = (directory / "version.txt").read_text().startswith("Linux version 6.12")
    return dataclasses.replace(spec, profile="linux-6.12") if is_612 else spec


def _interpret(shell: _Shell, words: list[str]) -> tuple[int, Policy] | None:
    """Take a command in; for one that touches new memory, its size in pages and its policy."""
    match words:
        case ["cpu", number]:
            shell.cpu = int(number)
        case ["policy", mode, *nodes]:
            shell.policy = _policy(mode, nodes)
        case ["thp", state]:
            shell.thp = state == "on"
        case ["map", name, mib]:
            shell.regions[name] = int(mib) * PAGES_PER_MIB, None
        case ["mbind", name, mode, *nodes]:
            shell.regions[name] = shell.regions[name][0], _policy(mode, nodes)
        case ["touch", name] if name in shell.regions:
            pages, policy = shell.regions.pop(name)
            return (pages, policy) if policy else None
        case ["alloc" | "allocseq", _, mib, *_] if shell.policy is not None:
            return int(mib) * PAGES_PER_MIB, shell.policy
    return None


def _policy(mode: str, nodes: list[str]) -> Policy | None:
    if mode not in _MODES:
        return None
    return Policy(_MODES[mode], tuple(sorted(int(n) for n in nodes[0].split(","))) if nodes else ())


def _values(path: Path) -> dict[str, int]:
    pairs = (line.split() for line in path.read_text().splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2}


def _disturbed(before: Path, after: Path) -> bool:
    was, now = _values(before / "vmstat.txt"), _values(after / "vmstat.txt")
    return any(now.get(name, 0) != was.get(name, 0) for name in _DISTURBED)


def _numastat(path: Path) -> dict[int, dict[str, int]]:
    result: dict[int, dict[str, int]] = {}
    for line in path.read_text().splitlines():
        if line.startswith("== node"):
            counters = result.setdefault(int(line.removeprefix("== node").split()[0]), {})
        elif line.split():
            name, value = line.split()
            counters[name] = int(value)
    return result


class _Run:
    """One step on a machine in the captured state."""

    def __init__(self, spec: MachineSpec, before: Path) -> None:
        zones = TracedZones.read(before, spec.arch)
        spec, same = zones.fit(spec)
        assert same, f"{before}: not the machine of its workload"
        self.sim = Simulation(spec)
        nodes = self.sim.nodes
        self._sessions = {
            nid: node.apply(ops.OpenSession("step", 0, 0)) for nid, node in nodes.items() if node.pgdat.cpus
        }
        # user pages interleave by their offset, page tables by the task's own turn
        self._tables = {nid: nodes[nid].apply(ops.OpenSession("tables", 0, 0)) for nid in self._sessions}
        keeper = nodes[next(iter(self._sessions))]
        start = CapturedStart(read_occupancy(before), read_pagesets(before), Evidence.nothing())
        start.occupy(spec, nodes, keeper)
        self.spec = spec
        self.numastat = {nid: self._counters(node) for nid, node in nodes.items()}
        #: Pages by nid and zone name, of user memory only.
        self.placed: dict[str, int] = {}
        #: Free pages of each zone when a page first came from another one than before.
        self.left: dict[str, int] = {}
        self._at = ""

    @staticmethod
    def _counters(node: Node) -> np.ndarray[Any, np.dtype[np.int64]]:
        totals: np.ndarray[Any, np.dtype[np.int64]] = node.pgdat.pg.numa_event.sum(axis=0)
        return totals

    def alloc(self, cpu: int, gfp: int, order: int, count: int, policy: Policy, user: bool) -> int:
        """Blocks got; noted where they are when they are the user's."""
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
                if self._at not in ("", zone):
                    self.left.setdefault(self._at, self._free(self._at))
                self._at = zone
                self.placed[zone] = self.placed.get(zone, 0) + (n << order)

    def _free(self, zone: str) -> int:
        nid, name = zone.split(":")
        pgdat = self.sim.nodes[int(nid)].pgdat
        return pgdat.free_pages(pgdat.zone_names.index(name))

    def counted(self, nid: int) -> dict[str, int]:
        """numastat of a node since the start."""
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
    run = _Run(spec, before)
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
    # what the kernel allocates for itself, and the page tables of everybody else
    own, cause = 1500 + pages // 100, OWN
    if spec.profile == "linux-6.12":
        own, cause = own + pages // 25, TUNED

    def row(kind: str, place: str, captured: int, computed: int, slack: int, cause: str) -> Field:
        return Field(name, "step", kind, f"{where}: {place}", captured, computed, slack, cause)

    for zone in sorted({*step["pages_per_zone"], *run.placed}):
        captured = step["pages_per_zone"].get(zone, 0)
        yield row("pages per zone", zone, captured, run.placed.get(zone, 0), own, cause)
    was, now = _numastat(before / "numastat.txt"), _numastat(after / "numastat.txt")
    for nid, counters in now.items():
        if nid in run.sim.nodes:
            for counter, value in run.counted(nid).items():
                captured = counters[counter] - was[nid][counter]
                yield row("numastat", f"node {nid} {counter}", captured, value, own, cause)
    for file in sorted(directory.glob(f"steps/step{step['step']:02}.*.seq.json")):
        yield from _spills(name, where, json.loads(file.read_text()), run, shell, policy.mode)


def _low(pgdat: Pgdat, zone: str) -> int:
    return int(pgdat.pg.watermark[pgdat.zone_names.index(zone), WMARK_LOW])


def _spills(
    name: str, where: str, sequence: list[dict[str, Any]], run: _Run, shell: _Shell, mode: PolicyMode
) -> Iterator[Field]:
    """Free pages of each zone when it was first left for another."""
    transitions = [entry for entry in sequence if entry["type"] == "transition"]
    seen: set[str] = set()
    walk = list(run.placed)
    marks = {zone["zone"]: zone for zone in sequence[0]["zones"]}
    for leaving, entering in pairwise(transitions):
        zone = leaving["to"]
        known = zone in run.left and entering["to"] in walk
        if zone in seen or not known or walk.index(entering["to"]) < walk.index(zone):
            continue  # back to an earlier zone, which somebody gave a few pages
        seen.add(zone)
        nid, zone_name = zone.split(":")
        pgdat = run.sim.nodes[int(nid)].pgdat
        batch = int(pgdat.pg.pcp_batch[pgdat.zone_names.index(zone_name)])
        captured = entering["free"][zone]
        # the marks of a boot snapshot are a little off, and so is the protection, by up to 62 pages
        slack, cause = 2 * batch + 62 + abs(marks[zone]["low"] - _low(pgdat, zone_name)), PHASE
        if shell.thp:
            slack += _TABLE_PAGES
        if run.spec.profile == "linux-6.12":
            slack, cause = slack + (batch << _REFILL_DOUBLES), TUNED
        elif mode is PolicyMode.PREFERRED_MANY:
            slack, cause = slack + marks[zone]["low"] - marks[zone]["min"], TWICE
        yield Field(name, "step", "spill point", f"{where}: {zone}", captured, run.left[zone], slack, cause)


__all__ = ["compare_workload"]
