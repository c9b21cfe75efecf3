"""Compile every kernel before anything waits for one: a small machine does all that a machine can do."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TypeVar

import numpy as np

from numa_service.machine.presets import load_preset
from numa_service.mm import jit
from numa_service.mm.gfp import GFP_KERNEL
from numa_service.mm.mmzone import NR_ORDERS, PAGEBLOCK_NR_PAGES
from numa_service.mm.page_alloc import LRU_KIND_ANON, LRU_KIND_FILE
from numa_service.mm.pgdat import BadPageError
from numa_service.mm.pgdata import PgData, alloc_pgdata
from numa_service.mm.replay import compile_replay
from numa_service.mm.vmscan import kswapd_target, pgdat_balanced
from numa_service.node import ops
from numa_service.node.ask import Ask, Steps
from numa_service.node.cma import cma_alloc
from numa_service.node.daemons import run_kswapd
from numa_service.node.errors import Busy, InvalidRequest
from numa_service.node.free_pages import free_pages
from numa_service.node.memory_hotplug import change_memory_block, memory_blocks
from numa_service.node.mempolicy import Policy
from numa_service.node.node import Node
from numa_service.node.ops.op import Op
from numa_service.node.page_alloc import alloc_pages
from numa_service.node.prepare import AllocRequest
from numa_service.node.region import close_session, map_region, touch_region, unmap_region
from numa_service.node.unserved import AllocFailed

T = TypeVar("T")

_MACHINE = "demo"


def warm_kernels() -> bool:
    """Fill the disk cache of this host, half a minute of one CPU; False when it was filled already.

    RuntimeError names kernels that were left out: the exercise below has to reach them.
    """
    if jit.is_compiled():
        return False
    pg = _exercise()
    jit.mark_compiled_for_nodes()
    compile_replay(pg)
    left_out = sorted(
        {name for name in (kernel.__name__ for kernel in jit.kernels()) if not _is_cached(name)}
    )
    if left_out:
        raise RuntimeError(f"kernels that were not compiled: {', '.join(left_out)}")
    jit.mark_compiled()
    return True


def warm_beside() -> None:
    """Compile what :func:`warm_kernels` comes to last, while another process is busy with what it does first.

    Frees and reclaim have little in common with allocations, which take half of all time. What one process
    has compiled the other one loads, and :func:`warm_kernels` alone still reaches every kernel.
    """
    blank = alloc_pgdata(0, PAGEBLOCK_NR_PAGES, 1, 1)  # booting now would compile what the other one does
    pgdat_balanced(blank, 0, 0)
    kswapd_target(blank, 0)
    pgdat = Node.boot(load_preset(_MACHINE), 0).pgdat
    pgdat.shrink(0, 1, 0)
    cpu = next(iter(pgdat.cpu_index))
    with contextlib.suppress(BadPageError):  # nobody holds the first page
        pgdat.free_packed(cpu, 0, 1, bytes(8))
    indexes = np.zeros(0, np.uint32)
    pgdat.release(1, indexes, cpu)
    pgdat.touch(1, indexes, False)
    pgdat.free_owner(1)
    pgdat.move_pages(1, indexes, indexes.astype(np.uint64), indexes.astype(np.uint64), False, False)
    pgdat.look(cpu, 0, 0, 0)


def _run(nodes: dict[int, Node], steps: Steps[T]) -> T:
    """Drive a request; other nodes of this process answer."""
    try:
        effect = next(steps)
        while True:
            assert isinstance(effect, Ask)
            assert isinstance(effect.op, Op)
            effect = steps.send(nodes[effect.nid].apply(effect.op))
    except StopIteration as end:
        result: T = end.value
        return result


def _hotplug() -> None:
    """A memory block goes and comes back; a place for contiguous pages is taken."""
    spec = replace(load_preset(_MACHINE), cmdline="cma=4M@1")
    nodes = {node.nid: Node.boot(spec, node.nid) for node in spec.nodes}
    node = nodes[1]
    session = node.apply(ops.OpenSession("warm", 1, 0))
    region = map_region(node, session, LRU_KIND_ANON, 1024, Policy())
    _run(nodes, touch_region(node, session, region, 0, 1024, True, node.pgdat.cpus[0]))
    start, _ = _run(nodes, cma_alloc(node, session, 0, 3))
    node.apply(ops.Free(node.owner(session), None, 0, start.to_bytes(8, "little")))
    node.apply(ops.MigratePages(node.owner(region), LRU_KIND_ANON, False, b"", b"", b""))
    for block in memory_blocks(nodes[2]):
        for state in ("offline", "online_movable"):
            with contextlib.suppress(Busy, InvalidRequest):
                _run(nodes, change_memory_block(nodes[2], block, state))


def _is_cached(name: str) -> bool:
    return next(jit.CACHE_DIR.rglob(f"*.{name}-*.nbc"), None) is not None


def _exercise() -> PgData:
    """What clients, other nodes and kswapd do to a node, through the calls that they use; its arrays."""
    spec = load_preset(_MACHINE)
    nodes = {node.nid: Node.boot(spec, node.nid) for node in spec.nodes}
    node = nodes[0]
    cpu = node.pgdat.cpus[0]
    session = node.apply(ops.OpenSession("warm", 1, 0))

    for order in range(NR_ORDERS):
        request = AllocRequest(session, GFP_KERNEL, order, 8, cpu, Policy(), explain=order == 0)
        _run(nodes, free_pages(node, session, order, _run(nodes, alloc_pages(node, request)).pages, cpu))

    # more than there is: falls back, reclaims, swaps; then reads back what is gone
    everything = sum(int(n.pgdat.pg.managed.sum()) for n in nodes.values()) * 9 // 8
    for kind in (LRU_KIND_FILE, LRU_KIND_ANON):
        region = map_region(node, session, kind, everything, Policy())
        for write in (True, False):
            for first in range(0, everything - 4096, 4096):
                _run(nodes, touch_region(node, session, region, first, 4096, write, cpu))
                for other in nodes.values():
                    run_kswapd(other)
    _run(nodes, unmap_region(node, session, region))

    request = AllocRequest(session, GFP_KERNEL, 0, 4096, cpu, Policy(), partial=True)
    try:
        while True:
            _run(nodes, alloc_pages(node, request))
    except AllocFailed:
        pass
    for other in nodes.values():
        other.apply(ops.DrainPagesets())
        other.pgdat.snapshot()
        other.digest()
        if problems := other.check():
            raise RuntimeError(f"the kernels are not right: {problems[0]}")
        other.apply(ops.VmstatTick())
    _hotplug()
    _run(nodes, close_session(node, session))
    return node.pgdat.pg
