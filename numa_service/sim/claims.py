"""What would have served a reported request: each remedy is run on the report's machine, as full as it was.

The machine is booted in this process for every run, filled (``node/occupy.py``), and given the marks, boosts
and reserves that were printed. A remedy that changes a sysctl writes it, so that marks are computed anew. The
last try before an OOM kill compares with the high mark; its runs do so too.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import dataclass, replace

from numa_service.machine.formats.mem_info import Report
from numa_service.machine.notation import format_cpulist
from numa_service.machine.spec import MachineSpec, SpecError
from numa_service.machine.sysctl import SYSCTLS, default_lowmem_reserve_ratio
from numa_service.machine.verdict import (
    ABOVE_CLASS,
    BELOW_MIN,
    CAUSE_LAST_TRY,
    FAILING,
    LAST_TRY,
    NO_BLOCK,
    NODE_FORBIDDEN,
    Verdict,
    ZoneCheck,
    boost_rose,
    rules_version,
)
from numa_service.mm.gfp import Gfp
from numa_service.mm.mmzone import WMARK_HIGH, WMARK_LOW, WMARK_MIN, ZONE_NAMES
from numa_service.mm.pgdata import FREE_CMA, FREE_HIGHATOMIC, RESERVED_HIGHATOMIC
from numa_service.mm.profile import PROFILES, profile_named
from numa_service.node import ops
from numa_service.node.errors import NodeError
from numa_service.node.mempolicy import Policy, PolicyMode
from numa_service.node.occupy import occupy
from numa_service.node.page_alloc import alloc_pages
from numa_service.node.prepare import AllocRequest
from numa_service.node.unserved import Unserved
from numa_service.sim.simulation import Simulation

_RATIO = "vm.lowmem_reserve_ratio"


@dataclass(frozen=True, slots=True)
class Remedy:
    """Something that one could have done, or asked otherwise."""

    text: str
    order: int
    gfp: int
    #: Nodes that the request may use; None: all.
    allowed: tuple[int, ...] | None
    #: Written after boot.
    sysctls: tuple[tuple[str, str], ...] = ()
    #: The kernel's profile, if it is another.
    profile: str | None = None
    #: The marks have no boost.
    unboosted: bool = False
    #: The marks are the high ones, as for the last try before a kill.
    runs_at_high: bool = False


@dataclass(frozen=True, slots=True)
class Claim:
    """A remedy that was run, and what came of it."""

    text: str
    helps: bool
    #: The zone that serves it ("node 0 Normal"), "still fails", or why it could not be run.
    result: str


def run_as_it_was(report: Report, verdict: Verdict, spec: MachineSpec) -> Claim:
    """Run the request as it is in the report: it has to fail, unless the numbers do not explain it."""
    return _run(report, spec, _as_it_was(verdict))


def run_remedies(report: Report, verdict: Verdict, spec: MachineSpec) -> list[Claim]:
    """Run what might have served the request. None for verdicts that memory has nothing to do with.

    What helped comes first, and of that what changes least for others: the request, then its policy, then
    the machine.
    """
    if verdict.cause not in FAILING:
        return []
    claims = _smaller_orders(report, verdict, spec)
    claims += [_run(report, spec, remedy) for remedy in _remedies(report, verdict, spec)]
    return sorted(claims, key=lambda claim: not claim.helps)


def _as_it_was(verdict: Verdict) -> Remedy:
    return Remedy(
        "the request as it was",
        verdict.order,
        verdict.gfp,
        verdict.allowed,
        runs_at_high=verdict.cause == CAUSE_LAST_TRY,
    )


def _remedies(report: Report, verdict: Verdict, spec: MachineSpec) -> Iterator[Remedy]:
    was = _as_it_was(verdict)
    tried = [check for check in verdict.checks if check.outcome in (BELOW_MIN, NO_BLOCK, LAST_TRY)]
    if any(check.outcome == NODE_FORBIDDEN for check in verdict.checks):
        nids = format_cpulist(sorted({zone.nid for zone in report.zones}))
        yield replace(was, text=f"policy and cpuset that allow nodes {nids}", allowed=None)
    if any(check.boost or check.boost_rose for check in tried):
        yield replace(was, text="no boost of the marks (vm.watermark_boost_factor=0)", unboosted=True)
    if any(check.reserve for check in tried):
        ratios = default_lowmem_reserve_ratio(spec.arch, spec.profile).split()
        none = "0" if profile_named(spec.profile).lowmem_reserve_per_zone else "1000000"
        value = " ".join([none] * len(ratios))
        yield replace(was, text=f"{_RATIO}='{value}' (no reserve)", sysctls=((_RATIO, value),))
    above = [check.zone.name for check in verdict.checks if check.outcome == ABOVE_CLASS]
    if verdict.gfp & (Gfp.DMA | Gfp.DMA32):
        gfp = was.gfp & ~(Gfp.DMA | Gfp.DMA32)
        yield replace(was, text="a request without __GFP_DMA and __GFP_DMA32", gfp=gfp)
    if "Movable" in above or "HighMem" in above or any(check.cma for check in tried):
        movable = Gfp.HIGHMEM | Gfp.MOVABLE
        yield replace(was, text="a request for movable pages (GFP_HIGHUSER_MOVABLE)", gfp=was.gfp | movable)
    if kbytes := _smaller_min_free(verdict, tried, spec):
        yield replace(
            was, text=f"vm.min_free_kbytes={kbytes}", sysctls=(("vm.min_free_kbytes", str(kbytes)),)
        )
    if factor := _smaller_scale_factor(report, verdict, tried):
        key = "vm.watermark_scale_factor"
        yield replace(was, text=f"{key}={factor}", sysctls=((key, str(factor)),))
    for profile in sorted(PROFILES.values(), key=lambda profile: profile.series):
        if profile.series > rules_version(report):
            yield replace(was, text=f"the rules of {profile.name}", profile=profile.name)


def _smaller_min_free(verdict: Verdict, tried: list[ZoneCheck], spec: MachineSpec) -> int | None:
    """The largest round min_free_kbytes with which a zone passes; half of today's where none does.

    None if there is none that is smaller.
    """
    now = int(spec.sysctls["vm.min_free_kbytes"])
    best = 0.0
    for check in tried:
        base = check.mark - check.boost
        room = check.usable - check.cost - check.reserve - 1
        if verdict.cause == CAUSE_LAST_TRY:
            # high is taken to follow min: it does where watermark_scale_factor makes no larger distance
            room = room * base // max(check.high, 1)
        elif check.outcome == BELOW_MIN:
            room = room * check.mark // max(check.lowered, 1) - check.boost
        else:
            continue
        if base > 0 and room > 0:
            best = max(best, min(room / base, 1.0))
    kbytes = int(now * best) if best else now // 2
    step = 1024 if kbytes > 16384 else 64
    kbytes = kbytes // step * step
    return kbytes if 0 < kbytes < now and tried else None


def _smaller_scale_factor(report: Report, verdict: Verdict, tried: list[ZoneCheck]) -> int | None:
    """The watermark_scale_factor with which a zone is above high; None where it does not set the distance."""
    factors = []
    for check in tried if verdict.cause == CAUSE_LAST_TRY else ():
        managed, low = report.pages(check.zone, "managed"), report.pages(check.zone, "low")
        if not managed or low is None or check.high - low <= (check.mark - check.boost) // 4 + 1:
            continue  # the distance is a quarter of min
        gap = (check.usable - check.cost - check.reserve - 1 - check.mark) // 2
        factors.append(gap * 10000 // managed)
    best = max(factors, default=0)
    return best if best >= 1 else 1 if factors else None


def _smaller_orders(report: Report, verdict: Verdict, spec: MachineSpec) -> list[Claim]:
    """The largest smaller order that is served; each larger one was run and was not."""
    for order in range(verdict.order - 1, -1, -1):
        kb = report.page_kb << order
        claim = _run(report, spec, replace(_as_it_was(verdict), text=f"order {order} ({kb} kB)", order=order))
        if claim.helps or order == 0:
            return [claim]
    return []


def _run(report: Report, spec: MachineSpec, remedy: Remedy) -> Claim:
    try:
        return _served(report, spec, remedy)
    except (SpecError, NodeError) as error:
        return Claim(remedy.text, False, str(error))
    finally:
        gc.collect()  # a machine is a cycle of objects, and its arrays are large


def _served(report: Report, spec: MachineSpec, remedy: Remedy) -> Claim:
    if remedy.profile:
        # weights of interleave policies, which are kept with them, do not matter for a report
        known = {
            key: value
            for key, value in spec.sysctls.items()
            if key in SYSCTLS and SYSCTLS[key].is_in(remedy.profile)
        }
        spec = replace(spec, profile=remedy.profile, sysctls=known)
    sim = Simulation(spec)
    for node in sim.nodes.values():
        occupy(node, spec.occupancy)
    _set_marks(report, sim, remedy.unboosted)
    for key, value in remedy.sysctls:
        for node in sim.nodes.values():
            node.apply(ops.WriteSysctl(key, value))
    if remedy.runs_at_high:
        for node in sim.nodes.values():
            marks = node.pgdat.pg.watermark
            marks[:, [WMARK_MIN, WMARK_LOW]] = marks[:, [WMARK_HIGH]]
    known_nids = [nid for nid in sim.nodes if remedy.allowed is None or nid in remedy.allowed]
    if not known_nids:
        return Claim(remedy.text, False, "no zone of an allowed node is in the text")
    home = sim.nodes[known_nids[0]]
    policy = Policy()
    if len(known_nids) < len(sim.nodes):
        policy = Policy(PolicyMode.BIND, tuple(known_nids))
    before = _free(sim)
    session = home.apply(ops.OpenSession("why", ops.FOREVER_NS, 0))
    request = AllocRequest(session, remedy.gfp, remedy.order, 1, home.pgdat.cpus[0], policy, explain=True)
    try:
        explanation = sim.call(home.nid, alloc_pages(home, request)).explanation
    except Unserved:
        return Claim(remedy.text, False, "still fails")
    assert explanation is not None
    served = [
        f"node {visit.node} {zone.zone}"
        for step in explanation.steps
        if hasattr(step, "nodes")
        for visit in step.nodes
        for zone in visit.zones
        if zone.served_blocks
    ]
    return Claim(remedy.text, True, served[0] if served else _where(before, _free(sim)))


def _free(sim: Simulation) -> dict[str, int]:
    return {
        f"node {node.nid} {name}": int(node.pgdat.pg.vm_stat[zone, 0])
        for node in sim.nodes.values()
        for zone, name in enumerate(node.pgdat.zone_names)
    }


def _where(before: dict[str, int], after: dict[str, int]) -> str:
    return max(before, key=lambda place: before[place] - after[place])


def _set_marks(report: Report, sim: Simulation, unboosted: bool) -> None:
    """Give the zones the marks, boosts and reserves that were printed."""
    names = ZONE_NAMES[sim.spec.arch]
    for zone in report.zones:
        if not zone.kb.get("present"):
            continue
        pg = sim.nodes[zone.nid].pgdat.pg
        index = names.index(zone.name)
        boost = report.pages(zone, "boost") or 0
        rose = boost_rose(report, zone)
        for wmark, name in ((WMARK_MIN, "min"), (WMARK_LOW, "low"), (WMARK_HIGH, "high")):
            pg.watermark[index, wmark] = (report.pages(zone, name) or 0) - boost
        pg.watermark_boost[index] = 0 if unboosted else boost + rose
        if zone.lowmem_reserve:
            row = zone.lowmem_reserve
            for column in range(pg.lowmem_reserve.shape[1]):
                pg.lowmem_reserve[index, column] = row[min(column, len(row) - 1)]
        kept = report.pages(zone, "reserved_highatomic") or 0
        pg.reserves[index, RESERVED_HIGHATOMIC] = kept
        pg.reserves[index, FREE_HIGHATOMIC] = report.pages(zone, "free_highatomic") or kept
        pg.reserves[index, FREE_CMA] = report.pages(zone, "free_cma") or 0
