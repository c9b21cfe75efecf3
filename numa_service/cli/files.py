"""``cat``, ``ls``, ``mirror``, ``exec``: read /proc and /sys of the machine, and show them to other tools."""

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
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from numa_client import Machine, NumaError, Unavailable
from typer.core import TyperCommand

from numa_service.calls import seccomp
from numa_service.calls.machine import MachineOfCalls
from numa_service.calls.served import ServedMachine
from numa_service.calls.simulated import SimulatedMachine
from numa_service.calls.supervisor import Supervisor
from numa_service.cli.compile import compile_first
from numa_service.cli.fill import Fill, fill
from numa_service.cli.mirror import File, Mirror
from numa_service.cli.source import tell
from numa_service.cluster import lifecycle
from numa_service.cluster.connect import detach
from numa_service.cluster.errors import ClusterError
from numa_service.machine.snapshot import IdleClock, assemble
from numa_service.machine.source import load
from numa_service.mm.snapshot import MachineSnapshot
from numa_service.node.occupy import start_in_use
from numa_service.node.struct_views import cpu_time
from numa_service.node.task_files import task_files
from numa_service.procfs import tree
from numa_service.sim.simulation import Simulation

T = TypeVar("T")

#: Printed when `exec` starts, as programs cannot see that some answers are the host's.
NOT_SEEN = (
    "numa-service: files show the machine, system calls the host: CPU affinity, memory policies, numa_maps "
    "and the /proc/self/status of child processes are the host's"
)
#: Exit status when the machine does not answer.
UNREACHABLE = 3
#: What --calls=report is for the parser, which knows no option with a value that may be missing.
REPORT = "--calls-and-report"

PathArgument = Annotated[
    str, typer.Argument(metavar="PATH", help="Path of the file on the machine, such as /proc/zoneinfo.")
]
Source = Annotated[
    str | None,
    typer.Argument(
        metavar="[SOURCE]", help="A preset, a machine file, or what `import` reads, if there is no --name."
    ),
]
Name = Annotated[
    str | None, typer.Option("--name", metavar="MACHINE", help="Read the files of a machine that is up.")
]
Fills = Annotated[
    list[str] | None,
    typer.Option(
        "--fill",
        metavar="NODE=PAGES|N%[:KIND]",
        help="First take pages of a node: held (default), anon or file. May be repeated; order counts. "
        "Only with SOURCE.",
    ),
]
Empty = Annotated[
    bool, typer.Option("--empty", help="Start fresh, also where SOURCE says what was free. Only with SOURCE.")
]
Address = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT", envvar="NUMA_SERVICE_ADDRESS", help="With --name: address of the Ray head node."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class _Exec(TyperCommand):
    """The command exec, with --calls=report."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments in front of the command's own."""
        end = args.index("--") if "--" in args else len(args)
        before = [REPORT if word == "--calls=report" else word for word in args[:end]]
        return super().parse_args(ctx, before + args[end:])


def register(app: typer.Typer) -> None:
    """Add the commands to the app."""
    app.command("cat")(cat)
    app.command("ls")(ls)
    app.command("mirror")(mirror)
    app.command("exec", cls=_Exec)(exec_)


def cat(
    path: PathArgument,
    source: Source = None,
    name: Name = None,
    fills: Fills = None,
    empty: Empty = False,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Print a file of the machine's /proc or /sys, byte by byte as its kernel would."""
    with looking(source, name, fills, address, empty) as seen:
        text = seen.read_file(path) if isinstance(seen, Machine) else _or_fail(lambda: tree.read(seen, path))
    typer.echo(json.dumps({"path": path, "text": text}, indent=1) if as_json else text, nl=as_json)


def ls(
    path: PathArgument,
    source: Source = None,
    name: Name = None,
    fills: Fills = None,
    empty: Empty = False,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """List a directory of the machine's /proc or /sys."""
    with looking(source, name, fills, address, empty) as seen:
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
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="A new or empty directory, or an earlier mirror.")
    ],
    source: Source = None,
    name: Name = None,
    fills: Fills = None,
    empty: Empty = False,
    address: Address = None,
    every: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            min=0.05,
            help="Write it every SECONDS until Ctrl-C or SIGTERM. Only with --name.",
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
    with looking(source, name, fills, address, empty) as seen:
        files = _files(seen)
        _or_fail(lambda: target.write(files))
        told = ""
        if every is not None:
            # Ray was needed for the machine's address only, and would treat SIGTERM as a crash
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
    empty: Empty = False,
    address: Address = None,
    calls: Annotated[
        bool,
        typer.Option(
            "--calls",
            help="Let the machine answer system calls too: memory policies, CPU affinity, move_pages. "
            "--calls=report: and list in the end what was asked, and who answered.",
        ),
    ] = False,
    report: Annotated[bool, typer.Option(REPORT, hidden=True)] = False,
) -> None:
    """Run a command that sees the emulated machine in /proc and /sys, as it is at that moment.

    In a mount namespace of its own: nothing changes for anybody else, nothing is left behind, and without
    root a user namespace allows it. Exit status and signals are the command's. What it asks by system calls,
    the host answers, sched_getaffinity, mbind and the like; with --calls the machine does.
    """
    source, command = (None, words) if name else (words[0], words[1:])
    if not command:
        raise typer.BadParameter("no command to run: numa-service exec SOURCE -- CMD...")
    if calls or report:
        if source is not None:
            here = booted(source, fills, empty)
            files = _files(here.look())
            _end_as(_run_answered(SimulatedMachine(here.simulation, here.look), files, command, report))
        with looking(source, name, fills, address) as served:
            assert isinstance(served, Machine)
            detach()
            status = _run_answered(ServedMachine(served), _files(served), command, report)
        _end_as(status)
    with looking(source, name, fills, address, empty) as seen:
        files = _files(seen)
    if name:
        detach()
    typer.echo(NOT_SEEN, err=True)
    _run(files, command)


def _run(files: Sequence[File], command: list[str]) -> NoReturn:
    """Replace this process by the command, through ``cli/namespace.py`` in a new interpreter.

    A process may only enter a user namespace while it has a single thread, and this one has several.
    """
    handed = _handed(files)
    os.set_inheritable(handed, True)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, _in_namespace(handed, "-", command))


def _run_answered(machine: MachineOfCalls, files: Sequence[File], command: list[str], report: bool) -> int:
    """Run the command and answer its calls; its exit status, -N if signal N ended it."""
    try:
        seccomp.check_host()
    except seccomp.Unsupported as error:
        raise ClusterError(str(error)) from None
    handed = _handed(files)
    supervisor = Supervisor(machine)
    sys.stdout.flush()
    status = supervisor.run(lambda answers: _in_namespace(handed, str(answers), command), handed)
    if report:
        typer.echo(supervisor.report(), err=True)
    return status


def _end_as(status: int) -> NoReturn:
    """End as a command did."""
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.exit(status)


def _handed(files: Sequence[File]) -> int:
    """A descriptor from which ``cli/namespace.py`` reads the files."""
    handed = os.memfd_create("numa-service-files")
    with os.fdopen(handed, "w", closefd=False, encoding="utf-8") as out:
        json.dump(files, out)
    os.lseek(handed, 0, os.SEEK_SET)
    return handed


def _in_namespace(handed: int, answers: str, command: list[str]) -> list[str]:
    """The command line of ``cli/namespace.py``."""
    # -P: do not import modules from the user's current directory
    return [sys.executable, "-P", "-m", "numa_service.cli.namespace", str(handed), answers, *command]


@contextmanager
def looking(
    source: str | None, name: str | None, fills: list[str] | None, address: str | None, empty: bool = False
) -> Iterator[MachineSnapshot | Machine]:
    """A client of the machine called `name`, or the snapshot of one that is booted here and filled.

    BadParameter unless exactly one of `source` and `name` is given; ClusterError when a call fails. The
    command exits with UNREACHABLE when the machine does not answer.
    """
    if (source is None) == (name is None):
        raise typer.BadParameter("either SOURCE or --name: which machine?")
    if name is not None:
        if fills or empty:
            raise typer.BadParameter("--fill and --empty change a machine: only with SOURCE")
        [running] = lifecycle.status(name, address)
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
    yield booted(source, fills, empty).look()


class Booted:
    """A machine that is booted in this process, and filled."""

    def __init__(self, simulation: Simulation, booted: float) -> None:
        """A machine that booted at this time, in seconds since 1970."""
        self.simulation = simulation
        self._booted = booted
        self._clock = IdleClock()

    def look(self) -> MachineSnapshot:
        """The machine as it is now."""
        parts = [
            node.machine.node_part(nid, cpu_time(node), self._booted, node.kmem.counts(), task_files(node))
            for nid, node in self.simulation.nodes.items()
        ]
        spec = self.simulation.spec
        return assemble(spec, parts, self._clock.read(spec, parts, time.time()))


def booted(source: str, fills: list[str] | None, empty: bool) -> Booted:
    """Boot a machine, as full as SOURCE says, and fill it."""
    began = time.time()
    spec = load(source)
    wanted = [Fill.parse(text, spec) for text in fills or []]
    if spec.occupancy and not empty:
        compile_first()
    simulation = Simulation(spec)
    if not empty:
        tell(start_in_use(spec, simulation.nodes.values()))
    for one in wanted:
        fill(simulation, one)
    return Booted(simulation, began)


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
