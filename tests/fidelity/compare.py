"""Compare what the emulator computes with what real kernels printed, field by field.

Each captured machine is booted here, and the sysctls of each `after-` file are written in the order in which
the guest wrote them. Then min, low, high, protection, pageset high and batch, and the vmstat threshold of
every populated zone are compared with the captured ones, and so are the extents of zones, the fallback order
and zonelists of every node, and min_free_kbytes. No field here has a tolerance.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from procfs.parse import machine_of_zoneinfo

from numa_service.machine.boot import start_kernel
from numa_service.machine.booted import BootedMachine
from numa_service.machine.cmdline import parse_cmdline
from numa_service.machine.source import load
from numa_service.machine.sysctl import SYSCTLS
from numa_service.machine.zones import (
    PfnRange,
    count_pages,
    find_zone_movable_pfns_for_nodes,
    layout_zones,
    merge,
    movable_zone,
)
from numa_service.mm.snapshot import MachineSnapshot, ZoneSnapshot

_RATIO = "vm.lowmem_reserve_ratio"
_EARLY_RANGE = re.compile(r"  node +(\d+): \[mem 0x([0-9a-f]+)-0x([0-9a-f]+)\]")
_FOR = re.compile(r"^for v in ([^;\n]+); do (.+); done", re.MULTILINE)
_TAGGED = re.compile(r"\b(?:sc|set1) ([\w.-]+)")


@dataclass(frozen=True, slots=True)
class Field:
    """One number, captured and computed."""

    capture: str
    #: "boot", or the `after-` file's name.
    file: str
    kind: str
    where: str
    captured: object
    computed: object
    #: Largest allowed difference; 0 unless the number depends on more than the capture tells.
    slack: int = 0
    #: Cause of an allowed difference.
    cause: str = ""
    #: The CPU for which it was printed; a number that is the same for every CPU counts once.
    cpu: int | None = None
    #: Whether it is computed here. A number that is taken over from the capture is compared but not counted.
    computed_here: bool = True

    @property
    def equal(self) -> bool:
        """Whether the two are exactly the same."""
        return self.captured == self.computed

    @property
    def number(self) -> tuple[str, str, str, str] | None:
        """Key by which distinct numbers are counted; None for a number that is not computed, and for 0 and 0.

        A number that a file repeats for every CPU, or that is the same as in an earlier file of the same
        capture, has the same key.
        """
        if self.explained and (not self.computed_here or self.captured == self.computed == 0):
            return None
        return self.capture, self.kind, self.where, str(self.captured)

    @property
    def explained(self) -> bool:
        """Whether the two are equal, or differ by no more than `slack`, for a listed cause."""
        if isinstance(self.captured, int) and isinstance(self.computed, int):
            return abs(self.captured - self.computed) <= self.slack
        return self.equal


def compare(capture: Path) -> Iterator[Field]:
    """Compare every field of one capture."""
    machine = start_kernel(load(str(capture)))
    yield from _extents(capture, machine)
    yield from _zoneinfo(capture, "boot", capture / "zoneinfo.txt", machine)
    yield from _fallback_order(capture, machine)
    yield from _min_free_kbytes(capture, machine)
    # the handler of this one recomputes even when it is read, and every snapshot reads all sysctls, after
    # the first zoneinfo
    machine.write_sysctl(_RATIO, machine.sysctls.get(_RATIO) or "")
    for tag in _in_the_order_written(capture):
        name = f"after-{tag}"
        for key, value in _written(capture / f"sysctl.{name}.txt", tag, machine):
            machine.write_sysctl(key, value)
        yield from _zoneinfo(capture, name, capture / f"zoneinfo.{name}.txt", machine)


def _in_the_order_written(capture: Path) -> list[str]:
    """Tags of the `after-` files in the order in which guest.sh writes them; unknown tags come last.

    The order matters: until the first sysctl that makes the kernel recompute watermarks, they are those of
    boot.
    """
    tags = [path.name[len("zoneinfo.after-") : -len(".txt")] for path in capture.glob("zoneinfo.after-*.txt")]
    script = (capture / "guest.sh").read_text() if (capture / "guest.sh").is_file() else ""
    script = _FOR.sub(lambda loop: "\n".join(loop[2].replace("$v", v) for v in loop[1].split()), script)
    made = {tag: at for at, tag in enumerate(_TAGGED.findall(script))}
    return sorted(tags, key=lambda tag: (made.get(tag, len(made)), tag))


def read_sysctls(path: Path) -> dict[str, str]:
    """Parse lines of `key = value`."""
    return dict(line.split(" = ", 1) for line in path.read_text().splitlines() if " = " in line)


def _written(after: Path, tag: str, machine: BootedMachine) -> list[tuple[str, str]]:
    """Sysctls of an `after-` file that differ from the machine's, and the one that names the file.

    The guest wrote that one even if its value stayed the same.
    """
    now = machine.sysctls.as_dict()
    return [
        (key, value)
        for key, value in read_sysctls(after).items()
        if key in SYSCTLS
        and (key.removeprefix("vm.") == tag.split("-")[0] or value.split() != now.get(key, "").split())
    ]


def _zoneinfo(capture: Path, file: str, path: Path, machine: BootedMachine) -> Iterator[Field]:
    captured: MachineSnapshot = machine_of_zoneinfo(path.read_text())
    computed = {(z.nid, z.name): z for n in machine.snapshot().nodes for z in n.zones}
    tuned = machine.profile.has_promo  # 6.12 moves pageset high at run time: state, not a computed number
    for zone in (z for node in captured.nodes for z in node.zones if z.populated):
        yield from zone_fields(capture.name, file, zone, computed[zone.nid, zone.name], tuned=tuned)


def zone_fields(
    capture: str,
    file: str,
    zone: ZoneSnapshot,
    ours: ZoneSnapshot,
    *,
    tuned: bool,
    managed_computed: bool = False,
) -> Iterator[Field]:
    """The numbers of one zone, captured and computed; managed pages may be taken over from the capture."""
    where = f"{zone.nid}:{zone.name}"

    def row(kind: str, theirs: object, mine: object, where: str = where, cpu: int | None = None) -> Field:
        return Field(capture, file, kind, where, theirs, mine, cpu=cpu)

    managed = row("managed" if managed_computed else "managed (taken over)", zone.managed, ours.managed)
    yield replace(managed, computed_here=managed_computed)
    for kind in ("min", "low", "high"):
        yield row(kind, getattr(zone, f"wmark_{kind}"), getattr(ours, f"wmark_{kind}"))
    if tuned:
        yield row("promo", zone.wmark_promo, ours.wmark_promo)
    for upper, (theirs, mine) in enumerate(zip(zone.protection, ours.protection, strict=True)):
        yield row("protection", theirs, mine, f"{where}[{upper}]")
    for theirs_pcp, our_pcp in zip(zone.pagesets, ours.pagesets, strict=True):
        cpu = our_pcp.cpu
        yield row("pageset batch", theirs_pcp.batch, our_pcp.batch, cpu=cpu)
        yield row("vm stats threshold", theirs_pcp.stat_threshold, our_pcp.stat_threshold, cpu=cpu)
        if not tuned:
            yield row("pageset high", theirs_pcp.high, our_pcp.high, cpu=cpu)


def _min_free_kbytes(capture: Path, machine: BootedMachine) -> Iterator[Field]:
    """min_free_kbytes computed for the same machine, without its captured value."""
    spec = machine.spec
    others = {key: value for key, value in spec.sysctls.items() if key != "vm.min_free_kbytes"}
    computed = start_kernel(replace(spec, sysctls=others), nids=()).sysctls.min_free_kbytes
    captured = int(read_sysctls(capture / "sysctl.txt")["vm.min_free_kbytes"])
    yield Field(capture.name, "boot", "min_free_kbytes", "machine", captured, computed)


def _early_ranges(text: str) -> dict[int, tuple[PfnRange, ...]]:
    """RAM by nid, from "Early memory node ranges"."""
    ranges: dict[int, list[PfnRange]] = {}
    for nid, start, last in _EARLY_RANGE.findall(text):
        ranges.setdefault(int(nid), []).append((int(start, 16) >> 12, int(last, 16) + 1 >> 12))
    return {nid: merge(pieces) for nid, pieces in ranges.items()}


def _extents(capture: Path, machine: BootedMachine) -> Iterator[Field]:
    """Compare zones computed from firmware ranges and command line with those of zoneinfo."""
    spec = machine.spec
    ram = _early_ranges((capture / "dmesg.txt").read_text())
    # numa=fake is in the log's ranges already; no machine here has mirrored memory, without which
    # kernelcore=mirror is ignored
    words = [word for word in spec.cmdline.split() if word.startswith(("kernelcore=", "movablecore="))]
    parameters = parse_cmdline(" ".join(word for word in words if word != "kernelcore=mirror"))
    _, lowest = movable_zone(spec.arch, merge(span for ranges in ram.values() for span in ranges))
    total = sum(map(count_pages, ram.values()))
    starts = (
        {}
        if "movable_node" in spec.cmdline.split()
        else find_zone_movable_pfns_for_nodes(
            ram, parameters.kernelcore.of(total), parameters.movablecore.of(total), lowest
        )
    )
    for node in spec.nodes:
        laid = layout_zones(spec.arch, ram.get(node.nid, ()), starts.get(node.nid), lowest)
        captured = [(z.name, z.start_pfn, z.spanned, z.present) for z in node.zones]
        computed = [(z.name, z.start_pfn, z.spanned, z.present) for z in laid]
        yield Field(capture.name, "boot", "zone extents", f"node {node.nid}", captured, computed)


def _fallback_order(capture: Path, machine: BootedMachine) -> Iterator[Field]:
    text = (capture / "dmesg.txt").read_text()
    for nid, order in re.findall(r"Fallback order for Node (\d+): ([\d ]+)", text):
        captured = tuple(map(int, order.split()))
        yield Field(
            capture.name, "boot", "fallback order", nid, captured, machine.zonelists[int(nid)].node_order
        )
    zonelists = machine.snapshot().zonelists
    for label, nid, zone, refs in re.findall(
        r"mminit::zonelist (general|thisnode) (\d+):(\w+) = (.*?) *$", text, flags=re.M
    ):
        computed = " ".join(f"{n}:{z}" for n, z in zonelists[label, int(nid), zone])
        yield Field(capture.name, "boot", "zonelist", f"{label} {nid}:{zone}", refs, computed)
