"""Mem-Info: what is read of a report, wherever it stands, and the machine that it becomes."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest
from skips import NO_MEM_INFO

from numa_service.machine.formats.detect import read_source
from numa_service.machine.formats.mem_info import Report, parse_mem_info
from numa_service.machine.formats.mem_info_machine import read_mem_info
from numa_service.machine.source import load
from numa_service.machine.spec import SpecError
from numa_service.mm.gfp import GFP_MASKS, Gfp, parse_gfp

REPORTS = Path(__file__).parents[2] / "testdata" / "mem_info"
CORPUS = Path(os.environ.get("NUMA_MEM_INFO", "/nonexistent"))

#: A zone's column in the corpus' table, and the field that the kernel prints.
COLUMNS = {
    "free": "free",
    "boost": "boost",
    "min": "min",
    "low": "low",
    "high": "high",
    "present": "present",
    "managed": "managed",
    "highatomic": "reserved_highatomic",
    "cma": "free_cma",
}


def report(name: str) -> Report:
    path = REPORTS / f"{name}.txt"
    return parse_mem_info(path.read_text(), name)


def test_a_report_in_a_syslog() -> None:
    read = report("bound")
    request = read.request
    assert (request.kind, request.order, request.comm, request.cpu, request.pid) == (
        "oom",
        0,
        "loader",
        5,
        4711,
    )
    assert request.gfp == parse_gfp("GFP_HIGHUSER_MOVABLE|__GFP_COMP")
    assert (request.nodemask, request.mems_allowed, request.constraint) == ((1,), (0, 1), "MEMORY_POLICY")
    assert (read.kernel, read.version) == ("6.1.90-1", (6, 1))
    assert [(zone.nid, zone.name) for zone in read.zones] == [(0, "Normal"), (1, "Normal")]
    zone = read.zones[1]
    assert (zone.kb["boost"], zone.kb["min"], zone.list_sum_kb) == (4096, 26624, 24000)
    assert zone.lowmem_reserve == (0, 0, 0, 0, 0)
    assert zone.blocks == (1000, 500, 500, 250, 0, 0, 0, 0, 0, 0, 0)
    assert zone.types[:4] == ("UME", "UME", "UM", "UE")
    # the counters are one line with #012 for line ends
    assert (read.counters["inactive_file"], read.counters["free"]) == (12, 409600)
    assert read.totals == {"pagecache": 22, "RAM": 1048576, "HighMem/MovableOnly": 0, "reserved": 48576}
    assert [(task.pid, task.name, task.columns["rss"]) for task in read.tasks] == [
        (612, "sshd", 300),
        (4711, "loader", 470000),
    ]
    assert read.killed == ["loader"]


def test_lines_that_a_mail_has_quoted_and_wrapped() -> None:
    read = report("pieces")
    assert read.request.order == 4
    (zone,) = read.zones
    assert (zone.kb["low"], zone.kb["high"], zone.kb["managed"]) == (20000, 24000, 1000000)
    assert (zone.blocks or ())[9] == 1
    assert (zone.types[9], zone.list_sum_kb) == ("H", 120000)
    assert read.counters["inactive_file"] == 120000


def test_an_old_kernel_prints_numbers_only() -> None:
    read = report("enough")
    assert (read.request.gfp_text, read.version) == ("0x20", (2, 6))
    gfp = read.request.gfp or 0
    assert gfp & GFP_MASKS["GFP_ATOMIC"] == GFP_MASKS["GFP_ATOMIC"]
    assert not gfp & Gfp.DIRECT_RECLAIM


@pytest.mark.parametrize(
    ("number", "version", "names"),
    [
        (0x200DA, "2.6.32", "GFP_HIGHUSER|__GFP_MOVABLE"),
        (0x201DA, "3.10.0", "GFP_HIGHUSER|__GFP_MOVABLE"),
        (0x24000C2, "4.4.1", "GFP_KERNEL|__GFP_HIGHMEM"),
        (0x2080020, "4.4.1", "GFP_ATOMIC"),
        (0xD0, "3.2.0", "GFP_KERNEL"),
    ],
)
def test_gfp_numbers_by_kernel(number: int, version: str, names: str) -> None:
    text = (REPORTS / "enough.txt").read_text().replace("0x20", f"{number:#x}").replace("2.6.32-400", version)
    assert parse_mem_info(text, "x").request.gfp == parse_gfp(names)


def test_the_first_of_several_reports_counts() -> None:
    text = (REPORTS / "bound.txt").read_text() + (REPORTS / "enough.txt").read_text()
    read = parse_mem_info(text, "log")
    assert (len(read.zones), read.others) == (2, 1)
    assert read.request.order == 0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x invoked oom-killer: order=0\nMem-Info:\n", "no line of a zone"),
        ("Node 9999 Normal free:1kB min:1kB", "at most 1024 nodes"),
        (
            "Node 0 Normal free:1kB min:1kB\nNode 0 Normal free:1kB min:1kB",
            ":2: node 0 zone Normal: a second",
        ),
        ("Node 0 Normal free:1kB min:1kB\nNode 0 Normal: 1*4kB 1*9kB = 13kB", "do not double"),
    ],
)
def test_what_is_wrong_is_said(text: str, reason: str) -> None:
    with pytest.raises(SpecError, match=reason):
        parse_mem_info(text, "log")


def test_lines_around_a_report_and_endless_ones_do_not_matter() -> None:
    noise = "Mar  3 02:11:09 db7 kernel: [ 9213.1] usb 1-1: new high-speed USB device\n" * 2000
    endless = f"x{'1*4kB ' * 200_000}\n{'a' * 4_000_000}\n"
    text = noise + (REPORTS / "bound.txt").read_text() + endless + noise
    assert parse_mem_info(text, "log") == report("bound")


def test_what_comes_long_after_a_report_is_not_of_it() -> None:
    """Lines that look like a report's do not count; a further report is counted."""
    rest = "app[71]: heap 1234 kB used, order=5 nodemask=0 swap free:12 slab\n" * 6000
    text = (REPORTS / "bound.txt").read_text() + rest + "constraint=CONSTRAINT_CPUSET,nodemask=3\n"
    read = parse_mem_info(text, "log")
    assert read.request.constraint == report("bound").request.constraint
    assert parse_mem_info(text + (REPORTS / "enough.txt").read_text(), "log").others == 1


def test_it_becomes_a_machine() -> None:
    spec = read_mem_info((REPORTS / "bound.txt").read_text(), "log", "db7")
    assert [node.nid for node in spec.nodes] == [0, 1]
    (zone,) = spec.nodes[1].zones
    assert (zone.present, zone.managed) == (524288, 500000)
    # 22528 kB = 5632 pages a node
    assert spec.sysctls["vm.min_free_kbytes"] == "45056"
    assert spec.profile == "linux-6.1"
    assert spec.occupancy[1].free == 6000
    assert dict(spec.occupancy[1].held)["anonymous memory"] == 470075
    assert load(str(REPORTS / "bound.txt")).occupancy == spec.occupancy


def test_import_makes_a_machine_file_of_it() -> None:
    draft = read_source(str(REPORTS / "pieces.txt"))
    assert draft.nodes[0].managed == 1000000 << 10


def test_sizes_that_are_not_printed_are_named() -> None:
    text = (REPORTS / "pieces.txt").read_text().replace("present:1048576kB", "")
    with pytest.raises(SpecError, match="log: node 0 Normal: present is not printed"):
        read_mem_info(text, "log", "x")


@pytest.fixture(scope="module")
def corpus() -> list[dict[str, str]]:
    if not (CORPUS / "index.tsv").is_file():
        pytest.skip(NO_MEM_INFO)
    with (CORPUS / "index.tsv").open() as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_every_number_of_public_reports(corpus: list[dict[str, str]]) -> None:
    with (CORPUS / "zones.tsv").open() as file:
        zones = list(csv.DictReader(file, delimiter="\t"))
    for row in corpus:
        read = parse_mem_info((CORPUS / row["file"]).read_text(), row["file"])
        request = read.request
        if request.kind:  # else the request is not in the quoted part
            order = "" if request.order is None else str(request.order)
            assert (request.kind, order, request.gfp_text) == (row["kind"], row["order"], row["gfp"]), row[
                "id"
            ]
        assert str(len(read.tasks)) == row["tasks"].split(" of ")[0]
        wanted = [zone for zone in zones if zone["id"] == row["id"]]
        assert [(str(z.nid), z.name) for z in read.zones] == [(w["node"], w["zone"]) for w in wanted]
        for zone, want in zip(read.zones, wanted, strict=True):
            got = {column: str(zone.kb.get(name, "-")) for column, name in COLUMNS.items()}
            got["reserve"] = " ".join(map(str, zone.lowmem_reserve)) if zone.lowmem_reserve else "-"
            got["list_sum"] = "-" if zone.list_sum_kb is None else str(zone.list_sum_kb)
            got["page_kb"] = str(read.page_kb)
            assert got == {name: want[name] for name in got}, (row["id"], zone.nid, zone.name)
