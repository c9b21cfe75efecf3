"""``replay``: replays a kernel trace on an emulated machine in this process."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console
from rich.table import Table

from numa_service.cli.compile import compile_first
from numa_service.cli.progress import INTERRUPTED, Interrupt, WithProgress, file_progress
from numa_service.cli.source import load
from numa_service.machine.spec import MachineSpec, SpecError
from numa_service.sim.replay_tally import ReplayReport
from numa_service.sim.trace_replay import Replay
from numa_service.sim.traced import TracedZones
from numa_service.trace.ahead import read_ahead
from numa_service.trace.reader import open_trace

#: Width of a report that goes to no terminal, wide enough that no number is cut off.
_FILE_WIDTH = 140

#: Key of ReplayReport.unmatched → its text in the report.
_REASONS = {
    "alloc_failed_in_trace": "allocations that failed in the traced kernel (pfn 0): not issued",
    "alloc_failed_here": "allocations that got no page here",
    "alloc_contradictory_gfp": "allocations whose gfp flags allow no zone",
    "alloc_order_too_large": "allocations of an order above 10",
    "missing_free": "allocations of a page that was live: its free is missing, and was made up",
    "free_of_page_allocated_before_trace": "frees of pages allocated before tracing began, "
    "or by a path without an event (bulk allocation)",
    "free_of_page_not_allocated_here": "frees of pages whose allocation was not served here",
    "free_of_part_of_block": "frees with another order than the block's that cannot be split off: block kept",
}


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("replay")(replay)


def replay(
    trace: Annotated[
        Path,
        typer.Argument(
            help="Text of /sys/kernel/tracing/trace or of perf script, plain or .gz; an .ntrace file; or a "
            "capture directory with t.trace.gz."
        ),
    ],
    machine: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="A preset, a machine file, or what `import` reads. Default: the trace's own directory, if it"
            " "
            "is a whole capture.",
        ),
    ] = None,
    occupancy: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="A capture made right before tracing (zoneinfo.txt, buddyinfo.txt): as many pages as were "
            "in use are held in each zone, and the traced machine has the managed pages of that boot. "
            "Default: the directory before/ beside the trace.",
        ),
    ] = None,
    no_occupancy: Annotated[
        bool,
        typer.Option(
            "--no-occupancy", help="Start from an empty machine, even if there is a capture beside the trace."
        ),
    ] = False,
    progress: WithProgress = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Issue a trace's allocations and frees on an emulated machine, and report where they went.

    Each goes to the node of its CPU. Ctrl-C prints the report so far and exits 130.
    """
    if no_occupancy and occupancy is not None:
        raise typer.BadParameter("not together with --no-occupancy", param_hint="--occupancy")
    home = trace if trace.is_dir() else trace.parent
    spec, traced = machine_of(machine, home), None
    if occupancy is None and not no_occupancy:
        occupancy = beside(home, "before")
    if occupancy is not None:
        traced = TracedZones.read(occupancy, spec.arch)
        spec, _ = traced.fit(spec)
    played = play(lambda: Replay(spec, traced), trace, progress)
    if as_json:
        typer.echo(json.dumps(plain(trace, played), indent=1))
    else:
        show(report_console(), played)
    finish(played)


class Played(NamedTuple):
    """A replay that has ended, at the end of the trace or by Ctrl-C."""

    replay: Replay
    report: ReplayReport
    seconds: float
    interrupted: bool


def play(boot: Callable[[], Replay], trace: Path, progress: bool | None) -> Played:
    """Boot a machine and replay a whole trace on it, with progress on stderr."""
    console = Console(stderr=True)
    interrupt = Interrupt()
    compile_first()
    with interrupt.caught():
        booting = console.status("booting")
        with nullcontext() if progress is False else booting:
            replay = boot()
        with (
            file_progress(console, "replaying", trace, progress) as done,
            open_trace(trace, done) as reader,
            closing(read_ahead(reader)) as chunks,
        ):
            began = time.perf_counter()
            replay.run(chunks, lambda: interrupt.raised)
            seconds = time.perf_counter() - began
        return Played(replay, replay.tally.report(reader.counts), seconds, interrupt.raised)


def finish(played: Played) -> None:
    """Exit with status 130 after Ctrl-C, and 1 if an invariant is violated."""
    if played.interrupted:
        raise typer.Exit(INTERRUPTED)
    if played.report.problems:
        raise typer.Exit(1)


def beside(home: Path, name: str) -> Path | None:
    """The directory `name` beside a trace if it has a capture of free memory, else None.

    SpecError if it is a symbolic link that leaves `home`.
    """
    folder = home / name
    if not (folder / "buddyinfo.txt").is_file():
        return None
    if not folder.resolve().is_relative_to(home.resolve()):
        raise SpecError(f"{folder}: a link that leaves {home}: not followed")
    return folder


def machine_of(source: str | None, home: Path) -> MachineSpec:
    """The machine to replay on: `source`, or the capture that the trace is part of. SpecError if none."""
    if source is not None:
        return load(source)
    if not (home / "zoneinfo.txt").is_file():
        raise SpecError(f"--machine SOURCE is required: there is no zoneinfo.txt in {home}")
    try:
        return load(str(home.resolve()))
    except SpecError as error:
        raise SpecError(f"--machine SOURCE is required: {error}") from None


def plain(trace: Path, played: Played) -> dict[str, Any]:
    """The object that --json prints."""
    report, seconds = played.report, played.seconds
    read = sum(report.events.values())
    return {
        "trace": str(trace),
        "interrupted": played.interrupted,
        "seconds": seconds,
        "events_per_second": read / seconds if seconds else 0.0,
        "matched": report.matched,
    } | dataclasses.asdict(report)


def report_console() -> Console:
    """A console on stdout for reports, wide enough if stdout is no terminal."""
    console = Console(soft_wrap=True)
    if not console.is_terminal:
        console.width = _FILE_WIDTH
    return console


def percent(part: int, whole: int) -> str:
    """A share in per cent as text."""
    return f"{100 * part / whole:.2f} %" if whole else "–"


def show(console: Console, played: Played) -> None:
    """Print the report as text."""
    report, seconds = played.report, played.seconds
    read = sum(report.events.values())
    rate = read / seconds if seconds else 0
    console.print(f"{report.machine}: {read:,} events in {seconds:.2f} s, {rate:,.0f} events/s")
    console.print(
        f"issued {report.allocs:,} allocations and {report.frees:,} frees: "
        f"{percent(report.matched, report.wanted)} of those in the trace"
    )
    seen = report.agreement
    console.print(
        f"placement as in the traced kernel: node {percent(seen.same_node, seen.compared)}, "
        f"zone {percent(seen.same_zone, seen.compared)} of {seen.compared:,} allocations"
        + (f"; {seen.unknown_pfn:,} pfns lie in no known zone" if seen.unknown_pfn else "")
    )
    console.print(
        f"local {report.local:,}, remote {report.remote:,}; migratetype fallbacks {report.steals:,} "
        f"(traced {report.traced_steals:,})"
    )
    console.print(
        f"blocks off the free lists {report.refilled:,} (traced {report.traced_refilled:,}), drained from "
        f"pagesets {report.drained:,} (traced {report.traced_drained:,})"
    )
    console.print(_placed(report))
    console.print(_zones(report))
    console.print(_numastat(report))
    console.print(_unmatched(report))
    console.print("buddyinfo", style="bold")
    sys.stdout.write(report.buddyinfo)
    bad = [zone for zone in report.zones if not zone.conserved]
    if report.problems or bad:
        console.print(
            f"conservation: {len(bad)} zones lost pages, {len(report.problems)} invariants violated"
        )
        for problem in report.problems:
            console.print(f"  {problem}", markup=False)
    else:
        console.print("conservation: free + pagesets + held = managed in every zone; all invariants hold")


def _placed(report: ReplayReport) -> Table:
    table = Table("node", "zone", title="where allocations went", title_justify="left")
    for name in ("blocks", "pages", "local", "remote"):
        table.add_column(name, justify="right")
    for row in report.placed:
        table.add_row(
            str(row.nid), row.zone, *(f"{n:,}" for n in (row.blocks, row.pages, row.local, row.remote))
        )
    by_order = ", ".join(f"{order}: {n:,}" for order, n in report.by_order.items() if n)
    by_type = ", ".join(f"{name}: {n:,}" for name, n in report.by_migratetype.items() if n)
    table.caption = f"by order: {by_order or 'none'}\nby migratetype: {by_type or 'none'}"
    table.caption_justify = "left"
    return table


def _zones(report: ReplayReport) -> Table:
    table = Table("node", "zone", title="zones at the end, pages", title_justify="left")
    for name in ("managed", "free", "pagesets", "held", "in use before", "reserved"):
        table.add_column(name, justify="right")
    for zone in report.zones:
        numbers = [
            zone.managed,
            zone.free,
            zone.pageset,
            zone.held_trace,
            zone.held_in_use,
            zone.reserved,
        ]
        cells = [f"{n:,}" for n in numbers]
        table.add_row(str(zone.nid), zone.zone, *cells, style=None if zone.conserved else "red")
    return table


def _numastat(report: ReplayReport) -> Table:
    table = Table("numastat", title_justify="left")
    for nid in report.numastat:
        table.add_column(f"node{nid}", justify="right")
    for name in next(iter(report.numastat.values())):
        table.add_row(name, *(f"{counters[name]:,}" for counters in report.numastat.values()))
    return table


def _unmatched(report: ReplayReport) -> Table:
    table = Table("not matched, or not as traced", "events", title_justify="left")
    table.columns[1].justify = "right"
    rows = [(_REASONS[key], n) for key, n in report.unmatched.items()]
    rows += [
        (f"allocations with unknown {flag}, replayed without it", n) for flag, n in report.unknown_gfp.items()
    ]
    rows.append(("events of CPUs that the machine lacks, replayed on another", report.events_of_moved_cpus))
    rows += [(f"lines without an event: {reason}", n) for reason, n in report.skipped_lines.items()]
    rows.append(("events that the trace itself reports lost", report.lost_events))
    rows.append((f"blocks still held at the end ({report.live_pages:,} pages)", report.live_blocks))
    short = [held for held in report.in_use if held.held < held.wanted]
    rows += [
        (f"pages in use before tracing that node {held.nid} {held.zone} lacks", held.wanted - held.held)
        for held in short
    ]
    for reason, n in rows:
        if n:
            table.add_row(reason, f"{n:,}")
    if report.truncated_last_line:
        table.add_row("the last line of the trace is cut off", "1")
    return table
