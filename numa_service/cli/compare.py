"""``compare``: ranks variants of a machine by how long a program, or a trace, takes on them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from numa_client import NumaError, Program
from rich.console import Console
from rich.table import Table

from numa_service.cli.compare_report import html_report
from numa_service.cli.compile import compile_first
from numa_service.cli.progress import WithProgress, steps
from numa_service.cli.source import load, tell
from numa_service.node.errors import NodeError
from numa_service.sim.compare import (
    MAX_SEEDS,
    MAX_VARIANTS,
    Mean,
    Ranked,
    Run,
    rank,
    replay_variant,
    run_variant,
    shares,
)
from numa_service.sim.variant import Variant, parse_variant

#: Width of a table that goes to no terminal.
_FILE_WIDTH = 130
#: Called with what runs, and the share of it that is done.
_Tell = Callable[[str, float], None]


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("compare")(compare)


def compare(
    variants: Annotated[
        list[str],
        typer.Argument(
            metavar="VARIANT...",
            help="A preset, a machine file, or what `import` reads, and behind commas what is different: "
            "profile=, policy=, slab=, a sysctl. Two or more.",
        ),
    ],
    program: Annotated[
        str | None, typer.Option(help="A workload program: of the library, or a .toml file.")
    ] = None,
    trace: Annotated[Path | None, typer.Option(help="A kernel trace, as `replay` reads it.")] = None,
    seeds: Annotated[int, typer.Option(min=1, max=MAX_SEEDS, help="Runs of a program on each variant.")] = 5,
    first_seed: Annotated[
        int, typer.Option(min=0, help="Seed of the first run; the next have the next.")
    ] = 1,
    cpu: Annotated[int | None, typer.Option(help="CPU of the program; the lowest by default.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a report there, one file with its plots.")] = None,
    progress: WithProgress = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with every run.")] = False,
) -> None:
    """Run the same program, or the same trace, on variants of a machine, and rank them by virtual time.

    Everything runs in this process, and the same seeds give the same numbers and the same report.
    """
    if (program is None) == (trace is None):
        raise typer.BadParameter("give either --program or --trace", param_hint="--program")
    if not 2 <= len(variants) <= MAX_VARIANTS:
        raise typer.BadParameter(f"give 2 to {MAX_VARIANTS} variants", param_hint="VARIANT...")
    if trace is not None and cpu is not None:
        raise typer.BadParameter("a trace has CPUs of its own", param_hint="--cpu")
    if html is not None and (html.is_dir() or not html.absolute().parent.is_dir()):
        raise typer.BadParameter(f"{html} is no file in a folder that is there", param_hint="--html")
    compared = [parse_variant(text, load) for text in variants]
    tell([f"{variant.name}: {note}" for variant in compared for note in variant.notes])
    console = Console(stderr=True)
    try:
        work = _program_runs(program, range(first_seed, first_seed + seeds), cpu) if program else None
        compile_first()
        if console.is_terminal if progress is None else progress:
            with steps(console) as told:
                runs = _all_runs(compared, work, trace, told)
        else:
            runs = _all_runs(compared, work, trace, lambda text, share: None)
    except (NumaError, NodeError) as error:
        typer.echo(f"numa-service: {error}", err=True)
        raise typer.Exit(1) from None
    ranked = rank(compared, runs)
    what = program or str(trace)
    if html is not None:
        html.write_text(html_report(what, ranked), encoding="utf-8")
    if as_json:
        typer.echo(json.dumps({"what": what, "variants": [_plain(one) for one in ranked]}, indent=1))
    else:
        _show(what, ranked)


#: The runs of one variant.
_Work = Callable[[Variant, _Tell], list[Run]]


def _program_runs(source: str, seeds: range, cpu: int | None) -> _Work:
    program = Program.load(source)

    def work(variant: Variant, told: _Tell) -> list[Run]:
        runs = []
        for number, seed in enumerate(seeds):

            def done(share: float, before: int = number) -> None:
                told(variant.name, (before + share) / len(seeds))

            runs.append(run_variant(variant, program, seed, cpu, done))
        return runs

    return work


def _all_runs(
    variants: list[Variant], work: _Work | None, trace: Path | None, told: _Tell
) -> list[list[Run]]:
    if work is not None:
        return [work(variant, told) for variant in variants]
    assert trace is not None

    def replayed(variant: Variant) -> Run:
        return replay_variant(variant, trace, lambda done, total: told(variant.name, done / (total or 1)))

    return [[replayed(variant)] for variant in variants]


def _plain(one: Ranked) -> dict[str, Any]:
    """A variant as --json prints it."""
    return {
        "variant": one.variant.name,
        "rank": one.rank,
        "runtime_ns": asdict(one.mean(lambda run: run.runtime_ns)),
        "behind_best_ns": asdict(one.behind),
        "remote": asdict(one.mean(lambda run: run.remote)),
        "spills": asdict(one.mean(lambda run: run.spills)),
        "reclaimed_pages": asdict(one.mean(lambda run: run.reclaimed)),
        "failures": asdict(one.mean(lambda run: run.failures)),
        "placement": shares(run.placement for run in one.runs),
        "notes": list(one.variant.notes),
        "runs": [asdict(run) for run in one.runs],
    }


def _show(what: str, ranked: list[Ranked]) -> None:
    runs = len(ranked[0].runs)
    title = f"{what}: {runs} runs each, means with 95 %" if runs > 1 else f"{what}: one run each"
    table = Table(title=title, title_justify="left")
    for column in ("", "variant"):
        table.add_column(column)
    for column in ("virtual ms", "behind the best", "remote %", "spills", "reclaimed", "failed"):
        table.add_column(column, justify="right")
    best = ranked[0].mean(lambda run: run.runtime_ns).mean
    for one in ranked:
        behind = Mean(100 * one.behind.mean / best, 100 * one.behind.error / best) if best else Mean(0, 0)
        table.add_row(
            f"{one.rank}",
            one.variant.name,
            _number(one.mean(lambda run: run.runtime_ns / 1e6), 3),
            f"{_number(behind, 2)} %" if one is not ranked[0] else "",
            _number(one.mean(lambda run: 100 * run.remote), 2),
            _number(one.mean(lambda run: run.spills), 0),
            _number(one.mean(lambda run: run.reclaimed), 0),
            _number(one.mean(lambda run: run.failures), 0),
        )
    console = Console()
    if not console.is_terminal:
        console = Console(width=_FILE_WIDTH)
    console.print(table)


def _number(mean: Mean, digits: int) -> str:
    text = f"{mean.mean:,.{digits}f}"
    return f"{text} ± {mean.error:,.{digits}f}" if mean.error else text
