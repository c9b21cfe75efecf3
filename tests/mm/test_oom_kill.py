"""Points of tasks by kernel, and the choice. Captured reports are compared in tests/fidelity/test_oom.py."""

from __future__ import annotations

import pytest

from numa_service.mm.oom_kill import (
    Constraint,
    NodeSize,
    OomControl,
    OomTask,
    constrained_alloc,
    oom_badness,
    oom_score,
    oom_score_adj_to_oom_adj,
    select_bad_process,
    shown_points,
    victim_of,
)
from numa_service.mm.profile import profile_named

TOTAL = 250_000
SIZES = {0: NodeSize(100, 120, 90), 1: NodeSize(100, 100, 95), 2: NodeSize(0, 0, 0)}


def task(pid: int, rss: int, adj: int = 0, uid: int = 0, ppid: int = 1) -> OomTask:
    return OomTask(pid, f"t{pid}", 2 * rss, rss, 0, 0, (5, 3, 1), 0, adj, ppid, uid)


@pytest.mark.parametrize(
    ("profile", "points", "score"),
    [
        ("linux-2.6.38", 200 + 10 - 30, 180),
        ("linux-3.0", 200 + 10 - 30, 180),
        ("linux-3.10", 50_005 + (10 - 30) * 250, 180),
        ("linux-3.14", 50_005 - 1500 + 2500, 204),
        ("linux-4.0", 50_008 - 1500 + 2500, 204),
        ("linux-4.16", 50_009 - 1500 + 2500, 204),
        ("linux-4.17", 50_009 + 2500, 210),
        ("linux-6.1", 50_009 + 2500, (1000 + 210) * 2 // 3),
    ],
)
def test_points_of_root_by_kernel(profile: str, points: int, score: int) -> None:
    kernel = profile_named(profile)
    root = task(7, 50_000, adj=10)
    assert oom_badness(root, TOTAL, kernel) == points
    assert oom_score(root, TOTAL, kernel) == score


@pytest.mark.parametrize("profile", ["linux-3.0", "linux-3.10", "linux-5.8", "linux-6.12"])
def test_a_task_that_must_not_be_killed_has_no_points(profile: str) -> None:
    kernel = profile_named(profile)
    never = task(7, 100_000, adj=-1000)
    assert (oom_badness(never, TOTAL, kernel), oom_score(never, TOTAL, kernel)) == (None, 0)
    assert select_bad_process([never], OomControl(Constraint.NONE, TOTAL), kernel) is None


def test_points_below_none_are_raised_to_one_only_in_older_kernels() -> None:
    small = task(7, 100, adj=-900)
    assert oom_badness(small, TOTAL, profile_named("linux-5.8")) == 1
    assert oom_badness(small, TOTAL, profile_named("linux-5.9")) == 109 - 900 * 250
    # so that a larger one is told from it
    larger = task(8, 1100, adj=-900)
    control = OomControl(Constraint.NONE, TOTAL)
    for profile, chosen in (("linux-5.8", 8), ("linux-5.9", 8), ("linux-4.19", 7)):
        tasks = [larger, small] if profile == "linux-5.8" else [small, larger]
        found = select_bad_process(tasks, control, profile_named(profile))
        assert found is not None
        # 5.8 takes the last of equals, 4.19 the first
        assert found.task.pid == (7 if profile == "linux-5.8" else chosen)


def test_older_kernels_kill_the_worst_child_instead() -> None:
    tasks = [task(7, 50_000), task(8, 10, ppid=7), task(9, 20, ppid=7), task(10, 30, adj=-1000, ppid=7)]
    control = OomControl(Constraint.NONE, TOTAL)
    for profile, victim in (("linux-3.0", 8), ("linux-5.0", 9), ("linux-5.1", 7)):
        kernel = profile_named(profile)
        chosen = select_bad_process(tasks, control, kernel)
        assert chosen is not None
        assert chosen.task.pid == 7
        # 3.0 counts thousandths: both children have 1
        assert victim_of(chosen, tasks, control, kernel).pid == victim
        assert shown_points(chosen, control, kernel) == (170 if profile == "linux-3.0" else 200)


@pytest.mark.parametrize(
    ("profile", "mask", "mems", "expected"),
    [
        ("linux-6.1", None, (), OomControl(Constraint.NONE, 185 + 7)),
        ("linux-6.1", (0,), (), OomControl(Constraint.MEMORY_POLICY, 100 + 7, (0,))),
        ("linux-5.3", (0,), (), OomControl(Constraint.MEMORY_POLICY, 120 + 7, (0,))),
        # all memory is allowed: the policy is none
        ("linux-6.1", (0, 1), (), OomControl(Constraint.NONE, 185 + 7)),
        ("linux-6.1", None, (1,), OomControl(Constraint.CPUSET, 100 + 7, None, (1,))),
        ("linux-6.1", None, (0, 1), OomControl(Constraint.NONE, 185 + 7, None, (0, 1))),
    ],
)
def test_constraints(
    profile: str, mask: tuple[int, ...] | None, mems: tuple[int, ...], expected: OomControl
) -> None:
    assert constrained_alloc(profile_named(profile), SIZES, 7, mask, mems, (0, 1)) == expected


def test_who_is_kept_away_from_the_nodes_is_not_killed_for_them() -> None:
    elsewhere = task(7, 50_000)._replace(policy="BIND", policy_nodes=(1,))
    turns = task(8, 40_000)._replace(policy="INTERLEAVE", policy_nodes=(1,))
    here = task(9, 10)._replace(policy="BIND", policy_nodes=(0, 1))
    control = OomControl(Constraint.MEMORY_POLICY, TOTAL, (0,))
    for profile, victim in (("linux-5.13", 9), ("linux-5.14", 8)):
        chosen = select_bad_process([elsewhere, turns, here], control, profile_named(profile))
        assert chosen is not None
        assert chosen.task.pid == victim
    mems = OomControl(Constraint.CPUSET, TOTAL, None, (0,))
    caged = task(7, 50_000)._replace(mems_allowed=(1,))
    chosen = select_bad_process([caged, task(8, 5)], mems, profile_named("linux-6.1"))
    assert chosen is not None
    assert chosen.task.pid == 8


def test_the_old_scale_of_oom_adj() -> None:
    assert [oom_score_adj_to_oom_adj(adj) for adj in (-1000, -941, -1, 0, 470, 999, 1000)] == [
        -17,
        -15,
        0,
        0,
        7,
        15,
        15,
    ]
