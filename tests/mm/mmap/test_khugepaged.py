"""khugepaged: whom it looks at, what it makes huge and what not, and how long it sleeps; MADV_COLLAPSE."""

from __future__ import annotations

import errno

import numpy as np
import pytest
from mm.mmap.inhabited import check
from mm.mmap.spaces import HERE, PAGE, place
from mm.mmap.test_huge_memory import NR, Machine, advise, at, go, huge_of, inhabited, machine

from numa_service.mm.mmap.carry_out import carry_out, exit_process, fork
from numa_service.mm.mmap.errnos import Errno
from numa_service.mm.mmap.frames import ANON
from numa_service.mm.mmap.khugepaged import Khugepaged, Nodes, find_target_node
from numa_service.mm.mmap.madvise import MADV_COLLAPSE, MADV_HUGEPAGE, MADV_NOHUGEPAGE
from numa_service.mm.mmap.munmap import munmap
from numa_service.mm.mmap.process import Process
from numa_service.mm.mmap.thp import GFP_TRANSHUGE, GFP_TRANSHUGE_LIGHT


def small(version: str = "6.1", huge: int = 2, count: int | None = None) -> tuple[Machine, Process]:
    """A process with small pages where huge ones would have room, as there were none when it faulted."""
    one, its = inhabited(version, huge)
    one.pages.left = 0
    go(its, 0, count or huge * NR)
    one.pages.left = 100
    one.pages.asked.clear()
    one.thp.events.clear()
    return one, its


def test_a_round_makes_huge_pages() -> None:
    one, its = small()
    tables = its.tables.counts()
    daemon = Khugepaged(one.frames)
    assert daemon.wanted()
    assert daemon.do_scan() == 10_000
    assert huge_of(its) == [0, NR]
    assert one.thp.events == {"thp_collapse_alloc": 2}
    assert one.thp.scan.pages_collapsed == 2
    assert its.tables.counts() == tables
    assert one.pages.out == 2 * NR
    assert go(its, 0, 2 * NR) == 0
    check([its])


def test_pages_of_which_few_are_there() -> None:
    one, its = small(count=NR + 1)
    one.thp.settings.khugepaged_max_ptes_none = 510
    Khugepaged(one.frames).do_scan()
    assert huge_of(its) == [0]
    assert one.thp.events == {"thp_collapse_alloc": 1, "thp_scan_exceed_none_pte": 1}
    one.thp.settings.khugepaged_max_ptes_none = 511
    Khugepaged(one.frames).do_scan()
    assert huge_of(its) == [0, NR]
    # what was none is the process's own now
    assert its.rss[ANON] == 2 * NR
    check([its])


@pytest.mark.parametrize(("version", "shared", "huge"), [("6.1", 256, 1), ("6.1", 257, 0), ("5.7", 1, 0)])
def test_pages_that_others_map(version: str, shared: int, huge: int) -> None:
    one, its = small(version, 1)
    child = fork(its, one.tables)
    go(its, shared, NR - shared)
    exit_process(fork(its, one.tables))
    go(its, shared, NR - shared)
    assert int((one.frames.mapcount == 2).sum()) == shared
    Khugepaged(one.frames).do_scan()
    assert len(huge_of(its)) == huge
    assert one.thp.events.get("thp_scan_exceed_share_pte", 0) == (1 - huge)
    check([its, child])


def test_what_nobody_writes_or_uses_stays_small() -> None:
    one, its = small(huge=1)
    child = fork(its, one.tables)
    exit_process(child)
    daemon = Khugepaged(one.frames)
    daemon.do_scan()
    # after a fork no entry may be written to
    assert huge_of(its) == []
    go(its, 0)
    daemon.do_scan()
    assert huge_of(its) == [0]


def test_rounds_look_at_so_many_pages() -> None:
    one, its = small(huge=4)
    one.thp.settings.khugepaged_pages_to_scan = 2 * NR
    daemon = Khugepaged(one.frames)
    daemon.do_scan()
    assert huge_of(its) == [0, NR]
    assert one.thp.scan.full_scans == 0
    daemon.do_scan()
    assert huge_of(its) == [0, NR, 2 * NR, 3 * NR]
    daemon.do_scan()
    assert one.thp.scan.full_scans == 1


def test_everybody_is_looked_at_once_a_round() -> None:
    one, its = small(huge=1)
    other = one.process()
    place(other.mm, 0, NR)
    one.pages.left = 0
    go(other, 0, NR)
    one.pages.left = 100
    daemon = Khugepaged(one.frames)
    daemon.do_scan()
    assert huge_of(its) == huge_of(other) == [0]
    assert one.thp.scan.full_scans == 1
    exit_process(its)
    exit_process(other)
    assert not daemon.wanted()


def test_the_process_that_is_looked_at_may_end() -> None:
    one, its = small(huge=2)
    one.thp.settings.khugepaged_pages_to_scan = NR
    daemon = Khugepaged(one.frames)
    daemon.do_scan()
    assert one.thp.scan.current is its
    exit_process(its)
    assert one.thp.scan.current is None
    assert one.pages.out == one.tables.out == 0
    daemon.do_scan()


def test_without_a_huge_page_it_sleeps_longer_and_then_gives_up() -> None:
    one, its = small(huge=4)
    daemon = Khugepaged(one.frames)
    one.pages.left = 1
    assert daemon.do_scan() == 60_000
    assert huge_of(its) == [0]
    assert daemon.do_scan() == 10_000
    assert one.thp.events["thp_collapse_alloc_failed"] == 2
    one.pages.left = 100
    assert daemon.do_scan() == 10_000
    assert huge_of(its) == [0, NR, 2 * NR, 3 * NR]


def test_nobody_is_looked_at_with_huge_pages_off() -> None:
    one, its = small()
    one.thp.settings.enabled = "never"
    daemon = Khugepaged(one.frames)
    assert not daemon.wanted()
    one.thp.settings.enabled = "madvise"
    daemon.do_scan()
    assert huge_of(its) == []
    advise(its, 0, NR, MADV_HUGEPAGE)
    daemon.do_scan()
    assert huge_of(its) == [0]


def test_advice_makes_it_look_at_a_process() -> None:
    one, its = inhabited(enabled="never")
    go(its, 0, NR)
    one.thp.settings.enabled = "madvise"
    assert not one.thp.scan.slots
    advise(its, 0, NR, MADV_HUGEPAGE)
    assert list(one.thp.scan.slots) == [its]


def test_the_node_with_most_pages() -> None:
    one, its = small(huge=1)
    nids = np.array([0] * 100 + [1] * 300 + [2] * 112, np.int16)
    pfns = its.all_entries(HERE, HERE + NR * PAGE) >> 8
    for nid in range(3):
        one.pages.migrate(pfns[nids == nid], nid)
    Khugepaged(one.frames).do_scan()
    assert [nid for nid, _, _ in one.pages.asked] == [1]


@pytest.mark.parametrize(("version", "nodes"), [("3.13", [0, 0, 0]), ("4.9", [0, 2, 0]), ("6.1", [0, 0, 0])])
def test_nodes_with_as_many_pages(version: str, nodes: list[int]) -> None:
    thp = machine(version).thp
    assert [find_target_node(thp, [256, 0, 256]) for _ in range(3)] == nodes


def test_pages_of_far_nodes_stay_where_they_are() -> None:
    one, its = small(huge=1)
    pfns = its.all_entries(HERE, HERE + NR * PAGE) >> 8
    one.pages.migrate(pfns[10:], 1)
    near, far = Nodes(((10, 30), (30, 10))), Nodes(((10, 31), (31, 10)))
    Khugepaged(one.frames, far).do_scan()
    assert huge_of(its) == []
    Khugepaged(one.frames, near).do_scan()
    assert huge_of(its) == [0]


def test_how_hard_it_tries() -> None:
    for defrag, expected in ((1, GFP_TRANSHUGE), (0, GFP_TRANSHUGE_LIGHT)):
        one, its = small(huge=1)
        one.thp.settings.khugepaged_defrag = defrag
        Khugepaged(one.frames).do_scan()
        assert [gfp for _, _, gfp in one.pages.asked] == [expected]
        assert huge_of(its) == [0]


def test_parts_of_split_huge_pages_become_one_again() -> None:
    one, its = inhabited(huge=1)
    go(its, 0)
    carry_out(its, munmap(its.mm, HERE + 3 * PAGE, PAGE))
    place(its.mm, 3, 1)
    go(its, 3)
    assert huge_of(its) == []
    assert one.pages.out == NR + 1
    Khugepaged(one.frames).do_scan()
    assert huge_of(its) == [0]
    assert one.pages.out == NR
    check([its])


def refused(one: Process, first: int, count: int) -> int:
    with pytest.raises(Errno) as caught:
        advise(one, first, count, MADV_COLLAPSE)
    return caught.value.number


def test_madvise_collapses_whatever_the_files_say() -> None:
    one, its = small(huge=4, count=3 * NR)
    one.thp.settings.enabled = "never"
    one.thp.settings.khugepaged_max_ptes_none = 0
    advise(its, 1, 2 * NR, MADV_COLLAPSE)
    assert huge_of(its) == [NR]
    advise(its, 0, 3 * NR, MADV_COLLAPSE)
    assert huge_of(its) == [0, NR, 2 * NR]
    # nothing is mapped in the last one
    assert refused(its, 2 * NR, 2 * NR) == errno.EINVAL
    assert one.thp.scan.pages_collapsed == 0


def test_when_madvise_refuses_to_collapse() -> None:
    one, its = small(huge=2)
    one.pages.left = 1
    assert refused(its, 0, 2 * NR) == errno.ENOMEM
    assert huge_of(its) == [0]
    advise(its, 0, 2 * NR, MADV_NOHUGEPAGE)
    assert refused(its, NR, NR) == errno.EINVAL
    assert at(its, 0).anon_vma is not None
    _, untouched = inhabited()
    assert refused(untouched, 0, NR) == errno.EINVAL
