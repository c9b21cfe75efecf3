"""Others' files (hwloc, util-linux, PCP, UMF) as judges: what the original's own tool says of them, and ours.

A row is one question about one file. What is compared are numbers only: nodes, sizes, CPUs, packages, cores
and distances of the machine that is read from a file, with what the tool that it belongs to prints of it.
"""

from __future__ import annotations

import os
import re
import subprocess
import tarfile
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from numa_service.machine.boot import start_kernel
from numa_service.machine.notation import format_cpulist
from numa_service.machine.source import load
from numa_service.machine.spec import MachineSpec, SpecError

ROOT = Path(__file__).resolve().parents[2]
CORPORA = Path(os.environ.get("NUMA_CORPORA", ROOT.parent / "shared/corpora"))

_UNITS = {"KB": 10, "KiB": 10, "MB": 20, "MiB": 20, "GB": 30, "GiB": 30, "TB": 40, "TiB": 40}
_OBJECT = re.compile(r"( *)(\w+?)(?:\([^)]*\))?(?: L#\d+)?(?: \((?:P#(\d+)[ )]?)?(.*))?$")
_LOCAL = re.compile(r"\blocal=(\d+)([KMGT]i?B)\b")
_LOGICAL = re.compile(r"NUMANode(?:\([^)]*\))? L#(\d+) \(P#(\d+)")
_MATRIX = "Relative latency matrix (name NUMALatency"


@dataclass(frozen=True, slots=True)
class Row:
    """One question about one file, and the two answers."""

    judge: str
    file: str
    what: str
    theirs: str
    ours: str

    @property
    def agrees(self) -> bool:
        """Whether the answers are the same."""
        return self.theirs == self.ours


@dataclass(slots=True)
class Shape:
    """What a tool says of a machine; memory is in the unit that it was printed in, (number, bits)."""

    memory: dict[int, tuple[int, int]] = field(default_factory=dict)
    cpus: dict[int, set[int]] = field(default_factory=dict)
    pus: set[int] = field(default_factory=set)
    packages: int = 0
    cores: int = 0
    distances: list[list[int]] = field(default_factory=list)


# hwloc: trees beside which lies what lstopo prints of them


def hwloc_trees(folder: Path = CORPORA / "hwloc/linux") -> Iterator[Row]:
    """Rows of every tree that has an expected output of the same name."""
    for archive in sorted(folder.glob("*.tar.bz2")):
        stem = archive.name.removesuffix(".tar.bz2")
        # of a restricted process its whole machine, if that was printed too
        endings = (
            ("-disallowed.console", lstopo_console),
            (".console", lstopo_console),
            (".xml", lstopo_xml),
        )
        for ending, read in endings:
            expected = folder / f"{stem}{ending}"
            if expected.is_file():
                yield from _compared("hwloc trees", archive, read(expected.read_text(errors="replace")))
                break


def hwloc_xml(folder: Path = CORPORA / "hwloc/xml") -> Iterator[Row]:
    """Rows of every topology: what is read is compared with the attributes of its objects."""
    for path in sorted(folder.glob("*.xml")):
        yield from _compared("hwloc XML", path, lstopo_xml(path.read_text()))


def _compared(judge: str, path: Path, theirs: Shape) -> Iterator[Row]:
    try:
        spec = load(str(path))
    except SpecError as error:
        yield Row(judge, path.name, "is read", "yes", "no: " + str(error).rpartition(": ")[2])
        return
    yield Row(judge, path.name, "is read", "yes", "yes")
    managed = _managed(spec)
    ours = {node.nid: set(node.cpus) for node in spec.nodes}
    yield _row(judge, path, "nodes", format_cpulist(theirs.memory), format_cpulist(ours))
    yield _row(judge, path, "PUs", format_cpulist(theirs.pus), format_cpulist(spec.cpus))
    told = {nid: size for nid, size in theirs.memory.items() if size[0]}
    if told:
        yield _row(judge, path, "memory", _sizes(told), _rounded(told, managed))
    # where a node has no CPUs, theirs are those that are nearest
    own = {nid: cpus for nid, cpus in ours.items() if cpus}
    near = {nid: theirs.cpus.get(nid, set()) for nid in own}
    yield _row(judge, path, "CPUs of nodes", _lists(near), _lists(own))
    if theirs.packages:
        default = sum(bool(node.cpus) for node in spec.nodes)
        yield _row(judge, path, "packages", str(theirs.packages), str(len(spec.packages) or default))
    if theirs.cores:
        yield _row(judge, path, "cores", str(theirs.cores), str(len(spec.cores) or len(spec.cpus)))
    if theirs.distances and theirs.memory.keys() <= ours.keys():
        rows = [[spec.distance(a, b) for b in sorted(theirs.memory)] for a in sorted(theirs.memory)]
        yield _row(judge, path, "distances", str(theirs.distances), str(rows))


def _row(judge: str, path: Path, what: str, theirs: str, ours: str) -> Row:
    return Row(judge, path.name, what, theirs, ours)


def _managed(spec: MachineSpec) -> dict[int, int]:
    """Bytes that each node's kernel manages, which is what tools print as its memory."""
    managed: dict[int, int] = {node.nid: 0 for node in spec.nodes}
    for (nid, _), pages in start_kernel(spec).managed.items():
        managed[nid] += pages << 12
    return managed


def _rounded(theirs: dict[int, tuple[int, int]], managed: dict[int, int]) -> str:
    """Ours in the units of theirs; a tool may round up or down."""
    ours: dict[int, tuple[int, int]] = {}
    for nid, (number, bits) in theirs.items():
        near = managed.get(nid, 0) / (1 << bits)
        ours[nid] = (number, bits) if abs(near - number) < 1 else (round(near), bits)
    return _sizes(ours)


def _sizes(memory: dict[int, tuple[int, int]]) -> str:
    names = {bits: name for name, bits in _UNITS.items() if "i" in name} | {0: "B"}
    return " ".join(f"{nid}:{number}{names[bits]}" for nid, (number, bits) in sorted(memory.items()))


def _lists(cpus: dict[int, set[int]]) -> str:
    return " ".join(f"{nid}:{format_cpulist(own)}" for nid, own in sorted(cpus.items()))


def lstopo_console(text: str) -> Shape:
    """The shape in what ``lstopo -v --of console`` prints: objects by indentation, then matrices."""
    shape = Shape()
    above: list[tuple[int, str, set[int], list[int]]] = []
    body, _, matrices = text.partition(_MATRIX)
    for line in body.splitlines():
        found = _OBJECT.match(line)
        if not found or ("L#" not in line and not line.startswith("Machine")):
            continue
        depth, kind, number = len(found[1]), found[2], found[3]
        above = [one for one in above if one[0] < depth]
        if kind == "NUMANode":
            size = _LOCAL.search(line)
            nid = int(number or 0)
            while above[-1][1] == "MemCache":
                above.pop()
            shape.memory[nid] = (int(size[1]), _UNITS[size[2]]) if size else (0, 0)
            above[-1][3].append(nid)
            continue
        pus: set[int] = set()
        nids: list[int] = []
        if kind == "PU":
            for _, _, inside, _ in above:
                inside.add(int(number or 0))
            shape.pus.add(int(number or 0))
        shape.packages += kind == "Package"
        shape.cores += kind == "Core"
        above.append((depth, kind, pus, nids))
        for _, _, inside, near in above:
            shape.cpus |= dict.fromkeys(near, inside)
    head, *rows = [line.split() for line in matrices.splitlines()[1:]] or [[]]
    logical = {int(found[1]): int(found[2]) for found in _LOGICAL.finditer(body)}
    order = [logical[int(word)] for word in head[1:]]
    values = [list(map(int, row[1:])) for row in rows[: len(order)]]
    by_nid = sorted(range(len(order)), key=order.__getitem__)
    shape.distances = [[values[a][b] for b in by_nid] for a in by_nid]
    return shape


def lstopo_xml(text: str) -> Shape:
    """The shape in hwloc's XML."""
    shape = Shape()
    root = ElementTree.fromstring(text)
    allowed = _bits(next(root.iter("object")).get("allowed_nodeset"))
    for element in root.iter("object"):
        kind = element.get("type")
        number = int(element.get("os_index", "0"))
        if kind == "NUMANode" and (not allowed or number in allowed):
            shape.memory[number] = int(element.get("local_memory", "0")), 0
            shape.cpus[number] = _bits(element.get("cpuset"))
        elif kind == "PU":
            shape.pus.add(number)
        shape.packages += kind in ("Package", "Socket")
        shape.cores += kind == "Core"
    return shape


def _bits(mask: str | None) -> set[int]:
    words = [int(word or "0", 16) for word in (mask or "0x0").split(",") if word != "0xf...f"]
    value = 0
    for word in words:
        value = value << 32 | word
    return {bit for bit in range(value.bit_length()) if value >> bit & 1}


# util-linux: dumps that its tools read with --sysroot


def lscpu_dumps(folder: Path = CORPORA / "util-linux/lscpu") -> Iterator[Row]:
    """Rows of every dump: the tool's answers, and the machine's."""
    for archive in sorted(folder.glob("*.tar.gz")):
        with _unpacked(archive) as root:
            columns = _table("lscpu", "--sysroot", root, "-p=CPU,NODE,SOCKET,CORE")
            theirs = [[int(word or -1) for word in line.split(",")] for line in columns]
        spec = load(str(archive))
        name = "lscpu dumps"
        yield _row(name, archive, "CPUs", format_cpulist(row[0] for row in theirs), format_cpulist(spec.cpus))
        if any(row[1] >= 0 for row in theirs):
            nodes: dict[int, set[int]] = {}
            for cpu, nid, *_ in theirs:
                nodes.setdefault(nid, set()).add(cpu)
            own = {node.nid: set(node.cpus) for node in spec.nodes if node.cpus}
            yield _row(name, archive, "CPUs of nodes", _lists(nodes), _lists(own))
        sockets, cores = ({row[at] for row in theirs} for at in (2, 3))
        if -1 not in sockets:
            default = sum(bool(node.cpus) for node in spec.nodes)
            yield _row(name, archive, "sockets", str(len(sockets)), str(len(spec.packages) or default))
        if -1 not in cores:
            yield _row(name, archive, "cores", str(len(cores)), str(len(spec.cores) or len(spec.cpus)))


def lsmem_dumps(folder: Path = CORPORA / "util-linux") -> Iterator[Row]:
    """Rows of every dump of memory blocks: on-line memory by the tool, and RAM of the machine."""
    for archive in sorted([*folder.glob("lsmem/*.tar.bz2"), *folder.glob("chmem/*.tar.bz2")]):
        with _unpacked(archive) as root:
            summary = _table("lsmem", "--sysroot", root, "--summary=only", "--bytes")
        (online,) = (line.split()[-1] for line in summary if "online" in line and "offline" not in line)
        ours = sum(end - start for node in load(str(archive)).nodes for start, end in node.ram) << 12
        # page 0 and the hole below 1 MiB are no RAM of a PC
        lost = int(online) - ours
        told = online if 0 <= lost <= 1 << 20 else str(ours)
        yield _row("lsmem and chmem dumps", archive, "memory on-line", online, told)


def _table(*command: str) -> list[str]:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, env=os.environ | {"LC_ALL": "C"}
    )
    return [line for line in done.stdout.splitlines() if line and not line.startswith("#")]


class _unpacked:
    """The only directory of an archive, unpacked for as long as a tool reads it."""

    def __init__(self, archive: Path) -> None:
        self.archive = archive
        self._folder = tempfile.TemporaryDirectory()

    def __enter__(self) -> str:
        with tarfile.open(self.archive) as packed:
            packed.extractall(self._folder.name, filter="data")
        top = Path(self._folder.name)
        inside = [path for path in top.iterdir() if path.is_dir()]
        return str(inside[0] if len(inside) == 1 and inside[0].name not in ("sys", "proc") else top)

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()


# PCP: roots with the zoneinfo of real machines


def pcp_roots(folder: Path = CORPORA / "pcp") -> Iterator[Row]:
    """Rows of every root: what its kernel had computed, and what a boot here computes.

    Reserves are not asked: what zones had at boot is taken from them.
    """
    for archive in sorted(folder.glob("*.tgz")):
        name = "PCP roots"
        with tarfile.open(archive) as packed:
            members = [member for member in packed.getmembers() if member.name.endswith("proc/zoneinfo")]
            file = packed.extractfile(members[0])
            assert file
            printed = _zoneinfo(file.read().decode(errors="replace"))
        zones = {
            f"{z.nid} {z.name}": z for n in start_kernel(load(str(archive))).snapshot().nodes for z in n.zones
        }
        yield _row(
            name,
            archive,
            "zones with pages",
            *(
                " ".join(sorted(of))
                for of in (
                    {key for key, zone in printed.items() if zone["present"]},
                    {key for key, zone in zones.items() if zone.present},
                )
            ),
        )
        for key, zone in printed.items():
            if zone["present"]:
                gaps = [zone["low"] - zone["min"], zone["high"] - zone["min"]]
                ours = [
                    zones[key].wmark_low - zones[key].wmark_min,
                    zones[key].wmark_high - zones[key].wmark_min,
                ]
                yield _row(name, archive, f"low and high above min of {key}", str(gaps), str(ours))


def _zoneinfo(text: str) -> dict[str, dict[str, object]]:
    zones: dict[str, dict[str, object]] = {}
    for line in text.splitlines():
        if found := re.match(r"Node (\d+), zone +(\w+)", line):
            zone = zones[f"{found[1]} {found[2]}"] = {}
        elif found := re.match(r" +(min|low|high|present|managed|spanned) +(\d+)$", line):
            zone.setdefault(found[1], int(found[2]))
        elif found := re.match(r" +protection: \((.*)\)", line):
            zone["protection"] = list(map(int, found[1].split(", ")))
    return zones


# UMF: domains of libvirt with cells, distances and interconnects


def umf_domains(folder: Path = CORPORA / "umf") -> Iterator[Row]:
    """Rows of every domain: its cells."""
    for path in sorted(folder.glob("*.xml")):
        cells = list(ElementTree.fromstring(f"<x>{path.read_text()}</x>").iter("cell"))
        spec = load(str(path))
        theirs = {int(cell.get("id", "0")): cell for cell in cells}
        yield _row("UMF domains", path, "nodes", format_cpulist(theirs), format_cpulist(spec.nids))
        yield _row(
            "UMF domains",
            path,
            "CPUs of nodes",
            *(
                _lists(of)
                for of in (
                    {nid: _numbers(cell.get("cpus")) for nid, cell in theirs.items()},
                    {node.nid: set(node.cpus) for node in spec.nodes},
                )
            ),
        )
        rows = [
            {int(s.get("id", "0")): int(s.get("value", "0")) for s in cell.iter("sibling")} for cell in cells
        ]
        if all(rows):
            told = [[row[nid] for nid in sorted(row)] for row in rows]
            yield _row(
                "UMF domains", path, "distances", str(told), str([list(row) for row in spec.distances])
            )


def _numbers(text: str | None) -> set[int]:
    ends = [part.partition("-") for part in (text or "").split(",") if part]
    return {number for first, _, last in ends for number in range(int(first), int(last or first) + 1)}


JUDGES: dict[str, Callable[[], Iterator[Row]]] = {
    "hwloc trees": hwloc_trees,
    "hwloc XML": hwloc_xml,
    "lscpu dumps": lscpu_dumps,
    "lsmem and chmem dumps": lsmem_dumps,
    "PCP roots": pcp_roots,
    "UMF domains": umf_domains,
}
