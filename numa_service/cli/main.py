"""``numa-service``: the entry point of the command line.

Exit statuses are 0 for success, 1 for a failure, 2 for wrong usage, and 130 after Ctrl-C; `why` also has 3.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

from numa_service import __version__

#: Module → its commands, in the order of the help. Only the module of the command that runs is imported, as
#: importing all of them takes a second.
_COMMANDS = {
    "boot": ("boot", "presets"),
    "exchange": ("import", "export"),
    "latency": ("latency",),
    "explain": ("explain",),
    "why": ("why",),
    "inspect": ("inspect",),
    "files": ("cat", "ls", "mirror", "exec"),
    "tables": ("stat", "hardware", "buddyinfo", "zoneinfo", "vmstat"),
    "replay": ("replay",),
    "convert_trace": ("convert-trace",),
    "compare": ("compare",),
    "compare_slab": ("compare-slab",),
    "trace": ("trace",),
    "diff_profiles": ("diff-profiles",),
    "cluster": ("up", "status", "down", "sysctl", "memory-block", "targets"),
    "top": ("top",),
    "events": ("events",),
    "demo": ("demo",),
}
_MODULE_OF = {command: module for module, commands in _COMMANDS.items() for command in commands}


class _Commands(TyperGroup):
    """A group of commands whose modules are imported when a command is looked up."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The name of every command."""
        return list(_MODULE_OF)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name, or None."""
        module = _MODULE_OF.get(cmd_name)
        if module is None:
            return None
        if cmd_name not in self.commands:
            of_module = typer.Typer(context_settings=_HELP, pretty_exceptions_enable=False)
            import_module(f"numa_service.cli.{module}").register(of_module)
            self.commands.update(typer.main.get_group(of_module).commands)
        return self.commands[cmd_name]


_HELP = {"help_option_names": ["-h", "--help"]}

app = typer.Typer(
    name="numa-service",
    cls=_Commands,
    help="NUMA machines as a service: describe a machine, boot it, drive it over gRPC.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings=_HELP,
)


@app.callback(invoke_without_command=True)
def _root(
    version: bool = typer.Option(False, "--version", help="Print the version and exit.", is_eager=True),
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line."""
    run(app, "numa-service")


def run(commands: typer.Typer, name: str) -> None:
    """Run a command line called `name`. Errors that the user can mend become one line on stderr."""
    try:
        commands()
    except BrokenPipeError:
        # the reader (head, less) has seen enough
        sys.stderr.close()
        sys.exit(1)
    except Exception as error:
        if not _is_the_users(error):
            raise
        typer.echo(f"{name}: {_printable(str(error))}", err=True)
        sys.exit(1)


def _printable(text: str) -> str:
    """The text of an error without control characters and of limited length: it may quote from any file."""
    from numa_service.machine.notation import one_line

    return "\n".join(one_line(line, 1000) for line in text.splitlines()[:50])


def _is_the_users(error: Exception) -> bool:
    from numa_service.cluster.errors import ClusterError
    from numa_service.machine.spec import SpecError
    from numa_service.mm.memblock import BootMemoryError
    from numa_service.trace.events import TraceError

    return isinstance(error, SpecError | TraceError | BootMemoryError | ClusterError)
