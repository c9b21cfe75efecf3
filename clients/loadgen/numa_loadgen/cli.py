"""``numa-loadgen``: loads a machine, and reports throughput and latencies.

Exit statuses: 0 for success; 1 if nobody answered, a request was invalid, or no operation succeeded; 2 for
wrong usage; 130 after Ctrl-C (143 after SIGTERM): then sessions were closed and the summary so far was
printed.
"""

from __future__ import annotations

import asyncio
import json
import signal
from contextlib import nullcontext
from typing import Annotated

import typer
from numa_client import NumaError, Policy
from rich.console import Console

from numa_loadgen import programs
from numa_loadgen.display import ProgressDisplay, summary
from numa_loadgen.plan import MAX_CLIENTS, LoadPlan, PlanError
from numa_loadgen.report import LoadReport
from numa_loadgen.runner import run_load
from numa_loadgen.workloads import WORKLOADS

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Load generator for numa-service.",
    pretty_exceptions_enable=False,
)

app.add_typer(programs.app, name="program")

_WORKLOAD_HELP = "; ".join(f"{name}: {workload.summary}" for name, workload in WORKLOADS.items())


def _workload(name: str) -> str:
    if name not in WORKLOADS:
        raise typer.BadParameter(f"{name!r}: choose from {', '.join(WORKLOADS)}")
    return name


def _policy(text: str) -> Policy:
    try:
        return Policy.parse(text)
    except NumaError as error:
        raise typer.BadParameter(error.message) from None


@app.command()
def run(
    target: Annotated[str, typer.Option(metavar="HOST:PORT", help="The machine's gRPC address.")],
    workload: Annotated[str, typer.Option(callback=_workload, help=_WORKLOAD_HELP)] = "mixed",
    clients: Annotated[int, typer.Option(min=1, max=MAX_CLIENTS, help="Number of concurrent sessions.")] = 4,
    duration: Annotated[float, typer.Option(metavar="SECONDS", help="How long to run.")] = 10.0,
    operations: Annotated[
        int | None, typer.Option(min=1, help="Stop after this many operations, if that is earlier.")
    ] = None,
    order: Annotated[
        int, typer.Option(min=0, max=10, help="Order of the blocks: each has 2^ORDER pages.")
    ] = 0,
    count: Annotated[
        int, typer.Option(min=1, max=65536, help="Number of blocks of an allocation, or pages of an access.")
    ] = 64,
    cpu: Annotated[int | None, typer.Option(min=0, help="The CPU that every client runs on.")] = None,
    node: Annotated[
        int | None, typer.Option(min=0, help="Spread the clients over the CPUs of this node.")
    ] = None,
    gfp: Annotated[
        str, typer.Option(metavar="FLAGS", help="GFP flags as the kernel prints them.")
    ] = "GFP_KERNEL",
    policy: Annotated[
        Policy | None,
        typer.Option(
            parser=_policy,
            metavar="MODE:NODES",
            help="Memory policy: bind:0,1, interleave:0-3, preferred:2, …",
        ),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            metavar="OPS/S", help="Open loop: start operations at this rate, without waiting for replies."
        ),
    ] = None,
    region_pages: Annotated[
        int | None,
        typer.Option(min=1, help="Number of pages of each client's regions. [default: a share of memory]"),
    ] = None,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="Deadline of every request.")] = 10.0,
    seed: Annotated[int, typer.Option(help="Seed of the random choices.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
    progress: Annotated[
        bool, typer.Option("--progress/--no-progress", help="Show a live view on stderr.")
    ] = True,
) -> None:
    """Runs one workload against a machine.

    Exits with 0 when done, 1 when it failed, 2 for wrong usage, 130 after Ctrl-C (with a summary).
    """
    if cpu is not None and node is not None:
        raise typer.BadParameter("give --cpu or --node, not both")
    try:
        plan = LoadPlan(
            target=target,
            workload=workload,
            clients=clients,
            duration_seconds=duration,
            operations=operations,
            order=order,
            count=count,
            cpu=cpu,
            node=node,
            gfp=gfp,
            policy=policy,
            rate=rate,
            seed=seed,
            region_pages=region_pages,
            timeout_seconds=timeout,
        )
    except PlanError as error:
        raise typer.BadParameter(str(error)) from None
    errors = Console(stderr=True)
    try:
        report, received = asyncio.run(_run(plan, ProgressDisplay(errors) if progress else None))
    except (NumaError, PlanError) as error:
        errors.print(f"numa-loadgen: {target}: {error}", style="red", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None
    if as_json:
        print(json.dumps(report.to_dict()))
    else:
        Console().print(summary(report))
    if received:
        raise typer.Exit(128 + received)
    if not report.operations:
        errors.print(f"numa-loadgen: {target}: no operation succeeded", style="red", highlight=False)
        raise typer.Exit(1)


async def _run(plan: LoadPlan, display: ProgressDisplay | None) -> tuple[LoadReport, int]:
    """Run the load; returns the report, and the signal that ended it (0: none). A second signal kills."""
    stop = asyncio.Event()
    received = 0
    loop = asyncio.get_running_loop()

    def end(number: signal.Signals) -> None:
        nonlocal received
        received = number
        stop.set()
        for handled in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(handled)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end, number)
    with display or nullcontext():
        return await run_load(plan, display, stop=stop), received


def main() -> None:
    """Entry point of ``numa-loadgen``."""
    app()
