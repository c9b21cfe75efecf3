"""Scans: when they come, what they give hints to, and what kernels leave out."""

from __future__ import annotations

import numpy as np
import pytest
from mm.balancing.box import BASE, MS, Box

from numa_service.mm.balancing.fault import hint_faults
from numa_service.mm.balancing.parameters import Parameters
from numa_service.mm.balancing.rules import rules_of
from numa_service.mm.balancing.scan import account_scan, pid_bit, task_numa_work, task_tick_numa
from numa_service.mm.mempolicy.policy import MPOL_F_NUMA_BALANCING, Mempolicy, Mode
from numa_service.mm.mmap import vm_flags as vf
from numa_service.mm.mmap.carry_out import exit_process, fork
from numa_service.mm.mmap.fault import touch
from numa_service.mm.mmap.frames import FILE, AddressSpace
from numa_service.mm.mmap.pgtables import Unlimited
from numa_service.mm.mmap.rules import PAGE_SIZE, PMD_SIZE
from numa_service.mm.mmap.vma import File
from numa_service.mm.profile import profile_named

#: Virtual ms at which the address space may be scanned for the first time.
READY = 2_000


def scan(box: Box, ms: int = READY) -> int:
    """Scan now, whatever was before."""
    box.mm.next_scan = 1
    return task_numa_work(box.balancing, box.task, ms * MS)


def test_the_first_scan_comes_a_scan_delay_after_the_first_second_of_run_time() -> None:
    box = Box()
    when = []
    for tick in range(1, 1_500):
        box.task.sum_exec_runtime = now = tick * 4 * MS
        if task_tick_numa(box.balancing, box.task, now) and task_numa_work(box.balancing, box.task, now):
            when.append(now // MS)
    # the address space is new since execve(): the first tick that is due only sets the time
    assert when == [2004]
    assert box.hints() == box.pages


def test_the_first_thread_sets_the_time_and_threads_are_staggered_by_ticks_only() -> None:
    box = Box()
    thread = box.thread(101, 2, now_ns=500 * MS)
    assert box.mm.next_scan == (500 + 1000) // 4
    assert thread.node_stamp == 60_000 + 8 * MS, "a period in ms, taken for ns"


def test_switched_off_nothing_is_scanned() -> None:
    box = Box()
    box.balancing.parameters = Parameters(mode=0)
    box.task.sum_exec_runtime = 10_000 * MS
    assert not task_tick_numa(box.balancing, box.task, 10_000 * MS)


def test_the_next_scan_waits_for_32_times_what_one_took() -> None:
    box = Box()
    before = box.task.node_stamp
    account_scan(box.task, 5 * MS)
    assert box.task.node_stamp - before == 160 * MS


def test_a_scan_ends_after_its_size_and_the_next_one_goes_on() -> None:
    box = Box(pages=1024)
    box.balancing.parameters = Parameters(scan_size_mb=1)
    assert scan(box) == 512, "256 pages, up to the end of their page of PTEs"
    assert (box.mm.scan_seq, box.mm.scan_offset) == (0, BASE + PMD_SIZE)
    assert scan(box) == 512
    # it ended at its size: only the next one finds that nothing is left
    assert box.mm.scan_seq == 0
    assert scan(box) == 0
    assert box.mm.scan_seq == 2, "it begins again, finds hints everywhere, and has come round once more"


def test_pages_of_the_own_node_get_none_unless_there_are_threads() -> None:
    box = Box()
    box.task.cpu = 2
    assert scan(box) == 0
    box.thread(101, 0)
    assert scan(box) == box.pages


@pytest.mark.parametrize(
    ("profile", "with_hint"), [("linux-6.1", 60), ("linux-6.12", 64)], ids=["used", "mapped"]
)
def test_pages_that_wait_for_a_list(profile: str, with_hint: int) -> None:
    box = Box(profile)
    box.balancing.batched = {1, 2, 3, 4}
    assert scan(box) == with_hint


def test_pages_shared_since_a_fork_get_none() -> None:
    box = Box()
    fork(box.process, Unlimited())
    assert scan(box) == 0


def test_clean_pages_of_a_file_that_may_be_written_get_one_and_dirty_ones_none() -> None:
    box = Box()
    cache = AddressSpace(FILE)
    shared = vf.VM_READ | vf.VM_WRITE | vf.VM_SHARED
    for at, flags in ((1 << 30, shared), (2 << 30, vf.VM_READ)):
        box.area(at, 8, file=File("/f", 8, 0, 1, pages=cache, size=8), flags=flags)
        touch(box.process, at, at + 8 * PAGE_SIZE, write=False)
    pfns = cache.find(np.arange(8))
    box.process.frames.dirty[pfns[:3]] = True
    assert scan(box) == box.pages + 5, "and of the mapping that can only be read none"


def test_shared_memory_without_a_policy_is_never_scanned() -> None:
    box = Box(pages=8)
    file = File("/dev/zero (deleted)", 0, 1, 1, shmem=True, pages=AddressSpace(2))
    vma = box.area(1 << 30, 8, file=file, flags=vf.VM_READ | vf.VM_WRITE | vf.VM_SHARED)
    touch(box.process, 1 << 30, vma.end, write=True)
    assert scan(box) == 8
    vma.policy = Mempolicy(Mode.BIND, 0b11, MPOL_F_NUMA_BALANCING)
    assert scan(box) == 8, "now those of the shared memory"


def test_a_policy_that_does_not_ask_for_it_keeps_scans_away() -> None:
    box = Box(policy=Mempolicy(Mode.BIND, 0b01))
    assert scan(box) == 0
    box.vma.policy = None
    box.task.policy = Mempolicy(Mode.INTERLEAVE, 0b11)
    assert scan(box) == 0
    box.task.policy = Mempolicy(Mode.BIND, 0b01, MPOL_F_NUMA_BALANCING)
    assert scan(box) == box.pages


def test_a_huge_page_gets_one_hint_also_on_the_own_node() -> None:
    box = Box(pages=512, huge=True)
    assert box.process.tables.is_huge(BASE)
    box.task.cpu = 2
    assert scan(box) == 512
    assert box.balancing.counters.numa_huge_pte_updates == 1
    found = hint_faults(box.balancing, box.task, BASE + PAGE_SIZE, BASE + 3 * PAGE_SIZE, 0)
    assert (found.faults, found.local, found.migrated_pages) == (1, 1, 0)
    assert box.hints() == 0


def test_a_huge_page_moves_as_one_unless_others_map_it() -> None:
    box = Box(pages=512, huge=True)
    child = fork(box.process, Unlimited())
    scan(box)
    assert hint_faults(box.balancing, box.task, BASE, box.end, 0).failed_pages == 512
    exit_process(child)
    scan(box, 2 * READY)
    found = hint_faults(box.balancing, box.task, BASE, box.end, 0)
    assert (found.faults, found.migrated_pages) == (1, 512)
    assert box.nodes() == [512, 0]


def test_the_huge_page_of_zeros_gets_none() -> None:
    box = Box(pages=8, huge=True)
    vma = box.area(1 << 30, 512)
    touch(box.process, 1 << 30, vma.end, write=False)
    assert scan(box) == 8


def test_kernels_with_a_state_for_each_vma_leave_out_new_ones_and_those_of_others() -> None:
    for profile, scanned in (("linux-6.1", True), ("linux-6.12", False)):
        box = Box(profile)
        assert scan(box) == 64
        vma = box.area(1 << 30, 8)
        touch(box.process, 1 << 30, vma.end, write=True)
        assert (scan(box) == 8) == scanned, "younger than a scan delay"
        assert scan(box, 3 * READY) == (0 if scanned else 8)


def test_what_nobody_used_is_scanned_when_nothing_else_is_left_one_area_at_a_time() -> None:
    box = Box("linux-6.12", pages=8)
    other = box.area(1 << 30, 4)
    touch(box.process, 1 << 30, other.end, write=True)
    for ms in (READY, 3 * READY):
        scan(box, ms)
        hint_faults(box.balancing, box.task, BASE, box.end, ms * MS)
        box.source.migrate(np.arange(1, 9), 1)
    assert box.mm.scan_seq == 2
    assert box.vma.numab is not None
    assert other.numab is not None
    assert box.vma.numab.pids[1] == 1 << pid_bit(100)
    assert other.numab.pids == [0, 0]
    # the lower one is not the task's: it comes after all, and ends this scan, but the sequence goes on
    first = scan(box, 3 * READY + 4)
    assert first == 8
    assert box.mm.scan_seq == 2


def test_rules_come_with_their_releases() -> None:
    assert rules_of(profile_named("linux-3.0")) is None
    old, new = rules_of(profile_named("linux-6.1")), rules_of(profile_named("linux-6.12"))
    assert old
    assert new
    assert (old.vma_state, new.vma_state) == (False, True)
    assert (old.pagevec_size, new.pagevec_size) == (15, 31)


@pytest.mark.parametrize("wrong", [{"mode": 4}, {"scan_size_mb": 0}, {"scan_delay_ms": -1}])
def test_wrong_parameters_are_named(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Parameters(**wrong)
