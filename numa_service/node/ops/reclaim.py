"""Ops of reclaim: waking kswapd, its steps, direct reclaim, and draining of pagesets (``mm/vmscan.c``)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from numa_service.mm.mmzone import DEF_PRIORITY, SWAP_CLUSTER_MAX
from numa_service.mm.pgdata import (
    KSWAPD_FAILURES,
    KSWAPD_HIGHEST_ZONEIDX,
    KSWAPD_ORDER,
    KSWAPD_WOKEN,
)
from numa_service.mm.variants import PASS_WHOLE
from numa_service.mm.vmscan import NO_LIMIT, kswapd_target
from numa_service.mm.vmstat import PAGEOUTRUN
from numa_service.node.kswapd import BOOST_PRIORITY, STEP_PAGES, KswapdRun
from numa_service.node.ops.alloc import MAX_REQUEST_PAGES
from numa_service.node.ops.fields import (
    GFP_BITS,
    check_below,
    check_bits,
    check_migratetype,
    check_order,
    check_zoneidx,
    check_zones,
)
from numa_service.node.ops.op import Op
from numa_service.node.state import NodeState


@dataclass(frozen=True, slots=True)
class WakeKswapd(Op[bool]):
    """Wakes kswapd if the node needs it (wakeup_kswapd); the result is True if it was asleep and is woken."""

    tag = "wake_kswapd"
    asked = True

    order: int
    highest_zoneidx: int
    #: The gfp flags of the request, for tracepoints.
    gfp: int = 0

    def apply(self, node: NodeState) -> bool:
        """Wake kswapd for an order and a highest zone."""
        return node.pgdat.wakeup_kswapd(self.order, self.highest_zoneidx)

    def check(self, node: NodeState) -> None:
        """Check the order, the zone and the flags."""
        check_order(self.order)
        check_zoneidx(node, self.highest_zoneidx)
        check_bits("gfp_flags", self.gfp, GFP_BITS)

    def text(self, node: NodeState, result: bool) -> str:
        """Return the op and its result as one line."""
        outcome = "woken" if result else "not needed"
        zone = node.pgdat.zone_names[self.highest_zoneidx]
        return f"wakeup_kswapd order={self.order} classzone={zone} {outcome}"


@dataclass(frozen=True, slots=True)
class ReclaimResult:
    """What one pass of direct reclaim did, in pages."""

    scanned: int
    reclaimed: int
    #: PATH_* work counters.
    path: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Reclaim(Op[ReclaimResult]):
    """Makes one pass of direct reclaim over this node's LRU lists (shrink_node)."""

    tag = "reclaim"
    asked = True

    highest_zoneidx: int
    priority: int
    nr_to_reclaim: int

    def apply(self, node: NodeState) -> ReclaimResult:
        """Scan the share of the lists that the priority gives: size >> priority."""
        node.forget_path()
        scanned, reclaimed = node.pgdat.shrink(self.highest_zoneidx, self.priority, self.nr_to_reclaim)
        if reclaimed:
            node.pgdat.pg.kswapd[KSWAPD_FAILURES] = 0
        return ReclaimResult(scanned, reclaimed, node.take_path())

    def check(self, node: NodeState) -> None:
        """Check the zone, the priority, and that a request may have so many pages."""
        check_zoneidx(node, self.highest_zoneidx)
        check_below("priority", self.priority, DEF_PRIORITY + 1)
        check_below("nr_to_reclaim_pages", self.nr_to_reclaim, MAX_REQUEST_PAGES + 1)

    def text(self, node: NodeState, result: ReclaimResult) -> str:
        """Return the op and its result as one line."""
        done = f"scanned={result.scanned} reclaimed={result.reclaimed}"
        return f"direct_reclaim priority={self.priority} {done}"


@dataclass(frozen=True, slots=True)
class DrainPagesets(Op[int]):
    """Drains all pagesets, and releases a high-atomic pageblock, before a request gives up.

    The pageblock is one of `zones` (unreserve_highatomic_pageblock; with `force` even the last one). Then the
    pagesets of all CPUs are emptied (drain_all_pages). The result is the number of pages that they had.
    """

    tag = "drain_pagesets"
    asked = True

    zones: tuple[int, ...] = ()
    migratetype: int = 0
    force: bool = False

    def apply(self, node: NodeState) -> int:
        """Release the reserve, then empty the pagesets."""
        if self.zones:
            node.pgdat.unreserve_highatomic(self.zones, self.migratetype, self.force)
        pages = int(node.pgdat.pg.pcp_count.sum())
        node.pgdat.drain()
        return pages

    def check(self, node: NodeState) -> None:
        """Check the zones and the migratetype."""
        check_zones(node, self.zones)
        check_migratetype(self.migratetype)

    def text(self, node: NodeState, result: int) -> str:
        """Return the op and its result as one line."""
        names = ",".join(node.pgdat.zone_names[zone] for zone in self.zones) or "-"
        return f"drain_all_pages highatomic={names}{' force' if self.force else ''} -> {result} pages"


class KswapdDid(IntEnum):
    """What a step of kswapd did."""

    #: A run began.
    BEGAN = 0
    #: It checked the watermarks and scanned nothing: the node is balanced, or boosted reclaim has to wait
    #: because the node is not.
    LOOKED = 1
    #: It scanned LRU lists.
    SCANNED = 2
    #: The run ended.
    SLEPT = 3


@dataclass(frozen=True, slots=True)
class KswapdStepResult:
    """What one step of kswapd did; amounts are in pages."""

    did: KswapdDid
    #: For BEGAN: what the run was woken for.
    order: int = 0
    highest_zoneidx: int = 0
    priority: int = 0
    boosted: bool = False
    balanced: bool = False
    scanned: int = 0
    reclaimed: int = 0
    #: Whether the pass over the LRU lists is unfinished, and the next step continues it.
    in_pass: bool = False
    #: Whether kswapd was woken during the run, so that another run follows.
    wanted_again: bool = False

    @property
    def runs_on(self) -> bool:
        """Whether another step is to follow."""
        return self.did is not KswapdDid.SLEPT or self.wanted_again


@dataclass(frozen=True, slots=True)
class KswapdStep(Op[KswapdStepResult]):
    """Makes one bounded step of kswapd: it begins a run, checks, scans, or goes to sleep (balance_pgdat).

    A pass scans the share of the LRU lists that its priority gives, in as many steps as that takes. Before a
    pass kswapd checks whether the node is balanced; after a pass it decides whether to raise the priority (to
    lower its number). On a balanced node with boosted watermarks, it reclaims as many clean pages as the
    boosts amount to; a node that is not balanced is balanced first.
    """

    tag = "kswapd_step"

    def apply(self, node: NodeState) -> KswapdStepResult:
        """Make the step that the state of the run calls for."""
        run = node.kswapd.run
        if run is None:
            return self._begin(node)
        if run.over:
            return self._sleep(node, run)
        if not node.pgdat.in_pass:
            looked = self._look(node, run)
            if looked:
                return looked
        return self._scan(node, run)

    def _begin(self, node: NodeState) -> KswapdStepResult:
        pg = node.pgdat.pg
        order, highest = int(pg.kswapd[KSWAPD_ORDER]), int(pg.kswapd[KSWAPD_HIGHEST_ZONEIDX])
        # what wakeups ask for from now on is for the next run
        pg.kswapd[KSWAPD_ORDER] = pg.kswapd[KSWAPD_HIGHEST_ZONEIDX] = 0
        node.pgdat.set_reclaim_active(True)
        pg.vm_event[PAGEOUTRUN] += 1
        boosts = tuple(pg.watermark_boost[: highest + 1].tolist())
        node.kswapd.wakeups += 1
        node.kswapd.run = KswapdRun(order, highest, boosts, sum(boosts))
        return KswapdStepResult(KswapdDid.BEGAN, order, highest)

    def _look(self, node: NodeState, run: KswapdRun) -> KswapdStepResult | None:
        """Check whether another pass is needed; return None if it is, else the result of the step."""
        priority, boosted = run.priority, run.boost > 0
        run.balanced = node.pgdat.balanced(run.order, run.highest_zoneidx)
        if run.balanced == boosted:
            return None
        if run.balanced:
            run.over = True
        else:  # the watermarks proper come before the boosts
            run.boost, run.priority = 0, DEF_PRIORITY
        return KswapdStepResult(KswapdDid.LOOKED, priority=priority, boosted=boosted, balanced=run.balanced)

    def _scan(self, node: NodeState, run: KswapdRun) -> KswapdStepResult:
        """Scan up to STEP_PAGES pages, in a new pass at the run's priority or in the unfinished one."""
        pgdat, priority, boosted = node.pgdat, run.priority, run.boost > 0
        if not pgdat.in_pass:
            pgdat.begin_kswapd_pass(run.highest_zoneidx, priority, may_write=not boosted)
        scanned, reclaimed = pgdat.go_on_with_pass(STEP_PAGES)
        node.kswapd.cost.add_path(node.machine.spec.latency, node.take_path())
        node.kswapd.reclaimed += reclaimed
        run.reclaimed += reclaimed
        run.reclaimed_since_restart += reclaimed
        if not pgdat.in_pass:
            ends = self._end_whole_pass if node.pgdat.profile.pass_rules == PASS_WHOLE else self._end_pass
            ends(node, run)
        return KswapdStepResult(
            KswapdDid.SCANNED,
            priority=priority,
            boosted=boosted,
            balanced=run.balanced,
            scanned=scanned,
            reclaimed=reclaimed,
            in_pass=pgdat.in_pass,
        )

    def _end_pass(self, node: NodeState, run: KswapdRun) -> None:
        """End a pass: raise the priority if it scanned less than its target, or reclaimed nothing."""
        scanned, reclaimed, target = node.pgdat.end_kswapd_pass()
        rises = scanned < target and not (run.boost and run.priority == BOOST_PRIORITY)
        run.boost -= min(run.boost, reclaimed)
        if run.order and run.reclaimed >= 2 << run.order:
            run.order = 0
        if run.boost and not reclaimed:
            run.over = True  # no clean pages are left, and boosted reclaim does not write
        elif rises or not reclaimed:
            run.priority -= 1
            run.over = run.priority < 1

    def _end_whole_pass(self, node: NodeState, run: KswapdRun) -> None:
        """End a pass of linux-3.0: raise the priority, or reset it to DEF_PRIORITY after progress."""
        node.pgdat.end_kswapd_pass()
        gone_through = run.priority == 0
        progress = run.reclaimed_since_restart >= SWAP_CLUSTER_MAX
        if not progress and not gone_through:
            run.priority -= 1
        elif not progress and not run.order:
            run.over = True  # the kernel would go on until every zone is all_unreclaimable
        else:
            if not progress:
                run.order = 0
            run.priority, run.reclaimed_since_restart = DEF_PRIORITY, 0
            if not node.pgdat.balanced(run.order, run.highest_zoneidx):
                node.pgdat.pg.vm_event[PAGEOUTRUN] += 1

    def _sleep(self, node: NodeState, run: KswapdRun) -> KswapdStepResult:
        pg = node.pgdat.pg
        for zone, boost in enumerate(run.boosts):
            # take back the boosts that the run began with, with or without success; later boosts stay
            pg.watermark_boost[zone] -= min(boost, int(pg.watermark_boost[zone]))
        if run.reclaimed or run.balanced:
            pg.kswapd[KSWAPD_FAILURES] = 0
        else:
            pg.kswapd[KSWAPD_FAILURES] += 1
        pg.kswapd[KSWAPD_WOKEN] = 0
        order = int(pg.kswapd[KSWAPD_ORDER])
        highest = max(int(pg.kswapd[KSWAPD_HIGHEST_ZONEIDX]), run.highest_zoneidx)
        pg.kswapd[KSWAPD_ORDER] = pg.kswapd[KSWAPD_HIGHEST_ZONEIDX] = 0
        node.pgdat.set_reclaim_active(False)
        node.kswapd.run = None
        again = run.balanced and node.pgdat.wakeup_kswapd(order, highest)
        return KswapdStepResult(
            KswapdDid.SLEPT, balanced=run.balanced, reclaimed=run.reclaimed, wanted_again=again
        )

    def check(self, node: NodeState) -> None:
        """Accept: the op has no fields, as the run is state of the node."""

    def text(self, node: NodeState, result: KswapdStepResult) -> str:
        """Return one line that says what the step did."""
        done = f"scanned={result.scanned} reclaimed={result.reclaimed}"
        match result.did:
            case KswapdDid.BEGAN:
                aim = kswapd_target(node.pgdat.pg, result.highest_zoneidx)
                return f"kswapd begins order={result.order} aim={'all' if aim == NO_LIMIT else aim}"
            case KswapdDid.SLEPT:
                again = " and is wanted again" if result.wanted_again else ""
                return f"kswapd sleeps reclaimed={result.reclaimed}{again}"
        if result.balanced and not result.boosted:
            return "kswapd balanced"
        name = "kswapd boosted" if result.boosted else "kswapd"
        return f"{name} priority={result.priority} {done}{' so far' if result.in_pass else ''}"
