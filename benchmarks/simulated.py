"""A simulated machine of 1,024 nodes in one process."""

from __future__ import annotations

import json
import subprocess
import sys

from table import Row

_NODES = 1024
_RUN = """
import json, time
from numa_service.machine.machinefile import parse_machine
from numa_service.mm.gfp import GFP_KERNEL
from numa_service.node import ops
from numa_service.node.mempolicy import Policy
from numa_service.node.free_pages import free_pages
from numa_service.node.page_alloc import alloc_pages
from numa_service.node.prepare import AllocRequest
from numa_service.sim.simulation import Simulation
text = "name='big'\\n" + "".join(f"[[node]]\\ncpus=[{nid}]\\nmemory='64MiB'\\n" for nid in range(NODES))
start = time.perf_counter()
sim = Simulation(parse_machine(text, "big", "big"))
booted = time.perf_counter()
pages = 0
for nid, node in sim.nodes.items():
    session = node.apply(ops.OpenSession("bench", 10**18, 0))
    request = AllocRequest(session, GFP_KERNEL, 0, 1000, nid, Policy())
    got = sim.call(nid, alloc_pages(node, request))
    sim.call(nid, free_pages(node, session, 0, got.pages, nid))
    pages += 2 * got.got
print(json.dumps([booted - start, pages / (time.perf_counter() - booted)]))
"""


def rows() -> list[Row]:
    """Every row of this part."""
    code = _RUN.replace("NODES", str(_NODES))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    boot, pages = json.loads(done.stdout)
    return [
        Row("simulated_1024_nodes_boot", boot, "s", goal=60, goal_of_ratio=False, at_least=False),
        Row("simulated_1024_nodes", pages, "pages/s", goal=100_000, goal_of_ratio=False),
    ]


if __name__ == "__main__":
    from table import show

    show(rows())
