"""``compare-slab``: one trace of slab objects, or a program's, through SLUB, SLAB and SLOB, in one table."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from numa_client import NumaError, Program, list_programs
from rich.console import Console
from rich.table import Table

from numa_service.cli.compile import compile_first
from numa_service.cli.progress import WithProgress, file_progress, steps
from numa_service.cli.source import load
from numa_service.machine.spec import MachineSpec
from numa_service.mm.slab.cache import ALLOCATORS
from numa_service.node.errors import NodeError
from numa_service.sim.program_objects import program_slab_events
from numa_service.sim.slab_compare import SlabUse, replay_slab_trace, slab_machine
from numa_service.trace.slab_events import SlabEvent, read_slab_events

#: Width of a table that goes to no terminal.
_FILE_WIDTH = 100


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("compare-slab")(compare_slab)


def compare_slab(
    source: Annotated[
        str,
        typer.Argument(
            metavar="TRACE|PROGRAM",
            help="Text of /sys/kernel/tracing/trace or of perf script with kmem:kmalloc, kmem_cache_alloc, "
            "kfree and kmem_cache_free, plain or .gz; or a workload program with objects, of the library or "
            "a .toml file.",
        ),
    ],
    machine: Annotated[
        str, typer.Option(metavar="SOURCE", help="A preset, a machine file, or what `import` reads.")
    ],
    cpu: Annotated[int | None, typer.Option(help="The CPU of a program; the lowest by default.")] = None,
    progress: WithProgress = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Replay one trace of kernel objects through SLUB, SLAB and SLOB on the same machine, and compare.

    A program runs once, with the machine's own allocator: the objects that it takes and frees are the trace.
    Each starts with the slab caches of the machine's kernel, empty; other caches of the trace are made when
    they come. 6.12 has no SLAB and no SLOB of its own: it gets those of 6.1.
    """
    spec = load(machine)
    slab_machine(spec)  # an error before a long trace is read
    console = Console(stderr=True)
    wanted = console.is_terminal if progress is None else progress
    kind = "program" if source in list_programs() or source.endswith(".toml") else "trace"
    if kind == "program":
        try:
            events = _of_program(source, spec, cpu, console, wanted)
        except (NumaError, NodeError) as error:
            typer.echo(f"numa-service: {error}", err=True)
            raise typer.Exit(1) from None
    elif cpu is not None:
        raise typer.BadParameter("a trace has CPUs of its own", param_hint="--cpu")
    else:
        with file_progress(console, "reading", Path(source), progress) as done:
            events = read_slab_events(Path(source), done)
        compile_first()
    uses = []
    for allocator in ALLOCATORS:
        if not wanted:
            uses.append(replay_slab_trace(allocator, spec, events))
            continue
        with steps(console) as tell:
            uses.append(replay_slab_trace(allocator, spec, events, _share(tell, allocator, len(events))))
    if as_json:
        found = {use.allocator: _plain(use) for use in uses}
        typer.echo(json.dumps({kind: source, "events": len(events), "allocators": found}, indent=1))
    else:
        _show(uses, spec.name, len(events))


def _of_program(
    source: str, spec: MachineSpec, cpu: int | None, console: Console, wanted: bool
) -> list[SlabEvent]:
    program = Program.load(source)
    compile_first()
    on = min(spec.cpus) if cpu is None else cpu
    if not wanted:
        return program_slab_events(spec, program, on)
    with steps(console) as tell:
        return program_slab_events(spec, program, on, lambda share: tell(f"running {program.name}", share))


def _share(tell: Callable[..., None], allocator: str, total: int) -> Callable[[int], None]:
    return lambda done: tell(f"replaying with {allocator.upper()}", done / total)


def _plain(use: SlabUse) -> dict[str, object]:
    plain = {field.name: getattr(use, field.name) for field in dataclasses.fields(use)}
    del plain["allocator"]
    return plain | {"wasted_at_peak": use.wasted_at_peak}


def _kib(count: int) -> str:
    return f"{count / 1024:,.1f} KiB"


def _counts(counts: dict[int, int]) -> str:
    return ", ".join(f"{key}: {count:,}" for key, count in sorted(counts.items())) or "none"


def _show(uses: list[SlabUse], name: str, events: int) -> None:
    table = Table(title=f"{name}: {events:,} events", title_justify="left")
    table.add_column("")
    for use in uses:
        table.add_column(use.allocator.upper(), justify="right")
    rows: list[tuple[str, Callable[[SlabUse], str]]] = [
        ("objects allocated", lambda use: f"{use.allocations:,}"),
        ("objects freed", lambda use: f"{use.frees:,}"),
        ("freed, older than trace", lambda use: f"{use.freed_before:,}"),
        ("failed", lambda use: f"{use.failed:,}"),
        ("most memory", lambda use: _kib(use.peak_bytes)),
        ("of it asked for", lambda use: _kib(use.peak_requested)),
        ("of it wasted", lambda use: f"{use.wasted_at_peak / max(use.peak_bytes, 1):.1%}"),
        ("memory at the end", lambda use: _kib(use.end_bytes)),
        ("of it asked for", lambda use: _kib(use.end_requested)),
        ("page allocations", lambda use: f"{use.page_allocations:,}"),
        ("page frees", lambda use: f"{use.page_frees:,}"),
        ("allocations by order", lambda use: _counts(use.by_order)),
        ("allocations by node", lambda use: _counts(use.by_node)),
        ("remote frees", lambda use: f"{use.remote_frees:,}"),
        ("time for pages", lambda use: f"{use.pages_ns / 1000:,.1f} µs"),
        ("time for accesses", lambda use: f"{use.access_ns / 1000:,.1f} µs"),
    ]
    for what, text in rows:
        table.add_row(what, *(text(use) for use in uses))
    console = Console()
    if not console.is_terminal:
        console = Console(width=_FILE_WIDTH)
    console.print(table)
