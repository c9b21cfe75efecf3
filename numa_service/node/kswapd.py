"""kswapd: background reclaim of one node, in bounded steps (``mm/vmscan.c``: kswapd, balance_pgdat).

A generator like the slow path, but on its own: it lives beside its node (in an actor of its own, on Ray),
asks it for one step at a time, and the node serves others in between. If it dies, its successor starts
over from the node's own state; nothing is lost.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from numa_service.mm.vmscan import DEF_PRIORITY, SWAP_CLUSTER_MAX
from numa_service.node import ops
from numa_service.node.ops import Op

#: Pages that one step may reclaim: the node answers nobody else meanwhile.
STEP_PAGES = 64 * SWAP_CLUSTER_MAX


def balance_pgdat() -> Generator[Op[Any], Any, int]:
    """Reclaim until a zone meets its high watermark or nothing helps; pages reclaimed.

    Yields ops for the node and is sent their results. Priority rises (its number falls) whenever a pass did
    not get through what it wanted.
    """
    total = 0
    wanted_again = True
    while wanted_again:
        work: ops.KswapdWork = yield ops.KswapdBegin()
        balanced = False
        reclaimed = 0
        priority = DEF_PRIORITY
        while priority >= 1:
            step: ops.BalanceResult = yield ops.Balance(
                work.order, work.highest_zoneidx, priority, min(work.nr_to_reclaim, STEP_PAGES)
            )
            if step.balanced:
                balanced = True
                break
            reclaimed += step.reclaimed
            if step.reclaimed == 0 or step.scanned < min(work.nr_to_reclaim, STEP_PAGES):
                priority -= 1
        total += reclaimed
        wanted_again = yield ops.KswapdSleep(reclaimed, balanced, work.boosts)
    return total
