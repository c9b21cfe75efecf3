"""The latency model as an ACPI HMAT has it, and as ``access0`` of a node's directory shows it.

An HMAT has a latency and a bandwidth for every pair; the kernel shows, of each memory, the nodes with CPUs
that are best at it, and their numbers (``drivers/acpi/numa/hmat.c``, ``drivers/base/node.c``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from numa_service.machine.latency import LatencyModel
from numa_service.machine.spec import MachineSpec
from numa_service.machine.zoneinfo import read_text
from numa_service.mm.snapshot import AccessSnapshot

_MB = 10**6
_MIB = 1 << 20


def has_hmat(spec: MachineSpec) -> bool:
    """Whether the machine has one: every one that is described here, and captured ones that showed theirs."""
    captured = any(zone.managed is not None for node in spec.nodes for zone in node.zones)
    # The kernel reads it since 5.2.
    return spec.profile != "linux-3.0" and (not captured or bool(spec.latency.read_ns))


def access_of(spec: MachineSpec) -> dict[int, AccessSnapshot]:
    """Each memory's best initiators and their numbers; empty without an HMAT."""
    if not has_hmat(spec):
        return {}
    return {node.nid: _access(spec, node.nid) for node in spec.nodes if node.zones}


def _access(spec: MachineSpec, nid: int) -> AccessSnapshot:
    # A node with CPUs is nearest to its own memory, whatever the numbers say (processor proximity domain).
    cpus = spec.own_cpus
    nids = [nid] if cpus[nid] else [node.nid for node in spec.nodes if cpus[node.nid]]
    seen = {of: _numbers(spec, of, nid) for of in nids}
    best = min(seen.values(), key=lambda numbers: (numbers[0], numbers[1], -(numbers[2] or 1 << 62)))
    return AccessSnapshot(tuple(of for of in nids if seen[of] == best), *best)


def _numbers(spec: MachineSpec, of: int, to: int) -> tuple[int, int, int | None]:
    latency, distance = spec.latency, spec.distance(of, to)
    limits = [mb for mb in (latency.memory_bandwidth(to), latency.link_bandwidth(of, to)) if mb]
    return (
        latency.read_latency_ns(of, to, distance),
        latency.write_latency_ns(of, to, distance),
        min(limits) * _MB // _MIB if limits else None,
    )


def latency_from_sysfs(tree: Path | None, nids: Iterable[int]) -> LatencyModel:
    """What ``access0`` below /sys/devices/system/node says; the defaults where it says nothing.

    Only of each memory's best initiators: the kernel does not show the rest of the HMAT.
    """
    model = LatencyModel()
    if tree is None:
        return model
    nids = tuple(nids)
    for nid in nids:
        folder = tree / f"node{nid}" / "access0" / "initiators"
        read, write = _number(folder / "read_latency"), _number(folder / "write_latency")
        bandwidth = _number(folder / "read_bandwidth")
        for of in _initiators(tree, nid, nids) if read else ():
            model = replace(
                model,
                read_ns=model.read_ns | {(of, nid): read},
                write_ns=model.write_ns | ({(of, nid): write} if write else {}),
            )
            if bandwidth:
                # upwards: MiB/s from it are what they were
                limit = -(-bandwidth * _MIB // _MB)
                links = {(of, nid): limit} if of != nid else {}
                model = replace(
                    model,
                    memory_mb_per_s=model.memory_mb_per_s | {nid: limit},
                    link_mb_per_s=model.link_mb_per_s | links,
                )
    return model


def _number(path: Path) -> int:
    text = read_text(path).strip() if path.is_file() else ""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


def _initiators(tree: Path, nid: int, nids: tuple[int, ...]) -> list[int]:
    """Nodes linked in ``access0/initiators``; captures of files only list links in ``symlinks.txt``."""
    folder = f"node{nid}/access0/initiators"
    listed = tree / "symlinks.txt"
    links = read_text(listed).splitlines() if listed.is_file() else []
    return [
        of
        for of in nids
        if (tree / folder / f"node{of}").exists()
        or any(link.startswith(f"{folder}/node{of} ->") for link in links)
    ]
