"""``/sys/kernel/debug/sched/numa_balancing``: the parameters of NUMA balancing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

from numa_service.machine.zonelists import has_numa
from numa_service.mm.balancing.parameters import Parameters
from numa_service.mm.profile import profile_named
from numa_service.mm.snapshot import MachineSnapshot

#: Nothing here changes them: they have the kernel's defaults. The last is the age of a page that memory
#: tiering takes for hot.
_FILES = {name: value for name, value in asdict(Parameters()).items() if name != "mode"} | {
    "hot_threshold_ms": 1000
}


def numa_balancing_files(snapshot: MachineSnapshot) -> Iterator[tuple[str]]:
    """The names of the files, in kernels that have all of them: from 6.1 on, as those that were seen."""
    absent = profile_named(snapshot.profile).absent_sysctls
    if has_numa(snapshot) and "kernel.numa_balancing_promote_rate_limit_MBps" not in absent:
        yield from ((name,) for name in _FILES)


def numa_balancing(snapshot: MachineSnapshot, name: str) -> str:
    """A file."""
    return f"{_FILES[name]}\n"
