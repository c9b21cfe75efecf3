"""``cat``, ``ls``, ``mirror``, ``exec``: /proc and /sys of the emulated machine, read and lent to tools."""

from __future__ import annotations

import json
import os
import signal
import stat
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn, TypeVar

import typer
from numa_client import Machine, NumaError, Unavailable

from numa_service.cli.fill import Fill, fill
from numa_service.cli.mirror import File, Mirror
from numa_service.cluster import machine as machines
from numa_service.cluster.connect import detach
from numa_service.cluster.errors import ClusterError
from numa_service.machine.snapshot import IdleClock, assemble
from numa_service.machine.source import load
from numa_service.mm.snapshot import MachineSnapshot
from numa_service.node.inspect import cpu_time
from numa_service.procfs import tree
from numa_service.sim.simulation import Simulation

T = TypeVar("T")

#: Said when `exec` starts: programs go on with what they believe to see.
NOT_SEEN = (
    "numa-service: files show the machine, system calls the host: CPU affinity, memory policies, numa_maps "
    "and the /proc/self/status of child processes are the host's"
)
#: Exit status when the machine does not answer.
UNREACHABLE = 3

PathArgument = Annotated[str, typer.Argument(metavar="PATH", help="As on the machine, e.g. /proc/zoneinfo.")]
Source = Annotated[
    str | None,
    typer.Argument(
        metavar="[SOURCE]", help="A preset, a machine file, or what `import` reads, if there is no --name."
    ),
]
Name = Annotated[str | None, typer.Option("--name", metavar="MACHINE", help="Of a machine that is up.")]
Fills = Annotated[
    list[str] | None,
    typer.Option(
        "--fill",
        metavar="NODE=PAGES|N%[:KIND]",
        help="Before that, take pages of a node: held (default), anon or file. Repeat; order counts. "
        "Only with SOURCE.",
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT", envvar="NUMA_SERVICE_ADDRESS", help="With --name: the head of its Ray."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the app."""
    app.command("cat")(cat)
    app.command("ls")(ls)
    app.command("mirror")(mirror)
    app.command("exec")(exec_)


def cat(
    path: PathArgument,
    source: Source = None,
    name: Name = None,
    fills: Fills = None,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Print a file of the machine's /proc or /sys, byte by byte as its kernel would."""
    with looking(source, name, fills, address) as seen:
        text = seen.read_file(path) if isinstance(seen, Machine) else _or_fail(lambda: tree.read(seen, path))
    typer.echo(json.dumps({"path": path, "text": text}, indent=1) if as_json else text, nl=as_json)


def ls(
    path: PathArgument,
    source: Source = None,
    name: Name = None,
    fills: Fills = None,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """List a directory of the machine's /proc or /sys."""
    with looking(source, name, fills, address) as seen:
        found = (
            seen.list_dir(path) if isinstance(seen, Machine) else _or_fail(lambda: tree.listdir(seen, path))
        )
    if as_json:
        rows = [{"name": e.name, "mode": stat.filemode(e.mode), "target": e.target} for e in found]
        typer.echo(json.dumps(rows, indent=1))
        return
    for entry in found:
        arrow = f" -> {entry.target}" if entry.target else ""
        typer.echo(f"{stat.filemode(entry.mode)} {entry.name}{arrow}")


def mirror(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="New, empty, or a mirror already.")],
    source: Source = None,
    name: Name = None,
    fills: Fills = None,
    address: Address = None,
    every: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS", min=0.05, help="Again and again, until Ctrl-C or SIGTERM. With --name."
        ),
    ] = None,
) -> None:
    """Write the machine's /proc and /sys below DIR, for tools that can be told where to look.

    Every file is replaced as a whole: whoever reads it meanwhile reads the old one or the new one.
    """
    if every is not None and not name:
        raise typer.BadParameter(
            "nothing changes on a machine that is not up: use --name", param_hint="--every"
        )
    target = _or_fail(lambda: Mirror(directory))
    with looking(source, name, fills, address) as seen:
        files = _files(seen)
        _or_fail(lambda: target.write(files))
        told = ""
        if every is not None:
            # Ray, which has told the address and is not needed any more, takes SIGTERM for a crash
            detach()
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        while every is not None:
            time.sleep(every)
            try:
                files = _files(seen)
            except Unavailable as error:
                if told != str(error):
                    typer.echo(f"numa-service: {error}; what is there stays", err=True)
                told = str(error)
                continue
            told = ""
            _or_fail(lambda found=files: target.write(found))  # type: ignore[misc]


def exec_(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[SOURCE] -- CMD...",
            help="A preset, a machine file, or what `import` reads, if there is no --name; then the command.",
        ),
    ],
    name: Name = None,
    fills: Fills = None,
    address: Address = None,
) -> None:
    """Run a command that sees the emulated machine in /proc and /sys, as it is at that moment.

    In a mount namespace of its own: nothing changes for anybody else, nothing is left behind, and without
    root a user namespace allows it. Exit status and signals are the command's. What it asks by system calls,
    the host answers: sched_getaffinity, mbind and the like.
    """
    source, command = (None, words) if name else (words[0], words[1:])
    if not command:
        raise typer.BadParameter("no command to run: numa-service exec SOURCE -- CMD...")
    with looking(source, name, fills, address) as seen:
        files = _files(seen)
    if name:
        detach()
    typer.echo(NOT_SEEN, err=True)
    _run(files, command)


def _run(files: Sequence[File], command: list[str]) -> NoReturn:
    """Become the command. By way of a fresh interpreter: a user namespace needs a process of one thread."""
    handed = os.memfd_create("numa-service-files")
    with os.fdopen(handed, "w", closefd=False, encoding="utf-8") as out:
        json.dump(files, out)
    os.set_inheritable(handed, True)
    os.lseek(handed, 0, os.SEEK_SET)
    sys.stdout.flush()
    sys.stderr.flush()
    # -P: not what lies in the directory where the user happens to be
    arguments = [sys.executable, "-P", "-m", "numa_service.cli.namespace", str(handed), *command]
    os.execv(sys.executable, arguments)


@contextmanager
def looking(
    source: str | None, name: str | None, fills: list[str] | None, address: str | None
) -> Iterator[MachineSnapshot | Machine]:
    """The machine that is meant: one that is up, or one booted here for the occasion."""
    if (source is None) == (name is None):
        raise typer.BadParameter("either SOURCE or --name: which machine?")
    if name is not None:
        if fills:
            raise typer.BadParameter("--fill changes a machine: only with SOURCE")
        [running] = machines.status(name, address)
        try:
            with Machine.connect(running.address) as machine:
                yield machine
        except Unavailable as error:
            typer.echo(f"numa-service: {error}", err=True)
            raise typer.Exit(UNREACHABLE) from None
        except NumaError as error:
            raise ClusterError(str(error)) from None
        return
    assert source is not None
    booted = time.time()
    spec = load(source)
    wanted = [Fill.parse(text, spec) for text in fills or []]
    simulation = Simulation(spec)
    for one in wanted:
        fill(simulation, one)
    parts = [node.machine.node_part(nid, cpu_time(node), booted) for nid, node in simulation.nodes.items()]
    yield assemble(spec, parts, IdleClock().read(spec, parts, time.time()))


def _files(seen: MachineSnapshot | Machine) -> list[File]:
    if isinstance(seen, Machine):
        return [File(file.path, file.mode, file.target, file.text) for file in seen.read_tree("/")]
    return [File(path, entry.mode, entry.target, text) for path, entry, text in tree.walk(seen)]


def _or_fail(work: Callable[[], T]) -> T:
    try:
        return work()
    except OSError as error:
        typer.echo(f"numa-service: {error.filename}: {error.strerror}", err=True)
        raise typer.Exit(1) from None
