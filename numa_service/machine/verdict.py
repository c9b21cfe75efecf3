"""Why a reported allocation failed: the walk that the kernel made over its zones, from the printed numbers.

Each zone is compared as ``__zone_watermark_ok`` compares it, with the rules of the report's version. The
numbers suffice to say why a request failed, or that they do not say it: :attr:`Verdict.explained`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from numa_service.machine.formats.mem_info import OOM, SYSRQ, Report, ReportedZone
from numa_service.machine.notation import format_cpulist
from numa_service.mm.gfp import GFP_KERNEL, Gfp
from numa_service.mm.mmzone import PAGEBLOCK_NR_PAGES

# why a zone did not serve
NODE_FORBIDDEN = "its node is not allowed"
ABOVE_CLASS = "the request may not use this zone"
NO_MANAGED = "it has no managed page"
BELOW_MIN = "under its mark"
NO_BLOCK = "no free block is large enough"
LAST_TRY = "under high, which the last try before a kill uses"
PASSES = "it could have served"

# what a verdict is made of
CAUSE_MANUAL = "manual"
CAUSE_MEMCG = "memory cgroup"
CAUSE_NO_ZONE = "no allowed zone"
CAUSE_MARKS = "marks"
CAUSE_FRAGMENTED = "fragmentation"
CAUSE_LAST_TRY = "last try"
CAUSE_ADDRESSES = "addresses"
CAUSE_UNKNOWN = "unknown"

#: Causes with which the request, asked again of that memory, has to fail.
FAILING = (CAUSE_MARKS, CAUSE_FRAGMENTED, CAUSE_LAST_TRY, CAUSE_NO_ZONE)

#: Letters of free lists whose blocks an ordinary request may take: Unmovable, Movable, rEclaimable, and
#: Reserve of old kernels.
_ORDINARY = set("UMER")
_SUBLEVEL = re.compile(r"2\.6\.(\d{1,2})", re.ASCII)


@dataclass(frozen=True, slots=True)
class ZoneCheck:
    """What one zone compared; numbers are in pages."""

    zone: ReportedZone
    #: Why it did not serve, one of the texts above; PASSES if its numbers would let it.
    outcome: str
    free: int = 0
    #: Of the free ones, those in high-atomic reserves and of CMA, if the request may not use them.
    highatomic: int = 0
    cma: int = 0
    #: Pages that do not count because the request itself takes them.
    cost: int = 0
    #: The min mark as printed, with its boost, and what of it is left for an urgent request.
    mark: int = 0
    boost: int = 0
    #: What the boost grew by between the printing of min and of low (kernels that do not print it).
    boost_rose: int = 0
    lowered: int = 0
    high: int = 0
    reserve: int = 0
    #: Free blocks that are large enough, and those of them that the request may not take.
    blocks: int | None = None
    blocks_kept: int = 0
    #: Free pages by the zone's free list, which is counted later.
    listed: int | None = None

    @property
    def usable(self) -> int:
        """Free pages without those that the request may not use; those it takes itself are in it."""
        return self.free - self.highatomic - self.cma

    @property
    def short(self) -> int:
        """Pages missing at the min mark: the zone passes only if it is negative."""
        return self.lowered + self.reserve + self.cost - self.usable

    @property
    def short_of_high(self) -> int:
        """Pages missing at the high mark, which the last try before a kill uses."""
        return self.high + self.reserve + self.cost - self.usable


@dataclass(slots=True)
class Verdict:
    """Why a request failed."""

    explained: bool
    cause: str
    #: Sentences for people: the verdict first, then what else the numbers show.
    text: list[str]
    #: All zones that are printed, in the order of the walk: by node, the highest first.
    checks: list[ZoneCheck]
    order: int
    gfp: int
    #: Name of the highest zone that the request may use.
    class_name: str
    #: Nodes that it may use; None: all.
    allowed: tuple[int, ...] | None
    #: What is not in the text and was assumed.
    assumed: list[str] = field(default_factory=list)


def judge(report: Report) -> Verdict:
    """The verdict on a report."""
    request = report.request
    order = max(request.order or 0, 0)
    gfp = GFP_KERNEL if request.gfp is None else request.gfp
    allowed = allowed_nodes(report)
    class_name = highest_zone(report, gfp)
    checks = [
        _check(report, zone, order, gfp, class_name, allowed)
        for zone in sorted(report.zones, key=lambda zone: (zone.nid, -report.zone_names.index(zone.name)))
    ]
    verdict = Verdict(False, CAUSE_UNKNOWN, [], checks, order, gfp, class_name, allowed)
    if request.gfp is None and request.kind != SYSRQ:
        verdict.assumed.append("no request is in the text: one page with GFP_KERNEL is taken")
    elif request.order is None:
        verdict.assumed.append("no order is in the text: 0 is taken")
    if request.unknown_gfp:
        verdict.assumed.append(f"flags not known here: {', '.join(request.unknown_gfp)}")
    _decide(report, verdict)
    _tell_unseen(report, verdict)
    return verdict


def allowed_nodes(report: Report) -> tuple[int, ...] | None:
    """Nodes that policy and cpuset allow; None if the text names none."""
    request = report.request
    masks = [set(mask) for mask in (request.nodemask, request.mems_allowed) if mask]
    return tuple(sorted(set.intersection(*masks))) if masks else None


def highest_zone(report: Report, gfp: int) -> str:
    """Name of the highest zone that gfp flags allow (gfp_zone), on that machine."""
    if gfp & Gfp.MOVABLE and gfp & Gfp.HIGHMEM:
        return "Movable"
    if gfp & Gfp.HIGHMEM and report.has_highmem:
        return "HighMem"
    if gfp & Gfp.DMA:
        return "DMA"
    return "DMA32" if gfp & Gfp.DMA32 and not report.has_highmem else "Normal"


def rules_version(report: Report) -> tuple[int, int]:
    """The kernel's version; where it is not printed, the oldest that prints such zones."""
    if report.version:
        return report.version
    printed = {name for zone in report.zones for name in zone.kb}
    for name, since in (("boost", (5, 16)), ("reserved_highatomic", (5, 8)), ("managed", (3, 9))):
        if name in printed:
            return (6, 1) if "sec_pagetables" in {f for kb in report.nodes.values() for f in kb} else since
    return (2, 6)


def order_cost(report: Report, order: int) -> int:
    """Pages that do not count because the request takes them: 2^order - 1.

    From 2.6.37 to 3.2 it was 2^order + 1, by mistake (mended in "fix off-by-two in __zone_watermark_ok").
    """
    sublevel = _SUBLEVEL.match(report.kernel)
    version = rules_version(report)
    off_by_two = int(sublevel[1]) >= 37 if sublevel else (3, 0) <= version < (3, 3)
    return (1 << order) + (1 if off_by_two else -1)


def _urgent(report: Report, gfp: int) -> tuple[bool, bool]:
    """Whether a request lowers the mark by half (__GFP_HIGH), and by a further quarter (ALLOC_HARDER)."""
    high = bool(gfp & Gfp.HIGH)
    if rules_version(report) >= (6, 3):
        return high, high and not gfp & Gfp.DIRECT_RECLAIM and not gfp & Gfp.NOMEMALLOC
    return high, bool(gfp & Gfp.ATOMIC) and not gfp & Gfp.NOMEMALLOC


def _check(
    report: Report,
    zone: ReportedZone,
    order: int,
    gfp: int,
    class_name: str,
    allowed: tuple[int, ...] | None,
) -> ZoneCheck:
    """Compare one zone as the kernel does."""
    names = report.zone_names
    free, mark, high = (report.pages(zone, name) or 0 for name in ("free", "min", "high"))
    listed = None if zone.list_sum_kb is None else zone.list_sum_kb // report.page_kb
    class_at = names.index(class_name)
    if names.index(zone.name) > class_at:
        return ZoneCheck(zone, ABOVE_CLASS, free, mark=mark, lowered=mark, high=high, listed=listed)
    if allowed is not None and zone.nid not in allowed:
        return ZoneCheck(zone, NODE_FORBIDDEN, free, mark=mark, lowered=mark, high=high, listed=listed)
    if zone.kb.get("managed") == 0:
        return ZoneCheck(zone, NO_MANAGED, free, listed=listed)
    half, quarter = _urgent(report, gfp)
    boost = report.pages(zone, "boost") or 0
    rose = boost_rose(report, zone)
    lowered = mark + rose
    if order == 0 and boost and quarter:
        lowered -= boost  # zone_watermark_fast(): an urgent request for one page is spared the boost
    lowered -= lowered // 2 if half else 0
    lowered -= lowered // 4 if quarter else 0
    reserves = zone.lowmem_reserve or ()
    kept = report.pages(zone, "free_highatomic")
    if kept is None:
        kept = report.pages(zone, "reserved_highatomic") or 0
    movable = bool(gfp & Gfp.MOVABLE)
    blocks, blocks_kept = _large_enough(zone, order, movable)
    check = ZoneCheck(
        zone,
        PASSES,
        free,
        highatomic=0 if quarter else kept,
        cma=0 if movable else report.pages(zone, "free_cma") or 0,
        cost=order_cost(report, order),
        mark=mark,
        boost=boost,
        boost_rose=rose,
        lowered=lowered,
        high=high + rose if rose else high,
        reserve=reserves[min(class_at, len(reserves) - 1)] if reserves else 0,
        blocks=blocks,
        blocks_kept=blocks_kept,
        listed=listed,
    )
    return _with_outcome(report, check, order)


def _with_outcome(report: Report, check: ZoneCheck, order: int) -> ZoneCheck:
    outcome = PASSES
    if check.short >= 0:
        outcome = BELOW_MIN
    elif order and (check.blocks == 0 or _halved(report, check, order)):
        outcome = NO_BLOCK
    elif report.request.kind == OOM and check.short_of_high >= 0:
        outcome = LAST_TRY
    fields = {name: getattr(check, name) for name in ZoneCheck.__slots__}
    return ZoneCheck(**(fields | {"outcome": outcome}))


def _halved(report: Report, check: ZoneCheck, order: int) -> bool:
    """Whether a kernel before 4.4 refuses: pages in smaller blocks do not count, and the mark is halved."""
    if rules_version(report) >= (4, 4) or check.zone.blocks is None:
        return False
    usable, mark = check.usable - check.cost, check.lowered
    for lower in range(order):
        usable -= check.zone.blocks[lower] << lower
        mark >>= 1
        if usable <= mark:
            return True
    return False


def boost_rose(report: Report, zone: ReportedZone) -> int:
    """What a boost that is not printed grew by while the marks were printed: low - min is larger for it.

    low - min and high - low are the same but for that, and a boost grows by whole pageblocks
    (boost_watermark). Another difference is not taken for one.
    """
    if not (5, 0) <= rules_version(report) < (5, 16) or "boost" in zone.kb or report.page_kb != 4:
        return 0
    mark, low, high = (report.pages(zone, name) for name in ("min", "low", "high"))
    if mark is None or low is None or high is None:
        return 0
    rose = (low - mark) - (high - low)
    return rose if rose > 0 and rose % PAGEBLOCK_NR_PAGES == 0 else 0


def _large_enough(zone: ReportedZone, order: int, movable: bool) -> tuple[int | None, int]:
    """Free blocks of an order or more that the request may take (None: not known), and that it may not."""
    if zone.blocks is None:
        return None, 0
    may = kept = 0
    for count, types in zip(zone.blocks[order:], zone.types[order:], strict=True):
        if not types or set(types) & (_ORDINARY | ({"C"} if movable else set())):
            may += count
        else:
            kept += count
    return may, kept


def _decide(report: Report, verdict: Verdict) -> None:
    request = report.request
    candidates = [c for c in verdict.checks if c.outcome not in (ABOVE_CLASS, NODE_FORBIDDEN, NO_MANAGED)]
    passing = [check for check in candidates if check.outcome == PASSES]
    say = verdict.text.append
    if request.kind == SYSRQ:
        verdict.explained, verdict.cause = True, CAUSE_MANUAL
        say("It was asked for by hand (sysrq): no allocation had failed.")
        if passing:
            say(f"{_zones(passing)} could have served an ordinary request at once.")
        return
    if request.constraint == "MEMCG":
        verdict.explained, verdict.cause = True, CAUSE_MEMCG
        say("The limit of a memory cgroup was reached; what the zones have free does not matter.")
        return
    if request.no_addresses:
        verdict.cause = CAUSE_ADDRESSES
        say(
            "The numbers do not explain it: vmalloc found no range of free addresses (vm_struct), "
            "and pages were not what it lacked."
        )
        return
    if not candidates:
        verdict.explained, verdict.cause = True, CAUSE_NO_ZONE
        say(f"No zone that the request may use has a page: {_why_none(verdict)}.")
        return
    if passing:
        marks = _is(passing, "is above its mark", "are above their marks")
        blocks = " with blocks that are large enough" if verdict.order else ""
        say(f"The numbers do not explain it: {_zones(passing)} {marks}{blocks}.")
        if request.kind == OOM and request.gfp == 0:
            say("gfp_mask=0x0 names no request: the page-fault path asked for the kill by itself.")
        else:
            say(
                "Look for what is not in the text: zones or nodes left out, the size of a vmalloc, a limit "
                "of a memory cgroup, or a moment that had passed when the text was printed."
            )
        return
    verdict.explained = True
    outcomes = {check.outcome for check in candidates}
    if verdict.order and (NO_BLOCK in outcomes or all(check.blocks == 0 for check in candidates)):
        verdict.cause = CAUSE_FRAGMENTED
        say(f"{_fragmented(report, verdict, candidates)}{_elsewhere(report, verdict)}.")
    elif LAST_TRY in outcomes:
        verdict.cause = CAUSE_LAST_TRY
        main = _main_zone(report, [check for check in candidates if check.outcome == LAST_TRY])
        others = "; no other zone that it may use is above that" if len(candidates) > 1 else ""
        say(
            f"Reclaim had given up, and {_named(main, candidates)} is above min but "
            f"{_amount(report, main.short_of_high)} short of high, at which the kernel tries once more "
            f"before it kills{others}{_elsewhere(report, verdict)}."
        )
    else:
        verdict.cause = CAUSE_MARKS
        main = _main_zone(report, candidates)
        zone, more = _named(main, candidates), len(candidates) - 1
        others = ""
        if more:
            others = "; so is the other zone" if more == 1 else f"; so are the {more} other zones"
            others += " that it may use"
        say(
            f"{zone[0].upper()}{zone[1:]} is {_lacks(report, main)}{others}{_kept_there(report, main)}"
            f"{_elsewhere(report, verdict)}."
        )


def _main_zone(report: Report, checks: list[ZoneCheck]) -> ZoneCheck:
    """The zone to tell of: of those of the highest type, used first, the nearest to its mark."""
    return min(checks, key=lambda check: (-report.zone_names.index(check.zone.name), check.short))


def _named(check: ZoneCheck, candidates: list[ZoneCheck]) -> str:
    return _zones([check]) + (", the only zone that the request may use," if len(candidates) == 1 else "")


def _lacks(report: Report, check: ZoneCheck) -> str:
    mark = "min" if check.lowered == check.mark + check.boost_rose else "the lower min of an urgent request"
    if check.reserve:
        mark += " and its reserve"
    if not check.short:
        return f"just at {mark}, and must be above"
    return f"{_amount(report, check.short)} short of {mark}"


def _kept_there(report: Report, check: ZoneCheck) -> str:
    """What else was free in that zone, and whether it is the boost of its mark that is in the way."""
    text = ""
    for pages, where in ((check.cma, "CMA areas"), (check.highatomic, "the high-atomic reserve")):
        if pages:
            size = size_text(pages * report.page_kb << 10)
            text += f"; {size} more are free there in {where}, which the request may not use"
    if check.short < check.boost + check.boost_rose:
        text += f"; without the boost of {check.boost + check.boost_rose} pages it would pass"
    return text


def _fragmented(report: Report, verdict: Verdict, candidates: list[ZoneCheck]) -> str:
    """What of the free memory was in blocks, and how large the largest was that the request may take."""
    needed = report.page_kb << verdict.order
    text = f"Free memory is in pieces that are too small: order {verdict.order} needs {needed} kB in a row"
    largest = [
        (order, check)
        for check in candidates
        if (order := _largest_order(check.zone, bool(verdict.gfp & Gfp.MOVABLE))) is not None
        and order < verdict.order
    ]
    if largest and len(largest) == len(candidates):
        order, check = max(largest, key=lambda item: item[0])
        text += f", and the largest free block is one of {report.page_kb << order} kB, in {_zones([check])}"
    return text


def _largest_order(zone: ReportedZone, movable: bool) -> int | None:
    """The largest order of which a request may take a free block; None: there is none, or it is not known."""
    for order in range(len(zone.blocks or ()) - 1, -1, -1):
        if _large_enough(zone, order, movable)[0]:
            return order
    return None


def _elsewhere(report: Report, verdict: Verdict) -> str:
    """What was free where the request could not go, if that is more than a zone must keep."""
    parts = []
    for outcome, why in (
        (NODE_FORBIDDEN, "not allowed"),
        (ABOVE_CLASS, f"above {verdict.class_name}, the highest zone of its flags"),
    ):
        rich = [check for check in verdict.checks if check.outcome == outcome and check.free > check.high]
        if rich:
            free = size_text(sum(check.free for check in rich) * report.page_kb << 10)
            parts.append(f"; {_zones(rich)}, {_is(rich, 'which is', 'which are')} {why}, had {free} free")
    return "".join(parts)


def _amount(report: Report, pages: int) -> str:
    """Pages, and how much that is."""
    return f"{pages} {'page' if pages == 1 else 'pages'} ({size_text(pages * report.page_kb << 10)})"


def size_text(size: int) -> str:
    """Bytes for people: "1.5 GiB"."""
    for shift, unit in ((40, "TiB"), (30, "GiB"), (20, "MiB")):
        if size >> shift:
            return f"{size / (1 << shift):.1f} {unit}"
    return f"{size >> 10} KiB"


def _why_none(verdict: Verdict) -> str:
    reasons = []
    above = [check for check in verdict.checks if check.outcome == ABOVE_CLASS]
    empty = [check for check in verdict.checks if check.outcome == NO_MANAGED]
    if empty:
        reasons.append(f"{_zones(empty)} {_is(empty, 'has', 'have')} no managed page")
    if above:
        highest = f"{verdict.class_name}, the highest zone that its flags allow"
        reasons.append(f"{_zones(above)} {_is(above, 'is', 'are')} above {highest}")
    if verdict.allowed is not None:
        reasons.append(f"nodes allowed: {format_cpulist(verdict.allowed)}")
    return "; ".join(reasons)


def _tell_unseen(report: Report, verdict: Verdict) -> None:
    """Say which allowed nodes, and which zones, are not in the text."""
    shown = {zone.nid for zone in report.zones}
    named = set(report.nodes) | set(verdict.allowed or ())
    missing = sorted(nid for nid in named - shown if verdict.allowed is None or nid in verdict.allowed)
    if not missing and verdict.allowed is None and shown and min(shown) > 0:
        missing = list(range(min(shown)))
    if missing and report.request.kind != SYSRQ:
        verdict.assumed.append(
            f"zones of node {format_cpulist(missing)} are not in the text: what they had free is not known"
        )
    for check in verdict.checks:
        listed, free = check.listed, check.free
        if listed is not None and check.outcome in (PASSES, LAST_TRY) and listed < free:
            lacks = check.short + free - listed
            if lacks >= 0 > check.short:
                verdict.text.append(
                    f"By its free list, which is counted later, node {check.zone.nid} {check.zone.name} has "
                    f"{free - listed} pages less and is {lacks} short."
                )


def _is(checks: list[ZoneCheck], one: str, several: str) -> str:
    return one if len(checks) == 1 else several


def _zones(checks: list[ZoneCheck]) -> str:
    names = [f"node {check.zone.nid} {check.zone.name}" for check in checks]
    return ", ".join(names[:-1]) + (" and " if len(names) > 1 else "") + names[-1]
