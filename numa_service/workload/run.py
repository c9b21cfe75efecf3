"""Running a program next to a node: a generator that works batch by batch, through ordinary ops.

Like every request it yields questions to other nodes (`Ask`), and after each batch its progress. The shell
that drives it then serves other requests and reports to the client. It stops a program by throwing a
NodeError into it; the program then frees what it holds.

A batch frees the blocks that are due, then issues every kind of event of the phase with its share of the
events. The program is one thread: the modelled latency of its requests and its think times advance its
virtual clock, and a rate is kept as far as they allow. All of this depends on the program, its seed and the
answers only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from numa_client import Program, ProgramProgress, ProgramResult
from numa_client._program import LifetimeUnit

from numa_service.machine.tlb import Translation
from numa_service.mm.pgdat import Pfns
from numa_service.node import ops
from numa_service.node.ask import Ask, Park, Steps
from numa_service.node.cost import Cost
from numa_service.node.errors import LimitExceeded, NodeError, NotFound, PeerUnavailable, Precondition
from numa_service.node.free_pages import free_pages
from numa_service.node.kmem import kmem_cache_alloc, kmem_cache_free
from numa_service.node.node import Node
from numa_service.node.ops.kmem import MAX_REQUEST_OBJECTS
from numa_service.node.page_alloc import alloc_for_owner, spend
from numa_service.node.pfns import pack_pfns, unpack_pfns
from numa_service.node.prepare import check_cpu
from numa_service.node.region import Touched, map_region, touch_pages, unmap_region
from numa_service.node.unserved import Unserved, VmallocFailed, unserved
from numa_service.node.vmalloc import vfree, vmalloc
from numa_service.workload.distributions import sample
from numa_service.workload.held import Held
from numa_service.workload.patterns import Indexes
from numa_service.workload.plan import (
    AccessPlan,
    Kind,
    MixPlan,
    ObjectPlan,
    PhasePlan,
    Plan,
    VmallocPlan,
    make_plan,
)
from numa_service.workload.tally import PhaseTally, Tally

#: A running program.
ProgramSteps: TypeAlias = Generator[Ask[Any] | Park | ProgramProgress, Any, ProgramResult]

#: Events of the first batch of a phase that ends after a time: how long an event takes is not known yet.
FIRST_BATCH = 256
#: Most blocks in one Free op.
MAX_FREE = 16384
#: Who asked for an area, as /proc/vmallocinfo says.
CALLER = "run_program"


#: Called with what kind of objects was allocated (None: objects were freed), their addresses, and the
#: program's virtual ns.
ObjectsTold: TypeAlias = Callable[[ObjectPlan | None, list[int], int], None]


def run_program(
    node: Node,
    session: int,
    cpu: int,
    program: Program,
    clock: Callable[[], int] = lambda: 0,
    objects: ObjectsTold | None = None,
) -> ProgramSteps:
    """Run a program for a session, on one CPU of the node.

    InvalidRequest names the field of the program that is wrong. LimitExceeded is raised when it reaches one
    of its limits; with `stop_on_failure` also AllocFailed, or NodesAway if nodes did not answer. All that it
    holds is freed before an error is raised. `clock` gives real ns: it serves the limit on real time and the
    times in reports, and changes nothing else. `objects` is told of slab objects that come and go.
    """
    run = _Run(node, session, cpu, make_plan(program, node), clock, objects)
    try:
        yield from run.phases()
    except NodeError:
        yield from run.release()
        raise
    if not program.keep:
        yield from run.release()
    return run.result()


def to_next_progress(
    steps: ProgramSteps, cut: NodeError | None = None
) -> Steps[ProgramProgress | ProgramResult]:
    """Run a program to the end of its batch, as steps that any shell can drive.

    Returns its progress, or its result if it is over. `cut`, if given, is thrown into the program first, and
    is raised again once the program has freed what it held.
    """
    try:
        effect = steps.throw(cut) if cut else next(steps)
        while not isinstance(effect, ProgramProgress):
            try:
                answer = yield effect
            except NodeError as error:
                effect = steps.throw(error)
            else:
                effect = steps.send(answer)
    except StopIteration as end:
        result: ProgramResult = end.value
        return result
    return effect


class _Kind:
    """A mix, access or kind of objects of the phase that runs, with its random numbers and its tally."""

    def __init__(
        self,
        plan: Kind,
        share: float,
        tally: Tally,
        seed: tuple[int, ...],
        regions: dict[int, int],
        run: Plan,
    ):
        """`share` is its part of the phase's accesses."""
        self.plan = plan
        self.tally = tally
        self.random = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))
        self.region = 0
        self.indexes: Indexes | None = None
        self.translation: Translation | None = None
        #: Events that are due to it and not issued yet: the fraction left by its share of earlier batches.
        self.owed = 0.0
        if isinstance(plan, AccessPlan):
            self.region = regions[plan.region]
            region = run.regions[plan.region]
            self.indexes = Indexes(plan.access, region.nr_pages, self.random)
            self.translation = Translation(region.nr_pages, region.tlb_page_kb, share)

    def think_ns(self, count: int) -> int:
        """Virtual ns to think before `count` events."""
        if self.plan.think is None:
            return 0
        return round(float(sample(self.plan.think, self.random, count).sum()) * 1e9)


class _Run:
    """A program that runs: its clocks, its totals and all that it holds."""

    def __init__(
        self,
        node: Node,
        session: int,
        cpu: int,
        plan: Plan,
        clock: Callable[[], int],
        objects: ObjectsTold | None,
    ) -> None:
        check_cpu(node.pgdat, cpu)
        node.session(session)
        self._node = node
        self._session = session
        self._cpu = cpu
        self._plan = plan
        self._clock = clock
        self._objects_told = objects
        self._started_ns = clock()
        self._now_ns = 0
        #: Pages allocated so far, which is also the clock of lifetimes in units of memory.
        self._allocated = 0
        self._accessed = 0
        self._freed = 0
        self._live = 0
        self._unfreed = 0
        self._events = 0
        self._failures = 0
        #: Blocks by (order, nid, unit of their lifetime).
        self._blocks: Held[tuple[int, int, LifetimeUnit]] = Held()
        #: Addresses of objects by cache, and of areas by their pages.
        self._objects: Held[str] = Held()
        self._areas: Held[int] = Held()
        #: Numbers of the regions that are mapped, by their index in the plan.
        self._regions: dict[int, int] = {}
        self._tallies: list[PhaseTally] = []
        self._fraction = 0.0

    # phases

    def phases(self) -> Generator[Ask[Any] | Park | ProgramProgress, Any, None]:
        """Run all phases, one after the other."""
        for number, phase in enumerate(self._plan.phases):
            tally = PhaseTally(phase.name, [Tally(k.name, _among(k)) for k in phase.kinds])
            self._tallies.append(tally)
            self._fraction = 0.0
            self._map_regions(phase)
            yield from self._phase(number, phase, tally)
            if phase.release:
                yield from self._free_all()
            for at, region in list(self._regions.items()):
                if self._plan.regions[at].last_phase <= number:
                    yield from unmap_region(self._node, self._session, region)
                    del self._regions[at]

    def _map_regions(self, phase: PhasePlan) -> None:
        for kind in phase.kinds:
            if isinstance(kind, AccessPlan) and kind.region not in self._regions:
                region = self._plan.regions[kind.region]
                self._regions[kind.region] = map_region(
                    self._node, self._session, region.kind, region.nr_pages, region.policy
                )

    def _phase(self, number: int, phase: PhasePlan, tally: PhaseTally) -> Generator[Any, Any, None]:
        seed = self._plan.program.seed
        accesses = sum(kind.weight for kind in phase.kinds if isinstance(kind, AccessPlan)) or 1.0
        kinds = [
            _Kind(plan, plan.weight / accesses, kind, (seed, number, i), self._regions, self._plan)
            for i, (plan, kind) in enumerate(zip(phase.kinds, tally.kinds, strict=True))
        ]
        weights = np.array([kind.plan.weight for kind in kinds])
        shares = weights / weights.sum()
        pages_per_event = float(shares @ np.array([kind.plan.pages for kind in kinds]))
        began_ns, began_real_ns, freed = self._now_ns, self._clock(), self._freed
        events = 0
        while True:
            spent_ns = self._now_ns - began_ns
            tally.virtual_ns, tally.real_ns = spent_ns, self._clock() - began_real_ns
            tally.freed_pages = self._freed - freed
            done = events * pages_per_event
            self._fraction = min(
                1.0, max(spent_ns / phase.end_ns, events / phase.end_events, done / phase.end_pages)
            )
            if self._fraction >= 1:
                return
            batch = _batch(phase, events, spent_ns, phase.end_pages - done, pages_per_event)
            self._check_limits(batch)
            batch_ns = self._now_ns
            yield from self._free_due()
            for kind, share in zip(kinds, shares.tolist(), strict=True):
                kind.owed += batch * share
                count = math.floor(kind.owed + 1e-9)
                if count:
                    kind.owed -= count
                    yield from self._issue(kind, count)
            events += batch
            self._events += batch
            # time advances by a ns an event at least: a batch that costs nothing would never end its phase
            until = batch_ns + max(batch, round(batch * 1e9 / phase.rate) if phase.rate else 0)
            self._idle(max(0, until - self._now_ns))
            yield self._progress(number)

    def _issue(self, kind: _Kind, count: int) -> Steps[None]:
        if kind.plan.think is not None:
            self._idle(kind.think_ns(count))
            self._check_virtual_time()
        if isinstance(kind.plan, MixPlan):
            yield from self._allocate(kind, kind.plan, count)
        elif isinstance(kind.plan, ObjectPlan):
            yield from self._allocate_objects(kind, kind.plan, count)
        elif isinstance(kind.plan, VmallocPlan):
            yield from self._allocate_areas(kind, kind.plan, count)
        else:
            yield from self._access(kind, kind.plan, count)

    def _idle(self, ns: int) -> None:
        """Let virtual time pass without requests, which lowers the load that earlier requests have made."""
        if ns:
            self._now_ns += ns
            self._node.apply(ops.Spend(self._cpu, ns))

    def _spend(self, cost: Cost) -> None:
        self._now_ns += cost.latency_ns
        spend(self._node, self._cpu, cost)

    def _check_limits(self, batch: int) -> None:
        """LimitExceeded if the next batch would exceed a limit of the program."""
        limits = self._plan.limits
        if self._events + batch > limits.max_events:
            raise LimitExceeded(f"limits.max_events: more than {limits.max_events} events")
        self._check_virtual_time()
        if self._clock() - self._started_ns > limits.max_real_seconds * 1e9:
            raise LimitExceeded(f"limits.max_real_seconds: more than {limits.max_real_seconds:g} s")

    def _check_virtual_time(self) -> None:
        most = self._plan.limits.max_virtual_seconds
        if self._now_ns > most * 1e9:
            raise LimitExceeded(f"limits.max_virtual_seconds: more than {most:g} virtual seconds")

    # events

    def _allocate(self, kind: _Kind, mix: MixPlan, count: int) -> Steps[None]:
        most = self._plan.limits.max_live_pages
        if self._live + (count << mix.order) > most:
            raise LimitExceeded(f"limits.max_live_pages: more than {most} pages held at a time")
        got = yield from alloc_for_owner(
            self._node,
            self._node.owner(self._session),
            self._session,
            mix.gfp,
            mix.order,
            count,
            self._cpu,
            mix.policy,
        )
        pages = got.got << mix.order
        self._spend(got.cost)
        self._allocated += pages
        self._live += pages
        self._failures += count - got.got
        tally = kind.tally
        tally.record(count, count - got.got, got.cost, got.remote_lookups, got.direct_reclaimed)
        tally.pages += pages
        for nid, packed in got.pages:
            pfns = unpack_pfns(packed)
            tally.pages_by_node[nid] += len(pfns) << mix.order
            self._hold(kind, mix, nid, pfns)
        if got.got < count and self._plan.program.stop_on_failure:
            order = self._node.machine.zonelists[self._node.nid].node_order
            raise unserved(mix.order, count, got.got, order, got.unasked)

    def _allocate_objects(self, kind: _Kind, mix: ObjectPlan, count: int) -> Steps[None]:
        node, tally = self._node, kind.tally
        for start in range(0, count, MAX_REQUEST_OBJECTS):
            wanted, cost, failed = min(MAX_REQUEST_OBJECTS, count - start), Cost(), 0
            got: list[int] = []
            try:
                got = yield from kmem_cache_alloc(
                    node, self._session, mix.cache, mix.gfp, wanted, self._cpu, mix.nid, cost, mix.size
                )
            except Unserved:
                if self._plan.program.stop_on_failure:
                    raise
                failed = wanted
            if self._objects_told:
                self._objects_told(mix, got, self._now_ns)
            self._now_ns += cost.latency_ns
            self._failures += failed
            tally.record(wanted, failed, cost, 0, 0)
            tally.pages += len(got)
            held = node.session(self._session).objects
            # a node that has restarted meanwhile has taken its objects with it
            tally.pages_by_node.update(held[address].slab.nid for address in got if address in held)
            addresses = np.array(got, np.uint64)
            if mix.lifetime is None:
                self._objects.keep(mix.cache, addresses)
            else:
                lifetimes = sample(mix.lifetime, kind.random, len(got)) * 1e9
                self._objects.keep_for(mix.cache, addresses, lifetimes, self._now_ns)

    def _allocate_areas(self, kind: _Kind, mix: VmallocPlan, count: int) -> Steps[None]:
        node, tally = self._node, kind.tally
        most = self._plan.limits.max_live_pages
        for _ in range(count):
            if self._live + mix.pages > most:
                raise LimitExceeded(f"limits.max_live_pages: more than {most} pages held at a time")
            try:
                area = yield from vmalloc(node, self._session, mix.size, CALLER, self._cpu, mix.nid)
            except (Unserved, VmallocFailed, PeerUnavailable):
                if self._plan.program.stop_on_failure:
                    raise
                self._failures += 1
                tally.record(1, 1, Cost(), 0, 0)
                continue
            pages = sum(area.pages.values())
            self._now_ns += area.cost.latency_ns
            self._allocated += pages
            self._live += pages
            tally.record(1, 0, area.cost, 0, 0)
            tally.pages += pages
            tally.pages_by_node.update(area.pages)
            address = np.array([area.addr], np.uint64)
            if mix.lifetime is None:
                self._areas.keep(pages, address)
            else:
                lifetimes = sample(mix.lifetime, kind.random, 1) * 1e9
                self._areas.keep_for(pages, address, lifetimes, self._now_ns)

    def _hold(self, kind: _Kind, mix: MixPlan, nid: int, pfns: Pfns) -> None:
        """Keep blocks until their lifetimes, which are drawn here, are over."""
        lifetime = mix.lifetime
        if lifetime is None:
            self._blocks.keep((mix.order, nid, "seconds"), pfns)
            return
        ticks_per_unit = 1e9 if lifetime.unit == "seconds" else self._plan.memory_pages
        lifetimes = sample(lifetime, kind.random, len(pfns)) * ticks_per_unit
        self._blocks.keep_for((mix.order, nid, lifetime.unit), pfns, lifetimes, self._ticks(lifetime.unit))

    def _ticks(self, unit: LifetimeUnit) -> int:
        return self._now_ns if unit == "seconds" else self._allocated

    def _access(self, kind: _Kind, plan: AccessPlan, count: int) -> Steps[None]:
        assert kind.indexes
        write, indexes = plan.access.write, kind.indexes.take(count)
        writes = kind.random.random(count) < write if 0 < write < 1 else np.full(count, write > 0)
        touched = Touched()
        self._translate(kind, indexes, touched.cost)
        refused = 0
        for is_write, wanted in ((True, indexes[writes]), (False, indexes[~writes])):
            if len(wanted):
                refused += yield from self._touch(kind.region, wanted, is_write, touched)
        self._spend(touched.cost)
        self._accessed += count - refused
        self._failures += refused
        tally = kind.tally
        tally.record(count, refused, touched.cost, touched.remote_lookups, touched.direct_reclaimed)
        tally.pages += count - refused
        tally.pages_by_node.update(touched.placement)
        tally.hits += touched.hits
        tally.faults += touched.faults
        tally.major_faults += touched.major_faults
        if refused and self._plan.program.stop_on_failure:
            order = self._node.machine.zonelists[self._node.nid].node_order
            raise unserved(0, count, count - refused, order, touched.unasked)

    def _translate(self, kind: _Kind, indexes: npt.NDArray[np.int64], cost: Cost) -> None:
        """What the TLBs miss. Page tables are taken to be on the program's node, whose CPU made them."""
        assert kind.translation
        misses = kind.translation.access(indexes)
        cost.translation_ns += kind.translation.miss_ns(misses, self._node.load.idle_ns(self._node.nid))

    def _touch(self, number: int, wanted: npt.NDArray[np.int64], write: bool, touched: Touched) -> Steps[int]:
        """Access pages, some of them more than once; returns how many accesses found no memory.

        A page is touched once, and a second time if it is named again, since that activates a page of a file.
        Further accesses to it in this batch only take time.
        """
        node = self._node
        region = node.region(self._session, number)
        pages, times = np.unique(wanted.astype(np.uint32), return_counts=True)
        refused = yield from touch_pages(node, region, pages, write, self._cpu, touched)
        again = times > 1
        if not again.any():
            return refused
        # pages that found no memory fault, and fail, again
        refused += yield from touch_pages(node, region, pages[again], write, self._cpu, touched)
        nids, more = region.nids[pages[again]].astype(np.int64) - 1, times[again] - 2
        for nid in np.unique(nids).tolist():
            accesses = int(more[nids == nid].sum())
            if nid < 0:
                refused += accesses
                continue
            touched.cost.access_again(node.load, nid, accesses, write)
            touched.hits += accesses
            touched.placement[nid] = touched.placement.get(nid, 0) + accesses
        return refused

    # frees

    def _free_due(self) -> Steps[None]:
        for key in self._blocks.with_lifetimes():
            order, nid, unit = key
            for pfns in _pieces(self._blocks.take(key, self._ticks(unit))):
                yield from self._free(order, nid, pfns)
        for cache in self._objects.with_lifetimes():
            yield from self._free_objects(cache, self._objects.take(cache, self._now_ns))
        for pages in self._areas.with_lifetimes():
            yield from self._free_areas(pages, self._areas.take(pages, self._now_ns))

    def _free_areas(self, pages: int, addresses: Pfns) -> Steps[None]:
        """Free areas of so many pages; those that were lost with a node are counted as unfreed."""
        for address in addresses.tolist():
            self._live -= pages
            freed, cost = 0, Cost()
            try:
                freed = yield from vfree(self._node, self._session, address, self._cpu, cost)
            except (PeerUnavailable, NotFound):
                if self._session not in self._node.sessions:
                    raise
            self._now_ns += cost.latency_ns
            self._freed += freed
            self._unfreed += pages - freed

    def _free_objects(self, cache: str, objects: Pfns) -> Steps[None]:
        """Free objects of a cache, but for those that a node has lost in its restart."""
        for start in range(0, len(objects), MAX_REQUEST_OBJECTS):
            held, cost = self._node.session(self._session).objects, Cost()
            mine = [a for a in objects[start : start + MAX_REQUEST_OBJECTS].tolist() if a in held]
            if mine:
                yield from kmem_cache_free(self._node, self._session, cache, mine, self._cpu, cost)
                if self._objects_told:
                    self._objects_told(None, mine, self._now_ns)
                self._now_ns += cost.latency_ns

    def _free(self, order: int, nid: int, pfns: Pfns) -> Steps[None]:
        """Free blocks of a node; if it is away or was restarted, they are counted as unfreed."""
        pages = len(pfns) << order
        self._live -= pages
        freed = 0
        try:
            freed, cost = yield from free_pages(
                self._node, self._session, order, [(nid, pack_pfns(pfns))], self._cpu
            )
            self._now_ns += cost.latency_ns
        except (PeerUnavailable, NotFound, Precondition):
            if nid == self._node.nid or self._session not in self._node.sessions:
                raise
        self._freed += freed
        self._unfreed += pages - freed

    def _free_all(self) -> Generator[Ask[Any] | Park | ProgramProgress, Any, None]:
        """Free all blocks, objects and areas that are held, with progress after each Free."""
        for (order, nid, _), blocks in self._blocks.drain():
            for pfns in _pieces(blocks):
                yield from self._free(order, nid, pfns)
                yield self._progress(len(self._tallies) - 1)
        for cache, addresses in self._objects.drain():
            yield from self._free_objects(cache, addresses)
            yield self._progress(len(self._tallies) - 1)
        for pages, addresses in self._areas.drain():
            yield from self._free_areas(pages, addresses)
            yield self._progress(len(self._tallies) - 1)

    def release(self) -> Generator[Ask[Any] | Park | ProgramProgress, Any, None]:
        """Free all that it holds. If the session has ended, that has freed it already."""
        if self._session not in self._node.sessions:
            return
        yield from self._free_all()
        for region in self._regions.values():
            yield from unmap_region(self._node, self._session, region)
        self._regions.clear()

    # reports

    def _progress(self, number: int) -> ProgramProgress:
        return ProgramProgress(
            phase=number,
            phases=len(self._plan.phases),
            phase_name=self._plan.phases[number].name,
            fraction=self._fraction,
            virtual_ns=self._now_ns,
            real_ns=self._clock() - self._started_ns,
            events=self._events,
            failures=self._failures,
            allocated_pages=self._allocated,
            accessed_pages=self._accessed,
            freed_pages=self._freed,
            live_pages=self._live,
        )

    def result(self) -> ProgramResult:
        """What the program did, when it is over."""
        return ProgramResult(
            phases=tuple(tally.result() for tally in self._tallies),
            virtual_ns=self._now_ns,
            real_ns=self._clock() - self._started_ns,
            allocated_pages=self._allocated,
            accessed_pages=self._accessed,
            freed_pages=self._freed,
            kept_pages=self._live,
            unfreed_pages=self._unfreed,
        )


def _among(plan: Kind) -> str:
    """The field of PhaseResult that has the counts of a kind."""
    among = {MixPlan: "mixes", AccessPlan: "accesses", ObjectPlan: "objects", VmallocPlan: "vmallocs"}
    return among[type(plan)]


def _batch(phase: PhasePlan, events: int, spent_ns: int, pages: float, pages_per_event: float) -> int:
    """Events of the next batch, but no more than bring the phase to its end at its pace so far."""
    batch: float = phase.batch
    if phase.end_ns < math.inf:
        if phase.rate:
            batch = min(batch, (phase.end_ns - spent_ns) * phase.rate / 1e9)
        elif not events:
            batch = min(batch, FIRST_BATCH)
        else:
            batch = min(batch, (phase.end_ns - spent_ns) * events / spent_ns)
    batch = min(batch, phase.end_events - events, pages / pages_per_event)
    return max(1, math.ceil(batch))


def _pieces(pfns: Pfns) -> Iterator[Pfns]:
    """Blocks in pieces that fit into one Free op."""
    return (pfns[start : start + MAX_FREE] for start in range(0, len(pfns), MAX_FREE))
