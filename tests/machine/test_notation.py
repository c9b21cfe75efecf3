"""Sizes, addresses and CPU lists."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from numa_service.machine.notation import (
    NR_CPUS,
    format_cpulist,
    format_size,
    parse_address,
    parse_cpulist,
    parse_pages,
    parse_size,
)
from numa_service.machine.spec import SpecError


@given(st.integers(min_value=0, max_value=1 << 60))
def test_size_round_trip(size: int) -> None:
    assert parse_size(format_size(size)) == size == parse_size(size) == parse_size(str(size))


@given(st.sets(st.integers(min_value=0, max_value=NR_CPUS - 1)))
def test_cpulist_round_trip(cpus: set[int]) -> None:
    assert parse_cpulist(format_cpulist(cpus)) == tuple(sorted(cpus)) == parse_cpulist(list(cpus))


@given(st.text(max_size=60))
def test_any_text_is_parsed_or_refused_in_one_line(text: str) -> None:
    for parse in (parse_size, parse_pages, parse_address, parse_cpulist):
        reason = "parsed"
        try:
            parse(text)
        except SpecError as error:
            reason = str(error)
        assert len(reason.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("3GiB", 3 << 30),
        ("1.5GiB", 3 << 29),
        ("512 MiB", 512 << 20),
        ("4096", 4096),
        ("64TiB", 64 << 40),
        (0, 0),
    ],
)
def test_sizes(text: object, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("3GB", "unknown unit 'GB' in '3GB': B, KiB, MiB, GiB or TiB"),
        ("three", "'three' is not a size"),
        ("-1", "'-1' is not a size"),
        (-4096, "size -4096 is negative"),
        ("0.3B", "'0.3B' is not a whole number of bytes"),
        (True, "not a boolean"),
        (1.5, "not a float"),
        ([], "not an array"),
    ],
)
def test_bad_sizes(value: object, reason: str) -> None:
    with pytest.raises(SpecError, match=reason):
        parse_size(value)


def test_addresses_and_alignment() -> None:
    assert parse_address("0x100000000") == parse_address("4GiB") == parse_address(4 << 30) == 1 << 20
    with pytest.raises(SpecError, match=r"'0x1001' is not page-aligned: not a multiple of 4096"):
        parse_address("0x1001")
    with pytest.raises(SpecError, match=r"'5KiB' is not page-aligned"):
        parse_pages("5KiB")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("0-", "'0-' in cpulist '0-' is not a CPU or a range"),
        ("a", "'a' in cpulist 'a'"),
        ("1,,2", "'' in cpulist '1,,2'"),
        ("3-1", "runs backwards"),
        ("0-2,1", "CPU 1 is listed twice"),
        ([0, 0], "CPU 0 is listed twice"),
        ("8192", "CPU 8192 does not exist: 0 to 8191"),
        ("0-999999999", "CPU 999999999 does not exist"),
        ([-1], "CPU -1 does not exist"),
        ([True], "not an array"),
        (3, "not an integer"),
    ],
)
def test_bad_cpulists(value: object, reason: str) -> None:
    with pytest.raises(SpecError, match=reason):
        parse_cpulist(value)
