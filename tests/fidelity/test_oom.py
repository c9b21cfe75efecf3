"""Who is killed, and what /proc says of it, compared with every captured report of an OOM kill."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from fidelity.oom import Report, captures, control_of, nodes, profile_of, reports
from fidelity.oom_table import oom_section
from groundtruth import GROUNDTRUTH

from numa_service.machine.boot import start_kernel
from numa_service.machine.source import load
from numa_service.mm.oom_kill import (
    Chosen,
    Constraint,
    OomControl,
    OomTask,
    oom_score,
    select_bad_process,
)
from numa_service.procfs.oom_report import OomRequest, dump_header, dump_tasks, killed
from numa_service.procfs.show_mem import show_mem

CAPTURES = captures(GROUNDTRUTH)


def _cases() -> Iterator[tuple[str, int, Report]]:
    for name, (text, _) in CAPTURES.items():
        for at, report in enumerate(reports(text)):
            yield name, at, report


@pytest.mark.parametrize("name", CAPTURES)
def test_the_captured_task_is_killed_in_every_report(name: str) -> None:
    profile, found = profile_of(name), list(reports(CAPTURES[name][0]))
    assert found
    for report in found:
        control = control_of(report, found[0], profile)
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
    profile = profile_of(name)
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


def _form(lines: list[str]) -> list[str]:
    """The kinds of lines, in order: without numbers, names of zones, and what depends on them."""
    kinds = []
    for line in lines:
        text = re.sub(r" \([UMEHCI]+\)|unreclaimable\? (yes|no)", "", line)
        text = re.sub(r"\b(DMA32|DMA|Normal)\b", "ZONE", text)
        kinds.append(re.sub(r"\d+", "N", text))
    return list(dict.fromkeys(kinds))


@pytest.mark.parametrize("name", [name for name in CAPTURES if not name.startswith("memcg")])
def test_reports_are_printed_as_they_were_captured(name: str) -> None:
    """The task table and the last line to the letter; Mem-Info in all but its numbers."""
    profile = profile_of(name)
    preset = "four-ring" if name.startswith("4n") else "two-socket"
    snapshot = start_kernel(load(preset).with_profile(profile.name)).snapshot()
    for report in reports(CAPTURES[name][0]):
        table = next(i for i, line in enumerate(report.lines) if line.startswith("Tasks state"))
        end = next(i for i, line in enumerate(report.lines) if line.startswith("oom-kill:"))
        assert dump_tasks(report.tasks, profile) == report.lines[table:end]
        told = dict(re.findall(r"(\w+-rss|total-vm):(\d+)kB", report.killed[0]))
        victim = next(task for task in report.tasks if task.pid == report.victim)._replace(
            rss_anon=int(told["anon-rss"]) // 4,
            rss_file=int(told["file-rss"]) // 4,
            rss_shmem=int(told["shmem-rss"]) // 4,
        )
        control = OomControl(Constraint(report.constraint), 1)
        if report.nodemask != "(null)":
            control = control._replace(nodemask=nodes(report.nodemask))
        if report.cpuset != "/":
            control = control._replace(mems_allowed=nodes(report.mems))
        last = killed("Out of memory", Chosen(victim, 0), victim, control, profile)
        assert [text for _, text in last] == report.killed
        shown = control.nodemask or control.mems_allowed or tuple(node.nid for node in snapshot.nodes)
        # zones differ with the machine: each kind of line is there, in the same order
        assert _form(show_mem(snapshot, 0, shown)) == _form(report.mem_info)
        first = re.match(
            r"\S+ invoked oom-killer: gfp_mask=(\w+)\S+ order=\d, oom_score_adj=(-?\d+)", report.lines[0]
        )
        stack = re.match(r"CPU: (\d+) (?:UID: 0 )?PID: (\d+) Comm: \S+ Not tainted ", report.lines[1])
        assert first
        assert stack
        request = OomRequest(
            report.comm,
            int(stack[2]),
            int(stack[1]),
            int(first[2]),
            int(first[1], 16),
            report.gfp,
            report.order,
        )
        if report.cpuset != "/":
            continue
        control = control._replace(mems_allowed=nodes(report.mems))
        head = [text for _, text in dump_header(snapshot, request, control, None, victim)]
        assert (head[0], head[-1]) == (report.lines[0], report.lines[end])
        assert head[1].startswith(stack[0])


def test_the_section_of_the_document_counts_them() -> None:
    skipped: list[str] = []
    unreadable: list[str] = []
    text, fields = oom_section(GROUNDTRUTH, skipped, unreadable)
    assert (skipped, unreadable) == ([], [])
    assert all(field.explained for field in fields)
    victims = [field for field in fields if field.kind == "victim"]
    assert len(victims) >= 44
    assert all(field.equal for field in victims)
    assert "## OOM kills" in text
