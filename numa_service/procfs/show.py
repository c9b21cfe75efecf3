"""The texts that ``boot --show`` can print."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from numa_service.mm.snapshot import MachineSnapshot
from numa_service.procfs.dmesg import dmesg
from numa_service.procfs.numactl import numactl
from numa_service.procfs.tree import read
from numa_service.procfs.zonelists import zonelists

#: Renderer by name; every text ends with a newline, or is empty.
SHOW: dict[str, Callable[[MachineSnapshot], str]] = {
    **{
        name: partial(read, path=f"proc/{name}")
        for name in ("zoneinfo", "buddyinfo", "pagetypeinfo", "vmstat", "meminfo")
    },
    "zonelists": zonelists,
    "dmesg": dmesg,
    "numactl": numactl,
}
