"""``numa-service``: exit codes are 0 done, 1 failed, 2 usage (and 130 on Ctrl-C)."""

from __future__ import annotations

import sys

import typer

from numa_service import __version__
from numa_service.cli import (
    boot,
    cluster,
    convert_trace,
    demo,
    diff_profiles,
    events,
    exchange,
    explain,
    files,
    inspect,
    latency,
    replay,
    tables,
    top,
    trace,
)
from numa_service.cluster.errors import ClusterError
from numa_service.machine.spec import SpecError
from numa_service.mm.memblock import BootMemoryError
from numa_service.trace.events import TraceError

app = typer.Typer(
    name="numa-service",
    help="NUMA machines as a service: describe a machine, boot it, drive it over gRPC.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _root(
    version: bool = typer.Option(False, "--version", help="Print the version and exit.", is_eager=True),
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


_COMMANDS = (
    boot,
    exchange,
    latency,
    explain,
    inspect,
    files,
    tables,
    replay,
    convert_trace,
    trace,
    diff_profiles,
    cluster,
    top,
    events,
    demo,
)

for commands in _COMMANDS:
    commands.register(app)


def main() -> None:
    """Run the command line; errors of the user's making are one line on stderr."""
    try:
        app()
    except (SpecError, TraceError, BootMemoryError, ClusterError) as e:
        typer.echo(f"numa-service: {e}", err=True)
        sys.exit(1)
    except BrokenPipeError:
        # the reader (head, less) has seen enough
        sys.stderr.close()
        sys.exit(1)
