"""--fill with a zone, an order, a type, and scattered free pages."""

from __future__ import annotations

import pytest
import typer

from numa_service.cli.fill import Fill, fill
from numa_service.machine.presets import load_preset
from numa_service.mm.mmzone import MIGRATE_UNMOVABLE
from numa_service.sim.simulation import Simulation

DEMO = load_preset("demo")


def filled(text: str) -> tuple[Simulation, dict[str, list[int]]]:
    """The machine, and the free blocks of node 0 by zone."""
    sim = Simulation(DEMO)
    wanted = Fill.parse(text, DEMO)
    # scattering may hold a page more at either end
    assert 0 <= fill(sim, wanted) - wanted.pages <= (2 if wanted.scatter else 0)
    assert sim.check() == []
    pgdat = sim.nodes[0].pgdat
    return sim, {
        name: list(map(int, row)) for name, row in zip(pgdat.zone_names, pgdat.pg.nr_free, strict=False)
    }


def free(blocks: list[int]) -> int:
    return sum(count << order for order, count in enumerate(blocks))


def test_a_zone_is_all_that_changes() -> None:
    _, before = filled("0=0")
    _, after = filled("0/DMA=1000:order=2")
    assert free(before["DMA"]) - free(after["DMA"]) == 1000
    assert after["DMA32"] == before["DMA32"]


def test_blocks_of_an_order_and_a_type() -> None:
    sim, after = filled("0/DMA32=8000:order=3:type=unmovable")
    assert free(after["DMA32"]) % 8 == free(filled("0=0")[1]["DMA32"]) % 8
    pg = sim.nodes[0].pgdat.pg
    assert int((pg.pb_migratetype == MIGRATE_UNMOVABLE).sum()) > 0


def test_free_pages_are_scattered() -> None:
    """Half of what stays free are single pages, as their buddies are held."""
    _, before = filled("0=0")
    pages = free(before["DMA32"]) // 2
    _, after = filled(f"0/DMA32={pages}:scatter=50%")
    stays = free(after["DMA32"])
    assert abs(stays - free(before["DMA32"]) + pages) <= 2
    assert abs(after["DMA32"][0] - stays // 2) <= 2


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("0/Normal=1", "node 0 has the zones DMA, DMA32"),
        ("0/DMA=999999", "node 0 DMA has 3998 pages"),
        ("0=1:order=11", "orders are 0 to 10"),
        ("0=1:scatter=101%", "at most 100"),
        ("0=1:anon:order=0", "of pages that are held"),
        ("0=1:type=purple", "is not NODE=PAGES"),
    ],
)
def test_what_is_wrong_is_said(text: str, reason: str) -> None:
    with pytest.raises(typer.BadParameter, match=reason):
        Fill.parse(text, DEMO)
