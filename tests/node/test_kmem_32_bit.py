"""Objects of slab caches on 32-bit machines: low memory only, and addresses of 32 bits."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from numa_service.machine.source import load
from numa_service.mm.gfp import GFP_KERNEL, Gfp
from numa_service.mm.slab.pages import NUMA_NO_NODE, virt_to_pfn
from numa_service.node.errors import KernelBug, SlabBug
from numa_service.node.kmem import kmalloc, kmem_cache_shrink
from numa_service.node.node import Node
from tests.node.kmem_machine import Machine
from tests.node.test_highmem import TWO_NODES_32_BIT

LOW = range(0xC000_0000, 0xF800_0000)


def two_nodes(tmp_path: Path) -> str:
    file = tmp_path / "two.toml"
    file.write_text(TWO_NODES_32_BIT)
    return str(file)


@pytest.mark.parametrize("slab", ["slub", "slab", "slob"])
@pytest.mark.parametrize("profile", ["linux-6.1", "linux-3.0"])
def test_objects_lie_in_low_memory(slab: str, profile: str) -> None:
    machine = Machine(profile, slab=slab, source="i386-highmem")
    [node] = machine.sim.nodes.values()
    highest = node.machine.max_low_pfn
    got: list[int] = []
    for size in (8, 96, 500, 3000, 8192, 100_000):
        steps = kmalloc(node, machine.sessions[0], size, GFP_KERNEL, 40 if size < 9000 else 2, 0)
        got += machine.sim.call(0, steps)
    assert all(address in LOW and virt_to_pfn(address) < highest for address in got)
    assert len(set(got)) == len(got)
    assert machine.sim.check() == []
    with pytest.raises(SlabBug):
        machine.free(0, "", [got[0] + 4])
    machine.free(0, "", got)
    with pytest.raises(SlabBug):
        machine.free(0, "", [got[0]])
    for name in 2 * list(node.kmem.names):  # SLAB's free lists are objects of other caches
        machine.sim.call(0, kmem_cache_shrink(node, name))
    assert not node.kmem.taken
    assert machine.sim.check() == []


@pytest.mark.parametrize("slab", ["slub", "slab", "slob"])
def test_a_node_without_low_memory_gets_objects_of_another(tmp_path: Path, slab: str) -> None:
    machine, dice = Machine(slab=slab, source=two_nodes(tmp_path)), random.Random(slab)
    names = ("dentry", "filp", "shmem_inode_cache", "names_cache")
    held: dict[int, list[tuple[str, int]]] = {0: [], 1: []}
    for step in range(150):
        nid = dice.choice((0, 1))
        cpu = dice.choice(machine.cpus(nid))
        if dice.random() < 0.6 or not held[nid]:
            name, of = dice.choice(names), dice.choice((NUMA_NO_NODE, 0, 1))
            held[nid] += [(name, at) for at in machine.alloc(nid, name, dice.choice((1, 7, 60)), cpu, of)]
        else:
            dice.shuffle(held[nid])
            name = held[nid][0][0]
            some = [at for of, at in held[nid] if of == name][:50]
            held[nid] = [pair for pair in held[nid] if pair[1] not in set(some)]
            machine.free(nid, name, some, cpu)
        if step % 30 == 0:
            assert machine.sim.check() == []
    addresses = [at for pairs in held.values() for _, at in pairs]
    assert len(set(addresses)) == len(addresses)
    assert all(at in LOW for at in addresses)
    assert not machine.sim.nodes[1].kmem.slab_pages()
    assert machine.sim.check() == []
    for nid, node in machine.sim.nodes.items():
        again = Node.boot(machine.spec, nid)
        again.restore(node.snapshot())
        assert again.digest() == node.digest()
        assert Node.replay(machine.spec, nid, list(node.log)).digest() == node.digest()
    lost = len(machine.sim.nodes[1].kmem.known_objects())
    machine.restart(0)
    assert lost
    assert not machine.sim.nodes[1].kmem.known_objects()
    assert machine.sim.check() == []


def test_high_memory_has_no_addresses_for_objects() -> None:
    """The kernel takes the flag off, and warns; before 4.8 it stops."""
    machine = Machine(source="i386-highmem")
    [address] = machine.alloc(0, "filp", 1, gfp=GFP_KERNEL | Gfp.HIGHMEM)
    assert address in LOW
    old = Machine("linux-3.0", source="i386-highmem")
    before = old.sim.nodes[0].digest()
    with pytest.raises(KernelBug, match="GFP_SLAB_BUG_MASK"):
        old.alloc(0, "kmalloc-64", 1, gfp=GFP_KERNEL | Gfp.HIGHMEM)
    assert old.sim.nodes[0].digest() == before


def test_kmalloc_has_the_classes_of_the_captured_boot() -> None:
    kmem = Node.boot(load("i386-highmem"), 0).kmem
    names = [kmem.kmalloc_name(size, GFP_KERNEL) for size in (1, 8, 65, 129, 4097, 8193)]
    assert names == ["kmalloc-8", "kmalloc-8", "kmalloc-96", "kmalloc-192", "kmalloc-8k", "kmalloc-large-2"]
    assert [kmem.cache(name).size for name in names[:5]] == [8, 8, 96, 192, 8192]
    assert kmem.cache(kmem.name("filp")).size == 160
