"""Daemons of a node: work that goes on beside requests, as whoever drives the node paces it."""

from __future__ import annotations

from numa_service.node import ops
from numa_service.node.node import Node


def run_kswapd(node: Node) -> int:
    """Let kswapd do all its work at once, if it is wanted; pages reclaimed."""
    reclaimed, runs_on = 0, node.kswapd_wanted
    while runs_on:
        step = node.apply(ops.KswapdStep())
        reclaimed += step.reclaimed if step.did is ops.KswapdDid.SCANNED else 0
        runs_on = step.runs_on
    return reclaimed
