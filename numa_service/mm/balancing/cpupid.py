"""Who used a page last: a CPU and the low bits of a pid, in one number (``page_cpupid_last``).

0 is nobody (all bits set in the kernel), so that a new page's needs no writing.
"""

from __future__ import annotations

from typing import Final

#: LAST__PID_MASK: two tasks whose pids agree in these bits are taken for one.
PID_MASK: Final = 255
UNSET: Final = 0


def cpu_pid_to_cpupid(cpu: int, pid: int) -> int:
    """The number of a task on a CPU."""
    return (cpu << 8 | pid & PID_MASK) + 1


def cpupid_to_cpu(cpupid: int) -> int:
    """The CPU of a number that is not UNSET."""
    return (cpupid - 1) >> 8


def cpupid_match_pid(cpupid: int, pid: int) -> bool:
    """Whether a number is of a task with this pid; UNSET is of none."""
    return cpupid != UNSET and (cpupid - 1) & PID_MASK == pid & PID_MASK
