"""Converts explanations from protobuf. The service's counterpart is ``numa_service/rpc/explain.py``."""

from __future__ import annotations

import grpc

from numa_client import _explanation_steps as e
from numa_client import _types as t
from numa_client._errors import NumaError
from numa_client._explanation import Explanation
from numa_client._gen.numa.v1 import explanation_pb2 as pb2
from numa_client._policy import Policy

#: Number on the wire → why a zone was left.
LEFT_BECAUSE: dict[pb2.LeftBecause, e.LeftBecause] = {
    pb2.LEFT_BECAUSE_UNSPECIFIED: "complete",
    pb2.LEFT_BECAUSE_BELOW_MARK: "below_mark",
    pb2.LEFT_BECAUSE_NO_BLOCK: "no_block",
    pb2.LEFT_BECAUSE_WOULD_MIX: "would_mix",
    pb2.LEFT_BECAUSE_RESERVED: "reserved",
    pb2.LEFT_BECAUSE_FAIR_SHARE: "fair_share",
}


def explanation(message: pb2.Explanation, cost: t.Cost, policy: Policy) -> Explanation:
    """Convert an explanation; its cost and its policy are converted already."""
    return Explanation(
        node=message.node,
        cpu=message.cpu,
        gfp=message.gfp_flags,
        order=message.order,
        count=message.count,
        migratetype=message.migratetype,
        classzone=message.classzone,
        policy=policy,
        profile=message.profile,
        steps=tuple(_step(step) for step in message.steps),
        placement={entry.node: entry.blocks for entry in message.placement},
        cost=cost,
        failure=message.failure,
    )


def _step(message: pb2.Step) -> e.Step:
    latency_ns = message.latency_ns
    match message.WhichOneof("step"):
        case "walk":
            return _walk(message.walk, latency_ns)
        case "freelist_pass":
            one = message.freelist_pass
            nodes = tuple(_node(visit) for visit in one.nodes)
            return e.FreelistPass(one.name, tuple(one.alloc_flags), nodes, latency_ns)
        case "kswapd_wakeup":
            wakeup = message.kswapd_wakeup
            return e.KswapdWakeup(wakeup.node, wakeup.woken, wakeup.away, latency_ns)
        case "direct_reclaim":
            r = message.direct_reclaim
            return e.DirectReclaim(r.node, r.priority, r.scanned_pages, r.reclaimed_pages, r.away, latency_ns)
        case "pageset_drain":
            drain = message.pageset_drain
            return e.PagesetDrain(drain.node, drain.drained_pages, drain.away, latency_ns)
    raise NumaError(
        "the explanation has a step that this client does not know: the service is newer, use its client",
        code=grpc.StatusCode.UNIMPLEMENTED,
    )


def _walk(walk: pb2.Walk, latency_ns: int) -> e.WalkStep:
    def left_out(reason: pb2.LeftOutReason) -> tuple[e.Zone, ...]:
        return tuple((z.zone.node, z.zone.zone) for z in walk.left_out if z.reason == reason)

    return e.WalkStep(
        node=walk.node,
        this_node_only=walk.this_node_only,
        count=walk.count,
        zones=tuple((zone.node, zone.zone) for zone in walk.zones),
        above_class=left_out(pb2.LEFT_OUT_REASON_CLASS),
        outside_nodemask=left_out(pb2.LEFT_OUT_REASON_NODEMASK),
        latency_ns=latency_ns,
        chosen=walk.chosen,
    )


def _node(visit: pb2.NodeVisit) -> e.NodeVisit:
    return e.NodeVisit(
        node=visit.node,
        remote=visit.remote,
        away=visit.away,
        zones=tuple(zone_visit(zone) for zone in visit.account.zones),
        steals=visit.account.steals,
        cached_full=tuple(visit.cached_full),
    )


def zone_visit(zone: pb2.ZoneVisit) -> e.ZoneVisit:
    """Convert one zone. The service uses this, too, for the part of an explanation that other nodes send."""
    return e.ZoneVisit(
        zone=zone.zone,
        before=_check(zone.before),
        after=_check(zone.after),
        served_blocks=zone.served_blocks,
        left_because=LEFT_BECAUSE.get(zone.left_because, "complete"),
        pageset_before_pages=zone.pageset_before_pages,
        pageset_after_pages=zone.pageset_after_pages,
        buddy_blocks=zone.buddy_blocks,
        splits={order: n for order, n in enumerate(zone.splits) if n},
        claims={f"{claim.from_type} -> {claim.to_type}": claim.pageblocks for claim in zone.claims},
        foreign_blocks={entry.migratetype: entry.blocks for entry in zone.foreign_blocks},
    )


def _check(check: pb2.WatermarkCheck) -> e.WatermarkCheck:
    return e.WatermarkCheck(
        mark_name=check.mark_name,
        free_pages=check.free_pages,
        unusable_pages=check.unusable_pages,
        order_cost_pages=check.order_cost_pages,
        mark_pages=check.mark_pages,
        boost_pages=check.boost_pages,
        high_part_pages=check.high_part_pages,
        harder_part_pages=check.harder_part_pages,
        lowmem_reserve_pages=check.lowmem_reserve_pages,
        largest_free_order=check.largest_free_order,
        ok=check.ok,
        cma_pages=check.cma_pages,
        too_small_pages=check.too_small_pages,
        halvings=check.halvings,
    )
