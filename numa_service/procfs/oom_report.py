"""What the kernel prints of an OOM kill (``dump_header``, ``dump_tasks``, ``oom_kill_process``)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from numa_service.machine.notation import format_cpulist
from numa_service.mm.oom_kill import (
    Chosen,
    OomControl,
    OomTask,
    oom_cpuset_eligible,
    oom_score_adj_to_oom_adj,
    shown_points,
)
from numa_service.mm.profile import Profile, profile_named
from numa_service.mm.snapshot import MachineSnapshot
from numa_service.procfs.meminfo import kb
from numa_service.procfs.names import printed_by
from numa_service.procfs.show_mem import show_mem

#: Levels of log lines (KERN_ERR, KERN_WARNING, KERN_INFO).
ERR, WARNING, INFO = 3, 4, 6

#: (level, text) of a line of the kernel's log.
Line = tuple[int, str]

#: Widths of the columns of the task table; that of the score is told by its head.
_WIDTHS = {
    "cpu": 3,
    "oom_adj": 7,
    "nr_ptes": 7,
    "nr_pmds": 7,
    "rss_anon": 8,
    "rss_file": 8,
    "rss_shmem": 9,
    "pgtables_bytes": 8,
    "swapents": 8,
    "oom_score_adj": 5,
}


class OomRequest(NamedTuple):
    """The request for whose sake a task is killed."""

    comm: str
    pid: int
    cpu: int
    oom_score_adj: int
    #: gfp flags as a number and by their names.
    gfp: int
    gfp_names: str
    order: int


def dump_header(
    snapshot: MachineSnapshot,
    request: OomRequest,
    control: OomControl,
    tasks: Sequence[OomTask] | None,
    victim: OomTask | None,
) -> list[Line]:
    """All of a report but its last lines; `tasks` None: vm.oom_dump_tasks is off."""
    profile, names = profile_named(snapshot.profile), printed_by(snapshot.profile)
    release = profile.release
    mask = "(null)" if control.nodemask is None else format_cpulist(control.nodemask)
    every = tuple(node.nid for node in snapshot.nodes)
    mems = control.mems_allowed or every
    lines: list[Line] = [(WARNING, _first_line(request, mask, profile))]
    if not profile.oom_prints_summary:
        lines.append((WARNING, f"{request.comm} cpuset=/ mems_allowed={format_cpulist(mems)}"))
    stack = names.dump_stack.format(cpu=request.cpu, pid=request.pid, comm=request.comm, release=release)
    lines.append((WARNING, stack))
    shown = control.nodemask if control.nodemask is not None else mems
    lines += [(WARNING, line) for line in show_mem(snapshot, request.cpu, shown)]
    if tasks is not None:
        eligible = [task for task in tasks if oom_cpuset_eligible(task, control, profile)]
        lines += [(INFO, line) for line in dump_tasks(eligible, profile)]
    if victim is not None and profile.oom_prints_summary:
        lines.append(
            (
                INFO,
                f"oom-kill:constraint={control.constraint.value},nodemask={mask},cpuset=/,"
                f"mems_allowed={format_cpulist(mems)},global_oom,task_memcg=/,task={victim.comm},"
                f"pid={victim.pid},uid={victim.uid}",
            )
        )
    return lines


def _first_line(request: OomRequest, mask: str, profile: Profile) -> str:
    gfp = f"{request.gfp:#x}" + (f"({request.gfp_names})" if profile.oom_prints_gfp_names else "")
    nodes = f", nodemask={mask}" if profile.oom_prints_nodemask else ""
    adj = f", oom_adj={oom_score_adj_to_oom_adj(request.oom_score_adj)}" if profile.oom_prints_adj else ""
    return (
        f"{request.comm} invoked oom-killer: gfp_mask={gfp}{nodes}, order={request.order}{adj}, "
        f"oom_score_adj={request.oom_score_adj}"
    )


def dump_tasks(tasks: Iterable[OomTask], profile: Profile) -> list[str]:
    """The task table."""
    columns, wide = profile.oom_task_columns, profile.oom_tasks_headed
    pid_head, pid_width = ("[  pid  ]", 7) if wide else ("[ pid ]", 5)
    lines = ["Tasks state (memory values in pages):"] if wide else []
    lines.append(f"{pid_head}   uid  tgid total_vm      rss {' '.join(columns)} name")
    for task in tasks:
        numbers = _numbers(task)
        cells = [_cell(column, numbers[column]) for column in columns]
        lines.append(
            f"[{task.pid:>{pid_width}}] {task.uid:>5} {task.pid:>5} {task.total_vm:>8} {task.rss:>8} "
            f"{' '.join(cells)} {task.comm}"
        )
    return lines


def _numbers(task: OomTask) -> dict[str, int]:
    return {
        "cpu": task.cpu,
        "oom_adj": oom_score_adj_to_oom_adj(task.oom_score_adj),
        "nr_ptes": task.tables[0],
        "nr_pmds": sum(task.tables[1:2]),
        "rss_anon": task.rss_anon,
        "rss_file": task.rss_file,
        "rss_shmem": task.rss_shmem,
        "pgtables_bytes": task.pgtables_bytes,
        "swapents": task.swapents,
        "oom_score_adj": task.oom_score_adj,
    }


def _cell(column: str, value: int) -> str:
    """A number in its column: the score stands at the end of its head."""
    text = f"{value:>{_WIDTHS[column]}}"
    return f"        {text}" if column == "oom_score_adj" else text


def killed(
    message: str, chosen: Chosen, victim: OomTask, control: OomControl, profile: Profile
) -> list[Line]:
    """The last lines of a report; `message` is "Out of memory" and what may stand behind it."""
    shmem = f", shmem-rss:{kb(victim.rss_shmem)}kB" if profile.oom_killed_fields else ""
    # before shared memory was told apart it counted as pages of files
    file = victim.rss_file + (0 if profile.oom_killed_fields else victim.rss_shmem)
    told = (
        f"rocess {victim.pid} ({victim.comm}) total-vm:{kb(victim.total_vm)}kB, "
        f"anon-rss:{kb(victim.rss_anon)}kB, file-rss:{kb(file)}kB{shmem}"
    )
    if profile.oom_killed_fields > 1:
        told += (
            f", UID:{victim.uid} pgtables:{victim.pgtables_bytes >> 10}kB "
            f"oom_score_adj:{victim.oom_score_adj}"
        )
    if not profile.oom_kills_child:
        return [(ERR, f"{message}: Killed p{told}")]
    points = shown_points(chosen, control, profile)
    first = (
        f"{message}: Kill process {chosen.task.pid} ({chosen.task.comm}) score {points} or sacrifice child"
    )
    return [(ERR, first), (ERR, f"Killed p{told}")]
