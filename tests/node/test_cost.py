"""A request's cost covers its own work, and not the work of earlier requests."""

from __future__ import annotations

from node.by_hand import ByHand

from numa_service.machine.source import load
from numa_service.mm.gfp import GFP_KERNEL
from numa_service.node import ops
from numa_service.node.mempolicy import Policy
from numa_service.node.page_alloc import alloc_pages
from numa_service.node.prepare import AllocRequest
from numa_service.node.region import close_session


def test_nobody_pays_for_what_another_session_has_freed() -> None:
    shell = ByHand(load("demo"))
    node = shell.nodes[0]

    def alloc(session: int, count: int) -> int:
        request = AllocRequest(session, GFP_KERNEL, 0, count, 0, Policy())
        return shell.call(0, alloc_pages(node, request)).cost.buddy_ns

    mine, other = (node.apply(ops.OpenSession(name, 10**15, 0)) for name in ("mine", "other"))
    alloc(mine, 512)  # the pageset is as full as it will be
    before = alloc(mine, 512)
    alloc(other, 20_000)
    shell.call(0, close_session(node, other))
    node.apply(ops.DrainPagesets())
    assert alloc(mine, 512) <= 2 * before
