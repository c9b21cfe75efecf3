"""The kernel command line: what of it shapes memory, as ``kernelcore=``, ``numa=fake=`` or ``cma=``."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from numa_service.machine.notation import MAX_NUMNODES
from numa_service.machine.numa_emulation import Fake
from numa_service.machine.spec import SpecError
from numa_service.mm.mmzone import PAGE_SHIFT

_SIZE = re.compile(r"(0[xX][0-9a-fA-F]{1,16}|\d{1,20})([KMGTPE]?)", re.ASCII | re.IGNORECASE)
_PERCENT = re.compile(r"(\d{1,3})%", re.ASCII)
_FAKE = re.compile(r"fake=(\d{1,5}|\d{1,20}[MG])", re.ASCII | re.IGNORECASE)
_CMA = re.compile(r"(?P<size>[^@]+)(?:@(?P<nid>\d{1,4}))?", re.ASCII)
#: Of x86, in characters.
COMMAND_LINE_SIZE = 2048
_KNOWN = ("kernelcore", "movablecore", "numa", "numa_zonelist_order", "cma", "numa_cma")
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
class CmaArea:
    """An area for the contiguous memory allocator."""

    pages: int
    #: None: wherever there is room.
    nid: int | None = None


@dataclass(frozen=True, slots=True)
class BootParameters:
    """What the command line asks for; absent is zero."""

    kernelcore: Amount = Amount()
    movablecore: Amount = Amount()
    #: numa=fake=: nodes to cut the machine into.
    fake_nodes: Fake | None = None
    #: numa_zonelist_order= (3.0), or None.
    zonelist_order: str | None = None
    #: cma=SIZE[@NODE], and numa_cma=NODE:SIZE,….
    cma: tuple[CmaArea, ...] = ()

    @property
    def moves(self) -> bool:
        """Whether ZONE_MOVABLE is placed by the command line."""
        return self.kernelcore != Amount() or self.movablecore != Amount()


def parse_cmdline(text: str) -> BootParameters:
    """Boot parameters of a command line; the last one of a kind counts.

    Parameters that do not concern memory are left alone, as the kernel leaves them to init. SpecError for one
    that is written wrongly, or is not modelled.
    """
    kernelcore, movablecore, fake_nodes, order = Amount(), Amount(), None, None
    cma: dict[str, tuple[CmaArea, ...]] = {}
    if len(text) > COMMAND_LINE_SIZE:
        raise SpecError(f"{len(text)} characters: a kernel takes {COMMAND_LINE_SIZE}")
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
            case "cma":
                cma[key] = _cma(value)
            case "numa_cma":
                cma[key] = tuple(_numa_cma(word) for word in value.split(","))
            case "numa":
                fake_nodes = _fake_nodes(value)
            case _:
                order = _ORDERS.get(value[:1].lower())
                if order is None:
                    raise SpecError(f"{key}: {value!r} is not default, node or zone")
    areas = tuple(area for some in cma.values() for area in some)
    return BootParameters(kernelcore, movablecore, fake_nodes, order, areas)


def _cma(text: str) -> tuple[CmaArea, ...]:
    """``64M``, or ``64M@1`` on node 1; ``0`` is none. A kernel's ``@ADDRESS`` is not modelled."""
    found = _CMA.fullmatch(text)
    if found is None:
        raise SpecError(f"cma: {text!r} is not a size, or a size and a node as 64M@1")
    pages = _size("cma", found["size"])
    return (CmaArea(pages, int(found["nid"]) if found["nid"] else None),) if pages else ()


def _numa_cma(text: str) -> CmaArea:
    """``1:64M``, as kernels since 6.7 write it."""
    nid, colon, size = text.partition(":")
    if not colon or not nid.isdecimal() or not nid.isascii():
        raise SpecError(f"numa_cma: {text!r} is not a node and a size as 1:64M")
    pages = _size("numa_cma", size)
    if not pages:
        raise SpecError(f"numa_cma: {text!r} asks for nothing")
    return CmaArea(pages, int(nid))


def _size(key: str, text: str) -> int:
    amount = _amount(key, text)
    if amount.percent:
        raise SpecError(f"{key}: {text!r} is not a size as 64M")
    return amount.pages


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


def _fake_nodes(text: str) -> Fake:
    """``fake=4``, ``fake=512M``; a number below zero or ``4U`` is not modelled (numa_emulation)."""
    fake = _FAKE.fullmatch(text)
    if fake is None:
        raise SpecError(f"numa: {text!r} is not modelled: fake=N and fake=SIZE are, as fake=4 and fake=512M")
    if not fake[1].isdecimal():
        pages = _size("numa=fake", fake[1])
        if not pages:
            raise SpecError(f"numa: {text!r} asks for nodes of no size")
        return Fake(pages=pages)
    if not 1 <= int(fake[1]) <= MAX_NUMNODES:
        raise SpecError(f"numa: fake={fake[1]} is not in 1 to {MAX_NUMNODES}")
    return Fake(count=int(fake[1]))
