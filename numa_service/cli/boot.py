"""``boot`` and ``presets``: machines in this process, without Ray."""

from __future__ import annotations

import dataclasses
import json
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from numa_service.cli.source import load, tell
from numa_service.machine.boot import start_kernel
from numa_service.machine.presets import list_presets
from numa_service.machine.spec import SpecError
from numa_service.machine.sysctl import without_effect
from numa_service.mm.snapshot import MachineSnapshot
from numa_service.procfs import SHOW


class Show(StrEnum):
    """What can be shown: the files of procfs.SHOW."""

    zoneinfo = "zoneinfo"
    buddyinfo = "buddyinfo"
    pagetypeinfo = "pagetypeinfo"
    vmstat = "vmstat"
    meminfo = "meminfo"
    zonelists = "zonelists"
    dmesg = "dmesg"
    numactl = "numactl"


def register(app: typer.Typer) -> None:
    """Add the commands to the app."""
    app.command("boot")(boot)
    app.command("presets")(presets)


def boot(
    source: Annotated[str, typer.Argument(help="A preset, a machine file, or what `import` reads.")],
    show: Annotated[Show, typer.Option(help="What to print, in the kernel's own format.")] = Show.dmesg,
    sysctl: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE", help="Write a sysctl after boot, with its effects. Repeat; order counts."
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the whole snapshot as JSON instead.")
    ] = False,
) -> None:
    """Boot a machine in this process, print what it looks like, and exit."""
    machine = start_kernel(load(source))
    for assignment in sysctl or []:
        key, equals, value = assignment.partition("=")
        if not equals:
            raise typer.BadParameter(f"{assignment!r} is not KEY=VALUE", param_hint="--sysctl")
        machine.write_sysctl(key.strip(), value.strip())
        tell([without_effect(key, value, machine.spec.profile)])
    snapshot = machine.snapshot()
    typer.echo(json.dumps(_plain(snapshot), indent=1) if as_json else SHOW[show](snapshot), nl=as_json)


def _plain(snapshot: MachineSnapshot) -> dict[str, Any]:
    """The snapshot with keys that JSON can have: zonelists as list name → "nid:zone" → ["nid:zone", …]."""
    plain = dataclasses.asdict(snapshot)
    plain["zonelists"] = {
        label: {
            f"{nid}:{zone}": [f"{n}:{z}" for n, z in refs]
            for (list_name, nid, zone), refs in snapshot.zonelists.items()
            if list_name == label
        }
        for label in ("general", "thisnode")
    }
    return plain


def presets(
    name: Annotated[str | None, typer.Argument(help="Print this preset's machine file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """List the machines that come with the service, or print one to start a machine file from."""
    known = list_presets()
    if name is not None:
        for preset in known:
            if preset.name == name:
                typer.echo(preset.text, nl=False)
                return
        raise SpecError(f"no preset {name!r}: {', '.join(preset.name for preset in known)}")
    if as_json:
        typer.echo(json.dumps([{"name": p.name, "description": p.description} for p in known], indent=1))
        return
    table = Table("preset", "what it is")
    for preset in known:
        table.add_row(preset.name, preset.description)
    Console().print(table)
