"""kswapd: background reclaim of one node, in bounded steps (``mm/vmscan.c``: kswapd, balance_pgdat).

A generator like the slow path, but on its own: it lives beside its node (in an actor of its own, on Ray),
asks it for one step at a time, and the node serves others in between. If it dies, its successor starts
over from the node's own state; nothing is lost.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from numa_service.mm.mmzone import DEF_PRIORITY, SWAP_CLUSTER_MAX
from numa_service.node import ops
from numa_service.node.ops import Op

#: Pages that one step may reclaim: the node answers nobody else meanwhile.
STEP_PAGES = 64 * SWAP_CLUSTER_MAX
#: Boosted reclaim looks no closer than this: it is to cost nobody a page that is in use.
BOOST_PRIORITY = DEF_PRIORITY - 2


def balance_pgdat() -> Generator[Op[Any], Any, int]:
    """Reclaim until a zone meets its high watermark or nothing helps; pages reclaimed.

    Yields ops for the node and is sent their results. Priority rises (its number falls) whenever a pass did
    not get through what it wanted. A node that is balanced and has boosted watermarks gives up as many clean
    pages as they were boosted by; one that is not, is balanced first, and its boosts are then seen to.
    """
    total = 0
    wanted_again = True
    while wanted_again:
        work: ops.KswapdWork = yield ops.KswapdBegin()
        boost = sum(work.boosts)
        aim = min(work.nr_to_reclaim, STEP_PAGES)
        balanced = False
        reclaimed = 0
        priority = DEF_PRIORITY
        while priority >= 1:
            step: ops.BalanceResult = yield ops.Balance(
                work.order, work.highest_zoneidx, priority, aim, boosted=boost > 0
            )
            balanced = step.balanced
            if boost and not balanced:
                boost, priority = 0, DEF_PRIORITY
                continue
            if balanced and not boost:
                break
            reclaimed += step.reclaimed
            may_rise = step.scanned < aim and not (boost and priority == BOOST_PRIORITY)
            boost -= min(boost, step.reclaimed)
            if boost and not step.reclaimed:
                break  # what is clean is gone; the rest would have to be written
            if may_rise or not step.reclaimed:
                priority -= 1
        total += reclaimed
        wanted_again = yield ops.KswapdSleep(reclaimed, balanced, work.boosts)
    return total
