"""Who is killed, and what /proc says of it, compared with every captured report of an OOM kill."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fidelity.oom import Report, captures, nodes, reports
from groundtruth import GROUNDTRUTH

from numa_service.mm.oom_kill import (
    Constraint,
    OomControl,
    OomTask,
    constrained_alloc,
    oom_score,
    select_bad_process,
)
from numa_service.mm.profile import Profile, profile_named

CAPTURES = captures(GROUNDTRUTH)


def _profile(name: str) -> Profile:
    return profile_named("linux-6.12" if "k612" in name else "linux-6.1")


def _cases() -> Iterator[tuple[str, int, Report]]:
    for name, (text, _) in CAPTURES.items():
        for at, report in enumerate(reports(text)):
            yield name, at, report


def _control(report: Report, whole: Report, profile: Profile) -> OomControl:
    """What the kernel looked at; `whole` is a report of the same machine that shows all nodes."""
    if report.constraint == Constraint.MEMCG.value:
        return OomControl(Constraint.MEMCG, report.limit)
    mask = None if report.nodemask == "(null)" else nodes(report.nodemask)
    mems = () if report.cpuset == "/" else nodes(report.mems)
    return constrained_alloc(profile, whole.sizes, report.swap, mask, mems, tuple(whole.sizes))


@pytest.mark.parametrize("name", CAPTURES)
def test_the_captured_task_is_killed_in_every_report(name: str) -> None:
    profile, found = _profile(name), list(reports(CAPTURES[name][0]))
    assert found
    for report in found:
        control = _control(report, found[0], profile)
        assert control.constraint.value == report.constraint
        chosen = select_bad_process(report.tasks, control, profile)
        assert chosen is not None
        assert chosen.task.pid == report.victim, report.lines[0]


def test_there_are_as_many_reports_as_were_captured() -> None:
    assert len(list(_cases())) >= 44
    assert {report.constraint for _, _, report in _cases()} == {
        "CONSTRAINT_NONE",
        "CONSTRAINT_MEMORY_POLICY",
        "CONSTRAINT_CPUSET",
        "CONSTRAINT_MEMCG",
    }


@pytest.mark.parametrize("name", [name for name, (_, scores) in CAPTURES.items() if scores])
def test_oom_score_is_the_captured_one(name: str) -> None:
    """Exact but in 6.12.117, which reads resident pages for the score from per-CPU counters (get_mm_rss).

    What /proc shows is their exact sum there: "mm: fix the inaccurate memory statistics issue for users".
    """
    profile = _profile(name)
    (_, total), *rows = (line.split() for line in CAPTURES[name][1].splitlines())
    off = []
    for _, pid, rss, swap, tables, adj, score in rows:
        task = OomTask(int(pid), "", 0, int(rss), 0, 0, (int(tables),), int(swap), int(adj))
        off.append(oom_score(task, int(total), profile) - int(score))
    if "k612" in name:
        assert set(off) <= {0, 1}
        assert off.count(0) > 0.85 * len(off)
    else:
        assert set(off) == {0}
