"""``inspect``: pg_data_t, struct zone and struct page, field by field."""

from __future__ import annotations

import dataclasses
import json
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from numa_service.cli.fill import Fill, fill
from numa_service.machine.source import load
from numa_service.mm.structs import stands_for
from numa_service.node.errors import NodeError, NotFound
from numa_service.node.inspect import page_view, pgdat_view, zone_view
from numa_service.node.node import Node
from numa_service.sim.simulation import Simulation


class What(StrEnum):
    """The structures."""

    pgdat = "pgdat"
    zone = "zone"
    page = "page"


_ARGUMENTS = {What.pgdat: "NID", What.zone: "NID ZONE", What.page: "PFN"}


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("inspect")(inspect)


def inspect(
    source: Annotated[str, typer.Argument(help="A preset, a machine file, or a capture directory.")],
    what: Annotated[What, typer.Argument(help="Which structure.")],
    which: Annotated[
        list[str], typer.Argument(metavar="NID | NID ZONE | PFN", help="Of a pgdat, a zone, a page.")
    ],
    fills: Annotated[
        list[str] | None,
        typer.Option(
            "--fill",
            metavar="NODE=PAGES|N%[:KIND]",
            help="Before that, take pages of a node: held (default), anon or file. Repeat; order counts.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Values only, machine-readable.")] = False,
) -> None:
    """Boot a machine in this process and print every field of one structure, and what it stands for."""
    if len(which) != len(_ARGUMENTS[what].split()):
        raise typer.BadParameter(f"{what} takes {_ARGUMENTS[what]}")
    spec = load(source)
    wanted = [Fill.parse(text, spec) for text in fills or []]
    sim = Simulation(spec)
    for one in wanted:
        fill(sim, one)
    try:
        view = look(sim.nodes, what, which)
    except NodeError as error:
        typer.echo(f"numa-service: {error}", err=True)
        raise typer.Exit(1) from None
    values = dataclasses.asdict(view)
    if as_json:
        typer.echo(json.dumps(values, indent=1))
        return
    _print(values, stands_for(view))


def look(nodes: dict[int, Node], what: What, which: list[str]) -> Any:
    """The view asked for; NotFound when there is no such node, zone or page."""
    number = _number(which[0])
    if what is What.page:
        for node in nodes.values():
            try:
                return page_view(node, number)
            except NotFound:
                continue
        raise NotFound("page", f"{number:#x}", "no node has it")
    if number not in nodes:
        raise NotFound("node", which[0], f"there are {', '.join(map(str, nodes))}")
    return pgdat_view(nodes[number]) if what is What.pgdat else zone_view(nodes[number], which[1])


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
        table.add_row(name, _text(value), meaning[name])
    console.print(table, highlight=False)


def _text(value: Any) -> str:
    """A value on as many lines as it has entries."""
    if value is None:
        return "–"
    if isinstance(value, dict):
        return "\n".join(f"{key}: {_text(item)}" for key, item in value.items()) or "–"
    if isinstance(value, list | tuple):
        return " ".join(_text(item) for item in value) or "–"
    return str(value)
