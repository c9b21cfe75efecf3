"""The kernel command line: what of it shapes memory (``kernelcore=``, ``movablecore=``, ``numa=fake=``)."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from numa_service.machine.notation import MAX_NUMNODES
from numa_service.machine.spec import SpecError
from numa_service.mm.mmzone import PAGE_SHIFT

_SIZE = re.compile(r"(0[xX][0-9a-fA-F]{1,16}|\d{1,20})([KMGTPE]?)", re.ASCII | re.IGNORECASE)
_PERCENT = re.compile(r"(\d{1,3})%", re.ASCII)
_FAKE = re.compile(r"fake=(\d{1,5})", re.ASCII)
_KNOWN = ("kernelcore", "movablecore", "numa", "numa_zonelist_order")
_ORDERS = {"d": "default", "n": "node", "z": "zone"}


@dataclass(frozen=True, slots=True)
class Amount:
    """Pages, or a percentage of all memory."""

    pages: int = 0
    percent: int = 0

    def of(self, total_pages: int) -> int:
        """In pages of a machine with that many."""
        return total_pages * self.percent // 100 if self.percent else self.pages


@dataclass(frozen=True, slots=True)
class BootParameters:
    """What the command line asks for; absent is zero."""

    kernelcore: Amount = Amount()
    movablecore: Amount = Amount()
    #: numa=fake=N: nodes to cut the machine into.
    fake_nodes: int = 0
    #: numa_zonelist_order= (3.0), or None.
    zonelist_order: str | None = None

    @property
    def moves(self) -> bool:
        """Whether ZONE_MOVABLE is placed by the command line."""
        return self.kernelcore != Amount() or self.movablecore != Amount()


def parse_cmdline(text: str) -> BootParameters:
    """Boot parameters of a command line; the last one of a kind counts.

    Parameters that do not concern memory are left alone, as the kernel leaves them to init. SpecError for one
    that is written wrongly, or is not modelled.
    """
    kernelcore, movablecore, fake_nodes, order = Amount(), Amount(), 0, None
    for word in text.split():
        key, equals, value = word.partition("=")
        if key not in _KNOWN:
            close = difflib.get_close_matches(key, _KNOWN, n=1, cutoff=0.8)
            if close:
                raise SpecError(f"{key}: unknown boot parameter: did you mean {close[0]}?")
            continue
        if not equals:
            raise SpecError(f"{key}: a value is missing")
        match key:
            case "kernelcore":
                kernelcore = _amount(key, value)
            case "movablecore":
                movablecore = _amount(key, value)
            case "numa":
                fake_nodes = _fake_nodes(value)
            case _:
                order = _ORDERS.get(value[:1].lower())
                if order is None:
                    raise SpecError(f"{key}: {value!r} is not default, node or zone")
    return BootParameters(kernelcore, movablecore, fake_nodes, order)


def thp_enabled(cmdline: str) -> bool:
    """Whether huge pages are on at boot (setup_transparent_hugepage); by default they are."""
    words = [word for word in cmdline.split() if word.startswith("transparent_hugepage=")]
    return not words or words[-1] != "transparent_hugepage=never"


def _amount(key: str, text: str) -> Amount:
    """``2G``, ``512M``, ``30%`` (cmdline_parse_core)."""
    percent = _PERCENT.fullmatch(text)
    if percent:
        if int(percent[1]) > 100:
            raise SpecError(f"{key}: {text} is more than there is")
        return Amount(percent=int(percent[1]))
    size = _SIZE.fullmatch(text)
    if size is None:
        raise SpecError(f"{key}: {text!r} is not a size as 2G or 30%")
    shift = 10 * (" KMGTPE".index(size[2].upper()) if size[2] else 0)
    return Amount(pages=int(size[1], 0) << shift >> PAGE_SHIFT)


def _fake_nodes(text: str) -> int:
    fake = _FAKE.fullmatch(text)
    if fake is None:
        raise SpecError(f"numa: {text!r} is not modelled: fake=N is")
    if not 1 <= int(fake[1]) <= MAX_NUMNODES:
        raise SpecError(f"numa: fake={fake[1]} is not in 1 to {MAX_NUMNODES}")
    return int(fake[1])
