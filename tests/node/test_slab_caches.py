"""What becomes of slab caches when one is made or destroyed, on one machine without servers."""

from __future__ import annotations

import pytest

from numa_service.machine.kept_record import KeptRecord
from numa_service.machine.record import CacheArgs, ChangedCache, MachineRecord, SlabCaches, SlabTunables
from numa_service.machine.slab_caches import slab_caches_of
from numa_service.machine.source import load
from numa_service.mm.slab.flags import SlabFlag
from numa_service.mm.slab.slub import SlubCache
from numa_service.node import ops
from numa_service.node.errors import NotFound, Precondition, SlabBug
from numa_service.node.kmem_calls import Shutdown
from numa_service.node.machine_record import follow
from numa_service.node.node import Node
from numa_service.node.slab_caches import (
    ShutdownStep,
    kmem_cache_create,
    kmem_cache_destroy,
    parse_flags,
    shut_down,
    shutdown_on_all,
    with_written,
)
from tests.node.kmem_machine import Machine

SPEC = load("demo")
ALONE = CacheArgs(100, flags=int(SlabFlag.NO_MERGE))


def made(machine: Machine, caches: SlabCaches, version: int) -> None:
    for node in machine.sim.nodes.values():
        node.apply(ops.KmemCaches(caches.caches, version))


def begun(caches: SlabCaches, name: str) -> SlabCaches:
    after, dying = kmem_cache_destroy(SPEC, caches, name)
    assert dying == name
    return after


@pytest.mark.parametrize(
    ("kernel", "last", "first"),
    [
        (
            "linux-3.0",
            "SLUB mine: kmem_cache_destroy called for cache that still has objects.",
            "Objects remaining on kmem_cache_close()",
        ),
        (
            "linux-6.12",
            "kmem_cache_destroy mine: Slab cache still has objects",
            "Objects remaining in mine on __kmem_cache_shutdown()",
        ),
    ],
)
def test_each_kernel_has_its_report(kernel: str, last: str, first: str) -> None:
    machine = Machine(profile=kernel, cmdline="slub_debug=F,mine")
    caches = kmem_cache_create(machine.spec, SlabCaches(), "mine", CacheArgs(100))
    made(machine, caches, 1)
    (address,) = machine.alloc(0, "mine", 1)
    made(machine, begun(caches, "mine"), 2)
    slabs, report = machine.sim.nodes[0].apply(ops.KmemShutdown("mine"))
    assert slabs == 1
    assert report[0] == f"BUG mine (Not tainted): {first}"
    assert report[1].removeprefix("INFO: ").startswith(f"Object 0x{address:016x} @offset=")
    assert report[-1] == last
    assert machine.sim.check() == []


@pytest.mark.parametrize("slab", ["slub", "slab", "slob"])
def test_a_dying_cache_gives_nothing_and_takes_back(slab: str) -> None:
    machine = Machine(slab=slab)
    caches = kmem_cache_create(machine.spec, SlabCaches(), "mine", ALONE)
    made(machine, caches, 1)
    objects = machine.alloc(0, "mine", 50, of=1)
    with pytest.raises(Precondition, match="not being destroyed"):
        machine.sim.nodes[0].apply(ops.KmemShutdown("mine"))
    made(machine, begun(caches, "mine"), 2)
    with pytest.raises(NotFound, match="being destroyed"):
        machine.alloc(0, "mine", 1)
    question = ops.KmemCall(machine.sim.nodes[0].kernel, "take", "mine", 0, 1, count=1)
    with pytest.raises(Precondition, match="being destroyed"):
        machine.sim.nodes[1].apply(question)
    machine.free(0, "mine", objects)
    assert machine.sim.check() == []


def test_a_slab_that_a_cpu_has_let_go_of_is_taken_back_though_its_cache_is_dying() -> None:
    machine = Machine(slab="slub")
    caches = kmem_cache_create(machine.spec, SlabCaches(), "mine", ALONE)
    made(machine, caches, 1)
    objects = machine.alloc(0, "mine", 1, of=1)
    home, there = machine.sim.nodes[0], machine.sim.nodes[1]
    (pfn,) = there.kmem.frozen
    made(machine, begun(caches, "mine"), 2)
    answer = there.apply(ops.KmemCall(home.kernel, "get_freelist", "mine", 0, 1, (pfn,)))
    assert not answer.objects, "its CPU has all of them"
    assert pfn not in there.kmem.frozen
    machine.free(0, "mine", objects)


def test_many_caches_come_and_go_in_the_same_rows() -> None:
    """What a node keeps of caches that are no more does not grow without end."""
    machine = Machine()
    node = machine.sim.nodes[0]
    caches = SlabCaches()
    for number in range(40):
        name = f"mine-{number}"
        caches = kmem_cache_create(machine.spec, caches, name, ALONE)
        made(machine, caches, 3 * number + 1)
        machine.free(0, name, machine.alloc(0, name, 200))
        caches = begun(caches, name)
        made(machine, caches, 3 * number + 2)
        node.apply(ops.KmemFlush(name))
        assert node.apply(ops.KmemShutdown(name)) == Shutdown()
        caches = shut_down(caches, name)
        made(machine, caches, 3 * number + 3)
    assert len(node.kmem.place.caches) == 1
    assert len(node.kmem.place.data.slabs) <= 16
    assert machine.sim.check() == []
    replayed = Node.replay(machine.spec, 0, [ops.decode(ops.encode(op)) for op in node.log])
    assert replayed.digest() == node.digest()


def test_snapshots_have_the_caches_and_their_slabs() -> None:
    machine = Machine()
    caches = kmem_cache_create(machine.spec, SlabCaches(), "mine", ALONE)
    caches = with_written(caches, "mine", "min_partial", 1)
    made(machine, with_written(caches, "filp", "cpu_partial", 2), 1)
    machine.alloc(0, "mine", 100)
    machine.free(0, "mine", machine.alloc(0, "mine", 300))
    node = machine.sim.nodes[0]
    again = Node.boot(machine.spec, 0)
    again.restore(node.snapshot())
    assert again.digest() == node.digest()
    assert again.kmem.check() == []
    assert (again.record_version, again.kmem.changed) == (1, node.kmem.changed)


def test_tunables_of_a_new_cache_come_after_it() -> None:
    """The last change of any cache is newer than what was written to /proc/slabinfo of an earlier one."""
    machine = Machine(slab="slab")
    record = MachineRecord().with_caches(kmem_cache_create(machine.spec, SlabCaches(), "mine", ALONE))
    record = record.with_tunables(SlabTunables("mine", 10, 5, 1))
    record = record.with_caches(kmem_cache_create(machine.spec, record.caches[1], "other", ALONE))
    node = Node.boot(machine.spec, 0)
    follow(node, record)
    assert node.record_version == 3
    assert node.kmem.at("mine").cache.limit == 10
    follow(node, record)
    assert node.log_length == 2
    gone = record.with_caches(shut_down(record.caches[1], "mine"))
    assert gone.tunables == {}
    assert MachineRecord.unpack(record.pack()) == record


def test_who_destroyed_a_cache_may_be_gone() -> None:
    caches = SlabCaches((ChangedCache("mine", ALONE, ("mine",), 100, dying=True),))
    record = MachineRecord().with_caches(caches)
    kept, again = KeptRecord(SPEC, record), KeptRecord(SPEC, record)
    assert kept.record == again.record
    assert kept.record.version == record.version + 1
    assert not kept.record.caches[1].caches[0].dying


def test_an_alias_makes_a_cache_of_boot_larger_for_good() -> None:
    before = next(c for c in slab_caches_of(SPEC) if c.name == "cred_jar")
    assert isinstance(before, SlubCache)
    args = CacheArgs(190, flags=parse_flags("SLAB_HWCACHE_ALIGN|SLAB_ACCOUNT"))
    shared = kmem_cache_create(SPEC, SlabCaches(), "mine", args)
    (change,) = shared.caches
    after = next(c for c in slab_caches_of(SPEC, shared) if c.name == change.name)
    assert isinstance(after, SlubCache)
    assert "mine" in after.aliases
    assert (after.object_size, after.inuse) == (190, 192)
    left, dying = kmem_cache_destroy(SPEC, shared, "mine")
    assert dying == ""
    alone = next(c for c in slab_caches_of(SPEC, left) if c.name == change.name)
    assert "mine" not in alone.aliases
    assert alone.object_size == 190
    assert slab_caches_of(SPEC) == slab_caches_of(SPEC, SlabCaches())


def test_nobody_is_asked_after_the_first_that_has_objects() -> None:
    steps = shutdown_on_all((0, 1, 2), "mine")
    asked = [next(steps), steps.send(None), steps.send(None), steps.send(None), steps.send(Shutdown())]
    assert asked == [
        *(ShutdownStep(nid, "flush") for nid in (0, 1, 2)),
        *(ShutdownStep(nid, "shutdown") for nid in (0, 1)),
    ]
    with pytest.raises(SlabBug, match="has objects"):
        steps.send(Shutdown(1, ("has objects",)))
