"""Parser for the ``/proc/buddyinfo`` of a captured machine: its free blocks by zone and order."""

from __future__ import annotations

import re
from collections.abc import Mapping

from numa_service.machine.occupancy import FreeBlocks, ZoneOccupancy
from numa_service.machine.spec import SpecError
from numa_service.mm.mmzone import MIGRATE_MOVABLE, NR_ORDERS

#: One line of buddyinfo: the nid, the zone's name, and a count for each order.
BUDDYINFO_LINE = re.compile(r"Node (\d{1,4}), zone +(\w+)((?: +\d{1,12})+) *", re.ASCII)


def parse_buddyinfo(text: str) -> dict[tuple[int, str], tuple[int, ...]]:
    """Numbers of free blocks by order, by (nid, zone name) in file order (``frag_show_print``).

    SpecError names the line that is not one of a buddyinfo.
    """
    zones: dict[tuple[int, str], tuple[int, ...]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not (found := BUDDYINFO_LINE.fullmatch(line)):
            raise SpecError(f"buddyinfo line {number}: not 'Node N, zone NAME counts': {line[:80]!r}")
        key = (int(found[1]), found[2])
        if key in zones:
            raise SpecError(f"buddyinfo line {number}: node {key[0]} zone {key[1]} is there twice")
        zones[key] = parse_counts(found[3], f"buddyinfo line {number}")
    if not zones:
        raise SpecError("buddyinfo: empty")
    return zones


def parse_counts(text: str, where: str) -> tuple[int, ...]:
    """Numbers of free blocks, one for each order; SpecError, naming `where`, if there are more or fewer."""
    counts = tuple(map(int, text.split()))
    if len(counts) != NR_ORDERS:
        raise SpecError(f"{where}: {len(counts)} orders, not {NR_ORDERS}")
    return counts


def read_occupancy(text: str, sizes: Mapping[tuple[int, str], int]) -> tuple[ZoneOccupancy, ...]:
    """How full the zones of a machine were, by its buddyinfo.

    `sizes` are the managed pages of its zones. Migratetypes are not in it: all free blocks are taken to be
    movable, as after boot. SpecError names a zone with more free pages than it manages.
    """
    occupancy = []
    for (nid, name), counts in parse_buddyinfo(text).items():
        if not (managed := sizes.get((nid, name), 0)):
            continue
        free = sum(count << order for order, count in enumerate(counts))
        if free > managed:
            raise SpecError(f"buddyinfo: node {nid} zone {name}: {free} pages free of {managed}")
        blocks = tuple(
            FreeBlocks(order, MIGRATE_MOVABLE, count) for order, count in enumerate(counts) if count
        )
        occupancy.append(ZoneOccupancy(nid, name, free, blocks))
    return tuple(occupancy)
