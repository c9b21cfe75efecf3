"""mbind, migrate_pages and move_pages of regions: pages move and count as on booted kernels."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator
from errno import EFAULT, ENODEV, ENOENT
from typing import Any

import pytest
from mm.recorded_calls import recorded

from numa_service.machine.machinefile import parse_machine
from numa_service.machine.source import load
from numa_service.mm.gfp import GFP_KERNEL
from numa_service.mm.mempolicy.nodemask import nids_of
from numa_service.mm.page_alloc import LRU_KIND_ANON, LRU_KIND_FILE
from numa_service.mm.vmstat import NUMASTAT_NAMES, PGMIGRATE_SUCCESS
from numa_service.node import ops
from numa_service.node.errors import InvalidRequest, NotFound, Precondition
from numa_service.node.mempolicy import Policy, PolicyMode
from numa_service.node.page_alloc import alloc_pages
from numa_service.node.prepare import AllocRequest
from numa_service.node.region import close_session, map_region, touch_region
from numa_service.node.requests import mbind, migrate, move
from numa_service.node.unserved import AllocFailed
from numa_service.sim.network import Faults
from numa_service.sim.simulation import Simulation, Task

#: Modes by the kernel's numbers.
MODES = ("DEFAULT", "PREFERRED", "BIND", "INTERLEAVE", "LOCAL", "PREFERRED_MANY", "WEIGHTED_INTERLEAVE")
RING = """
name = "ring"
profile = "linux-6.12"
distances = [[10, 20, 30, 20], [20, 10, 20, 30], [30, 20, 10, 20], [20, 30, 20, 10]]

[[node]]
cpus = "0"
memory = "256MiB"

[[node]]
cpus = "1"
memory = "256MiB"

[[node]]
cpus = "2"
memory = "256MiB"

[[node]]
cpus = "3"
memory = "0"
"""


class Region:
    """A region of a session on node 0."""

    def __init__(self, sim: Simulation, pages: int, kind: int = LRU_KIND_ANON) -> None:
        self.sim, self.home = sim, sim.nodes[0]
        self.inbox = sim.hosts[0].inbox
        self.session = self.home.apply(ops.OpenSession("moves", 10**15, 0))
        self.id = map_region(self.home, self.session, kind, pages, Policy())

    def touch(self, first: int, count: int, write: bool = True) -> None:
        self.sim.call(0, touch_region(self.home, self.session, self.id, first, count, write, 0))

    def mbind(self, first: int, count: int, policy: Policy, **flags: bool) -> Any:
        return self.sim.call(0, mbind(self.inbox, self.session, self.id, first, count, policy, 0, **flags))

    def migrate(self, old: tuple[int, ...], new: tuple[int, ...]) -> Any:
        return self.sim.call(0, migrate(self.inbox, self.session, old, new, 0))

    def move(self, pages: list[int], nodes: list[int] | None) -> tuple[tuple[int, ...], int]:
        return self.sim.call(0, move(self.inbox, self.session, self.id, pages, nodes, 0))

    def where(self, first: int, count: int) -> str:
        status, ended = self.move([*range(first, first + count)], None)
        assert ended == 0
        return "".join("." if nid < 0 else str(nid) for nid in status)


def bind(*nodes: int) -> Policy:
    return Policy(PolicyMode.BIND, nodes)


def numastat(sim: Simulation) -> dict[tuple[int, str], int]:
    names = ("numa_hit", "interleave_hit")
    return {
        (nid, name): int(node.pgdat.pg.numa_event[:, NUMASTAT_NAMES.index(name)].sum())
        for nid, node in sim.nodes.items()
        for name in names
    }


def migrated(sim: Simulation) -> int:
    return sum(int(node.pgdat.pg.vm_event[PGMIGRATE_SUCCESS]) for node in sim.nodes.values())


def recorded_moves(kernel: str) -> Iterator[tuple[str, str, int, dict[tuple[int, str], int]]]:
    """(call, pages afterwards, pgmigrate_success, numastat less what files took) of each recorded call."""
    told: dict[str, dict[str, int]] = {}
    before: dict[str, dict[str, int]] = {}
    call = where = ""
    for line, answer in recorded("move", kernel):
        if line.startswith(("mbind", "migrate_pages", "move_pages")):
            call, before, told = line, told, {}
        elif line.startswith("where"):
            where = answer.removeprefix("=>").strip()
        elif line.startswith(("read", "migrated")):
            pairs = (part.split() for part in answer.split("|") if part.strip())
            told[line] = {name: int(number) for name, number in pairs}
        if line == "migrated" and call:
            moved = told[line]["pgmigrate_success"] - before[line]["pgmigrate_success"]
            counts = {
                (nid, name): told[path][name] - before[path][name]
                for nid in range(3)
                for name in ("numa_hit", "interleave_hit")
                for path in [f"read /sys/devices/system/node/node{nid}/numastat"]
            }
            yield call, where, moved, counts


def asked(region: Region, call: str, base: int) -> None:
    """Make a recorded call of a region whose first recorded page is `base`."""
    name, *arguments = call.split()
    if name == "mbind":
        start, length, mode, mask, _, flags = arguments
        nodes = () if mask == "null" else nids_of(int(mask.removeprefix("m:"), 16))
        first = base + int(start.partition("+")[2]) // 4096
        policy = Policy(PolicyMode[MODES[int(mode)]], nodes)
        strict = bool(int(flags) & 1)
        region.mbind(first, int(length) // 4096, policy, move=True, strict=strict)
    elif name == "migrate_pages":
        old, new = (nids_of(int(mask.removeprefix("m:"), 16)) for mask in arguments[2:])
        region.migrate(old, new)
    else:
        pages = [base + int(one.partition("+")[2]) // 4096 for one in arguments[2].split(",")]
        region.move(pages, [int(nid) for nid in arguments[3].removeprefix("i:").split(",")])


@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
def test_pages_move_and_count_as_recorded(kernel: str) -> None:
    """The recorded area began at a page whose number is `base` as far as rounds of two and three go."""
    spec = dataclasses.replace(parse_machine(RING, "ring", "ring"), profile=f"linux-{kernel}")
    bits = 64 if kernel == "6.12" else 32
    base = 34359705526 % (1 << bits) % 6
    sim = Simulation(spec)
    region = Region(sim, 64 + base)
    region.mbind(base, 64, bind(0))
    region.touch(base, 48)
    region.mbind(base, 64, Policy())
    calls = 0
    for call, where, moved, counts in recorded_moves(kernel):
        if " 6 m:7 " in call and kernel == "6.1":
            continue  # EINVAL there
        before, stat = migrated(sim), numastat(sim)
        asked(region, call, base)
        assert region.where(base, 64) == where, call
        calls += 1
        if call.startswith("migrate_pages"):
            continue  # there it moved what else the process had, too
        assert migrated(sim) - before == moved, call
        now = numastat(sim)
        for key, count in counts.items():
            files = count - (now[key] - stat[key])
            # on the node of the CPU the recorder read files
            assert 0 <= files <= (10 if key == (0, "numa_hit") else 0), (call, key)
    assert calls >= 16
    assert sim.check() == []


def test_a_page_that_is_elsewhere_refuses_a_strict_mbind() -> None:
    region = Region(Simulation(load("demo")), 10)
    region.mbind(0, 10, bind(0))
    region.touch(0, 5)
    before = region.home.digest()
    with pytest.raises(Precondition, match="EIO: 5 pages are on other nodes than bind:1"):
        region.mbind(0, 10, bind(1), strict=True)
    assert region.home.digest() == before
    region.mbind(5, 5, bind(1), strict=True)
    region.mbind(0, 10, Policy(), strict=True)


def test_parts_of_a_region_have_policies_of_their_own() -> None:
    region = Region(Simulation(load("demo")), 12)
    region.mbind(0, 4, bind(2))
    region.mbind(4, 4, Policy(PolicyMode.INTERLEAVE, (1, 2)))
    region.touch(0, 12)
    assert region.where(0, 12) == "222212120000"
    areas = region.home.regions[region.id].areas
    assert [first for first, _ in areas] == [0, 4, 8]
    region.mbind(0, 8, Policy())
    assert [first for first, _ in region.home.regions[region.id].areas] == [0]


def test_move_pages_says_what_becomes_of_each() -> None:
    region = Region(Simulation(dataclasses.replace(load("demo"), profile="linux-6.12")), 10)
    region.touch(0, 4)
    assert region.move([0, 1, 7, 99], [1, 2, 1, 0]) == ((1, 2, -ENOENT, -EFAULT), 0)
    assert region.move([0, 1], [0, 9]) == ((0,), ENODEV)
    assert region.where(0, 10) == "0200......"
    old = Region(Simulation(load("demo")), 10)
    assert old.move([3], None) == ((-EFAULT,), 0)


def test_bad_calls_are_refused_and_change_nothing() -> None:
    region = Region(Simulation(load("demo")), 10)
    region.touch(0, 10)
    before = region.home.digest()
    for call, field in (
        (lambda: region.migrate((0,), ()), "new_nodes"),
        (lambda: region.migrate((0,), (9,)), "new_nodes"),
        (lambda: region.migrate((0,), (5000,)), "new_nodes"),
        (lambda: region.mbind(8, 3, bind(1)), "first_page"),
        (lambda: region.mbind(0, 0, bind(1)), "first_page"),
        (lambda: region.move([0], [0, 1]), "pages"),
    ):
        with pytest.raises(InvalidRequest) as refused:
            call()
        assert refused.value.field == field
    assert region.home.digest() == before


@pytest.mark.parametrize("seed", range(3))
def test_whatever_happens_meanwhile(seed: int) -> None:
    """Faults, moves and mbind at once, over a network that jitters and repeats itself."""
    sim = Simulation(load("demo"), seed, Faults(jitter=3.0, duplicate=0.1))
    dice = random.Random(seed)
    kinds = (LRU_KIND_ANON, LRU_KIND_FILE)
    regions = [Region(sim, 600, kind) for kind in kinds]
    policies = (
        Policy(),
        bind(0),
        bind(1),
        Policy(PolicyMode.INTERLEAVE, (0, 1, 2)),
        Policy(PolicyMode.LOCAL),
    )
    for _ in range(12):
        tasks: list[Task[Any]] = []
        for r in regions:
            first, count = dice.randrange(300), dice.randrange(1, 300)
            mine = r.session, r.id
            pages = [dice.randrange(600) for _ in range(20)]
            nodes = [dice.randrange(3) for _ in pages]
            policy = dice.choice(policies)
            old, new = [dice.randrange(3)], [dice.randrange(3)]
            write = dice.random() < 0.5
            tasks += [
                sim.spawn(0, touch_region(r.home, *mine, first, count, write, 0)),
                sim.spawn(0, mbind(r.inbox, *mine, first, count, policy, 0, move=True)),
                sim.spawn(0, move(r.inbox, *mine, pages, nodes, 0)),
                sim.spawn(0, migrate(r.inbox, r.session, old, new, 0)),
            ]
            request = AllocRequest(r.session, int(GFP_KERNEL), 0, 200, 0, policy)
            tasks.append(sim.spawn(0, alloc_pages(r.home, request)))
        sim.run()
        for task in tasks:
            assert task.error is None or isinstance(task.error, AllocFailed | NotFound), task.error
        assert sim.check() == []
    assert migrated(sim) > 0
    for r in regions:
        sim.call(0, close_session(r.home, r.session))
    sim.run()
    assert sim.check() == []
    assert all(node.held_pages() == 0 for node in sim.nodes.values())
    for nid, node in sim.nodes.items():
        again = type(node).replay(sim.spec, nid, list(node.log), node.lineage)
        assert again.digest() == node.digest()
