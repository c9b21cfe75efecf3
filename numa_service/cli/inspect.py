"""``inspect``: prints pg_data_t, a zone, page or section of a machine, or high memory, field by field."""

from __future__ import annotations

import dataclasses
import json
from enum import StrEnum
from typing import Annotated, Any

import numa_client
import typer
from numa_client import Machine, NumaError
from rich.console import Console
from rich.table import Table

from numa_service.cli.fill import Fill, fill
from numa_service.cli.source import load
from numa_service.cluster import lifecycle
from numa_service.cluster.errors import ClusterError
from numa_service.mm.structs import HighMemory, MemSection, Page, PgListData, Zone, stands_for
from numa_service.node.errors import NodeError, NotFound
from numa_service.node.node import Node
from numa_service.node.struct_views import highmem_view, page_view, pgdat_view, section_view, zone_view
from numa_service.sim.simulation import Simulation


class What(StrEnum):
    """The structures that can be printed."""

    pgdat = "pgdat"
    zone = "zone"
    page = "page"
    section = "section"
    highmem = "highmem"


_VIEWS = {
    What.pgdat: PgListData,
    What.zone: Zone,
    What.page: Page,
    What.section: MemSection,
    What.highmem: HighMemory,
}

_WHICH = {
    What.pgdat: "NID",
    What.zone: "NID ZONE",
    What.page: "PFN",
    What.section: "NUMBER",
    What.highmem: "NID",
}

#: Fields, and keys in fields, that are addresses.
_ADDRESSES = {"virtual", "address", "mem_map", "section_mem_map", "pkmap_base"}


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("inspect")(inspect)


def inspect(
    what: Annotated[What, typer.Argument(help="The structure to print.")],
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[SOURCE] NID | NID ZONE | PFN | NUMBER",
            help="A preset, a machine file, or what `import` reads, if there is no --name; then which pgdat, "
            "zone, page, section or node's high memory.",
        ),
    ],
    name: Annotated[
        str | None, typer.Option("--name", metavar="MACHINE", help="Inspect a machine that is up.")
    ] = None,
    fills: Annotated[
        list[str] | None,
        typer.Option(
            "--fill",
            metavar="NODE=PAGES|N%[:KIND]",
            help="First take pages of a node: held (default), anon or file. May be repeated; order counts. "
            "Only with SOURCE.",
        ),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            envvar="NUMA_SERVICE_ADDRESS",
            help="With --name: address of the Ray head node.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the values as JSON.")] = False,
) -> None:
    """Print every field of pg_data_t, struct zone, struct page or struct mem_section, and what it stands for.

    Or of the high memory of a 32-bit machine: the pool of kmap and its hash.
    """
    source, which = (None, words) if name else (words[0], words[1:])
    if len(which) != len(_WHICH[what].split()):
        raise typer.BadParameter(f"{what} takes {'' if name else 'SOURCE '}{_WHICH[what]}")
    if name and fills:
        raise typer.BadParameter("--fill changes a machine: only with SOURCE")
    number = _number(which[0])
    try:
        if name:
            values = _look_there(name, address, what, number, which)
        else:
            assert source is not None
            spec = load(source)
            wanted = [Fill.parse(text, spec) for text in fills or []]
            sim = Simulation(spec)
            for one in wanted:
                fill(sim, one)
            values = dataclasses.asdict(_look_here(sim.nodes, what, number, which))
    except (NumaError, NodeError, ClusterError) as error:
        typer.echo(f"numa-service: {error}", err=True)
        raise typer.Exit(1) from None
    if as_json:
        typer.echo(json.dumps(values, indent=1))
        return
    _print(values, stands_for(_VIEWS[what]))


def _look_here(nodes: dict[int, Node], what: What, number: int, which: list[str]) -> Any:
    """The structure in a machine booted here. NotFound when there is no such node, zone, page or section."""
    if what in (What.page, What.section):
        view = page_view if what is What.page else section_view
        refused: NotFound | None = None
        for node in nodes.values():
            try:
                return view(node, number)
            except NotFound as error:
                refused = error
        raise _nowhere(what, number, len(nodes), refused)
    if number not in nodes:
        raise NotFound("node", which[0], f"there are {', '.join(map(str, nodes))}")
    node = nodes[number]
    match what:
        case What.zone:
            return zone_view(node, which[1])
        case What.highmem:
            return highmem_view(node)
    return pgdat_view(node)


def _nowhere(what: What, number: int, nodes: int, refused: Exception | None) -> Exception:
    """The error for a page or section that no node has; the only node's own error says why."""
    if nodes == 1 and refused is not None:
        return refused
    return NotFound(what, f"{number:#x}" if what is What.page else str(number), "no node has it")


def _look_there(name: str, address: str | None, what: What, number: int, which: list[str]) -> dict[str, Any]:
    """The fields of the structure in a machine that is up. NotFound when no node has the page or section."""
    [running] = lifecycle.status(name, address)
    with Machine.connect(running.address) as machine:
        if what in (What.page, What.section):
            pfn, section = (number, None) if what is What.page else (None, number)
            refused: numa_client.NotFound | None = None
            for node in machine.info.nodes:
                try:
                    return machine.inspect(node.node, pfn=pfn, section=section)
                except numa_client.NotFound as error:
                    refused = error
            raise _nowhere(what, number, len(machine.info.nodes), refused)
        return machine.inspect(
            number, zone=which[1] if what is What.zone else None, highmem=what is What.highmem
        )


def _number(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number") from None


def _print(values: dict[str, Any], meaning: dict[str, str]) -> None:
    console = Console()
    if not console.is_terminal:
        console.width = 160
    table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    table.add_column("field", no_wrap=True)
    table.add_column("value", overflow="fold", max_width=70)
    table.add_column("stands for", style="dim", overflow="fold")
    for name, value in values.items():
        table.add_row(name, _text(value, name), meaning[name])
    console.print(table, highlight=False)


def _text(value: Any, name: str = "") -> str:
    """A value as text; a dict has a line for each entry, and an address is hexadecimal."""
    if name in _ADDRESSES and value is not None:
        return f"{value:#x}"
    if value is None:
        return "–"
    if isinstance(value, dict):
        return "\n".join(f"{key}: {_text(item, key)}" for key, item in value.items()) or "–"
    if isinstance(value, list | tuple):
        return " ".join(_text(item) for item in value) or "–"
    return str(value)
