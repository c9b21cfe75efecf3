"""How sizes, addresses and CPU lists are written: ``3GiB``, ``0x100000000``, ``0-3,8``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise

from numa_service.machine.spec import SpecError
from numa_service.mm.mmzone import PAGE_SIZE

#: CONFIG_NR_CPUS of a Debian x86-64 kernel (MAXSMP).
NR_CPUS = 8192
#: 1 << CONFIG_NODES_SHIFT of the same kernel.
MAX_NUMNODES = 1024
#: Most CPUs in the lists of all nodes together: with numa=fake several nodes list the same CPU.
MAX_LISTED_CPUS = 16 * NR_CPUS
#: 1 << MAX_PHYSMEM_BITS of x86-64 with four-level page tables, in bytes.
MAX_PHYSMEM_BYTES = 64 << 40

_UNITS = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_SIZE = re.compile(r"(\d+)(?:\.(\d+))? *([A-Za-z]*)", re.ASCII)
_NUMBER = re.compile(r"\d{1,9}", re.ASCII)


def parse_size(value: object) -> int:
    """Bytes of ``"3GiB"``, ``"1.5 GiB"`` or a plain number of bytes; SpecError for anything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 0:
            raise SpecError(f"size {value} is negative")
        return value
    if not isinstance(value, str):
        raise SpecError(f'a size is a string as "3GiB" or a number of bytes, not {_toml_type(value)}')
    match = _SIZE.fullmatch(value.strip())
    if match is None or len(value) > 40:
        raise SpecError(f'{shown(value)} is not a size: write "512MiB", "3GiB" or a number of bytes')
    whole, fraction, unit = match[1], match[2] or "", match[3]
    if unit not in _UNITS:
        raise SpecError(f"unknown unit {unit!r} in {value!r}: B, KiB, MiB, GiB or TiB")
    scale: int = 10 ** len(fraction)
    size, rest = divmod(int(whole + fraction) * _UNITS[unit], scale)
    if rest:
        raise SpecError(f"{value!r} is not a whole number of bytes")
    return size


def parse_pages(value: object) -> int:
    """Pages of a size as in :func:`parse_size`; SpecError also if it is not a multiple of the page size."""
    size = parse_size(value)
    if size % PAGE_SIZE:
        raise SpecError(f"{value!r} is not page-aligned: not a multiple of {PAGE_SIZE} bytes")
    return size // PAGE_SIZE


def parse_address(value: object) -> int:
    """Page frame number of a physical byte address: ``"0x100000000"``, ``"4GiB"`` or a number of bytes.

    SpecError if it is none of these or not page-aligned.
    """
    if isinstance(value, str) and re.fullmatch(r"0[xX][0-9a-fA-F]{1,16}", value):
        address = int(value, 16)
        if address % PAGE_SIZE:
            raise SpecError(f"{value!r} is not page-aligned: not a multiple of {PAGE_SIZE} bytes")
        return address // PAGE_SIZE
    return parse_pages(value)


def format_size(size: int) -> str:
    """Bytes in the largest unit that divides them: the inverse of :func:`parse_size`."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size and size % _UNITS[unit] == 0:
            return f"{size // _UNITS[unit]}{unit}"
    return f"{size}B"


def parse_cpulist(value: object) -> tuple[int, ...]:
    """CPUs of a kernel cpulist (``"0-3,8"``, empty for none) or of a list of numbers, ascending.

    SpecError names the part that is not a CPU, a CPU listed twice, or one above NR_CPUS.
    """
    if isinstance(value, str):
        ranges = _cpu_ranges(value)
    elif isinstance(value, list) and all(isinstance(cpu, int) and not isinstance(cpu, bool) for cpu in value):
        ranges = [range(_checked_cpu(cpu), cpu + 1) for cpu in value]
    else:
        raise SpecError(f'CPUs are a string as "0-3,8" or a list of numbers, not {_toml_type(value)}')
    ranges.sort(key=lambda part: part.start)
    # overlaps are refused before ranges are expanded: a short text can list many large ranges
    for low, high in pairwise(ranges):
        if high.start < low.stop:
            raise SpecError(f"CPU {high.start} is listed twice")
    return tuple(cpu for part in ranges for cpu in part)


def _cpu_ranges(text: str) -> list[range]:
    """The ranges of a cpulist in its order, not expanded; SpecError if one is not within NR_CPUS."""
    ranges = []
    for part in text.strip().split(",") if text.strip() else ():
        first, dash, last = part.strip().partition("-")
        bounds = (first, last if dash else first)
        if not all(_NUMBER.fullmatch(bound) for bound in bounds):
            raise SpecError(f"{shown(part.strip())} in cpulist {shown(text)} is not a CPU or a range as 0-3")
        low, high = (_checked_cpu(int(bound)) for bound in bounds)
        if low > high:
            raise SpecError(f"range {part.strip()} in cpulist {shown(text)} runs backwards")
        ranges.append(range(low, high + 1))
    return ranges


def mask_bits(mask: int) -> set[int]:
    """Numbers of the bits that are set in a mask; quick also for long masks with few of them."""
    return {found.start() for found in re.finditer("1", f"{mask:b}"[::-1])}


def format_cpulist(cpus: Iterable[int]) -> str:
    """CPUs as the kernel prints them (``%*pbl``): ``0-3,8``; the inverse of :func:`parse_cpulist`."""
    runs: list[list[int]] = []
    for cpu in sorted(cpus):
        if runs and runs[-1][1] == cpu - 1:
            runs[-1][1] = cpu
        else:
            runs.append([cpu, cpu])
    return ",".join(f"{low}-{high}" if high > low else f"{low}" for low, high in runs)


def _checked_cpu(cpu: int) -> int:
    if not 0 <= cpu < NR_CPUS:
        raise SpecError(f"CPU {cpu} does not exist: 0 to {NR_CPUS - 1}, there are at most {NR_CPUS} CPUs")
    return cpu


def shown(text: str) -> str:
    """A piece of input as an error message quotes it: on one line, and cut after 40 characters."""
    return repr(text if len(text) <= 40 else text[:37] + "...")


def one_line(text: str, most: int) -> str:
    """At most `most` characters of a text, with "?" for unprintable ones, for error messages and notes."""
    line = "".join(char if char.isprintable() else "?" for char in text[: most + 1])
    return line if len(text) <= most else line[: most - 3] + "..."


def _toml_type(value: object) -> str:
    names = {bool: "a boolean", int: "an integer", float: "a float", list: "an array", dict: "a table"}
    return names.get(type(value), type(value).__name__)
