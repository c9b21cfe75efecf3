"""Reclaim: what a request that finds too little does to a node, and each step of its kswapd."""

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
from numa_service.mm.profile import PASS_WHOLE
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
    """wakeup_kswapd(); True when it was asleep and is wanted."""

    tag = "wake_kswapd"
    asked = True

    order: int
    highest_zoneidx: int
    #: Of the request, for tracepoints.
    gfp: int = 0

    def apply(self, node: NodeState) -> bool:
        """Note what it is wanted for."""
        return node.pgdat.wakeup_kswapd(self.order, self.highest_zoneidx)

    def check(self, node: NodeState) -> None:
        """Of a request's order, zone and flags."""
        check_order(self.order)
        check_zoneidx(node, self.highest_zoneidx)
        check_bits("gfp_flags", self.gfp, GFP_BITS)

    def text(self, node: NodeState, result: bool) -> str:
        """One line."""
        outcome = "woken" if result else "not needed"
        zone = node.pgdat.zone_names[self.highest_zoneidx]
        return f"wakeup_kswapd order={self.order} classzone={zone} {outcome}"


@dataclass(frozen=True, slots=True)
class ReclaimResult:
    """One step of reclaim. Pages."""

    scanned: int
    reclaimed: int
    path: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Reclaim(Op[ReclaimResult]):
    """Direct reclaim: one pass over this node's LRU lists (shrink_node)."""

    tag = "reclaim"
    asked = True

    highest_zoneidx: int
    priority: int
    nr_to_reclaim: int

    def apply(self, node: NodeState) -> ReclaimResult:
        """Scan the lists' share that the priority says."""
        node.forget_path()
        scanned, reclaimed = node.pgdat.shrink(self.highest_zoneidx, self.priority, self.nr_to_reclaim)
        if reclaimed:
            node.pgdat.pg.kswapd[KSWAPD_FAILURES] = 0
        return ReclaimResult(scanned, reclaimed, node.take_path())

    def check(self, node: NodeState) -> None:
        """Of a zone, a priority, and as many pages as one request may have."""
        check_zoneidx(node, self.highest_zoneidx)
        check_below("priority", self.priority, DEF_PRIORITY + 1)
        check_below("nr_to_reclaim_pages", self.nr_to_reclaim, MAX_REQUEST_PAGES + 1)

    def text(self, node: NodeState, result: ReclaimResult) -> str:
        """One line."""
        done = f"scanned={result.scanned} reclaimed={result.reclaimed}"
        return f"direct_reclaim priority={self.priority} {done}"


@dataclass(frozen=True, slots=True)
class DrainPagesets(Op[int]):
    """Last resorts before a request gives up; pages that the pagesets had.

    Releases one high-atomic pageblock of `zones` (unreserve_highatomic_pageblock; `force`: even the last),
    then empties the pagesets (drain_all_pages).
    """

    tag = "drain_pagesets"
    asked = True

    zones: tuple[int, ...] = ()
    migratetype: int = 0
    force: bool = False

    def apply(self, node: NodeState) -> int:
        """First the reserve, then the pagesets."""
        if self.zones:
            node.pgdat.unreserve_highatomic(self.zones, self.migratetype, self.force)
        pages = int(node.pgdat.pg.pcp_count.sum())
        node.pgdat.drain()
        return pages

    def check(self, node: NodeState) -> None:
        """Of zones and a migratetype."""
        check_zones(node, self.zones)
        check_migratetype(self.migratetype)

    def text(self, node: NodeState, result: int) -> str:
        """One line."""
        names = ",".join(node.pgdat.zone_names[zone] for zone in self.zones) or "-"
        return f"drain_all_pages highatomic={names}{' force' if self.force else ''} -> {result} pages"


class KswapdDid(IntEnum):
    """What a step of kswapd was."""

    #: Its run has begun.
    BEGAN = 0
    #: The node was balanced, or is not and boosts have to wait: nothing was scanned.
    LOOKED = 1
    SCANNED = 2
    SLEPT = 3


@dataclass(frozen=True, slots=True)
class KswapdStepResult:
    """One step of kswapd. Pages."""

    did: KswapdDid
    #: Of the run, as the step found it; of one that has begun, what it was woken for.
    order: int = 0
    highest_zoneidx: int = 0
    priority: int = 0
    boosted: bool = False
    balanced: bool = False
    scanned: int = 0
    reclaimed: int = 0
    #: The pass that it scanned in is not over: the next step goes on with it.
    in_pass: bool = False
    #: It was woken while it worked, and must go on after it has slept.
    wanted_again: bool = False

    @property
    def runs_on(self) -> bool:
        """Whether another step is to follow."""
        return self.did is not KswapdDid.SLEPT or self.wanted_again


@dataclass(frozen=True, slots=True)
class KswapdStep(Op[KswapdStepResult]):
    """kswapd goes on by one bounded step: it begins its run, scans, or goes to sleep (balance_pgdat).

    A pass scans the share of the LRU lists that its priority says, in as many steps as that takes. Before a
    pass it looks whether the node is balanced, after a pass whether priority is to rise (its number to fall).
    A balanced node that has boosted watermarks gives up as many clean pages as they were boosted by; one that
    is not balanced is balanced first.
    """

    tag = "kswapd_step"

    def apply(self, node: NodeState) -> KswapdStepResult:
        """By where the run stands."""
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
        # what is asked for from here on is for the next run
        pg.kswapd[KSWAPD_ORDER] = pg.kswapd[KSWAPD_HIGHEST_ZONEIDX] = 0
        node.pgdat.set_reclaim_active(True)
        pg.vm_event[PAGEOUTRUN] += 1
        boosts = tuple(pg.watermark_boost[: highest + 1].tolist())
        node.kswapd.wakeups += 1
        node.kswapd.run = KswapdRun(order, highest, boosts, sum(boosts))
        return KswapdStepResult(KswapdDid.BEGAN, order, highest)

    def _look(self, node: NodeState, run: KswapdRun) -> KswapdStepResult | None:
        """Whether there is need of another pass: None if so."""
        priority, boosted = run.priority, run.boost > 0
        run.balanced = node.pgdat.balanced(run.order, run.highest_zoneidx)
        if run.balanced == boosted:
            return None
        if run.balanced:
            run.over = True
        else:  # first the plain watermarks
            run.boost, run.priority = 0, DEF_PRIORITY
        return KswapdStepResult(KswapdDid.LOOKED, priority=priority, boosted=boosted, balanced=run.balanced)

    def _scan(self, node: NodeState, run: KswapdRun) -> KswapdStepResult:
        """Begin a pass at the run's priority, or go on with the one that it is in."""
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
        """Raise the priority if the pass scanned less than it aimed at, or reclaimed nothing."""
        scanned, reclaimed, target = node.pgdat.end_kswapd_pass()
        rises = scanned < target and not (run.boost and run.priority == BOOST_PRIORITY)
        run.boost -= min(run.boost, reclaimed)
        if run.order and run.reclaimed >= 2 << run.order:
            run.order = 0
        if run.boost and not reclaimed:
            run.over = True  # what is clean is gone; the rest would have to be written
        elif rises or not reclaimed:
            run.priority -= 1
            run.over = run.priority < 1

    def _end_whole_pass(self, node: NodeState, run: KswapdRun) -> None:
        """Raise the priority, or begin anew at the lowest one if there was progress (3.0)."""
        node.pgdat.end_kswapd_pass()
        gone_through = run.priority == 0
        progress = run.reclaimed_since_restart >= SWAP_CLUSTER_MAX
        if not progress and not gone_through:
            run.priority -= 1
        elif not progress and not run.order:
            run.over = True  # a kernel would go on until each zone is all_unreclaimable
        else:
            if not progress:
                run.order = 0
            run.priority, run.reclaimed_since_restart = DEF_PRIORITY, 0
            if not node.pgdat.balanced(run.order, run.highest_zoneidx):
                node.pgdat.pg.vm_event[PAGEOUTRUN] += 1

    def _sleep(self, node: NodeState, run: KswapdRun) -> KswapdStepResult:
        pg = node.pgdat.pg
        for zone, boost in enumerate(run.boosts):
            # the boosts that it began with end, whether it got anywhere or not; increments since stay
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
        """It says nothing: where the run stands is the node's to know."""

    def text(self, node: NodeState, result: KswapdStepResult) -> str:
        """By what it was."""
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
