"""``stat``, ``hardware``, ``buddyinfo``, ``zoneinfo``, ``vmstat``: the tables that people look at first.

All of them read files of the machine's /proc and /sys, on a machine booted here as on a running one;
`hardware` and `stat` read the files that numactl and numastat read.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from typing import Annotated, Any

import typer
from numa_client import Machine, Unavailable
from rich.console import Console

from numa_service.cli.files import Address, AsJson, Fills, Name, Source, looking
from numa_service.procfs import tree

#: A function that returns the text of a file of the machine: path → text.
Read = Callable[[str], str]

_NODES = "/sys/devices/system/node"

Watch = Annotated[
    float | None,
    typer.Option(
        "--watch", metavar="SECONDS", min=0.1, help="Print it every SECONDS until Ctrl-C. Only with --name."
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands to the app."""
    for name, what, render, plain in (
        ("stat", "Print the NUMA counters of every node, as numastat does.", stat, stat_plain),
        (
            "hardware",
            "Print nodes, memory and distances, as numactl -H does.",
            hardware,
            hardware_plain,
        ),
        (
            "buddyinfo",
            "Print every zone's free blocks by order: /proc/buddyinfo.",
            None,
            buddyinfo_plain,
        ),
        ("zoneinfo", "Print every zone's marks, sizes and counters: /proc/zoneinfo.", None, zoneinfo_plain),
        ("vmstat", "Print the counters of the whole machine: /proc/vmstat.", None, vmstat_plain),
    ):
        command = _command(render or _proc(name), plain)
        app.command(name, help=what)(command)


def _proc(name: str) -> Callable[[Read], str]:
    return lambda read: read(f"/proc/{name}")


def _command(render: Callable[[Read], str], plain: Callable[[Read], Any]) -> Callable[..., None]:
    def command(
        source: Source = None,
        name: Name = None,
        watch: Watch = None,
        fills: Fills = None,
        address: Address = None,
        as_json: AsJson = False,
    ) -> None:
        if watch is not None and not name:
            raise typer.BadParameter(
                "nothing changes on a machine that is not up: use --name", param_hint="--watch"
            )
        with looking(source, name, fills, address) as seen:
            read = _reader(seen)
            while True:
                if as_json:
                    typer.echo(json.dumps(plain(read), indent=None if watch else 1))
                else:
                    _show(render(read), watch is not None)
                if watch is None:
                    return
                time.sleep(watch)
                while not _still_there(seen):
                    time.sleep(watch)

    return command


def _reader(seen: Any) -> Read:
    if isinstance(seen, Machine):
        return seen.read_file
    snapshot = seen.look()
    return lambda path: tree.read(snapshot, path)


def _still_there(seen: Any) -> bool:
    """Read the nodes' addresses again, as restarts change them; False while a node does not answer."""
    try:
        seen.refresh()
        seen.read_file(f"{_NODES}/online")
    except Unavailable as error:
        typer.echo(f"numa-service: {error}", err=True)
        return False
    return True


def _show(text: str, again: bool) -> None:
    console = Console()
    if again and console.is_terminal:
        console.clear()
    typer.echo(text, nl=False)
    if again and not console.is_terminal:
        typer.echo("")


def _nids(read: Read) -> list[int]:
    """The nids of the nodes that are on-line."""
    found: list[int] = []
    for part in read(f"{_NODES}/online").strip().split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


# numastat


def stat_plain(read: Read) -> dict[str, dict[str, int]]:
    """nid → counter of numastat → number of allocations."""
    return {str(nid): _pairs(read(f"{_NODES}/node{nid}/numastat")) for nid in _nids(read)}


def stat(read: Read) -> str:
    """The text that numastat(8) prints without options: a row for each counter, a column for each node."""
    nodes = stat_plain(read)
    lines = [" " * 16 + "".join(f"{f'node{nid}':>16}" for nid in nodes)]
    lines += [
        f"{name:<16}" + "".join(f"{counts[name]:>16}" for counts in nodes.values())
        for name in next(iter(nodes.values()))
    ]
    return "".join(f"{line}\n" for line in lines)


# numactl -H


def hardware_plain(read: Read) -> dict[str, Any]:
    """Nodes with CPUs, size and free memory in MiB, and the distances."""
    nodes = []
    distances = []
    for nid in _nids(read):
        cpus = _mask(read(f"{_NODES}/node{nid}/cpumap"))
        meminfo = dict(re.findall(r"(Mem\w+):\s+(\d+) kB", read(f"{_NODES}/node{nid}/meminfo")))
        size, free = (int(meminfo[key]) >> 10 for key in ("MemTotal", "MemFree"))
        nodes.append({"node": nid, "cpus": cpus, "size_mb": size, "free_mb": free})
        distances.append([int(word) for word in read(f"{_NODES}/node{nid}/distance").split()])
    return {"nodes": nodes, "distances": distances}


def _mask(text: str) -> list[int]:
    bits = int(text.strip().replace(",", ""), 16)
    return [cpu for cpu in range(bits.bit_length()) if bits >> cpu & 1]


def hardware(read: Read) -> str:
    """The text that ``numactl -H`` of numactl 2.0.16 prints."""
    found = hardware_plain(read)
    nids = [node["node"] for node in found["nodes"]]
    lines = [f"available: {len(nids)} nodes ({read(f'{_NODES}/online').strip()})"]
    for node in found["nodes"]:
        nid = node["node"]
        lines += [
            f"node {nid} cpus:" + "".join(f" {cpu}" for cpu in node["cpus"]),
            f"node {nid} size: {node['size_mb']} MB",
            f"node {nid} free: {node['free_mb']} MB",
        ]
    lines += ["node distances:", "node " + "".join(f"{nid: 3d} " for nid in nids)]
    for nid, row in zip(nids, found["distances"], strict=True):
        lines.append(f"{nid: 3d}: " + "".join(f"{distance: 3d} " for distance in row))
    return "".join(f"{line}\n" for line in lines)


# /proc


def buddyinfo_plain(read: Read) -> list[dict[str, Any]]:
    """For each zone: node, zone, and the number of free blocks of each order."""
    rows = re.findall(r"Node (\d+), zone\s+(\w+)\s+(.*)", read("/proc/buddyinfo"))
    return [
        {"node": int(nid), "zone": zone, "free_blocks": [int(n) for n in blocks.split()]}
        for nid, zone, blocks in rows
    ]


def zoneinfo_plain(read: Read) -> list[dict[str, Any]]:
    """For each zone: node, zone, and every number that /proc/zoneinfo prints before the per-CPU pagesets."""
    zones = []
    for part in re.split(r"^(?=Node \d+, zone)", read("/proc/zoneinfo"), flags=re.M)[1:]:
        head, _, rest = part.partition("\n")
        match = re.match(r"Node (\d+), zone\s+(\w+)", head)
        assert match
        fields = rest.partition("  pagesets")[0]
        values = {
            name: int(value) for name, value in re.findall(r"^\s+(?:pages )?(\w+)\s+(\d+)$", fields, re.M)
        }
        protection = re.search(r"protection: \(([^)]*)\)", fields)
        reserve = [int(n) for n in protection[1].split(",")] if protection else []
        zones.append({"node": int(match[1]), "zone": match[2], "protection": reserve} | values)
    return zones


def vmstat_plain(read: Read) -> dict[str, int]:
    """Name of the counter → value."""
    return _pairs(read("/proc/vmstat"))


def _pairs(text: str) -> dict[str, int]:
    return {name: int(value) for name, value in (line.split() for line in text.splitlines())}
