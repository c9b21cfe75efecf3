"""Threads that use memory at random: nothing is counted twice, and nothing is lost."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from mm.balancing.box import BASE, MS, Box

from numa_service.mm.balancing.fault import hint_faults
from numa_service.mm.balancing.fork import exit_task
from numa_service.mm.balancing.scan import task_numa_work
from numa_service.mm.balancing.task import NumaTask
from numa_service.mm.mmap.entries import PRESENT, has
from numa_service.mm.mmap.rules import PAGE_SIZE

#: (what, thread, first page, pages).
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["scan", "use", "use", "use", "full", "room", "move", "exit", "thread"]),
        st.integers(0, 3),
        st.integers(0, 63),
        st.integers(1, 64),
    ),
    max_size=40,
)


def check(box: Box, tasks: list[NumaTask]) -> None:
    """What must hold after every step."""
    counters = box.balancing.counters
    assert sum(box.nodes()) == box.pages, "every page is there"
    assert has(box.entries(), PRESENT).all()
    # a hint is given once, and taken once
    assert counters.numa_pte_updates == counters.numa_hint_faults + box.hints()
    assert counters.numa_pages_migrated == counters.pgmigrate_success <= counters.numa_hint_faults
    assert counters.numa_hint_faults_local <= counters.numa_hint_faults
    groups = {id(task.group): task.group for task in tasks if task.group is not None}
    for group in groups.values():
        members = [task for task in tasks if task.group is group]
        assert group.tasks == len(members)
        assert group.total_faults == sum(task.total_faults for task in members)
        assert (group.faults == sum(task.faults[:2] for task in members if task.faults is not None)).all()
    for task in tasks:
        if task.faults is not None:
            assert (task.faults >= 0).all()
            assert task.total_faults == task.faults[0].sum()
        assert task.scan_period > 0


@settings(max_examples=60, deadline=None)
@given(profile=st.sampled_from(["linux-4.4", "linux-6.1", "linux-6.12"]), steps=STEPS)
def test_what_holds_after_every_step(profile: str, steps: list[tuple[str, int, int, int]]) -> None:
    box = Box(profile)
    tasks = [box.task, box.thread(101, 2), box.thread(102, 1)]
    now = 0
    for what, which, first, count in steps:
        now += 1_500 * MS
        task = tasks[which % len(tasks)]
        end = min(first + count, box.pages)
        if what == "scan":
            box.mm.next_scan = 1
            task_numa_work(box.balancing, task, now)
        elif what == "use":
            task.sum_exec_runtime += count * MS
            hint_faults(box.balancing, task, BASE + first * PAGE_SIZE, BASE + end * PAGE_SIZE, now)
        elif what == "full":
            box.moves.full = {which % 2}
        elif what == "room":
            box.moves.full = set()
        elif what == "move":
            box.source.migrate(np.arange(first + 1, end + 1), which % 2)
        elif what == "exit" and len(tasks) > 1:
            exit_task(box.balancing, tasks.pop(which % len(tasks)))
        elif what == "thread" and len(tasks) < 4:
            tasks.append(box.thread(103 + now // MS, which, now))
        check(box, tasks)
