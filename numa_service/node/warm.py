"""Compiles every kernel before a request has to wait for one.

A small machine is booted in this process and exercised until each kernel has been called.
"""

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
from numa_service.mm.profile import DEFAULT_PROFILE
from numa_service.mm.replay import compile_replay
from numa_service.mm.slab.compiled.cpu import slub_free_located, slub_use_partial
from numa_service.mm.slab.compiled.lists import slub_not_in_slab, slub_not_of_home
from numa_service.mm.slab.slub_node import OWN_HOME
from numa_service.mm.slab.slub_place import SlabRef
from numa_service.mm.slab.start import SlabMachine, start_slub
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
    """Compile every kernel into this host's disk cache, which takes one CPU half a minute.

    Returns False if the cache was complete already. RuntimeError names kernels that were not compiled:
    :func:`_exercise` has to be extended so that it calls them.
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
    """Compile the kernels of frees and reclaim, in a second process beside :func:`warm_kernels`.

    :func:`warm_kernels` begins with allocations, which take half of all time and share little code with frees
    and reclaim, and it comes to these last. It then loads from the disk cache what this process has compiled;
    where this function does not run, it compiles them itself.
    """
    blank = alloc_pgdata(0, PAGEBLOCK_NR_PAGES, 1, 1)  # a boot would compile what the other process compiles
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
    pgdat.split_named(1, indexes)
    pgdat.free_owner(1)
    pgdat.move_pages(1, indexes, indexes.astype(np.uint64), indexes.astype(np.uint64), False, False)
    pgdat.look(cpu, 0, 0, 0)
    _slab_objects()


def _run(nodes: dict[int, Node], steps: Steps[T]) -> T:
    """Drive a request to its end, applying what it asks of other nodes at once; return its result."""
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
    """Take memory blocks off-line and bring them back, and allocate contiguous pages."""
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


class _Pages:
    """Pages for slabs, each asked for once."""

    def __init__(self) -> None:
        self._next = 1 << 20

    def alloc_pages(self, node: int, order: int, gfp: int) -> tuple[int, int]:
        """The next pages of the node."""
        self._next += 1 << order
        return self._next - (1 << order), node

    def free_pages(self, pfn: int, order: int) -> None:
        """They are not asked for again."""


def _slab_objects() -> None:
    """Do to the objects of a slab cache what CPUs, nodes, and homes on other nodes do."""
    machine = SlabMachine(DEFAULT_PROFILE, "", {0: 0, 1: 1}, 2, {0: (0, 1), 1: (1, 0)}, 2, 1 << 30)
    slub = start_slub(machine, _Pages())
    work, place = slub.caches["kmalloc-512"], slub.machine.place
    cpu, node = work.cpus[0], work.nodes[0]
    objects = work.kmem_cache_alloc_bulk(0, GFP_KERNEL, 40 * work.cache.objects)
    work.kmem_cache_free(0, objects.pop())
    count = place.put(objects)
    slub_free_located(place.address, 0, OWN_HOME + 1, count)  # of another home: none is freed
    slub_not_of_home(place.address, OWN_HOME, count)
    slub_not_in_slab(place.address, 0, count)
    work.kmem_cache_free_bulk(1, objects)
    work.flush_all()
    slub_use_partial(place.address, cpu.k, cpu.c, 0, OWN_HOME)
    cpu.freelist = cpu.freelist
    cpu.take(*_slab_of(cpu.let_go()))
    for slab in cpu.let_go_partial():
        cpu.put_partial(slab, drain=True)
    work.flush_all()
    first, *others = node.get_partial_node()
    place.home_of(first.freelist[0])
    node.slab_free(first.pfn, first.freelist)
    node.deactivate_slab(first.pfn, node.get_freelist(first.pfn))
    node.unfreeze_partials([slab.pfn for slab in others])
    slub.kmem_cache_shrink("kmalloc-512")


def _slab_of(let_go: tuple[SlabRef | None, list[int]]) -> tuple[SlabRef, list[int]]:
    slab, objects = let_go
    assert slab
    return slab, objects


def _is_cached(name: str) -> bool:
    return next(jit.CACHE_DIR.rglob(f"*.{name}-*.nbc"), None) is not None


def _exercise() -> PgData:
    """Do to a node what clients, other nodes and kswapd do; return the node's arrays.

    RuntimeError if an invariant is violated afterwards.
    """
    spec = load_preset(_MACHINE)
    nodes = {node.nid: Node.boot(spec, node.nid) for node in spec.nodes}
    node = nodes[0]
    cpu = node.pgdat.cpus[0]
    session = node.apply(ops.OpenSession("warm", 1, 0))

    for order in range(NR_ORDERS):
        request = AllocRequest(session, GFP_KERNEL, order, 8, cpu, Policy(), explain=order == 0)
        _run(nodes, free_pages(node, session, order, _run(nodes, alloc_pages(node, request)).pages, cpu))

    # regions larger than memory: faults fall back to other nodes, reclaim and swap; reads bring pages back
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
    _slab_objects()
    _run(nodes, close_session(node, session))
    return node.pgdat.pg
