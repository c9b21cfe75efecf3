"""Boot parameters of hugetlb pools: ``hugepages=``, ``hugepagesz=`` and ``default_hugepagesz=``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from numa_service.machine.spec import MachineSpec, SpecError
from numa_service.mm.hugetlb.hstate import PMD_KB, PUD_KB, Hstate
from numa_service.mm.hugetlb.spread import in_turn, spread
from numa_service.mm.profile import profile_named

HUGETLB_PARAMETERS = ("hugepages", "hugepagesz", "default_hugepagesz")

_NUMBER = re.compile(r"\d{1,12}", re.ASCII)
_SIZES = {"2M": PMD_KB, "2048K": PMD_KB, "1G": PUD_KB, "1024M": PUD_KB}


@dataclass(frozen=True, slots=True)
class HugepageRequest:
    """Huge pages of one size that boot sets aside."""

    kb: int
    #: Pages of all nodes, which take turns.
    total: int = 0
    #: (nid, pages) of single nodes; empty if `total` says it.
    by_node: tuple[tuple[int, int], ...] = ()


def parse_hugepages(cmdline: str) -> tuple[tuple[HugepageRequest, ...], int]:
    """Return the request for each size that is named, and the default size in kB.

    ``hugepages=`` is of the size that ``hugepagesz=`` or ``default_hugepagesz=`` named before it, else of the
    default size; of several for one size the last counts (hugepages_setup, hugepagesz_setup). SpecError.
    """
    default = PMD_KB
    current: int | None = None
    asked: dict[int | None, HugepageRequest] = {}
    for word in cmdline.split():
        key, _, value = word.partition("=")
        if key == "hugepages":
            asked[current] = _pages(value)
        elif key in HUGETLB_PARAMETERS:
            if value.upper() not in _SIZES:
                raise SpecError(f"{key}: {value!r} is not 2M or 1G")
            current = _SIZES[value.upper()]
            asked.setdefault(current, HugepageRequest(current))
            if key == "default_hugepagesz":
                default = current
    requests: dict[int, HugepageRequest] = {}
    for named, request in asked.items():
        kb = default if named is None else named
        requests[kb] = HugepageRequest(kb, request.total, request.by_node)
    return tuple(requests.values()), default


def _pages(text: str) -> HugepageRequest:
    """What ``hugepages=`` asks for: ``64``, or ``0:2,1:4``."""
    if _NUMBER.fullmatch(text):
        return HugepageRequest(0, int(text))
    by_node: dict[int, int] = {}
    for part in text.split(","):
        nid, _, count = part.partition(":")
        if not _NUMBER.fullmatch(nid) or not _NUMBER.fullmatch(count):
            raise SpecError(f"hugepages: {text!r} is not a number, or numbers of nodes as 0:2,1:4")
        by_node[int(nid)] = int(count)
    return HugepageRequest(0, 0, tuple(sorted(by_node.items())))


def hstates(arch: str, requests: tuple[HugepageRequest, ...]) -> tuple[Hstate, ...]:
    """Return the sizes that a machine's kernel has pools of, ascending (hugetlb_add_hstate).

    1 GiB is there if the command line names it: the CPU of a captured machine does not offer it by itself.
    """
    sizes = {PMD_KB} | {request.kb for request in requests if arch == "x86_64"}
    return tuple(Hstate(kb) for kb in sorted(sizes))


def boot_shares(spec: MachineSpec, request: HugepageRequest) -> dict[int, int]:
    """Return how many huge pages of a request each node is to set aside, by nid (hugetlb_hstate_alloc_pages).

    Nodes with memory take turns from the first on; one that has less RAM than its share gives what it can.
    A kernel without the rule `hugepages_per_node` takes a list of nodes for no number at all.
    """
    order = Hstate(request.kb).order
    rooms = {node.nid: sum(end - start for start, end in node.ram) >> order for node in spec.nodes}
    rooms = {nid: room for nid, room in rooms.items() if room}
    if request.by_node:
        if not profile_named(spec.profile).hugepages_per_node:
            return {}
        return {nid: count for nid, count in request.by_node if nid in rooms}
    return spread(in_turn(tuple(rooms), 0), rooms, request.total)
