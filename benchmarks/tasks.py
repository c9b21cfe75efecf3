"""``make bench PARTS=tasks``: anonymous faults of a task per second, all done, beside the host's own.

All done is: VMA found, pages of page tables allocated, a page of the node's zones for each, on the list of
reclaim and in the holder's page table, reverse mapping, entry, resident set. The host's are those that this
process takes on memory of its own, in pages of 4 KiB.
"""

from __future__ import annotations

import mmap
import sys
import time
from collections.abc import Callable

import numpy as np
from table import Row, save, show

from numa_service.machine.presets import load_preset
from numa_service.node import ops
from numa_service.node.ask import Steps
from numa_service.node.node import Node
from numa_service.node.task import Asked, Ran, call, spawn, touch

_BYTES = 256 << 20
_PAGES = _BYTES >> 12
_ROUNDS = 7


def _at_once(steps: Steps[Ran]) -> Ran:
    """The result of steps that ask no other node."""
    try:
        next(steps)
    except StopIteration as end:
        ran: Ran = end.value
        assert not ran.errno, ran.reason
        return ran
    raise AssertionError("it asks another node")


def _best(seconds: Callable[[], float]) -> float:
    """M faults/s of the quickest round."""
    return _PAGES / min(seconds() for _ in range(_ROUNDS)) / 1e6


def _of_task(node: Node, session: int, pid: int) -> float:
    asked = Asked(
        "mmap", (0, _BYTES, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, 0)
    )
    address = _at_once(call(node, session, pid, asked)).value
    _at_once(call(node, session, pid, Asked("madvise", (address, _BYTES, mmap.MADV_NOHUGEPAGE))))
    began = time.perf_counter()
    ran = _at_once(touch(node, session, pid, address, _BYTES, write=True))
    took = time.perf_counter() - began
    assert ran.faults == _PAGES
    _at_once(call(node, session, pid, Asked("munmap", (address, _BYTES))))
    return took


def _of_host() -> float:
    with mmap.mmap(-1, _BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as area:
        area.madvise(mmap.MADV_NOHUGEPAGE)
        pages = np.frombuffer(area, np.uint8)[::4096]
        began = time.perf_counter()
        pages[:] = 1
        took = time.perf_counter() - began
        del pages
    return took


def rows() -> list[Row]:
    """Measure both."""
    node = Node.boot(load_preset("two-socket"), 0)
    session = node.apply(ops.OpenSession("bench", ops.FOREVER_NS, 0))
    pid = _at_once(spawn(node, session, node.pgdat.cpus[0], "bench")).value
    mine = _best(lambda: _of_task(node, session, pid))
    host = _best(_of_host)
    name = "anonymous faults of a task, all done, in one op"
    return [Row(name, mine, "M/s", "the host's own", host, goal=3.0, goal_of_ratio=False)]


if __name__ == "__main__":
    found = rows()
    show(found)
    print(f"written to {save('tasks', found)}", file=sys.stderr)
