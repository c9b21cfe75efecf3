"""kswapd of one node: where its run stands, and what it has done (``mm/vmscan.c``: kswapd, balance_pgdat).

The run is state of the node, advanced by one bounded step at a time (:class:`ops.KswapdStep`): the node
serves others in between. What a pass over the LRU lists has yet to scan is in ``PgData.scan_control``.
Whoever paces the steps (an actor of its own, on Ray) has no state: one that dies is replaced by another,
which goes on where the run stands.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from numa_service.mm.mmzone import DEF_PRIORITY, SWAP_CLUSTER_MAX
from numa_service.node.cost import Cost

#: Pages that one step may look at: the node answers nobody else meanwhile.
STEP_PAGES = 64 * SWAP_CLUSTER_MAX
#: Boosted reclaim looks no closer than this: it is to cost nobody a page that is in use.
BOOST_PRIORITY = DEF_PRIORITY - 2


@dataclass(slots=True)
class KswapdRun:
    """One run of kswapd, from its wakeup until it sleeps. Pages."""

    #: What it was woken for; 0 once twice as much is reclaimed: the rest is left to compaction.
    order: int
    highest_zoneidx: int
    #: Of each zone up to the highest one, what its watermarks were boosted by when the run began.
    boosts: tuple[int, ...]
    #: What is still to be given up for the boosts; 0: the run is for the sake of plain watermarks.
    boost: int
    priority: int = DEF_PRIORITY
    reclaimed: int = 0
    #: Of that, since it last began at DEF_PRIORITY (3.0).
    reclaimed_since_restart: int = 0
    balanced: bool = False
    #: Nothing is left to do but sleep.
    over: bool = False


@dataclass(slots=True)
class Kswapd:
    """What kswapd does now; and what it has done, for status and metrics."""

    run: KswapdRun | None = None
    #: Not state: nothing is decided by what follows.
    wakeups: int = 0
    reclaimed: int = 0
    #: What its work took; nobody waits for it.
    cost: Cost = field(default_factory=Cost)

    @property
    def running(self) -> bool:
        """Whether it is between a wakeup and its sleep."""
        return self.run is not None
