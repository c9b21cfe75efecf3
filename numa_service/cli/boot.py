"""``boot`` and ``presets``: boots a machine in this process, without Ray, and lists the presets."""

from __future__ import annotations

import dataclasses
import json
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from numa_service.cli.compile import compile_first
from numa_service.cli.source import load, tell
from numa_service.machine.boot import start_kernel
from numa_service.machine.presets import known_presets, list_presets
from numa_service.machine.spec import SpecError
from numa_service.machine.sysctl import without_effect
from numa_service.mm.snapshot import MachineSnapshot
from numa_service.node.node import Node
from numa_service.node.occupy import start_in_use
from numa_service.procfs import SHOW


class Show(StrEnum):
    """What `boot` can print: the keys of procfs.SHOW."""

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
            metavar="KEY=VALUE",
            help="Write a sysctl after boot, with its effects. May be repeated; order counts.",
        ),
    ] = None,
    slab: Annotated[
        str | None, typer.Option(help="The slab allocator in place of the machine's: slub, slab, slob.")
    ] = None,
    empty: Annotated[
        bool, typer.Option("--empty", help="Start fresh, also where SOURCE says what was free.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole snapshot as JSON.")] = False,
) -> None:
    """Boot a machine in this process, print what it looks like, and exit.

    It is as full and as fragmented as SOURCE says, where it says that.
    """
    spec = load(source)
    if slab is not None:
        spec = dataclasses.replace(spec, slab=slab)
    if spec.occupancy and not empty:
        compile_first()
    machine = start_kernel(spec)
    if not empty:
        # the nodes' arrays are those of the machine
        tell(start_in_use(spec, (Node(machine.of_node(nid), nid) for nid in spec.nids)))
    for assignment in sysctl or []:
        key, equals, value = assignment.partition("=")
        if not equals:
            raise typer.BadParameter(f"{assignment!r} is not KEY=VALUE", param_hint="--sysctl")
        machine.write_sysctl(key.strip(), value.strip())
        tell([without_effect(key, value, machine.spec.profile)])
    snapshot = machine.snapshot()
    typer.echo(json.dumps(_plain(snapshot), indent=1) if as_json else SHOW[show](snapshot), nl=as_json)


def _plain(snapshot: MachineSnapshot) -> dict[str, Any]:
    """The snapshot with strings as keys, for JSON.

    Zonelists are name → "nid:zone" → ["nid:zone", …], performance of memory is by "nid:access class".
    """
    plain = dataclasses.asdict(snapshot)
    plain["zonelists"] = {
        label: {
            f"{nid}:{zone}": [f"{n}:{z}" for n, z in refs]
            for (list_name, nid, zone), refs in snapshot.zonelists.items()
            if list_name == label
        }
        for label in ("general", "thisnode")
    }
    plain["access"] = {f"{nid}:{number}": seen for (nid, number), seen in plain["access"].items()}
    return plain


def presets(
    name: Annotated[str | None, typer.Argument(help="Print this preset's machine file.")] = None,
    zoo: Annotated[
        bool, typer.Option("--zoo", help="Only shapes that broke software; with what they broke.")
    ] = False,
    names: Annotated[bool, typer.Option("--names", help="Print the names only, a line each.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the machines that come with the service, or print one to start a machine file from."""
    known = list_presets()
    if name is not None:
        for preset in known:
            if preset.name == name:
                typer.echo(preset.text, nl=False)
                return
        raise SpecError(f"no preset {name!r}: {known_presets()}")
    known = [preset for preset in known if preset.broke or not zoo]
    if names:
        typer.echo("".join(f"{preset.name}\n" for preset in known), nl=False)
        return
    if as_json:
        rows = [
            {"name": p.name, "description": p.description}
            | ({"broke": p.broke, "source": p.source} if p.broke else {})
            for p in known
        ]
        typer.echo(json.dumps(rows, indent=1))
        return
    table = Table("preset", "what it is", *(["what it broke"] if zoo else []), show_lines=zoo)
    for preset in known:
        table.add_row(preset.name, preset.description, *([preset.broke] if zoo else []))
    Console().print(table)
