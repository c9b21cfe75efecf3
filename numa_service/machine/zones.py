"""From RAM to zones: the memory map that firmware gives, and what ``free_area_init`` makes of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from numa_service.machine.spec import SpecError, ZoneSpec
from numa_service.mm.mmzone import MAX_ORDER_NR_PAGES, PAGE_SHIFT, ZONE_NAMES

#: [start_pfn, end_pfn)
PfnRange = tuple[int, int]

_NO_LIMIT = 1 << 52
_MAX_DMA_PFN = 16 << 20 >> PAGE_SHIFT
_MAX_DMA32_PFN = 4 << 30 >> PAGE_SHIFT
#: i386 lowmem (``find_low_pfn_range``): what 6.1 with PAE prints as HighMem's start, 0x36ffe000. The round
#: 896 MiB of the textbooks less the fixmap, pkmap and cpu_entry_area below 4 GiB.
MAX_LOW_PFN_I386 = 225_278

#: Zone limits by architecture, as ``zone_sizes_init`` fills max_zone_pfns: first pfn past each zone.
_ZONE_END_PFN: dict[str, tuple[tuple[str, int], ...]] = {
    "x86_64": (("DMA", _MAX_DMA_PFN), ("DMA32", _MAX_DMA32_PFN), ("Normal", _NO_LIMIT)),
    "i386": (("DMA", _MAX_DMA_PFN), ("Normal", MAX_LOW_PFN_I386), ("HighMem", _NO_LIMIT)),
}

#: What a PC never gives as RAM: page 0 (``trim_bios_range``); EBDA, VGA and ROMs from 0x9f000 to 1 MiB.
_BIOS_HOLES: tuple[PfnRange, ...] = ((0x0, 0x1), (0x9F, 0x100))
#: qemu's q35: with 2.75 GiB of RAM or more, 2 GiB of it lie below 4 GiB; ACPI takes the last 128 KiB there.
_Q35_SPLIT_PFN = 0xB000_0000 >> PAGE_SHIFT
_Q35_LOW_PFN = 0x8000_0000 >> PAGE_SHIFT
_Q35_ACPI_PAGES = 32


def q35_ram(node_pages: Sequence[int]) -> list[tuple[PfnRange, ...]]:
    """RAM ranges of nodes that follow each other in physical memory, as qemu's q35 lays them out.

    Holes: page 0, 0x9f000 to 1 MiB, from 2 GiB (2.75 GiB of RAM or more) to 4 GiB, and 128 KiB of ACPI
    tables at the end of low memory.
    """
    total = sum(node_pages)
    low = min(total, _Q35_LOW_PFN if total >= _Q35_SPLIT_PFN else _Q35_SPLIT_PFN)
    holes = (*_BIOS_HOLES, (max(low - _Q35_ACPI_PAGES, 0), low))
    layout: list[tuple[PfnRange, ...]] = []
    offset = 0
    for pages in node_pages:
        end = offset + pages
        above = _MAX_DMA32_PFN - low
        below_4g = (min(offset, low), min(end, low))
        above_4g = (max(offset, low) + above, max(end, low) + above)
        layout.append(subtract((below_4g, above_4g), holes))
        offset = end
    return layout


def without_bios_holes(ram: Iterable[PfnRange]) -> tuple[PfnRange, ...]:
    """RAM ranges without what a PC keeps for itself below 1 MiB."""
    return subtract(ram, _BIOS_HOLES)


def movable_zone(arch: str, ram: Iterable[PfnRange]) -> tuple[str, int]:
    """Zone that ZONE_MOVABLE is taken from, and its first pfn: the machine's highest one with memory.

    ``find_usable_zone_for_movable``; `ram` is that of all nodes.
    """
    last_pfn = max((end for _, end in ram), default=1) - 1
    start = 0
    for name, end in _ZONE_END_PFN[arch]:
        if last_pfn < end:
            return name, start
        start = end
    raise AssertionError("the last zone has no limit")


def zone_ranges(arch: str, ram: Iterable[PfnRange]) -> list[tuple[str, int, int]]:
    """(name, first pfn, end pfn) of every zone type but Movable, as "Zone ranges:" prints them; empty: equal.

    These are the limits of what the machine has, not where RAM is: `ram` is that of all nodes.
    """
    merged = merge(ram)
    start, last = merged[0][0], merged[-1][1]
    ranges = []
    for name, limit in _ZONE_END_PFN[arch]:
        end = max(min(limit, last), start)
        ranges.append((name, start, end))
        start = end
    if "Device" in ZONE_NAMES[arch]:
        ranges.append(("Device", start, start))
    return ranges


def movable_start(ram: Sequence[PfnRange], pages: int, lowest_pfn: int) -> int:
    """First pfn of a ZONE_MOVABLE with the top `pages` of a node, rounded up to MAX_ORDER_NR_PAGES.

    SpecError if that many pages do not lie at or above `lowest_pfn` (see :func:`movable_zone`), or if
    rounding leaves none. ``find_zone_movable_pfns_for_nodes``.
    """
    left = pages
    for start, end in reversed(ram):
        start = max(start, lowest_pfn)
        if end - start >= left:
            first = -(-(end - left) // MAX_ORDER_NR_PAGES) * MAX_ORDER_NR_PAGES
            if first >= ram[-1][1]:
                break
            return first
        left -= max(end - start, 0)
    else:
        raise SpecError(
            f"only {pages - left} of these {pages} pages lie in the machine's highest zone, "
            f"which starts at pfn {lowest_pfn}"
        )
    raise SpecError(f"{pages} pages: nothing is left when its start is rounded up to {MAX_ORDER_NR_PAGES}")


def find_zone_movable_pfns_for_nodes(
    ram: Mapping[int, Sequence[PfnRange]], kernelcore: int, movablecore: int, usable_start: int
) -> dict[int, int]:
    """First pfn of ZONE_MOVABLE, by nid where it is, for ``kernelcore=`` and ``movablecore=`` in pages.

    `ram` by nid, memory-less nodes with none; `usable_start` is where ZONE_MOVABLE may begin (see
    :func:`movable_zone`). Memory for the kernel is spread evenly over the nodes with memory: each round,
    every node gives its equal share of what is wanted, lowest pages first, memory below `usable_start`
    counted always; what nodes that are too small do not give is asked of the others in the next round.
    """
    total = sum(map(count_pages, ram.values()))
    wanted = kernelcore
    if movablecore:
        rounded = -(-movablecore // MAX_ORDER_NR_PAGES) * MAX_ORDER_NR_PAGES
        wanted = max(wanted, total - min(total, rounded))
    if not 0 < wanted < total:
        return {}
    nids = sorted(nid for nid, ranges in ram.items() if ranges)
    reached = dict.fromkeys(nids, 0)
    sharers = len(nids)
    while True:
        share = wanted // sharers
        for nid in nids:
            if wanted < share:
                share = wanted // sharers
            given, reached[nid] = _give_to_kernel(ram[nid], reached[nid], share, usable_start)
            wanted = max(0, wanted - given)
        sharers -= 1
        if not sharers or wanted <= sharers:
            break
    starts = {
        nid: -(-first // MAX_ORDER_NR_PAGES) * MAX_ORDER_NR_PAGES for nid, first in reached.items() if first
    }
    return {nid: first for nid, first in starts.items() if first < ram[nid][-1][1]}


def _give_to_kernel(
    ranges: Sequence[PfnRange], reached: int, share: int, usable_start: int
) -> tuple[int, int]:
    """One node's turn: (pages given, first pfn not given), from `reached` on, up to `share` pages.

    Pages below `usable_start` are the kernel's whatever the share is.
    """
    given = 0
    for start, end in ranges:
        start = max(start, reached)
        if start >= end:
            continue
        only_kernel = max(0, min(end, usable_start) - start)
        given += only_kernel
        start += only_kernel
        take = min(end - start, max(0, share - given))
        given += take
        reached = start + take
        if start < end and given >= share:
            break
    return given, reached


def layout_zones(
    arch: str, ram: Sequence[PfnRange], movable_from: int | None = None, movable_lowest: int = 0
) -> tuple[ZoneSpec, ...]:
    """Zones of a node with pages, in index order (``calculate_node_totalpages``).

    `ram` is ascending and disjoint. With `movable_from`, what lies at or above it goes to Movable, but never
    below `movable_lowest`. Zones span from the first to the last pfn that the node has within their limits,
    holes included; pages present are those of `ram`.
    """
    if not ram:
        return ()
    node_start, node_end = ram[0][0], ram[-1][1]
    spans: dict[str, PfnRange] = {}
    zone_start = 0
    for name, zone_end in _ZONE_END_PFN[arch]:
        end = zone_end
        if movable_from is not None and zone_start >= movable_lowest:
            end = min(end, movable_from)
        spans[name] = (max(node_start, zone_start), min(node_end, end))
        zone_start = zone_end
    if movable_from is not None:
        spans["Movable"] = (max(movable_from, node_start), node_end)
    zones: list[ZoneSpec] = []
    for name in ZONE_NAMES[arch]:
        start, end = spans.get(name, (0, 0))
        present = count_pages(intersect(ram, (start, end)))
        if present:
            zones.append(ZoneSpec(name, start, end - start, present, managed=None))
    return tuple(zones)


def merge(ranges: Iterable[PfnRange]) -> tuple[PfnRange, ...]:
    """Ranges in ascending order, touching and overlapping ones made one, empty ones dropped."""
    merged: list[PfnRange] = []
    for start, end in sorted(ranges):
        if start >= end:
            continue
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return tuple(merged)


def intersect(ranges: Iterable[PfnRange], span: PfnRange) -> tuple[PfnRange, ...]:
    """What of `ranges` lies within `span`."""
    return merge((max(start, span[0]), min(end, span[1])) for start, end in ranges)


def subtract(ranges: Iterable[PfnRange], holes: Iterable[PfnRange]) -> tuple[PfnRange, ...]:
    """`ranges` without `holes`, merged."""
    left = list(merge(ranges))
    for hole_start, hole_end in holes:
        left = [
            piece
            for start, end in left
            for piece in ((start, min(end, hole_start)), (max(start, hole_end), end))
            if piece[0] < piece[1]
        ]
    return merge(left)


def count_pages(ranges: Iterable[PfnRange]) -> int:
    """Pages in disjoint ranges."""
    return sum(end - start for start, end in ranges)
