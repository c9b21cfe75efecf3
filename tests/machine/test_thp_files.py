"""What the files of transparent huge pages take, and what a write does to a machine."""

from __future__ import annotations

from dataclasses import replace

import pytest

from numa_service.machine.boot import start_kernel
from numa_service.machine.presets import load_preset
from numa_service.machine.spec import SpecError
from numa_service.machine.sysctl import without_effect
from numa_service.machine.thp_files import ENABLED_KEY, files_of, key_of, parse_thp
from numa_service.procfs import tree
from numa_service.procfs.write import WriteSysctl, parse_write

KERNEL = "linux-6.12"
PLACE = "/sys/kernel/mm/transparent_hugepage"


@pytest.mark.parametrize(
    ("path", "taken", "refused"),
    [
        ("enabled", ["always", "madvise", "never"], ["", "inherit", "Always", "always never"]),
        ("defrag", ["always", "defer", "defer+madvise", "madvise", "never"], ["1", "defer madvise"]),
        ("shmem_enabled", ["within_size", "advise", "deny", "force"], ["inherit"]),
        ("use_zero_page", ["0", "1", "0x1", "01", "+1"], ["2", "-1", "on", "0x", ""]),
        ("shrink_underused", ["0"], ["2"]),
        ("khugepaged/defrag", ["0", "1"], ["yes"]),
        ("khugepaged/pages_to_scan", ["1", "4294967295"], ["0", "4294967296", "0x10", "-1", "1 2"]),
        ("khugepaged/scan_sleep_millisecs", ["0", "+7"], ["1e3", "99999999999999999999999"]),
        ("khugepaged/alloc_sleep_millisecs", ["0"], ["x"]),
        ("khugepaged/max_ptes_none", ["0", "511"], ["512"]),
        ("khugepaged/max_ptes_swap", ["511"], ["512"]),
        ("khugepaged/max_ptes_shared", ["511"], ["512"]),
        ("hugepages-64kB/enabled", ["always", "inherit"], ["defer"]),
        ("hugepages-8kB/shmem_enabled", ["within_size"], ["force"]),
    ],
)
def test_what_files_take(path: str, taken: list[str], refused: list[str]) -> None:
    for text in taken:
        value = parse_thp(key_of(path), f"{text}\n", KERNEL)
        assert files_of(KERNEL)[path].parse(key_of(path), value) == value
    for text in refused:
        with pytest.raises(SpecError, match=key_of(path)):
            parse_thp(key_of(path), text, KERNEL)


def test_numbers_are_shown_in_decimal() -> None:
    assert parse_thp("transparent_hugepage.use_zero_page", "0x1", KERNEL) == "1"
    assert parse_thp("transparent_hugepage.khugepaged.max_ptes_none", "0510", KERNEL) == "510"


def test_which_files_a_kernel_has() -> None:
    first = set(files_of("linux-3.0"))
    assert "use_zero_page" not in first
    assert "khugepaged/max_ptes_shared" not in first
    assert {"enabled", "defrag", "khugepaged/defrag", "khugepaged/max_ptes_none"} <= first
    assert files_of("linux-2.6.32") == {}
    with pytest.raises(SpecError, match="no such file"):
        parse_thp("transparent_hugepage.shrink_underused", "1", "linux-6.1")
    with pytest.raises(SpecError, match="no such file"):
        parse_thp("transparent_hugepage.hpage_pmd_size", "1", KERNEL)


def test_a_write_is_shown_and_asks_for_memory_or_not() -> None:
    machine = start_kernel(replace(load_preset("two-socket"), profile="linux-6.1"))
    on = machine.sysctls.min_free_kbytes
    written = parse_write(machine.snapshot(), f"{PLACE}/enabled", b"never\n")
    assert written == WriteSysctl(ENABLED_KEY, "never")
    machine.write_sysctl(written.key, written.value)
    assert tree.read(machine.snapshot(), f"{PLACE}/enabled") == "always madvise [never]\n"
    off = machine.sysctls.min_free_kbytes
    assert on is not None
    assert off is not None
    assert off < on
    assert not machine.khugepaged
    low = {key: marks.low for key, marks in machine.watermarks.items()}
    machine.write_sysctl(ENABLED_KEY, "madvise")
    assert machine.khugepaged
    assert machine.sysctls.min_free_kbytes == on
    assert all(marks.low >= low[key] for key, marks in machine.watermarks.items())
    assert any(marks.low > low[key] for key, marks in machine.watermarks.items())


def test_a_machine_that_is_started_again_has_what_was_written() -> None:
    spec = replace(load_preset("two-socket"), profile="linux-6.1")
    written = start_kernel(spec)
    written.write_sysctl(ENABLED_KEY, "never")
    again = start_kernel(replace(spec, sysctls={ENABLED_KEY: "never"}))
    assert again.sysctls.min_free_kbytes == written.sysctls.min_free_kbytes
    assert not again.khugepaged


@pytest.mark.parametrize(("mode", "shown"), [("madvise", "always [madvise] never"), ("never", "[never]")])
def test_the_command_line_chooses(mode: str, shown: str) -> None:
    machine = start_kernel(replace(load_preset("uma"), cmdline=f"transparent_hugepage={mode}"))
    assert shown in tree.read(machine.snapshot(), f"{PLACE}/enabled")
    assert tree.read(machine.snapshot(), f"{PLACE}/khugepaged/pages_to_scan") == "4096\n"


def test_what_has_no_effect_yet_says_so() -> None:
    assert "is not modelled" in without_effect("transparent_hugepage.defrag", "never", KERNEL)
    assert without_effect("transparent_hugepage.defrag", "madvise", KERNEL) == ""
    assert without_effect(ENABLED_KEY, "never", KERNEL) == ""


def test_counts_cannot_be_written() -> None:
    snapshot = start_kernel(replace(load_preset("uma"), profile=KERNEL)).snapshot()
    for path in ("khugepaged/full_scans", "hugepages-64kB/stats/split", "hpage_pmd_size"):
        with pytest.raises(PermissionError):
            parse_write(snapshot, f"{PLACE}/{path}", b"0")
