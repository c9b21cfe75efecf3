"""``latency``: prints a machine's latency model, and measures in a sweep whether requests follow it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from numa_service.cli.compile import compile_first
from numa_service.cli.source import load
from numa_service.machine.latency import LatencyModel, queueing_ns
from numa_service.machine.spec import MachineSpec
from numa_service.sim.loaded_latency import Idle, Point, kinds, paths, sweep


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("latency")(latency)


def latency(
    source: Annotated[str, typer.Argument(help="A preset, a machine file, or what `import` reads.")],
    measure: Annotated[
        bool, typer.Option("--sweep", help="Measure the latency under rising load, in a simulation.")
    ] = False,
    every: Annotated[
        bool, typer.Option("--all", help="With --sweep: measure every path, not one of each kind.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print idle latency and bandwidth of every pair of nodes; with --sweep, latency under load.

    The sweep is made of requests like those of a client, in this process: it tests that the load which they
    cause leads to the latency that the machine's curves have for it.
    """
    if every and not measure:
        raise typer.BadParameter("--all says what to --sweep", param_hint="--all")
    spec = load(source)
    chosen = [idle for idle in (paths(spec) if every else kinds(spec)) if measure and idle.mb_per_s]
    if chosen:
        compile_first()
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "paths": [asdict(idle) for idle in paths(spec)],
                    "sweeps": [
                        asdict(point) | {"curve_ns": expected_ns(spec.latency, idle, point.mb_per_s)}
                        for idle in chosen
                        for point in sweep(spec, idle.path)
                    ],
                },
                indent=1,
            )
        )
        return
    console = Console()
    console.print(_idle_table(spec))
    for idle in chosen:
        console.print(_sweep_table(spec, idle))


def expected_ns(model: LatencyModel, idle: Idle, mb_per_s: float) -> float:
    """The latency in ns that the curves of a path give for a rate."""
    expected: float = idle.read_ns
    if idle.memory_mb_per_s:
        expected += queueing_ns(model.curve(idle.memory_curve), mb_per_s / idle.memory_mb_per_s)
    if idle.link_mb_per_s:
        expected += queueing_ns(model.curve(idle.link_curve), mb_per_s / idle.link_mb_per_s)
    return expected


def _idle_table(spec: MachineSpec) -> Table:
    table = Table(
        *("CPU → memory", "read ns", "write ns", "memory MB/s", "its curve", "link MB/s", "its curve")
    )
    for idle in paths(spec):
        link = (_rate(idle.link_mb_per_s), idle.link_curve if idle.link_mb_per_s else "")
        memory = (_rate(idle.memory_mb_per_s), idle.memory_curve if idle.memory_mb_per_s else "")
        table.add_row(str(idle.path), f"{idle.read_ns}", f"{idle.write_ns}", *memory, *link)
    return table


def _rate(mb_per_s: int) -> str:
    return f"{mb_per_s:,}" if mb_per_s else "no limit"


def _sweep_table(spec: MachineSpec, idle: Idle) -> Table:
    columns = ("offered MB/s", "MB/s", "of the bandwidth", "ns", "curve", "off by")
    table = Table(*columns, title=f"{idle.path}", title_justify="left")
    for point in sweep(spec, idle.path):
        table.add_row(*_row(spec.latency, idle, point))
    return table


def _row(model: LatencyModel, idle: Idle, point: Point) -> tuple[Any, ...]:
    expected = expected_ns(model, idle, point.mb_per_s)
    return (
        f"{point.offered_mb_per_s:,.0f}",
        f"{point.mb_per_s:,.0f}",
        f"{point.mb_per_s / idle.mb_per_s:.1%}",
        f"{point.latency_ns:.1f}",
        f"{expected:.1f}",
        f"{point.latency_ns / expected - 1:+.2%}",
    )
