"""The argument SOURCE of commands: loads the machine that it means, with notes on stderr."""

from __future__ import annotations

import typer

from numa_service.machine.spec import MachineSpec


def load(source: str) -> MachineSpec:
    """Load the machine that `source` means, and print its notes. SpecError if there is none."""
    # imported here: it imports the readers of all formats, which only commands with a SOURCE need
    from numa_service.machine import source as machine_source

    spec = machine_source.load(source)
    tell(spec.notes)
    return spec


def tell(notes: list[str] | tuple[str, ...]) -> None:
    """Print notes on stderr, a line for each that is not empty; stdout is for results."""
    for note in filter(None, notes):
        typer.echo(f"note: {note}", err=True)
