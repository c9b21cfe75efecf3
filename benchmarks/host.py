"""Measures before and after each part of a benchmark how busy the host is, and which rows not to trust."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

#: Two busy loops at once must do so many times the work of one; else a client and a server have no CPU each.
TWO_LOOPS = 1.8
#: CPUs that other processes may keep busy beyond those that a part does not need.
OTHERS = 0.15
#: Share of the time that the hypervisor may take (steal time).
STOLEN = 0.05
#: By how much the median of a repeated loop may exceed the fastest, as a fraction.
SPREAD = 0.1

#: Units of measurements that a busy host changes; it does not change bytes, counts and CPU seconds.
_TIMES = {"s", "ms", "µs", "ns", "µs/pair"}
_LOOP = """
import sys, time
for line in sys.stdin:
    seconds, start, rounds = float(line), time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        rounds += 1
    print(rounds / seconds, flush=True)
"""


@dataclass(frozen=True, slots=True)
class HostState:
    """The state of the host at one moment."""

    #: CPUs that this process may run on.
    cpus: int
    #: How many of them other processes kept busy while this one slept.
    others: float
    #: Work of two busy loops at once, as a multiple of that of one.
    two_loops: float
    #: By how much the median of a repeated loop exceeds the fastest, as a fraction.
    spread: float
    #: Time of these CPUs since boot, in all and taken by the hypervisor, in ticks.
    ticks: int
    stolen_ticks: int


def _ticks() -> tuple[int, int, int]:
    """Ticks of this process's CPUs since boot: (all, busy, stolen), or zeros without /proc/stat."""
    ours = {f"cpu{cpu}" for cpu in os.sched_getaffinity(0)}
    total = busy = stolen = 0
    path = Path("/proc/stat")
    for line in path.read_text().splitlines() if path.exists() else ():
        name, *fields = line.split()
        if name in ours:
            user, nice, system, idle, iowait, irq, softirq, steal = map(int, fields[:8])
            total += user + nice + system + idle + iowait + irq + softirq + steal
            busy += user + nice + system + irq + softirq
            stolen += steal
    return total, busy, stolen


def busy_loops(rounds: int, seconds: float = 0.3) -> tuple[list[float], list[float]]:
    """Rounds per second of one busy loop, and of two at once in two processes, measured in turns."""
    command = [sys.executable, "-I", "-c", _LOOP]
    loops = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        for _ in range(2)
    ]

    def together(running: list[subprocess.Popen[str]], seconds: float) -> float:
        for loop in running:
            assert loop.stdin
            loop.stdin.write(f"{seconds}\n")
        return sum(float(loop.stdout.readline()) for loop in running if loop.stdout)

    try:
        together(loops, 0.01)  # wait until both have started
        one, two = [], []
        for _ in range(rounds):
            one.append(together(loops[:1], seconds))
            two.append(together(loops, seconds))
        return one, two
    finally:
        for loop in loops:
            loop.communicate()


def _repeated() -> float:
    """By how much the median time of the same work exceeds the fastest, as a fraction."""
    took = []
    for _ in range(25):
        start = time.perf_counter()
        sum(range(200_000))
        took.append(time.perf_counter() - start)
    return statistics.median(took) / min(took) - 1


def measure() -> HostState:
    """Measure the host's state, in some three seconds, of which this process sleeps one."""
    total, busy, _ = _ticks()
    time.sleep(1)
    later, then_busy, stolen = _ticks()
    cpus = len(os.sched_getaffinity(0))
    others = cpus * (then_busy - busy) / (later - total) if later > total else 0.0
    one, two = busy_loops(3, 0.2)
    return HostState(
        cpus, others, statistics.median(two) / statistics.median(one), _repeated(), later, stolen
    )


def doubt(unit: str, cpus: int, before: HostState, after: HostState) -> str:
    """Why a row in this unit is not to be trusted, if the part needs so many CPUs at once; empty if it is."""
    if not (unit in _TIMES or unit.endswith("/s")):
        return ""
    reasons = []
    two_loops = min(before.two_loops, after.two_loops)
    if cpus > 1 and two_loops < TWO_LOOPS:
        reasons.append(f"two busy loops gave {two_loops:.1f} × one")
    others = max(before.others, after.others)
    if others > max(0, before.cpus - cpus) + OTHERS:
        reasons.append(f"others kept {others:.1f} of {before.cpus} CPUs busy")
    ticks = after.ticks - before.ticks
    if ticks and (stolen := (after.stolen_ticks - before.stolen_ticks) / ticks) > STOLEN:
        reasons.append(f"the hypervisor took {100 * stolen:.0f} % of the time")
    spread = max(before.spread, after.spread)
    if spread > SPREAD:
        reasons.append(f"the same loop took {100 * spread:.0f} % longer in the median than at its fastest")
    return "; ".join(reasons)
