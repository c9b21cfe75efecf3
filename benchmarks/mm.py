"""``make bench-mm``: ns per allocation and free in the model, with all bookkeeping, beside C; cost of memory.

Each row is measured in the same run as the one it is compared with, as only their ratio can be compared
between machines. Published kernel figures: an order-0 pair 55 ns on a 3.6 GHz Xeon, 27 ns a page in bulk
(commit log of the bulk page allocator, 2021).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import memory
import numpy as np
from table import Row, save, show

from numa_service.machine.boot import start_kernel
from numa_service.machine.machinefile import parse_machine
from numa_service.mm.jit import kernel
from numa_service.mm.page_alloc import alloc_pages_bulk, free_pages_bulk
from numa_service.mm.pgdata import I64, U32, PgData

_MACHINE = """
name = "bench"
[[node]]
cpus = "0-3"
memory = "8GiB"
"""
#: name → (order, blocks a batch, repeats, free in random order, kernel's published ns)
_ROWS: dict[str, tuple[int, int, int, bool, float | None]] = {
    "order0_hot": (0, 32, 3000, False, 55.0),
    "order0_bulk128": (0, 128, 1000, False, 27.0),
    "order0_32k": (0, 32768, 40, False, None),
    "order0_random_free": (0, 32768, 40, True, None),
    "order3": (3, 8192, 40, False, None),
    "order9": (9, 512, 200, False, None),
}


@kernel
def _pairs(
    pg: PgData,
    zones: I64,
    order: int,
    count: int,
    repeats: int,
    none: U32,
    shuffled: I64,
    out: I64,
    to_free: I64,
) -> int:
    """Allocate a batch and free it, again and again, without Python in between."""
    got = 0
    for _ in range(repeats):
        got = alloc_pages_bulk(pg, zones, 0, order, count, 0, 2, 0x801, 3, 1, 0, none, False, out)
        for i in range(got):
            to_free[i] = out[shuffled[i]]
        free_pages_bulk(pg, 0, order, 1, to_free)
    return got


def model() -> dict[str, float]:
    """The best of several rounds, in ns per block."""
    pg = start_kernel(parse_machine(_MACHINE, "bench", "bench")).pgdats[0].pg
    zones = np.array([2, 1, 0], dtype=np.int64)
    none = np.zeros(0, dtype=np.uint32)
    results = {}
    for name, (order, count, repeats, random_order, _) in _ROWS.items():
        index = np.arange(count, dtype=np.int64)
        if random_order:
            np.random.default_rng(1).shuffle(index)
        out, to_free = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
        args = (pg, zones, order, count)
        if _pairs(*args, 1, none, index, out, to_free) != count:
            raise SystemExit(f"{name}: the machine has not {count} blocks of order {order}")
        best = float("inf")
        for _ in range(7):
            start = time.perf_counter_ns()
            _pairs(*args, repeats, none, index, out, to_free)
            best = min(best, (time.perf_counter_ns() - start) / repeats / count)
        results[name] = best
    return results


def yardstick() -> dict[str, float]:
    """The figures of yardstick.c; empty if there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder) / "yardstick"
        source = Path(__file__).with_name("yardstick.c")
        subprocess.run([compiler, "-O2", "-o", str(binary), str(source)], check=True)
        lines = subprocess.run([str(binary)], capture_output=True, text=True, check=True).stdout.splitlines()
    return {name: float(ns) for name, ns in (line.split() for line in lines)}


def rows() -> list[Row]:
    """Every row of the table."""
    ours, theirs = model(), yardstick()
    return [
        Row(
            f"mm_{name}",
            ours[name],
            "ns",
            "yardstick.c, -O2, no bookkeeping",
            theirs.get(name),
            goal=published / 2 if published else None,
            goal_of_ratio=False,
            at_least=False,
        )
        for name, (*_, published) in _ROWS.items()
    ]


def main() -> int:
    """Print the table; rows go to benchmarks/results/mm.json."""
    measured = rows() + memory.rows()
    show(measured)
    print("published for the kernel: 55 ns an order-0 pair, 27 ns a page in bulk; goals: half of them")
    save("mm", measured)
    return 0


if __name__ == "__main__":
    sys.exit(main())
