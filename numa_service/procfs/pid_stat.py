"""``/proc/PID/stat`` and the lines of ``/proc/PID/status`` that are not of memory (``fs/proc/array.c``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from numa_service.machine.notation import format_cpulist
from numa_service.mm.mmap.mm_struct import MmStruct
from numa_service.mm.mmap.rules import PAGE_SHIFT

#: RLIM_INFINITY as the file prints it.
_INFINITY = (1 << 64) - 1
_SIGCHLD = 17


class TaskShown(NamedTuple):
    """What is shown of a task beside its memory. It sleeps: nothing of it runs between two calls."""

    pid: int
    ppid: int
    comm: str
    cpu: int
    minflt: int
    majflt: int
    #: CPUs that it may run on, and nodes that it may use.
    cpus: Sequence[int]
    mems: Sequence[int]


def stat(task: TaskShown, mm: MmStruct, rss: int) -> str:
    """The whole file; times, signals and addresses that are not modelled are 0."""
    head = f"{task.pid} ({task.comm}) S {task.ppid} {task.pid} {task.pid} 0 -1 4194304"
    faults = f"{task.minflt} 0 {task.majflt} 0"
    # utime to cstime, priority, nice, threads, itrealvalue, starttime
    times = "0 0 0 0 20 0 1 0 0"
    memory = f"{mm.counters.total_vm << PAGE_SHIFT} {rss} {_INFINITY}"
    code = f"{mm.start_code} {mm.end_code} {mm.start_stack}"
    # kstkesp to cnswap, then the signal at its end, its CPU, and rt_priority to cguest_time
    rest = f"0 0 0 0 0 0 0 0 0 {_SIGCHLD} {task.cpu} 0 0 0 0 0"
    data = f"{mm.start_data} {mm.end_data} {mm.start_brk} {mm.start_stack} {mm.start_stack} "
    return f"{head} {faults} {times} {memory} {code} {rest} {data}{mm.start_stack} {mm.start_stack} 0\n"


def status(task: TaskShown, memory: Sequence[str]) -> str:
    """The whole file, with the lines of memory in their place; those of what is not modelled are left out."""
    lines = [
        f"Name:\t{task.comm}",
        "Umask:\t0022",
        "State:\tS (sleeping)",
        f"Tgid:\t{task.pid}",
        "Ngid:\t0",
        f"Pid:\t{task.pid}",
        f"PPid:\t{task.ppid}",
        "TracerPid:\t0",
        "Uid:\t0\t0\t0\t0",
        "Gid:\t0\t0\t0\t0",
        "FDSize:\t64",
        "Groups:\t ",
        *memory,
        "CoreDumping:\t0",
        "Threads:\t1",
        f"Cpus_allowed_list:\t{format_cpulist(task.cpus)}",
        f"Mems_allowed_list:\t{format_cpulist(task.mems)}",
        "voluntary_ctxt_switches:\t0",
        "nonvoluntary_ctxt_switches:\t0",
    ]
    return "".join(f"{line}\n" for line in lines)
