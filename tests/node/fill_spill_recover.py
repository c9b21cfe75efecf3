"""The golden scenario: node 0 fills, spills to its neighbour, kswapd recovers, allocation is local again."""

from __future__ import annotations

from typing import Protocol, TypeVar

from numa_service.machine.source import load
from numa_service.machine.spec import MachineSpec
from numa_service.mm.gfp import GFP_KERNEL
from numa_service.mm.page_alloc import LRU_KIND_ANON, LRU_KIND_FILE
from numa_service.node import ops
from numa_service.node.ask import Steps
from numa_service.node.free_pages import free_pages
from numa_service.node.mempolicy import Policy, PolicyMode
from numa_service.node.node import Node
from numa_service.node.page_alloc import alloc_pages
from numa_service.node.prepare import AllocRequest
from numa_service.node.region import close_session, map_region, touch_region
from numa_service.node.transcript import Transcript

T = TypeVar("T")

GOLDEN = "fill-spill-recover.txt"


class Shell(Protocol):
    """Anything that can run requests on nodes."""

    nodes: dict[int, Node]

    def call(self, nid: int, steps: Steps[T]) -> T: ...

    def run(self) -> None: ...


def machine() -> MachineSpec:
    return load("demo")


def play(shell: Shell) -> str:
    """Run the scenario on a shell; return the transcript."""
    home = shell.nodes[0]
    transcript = Transcript()
    for node in shell.nodes.values():
        node.observer = transcript.observe
    session = home.apply(ops.OpenSession("golden", 10**12, 0))

    transcript.comment("a file is read until node 0 is at its low watermark, and on: node 2 is nearer than 1")
    file = map_region(home, session, LRU_KIND_FILE, 60_000, Policy())
    for first in range(0, 60_000, 12_000):
        shell.call(0, touch_region(home, session, file, first, 12_000, False, 0))
        shell.run()

    transcript.comment("anonymous memory, bound to node 0: no zone is left above low, so its kswapd wakes")
    bound = map_region(home, session, LRU_KIND_ANON, 600, Policy(PolicyMode.BIND, (0,)))
    shell.call(0, touch_region(home, session, bound, 0, 600, True, 0))
    shell.run()

    transcript.comment("node 0 is at its high watermark again: pages are local")
    request = AllocRequest(session, GFP_KERNEL, 0, 500, 0, Policy())
    allocation = shell.call(0, alloc_pages(home, request))
    shell.call(0, free_pages(home, session, 0, allocation.pages, 0))

    transcript.comment("the file is read again from its start: dropped pages fault, the others are hits")
    shell.call(0, touch_region(home, session, file, 0, 12_000, False, 0))
    shell.run()
    shell.call(0, close_session(home, session))
    shell.run()
    return transcript.text
