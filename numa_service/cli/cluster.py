"""``up``, ``status``, ``down``, ``sysctl``, ``memory-block``, ``targets``: machines on Ray."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, ParamSpec, TypeVar

import typer
from numa_client import Machine, NodeInfo, NodeState, NumaError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from numa_service.cli.progress import steps
from numa_service.cli.source import load, tell
from numa_service.cluster import lifecycle
from numa_service.cluster.errors import ClusterError
from numa_service.cluster.records import Record
from numa_service.cluster.running import RunningMachine
from numa_service.machine.notation import format_cpulist
from numa_service.mm.mmzone import PAGE_SIZE
from numa_service.web.options import ConsoleOptions

P = ParamSpec("P")
R = TypeVar("R")

ANSWER_SECONDS = 10.0

Address = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        envvar="NUMA_SERVICE_ADDRESS",
        help="The head of a Ray cluster, or auto; its token comes from Ray's own settings. "
        "Without it: a Ray on this host, on the loopback interface, started when needed.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The machine.")]
MaybeName = Annotated[str | None, typer.Argument(metavar="[NAME]", help="Show this machine only.")]

_STATUS_COLUMNS = ("node", "cpus", "zone", "free", "low", "kswapd", "reclaimed", "sessions", "lineage")
_NUMBERS = ("memory", "free", "low", "reclaimed", "sessions", "lineage")


def register(app: typer.Typer) -> None:
    """Add the commands to the app."""
    app.command("up")(up)
    app.command("status")(_one_line_errors(status))
    app.command("down")(down)
    app.command("sysctl")(_one_line_errors(sysctl))
    app.command("memory-block")(_one_line_errors(memory_block))
    app.command("targets")(targets)


def _one_line_errors(command: Callable[P, R]) -> Callable[P, R]:
    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except NumaError as error:
            raise ClusterError(str(error)) from None

    return run


def up(
    source: Annotated[str, typer.Argument(help="A preset, a machine file, or what `import` reads.")],
    name: Annotated[
        str | None,
        typer.Option(help="Name of the machine: a-z, 0-9 and -. The default is the name in its description."),
    ] = None,
    address: Address = None,
    console: Annotated[bool, typer.Option(help="Serve a web console of the machine.")] = True,
    console_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the console; 0 takes any free port.")
    ] = 0,
    console_host: Annotated[
        str,
        typer.Option(
            metavar="HOST",
            help="What it listens on, on the host of the machine's supervisor. It has no passwords: whoever "
            "reaches it sees the machine.",
        ),
    ] = "127.0.0.1",
    console_write: Annotated[
        bool,
        typer.Option("--console-write", help="Let users of the console allocate, free and write sysctls."),
    ] = False,
    empty: Annotated[
        bool, typer.Option("--empty", help="Start fresh, also where SOURCE says what was free.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Boot a machine on Ray and leave it running, each NUMA node in a process of its own."""
    spec = load(source)
    if empty:
        spec = dataclasses.replace(spec, occupancy=())
    elif spec.occupancy:
        tell(["memory starts as full as the source says; --empty starts fresh"])
    served = ConsoleOptions(console_host, console_port, console_write) if console else None
    with steps(Console(stderr=True)) as progress:
        running = lifecycle.up(spec, name or _name_from(spec.name), address, progress, served)
    if as_json:
        typer.echo(json.dumps(_plain(running), indent=1))
        return
    rows = [
        (*_node_cells(node), _mib(node.managed_pages), node.address, node.metrics_url, str(node.lineage))
        for node in running.info.nodes
    ]
    _print_machine(running, ("node", "cpus", "memory", "gRPC", "metrics", "lineage"), rows)


def status(name: MaybeName = None, address: Address = None, as_json: AsJson = False) -> None:
    """Show the machines that are up: nodes, zones, kswapd, sessions.

    Exit code 1 when one has ended without `down`, or has a node that keeps failing.
    """
    ended = [record for record in lifecycle.ended(address) if name in (None, record.name)]
    up = [] if name and ended else lifecycle.status(name, address)
    found = [(running, _states(running)) for running in up]
    if as_json:
        plain = {
            "machines": [_plain(running, states) for running, states in found],
            "ended": [_plain_record(record) for record in ended],
        }
        typer.echo(json.dumps(plain, indent=1))
    else:
        if not found and not ended:
            typer.echo("no machine is up")
        for running, states in found:
            rows = [row for node in running.info.nodes for row in _status_rows(node, states[node.node])]
            _print_machine(running, _STATUS_COLUMNS, rows)
        for record in ended:
            _print_record(record)
    if ended or any(running.failing for running in up):
        raise typer.Exit(1)


def down(
    name: MaybeName = None,
    everything: Annotated[bool, typer.Option("--all", help="Take down every machine.")] = False,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Take a machine down. A Ray that was started for it on this host ends with its last machine."""
    if (name is None) == (not everything):
        raise typer.BadParameter("say which machine, or --all")
    gone = lifecycle.down(name, address)
    typer.echo(json.dumps({"down": gone}) if as_json else f"down: {', '.join(gone) or 'nothing was up'}")


def sysctl(
    name: Name,
    assignments: Annotated[
        list[str],
        typer.Argument(metavar="KEY=VALUE...", help="Sysctls and their values, written in this order."),
    ],
    address: Address = None,
) -> None:
    """Write sysctls on every node of a running machine, with a kernel's effects."""
    pairs = [assignment.partition("=") for assignment in assignments]
    for assignment, (_, equals, _) in zip(assignments, pairs, strict=True):
        if not equals:
            raise typer.BadParameter(f"{assignment!r} is not KEY=VALUE")
    [running] = lifecycle.status(name, address)
    with Machine.connect(running.address, ANSWER_SECONDS) as machine:
        for key, _, value in pairs:
            tell([machine.write_sysctl(key.strip(), value.strip())])


def memory_block(
    name: Name,
    block: Annotated[
        int,
        typer.Argument(
            metavar="N", help="Number of the block: memoryN in sysfs, 128 MiB from N × 128 MiB on."
        ),
    ],
    state: Annotated[
        str, typer.Argument(help="New state: offline, online, online_kernel or online_movable.")
    ],
    address: Address = None,
) -> None:
    """Take a memory block of a running machine off-line or on-line, as a write to sysfs would."""
    [running] = lifecycle.status(name, address)
    with Machine.connect(running.address, ANSWER_SECONDS) as machine:
        machine.change_memory_block(block, state)


def targets(name: MaybeName = None, address: Address = None) -> None:
    """Print what Prometheus has to scrape, as JSON for file_sd_configs."""
    from numa_service.metrics.discovery import targets as groups

    found = lifecycle.status(name, address)
    typer.echo(
        json.dumps(
            [group for running in found for group in groups(running.info, running.targets_url)], indent=1
        )
    )


# output


def _name_from(name: str) -> str:
    """Make a valid machine name of the name in a machine's description."""
    return re.sub(r"[^a-z0-9-]+", "-", name.lower()).strip("-")[:40] or "machine"


def _node_cells(node: NodeInfo) -> tuple[str, str]:
    return str(node.node), format_cpulist(node.cpus) or "–"


def _mib(pages: int) -> str:
    return f"{pages * PAGE_SIZE >> 20:,} MiB"


def _print_machine(running: RunningMachine, columns: Sequence[str], rows: Sequence[tuple[str, ...]]) -> None:
    console = Console()
    if not console.is_terminal:
        console.width = 200  # a file or pipe has no width: do not wrap
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=True, justify="right" if column in _NUMBERS else "left")
    for row in rows:
        table.add_row(*row)
    console.print(f"[b]{running.info.name}[/b] ({running.info.profile})", highlight=False)
    console.print(table)
    console.print(f"machine  {running.address}", highlight=False)
    console.print(f"targets  {running.targets_url}", highlight=False)
    if running.console_url:
        console.print(f"console  {running.console_url}", highlight=False)
    for node in running.failing:
        why = "its worker-*.err in Ray's logs say why"
        console.print(f"failing  node {node.nid}: {escape(node.reason)} ({why})", highlight=False)


def _print_record(record: Record) -> None:
    name = record.name
    typer.echo(f"{name} ({record.profile}) has ended, about {_when(record.ended or 0)}: {record.cause}")
    typer.echo(f"up       since {_when(record.up_since)}, nodes: {record.nodes}; what they held is lost")
    if record.logs:
        typer.echo(f"logs     {record.logs}")
    typer.echo(f"to do    numa-service up SOURCE --name {name}  to start it again")
    typer.echo(f"         numa-service down {name}  to forget it")


def _when(seconds: float) -> str:
    """A time, seconds since the epoch, in the local time zone."""
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")


def _plain_record(record: Record) -> dict[str, Any]:
    """A record for --json, with times as ISO 8601 in UTC."""
    plain = dataclasses.asdict(record)
    del plain["ray"]
    for key in ("up_since", "ended"):
        plain[key] = datetime.fromtimestamp(plain[key], UTC).isoformat(timespec="milliseconds")
    return plain


def _states(running: RunningMachine) -> dict[int, NodeState | None]:
    """nid → current state of the node, None for one that does not answer."""
    with Machine.connect(running.address, ANSWER_SECONDS) as machine:
        return {node.node: _state(machine, node.node) for node in machine.info.nodes}


def _state(machine: Machine, nid: int) -> NodeState | None:
    try:
        return machine.node(nid)
    except NumaError:
        return None


def _status_rows(node: NodeInfo, state: NodeState | None) -> Iterator[tuple[str, ...]]:
    """A row for each zone; the columns of the node itself are filled in the first one."""
    if state is None:
        yield (*_node_cells(node), "", "", "", "restarts", "", "", str(node.lineage))
        return
    kswapd = "running" if state.kswapd.running else "sleeps"
    own = (kswapd, f"{state.kswapd.reclaimed_pages:,}", str(state.sessions), str(state.lineage))
    for index, zone in enumerate(zone for zone in state.zones if zone.present_pages):
        pages = (zone.zone, f"{zone.free_pages:,}", f"{zone.low_pages:,}")
        yield (*_node_cells(node), *pages, *own) if index == 0 else ("", "", *pages, "", "", "", "")


def _plain(running: RunningMachine, states: dict[int, NodeState | None] | None = None) -> dict[str, Any]:
    """A machine for --json. With `states` each node has a `state`, null while the node restarts."""
    nodes = []
    for node in running.info.nodes:
        plain = dataclasses.asdict(node)
        plain = {"nid": plain.pop("node"), **plain}  # the key that `failing` below has for it, too
        if states is not None:
            state = states[node.node]
            plain["state"] = dataclasses.asdict(state) if state else None
        nodes.append(plain)
    return {
        "name": running.info.name,
        "profile": running.info.profile,
        "address": running.address,
        "targets_url": running.targets_url,
        "console_url": running.console_url,
        "distances": running.info.distances,
        "failing": [dataclasses.asdict(node) for node in running.failing],
        "nodes": nodes,
    }
