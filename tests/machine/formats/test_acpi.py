"""ACPI tables made by hand: every field that can be wrong, and which nodes proximity domains become."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from numa_service.machine.captured_tree import Directory
from numa_service.machine.formats.acpi import find_tables, read_acpi
from numa_service.machine.formats.detect import read_source
from numa_service.machine.formats.draft import Draft
from numa_service.machine.source import load
from numa_service.machine.spec import SpecError

MIB = 1 << 20


def table(signature: bytes, body: bytes, revision: int = 3) -> bytes:
    """A table with header, right length and right checksum."""
    head = struct.pack(
        "<4sIBB6s8sI4sI", signature, 36 + len(body), revision, 0, b"TEST  ", b"TESTTABL", 1, b"TST ", 1
    )
    content = bytearray(head + body)
    content[9] = -sum(content) & 0xFF
    return bytes(content)


def apic(pxm: int, number: int, flags: int = 1) -> bytes:
    """An SRAT structure: Processor Local APIC/SAPIC affinity."""
    return struct.pack("<BBBBIB3sI", 0, 16, pxm & 0xFF, number, flags, 0, (pxm >> 8).to_bytes(3, "little"), 0)


def x2apic(pxm: int, number: int) -> bytes:
    """An SRAT structure: Processor Local x2APIC affinity."""
    return struct.pack("<BBHIIIII", 2, 24, 0, pxm, number, 1, 0, 0)


def memory(pxm: int, base: int, length: int, flags: int = 1) -> bytes:
    """An SRAT structure: Memory affinity."""
    return struct.pack("<BBIHQQIIQ", 1, 40, pxm, 0, base, length, 0, flags, 0)


def srat(*structures: bytes) -> bytes:
    return table(b"SRAT", struct.pack("<IQ", 1, 0) + b"".join(structures))


def slit(*rows: list[int]) -> bytes:
    return table(b"SLIT", struct.pack("<Q", len(rows)) + bytes(value for row in rows for value in row), 1)


def latency(
    kind: int, unit: int, lists: tuple[list[int], list[int]], entries: list[int], flags: int = 0
) -> bytes:
    """An HMAT structure: system locality latency and bandwidth."""
    initiators, targets = lists
    tail = struct.pack(f"<{len(initiators) + len(targets)}I", *initiators, *targets)
    tail += struct.pack(f"<{len(entries)}H", *entries)
    size = len(initiators), len(targets)
    return struct.pack("<HHIBBBBIIIQ", 1, 0, 32 + len(tail), flags, kind, 0, 0, *size, 0, unit) + tail


def hmat(*structures: bytes, revision: int = 2) -> bytes:
    return table(b"HMAT", b"\0\0\0\0" + b"".join(structures), revision)


TWO = srat(apic(0, 0), apic(0, 2), x2apic(5, 300), memory(0, MIB, 511 * MIB), memory(5, 4 << 30, 512 * MIB))


def _read(folder: Path, **tables: bytes) -> Draft:
    for name, content in tables.items():
        (folder / name).write_bytes(content)
    draft = read_acpi(find_tables(Directory(folder)), "x", str(folder))
    draft.check()
    return draft


def test_domains_become_nodes_in_the_order_of_the_table(tmp_path: Path) -> None:
    draft = _read(tmp_path, SRAT=TWO)
    assert [(n.nid, n.cpus) for n in draft.nodes] == [(0, (0, 1)), (1, (2,))]
    assert draft.nodes[0].ranges == ((0x100, 0x20000),)
    assert draft.nodes[1].ranges == ((0x100000, 0x120000),)
    assert any("0 is 0, 5 is 1" in note for note in draft.notes)
    assert any("no MADT" in note for note in draft.notes)


def test_a_large_domain_and_the_numbers_of_the_madt(tmp_path: Path) -> None:
    entries = b"".join(struct.pack("<BBBBI", 0, 8, i, number, 1) for i, number in enumerate((2, 0)))
    entries += struct.pack("<BBHIII", 9, 16, 0, 300, 1, 7) + struct.pack("<BBBBI", 0, 8, 3, 9, 0)
    madt = table(b"APIC", struct.pack("<II", 0xFEE00000, 1) + entries)
    draft = _read(
        tmp_path, SRAT=srat(apic(0x1234, 2), apic(1, 0), x2apic(1, 300), memory(1, MIB, MIB)), APIC=madt
    )
    assert [n.cpus for n in draft.nodes] == [(0,), (1, 2)]


def test_revision_1_has_domains_of_one_byte(tmp_path: Path) -> None:
    body = struct.pack("<IQ", 1, 0) + apic(0x3400, 0) + memory(0x3400, MIB, MIB)
    draft = _read(tmp_path, SRAT=table(b"SRAT", body, 1))
    assert [n.nid for n in draft.nodes] == [0]
    assert draft.nodes[0].cpus == (0,)


def test_disabled_hotpluggable_and_persistent_are_left_out(tmp_path: Path) -> None:
    draft = _read(
        tmp_path,
        SRAT=srat(
            apic(0, 0),
            apic(0, 1, flags=0),
            memory(0, MIB, 64 * MIB),
            memory(0, 1 << 30, 64 * MIB, flags=0),
            memory(0, 2 << 30, 64 * MIB, flags=3),
            memory(0, 3 << 30, 64 * MIB, flags=5),
            struct.pack("<BB30s", 5, 32, b""),
        ),
    )
    assert draft.nodes[0].cpus == (0,)
    assert draft.nodes[0].bytes == 64 * MIB
    assert len([note for note in draft.notes if "hot-pluggable" in note or "non-volatile" in note]) == 2
    assert "SRAT structures of type 5 are not modelled" in draft.notes


def test_distances_by_domain_and_unreachable_ones(tmp_path: Path) -> None:
    rows = [[10 if i == j else 99 for j in range(6)] for i in range(6)]
    rows[0][5], rows[5][0] = 21, 255
    draft = _read(tmp_path, SRAT=TWO, SLIT=slit(*rows))
    assert [draft.distance(a, b) for a, b in ((0, 1), (1, 0), (0, 0))] == [21, 255, 10]
    assert not any("distance" in note for note in draft.notes)


@pytest.mark.parametrize(
    "rows",
    [[[10, 10], [10, 10]], [[10, 20], [9, 10]], [[20, 30], [30, 20]], [[10, 20], [10, 10]]],
    ids=["all 10", "less than 10", "another diagonal", "one of 10"],
)
def test_an_invalid_slit_is_not_used(rows: list[list[int]], tmp_path: Path) -> None:
    draft = _read(tmp_path, SRAT=srat(apic(0, 0), apic(1, 1), memory(0, 0, 64 * MIB)), SLIT=slit(*rows))
    assert [draft.distance(a, b) for a in (0, 1) for b in (0, 1)] == [10, 20, 20, 10]
    assert any("SLIT table looks invalid. Not used." in note for note in draft.notes)


def test_hot_pluggable_memory_of_whole_domains_is_there(tmp_path: Path) -> None:
    """As clouds describe it: a range below 1 GiB, memory node after node, then room for more."""
    draft = _read(
        tmp_path,
        SRAT=srat(
            apic(0, 0),
            apic(1, 1),
            memory(0, 0, 1 << 30, flags=3),
            memory(0, 4 << 30, 3 << 30, flags=3),
            memory(0, 1 << 40, 2 << 30, flags=3),
            memory(1, (1 << 40) + (2 << 30), 4 << 30, flags=3),
            memory(0, (1 << 40) + (6 << 30), 1 << 30, flags=3),
            memory(1, 2 << 40, 1 << 40, flags=3),
            memory(0, 1 << 48, 1 << 50, flags=3),
        ),
    )
    assert [node.bytes >> 20 for node in draft.nodes] == [6143, 4096]  # without the BIOS holes
    assert len([note for note in draft.notes if "hot-pluggable" in note]) == 2


def test_one_hot_pluggable_domain_ends_at_the_first_gap(tmp_path: Path) -> None:
    ranges = memory(0, 0, 1 << 30, 3), memory(0, 4 << 30, 3 << 30, 3), memory(0, 8 << 30, 1 << 40, 3)
    draft = _read(tmp_path, SRAT=srat(apic(0, 0), *ranges))
    assert draft.nodes[0].bytes >> 20 == 4095


def test_a_node_all_of_whose_memory_is_hot_pluggable_beside_one_that_has_other(tmp_path: Path) -> None:
    """The window for more of QEMU's -m maxmem= is on a node with memory of its own, or without CPUs."""
    ranges = memory(0, 0, 1 << 30), memory(1, 1 << 30, 1 << 30, 3), memory(2, 8 << 30, 8 << 30, 3)
    draft = _read(tmp_path, SRAT=srat(apic(0, 0), apic(1, 1), *ranges))
    assert [node.bytes >> 20 for node in draft.nodes] == [1024, 1024]


@pytest.mark.parametrize(("revision", "unit"), [(1, 10), (2, 10_000)])
def test_latencies_are_ns_in_revision_1_and_ps_later(revision: int, unit: int, tmp_path: Path) -> None:
    lists = ([0, 5], [0, 5])
    structures = [
        latency(0, unit, lists, [8, 14, 0xFFFF, 0]),
        latency(2, unit, lists, [9, 15, 0, 0]),
        latency(3, 100, lists, [1000, 300, 0, 0]),
        latency(0, unit, lists, [1, 1, 1, 1], flags=1),
    ]
    draft = _read(tmp_path, SRAT=TWO, HMAT=hmat(*structures, revision=revision))
    assert draft.latency.read_ns == {(0, 0): 80, (0, 1): 140}
    assert draft.latency.write_ns == {(0, 0): 90, (0, 1): 150}
    # "MB/s" of the table is MiB/s, as the kernel shows it
    assert draft.latency.read_mb_per_s == {(0, 0): 104858, (0, 1): 31458}


def test_a_file_and_a_directory_are_sources(tmp_path: Path) -> None:
    rows = [[10 if i == j else 30 if i == 5 else 11 for j in range(6)] for i in range(6)]
    (tmp_path / "SRAT").write_bytes(TWO)
    (tmp_path / "SLIT").write_bytes(slit(*rows))
    for source in (tmp_path, tmp_path / "SRAT"):
        assert load(str(source)).distances == ((10, 11), (30, 10))
    assert read_source("-", None, TWO).nodes[1].cpus == (2,)


def _damaged(content: bytes, at: int, value: int, *, mend: bool = True) -> bytes:
    changed = bytearray(content)
    changed[at] = value
    if mend:
        changed[9] = 0
        changed[9] = -sum(changed) & 0xFF
    return bytes(changed)


BAD = {
    "checksum": (
        {"SRAT": _damaged(TWO, 60, 9, mend=False)},
        "SRAT: checksum .* is wrong, 0x.. would be right",
    ),
    "cut off": ({"SRAT": TWO[:-7]}, r"SRAT: length is \d+, the file has \d+ bytes"),
    "short": ({"SRAT": TWO[:20]}, "20 bytes: an ACPI table has a header of 36"),
    "signature": ({"SRAT": b"DSDT" + TWO[4:]}, "signature 'DSDT' is none of"),
    "structure of no length": (
        {"SRAT": _damaged(TWO, 49, 0)},
        "offset 48: structure of type 0 has a length of 0",
    ),
    "structure too long": (
        {"SRAT": _damaged(TWO, 49, 255)},
        "offset 48: structure of type 0 has a length of 255",
    ),
    "structure too short": ({"SRAT": _damaged(TWO, 49, 4)}, "offset 48: type 0 has 4 bytes, not 16"),
    "no srat": ({"SLIT": slit([10])}, "no SRAT .SLIT found."),
    "slit": ({"SRAT": TWO, "SLIT": table(b"SLIT", struct.pack("<Q", 1 << 40), 1)}, "localities do not fit"),
    "slit header": ({"SRAT": TWO, "SLIT": table(b"SLIT", b"", 1)}, "no number of localities"),
    "hmat counts": (
        {"SRAT": TWO, "HMAT": hmat(latency(0, 1, ([0], [0]), [1, 2, 3]))},
        "1 initiators and 1 targets do not fit",
    ),
    "hmat short": (
        {"SRAT": TWO, "HMAT": hmat(struct.pack("<HHI", 1, 0, 8))},
        "a latency structure of 8 bytes",
    ),
    "no cpu": ({"SRAT": srat(memory(0, MIB, MIB))}, "no node has a CPU"),
    "domains": (
        {"SRAT": srat(*(x2apic(i, i) for i in range(1025)))},
        "1025 proximity domains, at most 1024 nodes",
    ),
    "memory wraps": ({"SRAT": srat(apic(0, 0), memory(0, (1 << 64) - 1, MIB))}, "beyond 64 bits"),
}


@pytest.mark.parametrize("case", BAD)
def test_damaged_tables_are_refused_with_table_and_offset(case: str, tmp_path: Path) -> None:
    tables, reason = BAD[case]
    with pytest.raises(SpecError, match=reason):
        _read(tmp_path, **tables)
