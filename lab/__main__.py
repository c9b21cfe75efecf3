"""``python -m lab``: exact replay of a trace, and of one trace under several kernels."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from lab.divergence import ZoneDivergence, compare_after
from lab.replay import ExactReplay, traced_machine
from lab.tally import ExactReport, TracedSample
from numa_service.cli.diff_profiles import DEFAULT_PROFILES, show_differences
from numa_service.cli.main import run
from numa_service.cli.progress import WithProgress
from numa_service.cli.replay import beside, finish, machine_of, percent, plain, play, report_console, show
from numa_service.machine.spec import SpecError

app = typer.Typer(
    help="Exact replay: a trace on the machine that was traced (lab/README.md).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.command()
def replay(
    trace: Annotated[
        Path,
        typer.Argument(help="As for `numa-service replay`, but no pipe: an exact start reads it twice."),
    ],
    machine: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="The machine that was traced. Default: the trace's own directory, if it is a whole capture.",
        ),
    ] = None,
    occupancy: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Capture made right before tracing. Memory starts as it says: managed pages, free blocks of "
            "each order and migratetype, pageblock types, pagesets; without pagetypeinfo.txt, as many pages "
            "held as were in use. Default: the directory before/ beside the trace.",
        ),
    ] = None,
    progress: WithProgress = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Issue a trace on the machine that was traced, and report how far the two come apart.

    What lies in after/ beside the trace is compared with. Ctrl-C prints the report so far and exits 130.
    """
    home = trace if trace.is_dir() else trace.parent
    spec = machine_of(machine, home)
    occupancy = occupancy or _before(home)
    played = play(lambda: traced_machine(spec, trace, occupancy), trace, progress)
    exact = played.replay if isinstance(played.replay, ExactReplay) else None
    after = beside(home, "after")
    compared: list[ZoneDivergence] = []
    if after and not played.interrupted:
        compared = compare_after(played.replay.sim, after, exact.tally.traced_free() if exact else None)
    if as_json:
        own = {
            "exact_start": exact is not None,
            "divergence": [dataclasses.asdict(zone) for zone in compared],
        }
        typer.echo(json.dumps(plain(trace, played) | own, indent=1))
    else:
        console = report_console()
        show(console, played)
        if isinstance(played.report, ExactReport):
            _show_exact(console, played.report)
        if compared:
            console.print(_divergence(compared))
    finish(played)


@app.command("diff-profiles")
def diff_profiles(
    trace: Annotated[str, typer.Argument(help="As for replay.")],
    profiles: Annotated[
        str, typer.Option(metavar="NAMES", help="Two or more kernels, separated by commas.")
    ] = DEFAULT_PROFILES,
    machine: Annotated[str | None, typer.Option(metavar="SOURCE", help="As for replay.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="Also what is equal under all of them.")] = False,
) -> None:
    """What changes between kernels for one workload that starts from the captured memory."""
    show_differences(
        trace,
        profiles,
        machine,
        as_json,
        everything,
        lambda spec, path, home: traced_machine(spec, path, _before(home)),
    )


def _before(home: Path) -> Path:
    occupancy = beside(home, "before")
    if occupancy is None:
        raise SpecError(f"{home}: no directory before/ with a capture made right before tracing")
    return occupancy


def _show_exact(console: Console, report: ExactReport) -> None:
    seen = report.agreement
    computed = seen.compared - seen.by_policy
    console.print("on the machine that was traced", style="bold")
    console.print(f"same page as in the traced kernel: {percent(seen.same_pfn, seen.compared)}")
    console.print(
        f"{seen.by_policy:,} allocations followed a policy that the trace shows; the nodes of the other "
        f"{computed:,} were computed: {percent(seen.same_node - seen.by_policy_same_node, computed)} "
        f"are the same, of {seen.spilled:,} that the traced kernel took elsewhere, their own node being "
        f"short, {percent(seen.spilled_same_node, seen.spilled)}"
    )
    if report.inferred_allocs or report.inferred_drained_pages:
        console.print(
            f"inferred from the trace, which has no events for them: {report.inferred_allocs:,} allocations, "
            f"{report.inferred_drained_pages:,} pages drained that no free drained"
        )
    if report.samples:
        console.print(_over_time(report.samples))


def _divergence(compared: list[ZoneDivergence]) -> Table:
    table = Table("node", "zone", title="beside the capture made after tracing, pages", title_justify="left")
    for name in (
        "free",
        "traced then",
        "off",
        "pagesets",
        "settled",
        "captured",
        "captured pagesets",
        "settled off",
        "orders off",
    ):
        table.add_column(name, justify="right")
    for zone in compared:
        then = "–" if zone.traced_free_then is None else f"{zone.traced_free_then:,}"
        off = "–" if zone.then_percent is None else f"{zone.then_percent:.2f} %"
        pages = (zone.pageset, zone.settled_free, zone.traced_free, zone.traced_pageset)
        percent = (f"{value:.2f} %" for value in (zone.free_percent, zone.order_percent))
        table.add_row(
            str(zone.nid), zone.zone, f"{zone.free:,}", then, off, *(f"{n:,}" for n in pages), *percent
        )
    table.caption = (
        "traced then: free in the traced kernel at the last event, by its own events\n"
        "settled: free once each pageset has drained to what the capture made later has on it\n"
        "off: in percent of managed; orders: sum of |difference| over the orders, settled against captured"
    )
    table.caption_justify = "left"
    return table


def _over_time(samples: tuple[TracedSample, ...]) -> Table:
    """Free pages here minus free pages in the traced kernel at the same event, for about a dozen events."""
    table = Table(
        "event", title="free pages minus those of the traced kernel, over time", title_justify="left"
    )
    table.columns[0].justify = "right"
    for zone in samples[0].zones:
        table.add_column(f"{zone.nid}:{zone.zone}", justify="right")
    step = max(1, len(samples) // 12)
    for sample in samples[step - 1 :: step]:
        pairs = zip(sample.zones, sample.traced_free, strict=True)
        cells = ("–" if there is None else f"{zone.free - there:+,}" for zone, there in pairs)
        table.add_row(f"{sample.events:,}", *cells)
    return table


if __name__ == "__main__":
    run(app, "lab")
