"""Pagesets: the vmstat tick, hot and cold pages, and per-CPU parts of NR_FREE_PAGES."""

from __future__ import annotations

import numpy as np
import pytest
from mm.nodes import NORMAL, START, pgdat

from numa_service.mm.internal import ALLOC_HARDER, ALLOC_HIGH
from numa_service.mm.invariants import check_pgdat
from numa_service.mm.mmzone import MIGRATE_MOVABLE, MIGRATE_UNMOVABLE, WMARK_LOW, WMARK_MIN
from numa_service.mm.page_alloc import NUMA_HOW_HIT
from numa_service.mm.pgdat import Pfns, Pgdat
from numa_service.mm.pgdata import NR_PCP_LISTS, PCP_HIGH_NOW, STAT_THRESHOLD
from numa_service.mm.profile import LINUX_3_0, LINUX_6_1, LINUX_6_12, Profile
from numa_service.mm.watermark import Watermarks, pressure_threshold, stat_threshold

FAR_CPU = 7


def node(
    profile: Profile = LINUX_6_1,
    pages: int = 65_536,
    *,
    drift: bool = False,
    marks: tuple[int, int, int] = (64, 80, 96),
) -> Pgdat:
    """CPUs 0 and 1 are the node's own."""
    ram = (START, START + pages)
    n = pgdat(
        {NORMAL: ram},
        {NORMAL: marks},
        [ram],
        [ram],
        cpus=(0, 1, FAR_CPU),
        profile=profile,
        batch=15,
        high=60,
        drift=drift,
    )
    n.pg.cpu_local[:] = (1, 1, 0)
    return n


def take(n: Pgdat, cpu: int, count: int, order: int = 0, mt: int = MIGRATE_UNMOVABLE, **kw: bool) -> Pfns:
    return n.alloc([NORMAL], cpu, order, count, mt, NORMAL, WMARK_LOW, NUMA_HOW_HIT, 1, **kw)


def on_pageset(n: Pgdat, cpu: int) -> int:
    return int(n.pg.pcp_count[n.cpu_index[cpu], NORMAL])


@pytest.mark.parametrize("profile", [LINUX_3_0, LINUX_6_1, LINUX_6_12])
def test_pagesets_of_other_nodes_are_drained_when_left_alone(profile: Profile) -> None:
    n = node(profile)
    take(n, 0, 1)
    take(n, FAR_CPU, 1)
    near, far = on_pageset(n, 0), on_pageset(n, FAR_CPU)
    assert far == 14
    assert [n.tick() for _ in range(3)] == [0, 0, 14]
    assert on_pageset(n, 0) == near
    assert on_pageset(n, FAR_CPU) == 0
    assert check_pgdat(n) == []


def test_use_puts_the_drain_off() -> None:
    n = node()
    held = take(n, FAR_CPU, 1)
    for _ in range(5):
        n.tick()
        n.tick()
        held = np.append(held, take(n, FAR_CPU, 15))
    assert on_pageset(n, FAR_CPU) == 14
    # one batch every third tick: draining itself counts as use
    n.free(FAR_CPU, 0, 1, held[:30])
    assert on_pageset(n, FAR_CPU) == 44
    assert [n.tick(FAR_CPU) for _ in range(9)] == [0, 0, 15, 0, 0, 15, 0, 0, 14]


def test_6_12_high_grows_with_use_and_decays_when_idle() -> None:
    n = node(LINUX_6_12)
    ceiling = int(n.pg.pcp_high_max[NORMAL])
    assert ceiling == 65_536 // 8 // 3
    held = take(n, 0, 5000)
    grown = int(n.pg.pcp_tuning[0, NORMAL, PCP_HIGH_NOW])
    assert 60 < grown <= ceiling
    n.free(0, 0, 1, held)
    high = n.pageset_high(0, NORMAL)
    assert n.snapshot().zones[NORMAL].pagesets[0].high == high
    n.tick()
    assert n.pageset_high(0, NORMAL) == max(high - high // 8, 60, on_pageset(n, 0) - 15 * 32)
    for _ in range(60):
        n.tick()
    assert n.pageset_high(0, NORMAL) == 60
    assert on_pageset(n, 0) == 60
    assert check_pgdat(n) == []


def test_6_12_with_equal_bounds_does_not_move() -> None:
    n = node(LINUX_6_12)
    n.set_pageset_high(NORMAL, 200, 200)
    n.free(0, 0, 1, take(n, 0, 5000))
    assert n.pageset_high(0, NORMAL) == 200
    assert on_pageset(n, 0) <= 200


def test_6_12_keeps_movable_huge_pages_apart() -> None:
    for profile, shared in ((LINUX_6_1, True), (LINUX_6_12, False)):
        n = node(profile)
        n.set_pageset_high(NORMAL, 4096, 4096)
        movable = take(n, 0, 1, order=9, mt=MIGRATE_MOVABLE)
        n.free(0, 9, 1, movable)
        n.pg.pb_migratetype[(int(movable[0]) - n.base_pfn) >> 9] = MIGRATE_MOVABLE
        got = take(n, 0, 1, order=9, mt=MIGRATE_UNMOVABLE)
        assert (got[0] == movable[0]) == shared
    assert NR_PCP_LISTS == 14


def test_3_0_takes_cold_pages_from_the_other_end() -> None:
    n = node(LINUX_3_0)
    assert take(n, 0, 3, cold=True).tolist() == take(node(LINUX_3_0), 0, 3).tolist()
    n = node(LINUX_3_0)
    held = take(n, 0, 30)
    n.free(0, 0, 1, held[:2])
    n.free(0, 0, 1, held[2:4], cold=True)
    assert take(n, 0, 1)[0] == held[1]
    assert take(n, 0, 1, cold=True)[0] == held[3]
    assert check_pgdat(n) == []


def test_3_0_hands_out_ascending_pages() -> None:
    got = take(node(LINUX_3_0), 0, 45)
    assert (np.diff(got.astype(np.int64)) == 1).all()


# watermarks


def test_3_0_deducts_every_lower_order() -> None:
    """A node with 300 free single pages and one free order-3 block; MIN is 64."""
    n = node(LINUX_3_0, marks=(64, 64, 64), pages=4096)
    held = n.alloc([NORMAL], None, 0, 4096, MIGRATE_UNMOVABLE, NORMAL, 4, NUMA_HOW_HIT, 1)
    assert len(held) == 4096
    order3 = held[np.searchsorted(np.sort(held), START + 1024)]
    block = np.arange(order3, order3 + 8, dtype=np.uint64)
    n.free(None, 0, 1, block)
    singles = np.array([START + 2 * i for i in range(512) if START + 2 * i not in block], dtype=np.uint64)
    n.free(None, 0, 1, singles[:300])
    assert int(n.pg.nr_free[NORMAL, 0]) == 300

    def one(order: int) -> int:
        got = n.alloc([NORMAL], None, order, 1, MIGRATE_UNMOVABLE, NORMAL, WMARK_MIN, NUMA_HOW_HIT, 2)
        return len(got)

    # order 3: 308 - 9 > 64, but without the 300 single pages what is left is not above 32
    assert one(3) == 0
    assert one(0) == 1


def test_the_boost_is_ignored_by_the_most_urgent() -> None:
    """Order-0 requests at MIN ignore the boost: __GFP_ATOMIC (here HARDER) in 6.1, __GFP_HIGH in 6.12."""
    for profile, spared, not_spared in (
        (LINUX_6_1, ALLOC_HARDER, ALLOC_HIGH),
        (LINUX_6_12, ALLOC_HIGH, ALLOC_HARDER),
    ):
        n = node(profile, pages=4096)
        n.pg.watermark_boost[NORMAL] = 1 << 20
        args = (None, 0, 1, MIGRATE_UNMOVABLE, NORMAL)
        assert len(n.alloc([NORMAL], *args, WMARK_MIN | not_spared, NUMA_HOW_HIT, 1)) == 0
        assert len(n.alloc([NORMAL], *args, WMARK_MIN | spared, NUMA_HOW_HIT, 1)) == 1


# drift


def test_without_drift_the_counter_is_exact() -> None:
    n = node()
    take(n, 0, 100)
    assert not n.pg.free_delta.any()
    assert n.pg.drift[NORMAL, STAT_THRESHOLD] == 0


def test_cpus_keep_what_is_within_the_threshold() -> None:
    n = node(drift=True)
    threshold = int(n.pg.drift[NORMAL, STAT_THRESHOLD])
    assert threshold == stat_threshold(65_536, 3) > 0
    n.pg.drift[NORMAL, STAT_THRESHOLD] = 20
    take(n, 0, 1)  # one batch of 15
    assert n.free_pages(NORMAL) == 65_536
    assert n.pg.free_delta[0, NORMAL] == -15
    take(n, 1, 1)
    assert n.free_pages(NORMAL) == 65_536
    take(n, 0, 15)  # the second batch is past it
    assert n.free_pages(NORMAL) == 65_536 - 30
    assert n.pg.free_delta[:, NORMAL].tolist() == [0, -15, 0]
    assert check_pgdat(n) == []
    n.tick()
    assert n.free_pages(NORMAL) == 65_536 - 45
    assert not n.pg.free_delta.any()


def test_kswapd_is_not_fooled_by_drift() -> None:
    marks = (1000, 1010, 1040)
    n = node(drift=True, marks=marks, pages=4096)
    wanted = Watermarks(*marks, promo=1070)
    assert n.percpu_drift_mark(NORMAL) == 1040 + 3 * stat_threshold(4096, 3)
    n.pg.drift[NORMAL, STAT_THRESHOLD] = 125
    n.alloc([NORMAL], None, 0, 4096 - 1060, MIGRATE_UNMOVABLE, NORMAL, WMARK_LOW, NUMA_HOW_HIT, 1)
    assert n.balanced(0, NORMAL)
    for cpu in (0, 1, FAR_CPU):
        take(n, cpu, 15)
    assert n.free_pages(NORMAL) == 1060 > marks[2]
    n.pg.drift[NORMAL, 1] = 1040 + 3 * 125
    assert not n.balanced(0, NORMAL)
    n.set_reclaim_active(True)
    assert n.pg.drift[NORMAL, STAT_THRESHOLD] == pressure_threshold(wanted, 3) == 3
    n.set_reclaim_active(False)
    assert n.pg.drift[NORMAL, STAT_THRESHOLD] == stat_threshold(4096, 3)


def test_no_mark_where_drift_cannot_matter() -> None:
    n = node(marks=(1000, 4000, 7000))
    assert n.percpu_drift_mark(NORMAL) == 0
