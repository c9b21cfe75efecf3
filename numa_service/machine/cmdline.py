"""The kernel command line: its parameters that concern memory (``kernelcore=``, ``numa=``, ``cma=``)."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from numa_service.machine.hugetlb_setup import HUGETLB_PARAMETERS, HugepageRequest, parse_hugepages
from numa_service.machine.notation import MAX_NUMNODES
from numa_service.machine.numa_emulation import Fake
from numa_service.machine.spec import SpecError
from numa_service.mm.hugetlb.hstate import PMD_KB
from numa_service.mm.mmzone import PAGE_SHIFT

_SIZE = re.compile(r"(0[xX][0-9a-fA-F]{1,16}|\d{1,20})([KMGTPE]?)", re.ASCII | re.IGNORECASE)
_PERCENT = re.compile(r"(\d{1,3})%", re.ASCII)
_FAKE = re.compile(r"fake=(\d{1,5}|\d{1,20}[MG])", re.ASCII | re.IGNORECASE)
_CMA = re.compile(r"(?P<size>[^@]+)(?:@(?P<nid>\d{1,4}))?", re.ASCII)
#: Longest command line of an x86 kernel, in characters.
COMMAND_LINE_SIZE = 2048
_KNOWN = ("kernelcore", "movablecore", "numa", "numa_zonelist_order", "cma", "numa_cma", *HUGETLB_PARAMETERS)
_ORDERS = {"d": "default", "n": "node", "z": "zone"}


@dataclass(frozen=True, slots=True)
class Amount:
    """An amount of memory: a number of pages, or a percentage of all memory; the other is 0."""

    pages: int = 0
    percent: int = 0

    def of(self, total_pages: int) -> int:
        """The amount in pages, on a machine with `total_pages`."""
        return total_pages * self.percent // 100 if self.percent else self.pages


@dataclass(frozen=True, slots=True)
class CmaArea:
    """An area to reserve for the contiguous memory allocator."""

    pages: int
    #: The node to reserve it on; None: any node that has room.
    nid: int | None = None


@dataclass(frozen=True, slots=True)
class BootParameters:
    """The parsed boot parameters; those not given have their defaults here."""

    kernelcore: Amount = Amount()
    movablecore: Amount = Amount()
    #: numa=off: one node has everything.
    numa_off: bool = False
    #: numa=fake=: the nodes to cut the machine into; None: the machine is not cut.
    fake_nodes: Fake | None = None
    #: numa_zonelist_order=, which 3.0 has: "default", "node" or "zone"; None: not given.
    zonelist_order: str | None = None
    #: Areas of cma=SIZE[@NODE] and of numa_cma=NODE:SIZE,….
    cma: tuple[CmaArea, ...] = ()
    #: Huge pages to set aside (hugepages=, hugepagesz=), and the sizes that there are pools of.
    hugepages: tuple[HugepageRequest, ...] = ()
    #: default_hugepagesz=, or the size of a PMD entry, in kB.
    default_hugepage_kb: int = PMD_KB

    @property
    def moves(self) -> bool:
        """Whether the command line sets up ZONE_MOVABLE (kernelcore=, movablecore=)."""
        return self.kernelcore != Amount() or self.movablecore != Amount()


def parse_cmdline(text: str) -> BootParameters:
    """The boot parameters of a command line; of several of one name the last counts.

    Parameters that do not concern memory are ignored. SpecError for one that is misspelt, has a wrong value,
    or has a form that is not modelled.
    """
    kernelcore, movablecore, numa_off, fake_nodes, order = Amount(), Amount(), False, None, None
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
            case "numa" if value == "off":
                numa_off = True
            case "numa":
                fake_nodes = _fake_nodes(value)
            case _ if key in HUGETLB_PARAMETERS:
                pass  # below: they count in the order in which they are given
            case _:
                order = _ORDERS.get(value[:1].lower())
                if order is None:
                    raise SpecError(f"{key}: {value!r} is not default, node or zone")
    areas = tuple(area for some in cma.values() for area in some)
    hugepages, default_kb = parse_hugepages(text)
    return BootParameters(kernelcore, movablecore, numa_off, fake_nodes, order, areas, hugepages, default_kb)


def _cma(text: str) -> tuple[CmaArea, ...]:
    """The area of ``cma=``: ``64M``, or ``64M@1`` for node 1; none for ``0``.

    What a kernel takes behind the ``@``, an address, is not modelled.
    """
    found = _CMA.fullmatch(text)
    if found is None:
        raise SpecError(f"cma: {text!r} is not a size, or a size and a node as 64M@1")
    pages = _size("cma", found["size"])
    return (CmaArea(pages, int(found["nid"]) if found["nid"] else None),) if pages else ()


def _numa_cma(text: str) -> CmaArea:
    """One area of ``numa_cma=``, which kernels have since 6.7: ``1:64M``."""
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


def numa_is_off(cmdline: str) -> bool:
    """Whether the kernel ignores what firmware says of nodes (numa_setup)."""
    return "numa=off" in cmdline.split()


def thp_mode(cmdline: str) -> str:
    """Who gets transparent huge pages at boot, "always" by default (setup_transparent_hugepage)."""
    words = [word.split("=", 1)[1] for word in cmdline.split() if word.startswith("transparent_hugepage=")]
    return ([word for word in words if word in ("always", "madvise", "never")] or ["always"])[-1]


def _amount(key: str, text: str) -> Amount:
    """The amount that ``2G``, ``512M`` or ``30%`` means (cmdline_parse_core); SpecError if `text` is none."""
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
    """The nodes that ``fake=4`` or ``fake=512M`` asks for (numa_emulation).

    SpecError for other values of ``numa=``, among them ``fake=4U``, which is not modelled.
    """
    fake = _FAKE.fullmatch(text)
    if fake is None:
        raise SpecError(f"numa: {text!r} is not modelled: off, fake=4 and fake=512M are")
    if not fake[1].isdecimal():
        pages = _size("numa=fake", fake[1])
        if not pages:
            raise SpecError(f"numa: {text!r} asks for nodes of no size")
        return Fake(pages=pages)
    if not 1 <= int(fake[1]) <= MAX_NUMNODES:
        raise SpecError(f"numa: fake={fake[1]} is not in 1 to {MAX_NUMNODES}")
    return Fake(count=int(fake[1]))
