"""pagemap, kpageflags and the like of a machine with tasks, and what the OOM killer thinks of these."""

from __future__ import annotations

import errno

import numpy as np
import numpy.typing as npt
import pytest
from node.test_task import KIB, MACHINE, MIB, Tasks

from numa_service.machine.machinefile import parse_machine
from numa_service.mm.hugetlb.hstate import PMD_KB
from numa_service.mm.mempolicy.policy import Mode
from numa_service.mm.mmap.mmap import MAP_ANONYMOUS, MAP_SHARED
from numa_service.mm.mmzone import PAGE_SHIFT
from numa_service.node import ops
from numa_service.node.errors import InvalidRequest
from numa_service.node.hugetlb import keeper_of, set_max_huge_pages
from numa_service.node.page_files import drive, page_file, read_at, size_of
from numa_service.node.page_state import MAX_PAGES, Ask, Question, answer
from numa_service.node.task_files import task_files
from numa_service.procfs import page_bits as bits
from numa_service.procfs.pid_oom import adj_of_oom_adj

Words = npt.NDArray[np.uint64]
PFN = (1 << 55) - 1


def read(tasks: Tasks, path: str, first: int = 0, count: int = MAX_PAGES) -> Words:
    """Entries of a file, from its `first` one on."""
    file = page_file(tasks.sim.spec, path)
    assert file is not None, path
    reading = read_at(tasks.sim.spec, file, first * 8, count * 8)
    return np.frombuffer(drive(reading, lambda nid, asked: answer(tasks.sim.nodes[nid], asked)), "<u8")


def pagemap(tasks: Tasks, pid: int, address: int, pages: int) -> Words:
    return read(tasks, f"/proc/{pid}/pagemap", address >> PAGE_SHIFT, pages)


def names(word: int) -> set[str]:
    """The bits of pagemap above the page frame number."""
    return {name for name in dir(bits) if name.startswith("PM_") and name != "PM_PSHIFT"
            if word >> getattr(bits, name) & 1}  # fmt: skip


def flags(word: int) -> set[str]:
    return {name for name in dir(bits) if name.startswith("KPF_") and word >> getattr(bits, name) & 1}


def test_an_entry_says_what_is_mapped_and_where() -> None:
    tasks = Tasks()
    pid = tasks.spawn()
    anon, shmem = tasks.map(pid, 64 * KIB), tasks.map(pid, 16 * KIB, MAP_SHARED | MAP_ANONYMOUS)
    tasks.do(pid, "mbind", anon, 32 * KIB, Mode.BIND, 0b010, 0)
    tasks.do(pid, "touch", anon, 60 * KIB, 1)
    tasks.do(pid, "touch", shmem, 8 * KIB, 1)
    words = pagemap(tasks, pid, anon, 16)
    mine = {"PM_PRESENT", "PM_SOFT_DIRTY", "PM_MMAP_EXCLUSIVE"}
    assert [names(int(word)) for word in words] == [mine] * 15 + [{"PM_SOFT_DIRTY"}]
    # the nodes that have the pages have them at these page frame numbers, as this task's
    for word, nid in zip(words.tolist()[:15], [1] * 8 + [0] * 7, strict=True):
        pgdat = tasks.sim.nodes[nid].pgdat
        frame = int(pgdat.pg.pgoff[(word & PFN) - pgdat.base_pfn])
        assert tasks.node.tasks.source.nids[frame] == nid
    of_shmem = pagemap(tasks, pid, shmem, 4).tolist()
    assert [names(word) for word in of_shmem] == [mine | {"PM_FILE"}] * 2 + [{"PM_SOFT_DIRTY"}] * 2
    child = tasks.do(pid, "fork").value
    assert names(int(pagemap(tasks, child, anon, 1)[0])) == mine - {"PM_MMAP_EXCLUSIVE"}
    assert (pagemap(tasks, child, anon, 15) & np.uint64(PFN) == words[:15] & np.uint64(PFN)).all()
    assert not pagemap(tasks, pid, anon - 64 * MIB, 4).any()
    # each page is mapped as often as page tables say, by both
    pfns = (words[:15] & np.uint64(PFN)).astype(int)
    assert set(read(tasks, "/proc/kpagecount")[pfns].tolist()) == {2}
    shown = read(tasks, "/proc/kpageflags")
    assert {frozenset(flags(int(word))) for word in shown[pfns]} == {
        frozenset({"KPF_UPTODATE", "KPF_LRU", "KPF_MMAP", "KPF_ANON", "KPF_SWAPBACKED"})
    }
    assert "KPF_ANON" not in flags(int(shown[of_shmem[0] & PFN]))
    assert "KPF_SWAPBACKED" in flags(int(shown[of_shmem[0] & PFN]))
    assert set(read(tasks, "/proc/kpagecgroup")[pfns].tolist()) == {1}
    # the program's pages: of a file, mapped by both, and one that only the cache has any more
    of_file = {frozenset(flags(word)) for word in np.unique(shown).tolist() if word >> bits.KPF_LRU & 1}
    of_file = {one for one in of_file if "KPF_SWAPBACKED" not in one}
    assert {"KPF_MMAP" in one for one in of_file} == {True, False}
    tasks.do(child, "exit")
    assert set(read(tasks, "/proc/kpagecount")[pfns].tolist()) == {1}
    tasks.end()


def test_the_page_of_zeros_and_reclaimed_pages() -> None:
    tasks = Tasks()
    pid = tasks.spawn()
    address = tasks.map(pid, 16 * MIB)
    tasks.do(pid, "touch", address, 4 * KIB, 0)
    [zero] = pagemap(tasks, pid, address, 1).tolist()
    assert names(zero) == {"PM_PRESENT", "PM_SOFT_DIRTY"}
    assert zero & PFN == 0
    tasks.do(pid, "mbind", address, 16 * MIB, Mode.BIND, 0b001, 0)
    tasks.do(pid, "touch", address, 16 * MIB, 1)
    other = tasks.map(pid, 32 * MIB)
    tasks.do(pid, "mbind", other, 32 * MIB, Mode.BIND, 0b001, 0)
    tasks.do(pid, "touch", other, 24 * MIB, 1)
    words = pagemap(tasks, pid, address, 4096)
    swapped = [word for word in words.tolist() if "PM_SWAP" in names(word)]
    assert swapped
    assert {frozenset(names(word)) for word in swapped} == {frozenset({"PM_SWAP", "PM_SOFT_DIRTY"})}
    present = words[words >> np.uint64(bits.PM_PRESENT) != 0] & np.uint64(PFN)
    assert len(set(present.tolist())) == len(present) == len(words) - len(swapped)


def test_every_free_page_is_buddy_and_holes_are_no_pages() -> None:
    machine = parse_machine(MACHINE, source="tasks", default_name="tasks")
    tasks = Tasks()
    keeper = tasks.sim.hosts[keeper_of(tasks.sim.nodes[0])]
    tasks.sim.call(keeper.node.nid, set_max_huge_pages(keeper.inbox, PMD_KB, 3))
    words = read(tasks, "/proc/kpageflags")
    size = page_file(machine, "proc/kpageflags")
    assert size is not None
    assert len(words) == size_of(machine, size) // 8
    buddy = words >> np.uint64(bits.KPF_BUDDY) & np.uint64(1)
    free = sum(n.pgdat.free_pages(e.index) for n in tasks.sim.nodes.values() for e in n.pgdat.extents)
    assert int(buddy.sum()) == free
    assert set(read(tasks, "/proc/kpagecgroup").tolist()) == {0}
    head, tail = (
        1 << bits.KPF_HUGE | 1 << place for place in (bits.KPF_COMPOUND_HEAD, bits.KPF_COMPOUND_TAIL)
    )
    assert [int((words == word).sum()) for word in (head, tail)] == [3, 3 * 511]
    assert "KPF_RESERVED" in flags(int(words[-1]))  # RAM ends inside the last section
    # a bad page is no free one
    pfn = int(np.flatnonzero(buddy)[5])
    nid = next(nid for nid, n in tasks.sim.nodes.items() if n.pgdat.zone_of(pfn) >= 0)
    tasks.sim.nodes[nid].apply(ops.PoisonPage(pfn, False))
    assert flags(int(read(tasks, "/proc/kpageflags", pfn, 1)[0])) == {"KPF_HWPOISON"}


def test_old_kernels_have_other_bits() -> None:
    spec = parse_machine(MACHINE, source="tasks", default_name="tasks").with_profile("linux-3.0")
    assert page_file(spec, "/proc/kpagecgroup") is None
    tasks = Tasks(machine=f'profile = "linux-3.0"\n{MACHINE}')
    pid = tasks.spawn()
    address = tasks.map(pid, 16 * KIB)
    tasks.do(pid, "touch", address, 4 * KIB, 1)
    there, not_there = pagemap(tasks, pid, address, 2).tolist()
    assert not_there == PAGE_SHIFT << bits.PM_PSHIFT
    assert there >> bits.PM_PSHIFT == 1 << 8 | PAGE_SHIFT
    shown = read(tasks, "/proc/kpageflags")
    blocks = sum(sum(z.nr_free) for n in tasks.sim.nodes.values() for z in n.pgdat.snapshot().zones)
    assert int((shown >> np.uint64(bits.KPF_BUDDY) & np.uint64(1)).sum()) == blocks


def test_reads_are_of_whole_entries_and_end_where_the_file_does() -> None:
    tasks = Tasks()
    pid, spec = tasks.spawn(), tasks.sim.spec
    for offset, length in ((4, 8), (8, 4)):
        file = page_file(spec, "/proc/kpagecount")
        assert file is not None
        with pytest.raises(OSError, match="entries") as refused:
            next(read_at(spec, file, offset, length))
        assert refused.value.errno == errno.EINVAL
    last = size_of(spec, page_file(spec, f"/proc/{pid}/pagemap")) // 8  # type: ignore[arg-type]  # it is one
    assert len(read(tasks, f"/proc/{pid}/pagemap", last - 2, 8)) == 2
    assert len(read(tasks, f"/proc/{pid}/pagemap", last + 2, 8)) == 0
    assert len(read(tasks, "/proc/kpageflags", 1 << 40, 8)) == 0
    with pytest.raises(FileNotFoundError):
        pagemap(tasks, pid + len(tasks.sim.nodes), 0, 1)
    with pytest.raises(InvalidRequest):
        answer(tasks.node, Question(Ask.PAGES, 0, MAX_PAGES + 1))
    for path in ("/proc/kpage", "/proc/x/pagemap", "/proc/0303/pagemap", "/proc/meminfo"):
        assert page_file(spec, path) is None


def test_scores_follow_memory_and_what_was_written() -> None:
    tasks = Tasks()
    pid = tasks.spawn()

    def score(of: int) -> int:
        return int(task_files(tasks.node, of)[of]["oom_score"])

    before = score(pid)
    assert 667 <= before < 750
    address = tasks.map(pid, 16 * MIB)
    tasks.do(pid, "touch", address, 16 * MIB, 1)
    machine = tasks.node.machine
    total = sum(machine.managed.values()) + tasks.sim.spec.swap_pages
    assert score(pid) - before == pytest.approx(4096 * 2000 / 3 / total, abs=8)
    op = ops.SetOomScoreAdj(pid, 500)
    op.check(tasks.node)
    tasks.node.apply(op)
    child = tasks.do(pid, "fork").value
    files = task_files(tasks.node, child)[child]
    assert (files["oom_score_adj"], files["oom_adj"]) == ("500\n", "8\n")
    tasks.node.apply(ops.SetOomScoreAdj(pid, -1000))
    assert score(pid) == 0 < score(child)
    for value in (1001, -1001):
        with pytest.raises(InvalidRequest, match="EINVAL"):
            ops.SetOomScoreAdj(pid, value).check(tasks.node)
    with pytest.raises(InvalidRequest):
        ops.SetOomScoreAdj(1, 0).check(tasks.node)
    assert tasks.sim.check() == []


def test_the_old_scale_is_that_of_the_new_one() -> None:
    assert [adj_of_oom_adj(value) for value in (-18, -17, -16, 0, 8, 15, 16)] == [
        None,
        -1000,
        -941,
        0,
        470,
        1000,
        None,
    ]
