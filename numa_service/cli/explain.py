"""``explain``: tells why an allocation goes where it goes, on a machine booted here or on a running one."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import typer
from numa_client import Explanation, InvalidRequest, Machine, NumaError
from numa_client import Policy as ClientPolicy

from numa_service.cli.compile import compile_first
from numa_service.cli.fill import Fill, fill
from numa_service.cli.source import load, tell
from numa_service.cluster import lifecycle
from numa_service.cluster.errors import ClusterError
from numa_service.machine.spec import MachineSpec
from numa_service.machine.sysctl import without_effect
from numa_service.node import ops
from numa_service.node.errors import NodeError
from numa_service.node.mempolicy import checked_policy
from numa_service.node.occupy import start_in_use
from numa_service.node.page_alloc import alloc_pages
from numa_service.node.prepare import AllocRequest
from numa_service.node.unserved import Unserved
from numa_service.rpc import convert
from numa_service.sim.simulation import Simulation

ANSWER_SECONDS = 10.0


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("explain")(explain)


def explain(
    source: Annotated[
        str | None, typer.Argument(help="A preset, a machine file, or what `import` reads: booted here.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Use a machine that is up, instead of SOURCE.")] = None,
    cpu: Annotated[int, typer.Option(min=0, help="The CPU that allocates.")] = 0,
    order: Annotated[int, typer.Option(min=0, help="Order of the blocks: each has 2^order pages.")] = 0,
    count: Annotated[int, typer.Option(min=1, help="Number of blocks.")] = 1,
    gfp: Annotated[
        str, typer.Option(help="GFP flags as the kernel prints them, joined by |.")
    ] = "GFP_KERNEL",
    policy: Annotated[
        str,
        typer.Option(
            help="Memory policy: default, local, bind:0,1, preferred:2, interleave:0-3, "
            "weighted-interleave:0-3 or preferred-many:0,2."
        ),
    ] = "default",
    fills: Annotated[
        list[str] | None,
        typer.Option(
            "--fill",
            metavar="NODE=PAGES|N%[:KIND]",
            help="First take pages of a node: held (default), anon or file, of which reclaim can take "
            "the last two. May be repeated; order counts. Only with SOURCE.",
        ),
    ] = None,
    sysctl: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Write a sysctl after boot. Only with SOURCE."),
    ] = None,
    empty: Annotated[
        bool,
        typer.Option("--empty", help="Start fresh, also where SOURCE says what was free. Only with SOURCE."),
    ] = False,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            envvar="NUMA_SERVICE_ADDRESS",
            help="With --name: address of the Ray head node.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Tell why an allocation goes where it goes: every zone, with the numbers that the kernel compares.

    It is a real allocation, given back at once; the machine's counters show it.
    """
    if (source is None) == (name is None):
        raise typer.BadParameter("say SOURCE, or --name of a machine that is up")
    if name is not None and (fills or sysctl or empty):
        raise typer.BadParameter("--fill, --sysctl and --empty change a machine: only with SOURCE")
    try:
        asked = ClientPolicy.parse(policy)
        if source is not None:
            spec = load(source)
            wanted = [Fill.parse(text, spec) for text in fills or []]
            compile_first()
            answer = explain_here(spec, cpu, order, count, gfp, asked, wanted, sysctl or [], empty)
        else:
            assert name is not None
            answer = _explain_there(name, address, cpu, order, count, gfp, asked)
    except (NumaError, NodeError, ClusterError) as error:
        typer.echo(f"numa-service: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(json.dumps(dataclasses.asdict(answer), indent=1) if as_json else str(answer))


def explain_here(
    spec: MachineSpec,
    cpu: int,
    order: int,
    count: int,
    gfp: str,
    policy: ClientPolicy,
    fills: list[Fill],
    sysctls: list[str],
    empty: bool = False,
) -> Explanation:
    """Boot a machine in this process, write the sysctls, fill nodes, and explain an allocation on it.

    It starts as full as its source says, unless `empty`.
    NodeError when the allocation is refused, InvalidRequest when no node has the CPU.
    """
    sim = Simulation(spec)
    if not empty:
        tell(start_in_use(spec, sim.nodes.values()))
    for assignment in sysctls:
        key, equals, value = assignment.partition("=")
        if not equals:
            raise typer.BadParameter(f"{assignment!r} is not KEY=VALUE", param_hint="--sysctl")
        for node in sim.nodes.values():
            node.apply(ops.WriteSysctl(key.strip(), value.strip()))
        tell([without_effect(key, value, spec.profile)])
    for one in fills:
        got = fill(sim, one)
        if got < one.pages:
            typer.echo(f"node {one.nid} gave {got} of {one.pages} pages", err=True)
    home = next((node for node in sim.nodes.values() if cpu in node.pgdat.cpus), None)
    if home is None:
        raise InvalidRequest(f"no CPU {cpu} in machine {spec.name!r}", field="cpu")
    session = home.apply(ops.OpenSession("explain", ops.FOREVER_NS, 0))
    request = AllocRequest(
        session,
        convert.gfp(gfp),
        order,
        count,
        cpu,
        checked_policy(policy, spec.nids, home.machine.profile),
        explain=True,
    )
    try:
        explanation = sim.call(home.nid, alloc_pages(home, request)).explanation
    except Unserved as failed:
        if failed.explanation is None:
            raise
        explanation = failed.explanation
    assert explanation  # the request asked for it
    return explanation


def _explain_there(
    name: str, address: str | None, cpu: int, order: int, count: int, gfp: str, policy: ClientPolicy
) -> Explanation:
    [running] = lifecycle.status(name, address)
    with (
        Machine.connect(running.address, ANSWER_SECONDS) as machine,
        machine.session(cpu=cpu, name="numa-service explain") as session,
    ):
        # the end of the session frees the blocks
        return session.explain(order, count, gfp, policy=policy).explanation
