"""The cost of memory size: boot time, process size and metadata of a node of 1 TiB, beside a small one."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from table import Row

# read from /proc: ru_maxrss survives exec, and would be the parent's
_PEAK = """
from pathlib import Path
def peak_kib():
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in status if line.startswith("VmHWM")))
"""
_BOOT = """
import json, sys, time
from numa_service.machine.boot import start_kernel
from numa_service.machine.machinefile import parse_machine
text = 'name = "big"\\n[[node]]\\ncpus = "0-3"\\nmemory = "' + sys.argv[1] + '"\\n'
spec = parse_machine(text, "big", "big")
start = time.perf_counter()
machine = start_kernel(spec)
seconds = time.perf_counter() - start
pg = machine.pgdats[0].pg
blocks = (pg.pb_migratetype, pg.pb_order, pg.pb_next, pg.pb_prev)
columns = [a for a in pg if a.ndim == 1 and len(a) >= len(pg.flags)]
print(json.dumps({
    "seconds": seconds,
    "kib": peak_kib(),
    "bytes": sum(a.itemsize for a in columns) + sum(a.nbytes for a in blocks) / len(pg.flags),
}))
"""


def _run(code: str, *arguments: str) -> Any:
    command = [sys.executable, "-c", code, *arguments]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def boot(memory: str) -> dict[str, float]:
    """Boot a node in a process: seconds, peak KiB of the process, and bytes of metadata per page."""
    result: dict[str, float] = _run(_PEAK + _BOOT, memory)
    return result


def rows() -> list[Row]:
    """Every row of this part."""
    boot("1GiB")  # compiles kernels that are not in the cache yet
    small, big, empty_kib = boot("1GiB"), boot("1TiB"), _run(_PEAK + "print(peak_kib())")
    more_mib, small_mib = ((found["kib"] - empty_kib) / 1024 for found in (big, small))
    return [
        Row("boot_1_tib", big["seconds"], "s", "1 GiB", small["seconds"], 3, False, False),
        Row("rss_1_tib", more_mib, "MiB", "1 GiB; both above an empty process", small_mib, 300, False, False),
        Row("metadata", big["bytes"], "B/page", "struct page of the kernel", 64, 32, False, False),
    ]


if __name__ == "__main__":
    from table import show

    show(rows())
