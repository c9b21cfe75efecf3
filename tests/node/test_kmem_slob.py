"""Objects of slab caches on the nodes of a machine with SLOB, and pages of kmalloc with all allocators."""

from __future__ import annotations

import random

import pytest

from numa_service.mm.gfp import GFP_KERNEL
from numa_service.mm.pgdata import PG_SLAB
from numa_service.mm.slab.cache import ALLOCATORS
from numa_service.mm.slab.pages import NUMA_NO_NODE, virt_to_pfn
from numa_service.mm.slab.slob_alloc import Slob
from numa_service.mm.slab.start import SlabMachine, start
from numa_service.node import ops
from numa_service.node.errors import NotFound, SlabBug
from numa_service.node.kmem import kmalloc
from numa_service.node.kmem_slob import SlobKmem
from numa_service.node.node import Node
from numa_service.node.region import close_session
from tests.node.kmem_machine import Machine, SamePages


def kmem_of(node: Node) -> SlobKmem:
    assert isinstance(node.kmem, SlobKmem)
    return node.kmem


def take(machine: Machine, nid: int, size: int, count: int, of: int = NUMA_NO_NODE) -> list[int]:
    node = machine.sim.nodes[nid]
    cpu = machine.cpus(nid)[0]
    steps = kmalloc(node, machine.sessions[nid], size, GFP_KERNEL, count, cpu, of)
    return machine.sim.call(nid, steps)


def test_objects_of_one_node_are_those_of_the_library() -> None:
    """Objects of caches and of kmalloc share pages; what fills a page is pages of its own."""
    machine, source, dice = Machine(slab="slob"), SamePages(), random.Random(3)
    node = machine.sim.nodes[0]
    node.observer = source.seen
    cpus = dict.fromkeys(machine.cpus(0), 0)
    library = start("slob", SlabMachine("linux-6.1", "", cpus, len(cpus), {0: (0,)}, 3, 1 << 30), source)
    assert isinstance(library, Slob)
    held: list[tuple[str, int]] = []
    for step in range(300):
        if dice.random() < 0.55 or not held:
            what, count = dice.choice(("dentry", "names_cache", "anon_vma", 24, 300, 2000, 5000)), 7
            if isinstance(what, int):
                got = take(machine, 0, what, count)
                assert got == [library.kmalloc(what, 0, GFP_KERNEL) for _ in range(count)]
                held += [("", address) for address in got]
            else:
                got = machine.alloc(0, what, count)
                assert got == [library.kmem_cache_alloc(what, 0, GFP_KERNEL) for _ in range(count)]
                held += [(what, address) for address in got]
        else:
            dice.shuffle(held)
            name = held[-1][0]
            some = [address for of, address in held if of == name][:20]
            held = [pair for pair in held if pair[1] not in set(some)]
            machine.free(0, name, some)
            for address in some:
                if name:
                    library.kmem_cache_free(name, 0, address)
                else:
                    library.kfree(0, address)
        if step % 20 == 0:
            node.apply(ops.VmstatTick())
            library.rcu_callbacks()
            assert machine.sim.check() == []
    for kind, pages in kmem_of(node).small.lists.items():
        assert [(p.pfn, p.blocks) for p in pages] == [(p.pfn, p.blocks) for p in library.lists[kind]]


def test_one_question_takes_many_objects_and_gives_them_back() -> None:
    machine = Machine(slab="slob")
    asked: list[str] = []
    machine.sim.nodes[1].observer = lambda node, op, result: (
        asked.append(op.call) if isinstance(op, ops.KmemCall) else None
    )
    first = machine.alloc(0, "dentry", 4, of=1)
    more = machine.alloc(0, "dentry", 8, of=1)
    assert {slab.nid for slab in machine.sim.nodes[0].kmem.known_objects().values()} == {1}
    asked.clear()
    machine.free(0, "dentry", first + more)
    assert asked == ["free"]
    assert not machine.sim.nodes[1].kmem.slab_pages()
    assert machine.sim.check() == []


def test_snapshots_and_logs_have_the_pages() -> None:
    machine = Machine(slab="slob")
    machine.alloc(0, "dentry", 30)
    some = machine.alloc(0, "anon_vma", 30, of=1)
    take(machine, 0, 777, 9)
    take(machine, 1, 9000, 2)
    machine.free(0, "anon_vma", some[::2])
    for nid, node in machine.sim.nodes.items():
        again = Node.boot(machine.spec, nid)
        again.restore(node.snapshot())
        assert again.digest() == node.digest()
        assert again.kmem.check() == []
        replayed = Node.replay(machine.spec, nid, [ops.decode(ops.encode(op)) for op in node.log])
        assert replayed.digest() == node.digest()


@pytest.mark.parametrize("slab", ALLOCATORS)
def test_large_objects_are_whole_pages(slab: str) -> None:
    """They are the kernel's, no slabs, and count as unreclaimable (kmalloc_large_node)."""
    machine = Machine(slab=slab)
    node = machine.sim.nodes[0]
    near = take(machine, 0, 20_000, 2)
    far = take(machine, 0, 100_000, 1, of=1)
    pgdat = node.pgdat
    for address in near:
        assert not address % 32768
        assert not pgdat.pg.flags[virt_to_pfn(address) - pgdat.base_pfn] & PG_SLAB
    counted = [machine.sim.nodes[nid].pgdat.snapshot().node_stat["nr_slab_unreclaimable"] for nid in (0, 1)]
    assert counted == [16, 32]
    assert node.kmem.held == 3
    with pytest.raises(SlabBug):
        machine.free(0, "dentry", [far[0]])
    again = Node.boot(machine.spec, 0)
    again.restore(node.snapshot())
    assert again.digest() == node.digest()
    assert machine.sim.check() == []
    machine.free(0, "", near + far)
    assert node.held_pages() == machine.sim.nodes[1].held_pages() == 0
    for nid in (0, 1):
        assert machine.sim.nodes[nid].kernel not in machine.sim.nodes[nid].slots
    assert machine.sim.check() == []


@pytest.mark.parametrize("slab", ALLOCATORS)
def test_objects_of_slabs_and_whole_pages_are_freed_together(slab: str) -> None:
    """However they are mixed, of this node and another: all come back, and the others stay."""
    machine, dice = Machine(slab=slab), random.Random(11)
    node = machine.sim.nodes[0]
    session = node.sessions[machine.sessions[0]]
    objects: list[int] = []
    for of in (0, 1, 0, 1):
        objects += take(machine, 0, 20_000, 3, of) + take(machine, 0, 100, 50, of)
        objects += machine.alloc(0, "dentry", 40, of=of)
    dice.shuffle(objects)
    some, others = objects[:230], objects[230:]
    machine.free(0, "", some)
    assert set(session.objects) == set(others)
    assert node.kmem.held == len(others)
    assert machine.sim.check() == []
    machine.free(0, "", others)
    assert not session.objects
    assert not any(there.kmem.large for there in machine.sim.nodes.values())
    assert machine.sim.check() == []


@pytest.mark.parametrize("slab", ALLOCATORS)
def test_large_objects_end_with_their_session_and_with_their_home(slab: str) -> None:
    machine = Machine(slab=slab)
    take(machine, 0, 20_000, 2, of=1)
    take(machine, 1, 20_000, 2, of=1)
    machine.sim.call(1, close_session(machine.sim.nodes[1], machine.sessions[1]))
    assert len(machine.sim.nodes[1].kmem.large) == 2
    machine.sim.nodes[1].apply(ops.FreeDeadOwners(0, 2))
    assert not machine.sim.nodes[1].kmem.large


@pytest.mark.parametrize("slab", ["slab", "slob"])
def test_wrong_frees_are_refused_and_change_nothing(slab: str) -> None:
    machine = Machine(slab=slab)
    kept, gone = machine.alloc(0, "dentry", 2, of=1)
    (other,) = machine.alloc(0, "sighand_cache", 1)
    machine.free(0, "dentry", [gone])
    dumps = [node.kmem.dump() for node in machine.sim.nodes.values()]
    for address in (gone, kept + 8, other):
        with pytest.raises(SlabBug) as error:
            machine.free(0, "dentry", [kept, address])
        assert error.value.report
    with pytest.raises(SlabBug):
        machine.free(0, "dentry", [kept, kept])
    assert [node.kmem.dump() for node in machine.sim.nodes.values()] == dumps
    lost = machine.alloc(0, "dentry", 1, of=1)
    machine.restart(1)
    with pytest.raises(NotFound, match="lost in the restart of node 1"):
        machine.free(0, "dentry", lost)


@pytest.mark.parametrize("slab", ["slab", "slob"])
def test_a_page_says_what_it_is_a_slab_of(slab: str) -> None:
    machine = Machine(slab=slab)
    (address,) = machine.alloc(0, "dentry", 1)
    view = machine.sim.nodes[0].kmem.view(virt_to_pfn(address))
    assert view is not None
    if slab == "slab":
        assert (view.cache, view.inuse, view.objects) == ("dentry", 16, 21)
        assert view.listed == ("partial dentry", [virt_to_pfn(address)])
    else:
        assert (view.cache, view.listed) == ("slob", ("free_slob_small", [virt_to_pfn(address)]))
