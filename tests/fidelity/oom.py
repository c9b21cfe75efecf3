"""Captured reports of OOM kills, and scores of tasks: what of them is packed, and how it is read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fidelity.compare import Field

from numa_service.mm.oom_kill import (
    Constraint,
    NodeSize,
    OomControl,
    OomTask,
    constrained_alloc,
    oom_score,
    select_bad_process,
)
from numa_service.mm.profile import Profile, profile_named
from numa_service.procfs.oom_report import dump_tasks

_STAMP = re.compile(r"^\[\s*[\d.]+\] ?")
_BEGINS = re.compile(
    r"(\S+) invoked oom-killer: gfp_mask=0x\w+\((\S+)\), order=(-?\d+), oom_score_adj=(-?\d+)"
)
#: What depends on the program and the compiler: registers, code, the call trace.
_TRACE = re.compile(r"^(Call Trace:| <TASK>| </TASK>|  |RIP|Code|RSP|RAX|RDX|RBP|R1[03]|Hardware name)")
_ROW = re.compile(r"\[\s*(\d+)\]\s+(\d+)\s+(\d+)\s+(\d+)\s+(\d+)\s+((?:-?\d+\s+)+)(\S+)$")
_ZONE = re.compile(r"Node (\d+) (\S+) free:.* present:(\d+)kB managed:(\d+)kB")
_SUMMARY = re.compile(
    r"oom-kill:constraint=(\S+?),nodemask=(\S+?),cpuset=(\S+?),mems_allowed=(\S+?),.*task=(\S+?),pid=(\d+),uid"
)


@dataclass(slots=True)
class Report:
    """One report as printed."""

    lines: list[str]
    comm: str = ""
    gfp: str = ""
    order: int = 0
    tasks: list[OomTask] = field(default_factory=list)
    #: nid → present and managed pages, of the nodes that are printed.
    sizes: dict[int, NodeSize] = field(default_factory=dict)
    swap: int = 0
    #: Pages that a memory group may have.
    limit: int = 0
    constraint: str = ""
    nodemask: str = ""
    mems: str = ""
    cpuset: str = ""
    victim: int = 0
    killed: list[str] = field(default_factory=list)

    @property
    def mem_info(self) -> list[str]:
        """The lines from Mem-Info to the task table."""
        at = self.lines.index("Mem-Info:")
        end = next(i for i, line in enumerate(self.lines) if line.startswith("Tasks state"))
        return self.lines[at:end]


def packed_reports(log: str) -> str:
    """The reports of a log, without what depends on the program that asked."""
    kept: list[str] = []
    inside = False
    for line in map(str.rstrip, log.splitlines()):
        text = _STAMP.sub("", line)
        inside = inside or _BEGINS.match(text) is not None
        if inside and not _TRACE.match(text):
            kept.append(text)
        if "Killed process" in text:
            inside = False
    return "".join(f"{line}\n" for line in kept)


def packed_scores(capture: Path) -> str:
    """Rows of step, pid, rss, swap, page tables (pages), oom_score_adj and oom_score; totalpages first."""
    total = sum(map(int, re.findall(r"managed +(\d+)", (capture / "zoneinfo.txt").read_text())))
    # swap is switched on after the first snapshot
    swaps = re.findall(r"SwapTotal: +(\d+) kB", (capture / "meminfo.txt").read_text())
    swaps += re.findall(r"Adding (\d+)k swap on", (capture / "dmesg-end.txt").read_text(errors="replace"))
    swap = sum(map(int, swaps))
    rows = []
    for step in sorted(capture.glob("*/step*.txt")):
        text = step.read_text(errors="replace")
        for part in re.split(r"^== (?=p\d+ status)", text, flags=re.M)[1:]:
            kb = dict(re.findall(r"^(VmRSS|VmSwap|VmPTE): +(\d+) kB", part.replace("\t", " "), re.M))
            known = dict(re.findall(r"^(Pid|oom_score|oom_score_adj):\s*(-?\d+)", part, re.M))
            if len(kb) == len(known) == 3:
                pages = [int(kb[name]) // 4 for name in ("VmRSS", "VmSwap", "VmPTE")]
                numbers = (known["Pid"], *pages, known["oom_score_adj"], known["oom_score"])
                rows.append(f"{step.parent.name}/{step.stem} {' '.join(map(str, numbers))}")
    if not rows:
        return ""
    return "".join(f"{row}\n" for row in (f"totalpages {total + swap // 4}", *rows))


def reports(text: str) -> Iterator[Report]:
    """The reports of a capture."""
    for part in re.split(r"(?=^\S+ invoked oom-killer)", text, flags=re.M)[1:]:
        yield _report(part.splitlines())


def _report(lines: list[str]) -> Report:
    report, columns = Report(lines), ""
    for line in lines:
        if found := _BEGINS.match(line):
            report.comm, report.gfp, report.order = found[1], found[2], int(found[3])
        elif line.startswith("[  pid  ]"):
            columns = line
        elif found := _ZONE.match(line):
            nid, present, managed = int(found[1]), int(found[3]) // 4, int(found[4]) // 4
            before = report.sizes.get(nid, NodeSize(0, 0, 0))
            report.sizes[nid] = NodeSize(before.present + present, 0, before.managed + managed)
        elif found := re.match(r"Total swap = (\d+)kB", line):
            report.swap = int(found[1]) // 4
        elif found := re.match(r"memory: usage \d+kB, limit (\d+)kB", line):
            report.limit = int(found[1]) // 4
        elif found := _SUMMARY.match(line):
            report.constraint, report.nodemask, report.cpuset, report.mems = found.group(1, 2, 3, 4)
            report.victim = int(found[6])
        elif "Killed process" in line:
            report.killed.append(line)
        elif columns and (found := _ROW.match(line)):
            report.tasks.append(_task(columns, found))
    return report


def _task(columns: str, found: re.Match[str]) -> OomTask:
    names = columns.split("]")[1].split()[4:-1]
    row = dict(zip(names, map(int, found[6].split()), strict=True))
    anon = row.get("rss_anon", int(found[5]))
    return OomTask(
        int(found[1]),
        found[7],
        int(found[4]),
        anon,
        row.get("rss_file", 0),
        row.get("rss_shmem", 0),
        (row["pgtables_bytes"] >> 12,),
        row["swapents"],
        row["oom_score_adj"],
    )


def captures(groundtruth: Path) -> dict[str, tuple[str, str]]:
    """Name of a capture → its reports and its scores, packed as here or as they were captured."""
    found: dict[str, tuple[str, str]] = {}
    for reports in sorted(groundtruth.glob("oom/**/reports.txt")):
        name = str(reports.parent.relative_to(groundtruth / "oom"))
        found[name] = reports.read_text(), reports.with_name("scores.txt").read_text()
    for log in sorted(
        path for kind in ("oom", "memcg") for path in groundtruth.glob(f"{kind}/*/*/dmesg-end.txt")
    ):
        name = str(log.parent.relative_to(groundtruth)).removeprefix("oom/")
        if packed := packed_reports(log.read_text(errors="replace")):
            found.setdefault(name, (packed, packed_scores(log.parent)))
    return found


def nodes(text: str) -> tuple[int, ...]:
    """Numbers of a list as 0-1,3."""
    numbers: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        numbers += range(int(first), int(last or first) + 1)
    return tuple(numbers)


def profile_of(name: str) -> Profile:
    """The kernel of a capture."""
    return profile_named("linux-6.12" if "k612" in name else "linux-6.1")


def control_of(report: Report, whole: Report, profile: Profile) -> OomControl:
    """What the kernel looked at; `whole` is a report of the same machine that shows all nodes."""
    if report.constraint == Constraint.MEMCG.value:
        return OomControl(Constraint.MEMCG, report.limit)
    mask = None if report.nodemask == "(null)" else nodes(report.nodemask)
    mems = () if report.cpuset == "/" else nodes(report.mems)
    return constrained_alloc(profile, whole.sizes, report.swap, mask, mems, tuple(whole.sizes))


#: Why scores of 6.12.117 are one off.
_APPROXIMATE = "6.12.117 scores resident pages as per-CPU counters have them; what /proc shows is exact"


def compare_oom(name: str, text: str, scores: str) -> Iterator[Field]:
    """Victims, constraints, rows of task tables and scores of a capture."""
    profile, found = profile_of(name), list(reports(text))
    for at, report in enumerate(found):
        where, control = f"report {at}", control_of(report, found[0], profile)
        chosen = select_bad_process(report.tasks, control, profile)
        yield Field(name, "log", "victim", where, report.victim, chosen.task.pid if chosen else 0)
        yield Field(name, "log", "constraint", where, report.constraint, control.constraint.value)
        table = next(i for i, line in enumerate(report.lines) if line.startswith("Tasks state"))
        for row, line in enumerate(dump_tasks(report.tasks, profile)):
            yield Field(
                name, "log", "line of a task table", f"{where}, {row}", report.lines[table + row], line
            )
    for line in scores.splitlines():
        step, *numbers = line.split()
        if step == "totalpages":
            total = int(numbers[0])
            continue
        pid, rss, swap, tables, adj, score = map(int, numbers)
        ours = oom_score(OomTask(pid, "", 0, rss, 0, 0, (tables,), swap, adj), total, profile)
        slack = 1 if "k612" in name else 0
        where = f"{step} of {pid}"
        yield Field(name, "step", "oom_score", where, score, ours, slack, _APPROXIMATE if slack else "")
