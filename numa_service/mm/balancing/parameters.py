"""The sysctls of NUMA balancing, which later kernels have in ``/sys/kernel/debug/sched/numa_balancing``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

#: Bits of kernel.numa_balancing.
NUMA_BALANCING_NORMAL: Final = 1
NUMA_BALANCING_MEMORY_TIERING: Final = 2

#: CONFIG_HZ of the kernels that were captured.
HZ: Final = 250
TICK_NSEC: Final = 1_000_000_000 // HZ
NSEC_PER_MSEC: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Parameters:
    """Their values, by default the kernel's. ValueError names one that it would refuse."""

    #: kernel.numa_balancing: 0 is off.
    mode: int = NUMA_BALANCING_NORMAL
    #: Run time, in ms, before a task is scanned for the first time.
    scan_delay_ms: int = 1000
    #: The least and the most run time, in ms, in which the whole of a task is scanned.
    scan_period_min_ms: int = 1000
    scan_period_max_ms: int = 60_000
    #: MiB that get hints in one go.
    scan_size_mb: int = 256

    def __post_init__(self) -> None:
        if not 0 <= self.mode <= NUMA_BALANCING_NORMAL | NUMA_BALANCING_MEMORY_TIERING:
            raise ValueError(f"mode: {self.mode} is not in 0…3")
        if self.scan_size_mb < 1:
            raise ValueError(f"scan_size_mb: {self.scan_size_mb} is below 1")
        for name in ("scan_delay_ms", "scan_period_min_ms", "scan_period_max_ms", "scan_size_mb"):
            if not 0 <= getattr(self, name) < 1 << 32:
                raise ValueError(f"{name}: {getattr(self, name)} is no number of 32 bits")


def msecs_to_jiffies(ms: int) -> int:
    """Ticks that are at least so long."""
    return -(-ms * HZ // 1000)
