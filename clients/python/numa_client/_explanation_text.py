"""The text of an explanation: a line for each zone, with both sides of the kernel's watermark check."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from numa_client import _explanation_steps as e
from numa_client._types import Cost

_PARTS = ("access", "pageset", "buddy", "fallback", "reclaim", "zeroing", "queueing")


def lines(steps: Sequence[e.Step], order: int) -> Iterator[str]:
    """The lines for the steps of a request for blocks of that order."""
    for reclaim, some in groupby(steps, lambda step: isinstance(step, e.DirectReclaim)):
        if reclaim:
            yield from _reclaim([step for step in some if isinstance(step, e.DirectReclaim)])
        else:
            for step in some:
                yield from _step(step, order)


def blocks(count: int, order: int) -> str:
    """A number of blocks in words: "3 blocks of order 2", "1 page"."""
    return f"{_plural(count, 'block')} of order {order}" if order else _plural(count, "page")


def spent(cost: Cost) -> str:
    """A cost in words, without the parts that are zero."""
    parts = [(part, getattr(cost, f"{part}_ns")) for part in _PARTS]
    listed = ", ".join(f"{part} {ns:,}" for part, ns in parts if ns)
    return f"{cost.latency_ns:,} virtual ns" + (f": {listed}" if listed else "")


def _step(step: e.Step, order: int) -> Iterator[str]:
    match step:
        case e.WalkStep():
            which = "this-node list" if step.this_node_only else "zonelist"
            yield f"{which} of node {step.node}, {blocks(step.count, order)}: {_zones(step.zones)}"
            if step.chosen:
                yield f"  policy: {step.chosen}"
            if step.above_class:
                yield f"  left out, above the class: {_zones(step.above_class)}"
            if step.outside_nodemask:
                yield f"  left out, not in the nodemask: {_zones(step.outside_nodemask)}"
        case e.FreelistPass():
            yield f"{step.name}, {' '.join(step.alloc_flags)}{_took(step.latency_ns)}"
            for visit in step.nodes:
                yield from _node(visit, order)
        case e.KswapdWakeup():
            what = step.away or ("woken" if step.woken else "not woken: awake, balanced, or without hope")
            yield f"kswapd{step.node}: {what}"
        case e.PagesetDrain():
            what = step.away or f"{step.drained_pages} pages"
            yield f"pagesets of node {step.node} drained: {what}"


def _reclaim(passes: list[e.DirectReclaim]) -> Iterator[str]:
    """A line for each pass that scanned something; consecutive passes that found nothing share one."""
    for idle, some in groupby(passes, lambda step: not step.scanned_pages and not step.away):
        steps = list(some)
        if idle:
            nodes = ", ".join(str(nid) for nid in sorted({step.node for step in steps}))
            first, last = steps[0].priority, steps[-1].priority
            span = f"priority {first}" if first == last else f"priorities {first} to {last}"
            yield f"direct reclaim on node {nodes}, {span}: nothing to scan"
            continue
        for step in steps:
            what = step.away or f"scanned {step.scanned_pages}, reclaimed {step.reclaimed_pages}"
            what += _took(step.latency_ns)
            yield f"direct reclaim on node {step.node}, priority {step.priority}: {what}"


def _node(visit: e.NodeVisit, order: int) -> Iterator[str]:
    if visit.away:
        yield f"  {visit.node}: {visit.away}"
    if visit.remote and visit.zones:
        yield f"  lookup at node {visit.node}"
    for zone in visit.zones:
        yield from _zone(visit.node, zone, order)
    for name in visit.cached_full:
        yield f"  {visit.node}:{name:<8} skipped: zonelist cache says full"
    if visit.steals:
        yield f"  {_plural(visit.steals, 'fallback')} to another migratetype on node {visit.node}"


def _zone(nid: int, zone: e.ZoneVisit, order: int) -> Iterator[str]:
    where = f"  {nid}:{zone.zone:<8}"
    if not zone.served_blocks:
        yield f"{where} {comparison(zone.before)}: skipped, {_why(zone, zone.before, order)}"
        return
    yield f"{where} {comparison(zone.before)}: {_plural(zone.served_blocks, 'block')}"
    yield f"    {_source(zone)}"
    for claim, blocks in zone.claims.items():
        yield f"    claimed {_plural(blocks, 'pageblock')}: {claim}"
    for migratetype, blocks in zone.foreign_blocks.items():
        yield f"    {_plural(blocks, 'block')} out of {migratetype} pageblocks"
    if zone.left_because != "complete":
        yield f"    then {comparison(zone.after)}: {_why(zone, zone.after, order)}"


def comparison(check: e.WatermarkCheck) -> str:
    """Both sides of the watermark check, with the names of all parts that are not zero."""
    left = f"free {check.free_pages}"
    if check.order_cost_pages:
        left += f" - {check.order_cost_pages}"
    if check.unusable_pages:
        left += f" - {check.unusable_pages} highatomic"
    if check.cma_pages:
        left += f" - {check.cma_pages} CMA"
    if check.too_small_pages:
        left += f" - {check.too_small_pages} too small"
    if not check.mark_name:
        return f"{left}, no watermark"
    sign = ">" if check.above_mark else "<="
    right = f"{check.mark_name} {check.mark_pages}"
    if check.boost_pages:
        right += f" + {check.boost_pages} boost"
    if check.high_part_pages:
        right += f" - {check.high_part_pages} HIGH"
    if check.harder_part_pages:
        right += f" - {check.harder_part_pages} HARDER"
    if check.halvings:
        return f"{left} {sign} ({right}) / {1 << check.halvings}"
    return f"{left} {sign} {right} + reserve {check.lowmem_reserve_pages}"


def _why(zone: e.ZoneVisit, check: e.WatermarkCheck, order: int) -> str:
    match zone.left_because:
        case "below_mark":
            # the comparison is strict: it passes from one page more than the right side on
            return f"{_plural(check.needed_pages + 1 - check.usable_pages, 'page')} short"
        case "no_block":
            largest = f" (largest {check.largest_free_order})" if check.largest_free_order >= 0 else ""
            return f"no free block of order {order}{largest}"
        case "would_mix":
            return "its blocks are of another migratetype"
        case "reserved":
            return "its blocks are reserved for others"
        case "fair_share":
            return "it has given its share, it is another zone's turn"
        case _:
            return "the request is complete"


def _source(zone: e.ZoneVisit) -> str:
    parts = []
    if zone.pageset_before_pages or zone.pageset_after_pages:
        parts.append(f"pageset {zone.pageset_before_pages} -> {zone.pageset_after_pages} pages")
    parts.append(
        f"{zone.buddy_blocks} from the buddy lists" if zone.buddy_blocks else "no buddy list touched"
    )
    if zone.splits:
        parts.append(
            "split " + " ".join(f"{n}x{order}" for order, n in sorted(zone.splits.items(), reverse=True))
        )
    return ", ".join(parts)


def _took(latency_ns: int) -> str:
    return f" ({latency_ns:,} ns)" if latency_ns else ""


def _zones(zones: Sequence[e.Zone]) -> str:
    return " ".join(f"{nid}:{zone}" for nid, zone in zones)


def _plural(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
