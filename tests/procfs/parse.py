"""Parsers from the text of captured /proc and /sys files to a MachineSnapshot, for tests only."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from numa_service.mm.mmzone import MIGRATE_TYPES, NR_ORDERS, ZONE_NAMES
from numa_service.mm.profile import profile_named
from numa_service.mm.snapshot import MachineSnapshot, NodeSnapshot, PagesetSnapshot, ZoneSnapshot
from numa_service.procfs.names import NUMA_STAT, KernelNames, kernel_names

_ZONE_HEADER = re.compile(r"^Node (\d+), zone +(\w+)$", re.MULTILINE)
_PAGESET = re.compile(
    r"    cpu: (\d+)\n +count: (\d+)\n +high:  (\d+)\n +batch: (\d+)\n  vm stats threshold: (\d+)"
)


def machine_of_zoneinfo(text: str) -> MachineSnapshot:
    """A snapshot with the zones, counters and pagesets of a zoneinfo; its lines tell profile and arch."""
    parts = _ZONE_HEADER.split(text)
    assert parts[0] == ""
    arch = "x86_64" if "zone    DMA32" in text else "i386"
    profile = "linux-6.12" if " promo " in text else "linux-6.1"
    zones: dict[int, list[ZoneSnapshot]] = {}
    node_stat: dict[int, dict[str, int]] = {}
    unreclaimable: dict[int, bool] = {}
    for nid_text, name, body in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        nid = int(nid_text)
        head, _, tail = body.partition("  pages free ")
        node_stat.setdefault(nid, {}).update(_counters(head))
        zones.setdefault(nid, []).append(_zone(nid, name, arch, f"  pages free {tail}"))
        given_up = re.search(r"node_unreclaimable: +(\d)", tail)
        unreclaimable[nid] = unreclaimable.get(nid, False) or bool(given_up and given_up[1] == "1")
    return MachineSnapshot(
        name="capture",
        arch=arch,
        profile=profile,
        nodes=tuple(
            NodeSnapshot(
                nid=nid,
                cpus=(),
                zones=tuple(zones[nid]),
                node_stat=node_stat[nid],
                vm_event={},
                numastat={},
                unreclaimable=unreclaimable[nid],
            )
            for nid in sorted(zones)
        ),
        distances=(),
        sysctls={},
        fallback_order={},
        zonelists={},
    )


def _counters(text: str) -> dict[str, int]:
    return {name: int(value) for name, value in re.findall(r"^      (\w+) +(\d+)$", text, re.MULTILINE)}


def _zone(nid: int, name: str, arch: str, text: str) -> ZoneSnapshot:
    sizes = {key: int(value) for key, value in re.findall(r"^ {8}(\w+) +(\d+)$", text, re.MULTILINE)}
    counters = _counters(text)
    protection = re.search(r"protection: \((.*)\)", text)
    free = re.search(r"pages free +(\d+)", text)
    start_pfn = re.search(r"start_pfn: +(\d+)", text)
    assert protection
    assert free
    boost = sizes["boost"]
    return ZoneSnapshot(
        nid=nid,
        name=name,
        index=ZONE_NAMES[arch].index(name),
        start_pfn=int(start_pfn[1]) if start_pfn else 0,
        spanned=sizes["spanned"],
        present=sizes["present"],
        managed=sizes["managed"],
        free=int(free[1]),
        wmark_min=sizes["min"] - boost,
        wmark_low=sizes["low"] - boost,
        wmark_high=sizes["high"] - boost,
        wmark_promo=sizes.get("promo", 0) - boost,
        watermark_boost=boost,
        protection=tuple(int(n) for n in protection[1].split(", ")),
        nr_free=(0,) * NR_ORDERS,
        nr_free_by_type=((0,) * NR_ORDERS,) * MIGRATE_TYPES,
        pageblocks=(0,) * MIGRATE_TYPES,
        vm_stat={key: value for key, value in counters.items() if key not in NUMA_STAT},
        numa_stat={key: value for key, value in counters.items() if key in NUMA_STAT},
        pagesets=tuple(PagesetSnapshot(*map(int, fields)) for fields in _PAGESET.findall(text)),
    )


def _replace_zones(
    machine: MachineSnapshot, changes: dict[tuple[int, str], dict[str, object]]
) -> MachineSnapshot:
    nodes = []
    for node in machine.nodes:
        zones = tuple(
            replace(z, **changes.get((z.nid, z.name), {}))  # type: ignore[arg-type]
            for z in node.zones
        )
        nodes.append(replace(node, zones=zones))
    return replace(machine, nodes=tuple(nodes))


def with_buddyinfo(machine: MachineSnapshot, text: str) -> MachineSnapshot:
    """The snapshot with free blocks by order."""
    changes: dict[tuple[int, str], dict[str, object]] = {}
    for nid, name, counts in re.findall(r"^Node (\d+), zone +(\w+) (.*)$", text, re.MULTILINE):
        changes[int(nid), name] = {"nr_free": tuple(map(int, counts.split()))}
    return _replace_zones(machine, changes)


def with_pagetypeinfo(machine: MachineSnapshot, text: str) -> MachineSnapshot:
    """The snapshot with free blocks by migratetype and order, and with pageblocks."""
    names = profile_named(machine.profile).migratetype_names
    changes: dict[tuple[int, str], dict[str, object]] = {}
    rows = re.findall(r"^Node +(\d+), zone +(\w+), type +(\w+) (.*)$", text, re.MULTILINE)
    for nid, name, kind, counts in rows:
        change = changes.setdefault((int(nid), name), {"nr_free_by_type": [(0,) * NR_ORDERS] * MIGRATE_TYPES})
        by_type = change["nr_free_by_type"]
        assert isinstance(by_type, list)
        by_type[names.index(kind)] = tuple(int(count.lstrip(">")) for count in counts.split())
    header = re.search(r"^Number of blocks type +(.*)$", text, re.MULTILINE)
    assert header
    for nid, name, counts in re.findall(r"^Node (\d+), zone +(\w+) +([ \d]+)$", text, re.MULTILINE):
        blocks = dict(zip(header[1].split(), map(int, counts.split()), strict=True))
        changes[int(nid), name]["pageblocks"] = tuple(blocks.get(kind or "", 0) for kind in names)
    return _replace_zones(machine, changes)


def _share(total: int, parts: int, part: int) -> int:
    """An uneven split of a total, so that a renderer has to sum it."""
    return total // (parts + 1) + (total - total // (parts + 1) * parts if part == parts - 1 else 0)


def with_machine_counters(machine: MachineSnapshot, values: dict[str, int]) -> MachineSnapshot:
    """The snapshot with machine-wide counters by vmstat name, split over its zones and nodes."""
    names: KernelNames = kernel_names(machine)
    numa = {name: values[name] for name in NUMA_STAT if name in values}
    zone_stat = {name: values[name] for name in names.zone_stat if name in values}
    node_stat = {name: values[name] for name in (*names.node_stat, *names.vmstat_extra) if name in values}
    # a name may be a node's counter in one kernel and an event in another: the remaining names are events
    events = {name: values[name] for name in names.vm_event if name in values and name not in node_stat}
    nr_zones = sum(len(node.zones) for node in machine.nodes)
    nr_nodes = len(machine.nodes)
    # free pages stay in their zones; the difference between the two files goes to the lowest zone
    first = machine.nodes[0].zones[0]
    was_free = sum(zone.free for node in machine.nodes for zone in node.zones)
    free_change = values["nr_free_pages"] - was_free
    at = 0
    nodes = []
    for n, node in enumerate(machine.nodes):
        zones = []
        for zone in node.zones:
            vm_stat = {name: _share(total, nr_zones, at) for name, total in zone_stat.items()}
            numa_stat = {name: _share(total, nr_zones, at) for name, total in numa.items()}
            free = zone.free + (free_change if zone is first else 0)
            zones.append(replace(zone, free=free, vm_stat=vm_stat, numa_stat=numa_stat))
            at += 1
        nodes.append(
            replace(
                node,
                zones=tuple(zones),
                node_stat={name: _share(total, nr_nodes, n) for name, total in node_stat.items()},
                vm_event={name: _share(total, nr_nodes, n) for name, total in events.items()},
            )
        )
    return replace(machine, nodes=tuple(nodes))


def key_values(text: str) -> dict[str, int]:
    """Values by name of ``name value`` lines, as in vmstat and numastat."""
    return {name: int(value) for name, value in (line.split() for line in text.splitlines())}


def meminfo_values(text: str) -> dict[str, int]:
    """Values as printed, by name, of ``Name: value kB`` lines of meminfo, or ``Node N Name: value kB``."""
    return {name: int(value) for name, value in re.findall(r"(\S+): +(\d+)", text)}


#: Counter behind each meminfo line that is one counter, with its size in kB.
MEMINFO_COUNTERS: dict[str, tuple[str, int]] = {
    "MemFree": ("nr_free_pages", 4),
    "SwapCached": ("nr_swapcached", 4),
    "Cached": ("nr_file_pages", 4),
    "FilePages": ("nr_file_pages", 4),
    "Active(anon)": ("nr_active_anon", 4),
    "Inactive(anon)": ("nr_inactive_anon", 4),
    "Active(file)": ("nr_active_file", 4),
    "Inactive(file)": ("nr_inactive_file", 4),
    "Unevictable": ("nr_unevictable", 4),
    "Mlocked": ("nr_mlock", 4),
    "Dirty": ("nr_dirty", 4),
    "Writeback": ("nr_writeback", 4),
    "AnonPages": ("nr_anon_pages", 4),
    "Mapped": ("nr_mapped", 4),
    "Shmem": ("nr_shmem", 4),
    "SReclaimable": ("nr_slab_reclaimable", 4),
    "SUnreclaim": ("nr_slab_unreclaimable", 4),
    "KernelStack": ("nr_kernel_stack", 1),
    "PageTables": ("nr_page_table_pages", 4),
    "AnonHugePages": ("nr_anon_transparent_hugepages", 2048),
}


def meminfo_counters(values: dict[str, int]) -> dict[str, int]:
    """The counters, by vmstat name, that a meminfo was printed from."""
    return {name: values[line] // size for line, (name, size) in MEMINFO_COUNTERS.items() if line in values}


def with_topology(machine: MachineSnapshot, capture: Path) -> MachineSnapshot:
    """The snapshot with CPUs and distances from a capture's node directory."""
    nodes = []
    distances = []
    for node in machine.nodes:
        directory = capture / "node" / f"node{node.nid}"
        cpus: list[int] = []
        for run in (directory / "cpulist").read_text().strip().split(","):
            if run:
                first, _, last = run.partition("-")
                cpus += range(int(first), int(last or first) + 1)
        nodes.append(replace(node, cpus=tuple(cpus)))
        distances.append(tuple(map(int, (directory / "distance").read_text().split())))
    return replace(machine, nodes=tuple(nodes), distances=tuple(distances))


def with_dmesg(machine: MachineSnapshot, text: str) -> MachineSnapshot:
    """The snapshot with a boot log, and with the fallback orders and zonelists that it shows."""
    log = []
    for line in text.splitlines():
        stamped = re.fullmatch(r"\[ *(\d+\.\d{6})\] (.*)", line)
        assert stamped, line
        log.append((float(stamped[1]), stamped[2]))
    orders = {
        int(nid): tuple(map(int, order.split()))
        for nid, order in re.findall(r"Fallback order for Node (\d+): ([\d ]*)$", text, re.MULTILINE)
    }
    zonelists = {}
    for kind, nid, zone, entries in re.findall(
        r"mminit::zonelist (\w+) (\d+):(\w+) = (.*)$", text, re.MULTILINE
    ):
        pairs = (entry.split(":") for entry in entries.split())
        zonelists[kind, int(nid), zone] = tuple((int(n), name) for n, name in pairs)
    return replace(machine, dmesg=tuple(log), fallback_order=orders, zonelists=zonelists)
