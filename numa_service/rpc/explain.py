"""Explanations on the wire."""

from __future__ import annotations

from functools import singledispatch

from numa_client._gen.numa.v1 import explanation_pb2 as pb2
from numa_client._gen.numa.v1 import types_pb2

from numa_service.node.explain import (
    DrainStep,
    Explanation,
    LeftBecause,
    NodeAccount,
    NodeVisit,
    PassStep,
    ReclaimStep,
    Step,
    WakeupStep,
    WalkStep,
    WatermarkCheck,
    ZoneVisit,
)


def explanation(explained: Explanation, cost: types_pb2.Cost) -> pb2.Explanation:
    """An explanation; `cost` is the request's account, which the response has too."""
    return pb2.Explanation(
        node=explained.nid,
        cpu=explained.cpu,
        gfp_flags=explained.gfp,
        order=explained.order,
        count=explained.count,
        migratetype=explained.migratetype,
        classzone=explained.classzone,
        policy=types_pb2.Policy(
            mode=types_pb2.PolicyMode.Name(explained.policy.mode), nodes=explained.policy.nodes
        ),
        profile=explained.profile,
        steps=[_step(step) for step in explained.steps],
        placement=[pb2.NodeBlocks(node=nid, blocks=blocks) for nid, blocks in explained.placement],
        cost=cost,
        failure=explained.failure,
    )


@singledispatch
def _step(step: Step) -> pb2.Step:
    raise TypeError(f"not a step: {step!r}")


@_step.register
def _(step: WalkStep) -> pb2.Step:
    return pb2.Step(
        latency_ns=step.latency_ns,
        walk=pb2.Walk(
            node=step.nid,
            this_node_only=step.this_node_only,
            count=step.count,
            zones=[pb2.ZoneOfNode(node=nid, zone=zone) for nid, zone in step.zones],
            left_out=[
                pb2.LeftOutZone(
                    zone=pb2.ZoneOfNode(node=nid, zone=zone), reason=pb2.LeftOutReason.Name(reason)
                )
                for nid, zone, reason in step.left_out
            ],
        ),
    )


@_step.register
def _(step: PassStep) -> pb2.Step:
    return pb2.Step(
        latency_ns=step.latency_ns,
        freelist_pass=pb2.FreelistPass(
            name=step.name, alloc_flags=step.alloc_flags, nodes=[_node_visit(visit) for visit in step.nodes]
        ),
    )


@_step.register
def _(step: WakeupStep) -> pb2.Step:
    return pb2.Step(
        latency_ns=step.latency_ns,
        kswapd_wakeup=pb2.KswapdWakeup(node=step.nid, woken=step.woken, away=step.away),
    )


@_step.register
def _(step: ReclaimStep) -> pb2.Step:
    return pb2.Step(
        latency_ns=step.latency_ns,
        direct_reclaim=pb2.DirectReclaim(
            node=step.nid,
            priority=step.priority,
            scanned_pages=step.scanned,
            reclaimed_pages=step.reclaimed,
            away=step.away,
        ),
    )


@_step.register
def _(step: DrainStep) -> pb2.Step:
    return pb2.Step(
        latency_ns=step.latency_ns,
        pageset_drain=pb2.PagesetDrain(node=step.nid, drained_pages=step.drained, away=step.away),
    )


def _node_visit(visit: NodeVisit) -> pb2.NodeVisit:
    return pb2.NodeVisit(
        node=visit.nid,
        remote=visit.remote,
        away=visit.away,
        account=account(visit.account) if visit.account else None,
        cached_full=visit.cached_full,
    )


# the part that travels between nodes, both ways


def account(accounted: NodeAccount) -> pb2.NodeAccount:
    """What a node did for one pass."""
    return pb2.NodeAccount(
        zones=[_zone(visit) for visit in accounted.zones], steals=accounted.steals, order=accounted.order
    )


def account_of(message: pb2.NodeAccount) -> NodeAccount:
    """Inverse of :func:`account`."""
    return NodeAccount(
        tuple(_zone_of(zone, message.order) for zone in message.zones), message.steals, message.order
    )


def _zone(visit: ZoneVisit) -> pb2.ZoneVisit:
    return pb2.ZoneVisit(
        zone=visit.zone,
        before=_check(visit.before),
        after=_check(visit.after),
        served_blocks=visit.served_blocks,
        left_because=pb2.LeftBecause.Name(visit.left_because),
        pageset_before_pages=visit.pageset_before,
        pageset_after_pages=visit.pageset_after,
        buddy_blocks=visit.buddy_blocks,
        splits=visit.splits,
        claims=[pb2.Claim(from_type=a, to_type=b, pageblocks=n) for a, b, n in visit.claims],
        foreign_blocks=[pb2.TypeBlocks(migratetype=mt, blocks=n) for mt, n in visit.foreign_blocks],
    )


def _zone_of(message: pb2.ZoneVisit, order: int) -> ZoneVisit:
    return ZoneVisit(
        zone=message.zone,
        before=_check_of(message.before, order),
        after=_check_of(message.after, order),
        served_blocks=message.served_blocks,
        left_because=LeftBecause(message.left_because),
        pageset_before=message.pageset_before_pages,
        pageset_after=message.pageset_after_pages,
        buddy_blocks=message.buddy_blocks,
        splits=tuple(message.splits),
        claims=tuple((c.from_type, c.to_type, c.pageblocks) for c in message.claims),
        foreign_blocks=tuple((t.migratetype, t.blocks) for t in message.foreign_blocks),
    )


def _check(check: WatermarkCheck) -> pb2.WatermarkCheck:
    return pb2.WatermarkCheck(
        mark_name=check.mark_name,
        free_pages=check.free,
        unusable_pages=check.unusable,
        order_cost_pages=check.order_cost,
        mark_pages=check.mark,
        boost_pages=check.boost,
        high_part_pages=check.high_part,
        harder_part_pages=check.harder_part,
        lowmem_reserve_pages=check.lowmem_reserve,
        largest_free_order=check.largest_free_order,
        ok=check.ok,
        cma_pages=check.cma,
        too_small_pages=check.too_small,
        halvings=check.halvings,
    )


def _check_of(message: pb2.WatermarkCheck, order: int) -> WatermarkCheck:
    return WatermarkCheck(
        mark_name=message.mark_name,
        free=message.free_pages,
        unusable=message.unusable_pages,
        order_cost=message.order_cost_pages,
        mark=message.mark_pages,
        boost=message.boost_pages,
        high_part=message.high_part_pages,
        harder_part=message.harder_part_pages,
        lowmem_reserve=message.lowmem_reserve_pages,
        largest_free_order=message.largest_free_order,
        order=order,
        cma=message.cma_pages,
        too_small=message.too_small_pages,
        halvings=message.halvings,
    )
