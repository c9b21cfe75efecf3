"""``make sim``: attacks simulated machines, one for each seed, and shows the first seed that fails.

It is no command of numa-service, but a tool for those who change the protocol between nodes.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import traceback
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from numa_service.sim.attack.plan import Plan, draw
from numa_service.sim.attack.run import attack
from numa_service.sim.attack.shrink import only, shrink

app = typer.Typer(add_completion=False)


def outcome(plan: Plan) -> str:
    """Run a plan; returns why it failed, an invariant or an exception, or "" if it did not."""
    try:
        return attack(plan)
    except Exception as error:
        *_, last = traceback.extract_tb(error.__traceback__)
        return f"{type(error).__name__} in {last.name}, line {last.lineno}: {error}"


def _of_seed(seed: int) -> tuple[int, str]:
    return seed, outcome(draw(seed))


@app.command()
def main(
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds, starting with the first.")] = 200,
    first: Annotated[int, typer.Option(min=0, help="The first seed.")] = 0,
    keep: Annotated[
        str,
        typer.Option(help="Run only these actions of one seed: numbers in its plan, separated by commas."),
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print what failed as JSON.")] = False,
) -> None:
    """Run the seeds; exit status 1 at the first one that fails, with its plan made shorter."""
    if keep:
        if seeds != 1:
            raise typer.BadParameter("is for one seed: --seeds 1", param_hint="--keep")
        plan = draw(first)
        places = _places(keep, len(plan.actions))
        failed = {first: outcome(only(plan, places))} if places else {}
        _show(first, failed.get(first, ""), places, as_json)
        raise typer.Exit(1 if failed.get(first) else 0)
    found = _search(range(first, first + seeds))
    if found is None:
        if as_json:
            typer.echo(json.dumps({"seeds": seeds, "failed": None}))
        else:
            typer.echo(f"{seeds} seeds, from {first} on: everything held")
        return
    seed, why = found
    plan = draw(seed)
    _show(seed, why, shrink(plan, lambda smaller: bool(outcome(smaller))), as_json)
    raise typer.Exit(1)


def _places(keep: str, nr_actions: int) -> tuple[int, ...]:
    try:
        places = tuple(int(place) for place in keep.split(","))
    except ValueError:
        raise typer.BadParameter(f"{keep!r} is no list of numbers", param_hint="--keep") from None
    if not all(0 <= place < nr_actions for place in places):
        raise typer.BadParameter(f"the plan has actions 0 to {nr_actions - 1}", param_hint="--keep")
    return places


def _search(seeds: range) -> tuple[int, str] | None:
    """Run the seeds on all CPUs; returns the lowest one that fails, and why, or None."""
    console = Console(stderr=True)
    workers = max(1, min(len(os.sched_getaffinity(0)), len(seeds) // 8))
    with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
        bar = progress.add_task("attacking", total=len(seeds))
        if workers == 1:
            for seed in seeds:
                seed, why = _of_seed(seed)
                progress.advance(bar)
                if why:
                    return seed, why
            return None
        with multiprocessing.get_context("spawn").Pool(workers) as pool:
            for seed, why in pool.imap(_of_seed, seeds, chunksize=4):
                progress.advance(bar)
                if why:
                    return seed, why
    return None


def _show(seed: int, why: str, places: tuple[int, ...], as_json: bool) -> None:
    plan = draw(seed)
    again = f"make sim SEEDS=1 FIRST={seed} KEEP={','.join(map(str, places))}"
    if as_json:
        actions = [str(plan.actions[place]) for place in places]
        typer.echo(json.dumps({"failed": seed, "why": why, "actions": actions, "again": again}))
        return
    typer.echo(f"seed {seed}: {why or 'everything held'}")
    typer.echo(f"  {plan.slab}, {plan.faults}")
    for nid, (ahead_ns, rate) in enumerate(plan.clocks):
        typer.echo(f"  clock of node {nid}: {ahead_ns / 1e9:g} s ahead, rate {rate}")
    for place in places:
        typer.echo(f"  {place}: {plan.actions[place]}")
    if why:
        typer.echo(f"again: {again}", err=True)


if __name__ == "__main__":
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
