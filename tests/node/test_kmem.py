"""Objects of slab caches on the nodes of a machine: the same ones as SLUB as a library gives."""

from __future__ import annotations

import random
from typing import Any

import pytest

from numa_service.mm.gfp import GFP_KERNEL, Gfp
from numa_service.mm.pgdata import PG_SLAB
from numa_service.mm.slab.pages import NUMA_NO_NODE, page_address, virt_to_pfn
from numa_service.mm.slab.slub_alloc import Slub
from numa_service.mm.slab.slub_place import SlabRef
from numa_service.mm.slab.start import SlabMachine, start
from numa_service.node import ops
from numa_service.node.ask import check_asked
from numa_service.node.errors import InvalidRequest, NodeError, NotFound, Precondition, SlabBug
from numa_service.node.kmem import kmalloc, kmem_cache_alloc, kmem_cache_shrink
from numa_service.node.kmem_calls import pack
from numa_service.node.node import Node
from numa_service.node.owners import Owner
from numa_service.node.region import close_session
from numa_service.node.unserved import AllocFailed
from tests.node.kmem_machine import Machine, SamePages


@pytest.mark.parametrize("profile", ["linux-6.1", "linux-6.12", "linux-3.0"])
@pytest.mark.parametrize("cmdline", ["", "slub_debug=FZ", "slub_max_order=0"])
def test_objects_are_those_of_the_library(profile: str, cmdline: str) -> None:
    machine = Machine(profile, cmdline)
    nodes, dice, source = machine.sim.nodes, random.Random(profile + cmdline), SamePages()
    for node in nodes.values():
        node.observer = source.seen
    cpus = {cpu: nid for nid in nodes for cpu in machine.cpus(nid)}
    fallback = {nid: nodes[nid].machine.zonelists[nid].node_order for nid in nodes}
    library = start(
        "slub",
        SlabMachine(profile, cmdline, cpus, len(cpus), fallback, max(nodes) + 1, 1 << 30),
        source,
    )
    assert isinstance(library, Slub)
    names = ("kmalloc-64", "kmalloc-1024" if profile == "linux-3.0" else "kmalloc-1k", "kmem_cache_node")
    held: dict[int, list[tuple[str, int]]] = {nid: [] for nid in nodes}
    for _ in range(120):
        cpu = dice.choice(sorted(cpus))
        nid = cpus[cpu]
        mine = held[nid]
        if dice.random() < 0.55 or not mine:
            name, count = dice.choice(names), dice.choice((1, 3, 40))
            of = dice.choice((NUMA_NO_NODE, NUMA_NO_NODE, *nodes))
            got = machine.alloc(nid, name, count, cpu, of)
            assert got == [library.kmem_cache_alloc(name, cpu, GFP_KERNEL, of) for _ in range(count)]
            mine += [(name, address) for address in got]
        else:
            dice.shuffle(mine)
            name = mine[-1][0]
            some = [address for of, address in mine if of == name][: dice.choice((1, 5, 60))]
            held[nid] = [pair for pair in mine if pair[1] not in set(some)]
            machine.free(nid, name, some, cpu)
            library.kmem_cache_free_bulk(name, cpu, some)
        assert not source.taken
    for nid, node in nodes.items():
        there = library.machine.slabs[nid].slabs
        assert machine.slabs(nid) == {pfn: slab.cache.name for pfn, slab in there.items()}
        for name, here in node.kmem.here.items():
            assert list(here.node.partial) == list(library.caches[name].nodes[nid].partial)
    assert machine.sim.check() == []


def test_slab_pages_are_marked_and_counted() -> None:
    machine = Machine()
    machine.alloc(0, "dentry", 1)
    machine.alloc(0, "filp", 1)
    node = machine.sim.nodes[0]
    (first, second) = machine.slabs(0)
    pg, base = node.pgdat.pg, node.pgdat.base_pfn
    assert pg.flags[first - base] & pg.flags[second - base] & PG_SLAB
    stat = node.pgdat.snapshot().node_stat
    sizes = {name: 1 << node.kmem.cache(name).order for name in ("dentry", "filp")}
    assert node.held_pages() == 0
    assert (stat["nr_slab_reclaimable"], stat["nr_slab_unreclaimable"]) == (sizes["dentry"], sizes["filp"])


def test_the_end_of_a_session_frees_its_objects_on_every_node() -> None:
    machine = Machine()
    for of in (0, 1, 2):
        machine.alloc(0, "filp", 300, of=of)
    assert machine.sim.nodes[0].kmem.held == 900
    machine.sim.call(0, close_session(machine.sim.nodes[0], machine.sessions[0]))
    for nid, node in machine.sim.nodes.items():
        machine.sim.call(nid, kmem_cache_shrink(node, "filp"))
    for nid, node in machine.sim.nodes.items():
        machine.sim.call(nid, kmem_cache_shrink(node, "filp"))
        assert not node.kmem.taken
        assert not machine.slabs(nid)
        assert node.kernel not in node.slots
    assert machine.sim.check() == []


@pytest.mark.parametrize("cache", ["filp", ""])
def test_wrong_frees_get_the_kernels_report(cache: str) -> None:
    machine = Machine()
    kept, gone = machine.alloc(0, "filp", 2, of=1)
    (other,) = machine.alloc(0, "dentry", 1)
    (foreign,) = machine.alloc(1, "filp", 1)
    machine.free(0, "filp", [gone])
    others = [machine.sim.nodes[nid].kmem.dump() for nid in (1, 2)]
    ledger = dict(machine.sim.nodes[0].sessions[machine.sessions[0]].objects)
    never = "Object is not a Slab page" if cache else "object pointer"
    wrong = {gone: "Object already free", kept + 8: "Invalid object pointer", page_address(7): never}
    if cache:
        wrong[other] = "Wrong slab cache. filp but object is from dentry"
    for address, text in wrong.items():
        with pytest.raises(SlabBug, match=text) as error:
            machine.free(0, cache, [kept, address])
        assert error.value.report
    with pytest.raises(SlabBug, match="already free"):
        machine.free(0, cache, [kept, kept])
    with pytest.raises(Precondition, match="not the session's"):
        machine.free(0, cache, [foreign])
    assert machine.sim.nodes[0].sessions[machine.sessions[0]].objects == ledger
    assert [machine.sim.nodes[nid].kmem.dump() for nid in (1, 2)] == others
    assert machine.sim.check() == []


@pytest.mark.parametrize(
    ("change", "error", "field"),
    [
        ({"cache": "no such"}, NotFound, "cache no such"),
        ({"count": 0}, InvalidRequest, "count"),
        ({"count": 5000}, InvalidRequest, "count"),
        ({"cpu": 99}, InvalidRequest, "cpu"),
        ({"nid": 9}, InvalidRequest, "node"),
        ({"session": 77}, NotFound, "session 77"),
        ({"gfp": int(Gfp.DMA | Gfp.HIGHMEM)}, InvalidRequest, "gfp_flags"),
    ],
)
def test_bad_requests_name_the_field(change: dict[str, Any], error: type[Exception], field: str) -> None:
    machine = Machine()
    good = {"session": machine.sessions[0], "cache": "filp", "gfp": GFP_KERNEL, "count": 1, "cpu": 0}
    node = machine.sim.nodes[0]
    before = node.digest()
    with pytest.raises(error, match=field):
        machine.sim.call(0, kmem_cache_alloc(node, **good | change))
    assert node.digest() == before


def test_kmalloc_finds_the_class_of_a_size() -> None:
    machine = Machine()
    node, session = machine.sim.nodes[0], machine.sessions[0]
    for size, gfp, cache in (
        (1, 0, "kmalloc-8"),
        (97, 0, "kmalloc-128"),
        (5000, int(Gfp.ACCOUNT), "kmalloc-cg-8k"),
    ):
        (address,) = machine.sim.call(0, kmalloc(node, session, size, GFP_KERNEL | gfp, 1, 0))
        assert node.sessions[session].objects[address].cache == cache
    for size in (0, (4 << 20) + 1):
        with pytest.raises(InvalidRequest, match="size"):
            machine.sim.call(0, kmalloc(node, session, size, GFP_KERNEL, 1, 0))


def test_aliases_are_the_cache_that_they_share() -> None:
    machine = Machine()
    cache = next(cache for cache in machine.sim.nodes[0].machine.slab_caches if cache.aliases)
    objects = machine.alloc(0, cache.aliases[0], 2)
    machine.free(0, cache.name, objects)


def test_without_memory_nothing_is_left_of_a_request() -> None:
    machine = Machine()
    held = 0

    def fill() -> None:
        nonlocal held
        while True:
            held += len(machine.alloc(0, "kmalloc-8k", 4096, of=0, gfp=int(Gfp.THISNODE | Gfp.NOWARN)))

    with pytest.raises(AllocFailed):
        fill()
    assert held > 0
    assert machine.sim.nodes[0].kmem.held == held
    assert machine.sim.check() == []


def test_a_node_that_restarts_loses_its_slabs_and_the_others_go_on() -> None:
    machine = Machine()
    lost = machine.alloc(0, "filp", 100, of=1)
    kept = machine.alloc(0, "filp", 100, of=0)
    machine.alloc(0, "dentry", 50, of=1)
    machine.restart(1)
    assert machine.sim.check() == []
    assert set(machine.sim.nodes[0].sessions[machine.sessions[0]].objects) == set(kept)
    with pytest.raises(NotFound, match="lost in the restart of node 1"):
        machine.free(0, "filp", [lost[0]])
    machine.free(0, "filp", kept)
    machine.alloc(0, "filp", 100, of=1)
    assert machine.sim.check() == []


@pytest.mark.parametrize("cmdline", ["", "slub_debug=F"])
def test_what_a_home_had_is_taken_back_when_it_restarts(cmdline: str) -> None:
    machine = Machine(cmdline=cmdline)
    machine.alloc(0, "filp", 100, of=1)
    mine = machine.alloc(1, "filp", 30)
    node = machine.sim.nodes[1]
    machine.restart(0)
    assert {home.nid for home in node.kmem.taken.values()} == {1}
    assert {home.nid for home in node.kmem.frozen.values()} <= {1}
    machine.free(1, "filp", mine)
    assert machine.sim.check() == []


def test_snapshots_and_logs_have_the_slabs() -> None:
    machine = Machine()
    machine.alloc(0, "filp", 100)
    machine.alloc(0, "dentry", 30, of=1)
    machine.alloc(1, "dentry", 30)
    machine.free(0, "filp", list(machine.sim.nodes[0].kmem.taken)[40:50])
    for nid, node in machine.sim.nodes.items():
        again = Node.boot(machine.spec, nid)
        again.restore(node.snapshot())
        assert again.digest() == node.digest()
        assert again.kmem.check() == []
        replayed = Node.replay(machine.spec, nid, [ops.decode(ops.encode(op)) for op in node.log])
        assert replayed.digest() == node.digest()


@pytest.mark.parametrize("cmdline", ["", "slub_debug=F"])
def test_whatever_another_node_asks_for_slabs_stay_consistent(cmdline: str) -> None:
    """Questions that no node of ours would ask are refused and change nothing, or do no harm."""
    machine = Machine(cmdline=cmdline)
    machine.alloc(0, "filp", 60, of=1)
    machine.alloc(1, "filp", 60)
    machine.alloc(0, "kmalloc-64", 60, of=1)
    node, dice = machine.sim.nodes[1], random.Random(7)
    answered: dict[str, int] = {}
    refused = 0
    for _ in range(1500):
        call = dice.choice(
            ("get_partial", "get_freelist", "free", "put_back", "unfreeze", "shrink", "wrong_free")
        )
        slabs = list(node.kmem.slabs.slabs)
        objects = dice.sample(list(node.kmem.taken), min(len(node.kmem.taken), dice.choice((0, 1, 2, 5))))
        if objects and dice.random() < 0.7:
            pfns = [node.kmem.slabs.heads[virt_to_pfn(objects[0])]]
            objects = [at for at in objects if node.kmem.slabs.heads[virt_to_pfn(at)] == pfns[0]]
        else:
            pfns = dice.sample(slabs, min(len(slabs), dice.choice((0, 1, 2)))) + [5] * dice.choice((0, 0, 1))
        if dice.random() < 0.1:
            objects.append(dice.choice((0, 1 << 63, page_address(5))))
        home = Owner(dice.choice((0, 0, 1)), dice.choice((1, 1, 1, 2)), 0)
        name = dice.choice(("filp", "filp", "kmalloc-64"))
        op = ops.KmemCall(home, call, name, 0, dice.choice((1, 1, 1, 0, 2)), tuple(pfns), pack(objects))
        before = node.digest()
        try:
            check_asked(node, op)
            node.apply(op)
            answered[call] = answered.get(call, 0) + 1
        except NodeError:
            refused += 1
            assert node.digest() == before
        # what a node says that it gives back it may go on to use: its own books are not this node's matter
        mine = [problem for problem in node.kmem.check() if "of this node here" not in problem]
        assert mine == []
    assert len(answered) == 7
    assert refused


@pytest.mark.parametrize("of", [0, 1])
@pytest.mark.parametrize("wrong", ["twice", "outside", "middle"])
def test_a_cpu_refuses_objects_that_are_not_free_ones_of_the_slab(of: int, wrong: str) -> None:
    machine = Machine()
    machine.alloc(0, "filp", 3, of=of)
    node = machine.sim.nodes[0]
    slab = next(iter(machine.sim.nodes[of].kmem.slabs.slabs.values()))
    ref = SlabRef(slab.pfn, of, machine.sim.nodes[of].lineage)
    first, second = slab.all_objects()[:2]
    bad = {"twice": [second, second], "outside": [second - (1 << 20)], "middle": [second + 8]}[wrong]
    before = node.digest()
    with pytest.raises(Precondition, match="not free objects of the slab"):
        node.apply(ops.KmemInstall(machine.sessions[0], "filp", 0, ref, pack([*bad, first])))
    assert node.digest() == before
    assert machine.sim.check() == []


def test_caches_and_slabs_without_number_find_room() -> None:
    """The arrays of a node grow while its CPUs have slabs of it and of another node."""
    machine = Machine()
    node = machine.sim.nodes[0]
    names = [name for name in node.kmem.names if node.kmem.cache(name).size <= 512][:20]
    held = {(name, of): machine.alloc(0, name, 70, of=of) for name in names for of in (0, 1)}
    assert len({at for objects in held.values() for at in objects}) == 70 * len(held)
    assert len(node.kmem.place.data.caches) >= len(names)
    machine.alloc(0, "kmalloc-8", 2048)
    assert machine.sim.check() == []
    for name, of in held:
        machine.free(0, name, held[name, of])
    assert machine.sim.check() == []
    machine.sim.call(0, close_session(node, machine.sessions[0]))
    for name in node.kmem.names:
        for _ in range(2):
            for nid in (0, 1):
                machine.sim.call(nid, kmem_cache_shrink(machine.sim.nodes[nid], name))
    machine.sim.nodes[1].apply(ops.VmstatTick())
    node.apply(ops.VmstatTick())
    assert machine.slabs(0) == machine.slabs(1) == {}
    assert not node.kmem.taken
    assert node.kmem.slabs.heads == {}
