"""Memory blocks and nodes go off-line and come back, as in a captured kernel, and every invariant holds."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import pytest
from groundtruth import GROUNDTRUTH
from node.page_tables import pfns_of

from numa_service.machine.captured_tree import Directory
from numa_service.machine.captured_zoneinfo import parse_zoneinfo
from numa_service.machine.source import load
from numa_service.machine.spec import MachineSpec
from numa_service.mm.gfp import GFP_HIGHUSER_MOVABLE, GFP_KERNEL
from numa_service.mm.memory_hotplug import MEMORY_BLOCK_PAGES
from numa_service.mm.page_alloc import LRU_KIND_ANON, LRU_KIND_FILE
from numa_service.node import ops
from numa_service.node.errors import Busy, InvalidRequest, NotFound
from numa_service.node.free_pages import free_pages
from numa_service.node.memory_hotplug import (
    change_memory_block,
    is_online,
    memory_blocks,
)
from numa_service.node.mempolicy import Policy, PolicyMode
from numa_service.node.node import Node
from numa_service.node.page_alloc import alloc_pages
from numa_service.node.pfns import unpack_pfns
from numa_service.node.prepare import AllocRequest
from numa_service.node.region import map_region, touch_region
from numa_service.node.struct_views import pgdat_view, zone_view
from numa_service.node.unserved import AllocFailed
from numa_service.sim.network import Faults
from numa_service.sim.simulation import Simulation

DEMO = load("demo")


def session_of(sim: Simulation, nid: int = 0) -> int:
    return sim.nodes[nid].apply(ops.OpenSession("test", 10**15, 0))


def bind(nid: int) -> Policy:
    return Policy(PolicyMode.BIND, (nid,))


def hold_one_in(sim: Simulation, session: int, nid: int, blocks: set[int]) -> None:
    """Hold an unmovable page in each of these memory blocks of a node."""
    home = sim.nodes[0]
    request = AllocRequest(session, GFP_KERNEL, 10, 1 << 10, 0, bind(nid), partial=True)
    got = sim.call(0, alloc_pages(home, request))
    keep = dict.fromkeys(blocks, 0)
    back = []
    for where, pfns in got.pages:
        assert where == nid
        for pfn in unpack_pfns(pfns).tolist():
            block = pfn // MEMORY_BLOCK_PAGES
            if keep.get(block) == 0:
                keep[block] = pfn
            else:
                back.append(pfn)
    assert all(keep.values()), keep
    pages = [(nid, b"".join(pfn.to_bytes(8, "little") for pfn in back))]
    sim.call(0, free_pages(home, session, 10, pages, 0))
    sim.run()


def fill_region(sim: Simulation, nid: int, kind: int, pages: int, policy: Policy, write: bool = True) -> int:
    """Map a region bound to node `nid` and fault in all of its pages."""
    node = sim.nodes[nid]
    session = session_of(sim, nid)
    region = map_region(node, session, kind, pages, policy)
    for first in range(0, pages, 4096):
        count = min(4096, pages - first)
        sim.call(nid, touch_region(node, session, region, first, count, write, node.pgdat.cpus[0]))
    return region


def replays(sim: Simulation) -> bool:
    """Return whether the log of every node leads a fresh node to the same state."""
    return all(
        Node.replay(sim.spec, nid, list(node.log)).digest() == node.digest()
        for nid, node in sim.nodes.items()
    )


# a captured kernel

CAPTURE = GROUNDTRUTH / "workloads" / "numa-2n-big" / "i-hotremove"
_LINE = re.compile(r"\s+(min|low|high|spanned|present|managed|start_pfn:|protection:|high:|batch:)\s+(.+)")


def captured_machine() -> MachineSpec:
    """Return numa-2n-big with the managed pages of the captured boot, as they differ from boot to boot."""
    spec = load(str(GROUNDTRUTH / "topologies" / "numa-2n-big"))
    managed = {(z.nid, z.name): z.managed for z in parse_zoneinfo(Directory(CAPTURE), "zoneinfo.txt")}
    nodes = tuple(
        dataclasses.replace(
            node,
            zones=tuple(
                dataclasses.replace(zone, managed=managed[node.nid, zone.name]) for zone in node.zones
            ),
        )
        for node in spec.nodes
    )
    return dataclasses.replace(spec, nodes=nodes)


def captured_zones(step: str) -> dict[tuple[int, str], dict[str, str]]:
    """Return the populated zones of a step's zoneinfo: sizes, marks, protection, the first CPU's pageset."""
    found: dict[tuple[int, str], dict[str, str]] = {}
    zone: dict[str, str] = {}
    for line in (CAPTURE / step / "zoneinfo.txt").read_text().splitlines():
        header = re.fullmatch(r"Node (\d+), zone +(\w+)", line)
        if header:
            zone = found[int(header[1]), header[2]] = {}
        field = _LINE.fullmatch(line)
        if field:
            # the pageset's `high:` has a colon, the watermark's has none
            zone.setdefault(field[1], field[2])
    return {key: zone for key, zone in found.items() if zone["present"] != "0"}


def own_zones(sim: Simulation) -> dict[tuple[int, str], dict[str, str]]:
    """Return the same of the simulated machine."""
    return {
        (zone.nid, zone.name): {
            "min": str(zone.wmark_min),
            "low": str(zone.wmark_low),
            "high": str(zone.wmark_high),
            "spanned": str(zone.spanned),
            "present": str(zone.present),
            "managed": str(zone.managed),
            "protection:": f"({', '.join(map(str, zone.protection))})",
            "high:": str(zone.pagesets[0].high),
            "batch:": str(zone.pagesets[0].batch),
            "start_pfn:": str(zone.start_pfn),
        }
        for node in sim.nodes.values()
        for zone in node.pgdat.snapshot().zones
        if zone.present
    }


def write_blocks(sim: Simulation, kind: str) -> list[dict[str, Any]]:
    """Repeat a round of the capture's writes, and compare the outcome of each."""
    results = []
    for write in json.loads((CAPTURE / "blocks.json").read_text()):
        if write["type"] == kind:
            error = ""
            try:
                sim.change_memory_block(int(write["block"].removeprefix("memory")), write["action"])
            except (Busy, InvalidRequest) as refused:
                error = str(refused)
            results.append(write | {"here": error})
    return results


def test_a_captured_kernel_took_the_same_blocks_off_line_and_computed_the_same_numbers() -> None:
    sim = Simulation(captured_machine())
    session = session_of(sim)
    # these blocks have reserved pages and slab, according to the kernel's log
    hold_one_in(sim, session, 1, {40, 55, 56})
    hold_one_in(sim, session, 0, {32})
    machine = sim.nodes[0].machine
    min_free_kbytes = machine.sysctls.min_free_kbytes
    rounds = {
        "offline-node1": "i1-node1-offlined",
        "online-movable": "i2-online-movable",
        "offline-again": "i3-offline-again",
        "online-kernel": "i4-online-kernel",
        "offline-node0": "i5-node0-offlined",
    }
    for kind, step in rounds.items():
        for write in write_blocks(sim, kind):
            told = write["error"].strip()
            assert ("EBUSY" in write["here"], "EINVAL" in write["here"]) == (
                "busy" in told,
                "Invalid" in told,
            ), write
        assert own_zones(sim) == captured_zones(step), step
        assert machine.sysctls.min_free_kbytes == min_free_kbytes == 90112
    built = [text for _, text in machine.dmesg if text.startswith("Built ")]
    log = (CAPTURE / "dmesg-end.txt").read_text()
    assert built[1:] == [f"Built {line}" for line in re.findall(r"Built (.*)", log)[1:]]
    assert sim.check() == []


# blocks


def node2_blocks(sim: Simulation) -> tuple[int, ...]:
    return memory_blocks(sim.nodes[2])


def test_an_empty_block_goes_and_comes_back_to_movable() -> None:
    sim = Simulation(DEMO)
    node, far = sim.nodes[2], sim.nodes[0]
    block = node2_blocks(sim)[1]
    before = far.machine.sysctls.min_free_kbytes or 0
    zones = {z.name: z for z in node.pgdat.snapshot().zones}
    sim.change_memory_block(block, "offline")
    assert not is_online(node, block)
    smaller = {z.name: z for z in node.pgdat.snapshot().zones}
    assert smaller["DMA32"].managed == zones["DMA32"].managed - MEMORY_BLOCK_PAGES
    assert smaller["DMA32"].spanned == zones["DMA32"].spanned  # it lay in the middle
    # min_free_kbytes is 5 % of this machine's memory; it is distributed among the remaining zones
    assert far.machine.sysctls.min_free_kbytes == node.machine.sysctls.min_free_kbytes
    assert (far.machine.sysctls.min_free_kbytes or 0) < before * 0.9
    assert far.pgdat.pg.watermark[1, 0] == far.machine.watermarks[0, "DMA32"].min
    sim.change_memory_block(block, "online_movable")
    movable = {z.name: z for z in node.pgdat.snapshot().zones}["Movable"]
    assert (movable.managed, movable.start_pfn) == (MEMORY_BLOCK_PAGES, block * MEMORY_BLOCK_PAGES)
    assert [ref for ref in far.machine.zonelists[0].fallback if ref.zone == 3] == [(2, 3)]
    session = session_of(sim)
    got = sim.call(0, alloc_pages(far, AllocRequest(session, GFP_HIGHUSER_MOVABLE, 0, 100, 0, bind(2))))
    assert all(pfn // MEMORY_BLOCK_PAGES == block for pfn in unpack_pfns(got.pages[0][1]).tolist())
    # the block's zone lies within the span of the other zone
    assert sim.check() == []
    sim.call(0, free_pages(far, session, 0, got.pages, 0))
    sim.change_memory_block(block, "offline")
    sim.change_memory_block(block, "online")
    back = {z.name: z for z in node.pgdat.snapshot().zones}
    assert back["DMA32"].managed == zones["DMA32"].managed
    assert back["Movable"].present == 0
    assert sim.check() == []
    assert replays(sim)


def test_a_page_held_by_hand_keeps_its_block_and_nothing_changes() -> None:
    sim = Simulation(DEMO)
    block = node2_blocks(sim)[2]
    hold_one_in(sim, session_of(sim), 2, {block})
    digest, log = sim.nodes[2].digest(), sim.nodes[2].log_length
    with pytest.raises(Busy, match=r"EBUSY: page 0x[0-9a-f]+ of node 2 is held by hand"):
        sim.change_memory_block(block, "offline")
    assert (sim.nodes[2].digest(), sim.nodes[2].log_length) == (digest, log)


@pytest.mark.parametrize(
    ("block", "state", "why"),
    [
        (0, "offline", "hole"),
        (5, "online", "on-line"),
        (5, "gone", "is not online"),
    ],
)
def test_what_may_not_be_written(block: int, state: str, why: str) -> None:
    sim = Simulation(DEMO)
    digests = [node.digest() for node in sim.nodes.values()]
    with pytest.raises(InvalidRequest, match=why):
        sim.change_memory_block(block, state)
    assert [node.digest() for node in sim.nodes.values()] == digests


def test_a_block_that_no_node_has() -> None:
    sim = Simulation(DEMO)
    with pytest.raises(NotFound, match="memory999"):
        sim.change_memory_block(999, "offline")
    with pytest.raises(NotFound, match="node 0 has none of it"):
        sim.call(0, change_memory_block(sim.nodes[0], 5, "offline"))


def test_3_0_knows_neither_movable_nor_kernel() -> None:
    sim = Simulation(dataclasses.replace(DEMO, profile="linux-3.0"))
    block = node2_blocks(sim)[1]
    sim.change_memory_block(block, "offline")
    with pytest.raises(InvalidRequest, match="knows no online_movable"):
        sim.change_memory_block(block, "online_movable")
    sim.change_memory_block(block, "online")
    assert sim.check() == []
    assert replays(sim)


@pytest.mark.parametrize("kind", [LRU_KIND_ANON, LRU_KIND_FILE])
@pytest.mark.parametrize("jitter", [0.0, 2.0])
def test_pages_of_regions_move_to_other_nodes_and_are_found_there(kind: int, jitter: float) -> None:
    sim = Simulation(DEMO, seed=5, faults=Faults(jitter=jitter, duplicate=jitter / 10))
    # the home of one region is the node that goes off-line, that of the other is a third node
    regions = {2: None, 0: fill_region(sim, 0, kind, 60_000, bind(2))}
    home = sim.nodes[0]
    before = pfns_of(sim.nodes, 0, regions[0] or 0)
    blocks = [b for b in node2_blocks(sim) if (before // MEMORY_BLOCK_PAGES == b).any()]
    gone = blocks[0]
    sim.change_memory_block(gone, "offline")
    region = home.regions[regions[0] or 0]
    assert not (pfns_of(sim.nodes, 0, region.id) // MEMORY_BLOCK_PAGES == gone).any()
    moved = before // MEMORY_BLOCK_PAGES == gone
    assert set(region.nids[moved].tolist()) <= {1, 2}
    assert sim.nodes[2].pgdat.snapshot().vm_event["pgmigrate_success"] == int(moved.sum())
    touched = sim.call(0, touch_region(home, region.session, region.id, 0, 60_000, False, home.pgdat.cpus[0]))
    assert (touched.hits, touched.faults) == (60_000, 0)
    sim.run()
    assert sim.check() == []
    assert replays(sim)


def test_a_block_whose_pages_find_no_room_stays() -> None:
    sim = Simulation(DEMO)
    session = session_of(sim)
    for nid in (0, 1):
        request = AllocRequest(session, GFP_KERNEL, 0, 1 << 16, 0, bind(nid), partial=True)
        got = 1
        while got:
            task = sim.spawn(0, alloc_pages(sim.nodes[0], request))
            sim.run()
            got = 0 if isinstance(task.error, AllocFailed) else task.result.got
    region = fill_region(sim, 0, LRU_KIND_ANON, 60_000, bind(2))
    pfns = pfns_of(sim.nodes, 0, region)
    block = next(b for b in node2_blocks(sim)[:3] if (pfns // MEMORY_BLOCK_PAGES == b).any())
    swap = sum(node.swap_used for node in sim.nodes.values())
    with pytest.raises(Busy, match="EBUSY"):
        sim.change_memory_block(block, "offline")
    assert is_online(sim.nodes[2], block)
    assert sum(node.swap_used for node in sim.nodes.values()) == swap
    sim.run()
    assert sim.check() == []


def far_memory() -> MachineSpec:
    """Return cxl-tier with a node of which boot reserves nothing, like memory that is plugged in later."""
    spec = load("cxl-tier")
    nodes = tuple(
        dataclasses.replace(node, zones=tuple(dataclasses.replace(z, managed=z.present) for z in node.zones))
        if node.nid == 2
        else node
        for node in spec.nodes
    )
    return dataclasses.replace(spec, nodes=nodes)


def test_a_node_without_cpus_goes_with_its_memory_and_comes_back() -> None:
    sim = Simulation(far_memory())
    node, home = sim.nodes[2], sim.nodes[0]
    region = home.regions[fill_region(sim, 0, LRU_KIND_FILE, 20_000, bind(2), write=False)]
    before = home.machine.zonelists[0].node_order
    assert before == (0, 2, 1, 3)
    assert sim.offline_node(2) == {}
    assert not (region.nids == 3).any()
    for other in sim.nodes.values():
        assert sorted(other.machine.zonelists) == [0, 1, 3]
        assert other.machine.zonelists[0].node_order == (0, 1, 3)
        assert sorted(other.machine.populated) == [0, 1, 3]
    assert not node.pgdat.wakeup_kswapd(0, 2)
    session = session_of(sim)
    # a policy that prefers the node is served by the others
    request = AllocRequest(session, GFP_KERNEL, 0, 5, 0, Policy(PolicyMode.PREFERRED, (2,)), explain=True)
    assert [nid for nid, _ in sim.call(0, alloc_pages(home, request)).pages] == [0]
    assert pgdat_view(node).node_zonelists == {"fallback": (), "thisnode": ()}
    assert sim.check() == []
    sim.change_memory_block(memory_blocks(node)[3], "online")
    # unlike at boot, CPUs are on-line now: at equal distance, a node without CPUs comes first
    assert set(home.machine.zonelists[0].node_order) == {0, 1, 2, 3}
    assert home.machine.managed[2, "Normal"] == MEMORY_BLOCK_PAGES
    got = sim.call(0, alloc_pages(home, request._replace(policy=bind(2))))
    assert [nid for nid, _ in got.pages] == [2]
    assert sim.check() == []
    assert replays(sim)


def test_a_node_that_boots_anew_has_all_of_its_memory_and_hears_of_the_others() -> None:
    sim = Simulation(DEMO)
    booted = sim.nodes[0].machine.managed
    block = node2_blocks(sim)[1]
    sim.change_memory_block(block, "offline")
    # node 2 reboots: it has all its memory again, and the others hear of it
    sim.crash(2)
    sim.restart(2)
    sim.run()
    for node in sim.nodes.values():
        assert node.machine.managed == booted
        assert node.machine.watermarks == sim.nodes[2].machine.watermarks
    sim.change_memory_block(block, "offline")
    # node 0 reboots: it knows before it serves which memory of node 2 is off-line
    sim.crash(0)
    node = sim.restart(0).node
    assert node.machine.managed == sim.nodes[2].machine.managed != booted
    assert node.machine.watermarks == sim.nodes[1].machine.watermarks


@pytest.mark.parametrize("seed", range(3))
def test_whatever_messages_are_lost_every_node_hears_of_the_last_change(seed: int) -> None:
    """One of them is down while most of it happens."""
    sim = Simulation(DEMO, seed, Faults(lose=0.4, duplicate=0.2, jitter=3.0))
    first, second = node2_blocks(sim)[1:3]
    sim.change_memory_block(first, "offline")
    sim.crash(0)
    sim.change_memory_block(second, "offline")
    sim.keeper.write_sysctl("vm.min_free_kbytes", "90000")
    sim.change_memory_block(first, "online")
    sim.restart(0)
    while sim.keeper.is_telling():
        sim.next()
    known = [
        (machine.sysctls.min_free_kbytes, machine.managed, machine.populated, machine.watermarks)
        for machine in (node.machine for node in sim.nodes.values())
    ]
    assert known[0] == known[1] == known[2]
    there = {block: is_online(sim.nodes[2], block) for block in (first, second)}
    assert there == {first: True, second: False}
    assert sim.check() == []


def test_notified_twice_nothing_more_changes() -> None:
    sim = Simulation(DEMO)
    sim.change_memory_block(node2_blocks(sim)[1], "offline")
    node = sim.nodes[0]
    [notified] = [op for op in node.log if isinstance(op, ops.MemoryNotify)]
    digest = node.digest()
    node.apply(notified)
    assert node.digest() == digest


@pytest.mark.parametrize(
    ("profile", "online", "offline"),
    [
        ("linux-3.0", (0, 0), (0, 0)),
        ("linux-3.16", (1, 0), (1, 0)),
        ("linux-4.18", (2, 2), (1, 0)),
        ("linux-5.10", (2, 2), (2, 2)),
        ("linux-6.1", (0, 0), (0, 0)),
    ],
    ids=["3.0", "3.16", "4.18", "5.10", "6.1"],
)
def test_locks_are_taken_as_often_as_by_the_kernel(
    profile: str, online: tuple[int, int], offline: tuple[int, int]
) -> None:
    """(times of node_size_lock, by how much the sequence of span_seqlock rises) of each change."""
    sim = Simulation(dataclasses.replace(DEMO, profile=profile))
    node = sim.nodes[2]
    zone = max(node.pgdat.extents, key=lambda extent: extent.managed).name

    def locks() -> tuple[int, int]:
        return (
            pgdat_view(node).node_size_lock["taken"],
            zone_view(node, zone).span_seqlock["sequence"],
        )

    assert locks() == (0, 0)
    block = 5  # wholly RAM
    sim.change_memory_block(block, "offline")
    assert locks() == offline
    sim.change_memory_block(block, "online")
    assert locks() == (offline[0] + online[0], offline[1] + online[1])
    with pytest.raises(InvalidRequest):
        sim.change_memory_block(block, "online")
    assert locks() == (offline[0] + online[0], offline[1] + online[1])
    copy = Node.boot(sim.spec, 2)
    copy.restore(node.snapshot())
    assert pgdat_view(copy).node_size_lock == pgdat_view(node).node_size_lock
