"""The machine of a Mem-Info report: its zones, the sysctls behind its marks, and how full it was."""

from __future__ import annotations

import re
from dataclasses import replace

from numa_service.machine.formats.mem_info import Report, ReportedZone, parse_mem_info
from numa_service.machine.late_free import managed_at_boot
from numa_service.machine.notation import MAX_PHYSMEM_BYTES, format_cpulist
from numa_service.machine.occupancy import FreeBlocks, ZoneOccupancy
from numa_service.machine.spec import MachineSpec, NodeSpec, SpecError, ZoneSpec
from numa_service.machine.sysctl import default_lowmem_reserve_ratio
from numa_service.machine.verdict import rules_version
from numa_service.mm.mmzone import (
    MAX_ORDER_NR_PAGES,
    MIGRATE_MOVABLE,
    MIGRATE_RECLAIMABLE,
    MIGRATE_UNMOVABLE,
    NR_ORDERS,
    PAGE_SHIFT,
    ZONE_NAMES,
)
from numa_service.mm.profile import profile_named, profile_of_version
from numa_service.mm.watermark import ZoneKey, highmem_zones, setup_per_zone_wmarks

_LETTERS = {"U": MIGRATE_UNMOVABLE, "M": MIGRATE_MOVABLE, "E": MIGRATE_RECLAIMABLE, "R": MIGRATE_MOVABLE}
#: Letters of HIGHATOMIC and ISOLATE.
_RESERVED = {"H", "I"}
#: Who holds pages, and the fields of a zone that say how many.
_HOLDERS = {
    "anonymous memory": ("active_anon", "inactive_anon", "isolated(anon)"),
    "page cache": ("active_file", "inactive_file", "isolated(file)"),
    "unevictable memory": ("unevictable",),
    "slab": ("slab_reclaimable", "slab_unreclaimable"),
    "page tables": ("pagetables",),
    "kernel stacks": ("kernel_stack",),
    "pagesets": ("free_pcp",),
}
#: End of the x86 ZONE_DMA, 16 MiB.
_DMA_END = 16 << (20 - PAGE_SHIFT)
_NAME = re.compile(r"[^A-Za-z0-9._-]+")


def read_mem_info(text: str, source: str, name: str) -> MachineSpec:
    """The machine of the first report of a text, as full as it was; SpecError if sizes are not printed."""
    return machine_of(parse_mem_info(text, source), source, name)


def machine_of(report: Report, source: str, name: str) -> MachineSpec:
    """The machine of a report. SpecError names the zone whose size is not printed."""
    arch = "i386" if report.has_highmem else "x86_64"
    profile = profile_of_version(report.kernel or ".".join(map(str, rules_version(report)))).name
    notes = [
        "places of zones in physical memory, CPUs and distances are not in the text: zones one after the "
        "other, one CPU a node, and 10 and 20 were taken",
        "what is held is held for good: reclaim finds nothing here, as it had when the text was printed",
    ]
    if report.page_kb != 4:
        notes.append(f"pages of {report.page_kb} kB are counted one by one, as pages of 4 kB")
    if report.others:
        notes.append(f"the text has {report.others} more reports: the first is read")
    unseen = sorted(set(report.nodes) - {zone.nid for zone in report.zones})
    if unseen:
        notes.append(f"node {format_cpulist(unseen)}: no zone is in the text: left out")
    nodes: list[NodeSpec] = []
    start = 0
    for cpu, nid in enumerate(sorted({zone.nid for zone in report.zones})):
        zones = []
        for zone in sorted(
            (zone for zone in report.zones if zone.nid == nid),
            key=lambda zone: report.zone_names.index(zone.name),
        ):
            present, managed = _sizes(report, zone, source)
            if not present:
                continue
            if not start and managed < _DMA_END:
                start = _DMA_END - managed  # boot takes the pages that are not managed from the end
            zones.append(ZoneSpec(zone.name, start, present, present, managed))
            start = -(-(start + present) // MAX_ORDER_NR_PAGES) * MAX_ORDER_NR_PAGES
            if start > MAX_PHYSMEM_BYTES >> PAGE_SHIFT:
                raise SpecError(f"{source}: memory beyond {MAX_PHYSMEM_BYTES >> 40} TiB")
        zones = _freed_late(report, nid, zones, arch, profile)
        ram = tuple((zone.start_pfn, zone.start_pfn + zone.present) for zone in zones)
        nodes.append(NodeSpec(nid, (cpu,), tuple(zones), ram))
    if not any(zone.managed for node in nodes for zone in node.zones):
        raise SpecError(f"{source}: no zone has a page")
    sysctls, exact = _marks(report, nodes, profile)
    if not exact:
        notes.append(
            f"vm.min_free_kbytes={sysctls['vm.min_free_kbytes']} makes nearly these watermarks: they have "
            "boosts that are not printed, or what zones had at boot is not told to the page"
        )
    return MachineSpec(
        name=_NAME.sub("-", name).strip("-._")[:63] or "machine",
        source=source,
        arch=arch,
        profile=profile,
        nodes=tuple(nodes),
        distances=tuple(tuple(10 if a is b else 20 for b in nodes) for a in nodes),
        swap_pages=report.swap_kb.get("Total", 0) // report.page_kb,
        sysctls=sysctls,
        notes=tuple(notes),
        occupancy=tuple(_occupancy(report, zone) for zone in report.zones if report.pages(zone, "present")),
    )


def _sizes(report: Report, zone: ReportedZone, source: str) -> tuple[int, int]:
    """Present and managed pages; kernels before 3.9 print only `present`."""
    present, managed = report.pages(zone, "present"), report.pages(zone, "managed")
    where = f"{source}: node {zone.nid} {zone.name}"
    if present is None:
        raise SpecError(f"{where}: present is not printed: the zone's size is not known")
    if managed is not None and managed > present:
        raise SpecError(f"{where}: managed {managed} > present {present} pages")
    if managed is None:
        # before 3.9 `present` leaves out the memory map, whose end boot may free after all
        present = managed = max(present, report.pages(zone, "free") or 0)
    return present, managed


def _freed_late(report: Report, nid: int, zones: list[ZoneSpec], arch: str, profile: str) -> list[ZoneSpec]:
    """The zones of a node, with what they have got since their reserves were computed."""
    names = ZONE_NAMES[arch]
    managed = dict.fromkeys(names, 0) | {zone.name: zone.managed or 0 for zone in zones}
    reserves = {
        names.index(zone.name): zone.lowmem_reserve
        for zone in report.zones
        if zone.nid == nid and zone.lowmem_reserve and zone.name in names
    }
    ratios = list(map(int, default_lowmem_reserve_ratio(arch, profile).split()))
    then = managed_at_boot(list(managed.values()), reserves, ratios)
    return [
        replace(zone, freed_late=managed[zone.name] - then[names.index(zone.name)])
        for zone in zones
        if zone.name in names
    ]


def _marks(report: Report, nodes: list[NodeSpec], profile: str) -> tuple[dict[str, str], bool]:
    """min_free_kbytes and watermark_scale_factor behind the printed marks, and whether they fit exactly.

    Marks are of what zones managed when they were computed.
    """
    kernel = profile_named(profile)
    managed = {
        (node.nid, zone.name): (zone.managed or 0) - zone.freed_late for node in nodes for zone in node.zones
    }
    low = [key for key in managed if managed[key] and key[1] not in highmem_zones(managed, kernel)]
    total = sum(managed[key] for key in low)
    printed = {
        (zone.nid, zone.name): (
            (report.pages(zone, "min") or 0) - (report.pages(zone, "boost") or 0),
            (report.pages(zone, "high") or 0) - (report.pages(zone, "low") or 0),
        )
        for zone in report.zones
    }
    pages_min = _agreed({key: printed[key][0] for key in low}, managed, total)
    kbytes = pages_min << (PAGE_SHIFT - 10)
    factor = 10
    if kernel.watermark_scale:
        gaps = [(managed[key], printed[key][1]) for key in low]
        pages, gap = max(gaps, default=(0, 0))
        if pages and gap > (pages_min * pages // max(total, 1)) >> 2:
            factor = max(1, min(round(gap * 10000 / pages), 3000))
    marks = setup_per_zone_wmarks(managed, kernel, kbytes, factor)
    exact = all(marks[key].min == printed[key][0] for key in low)
    sysctls = {"vm.min_free_kbytes": str(kbytes)}
    if factor != 10:
        sysctls["vm.watermark_scale_factor"] = str(factor)
    return sysctls, exact


def _agreed(mins: dict[ZoneKey, int], managed: dict[ZoneKey, int], total: int) -> int:
    """The pages of min_free_kbytes by which most zones have their min; of as many, the larger zones.

    A boost that is not printed makes a single min too large.
    """
    best, found = (0, 0), 0
    # a large zone's share is rounded least
    for key in sorted(mins, key=lambda key: -managed[key]):
        pages = -(-mins[key] * total // managed[key])
        fits = [
            managed[other]
            for other in mins
            if abs(mins[other] - pages * managed[other] // total) <= 1 + mins[other] // 100
        ]
        if (len(fits), sum(fits)) > best:
            best, found = (len(fits), sum(fits)), pages
    return found


def _occupancy(report: Report, zone: ReportedZone) -> ZoneOccupancy:
    free = report.pages(zone, "free") or 0
    blocks: dict[tuple[int, int], int] = {}
    lists = zone.blocks
    if lists is None:
        lists, types = _largest_blocks(free), ("",) * NR_ORDERS
    else:
        types = zone.types
    for order, (count, letters) in enumerate(zip(lists, types, strict=True)):
        if letters and set(letters) <= _RESERVED:
            continue  # not for ordinary requests: single pages make up for them
        mine = [_LETTERS[letter] for letter in letters if letter in _LETTERS] or [MIGRATE_MOVABLE]
        # a larger order than there is here counts as blocks of the largest
        more = max(0, order - (NR_ORDERS - 1))
        count <<= more
        for at, migratetype in enumerate(mine):
            share = count // len(mine) + (at < count % len(mine))
            key = order - more, migratetype
            blocks[key] = blocks.get(key, 0) + share
    held = tuple(
        (holder, pages)
        for holder, fields in _HOLDERS.items()
        if (pages := sum(report.pages(zone, name) or 0 for name in fields))
    )
    return ZoneOccupancy(
        zone.nid,
        zone.name,
        free,
        tuple(FreeBlocks(order, mt, count) for (order, mt), count in sorted(blocks.items()) if count),
        held,
    )


def _largest_blocks(pages: int) -> tuple[int, ...]:
    """Free blocks of a zone whose free list is not printed: as large as possible."""
    largest = NR_ORDERS - 1
    return (*((pages >> order) & 1 for order in range(largest)), pages >> largest)
