"""``numa-loadgen program``: runs workload programs next to a node, from the library or from TOML files."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace
from typing import Annotated, Any

import typer
from numa_client import (
    Aborted,
    EventResult,
    InvalidRequest,
    Machine,
    NumaError,
    Program,
    ProgramProgress,
    ProgramResult,
    list_programs,
    program_text,
)
from rich.box import SIMPLE
from rich.console import Console, Group
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table

app = typer.Typer(no_args_is_help=True, help="Workload programs that run next to a node.")

_PLAIN_SECONDS = 2.0


def _known(name: str) -> str:
    if name not in list_programs():
        raise typer.BadParameter(f"{name!r}: choose from {', '.join(list_programs())}")
    return name


@app.command(name="list")
def list_() -> None:
    """Names the programs of the library, with what they model."""
    table = Table.grid(padding=(0, 2))
    for name in list_programs():
        table.add_row(name, Program.load(name).summary)
    Console().print(table)


@app.command()
def show(
    name: Annotated[str, typer.Argument(callback=_known, help="Name of a program of the library.")],
) -> None:
    """Prints a program of the library as a TOML file, to start from."""
    print(program_text(name), end="")


@app.command()
def run(
    program: Annotated[
        str, typer.Argument(metavar="NAME|FILE", help="A program of the library, or a TOML file.")
    ],
    target: Annotated[str, typer.Option(metavar="HOST:PORT", help="The machine's gRPC address.")],
    cpu: Annotated[int | None, typer.Option(min=0, help="The CPU that the program runs on.")] = None,
    node: Annotated[int | None, typer.Option(min=0, help="Run on the first CPU of this node.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed to use instead of the program's own.")] = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="Stop it after this many seconds, if its own limits do not stop it earlier.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    progress: Annotated[
        bool, typer.Option("--progress/--no-progress", help="Show a live view on stderr.")
    ] = True,
) -> None:
    """Runs a program on a node of a machine and prints what came of it.

    Exits with 0 when done, 1 when it was refused or cut, 2 for wrong usage, 130 after Ctrl-C.
    """
    errors = Console(stderr=True)
    try:
        wanted = Program.load(program)
    except InvalidRequest as error:
        raise typer.BadParameter(error.message) from None
    if seed is not None:
        wanted = replace(wanted, seed=seed)
    try:
        with Machine.connect(target) as machine, machine.session(cpu=cpu, node=node, name=program) as session:
            result = _follow(session.run_program(wanted, timeout=timeout), errors if progress else None)
    except NumaError as error:
        errors.print(f"numa-loadgen: {target}: {error}", style="red", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    if as_json:
        print(json.dumps(_as_json(wanted, result)))
    else:
        Console().print(summary(wanted.name or program, result))


def _follow(reports: Any, console: Console | None) -> ProgramResult:
    """Show progress until the result comes. Aborted if the stream ends without one."""
    printed = time.monotonic()
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[line]}"),
        console=console or Console(quiet=True),
        transient=True,
        disable=console is None or not console.is_terminal,
    )
    with bar:
        task = bar.add_task("", total=1.0, line="")
        for report in reports:
            if isinstance(report, ProgramResult):
                return report
            name = f"{report.phase_name} ({report.phase + 1}/{report.phases})"
            bar.update(task, description=name, completed=report.fraction, line=progress_line(report))
            if console and not console.is_terminal and time.monotonic() - printed >= _PLAIN_SECONDS:
                printed = time.monotonic()
                line = f"{name} {report.fraction:4.0%}  {progress_line(report)}"
                console.print(line, highlight=False, soft_wrap=True)
    raise Aborted("the service ended the program without a result")


def progress_line(report: ProgramProgress) -> str:
    """The progress of a program in one line."""
    pages = report.allocated_pages + report.accessed_pages
    rate = pages * 1e9 / report.real_ns if report.real_ns else 0.0
    return (
        f"virtual {report.virtual_ns / 1e9:,.3f} s  {rate:,.0f} pages/s  held {report.live_pages:,}"
        f"  failures {report.failures:,}"
    )


def summary(name: str, result: ProgramResult) -> Group:
    """The tables printed at the end: one for each phase, and one for the whole program."""
    tables = []
    for phase in result.phases:
        table = Table(
            title=f"{phase.name}: {phase.virtual_ns / 1e9:,.3f} virtual s", title_justify="left", box=SIMPLE
        )
        table.add_column("virtual ns of")
        for column in ("events", "failed", "mean", "p50", "p99", "got on nodes", "hits"):
            table.add_column(column, justify="right")
        for kind in (*phase.mixes, *phase.objects, *phase.vmallocs):
            table.add_row(*_cells(kind), "")
        for kind in (*phase.accesses, *phase.tasks):
            table.add_row(*_cells(kind), _hits(kind))
        tables.append(table)
    facts = Table(title=name, title_justify="left", show_header=False)
    facts.add_column()
    facts.add_column(justify="right")
    for label, value in (
        ("virtual seconds", f"{result.virtual_ns / 1e9:,.3f}"),
        ("real seconds", f"{result.real_ns / 1e9:,.2f}"),
        ("pages/s, real", f"{result.pages_per_second:,.0f}"),
        ("pages allocated", f"{result.allocated_pages:,}"),
        ("pages accessed", f"{result.accessed_pages:,}"),
        ("pages freed", f"{result.freed_pages:,}"),
        ("pages left on nodes that were away", f"{result.unfreed_pages:,}"),
    ):
        facts.add_row(label, value)
    return Group(*tables, facts)


def _hits(kind: EventResult) -> str:
    """The share of accesses that found their page."""
    accesses = kind.hit_pages + kind.fault_pages
    return f"{kind.hit_pages / accesses:.1%}" if accesses else "-"


def _cells(kind: EventResult) -> tuple[str, ...]:
    latency = kind.latency
    placement = ", ".join(f"{nid}: {pages:,}" for nid, pages in kind.placement.items())
    times = (round(latency.mean_ns), latency.p50_ns, latency.p99_ns)
    return (kind.name, f"{kind.events:,}", f"{kind.failures:,}", *(f"{t:,}" for t in times), placement)


def _as_json(program: Program, result: ProgramResult) -> dict[str, Any]:
    phases = [asdict(phase) | {"pages_per_second": phase.pages_per_second} for phase in result.phases]
    facts = {"program": program.name, "seed": program.seed, "pages_per_second": result.pages_per_second}
    return facts | asdict(result) | {"phases": phases}
