"""The model and the reference implementation agree on every page after every one of the same operations."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from mm.nodes import DMA32, NORMAL, pgdat
from mm.reference import ReferenceNode
from mm.reference_zone import (
    ALL_TYPES,
    COLD,
    FALLBACKS,
    HARDER,
    HIGH,
    HIGHATOMIC,
    KSWAPD,
    NO_WATERMARKS,
    NOFRAGMENT,
    OOM,
    TYPES,
    Zone,
)

from numa_service.mm.invariants import check_pgdat
from numa_service.mm.lists import free_list, pcp_list
from numa_service.mm.mmzone import MIGRATE_HIGHATOMIC, NR_ORDERS, PAGEBLOCK_ORDER, WMARK_LOW, WMARK_MIN
from numa_service.mm.page_alloc import NUMA_HOW_HIT, NUMA_HOW_INTERLEAVE, NUMA_HOW_LOCAL
from numa_service.mm.pgdata import (
    NR_PCP_LISTS,
    PCP_ALLOC_FACTOR,
    PCP_HIGH_NOW,
    PG_HOLE,
    PG_RESERVED,
    RESERVED_HIGHATOMIC,
    ZONE_BELOW_HIGH,
    ZONE_BOOSTED_WATERMARK,
)
from numa_service.mm.profile import LINUX_3_0, LINUX_6_1, LINUX_6_12
from numa_service.mm.vmstat import (
    NR_FREE_PAGES,
    NUMA_HIT,
    NUMA_INTERLEAVE_HIT,
    NUMA_LOCAL,
    NUMA_MISS,
    NUMA_OTHER,
    PGALLOC,
    PGFREE,
)

CPUS = (0, 1)
OWNERS = (1, 2, 3)
FLAGS = (
    WMARK_LOW,
    WMARK_LOW | KSWAPD,
    WMARK_LOW | NOFRAGMENT | KSWAPD,
    WMARK_LOW | NOFRAGMENT,
    WMARK_LOW | HIGH,
    WMARK_MIN | KSWAPD,
    WMARK_MIN | HIGH,
    WMARK_MIN | HIGH | HARDER | KSWAPD,
    WMARK_MIN | HIGH | HARDER | HIGHATOMIC | KSWAPD,
    WMARK_LOW | COLD | KSWAPD,
    WMARK_MIN | OOM,
    NO_WATERMARKS,
)


@dataclass(frozen=True)
class Layout:
    """A node of two zones that meet inside a pageblock, with reserved pages and a hole."""

    name: str
    dma32: tuple[int, int]
    normal: tuple[int, int]
    ram: tuple[tuple[int, int], ...]
    free: tuple[tuple[int, int], ...]
    batch: int = 15
    high: int = 100
    marks: tuple[int, int, int] = (60, 100, 140)
    kernel: str = "6.1"
    mobility_disabled: bool = False
    cma: tuple[tuple[int, int], ...] = ()


PROFILES = {"3.0": LINUX_3_0, "6.1": LINUX_6_1, "6.12": LINUX_6_12}


EVEN = Layout(
    "even",
    (8192, 12288),
    (12288, 20480),
    ram=((8192, 20480),),
    free=((8192, 20480),),
    batch=3,
    high=300,
)
#: The zones meet 300 pages into a pageblock; the node begins and ends inside one.
RAGGED = Layout(
    "ragged",
    (4096 + 77, 7468),
    (7468, 13000),
    ram=((4096 + 77, 9000), (9600, 13000)),
    free=((4200, 6001), (6023, 9000), (9600, 12990)),
)
TINY = Layout(
    "tiny",
    (1024, 2048),
    (2048, 4096),
    ram=((1024, 4096),),
    free=((1024, 4096),),
    batch=1,
    high=4,
    marks=(8, 10, 12),
    mobility_disabled=True,
)
OLD = Layout(
    "3.0",
    (8192, 10240),
    (10240, 14336),
    ram=((8192, 14336),),
    free=((8192, 14336),),
    batch=7,
    high=42,
    kernel="3.0",
)
OLD_RAGGED = replace(RAGGED, name="3.0 ragged", kernel="3.0")
OLD_TINY = replace(TINY, name="3.0 without mobility", kernel="3.0")
NEW = replace(EVEN, name="6.12", kernel="6.12", high=60)
NEW_RAGGED = replace(RAGGED, name="6.12 ragged", kernel="6.12")
#: More than 100 pageblocks, so that 6.12 reserves some.
NEW_LARGE = Layout(
    "6.12 large",
    (8192, 16384),
    (16384, 16384 + 60_000),
    ram=((8192, 16384 + 60_000),),
    free=((8192, 16384 + 60_000),),
    batch=31,
    high=124,
    marks=(20_000, 25_000, 30_000),
    kernel="6.12",
)
CMA_6_1 = replace(EVEN, name="cma", cma=((9216, 10240), (14336, 18432)))
CMA_6_12 = replace(NEW, name="6.12 cma", cma=((14848, 18432),))
LAYOUTS = (
    EVEN,
    RAGGED,
    TINY,
    OLD,
    OLD_RAGGED,
    OLD_TINY,
    NEW,
    NEW_RAGGED,
    NEW_LARGE,
    CMA_6_1,
    CMA_6_12,
)


class Pair:
    """The model and the reference implementation of one node."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        marks = {DMA32: layout.marks, NORMAL: layout.marks}
        self.model = pgdat(
            {DMA32: layout.dma32, NORMAL: layout.normal},
            marks,
            layout.ram,
            layout.free,
            batch=layout.batch,
            high=layout.high,
            profile=PROFILES[layout.kernel],
            cma=layout.cma,
            mobility_disabled=layout.mobility_disabled,
        )
        pg = self.model.pg
        pg.lowmem_reserve[DMA32] = (0, 0, 40, 60, 60)
        pg.lowmem_reserve[NORMAL] = (0, 0, 0, 25, 25)
        self.reference = ReferenceNode(
            {
                index: Zone(
                    start,
                    end,
                    int(pg.managed[index]),
                    layout.marks,
                    tuple(int(pages) for pages in pg.lowmem_reserve[index]),
                    layout.batch,
                    layout.high,
                    high_max=int(pg.pcp_high_max[index]),
                )
                for index, (start, end) in ((DMA32, layout.dma32), (NORMAL, layout.normal))
            },
            list(layout.ram),
            list(layout.free),
            CPUS,
            pcp_max_order=0 if layout.kernel == "3.0" else 3,
            mobility_disabled=layout.mobility_disabled,
            kernel=layout.kernel,
            cma=layout.cma,
        )
        if layout.kernel == "3.0":
            never = np.flatnonzero(pg.flags & (PG_RESERVED | PG_HOLE)) + self.model.base_pfn
            for index in self.reference.zones:
                self.reference.buddy.setup_zone_migrate_reserve(index, set(never.tolist()))
        self.base = self.model.base_pfn
        self.free_heads = {
            (zone, order, mt): int(free_list(pg, zone, order, mt))
            for zone in self.reference.zones
            for order in range(NR_ORDERS)
            for mt in ALL_TYPES
        }
        self.pcp_heads = {
            (zone, cpu, number): int(pcp_list(pg, cpu, zone, number))
            for zone in self.reference.zones
            for cpu in CPUS
            for number in range(NR_PCP_LISTS)
        }
        self.next_index = 0
        self.steps = 0
        #: Requests that could not be served in full.
        self.short = 0

    # operations

    def alloc(
        self,
        zones: list[int],
        cpu: int | None,
        order: int,
        count: int,
        mt: int,
        class_zone: int,
        flags: int,
        how: int,
        owner: int,
        lru: int = 0,
    ) -> None:
        order = 0 if lru else order
        indexes = list(range(self.next_index, self.next_index + count))
        self.next_index += count if lru else 0
        got = self.model.alloc(
            zones,
            cpu,
            order,
            count,
            mt,
            class_zone,
            flags,
            how,
            owner,
            lru,
            np.array(indexes if lru else [], dtype=np.uint32),
        ).tolist()
        expected = self.reference.alloc(
            zones,
            cpu,
            order,
            count,
            mt,
            class_zone,
            flags,
            bool(how & NUMA_HOW_HIT),
            bool(how & NUMA_HOW_LOCAL),
            bool(how & NUMA_HOW_INTERLEAVE),
            owner,
            lru,
            indexes,
        )
        assert got == expected
        self.short += len(got) < count
        self.compare()

    def free(self, cpu: int | None, pfns: list[int], cold: bool = False) -> None:
        """Free blocks of one owner and order held by hand, or region pages of one owner."""
        block = self.reference.held[pfns[0]]
        if block.lru:
            indexes = np.array([self.reference.held[pfn].index for pfn in pfns], dtype=np.uint32)
            freed = self.model.release(block.owner, indexes, cpu)
        else:
            freed = self.model.free(cpu, block.order, block.owner, np.array(pfns, dtype=np.uint64), cold)
        assert freed == self.reference.free(cpu, pfns, cold and not block.lru)
        self.compare()

    def free_owner(self, owner: int) -> None:
        assert self.model.free_owner(owner) == self.reference.free_owner(owner)
        self.compare()

    def unreserve(self, zones: list[int], mt: int, force: bool) -> None:
        expected = self.reference.buddy.unreserve_highatomic_pageblock(zones, mt, force)
        assert self.model.unreserve_highatomic(zones, mt, force) == expected
        self.compare()

    def tick(self) -> None:
        """A vmstat tick; only under 6.12 it changes anything, as all CPUs are the node's own."""
        self.model.tick()
        if self.layout.kernel == "6.12":
            self.reference.tick(CPUS)
        self.compare()

    def drain(self) -> None:
        self.model.drain()
        self.reference.drain()
        self.compare()

    def reclaim_active(self, active: bool) -> None:
        self.model.set_reclaim_active(active)
        for zone in self.reference.zones.values():
            zone.reclaim_active = active

    def end_boost(self) -> None:
        self.model.pg.watermark_boost[:] = 0
        self.model.pg.zone_flags[:] &= ~ZONE_BOOSTED_WATERMARK
        for zone in self.reference.zones.values():
            zone.boost, zone.boosted = 0, False

    def held(self) -> dict[tuple[int, int, bool], list[int]]:
        """Allocated blocks that one call can free: pfns by (owner, order, whether they are region pages)."""
        groups: dict[tuple[int, int, bool], list[int]] = {}
        for pfn, block in self.reference.held.items():
            groups.setdefault((block.owner, block.order, block.lru > 0), []).append(pfn)
        return groups

    # comparison

    def _walk(self, nxt: list[int], head: int, shift: int) -> list[int]:
        pfns = []
        at = nxt[head]
        while at != head:
            pfns.append((at << shift) + self.base)
            at = nxt[at]
        return pfns

    def compare(self) -> None:
        """Compare every free list and pageset list, in order, and every counter."""
        pg = self.model.pg
        small, large = pg.next.tolist(), pg.pb_next.tolist()
        for index, zone in self.reference.zones.items():
            for order in range(NR_ORDERS):
                big = order >= PAGEBLOCK_ORDER
                for mt in ALL_TYPES:
                    links = large if big else small
                    shift = PAGEBLOCK_ORDER if big else 0
                    blocks = self._walk(links, self.free_heads[index, order, mt], shift)
                    assert blocks == list(zone.lists[order][mt]), (index, order, mt)
                assert pg.nr_free[index, order] == sum(map(len, zone.lists[order].values()))
            assert pg.vm_stat[index, NR_FREE_PAGES] == zone.free
            assert pg.watermark_boost[index] == zone.boost
            assert bool(pg.zone_flags[index] & ZONE_BOOSTED_WATERMARK) == zone.boosted
            assert bool(pg.zone_flags[index] & ZONE_BELOW_HIGH) == zone.below_high
            assert pg.reserves[index, RESERVED_HIGHATOMIC] == zone.reserved_highatomic
            events = pg.numa_event[index]
            assert events[NUMA_HIT] == zone.hit
            assert events[NUMA_MISS] == zone.miss
            assert events[NUMA_LOCAL] == zone.local
            assert events[NUMA_OTHER] == zone.other
            assert events[NUMA_INTERLEAVE_HIT] == zone.interleave
            assert pg.vm_event[PGALLOC + index] == zone.pgalloc
            for cpu, pageset in zone.pagesets.items():
                assert pg.pcp_count[cpu, index] == pageset.count
                if self.layout.kernel != "3.0":
                    assert pg.pcp_free_factor[cpu, index] == pageset.free_factor
                assert pg.pcp_tuning[cpu, index, PCP_HIGH_NOW] == pageset.high
                assert pg.pcp_tuning[cpu, index, PCP_ALLOC_FACTOR] == pageset.alloc_factor
                for number, expected in enumerate(pageset.lists):
                    pages = self._walk(small, self.pcp_heads[index, cpu, number], 0)
                    assert pages == list(expected), (index, cpu, number)
        assert pg.vm_event[PGFREE] == self.reference.pgfree
        owned = np.zeros(len(pg.owner_pages), dtype=np.int64)
        for block in self.reference.held.values():
            owned[block.owner] += 1 << block.order
        assert (pg.owner_pages == owned).all()
        first = self.base >> PAGEBLOCK_ORDER
        for pageblock, mt in self.reference.buddy.block_type.items():
            assert pg.pb_migratetype[pageblock - first] == mt, pageblock
        self.steps += 1
        if self.steps % 16 == 0:
            assert check_pgdat(self.model) == []


def random_step(pair: Pair, rng: random.Random) -> None:
    """One operation: more allocations than frees while there is room, then more frees."""
    held = pair.held()
    full = all(zone.free <= zone.marks[WMARK_LOW] + 60 for zone in pair.reference.zones.values())
    kind = rng.random()
    if held and kind < (0.6 if full else 0.36):
        pfns = held[rng.choice(sorted(held))]
        if rng.random() < 0.8:
            rng.shuffle(pfns)
        share = rng.choice((0.1, 0.5, 0.9, 1.0))
        pair.free(rng.choice((0, 0, 1, None)), pfns[: max(1, int(share * len(pfns)))], rng.random() < 0.2)
    elif kind < 0.92:
        order = rng.choice((0, 0, 0, 0, 1, 2, 3, 4, 5, 7, 9, 10))
        pair.alloc(
            rng.choice(([NORMAL, DMA32], [NORMAL, DMA32], [DMA32], [NORMAL])),
            rng.choice((0, 0, 1, None)),
            order,
            rng.randint(1, max(1, min(400, 2400 >> order))),
            rng.choice(TYPES),
            rng.choice((2, 3)),
            rng.choice(FLAGS),
            rng.randrange(8),
            rng.choice(OWNERS),
            rng.choice((0, 0, 0, 1, 2)),
        )
    elif kind < 0.93:
        pair.unreserve([NORMAL, DMA32], rng.choice(TYPES), rng.random() < 0.7)
    elif kind < 0.945:
        pair.tick()
    elif kind < 0.96:
        pair.drain()
    elif kind < 0.97:
        pair.free_owner(rng.choice(OWNERS))
    elif kind < 0.985:
        pair.reclaim_active(rng.random() < 0.5)
    else:
        pair.end_boost()


def soak(layout: Layout, seed: int, steps: int) -> Pair:
    rng = random.Random(seed)
    pair = Pair(layout)
    pair.compare()
    for _ in range(steps):
        random_step(pair, rng)
    return pair


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_seeded_operations(layout: Layout) -> None:
    pair = soak(layout, seed=20, steps=500)
    for owner in OWNERS:
        pair.free_owner(owner)
    pair.drain()
    assert sum(zone.free for zone in pair.reference.zones.values()) == int(pair.model.pg.managed.sum())
    assert check_pgdat(pair.model) == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_seeded_operations_long(layout: Layout, seed: int) -> None:
    soak(layout, seed, steps=10_000)


class Machine(RuleBasedStateMachine):
    """Short runs that Hypothesis shrinks to the operations that matter."""

    pair: Pair

    @initialize(layout=st.sampled_from(LAYOUTS))
    def boot(self, layout: Layout) -> None:
        self.pair = Pair(layout)

    @rule(
        zones=st.sampled_from(([NORMAL, DMA32], [DMA32], [NORMAL])),
        cpu=st.sampled_from((0, 1, None)),
        order=st.integers(0, NR_ORDERS - 1),
        count=st.integers(1, 300),
        mt=st.sampled_from(TYPES),
        class_zone=st.sampled_from((2, 3)),
        flags=st.sampled_from(FLAGS),
        how=st.integers(0, 7),
        owner=st.sampled_from(OWNERS),
        lru=st.sampled_from((0, 0, 1, 2)),
    )
    def alloc(self, **request: Any) -> None:
        self.pair.alloc(**request)

    @rule(
        data=st.data(), cpu=st.sampled_from((0, 1, None)), seed=st.integers(0, 999), share=st.integers(1, 4)
    )
    def free(self, data: st.DataObject, cpu: int | None, seed: int, share: int) -> None:
        held = self.pair.held()
        if held:
            pfns = held[data.draw(st.sampled_from(sorted(held)))]
            random.Random(seed).shuffle(pfns)
            self.pair.free(cpu, pfns[: max(1, len(pfns) * share // 4)])

    @rule(mt=st.sampled_from(TYPES), force=st.booleans())
    def unreserve(self, mt: int, force: bool) -> None:
        self.pair.unreserve([NORMAL, DMA32], mt, force)

    @rule()
    def tick(self) -> None:
        self.pair.tick()

    @rule()
    def drain(self) -> None:
        self.pair.drain()

    @rule(owner=st.sampled_from(OWNERS))
    def free_owner(self, owner: int) -> None:
        self.pair.free_owner(owner)

    @rule(active=st.booleans())
    def reclaim_active(self, active: bool) -> None:
        self.pair.reclaim_active(active)

    @rule()
    def end_boost(self) -> None:
        self.pair.end_boost()


QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


def test_state_machine() -> None:
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=80,
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            suppress_health_check=QUIET,
        ),
    )


@pytest.mark.slow
def test_state_machine_long() -> None:
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=250, stateful_step_count=50, deadline=None, suppress_health_check=QUIET
        ),
    )


@pytest.mark.parametrize("layout", [RAGGED, NEW_RAGGED], ids=lambda layout: layout.name)
def test_the_operations_reach_what_they_are_for(layout: Layout) -> None:
    """Random operations reach fallbacks, claimed pageblocks, boosts, full pagesets and failed watermarks."""
    boosts = claimed = 0
    factors = set()
    rng = random.Random(3)
    pair = Pair(layout)
    for _ in range(400):
        random_step(pair, rng)
        zones = pair.reference.zones.values()
        boosts += any(zone.boosted for zone in zones)
        claimed += set(FALLBACKS) <= set(pair.reference.buddy.block_type.values())
        factors |= {pageset.free_factor for zone in zones for pageset in zone.pagesets.values()}
    assert boosts
    assert claimed
    assert pair.short
    assert len(factors) > 2


def test_the_operations_reach_the_reserves() -> None:
    """High-atomic reserves are made and given back; 6.12 finds zones below HIGH and tunes `high`."""
    for layout in (EVEN, NEW_LARGE):
        rng = random.Random(5)
        pair = Pair(layout)
        reserved = set()
        highs = set()
        below = set()
        used = False
        for _ in range(200):
            random_step(pair, rng)
            for zone in pair.reference.zones.values():
                reserved.add(zone.reserved_highatomic)
                below.add(zone.below_high)
                highs |= {pageset.high for pageset in zone.pagesets.values()}
                used |= zone.free_of(MIGRATE_HIGHATOMIC) > 0
        assert len(reserved) > 1
        assert used
        if layout is NEW_LARGE:
            assert below == {False, True}
            assert len(highs) > 3


def test_the_operations_reach_the_reserve_of_3_0() -> None:
    """MIGRATE_RESERVE is set up at boot, and used when nothing else is left."""
    rng = random.Random(6)
    pair = Pair(OLD)
    at_boot = sum(zone.free_of(MIGRATE_HIGHATOMIC) for zone in pair.reference.zones.values())
    assert at_boot == 2 * 1024  # each zone reserves a block, and its order-10 block comes along
    least = at_boot
    for _ in range(400):
        random_step(pair, rng)
        least = min(least, sum(zone.free_of(MIGRATE_HIGHATOMIC) for zone in pair.reference.zones.values()))
    assert least < at_boot
