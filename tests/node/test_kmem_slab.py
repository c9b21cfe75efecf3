"""Objects of slab caches on the nodes of a machine with SLAB: the same ones as SLAB as a library gives."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import pytest

from numa_service.mm.gfp import GFP_KERNEL, Gfp
from numa_service.mm.slab.pages import NUMA_NO_NODE, virt_to_pfn
from numa_service.mm.slab.profile import slab_of
from numa_service.mm.slab.slab_alloc import HZ, REAPTIMEOUT_AC, Slab
from numa_service.mm.slab.slab_boot import counted_cpus
from numa_service.mm.slab.start import SlabMachine, start
from numa_service.node import ops
from numa_service.node.errors import Precondition
from numa_service.node.kmem import cache_reap, kmem_cache_shrink
from numa_service.node.kmem_slab import SlabKmem
from numa_service.node.node import Node
from numa_service.node.unserved import AllocFailed
from tests.node.kmem_machine import Machine, SamePages

#: A machine whose node 2 has CPUs and no memory.
MEMORYLESS = """distances = [[10, 20, 20], [20, 10, 15], [20, 15, 10]]

[[node]]
cpus = "0-1"
memory = "256MiB"

[[node]]
cpus = "2-3"
memory = "256MiB"

[[node]]
cpus = "4-5"
memory = 0
"""


def kmem_of(node: Node) -> SlabKmem:
    assert isinstance(node.kmem, SlabKmem)
    return node.kmem


def library_of(machine: Machine, source: SamePages, cmdline: str = "") -> Slab:
    nodes = machine.sim.nodes
    cpus = {cpu: nid for nid in nodes for cpu in machine.cpus(nid)}
    order = {nid: nodes[nid].machine.zonelists[nid].node_order for nid in nodes}
    library = start(
        "slab",
        SlabMachine(machine.spec.profile, cmdline, cpus, len(cpus), order, max(nodes) + 1, 1 << 30),
        source,
    )
    assert isinstance(library, Slab)
    return library


@pytest.fixture
def memoryless(tmp_path: Path) -> str:
    file = tmp_path / "memoryless.toml"
    file.write_text(MEMORYLESS)
    return str(file)


@pytest.mark.parametrize(
    ("cmdline", "all_have_memory"),
    [("", True), ("noaliencache", True), ("slab_max_order=0", True), ("", False), ("noaliencache", False)],
)
def test_objects_are_those_of_the_library(memoryless: str, cmdline: str, all_have_memory: bool) -> None:
    machine = Machine(cmdline=cmdline, slab="slab", source="demo" if all_have_memory else memoryless)
    source, dice = SamePages(), random.Random(cmdline)
    nodes = machine.sim.nodes
    for node in nodes.values():
        node.observer = source.seen
    library = library_of(machine, source, cmdline)
    names = ("kmalloc-64", "shmem_inode_cache", "dentry", "sighand_cache")
    held: dict[int, list[tuple[str, int]]] = {nid: [] for nid in nodes}
    cpus = {cpu: nid for nid in nodes for cpu in machine.cpus(nid)}
    for step in range(400):
        cpu = dice.choice(sorted(cpus))
        nid = cpus[cpu]
        mine = held[nid]
        if step % 40 == 39:
            now_ns = (step // 40 + 1) * REAPTIMEOUT_AC * 10**9 // HZ
            for of, node in nodes.items():
                node.clock = lambda now_ns=now_ns: now_ns
                machine.sim.call(of, cache_reap(node))
                for other in machine.cpus(of):
                    library.cache_reap(other, now_ns * HZ // 10**9)
        if step % 90 == 70:
            tuned = dice.choice(((20, 5, 2), (200, 100, 0), (1, 1, 1)))
            for node in nodes.values():
                node.apply(ops.KmemTune("dentry", *tuned))
            library.slabinfo_write(f"dentry {' '.join(map(str, tuned))}")
        if dice.random() < 0.55 or not mine:
            name, count = dice.choice(names), dice.choice((1, 3, 40, 200))
            of = dice.choice((NUMA_NO_NODE, NUMA_NO_NODE, *nodes))
            got = machine.alloc(nid, name, count, cpu, of)
            assert got == [library.kmem_cache_alloc(name, cpu, GFP_KERNEL, of) for _ in range(count)]
            mine += [(name, address) for address in got]
        else:
            dice.shuffle(mine)
            name = mine[-1][0]
            some = [address for of, address in mine if of == name][: dice.choice((1, 5, 300))]
            held[nid] = [pair for pair in mine if pair[1] not in set(some)]
            machine.free(nid, name, some, cpu)
            library.kmem_cache_free_bulk(name, cpu, some)
        assert not source.taken
        if step % 50 == 0:
            assert machine.sim.check() == []
    for nid, node in nodes.items():
        for name, here in kmem_of(node).here.items():
            there = library.caches[name].nodes[nid]
            for ours, theirs in ((here.node.partial, there.partial), (here.node.empty, there.empty)):
                assert list(ours) == list(theirs)
            assert here.node.free_objects == there.free_objects
            shared = there.shared
            assert (here.node.shared and here.node.shared.entry) == (shared and shared.entry)
            aliens = {of: array.entry for of, array in there.alien.items() if array.entry}
            assert {of: array.entry for of, array in here.alien.items() if array.entry} == aliens
            for cpu, array in here.cpus.items():
                assert array.entry == library.caches[name].cpus[cpu].entry
    assert machine.sim.check() == []


def test_limits_know_the_cpus_that_ran_when_a_cache_was_made() -> None:
    machine = Machine(slab="slab")
    library = library_of(machine, SamePages())
    profile = slab_of(machine.spec.profile)
    cpus = {cpu: nid for nid in machine.sim.nodes for cpu in machine.cpus(nid)}
    for mapping in (cpus, dict.fromkeys(cpus, 0), {0: 0, 1: 1}, {0: 0}, {0: 1, 1: 0, 2: 1}):
        order = dict.fromkeys((0, 1, 2), (0, 1, 2))
        library = start(
            "slab", SlabMachine("linux-6.1", "", mapping, len(mapping), order, 3, 1 << 30), SamePages()
        )
        assert isinstance(library, Slab)
        names = [cache.cache.name for cache in library.in_order]
        for nid in order:
            counted = counted_cpus(profile, names, mapping, nid)
            for working in library.in_order:
                limit = working.cache.free_limit(counted[working.cache.name])
                assert working.nodes[nid].free_limit == limit


def test_one_question_carries_twelve_aliens_and_one_a_refill() -> None:
    machine = Machine(slab="slab")
    objects = machine.alloc(0, "dentry", 100, of=1)
    asked: list[ops.KmemCall] = []
    machine.sim.nodes[1].observer = lambda node, op, result: (
        asked.append(op) if isinstance(op, ops.KmemCall) and op.owner.nid == 0 else None
    )
    machine.free(0, "dentry", objects)
    assert [(op.call, len(op.objects) // 8) for op in asked] == [("take_home", 12)] * 8
    assert len(kmem_of(machine.sim.nodes[0]).here["dentry"].alien[1].entry) == 4


def test_the_end_of_everything_gives_all_pages_back() -> None:
    machine = Machine(slab="slab")
    for nid in (0, 1):
        got = [machine.alloc(nid, "sighand_cache", 300, of=of) for of in (NUMA_NO_NODE, 0, 1, 2)]
        for some in got:
            machine.free(nid, "sighand_cache", some)
    for _ in range(2):
        for nid, node in machine.sim.nodes.items():
            machine.sim.call(nid, kmem_cache_shrink(node, "sighand_cache"))
    for node in machine.sim.nodes.values():
        assert node.kmem.rcu_waits == bool(node.kmem.slab_pages())
        node.apply(ops.VmstatTick())
        assert not node.kmem.slab_pages()
        assert not node.kmem.taken
        assert node.kernel not in node.slots
    assert machine.sim.check() == []


def test_objects_come_from_other_nodes_when_one_has_no_memory() -> None:
    """At first those that are free there (fallback_alloc), and then those of new slabs."""
    machine = Machine(slab="slab")
    (spare,) = machine.alloc(1, "kmalloc-8k", 1, of=0)
    given = machine.alloc(0, "kmalloc-8k", 3, of=1)
    machine.free(1, "kmalloc-8k", machine.alloc(1, "kmalloc-8k", 1, of=1))
    machine.sim.call(1, kmem_cache_shrink(machine.sim.nodes[1], "dentry"))
    node = machine.sim.nodes[0]
    only_here = int(Gfp.THISNODE | Gfp.NOWARN)

    def fill() -> None:
        for count in (512, 1):
            with contextlib.suppress(AllocFailed):
                while True:
                    machine.alloc(0, "kmalloc-8k", count, of=0, gfp=only_here)

    fill()
    with pytest.raises(AllocFailed):
        machine.alloc(0, "kmalloc-8k", 1, of=0, gfp=only_here)
    away = machine.alloc(0, "kmalloc-8k", 5)
    mine = node.sessions[machine.sessions[0]].objects
    assert {mine[address].slab.nid for address in (*away, *given)} <= {1, 2}
    assert spare in node.kmem.taken
    assert machine.sim.check() == []


def test_snapshots_and_logs_have_the_slabs() -> None:
    machine = Machine(slab="slab")
    machine.alloc(0, "filp", 100)
    some = machine.alloc(0, "dentry", 30, of=1)
    machine.alloc(1, "dentry", 30)
    gone = machine.alloc(1, "sighand_cache", 60)
    machine.free(0, "dentry", some[:20])
    machine.free(1, "sighand_cache", gone)
    for nid, node in machine.sim.nodes.items():
        again = Node.boot(machine.spec, nid)
        again.restore(node.snapshot())
        assert again.digest() == node.digest()
        assert again.kmem.check() == []
        replayed = Node.replay(machine.spec, nid, [ops.decode(ops.encode(op)) for op in node.log])
        assert replayed.digest() == node.digest()


def test_a_node_that_restarts_loses_its_slabs_and_homes_are_heard() -> None:
    machine = Machine(slab="slab")
    lost = machine.alloc(0, "filp", 100, of=1)
    kept = machine.alloc(0, "filp", 100, of=0)
    machine.free(0, "filp", lost[:5])
    machine.restart(1)
    assert machine.sim.check() == []
    node = machine.sim.nodes[0]
    assert set(node.sessions[machine.sessions[0]].objects) == set(kept)
    name = kmem_of(node).name("filp")
    assert not any(array.entry for array in kmem_of(node).here[name].alien.values())
    machine.alloc(1, "filp", 10, of=0)
    machine.restart(1)
    assert {home.nid for home in node.kmem.taken.values()} == {0}
    assert machine.sim.check() == []


def test_cpus_without_memory_have_nothing_at_hand(memoryless: str) -> None:
    """As x86 kernels do it: objects come from lists of other nodes, and go home by alien arrays."""
    machine = Machine(slab="slab", source=memoryless)
    asked: list[ops.KmemCall] = []
    for nid in (0, 1):
        machine.sim.nodes[nid].observer = lambda node, op, result: (
            asked.append(op) if isinstance(op, ops.KmemCall) and op.owner.nid == 2 else None
        )
    got = machine.alloc(2, "dentry", 300)
    home = kmem_of(machine.sim.nodes[2])
    assert not any(array.entry for array in home.here["dentry"].arrays())
    (near,) = {slab.nid for slab in home.known_objects().values()}
    assert {op.call for op in asked} == {"take"}
    asked.clear()
    machine.free(2, "dentry", got)
    assert [(op.call, len(op.objects) // 8) for op in asked] == [("take_home", 12)] * 24
    assert machine.sim.check() == []
    machine.restart(near)
    assert not home.known_objects()
    assert machine.sim.check() == []


def test_free_lists_off_their_slabs_are_objects_as_those_of_the_library() -> None:
    """SLAB of 3.0, where struct slab of a large object is one of kmalloc: of the node, through its CPU."""
    machine, source, dice = Machine("linux-3.0", slab="slab"), SamePages(), random.Random("3.0")
    node, cpu = machine.sim.nodes[0], machine.cpus(0)[0]
    node.observer = source.seen
    library = library_of(machine, source)
    kmem = kmem_of(node)
    # pages of a slab for free lists are taken in the op that needs them: the observer does not see those
    machine.alloc(0, "size-64", 1, cpu)
    library.kmem_cache_alloc("size-64", cpu, GFP_KERNEL)
    held: list[tuple[str, int]] = []
    for step in range(120):
        if dice.random() < 0.6 or not held:
            name, count = dice.choice(("size-1024", "size-2048", "size-64")), dice.choice((1, 6, 30))
            if len(kmem.here["size-64"].node.partial) == 0:
                continue
            got = machine.alloc(0, name, count, cpu)
            assert got == [library.kmem_cache_alloc(name, cpu, GFP_KERNEL) for _ in range(count)]
            held += [(name, address) for address in got]
        else:
            name = held[-1][0]
            some = [address for of, address in held if of == name][: dice.choice((1, 5, 60))]
            held = [pair for pair in held if pair[1] not in set(some)]
            machine.free(0, name, some, cpu)
            library.kmem_cache_free_bulk(name, cpu, some)
        if step % 20 == 0:
            assert machine.sim.check() == []
    assert machine.sim.check() == []
    off_slab = {slab.off_slab for slab in kmem.struct_pages.values() if slab.off_slab}
    assert off_slab == {slab.off_slab for slab in library.struct_pages.values() if slab.off_slab}
    assert len(off_slab) > 5


def test_a_free_list_of_a_slab_is_where_the_slab_is_and_goes_with_it() -> None:
    machine = Machine("linux-3.0", slab="slab")
    far = machine.alloc(0, "size-4096", 30, of=1)
    there = machine.sim.nodes[1]
    kmem = kmem_of(there)
    lists = {slab.off_slab for slab in kmem.struct_pages.values() if slab.off_slab is not None}
    assert len(lists) == 30
    assert {kmem.struct_pages[virt_to_pfn(at)].cache.name for at in lists} == {"size-64"}
    assert {kmem.taken[at] for at in lists} == {there.kernel}
    with pytest.raises(Precondition, match="not the session's"):
        machine.free(1, "", [min(lists)])
    again = Node.boot(machine.spec, 1)
    again.restore(there.snapshot())
    assert again.digest() == there.digest()
    assert again.kmem.check() == []
    assert (
        Node.replay(machine.spec, 1, [ops.decode(ops.encode(op)) for op in there.log]).digest()
        == there.digest()
    )
    machine.restart(0)  # the home is gone, and with it the objects and their slabs
    assert machine.sim.check() == []
    assert not any(at in kmem.taken for at in far)
    for name in ("size-4096", "size-64"):
        machine.sim.call(1, kmem_cache_shrink(there, name))
    assert not kmem.slab_pages()
    assert machine.sim.check() == []


def test_without_memory_for_its_free_list_a_slab_is_not_made() -> None:
    machine = Machine("linux-3.0", slab="slab")
    node = machine.sim.nodes[0]
    kmem = kmem_of(node)
    kmem.at("size-4096")
    pages = node.pgdat.pg.node_stat.copy()
    kmem._grow_here = lambda name, most: ()  # type: ignore[method-assign]  # no page for a slab of size-64
    with pytest.raises(AllocFailed):
        machine.alloc(0, "size-4096", 1, of=0, gfp=int(Gfp.THISNODE | Gfp.NOWARN))
    assert (node.pgdat.pg.node_stat == pages).all()
    assert not kmem.struct_pages
    assert machine.sim.check() == []
