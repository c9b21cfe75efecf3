"""occupy(): a node as full and as fragmented as a source says."""

from __future__ import annotations

from pathlib import Path

from numa_service.machine.formats.mem_info_machine import read_mem_info
from numa_service.machine.occupancy import FreeBlocks, ZoneOccupancy
from numa_service.machine.presets import load_preset
from numa_service.mm.mmzone import MIGRATE_MOVABLE, MIGRATE_UNMOVABLE, NR_ORDERS
from numa_service.mm.vmstat import NR_FREE_PAGES
from numa_service.node.occupy import occupy
from numa_service.sim.simulation import Simulation

REPORTS = Path(__file__).parents[1] / "testdata" / "mem_info"


def free_blocks(sim: Simulation, nid: int, zone: str) -> list[int]:
    pgdat = sim.nodes[nid].pgdat
    return [int(blocks) for blocks in pgdat.pg.nr_free[pgdat.zone_names.index(zone)]]


def test_free_blocks_are_those_of_the_report() -> None:
    spec = read_mem_info((REPORTS / "bound.txt").read_text(), "log", "db7")
    sim = Simulation(spec)
    assert [note for node in sim.nodes.values() for note in occupy(node, spec.occupancy)] == []
    assert sim.check() == []
    assert free_blocks(sim, 1, "Normal") == [1000, 500, 500, 250, 0, 0, 0, 0, 0, 0, 0]
    # `free` has 672 pages more than the list of node 0: they are single ones
    assert free_blocks(sim, 0, "Normal") == [8 + 672, 4, 4, 4, 2, 2, 1, 2, 2, 2, 388]
    assert all(
        int(sim.nodes[zone.nid].pgdat.pg.vm_stat[2, NR_FREE_PAGES]) == zone.free for zone in spec.occupancy
    )


def test_what_is_held_has_owners_with_names() -> None:
    spec = read_mem_info((REPORTS / "bound.txt").read_text(), "log", "db7")
    sim = Simulation(spec)
    node = sim.nodes[1]
    occupy(node, spec.occupancy)
    held = {
        session.name: int(node.pgdat.pg.owner_pages[node.slots[node.owner(number)]])
        for number, session in node.sessions.items()
    }
    assert held == {
        "anonymous memory": 470075,
        "page cache": 12,
        "slab and everything else": 500000 - 6000 - 470075 - 12,
    }


def test_lists_of_several_types_and_more_than_free() -> None:
    sim = Simulation(load_preset("demo"))
    (node, *_) = sim.nodes.values()
    blocks = (
        FreeBlocks(0, MIGRATE_MOVABLE, 40),
        FreeBlocks(3, MIGRATE_UNMOVABLE, 100),
        FreeBlocks(3, MIGRATE_MOVABLE, 7),
        FreeBlocks(5, MIGRATE_UNMOVABLE, 9),
    )
    listed = sum(block.count << block.order for block in blocks)
    wanted = ZoneOccupancy(node.nid, "DMA32", listed - 43, blocks)
    assert occupy(node, (wanted,)) == []
    assert sim.check() == []
    # 40 pages and one block of 8 are left out, of which 5 pages come back
    assert free_blocks(sim, node.nid, "DMA32")[:6] == [5, 0, 0, 106, 0, 9]


def test_what_does_not_fit_is_said() -> None:
    sim = Simulation(load_preset("demo"))
    (node, *_) = sim.nodes.values()
    zone = node.pgdat.zone_names.index("DMA32")
    pages = int(node.pgdat.pg.managed[zone])
    wanted = ZoneOccupancy(node.nid, "DMA32", pages, (FreeBlocks(0, MIGRATE_MOVABLE, pages),))
    (note,) = occupy(node, (wanted,))
    assert "pages of its free blocks do not fit" in note
    # no two buddies are free: at most every second page is
    assert free_blocks(sim, node.nid, "DMA32")[1:] == [0] * (NR_ORDERS - 1)
    assert sim.check() == []
