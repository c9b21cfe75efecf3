"""SOURCE on the command line: what the machine cannot say of it is told on stderr."""

from __future__ import annotations

import typer

from numa_service.machine.spec import MachineSpec


def load(source: str) -> MachineSpec:
    """The machine that `source` means, its notes printed; SpecError if it means none."""
    from numa_service.machine import source as machine_source  # every format, and what checks a machine file

    spec = machine_source.load(source)
    tell(spec.notes)
    return spec


def tell(notes: list[str] | tuple[str, ...]) -> None:
    """Notes, one a line and empty ones not at all, on stderr: stdout is the result's."""
    for note in filter(None, notes):
        typer.echo(f"note: {note}", err=True)
