"""Converts explanations of allocations to protobuf, and a node's part of one in both directions.

``numa_client/_explanation_codec.py`` converts them back, for clients and for the nodes that asked.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import assert_never

from numa_client import (
    DirectReclaim,
    Explanation,
    FreelistPass,
    KswapdWakeup,
    NodeVisit,
    PagesetDrain,
    WalkStep,
    WatermarkCheck,
    ZoneVisit,
)
from numa_client._codec import policy_message
from numa_client._explanation_codec import LEFT_BECAUSE, zone_visit
from numa_client._explanation_steps import Step, Zone
from numa_client._gen.numa.v1 import explanation_pb2 as pb2
from numa_client._gen.numa.v1 import types_pb2

from numa_service.node.explanation_recorder import NodeAccount

_LEFT_BECAUSE = {name: number for number, name in LEFT_BECAUSE.items()}


def explanation(explained: Explanation, cost: types_pb2.Cost) -> pb2.Explanation:
    """Convert an explanation; `cost` is the request's cost, which the response repeats."""
    return pb2.Explanation(
        node=explained.node,
        cpu=explained.cpu,
        gfp_flags=explained.gfp,
        order=explained.order,
        count=explained.count,
        migratetype=explained.migratetype,
        classzone=explained.classzone,
        policy=policy_message(explained.policy),
        profile=explained.profile,
        steps=[_step(step) for step in explained.steps],
        placement=[pb2.NodeBlocks(node=nid, blocks=blocks) for nid, blocks in explained.placement.items()],
        cost=cost,
        failure=explained.failure,
    )


def _step(step: Step) -> pb2.Step:
    message = pb2.Step(latency_ns=step.latency_ns)
    match step:
        case WalkStep():
            message.walk.CopyFrom(_walk(step))
        case FreelistPass(name, alloc_flags, nodes):
            visits = [_node_visit(visit) for visit in nodes]
            message.freelist_pass.CopyFrom(pb2.FreelistPass(name=name, alloc_flags=alloc_flags, nodes=visits))
        case KswapdWakeup(node, woken, away):
            message.kswapd_wakeup.CopyFrom(pb2.KswapdWakeup(node=node, woken=woken, away=away))
        case DirectReclaim():
            message.direct_reclaim.CopyFrom(
                pb2.DirectReclaim(
                    node=step.node,
                    priority=step.priority,
                    scanned_pages=step.scanned_pages,
                    reclaimed_pages=step.reclaimed_pages,
                    away=step.away,
                )
            )
        case PagesetDrain(node, drained, away):
            message.pageset_drain.CopyFrom(pb2.PagesetDrain(node=node, drained_pages=drained, away=away))
        case _:
            assert_never(step)
    return message


def _walk(step: WalkStep) -> pb2.Walk:
    def left_out(zones: Iterable[Zone], reason: pb2.LeftOutReason) -> list[pb2.LeftOutZone]:
        return [pb2.LeftOutZone(zone=zone, reason=reason) for zone in map(_zone_of_node, zones)]

    return pb2.Walk(
        node=step.node,
        this_node_only=step.this_node_only,
        count=step.count,
        zones=map(_zone_of_node, step.zones),
        left_out=left_out(step.above_class, pb2.LEFT_OUT_REASON_CLASS)
        + left_out(step.outside_nodemask, pb2.LEFT_OUT_REASON_NODEMASK),
        chosen=step.chosen,
    )


def _zone_of_node(zone: Zone) -> pb2.ZoneOfNode:
    return pb2.ZoneOfNode(node=zone[0], zone=zone[1])


def _node_visit(visit: NodeVisit) -> pb2.NodeVisit:
    return pb2.NodeVisit(
        node=visit.node,
        remote=visit.remote,
        away=visit.away,
        account=account(NodeAccount(visit.zones, visit.steals)) if visit.zones else None,
        cached_full=visit.cached_full,
    )


# the part that travels between nodes, in both directions


def account(accounted: NodeAccount) -> pb2.NodeAccount:
    """Convert what one node's zones did in one pass over the zonelist."""
    return pb2.NodeAccount(zones=[_zone(visit) for visit in accounted.zones], steals=accounted.steals)


def account_of(message: pb2.NodeAccount) -> NodeAccount:
    """Inverse of :func:`account`."""
    return NodeAccount(tuple(zone_visit(zone) for zone in message.zones), message.steals)


def _zone(visit: ZoneVisit) -> pb2.ZoneVisit:
    return pb2.ZoneVisit(
        zone=visit.zone,
        before=_check(visit.before),
        after=_check(visit.after),
        served_blocks=visit.served_blocks,
        left_because=_LEFT_BECAUSE[visit.left_because],
        pageset_before_pages=visit.pageset_before_pages,
        pageset_after_pages=visit.pageset_after_pages,
        buddy_blocks=visit.buddy_blocks,
        splits=[visit.splits.get(order, 0) for order in range(1 + max(visit.splits, default=-1))],
        claims=[_claim(types, pageblocks) for types, pageblocks in visit.claims.items()],
        foreign_blocks=[pb2.TypeBlocks(migratetype=mt, blocks=n) for mt, n in visit.foreign_blocks.items()],
    )


def _claim(types: str, pageblocks: int) -> pb2.Claim:
    from_type, _, to_type = types.partition(" -> ")
    return pb2.Claim(from_type=from_type, to_type=to_type, pageblocks=pageblocks)


def _check(check: WatermarkCheck) -> pb2.WatermarkCheck:
    return pb2.WatermarkCheck(
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
