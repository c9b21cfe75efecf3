"""``inspect``: pg_data_t, struct zone and struct page, field by field."""

from __future__ import annotations

import contextlib
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
from numa_service.cluster import machine as machines
from numa_service.cluster.errors import ClusterError
from numa_service.mm.structs import Page, PgListData, Zone, stands_for
from numa_service.node.errors import NodeError, NotFound
from numa_service.node.inspect import page_view, pgdat_view, zone_view
from numa_service.node.node import Node
from numa_service.sim.simulation import Simulation


class What(StrEnum):
    """The structures."""

    pgdat = "pgdat"
    zone = "zone"
    page = "page"


_VIEWS = {What.pgdat: PgListData, What.zone: Zone, What.page: Page}

_WHICH = {What.pgdat: "NID", What.zone: "NID ZONE", What.page: "PFN"}


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("inspect")(inspect)


def inspect(
    what: Annotated[What, typer.Argument(help="Which structure.")],
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[SOURCE] NID | NID ZONE | PFN",
            help="A preset, a machine file, or what `import` reads, if there is no --name; then which pgdat, "
            "zone or page.",
        ),
    ],
    name: Annotated[
        str | None, typer.Option("--name", metavar="MACHINE", help="Look at a machine that is up.")
    ] = None,
    fills: Annotated[
        list[str] | None,
        typer.Option(
            "--fill",
            metavar="NODE=PAGES|N%[:KIND]",
            help="Before that, take pages of a node: held (default), anon or file. Repeat; order counts. "
            "Only with SOURCE.",
        ),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT", envvar="NUMA_SERVICE_ADDRESS", help="With --name: the head of its Ray."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Values only, machine-readable.")] = False,
) -> None:
    """Print every field of pg_data_t, struct zone or struct page, and what it stands for."""
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


def _look_here(nodes: dict[int, Node], what: What, number: int, which: list[str]) -> PgListData | Zone | Page:
    """The view asked for; NotFound when there is no such node, zone or page."""
    if what is What.page:
        for node in nodes.values():
            with contextlib.suppress(NotFound):
                return page_view(node, number)
        raise NotFound("page", f"{number:#x}", "no node has it")
    if number not in nodes:
        raise NotFound("node", which[0], f"there are {', '.join(map(str, nodes))}")
    return pgdat_view(nodes[number]) if what is What.pgdat else zone_view(nodes[number], which[1])


def _look_there(name: str, address: str | None, what: What, number: int, which: list[str]) -> dict[str, Any]:
    """The same of a machine that is up, as its nodes answer."""
    [running] = machines.status(name, address)
    with Machine.connect(running.address) as machine:
        if what is What.page:
            for node in machine.info.nodes:
                with contextlib.suppress(numa_client.NotFound):
                    return machine.inspect(node.node, pfn=number)
            raise NotFound("page", f"{number:#x}", "no node has it")
        return machine.inspect(number, zone=which[1] if what is What.zone else None)


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
