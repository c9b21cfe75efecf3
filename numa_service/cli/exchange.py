"""``import`` and ``export``: reads and writes machines in the formats of other tools."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from numa_service.cli.source import tell
from numa_service.machine.formats.detect import read_source
from numa_service.machine.formats.draft import machine_name
from numa_service.machine.formats.export import export as export_machine
from numa_service.machine.formats.machine_toml import to_spec, to_toml
from numa_service.machine.input_files import MAX_BYTES
from numa_service.machine.source import load
from numa_service.machine.spec import SpecError


class ImportFormat(StrEnum):
    """Formats that `import` can read."""

    toml = "toml"
    capture = "capture"
    sysfs = "sysfs"
    hwloc_xml = "hwloc-xml"
    synthetic = "synthetic"
    numactl = "numactl"
    qemu = "qemu"
    mem_info = "mem-info"
    acpi = "acpi"
    boot_log = "boot-log"
    libvirt = "libvirt"
    lscpu = "lscpu"
    lstopo = "lstopo"
    numastat = "numastat"
    zoneinfo = "zoneinfo"
    buddyinfo = "buddyinfo"
    kubelet = "kubelet"
    cloud_hypervisor = "cloud-hypervisor"
    virtme_ng = "virtme-ng"


class ExportFormat(StrEnum):
    """Formats that `export` can write."""

    toml = "toml"
    hwloc_xml = "hwloc-xml"
    synthetic = "synthetic"
    qemu = "qemu"
    dot = "dot"
    svg = "svg"


_Output = Annotated[Path | None, typer.Option("--output", "-o", help="Write to this file instead of stdout.")]
_Force = Annotated[bool, typer.Option("--force", help="Overwrite the file if it exists.")]
_Json = Annotated[bool, typer.Option("--json", help="Print a JSON object with the text and the notes.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the app."""
    app.command("import")(import_machine)
    app.command("export")(export)


def import_machine(
    source: Annotated[
        str,
        typer.Argument(
            metavar="FROM",
            help="A file, a directory, - for stdin, or a synthetic description ('pack:2 core:4 pu:2').",
        ),
    ],
    form: Annotated[
        ImportFormat | None,
        typer.Option("--format", help="Format of the source. The default is to detect it."),
    ] = None,
    output: _Output = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the machine. The default is the name of the file.")
    ] = None,
    force: _Force = False,
    as_json: _Json = False,
) -> None:
    """Make a machine file of what another tool says of a machine. What is assumed or left out is noted."""
    stdin = sys.stdin.buffer.read(MAX_BYTES + 1) if source == "-" else None
    if stdin is not None and len(stdin) > MAX_BYTES:
        raise SpecError(f"standard input: more than {MAX_BYTES >> 20} MiB")
    draft = read_source(source, form.value if form else None, stdin)
    if name is not None:
        draft.name = machine_name(name)
    to_spec(draft, source[:200])  # raises SpecError if the machine file would not load
    text = to_toml(draft, f"Imported by numa-service import from {_called(source)}.")
    _deliver(text, draft.notes, output, force=force, as_json=as_json)


def export(
    source: Annotated[str, typer.Argument(help="A preset, a machine file, or what import reads.")],
    to: Annotated[ExportFormat, typer.Option("--to", help="The format to write.")],
    output: _Output = None,
    force: _Force = False,
    as_json: _Json = False,
) -> None:
    """Write a machine in the format of another tool, or as a picture. What the format cannot say is noted."""
    spec = load(source)
    text, notes = export_machine(spec, to.value, f"Exported by numa-service from {_called(source)}.")
    _deliver(text, notes, output, force=force, as_json=as_json)


def _called(source: str) -> str:
    """The name of a source for the written file, which others read: without paths of this host."""
    path = Path(source)
    try:
        return (path.resolve().name or "the host") if path.exists() else source[:100]
    except (OSError, ValueError):
        return source[:100]


def _deliver(text: str, notes: list[str], output: Path | None, *, force: bool, as_json: bool) -> None:
    if output is not None:
        write_file(output, text, force=force)
    if as_json:
        where = {"text": text} if output is None else {"file": str(output)}
        typer.echo(json.dumps({"notes": notes, **where}, indent=1))
        return
    tell(notes)
    if output is None:
        typer.echo(text, nl=False)


def write_file(path: Path, text: str, *, force: bool) -> None:
    """Write a file atomically. SpecError if it exists (unless `force`), or cannot be written."""
    if path.exists() and not force:
        raise SpecError(f"{path}: it exists: give another name, or --force to overwrite it")
    if path.is_dir():
        raise SpecError(f"{path}: it is a directory")
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as file:
            temporary = Path(file.name)
            file.write(text)
        temporary.chmod(0o666 & ~_umask())
        if force:
            temporary.replace(path)
        else:
            os.link(temporary, path)  # fails if another process has created the file meanwhile
    except FileExistsError:
        raise SpecError(f"{path}: it exists: give another name, or --force to overwrite it") from None
    except OSError as error:
        raise SpecError(f"{path}: {error.strerror or error}") from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
