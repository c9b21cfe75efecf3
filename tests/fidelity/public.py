"""Public Mem-Info reports and boot logs of others' machines, as numbers: marks, reserves and fallback orders.

``tests/testdata/public`` has the numbers with the source of each: `mem-info.tsv` a row for each zone of 31
reports of kernels 2.6.30 to 6.19, `boot-logs.tsv` a row for each ``Fallback order`` line of four logs. A
report does not tell min_free_kbytes: it is taken from its marks (``formats/mem_info_machine.py``), and what
the sysctl then gives every zone is compared. Where a number is within a tolerance the row says why: zones
have grown since lists were set at boot, or marks had a boost that was not printed.
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
from numa_service.mm.profile import profile_named
from numa_service.mm.watermark import setup_per_zone_wmarks

PUBLIC = Path(__file__).resolve().parents[1] / "testdata/public"
#: What `Field.file` is for all of them.
REPORT, LOG = "report", "log"
Row = dict[str, str]

_WITHIN = re.compile(r"within (\d+) (kB|pages): (.*)")
GROWN = "the zone, or those above it, grew after marks and reserves were set at boot"
UNPRINTED_BOOST = "a boost that is not printed"
_TEXT = """
## Public reports and logs

Mem-Info reports and boot logs that others published, as numbers with their sources
(`tests/testdata/public`). A report tells neither sysctls nor what was on its machine before:
`vm.min_free_kbytes` is taken from its marks, and then every zone's min is computed from its size (so is
what the marks lie above min, and `lowmem_reserve`). Sizes are those at the time of the report; marks and
reserves were computed at boot, when less had been freed, which is the cause of most differences.

"""
#: Largest growth of a zone after boot that shows in these reports, in percent.
MOST_GROWN = 7
#: Kernels that have boosts and do not print them.
_UNPRINTED = ((5, 0), (5, 16))
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
    snapshot = start_kernel(spec).snapshot()
    zones = {(zone.nid, zone.name): zone for node in snapshot.nodes for zone in node.zones}
    name = f"report {identity}"
    for row in rows:
        zone = zones.get((int(row["node"]), row["zone"]))
        if zone is None or not zone.managed:
            continue
        page_kb = int(row["page_kb"])
        where = f"node {row['node']} {row['zone']}"
        boost = int(row["boost"]) if row["boost"] != "-" else 0
        low, high = ((int(row[kind]) - int(row["min"])) // page_kb for kind in ("low", "high"))
        base = (int(row["min"]) - boost) // page_kb
        hidden = row["boost"] == "-" and _UNPRINTED[0] <= report.version < _UNPRINTED[1]
        whole = base - zone.wmark_min
        if hidden and whole > 0 and whole % PAGEBLOCK_NR_PAGES == 0:
            yield Field(name, REPORT, "min", where, base, zone.wmark_min, whole, UNPRINTED_BOOST)
        else:
            slack, cause = max(1, base * MOST_GROWN // 100), GROWN
            if row["marks"].startswith("inferred"):
                slack, cause = 2 * PAGEBLOCK_NR_PAGES, UNPRINTED_BOOST
            yield Field(name, REPORT, "min", where, base, zone.wmark_min, slack, cause)
        slack, cause = _tolerance(row["marks"], page_kb)
        if row["zone"] in ("HighMem", "Movable"):
            # their distance is a share of min_free_kbytes as the others' min is
            slack, cause = max(slack, high * MOST_GROWN // 100), GROWN
            gaps = zone.wmark_low - zone.wmark_min, zone.wmark_high - zone.wmark_min
        else:
            marks = setup_per_zone_wmarks({(0, "Normal"): zone.managed}, kernel, base << 2, 10)[0, "Normal"]
            gaps = marks.low - base, marks.high - base
        if row["marks"].startswith("inferred"):
            slack, cause = PAGEBLOCK_NR_PAGES, UNPRINTED_BOOST
        yield Field(name, REPORT, "low above min", where, low, gaps[0], slack, cause)
        # the distance counts twice
        yield Field(name, REPORT, "high above min", where, high, gaps[1], 2 * slack, cause)
        yield from _reserve(name, where, row, zone.protection, page_kb)


def _reserve(name: str, where: str, row: Row, protection: tuple[int, ...], page_kb: int) -> Iterator[Field]:
    slack, cause = _tolerance(row["reserves"], page_kb)
    printed = [int(word) for word in row["reserve"].split() if word.isdigit()]
    for at, (captured, computed) in enumerate(zip(printed, protection, strict=False)):
        allowed = slack, cause
        if EMPTY_COLUMNS in row["reserves"] and not captured:
            allowed = computed, "6.10-rc1 reserved nothing from classes whose own zone is empty; 6.12 does"
        elif row["reserves"] == "not checkable" or (captured and not computed):
            allowed = captured, "zones above the request's class are not printed"
        yield Field(name, REPORT, "protection", f"{where} [{at}]", captured, computed, *allowed)


def _tolerance(said: str, page_kb: int) -> tuple[int, str]:
    """Pages by which a number may be off, and why; rounding to kB twice is a page more."""
    found = _WITHIN.fullmatch(said)
    if found:
        return int(found[1]) // (page_kb if found[2] == "kB" else 1) + 1, GROWN
    return 0, ""


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
