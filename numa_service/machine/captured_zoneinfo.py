"""Parser for ``/proc/zoneinfo`` of a captured kernel: only the places and sizes of zones are read."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from numa_service.machine.captured_tree import Tree
from numa_service.machine.notation import MAX_NUMNODES, NR_CPUS, shown
from numa_service.machine.spec import SpecError

_HEADER = re.compile(r"Node (\d{1,9}), zone +([A-Za-z0-9]{1,16})", re.ASCII)
_FIELD = re.compile(r" +(spanned|present|managed|start_pfn:|cpu:) *(.*)")
_MARK = re.compile(r" +(min|boost) +(\d{1,18})", re.ASCII)
_FREE = re.compile(r" +pages free +(\d{1,18})", re.ASCII)
_COUNTER = re.compile(r" +(nr_\w{1,60}) +(\d{1,18})", re.ASCII)
_PROTECTION = re.compile(r" +protection: \((\d{1,18}(?:, \d{1,18})*)\)", re.ASCII)
_NUMBER = re.compile(r"\d{1,18}", re.ASCII)


@dataclass(frozen=True, slots=True)
class CapturedZone:
    """One zone as printed, populated or not; sizes are in pages."""

    #: "FILE:LINE: Node N, zone NAME", for error messages.
    where: str
    nid: int
    name: str
    start_pfn: int
    spanned: int
    present: int
    #: Kernels before 3.9 do not print it, and compute from `present`.
    managed: int
    #: Whether counters come before ``protection``, as they did until empty zones were printed.
    counters_first: bool
    #: Number of zone types of the kernel, and whether it prints `managed`.
    nr_types: int
    has_managed: bool
    #: CPUs with a pageset: all that were on-line; empty for a zone without pages.
    cpus: tuple[int, ...]
    #: NR_FREE_PAGES, and the other counters of the zone; None and empty where they are not printed.
    free: int | None = None
    counters: dict[str, int] = field(default_factory=dict)
    #: lowmem_reserve by zone type of that kernel, in pages.
    protection: tuple[int, ...] = ()
    #: The min watermark as printed, without its boost; None if it is not there.
    wmark_min: int | None = None


def parse_zoneinfo(tree: Tree, name: str) -> list[CapturedZone]:
    """All zones in the order printed; SpecError names the line where the text is cut off or garbled."""
    source = tree.where(name)
    zones: list[CapturedZone] = []
    seen: set[tuple[int, str]] = set()
    draft: _Draft | None = None
    nr_zones: dict[int, int] = {}
    number = 0
    for number, line in enumerate(tree.lines(name), start=1):
        header = _HEADER.fullmatch(line)
        if header:
            if draft is not None:
                zones.append(draft.finish(number))
            draft = _Draft(source, number, int(header[1]), header[2])
            if draft.nid >= MAX_NUMNODES:
                raise SpecError(f"{draft.where}: there are at most {MAX_NUMNODES} nodes")
            if (draft.nid, draft.name) in seen:
                raise SpecError(f"{draft.where}: a second time")
            seen.add((draft.nid, draft.name))
        elif draft is None:
            raise SpecError(f"{source}:{number}: not a zoneinfo: {line[:60]!r}, expected 'Node 0, zone …'")
        else:
            draft.take(number, line)
    if draft is None:
        raise SpecError(f"{source}:1: no zones: the file is empty")
    zones.append(draft.finish(number))
    if lists_populated_zones_only(zones):
        return zones
    nr_types = draft.nr_zone_types
    for zone in zones:
        nr_zones[zone.nid] = nr_zones.get(zone.nid, 0) + 1
    for nid, count in nr_zones.items():
        if count != nr_types:
            raise SpecError(f"{source}:{number}: node {nid} has {count} zones of {nr_types}: truncated")
    return zones


def lists_populated_zones_only(zones: list[CapturedZone]) -> bool:
    """Whether zones and nodes without pages are missing because the kernel does not print them.

    The kernels that print them print ``protection`` before the counters, which empty zones do not have.
    """
    return zones[0].counters_first


class _Draft:
    """A zone whose lines are being read."""

    def __init__(self, source: str, line: int, nid: int, name: str) -> None:
        self.source = source
        self.nid = nid
        self.name = name
        self.where = f"{source}:{line}: Node {nid}, zone {name}"
        #: Number of zone types of this kernel: ``protection:`` has one value for each.
        self.nr_zone_types = 0
        self._values: dict[str, int] = {}
        self._protection: tuple[int, ...] = ()
        self._marks: dict[str, int] = {}
        self._counters_first = False
        self._free: int | None = None
        self._counters: dict[str, int] = {}
        self._cpus: list[int] = []

    def take(self, number: int, line: str) -> None:
        """Read one line of the zone's block; lines with other fields are ignored."""
        if free := _FREE.fullmatch(line):
            self._free = int(free[1])
        if mark := _MARK.fullmatch(line):
            self._marks.setdefault(mark[1], int(mark[2]))
        field = _FIELD.fullmatch(line)
        if field:
            key = field[1].rstrip(":")
            if not _NUMBER.fullmatch(field[2]):
                raise SpecError(f"{self._at(number)}: {key}: {shown(field[2])} is not a number")
            value = int(field[2])
            if key == "cpu":
                if value >= NR_CPUS:
                    raise SpecError(f"{self._at(number)}: CPU {value}: there are at most {NR_CPUS} CPUs")
                self._cpus.append(value)
            elif key in self._values:
                raise SpecError(f"{self._at(number)}: {key}: a second time")
            else:
                self._values[key] = value
        elif found := _COUNTER.fullmatch(line):
            if self._free is not None:  # else of the whole node, which is printed before its first zone
                self._counters[found[1]] = int(found[2])
            self._counters_first |= "present" in self._values and not self.nr_zone_types
        elif line.lstrip().startswith("protection:"):
            protection = _PROTECTION.fullmatch(line)
            if protection is None:
                raise SpecError(
                    f"{self._at(number)}: protection: {shown(line.strip())} is cut off or garbled"
                )
            self._protection = tuple(map(int, protection[1].split(", ")))
            self.nr_zone_types = len(self._protection)

    def finish(self, number: int) -> CapturedZone:
        """The zone, whose block ended before line `number`; SpecError if a field is missing."""
        wanted = ["spanned", "present"]
        if self._values.get("present"):
            wanted.append("start_pfn")
        for key in wanted:
            if key not in self._values:
                raise SpecError(f"{self._at(number)}: no {key}: the zone is cut off")
        if not self.nr_zone_types:
            raise SpecError(f"{self._at(number)}: no protection: the zone is cut off")
        spanned, present = (self._values[key] for key in wanted[:2])
        managed = self._values.get("managed", present)
        if not managed <= present <= spanned:
            raise SpecError(f"{self.where}: not managed {managed} ≤ present {present} ≤ spanned {spanned}")
        least = self._marks.get("min")
        return CapturedZone(
            where=self.where,
            nid=self.nid,
            name=self.name,
            start_pfn=self._values.get("start_pfn", 0),
            spanned=spanned,
            present=present,
            managed=managed,
            counters_first=self._counters_first,
            nr_types=self.nr_zone_types,
            has_managed="managed" in self._values,
            free=self._free,
            counters=self._counters,
            protection=self._protection,
            wmark_min=None if least is None else max(0, least - self._marks.get("boost", 0)),
            cpus=tuple(self._cpus),
        )

    def _at(self, number: int) -> str:
        return f"{self.source}:{number}: Node {self.nid}, zone {self.name}"
