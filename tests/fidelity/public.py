"""Public Mem-Info reports and boot logs of others' machines, as numbers: marks, reserves and fallback orders.

``tests/testdata/public`` has the numbers with the source of each: `mem-info.tsv` a row for each zone of 31
reports of kernels 2.6.30 to 6.19, `boot-logs.tsv` a row for each ``Fallback order`` line of four logs. A
report does not tell min_free_kbytes: it is taken from its marks (``formats/mem_info_machine.py``), and what
the sysctl then gives every zone is compared. What zones managed when marks were computed is taken from the
printed reserves, so those are no prediction. Each is told as a 256th (in ZONE_NORMAL a 32nd): that is how
much a mark may be off by the rule. Nothing tells what the lowest zone of a node had; a boost that is not
printed is a number of whole pageblocks.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from fidelity.compare import Field
from fidelity.rows import COLUMNS, causes, kinds
from fidelity.rows import row as table_row

from numa_service.machine.boot import start_kernel
from numa_service.machine.formats.mem_info import parse_mem_info
from numa_service.machine.formats.mem_info_machine import machine_of
from numa_service.machine.machinefile import parse_machine
from numa_service.machine.spec import SpecError
from numa_service.mm.mmzone import PAGEBLOCK_NR_PAGES
from numa_service.mm.profile import Profile, profile_named
from numa_service.mm.watermark import DEFAULT_WATERMARK_SCALE_FACTOR, setup_per_zone_wmarks

PUBLIC = Path(__file__).resolve().parents[1] / "testdata/public"
#: What `Field.file` is for all of them.
REPORT, LOG = "report", "log"
Row = dict[str, str]

ROUNDED = "what zones had at boot is told by reserves, to a page in 256"
NOT_TOLD = "what the lowest zone of a node had at boot is not told"
CONTRADICTED = "marks and reserves are not of one moment: the report does not say what zones had at each"
LATER = "marks were computed after reserves, when the zone had got more"
UNPRINTED_BOOST = "a boost that is not printed: whole pageblocks"
_TEXT = """
## Public reports and logs

Mem-Info reports and boot logs that others published, as numbers with their sources
(`tests/testdata/public`). A report tells neither sysctls nor what was on its machine before:
`vm.min_free_kbytes` is taken from its marks, and then every zone's min is computed from its size, and what
low and high lie above it. Marks were computed at boot, when less had been freed: what zones managed then is
taken from the reserves that are printed, which are therefore no prediction. They tell it in units of 256
pages, and nothing of the lowest zone of a node.

"""
#: Kernels that have boosts and do not print them.
_UNPRINTED = ((5, 0), (5, 16))
#: Zones whose min and reserves contradict each other.
_CONTRADICTIONS = {("46", 0, "DMA32")}
#: Columns of zones that this kernel prints as 0 although higher zones have pages.
EMPTY_COLUMNS = "columns of empty zones"


def read_rows(name: str) -> list[Row]:
    """The rows of one of the files."""
    with (PUBLIC / name).open(encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def mem_info_fields(skipped: list[str]) -> Iterator[Field]:
    """Fields of every zone of every report; `skipped` gets a line for a report without sizes."""
    for identity, group in groupby(read_rows("mem-info.tsv"), lambda row: row["id"]):
        rows = list(group)
        try:
            yield from _report(identity, rows)
        except SpecError as error:
            skipped.append(f"report {identity} ({rows[0]['kernel']}): {str(error).removeprefix('report: ')}")


def _text(rows: list[Row]) -> str:
    """A report with these numbers, as a kernel prints it."""
    names = (("free", "free"), ("boost", "boost"), ("min", "min"), ("low", "low"), ("high", "high"))
    names += (("present", "present"), ("managed", "managed"))
    lines = ["x invoked oom-killer: gfp_mask=0x0, order=0"]
    lines += [f"CPU: 0 PID: 1 Comm: x Not tainted {rows[0]['kernel'].split()[0]} #1", "Mem-Info:"]
    for row in rows:
        numbers = " ".join(f"{word}:{row[key]}kB" for word, key in names if row[key] != "-")
        lines.append(f"Node {row['node']} {row['zone']} {numbers}")
        lines.append(f"lowmem_reserve[]: {row['reserve']}")
        # a list of one block tells the size of a page
        lines.append(f"Node {row['node']} {row['zone']}: 0*{row['page_kb']}kB = 0kB")
    return "\n".join(lines) + "\n"


def _report(identity: str, rows: list[Row]) -> Iterator[Field]:
    report = parse_mem_info(_text(rows), "report")
    spec = machine_of(report, "report", "report")
    kernel = profile_named(spec.profile)
    then = {(n.nid, z.name): (z.managed or 0) - z.freed_late for n in spec.nodes for z in n.zones}
    now = {(n.nid, z.name): z.managed or 0 for n in spec.nodes for z in n.zones}
    lowest = {(node.nid, next(zone.name for zone in node.zones if zone.managed)) for node in spec.nodes}
    factor = int(spec.sysctls.get("vm.watermark_scale_factor", DEFAULT_WATERMARK_SCALE_FACTOR))
    computed = setup_per_zone_wmarks(then, kernel, int(spec.sysctls["vm.min_free_kbytes"]), factor)
    snapshot = start_kernel(spec).snapshot()
    zones = {(zone.nid, zone.name): zone for node in snapshot.nodes for zone in node.zones}
    name = f"report {identity}"
    for row in rows:
        key = int(row["node"]), row["zone"]
        if not then.get(key):
            continue
        page_kb = int(row["page_kb"])
        where = f"node {row['node']} {row['zone']}"
        boost = int(row["boost"]) if row["boost"] != "-" else 0
        least, low, high = (int(row[kind]) // page_kb for kind in ("min", "low", "high"))
        base = least - boost // page_kb
        hidden = row["boost"] == "-" and _UNPRINTED[0] <= report.version < _UNPRINTED[1]
        slack, cause = _least(
            base, computed[key].min, then[key], now[key], sum(then.values()), key in lowest, hidden
        )
        if (identity, *key) in _CONTRADICTIONS:
            slack, cause = abs(base - computed[key].min), CONTRADICTED
        yield Field(name, REPORT, "min", where, base, computed[key].min, slack, cause)
        printed = low - least, high - least
        if row["zone"] in ("HighMem", "Movable"):
            # their distance is a share of min_free_kbytes, as the others' min is
            gaps = computed[key].low - computed[key].min, computed[key].high - computed[key].min
            slack, cause = 2, ROUNDED
        else:
            gaps = _gaps(then[key], base, kernel)
            slack, cause = _above_least(base, printed, gaps, then[key], kernel, key in lowest, hidden)
        yield Field(name, REPORT, "low above min", where, printed[0], gaps[0], slack, cause)
        # the distance counts twice
        yield Field(name, REPORT, "high above min", where, printed[1], gaps[1], 2 * slack, cause)
        yield from _reserve(name, where, row, zones[key].protection)


def _least(
    base: int, found: int, then: int, now: int, total: int, lowest: bool, hidden: bool
) -> tuple[int, str]:
    """By how many pages a min may be off, and why: nothing that the rules do not say."""
    # what a zone had is told to 255 pages, and what all had to 255 pages each
    slack = 1 + base * 255 // then + base * 255 // total
    grown = slack + base * (now - then) // then
    off = base - found
    boost = round(off / PAGEBLOCK_NR_PAGES) * PAGEBLOCK_NR_PAGES
    if hidden and boost > 0 and abs(off - boost) <= grown:
        return abs(off), UNPRINTED_BOOST
    if lowest and off < 0:
        return -off, NOT_TOLD
    return (slack, ROUNDED) if abs(off) <= slack else (grown, LATER)


def _gaps(pages: int, base: int, kernel: Profile) -> tuple[int, int]:
    """What low and high of a zone lie above its min."""
    marks = setup_per_zone_wmarks({(0, "Normal"): pages}, kernel, base << 2, 10)[0, "Normal"]
    return marks.low - base, marks.high - base


def _above_least(
    base: int,
    printed: tuple[int, int],
    gaps: tuple[int, int],
    then: int,
    kernel: Profile,
    lowest: bool,
    hidden: bool,
) -> tuple[int, str]:
    """By how many pages the distances from min may be off, and why."""
    if lowest and printed[0] <= gaps[0] and printed[1] <= gaps[1]:
        return gaps[0] - printed[0], NOT_TOLD
    if hidden and printed != gaps:
        for boost in range(0, base, PAGEBLOCK_NR_PAGES):
            real = _gaps(then, base - boost, kernel)
            rose = printed[0] - real[0], printed[1] - real[1]
            # it was in min already, or rose while the marks were printed, or both
            if all(more >= 0 and more % PAGEBLOCK_NR_PAGES == 0 for more in rose):
                return abs(printed[0] - gaps[0]), UNPRINTED_BOOST
    return 1, ROUNDED


def _reserve(name: str, where: str, row: Row, protection: tuple[int, ...]) -> Iterator[Field]:
    printed = [int(word) for word in row["reserve"].split() if word.isdigit()]
    for at, (captured, computed) in enumerate(zip(printed, protection, strict=False)):
        allowed = 0, ""
        if EMPTY_COLUMNS in row["reserves"] and not captured:
            allowed = computed, "6.10-rc1 reserved nothing from classes whose own zone is empty; 6.12 does"
        elif row["reserves"] == "not checkable" or (captured and not computed):
            allowed = captured, "zones above the request's class are not printed"
        where_at = f"{where} [{at}]"
        # they are taken over: what zones had at boot is that by which they come out
        yield Field(name, REPORT, "protection", where_at, captured, computed, *allowed, computed_here=False)


def boot_log_fields() -> Iterator[Field]:
    """Fields of every fallback order of the logs."""
    for log, group in groupby(read_rows("boot-logs.tsv"), lambda row: row["log"]):
        yield from _log(log, list(group))


def _log(log: str, rows: list[Row]) -> Iterator[Field]:
    machine = start_kernel(parse_machine(_machine_file(rows), log, log))
    for row in rows:
        nid = int(row["node"])
        printed = tuple(map(int, row["order"].split()))
        yield Field(log, LOG, "fallback order", f"node {nid}", printed, machine.zonelists[nid].node_order)


def _machine_file(rows: list[Row]) -> str:
    """A machine with the nodes and distances of a log; of a log without distances, one node has memory."""
    version = re.match(r"\d+\.\d+", rows[0]["kernel"])
    assert version
    told = all(row["distances"] != "-" for row in rows)
    lines = [f'profile = "linux-{version[0]}"']
    if told:
        lines += ["distances = [", *(f"[{', '.join(row['distances'].split())}]," for row in rows), "]"]
    # nodes that no list ends with have no memory: each comes first in its own.
    others: set[int] = {int(nid) for row in rows for nid in row["order"].split()[1:]}
    for row in rows:
        memory = '"1GiB"' if int(row["node"]) in others else "0"
        lines += ["[[node]]", f"id = {row['node']}", f"memory = {memory}", f'cpus = "{row["node"]}"']
    return "\n".join(lines)


def public_section() -> tuple[str, list[Field]]:
    """The document's section, with a row for every report and log, and the fields."""
    skipped: list[str] = []
    fields = [*mem_info_fields(skipped), *boot_log_fields()]
    kernels = {f"report {row['id']}": row for row in read_rows("mem-info.tsv")}
    kernels |= {row["log"]: row for row in read_rows("boot-logs.tsv")}
    text = _TEXT + f"| report or log | kernel | source | {COLUMNS.replace('|---', '|---' * 3, 1)}"
    for name in dict.fromkeys(field.capture for field in fields):
        said = kernels[name]
        own = [field for field in fields if field.capture == name]
        text += table_row(f"{name} | {said['kernel']} | {said['source']}", own)
    text += table_row("**all** | | ", fields)
    text += kinds(fields) + causes(fields)
    return text + "".join(f"\nNot compared: {line}.\n" for line in skipped), fields
