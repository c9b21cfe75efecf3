"""State of a node's kswapd: its current run and its totals (``mm/vmscan.c``: kswapd, balance_pgdat).

A run is advanced in bounded steps (:class:`ops.KswapdStep`), and the node serves requests between them. How
much the current pass over the LRU lists has still to scan is in ``PgData.scan_control``. The daemon that
makes the steps (on Ray, the Kswapd actor) has no state: if it dies, its replacement continues the run.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from numa_service.mm.mmzone import DEF_PRIORITY, SWAP_CLUSTER_MAX
from numa_service.node.cost import Cost

#: Pages that one step may scan. It is bounded because the node serves no request during a step.
STEP_PAGES = 64 * SWAP_CLUSTER_MAX
#: Boosted reclaim does not raise its priority beyond this, so that it takes no pages that are in use.
BOOST_PRIORITY = DEF_PRIORITY - 2


@dataclass(slots=True)
class KswapdRun:
    """One run of kswapd, from its wakeup until it sleeps. Amounts are in pages."""

    #: The order that it was woken for. It becomes 0 when twice 2^order pages are reclaimed: compaction is
    #: then expected to make the block.
    order: int
    highest_zoneidx: int
    #: watermark_boost of each zone up to the highest one when the run began.
    boosts: tuple[int, ...]
    #: Pages that are still to be reclaimed for the boosts; 0 while it reclaims for the watermarks proper.
    boost: int
    priority: int = DEF_PRIORITY
    reclaimed: int = 0
    #: Pages reclaimed since the priority was last reset to DEF_PRIORITY (linux-3.0 only).
    reclaimed_since_restart: int = 0
    balanced: bool = False
    #: The next step ends the run: kswapd goes to sleep.
    over: bool = False


@dataclass(slots=True)
class Kswapd:
    """kswapd of one node: its current run, and totals for status and metrics."""

    #: The current run; None while kswapd sleeps.
    run: KswapdRun | None = None
    #: Runs begun. The totals are not part of the node's state: no decision depends on them.
    wakeups: int = 0
    #: Pages reclaimed in all runs.
    reclaimed: int = 0
    #: Modelled time of all its work; no request waits for it.
    cost: Cost = field(default_factory=Cost)

    @property
    def running(self) -> bool:
        """Whether a run is in progress."""
        return self.run is not None
