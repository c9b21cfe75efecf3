"""The ranges of RAM that firmware leaves, and the zones that ``free_area_init`` lays over them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from numa_service.machine.spec import SpecError, ZoneSpec
from numa_service.mm.mmzone import MAX_ORDER_NR_PAGES, PAGE_SHIFT, ZONE_NAMES

#: [start_pfn, end_pfn)
PfnRange = tuple[int, int]

_NO_LIMIT = 1 << 52
_MAX_DMA_PFN = 16 << 20 >> PAGE_SHIFT
_MAX_DMA32_PFN = 4 << 30 >> PAGE_SHIFT
#: First pfn of HighMem on i386 (``find_low_pfn_range``): 6.1 with PAE prints 0x36ffe000. It is the 896 MiB of
#: the textbooks less the fixmap, pkmap and cpu_entry_area below 4 GiB.
MAX_LOW_PFN_I386 = 225_278

#: End pfn of each zone type by architecture, as ``zone_sizes_init`` sets max_zone_pfns.
_ZONE_END_PFN: dict[str, tuple[tuple[str, int], ...]] = {
    "x86_64": (("DMA", _MAX_DMA_PFN), ("DMA32", _MAX_DMA32_PFN), ("Normal", _NO_LIMIT)),
    "i386": (("DMA", _MAX_DMA_PFN), ("Normal", MAX_LOW_PFN_I386), ("HighMem", _NO_LIMIT)),
}

#: Pages below 1 MiB that are never RAM on a PC: page 0 (``trim_bios_range``); from 0x9f000 EBDA, VGA, ROMs.
_BIOS_HOLES: tuple[PfnRange, ...] = ((0x0, 0x1), (0x9F, 0x100))
#: qemu's q35 puts 2 GiB of RAM below 4 GiB if there are 2.75 GiB or more, else all. The last 128 KiB of that
#: low memory are ACPI tables.
_Q35_SPLIT_PFN = 0xB000_0000 >> PAGE_SHIFT
_Q35_LOW_PFN = 0x8000_0000 >> PAGE_SHIFT
_Q35_ACPI_PAGES = 32


def q35_ram(node_pages: Sequence[int]) -> list[tuple[PfnRange, ...]]:
    """RAM ranges of nodes of these sizes, one behind the other in physical memory as qemu's q35 places them.

    There are holes at page 0, from 0x9f000 to 1 MiB, at the end of low memory (128 KiB of ACPI tables), and
    from there to 4 GiB. Low memory ends at 2 GiB if there are 2.75 GiB or more.
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
    """RAM ranges without the pages below 1 MiB that are never RAM on a PC."""
    return subtract(ram, _BIOS_HOLES)


def movable_zone(arch: str, ram: Iterable[PfnRange]) -> tuple[str, int]:
    """Name and first pfn of the zone that ZONE_MOVABLE is taken from: the machine's highest with memory.

    `ram` is that of all nodes (``find_usable_zone_for_movable``).
    """
    last_pfn = max((end for _, end in ram), default=1) - 1
    start = 0
    for name, end in _ZONE_END_PFN[arch]:
        if last_pfn < end:
            return name, start
        start = end
    raise AssertionError("the last zone has no limit")


def zone_ranges(arch: str, ram: Iterable[PfnRange]) -> list[tuple[str, int, int]]:
    """(name, first pfn, end pfn) of every zone type but Movable, as "Zone ranges:" of the boot log has them.

    The ranges include holes; an empty zone type begins and ends at one pfn. `ram` is that of all nodes.
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
    """First pfn of a ZONE_MOVABLE of the top `pages` of a node, rounded up to MAX_ORDER_NR_PAGES.

    The rounding is that of ``find_zone_movable_pfns_for_nodes``. SpecError if fewer than `pages` lie at or
    above `lowest_pfn` (see :func:`movable_zone`), or if rounding leaves none.
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
    """First pfn of ZONE_MOVABLE on the nodes that get one, by nid; the amounts are in pages.

    `ram` is by nid, empty for memory-less nodes; `usable_start` is where ZONE_MOVABLE may begin (see
    :func:`movable_zone`). Memory for the kernel is spread evenly over the nodes with memory. In each round
    every node gives an equal share of what is still wanted, its lowest pages first; pages below
    `usable_start` are always the kernel's, and count. What small nodes cannot give is divided among the
    others in the next round.
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
    """One node's round: (pages given to the kernel, first pfn not given).

    The node gives up to `share` pages from pfn `reached` on, and all below `usable_start`.
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
    """The zones of a node that have pages, in index order (``calculate_node_totalpages``).

    `ram` is ascending and disjoint. Memory at or above `movable_from`, if given, is in ZONE_MOVABLE; zones
    that begin below `movable_lowest` keep theirs. A zone spans from the first to the last pfn of the node
    within its limits, holes included; its present pages are those of `ram`.
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
    """The ranges in ascending order, touching and overlapping ones joined, empty ones dropped."""
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
    """The parts of `ranges` that lie within `span`, merged."""
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
    """Number of pages in disjoint ranges."""
    return sum(end - start for start, end in ranges)
