"""What ``boot --show`` can print: name → renderer of a whole machine."""

from __future__ import annotations

from collections.abc import Callable

from numa_service.mm.snapshot import MachineSnapshot
from numa_service.procfs.buddyinfo import buddyinfo
from numa_service.procfs.dmesg import dmesg
from numa_service.procfs.meminfo import meminfo
from numa_service.procfs.numactl import numactl
from numa_service.procfs.pagetypeinfo import pagetypeinfo
from numa_service.procfs.vmstat import vmstat
from numa_service.procfs.zoneinfo import zoneinfo
from numa_service.procfs.zonelists import zonelists

#: Every text ends in a newline, or is empty.
SHOW: dict[str, Callable[[MachineSnapshot], str]] = {
    "zoneinfo": zoneinfo,
    "buddyinfo": buddyinfo,
    "pagetypeinfo": pagetypeinfo,
    "vmstat": vmstat,
    "meminfo": meminfo,
    "zonelists": zonelists,
    "dmesg": dmesg,
    "numactl": numactl,
}
