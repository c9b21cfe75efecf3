"""Importer for the boot log of a kernel (``dmesg``): nodes, their RAM, CPUs, and the order of its zonelists.

Lines are found wherever they stand, so that time stamps, prefixes of syslog and quotes of a mail do no harm.
Where the log has ``Early memory node ranges``, they are the RAM; else it is what SRAT and e820 map both have,
or what one of them has. A log does not print distances: they are made so that boot builds the lists that it
prints (``formats/fallback_order.py``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import islice

from numa_service.machine.formats.acpi import HOTPLUG_LEFT_OUT, HOTPLUG_TAKEN, memory_at_boot
from numa_service.machine.formats.draft import Draft, DraftNode, machine_name, profile_of
from numa_service.machine.formats.fallback_order import distances_of
from numa_service.machine.notation import MAX_NUMNODES, NR_CPUS, format_size
from numa_service.machine.spec import SpecError
from numa_service.machine.zones import PfnRange, count_pages, intersect, merge
from numa_service.mm.mmzone import PAGE_SHIFT, PAGE_SIZE

#: Most characters of a log; the first minutes of a machine with 8192 CPUs take 2 MiB.
_MAX_TEXT = 4 << 20
#: Most ranges of one kind: an e820 map has 128 entries, 32 nodes with 32 ranges are 1024.
_MAX_RANGES = 4096
_MEM = r"\[mem (0x[0-9a-f]{1,16})-(0x[0-9a-f]{1,16})\]"
_A = re.ASCII
_IS = re.compile(
    r"SRAT: (?:Node|PXM) \d|Early memory node ranges|Fallback order for Node \d|BIOS-e820: "
    r"|Initmem setup node |NODE_DATA\(\d+\) allocated"
)
_VERSION = re.compile(r"Linux version (\d[\w.+-]{0,60})", _A)
_CMDLINE = re.compile(r"(?:Kernel command|Command) line: ([^\n]*)")
_SRAT_CPU = re.compile(r"SRAT: PXM \d{1,9} -> APIC (?:0x)?([0-9a-fA-F]{1,8}) -> Node (\d{1,9})", _A)
_SRAT = re.compile(rf"SRAT: Node (\d{{1,9}}) PXM \d{{1,9}} {_MEM}([^\n]*)", _A)
#: Before 3.7: without 0x, and the end is exclusive.
_OLD_SRAT = re.compile(r"SRAT: Node (\d{1,9}) PXM \d{1,9} ([0-9a-f]{1,16})-([0-9a-f]{1,16})(?![\w-])", _A)
_E820 = re.compile(rf"BIOS-e820: {_MEM} usable", _A)
_OLD_E820 = re.compile(r"BIOS-e820: ([0-9a-f]{16}) - ([0-9a-f]{16}) \(usable\)", _A)
_EARLY = re.compile(rf"\bnode +(\d{{1,9}}): {_MEM}", _A)
#: Before 3.7: pages, and the end is exclusive.
_OLD_EARLY = re.compile(r" (\d{1,9}): (0x[0-9a-f]{1,13}) -> (0x[0-9a-f]{1,13})", _A)
_FAKING = re.compile(r"Faking a node at |No NUMA configuration found")
_NODE = re.compile(r"(?:Initmem setup node|NODE_DATA\(|Could not find start_pfn for node) ?(\d{1,9})", _A)
_MOVABLE = re.compile(r" {2}Node (\d{1,9}): (0x[0-9a-f]{1,16})$", _A | re.MULTILINE)
_ORDER = re.compile(r"Fallback order for Node (\d{1,9}): (\d{1,9}(?: \d{1,9})*)", _A)
_ZONE_RANGES = re.compile(r"Zone ranges:\n((?:[^\n]{0,99}(?:empty|\[mem |0x\w{1,16} -> )[^\n]{0,99}\n)+)")
_ZONE_NAME = re.compile(r"\b([A-Z][A-Za-z0-9]{2,15}) +(?:empty|\[mem|0x)")
_BOOTED = re.compile(r"(?:node|Node) +#?(\d{1,9}), (?:CPUs|Processors): *((?:#\d{1,6}[ ,]*)+)", _A)
_CPUS = (
    re.compile(r"smp: Brought up \d+ nodes?, (\d{1,6}) CPUs?", _A),
    re.compile(r"Brought up (\d{1,6}) CPUs", _A),
    re.compile(r"Total of (\d{1,6}) processors activated", _A),
    re.compile(r"nr_cpu_ids:(\d{1,6})", _A),
)
_NR_NODES = re.compile(r"nr_node_ids:(\d{1,6})", _A)
_MEMORY = re.compile(r"Memory: \d{1,15}[kK]/(\d{1,15})[kK] available", _A)
_TOTAL = re.compile(r"Total pages: (\d{1,15})", _A)
#: Parameters that are kept: those on memory whose effects are not in the ranges of the log.
_KEPT = ("cma=", "numa_cma=", "numa_zonelist_order=", "transparent_hugepage=")
_ZONES = {"DMA", "DMA32", "Normal", "HighMem", "Movable", "Device"}


def is_boot_log(text: str) -> bool:
    """Whether a text has lines that only a boot log has."""
    return _IS.search(text) is not None


def read_boot_log(text: str, source: str, name: str) -> Draft:
    """The draft of a log, named `name`; SpecError says what the log lacks."""
    if len(text) > _MAX_TEXT:
        raise SpecError(f"{source}: {len(text)} characters of boot log, at most {_MAX_TEXT}")
    return _BootLog(text, source, name).draft()


class _BootLog:
    """Makes the draft of one log."""

    def __init__(self, text: str, source: str, name: str) -> None:
        self.text = text
        self.source = source
        self.result = Draft(machine_name(name), [])
        self.note = self.result.note
        self.nodes: dict[int, DraftNode] = {}

    def draft(self) -> Draft:
        self._identity()
        self._memory()
        orders = self._orders()
        for match in _NODE.finditer(self.text):
            self.node(match[1])
        if (nr_nodes := _NR_NODES.search(self.text)) and not self.nodes:
            for nid in range(min(int(nr_nodes[1]), MAX_NUMNODES)):
                self.node(str(nid))
        if not self.nodes:
            raise SpecError(f"{self.source}: a boot log without a node: no SRAT, e820 or node ranges in it")
        self._cpus()
        self._sizes()
        self.result.nodes = [self.nodes[nid] for nid in sorted(self.nodes)]
        self.result.check_nodes()
        if orders:
            self._distances(orders)
        elif len(self.nodes) > 1:
            self.note("a boot log prints no distances: 20 between all nodes was taken")
        return self.result

    def node(self, text: str) -> DraftNode:
        nid = int(text)
        if nid >= MAX_NUMNODES:
            raise SpecError(f"{self.source}: node {nid}: there are at most {MAX_NUMNODES} nodes")
        return self.nodes.setdefault(nid, DraftNode(nid))

    def _identity(self) -> None:
        if version := _VERSION.search(self.text):
            self.result.profile = profile_of(version[1]) or self.result.profile
        if cmdline := _CMDLINE.search(self.text):
            words = cmdline[1].split()
            self.result.cmdline = " ".join(word for word in words if word.startswith(_KEPT))
            done = [word for word in words if word.startswith(("kernelcore=", "movablecore=", "numa="))]
            if done:
                self.note(f"cmdline: {' '.join(done)}: the log shows nodes as they are with it; not repeated")
        if zones := _ZONE_RANGES.search(self.text):
            names = set(_ZONE_NAME.findall(zones[1]))
            if "HighMem" in names:
                self.result.arch = "i386"
            elif not {"DMA", "DMA32"} <= names or names - _ZONES:
                self.note(
                    f"zones {', '.join(sorted(names))}: they and pages are those of x86_64 here (pages of "
                    "4 KiB, DMA below 16 MiB, DMA32 below 4 GiB)"
                )

    def _memory(self) -> None:
        early = self._ranges(_EARLY, inclusive=True) or self._ranges(_OLD_EARLY, unit=PAGE_SIZE)
        srat, hotplug = self._srat()
        e820 = merge(self._e820())
        if early:
            taken = early
        elif (srat or hotplug) and e820:
            both = _by_nid(srat + hotplug)
            taken = {
                nid: merge(p for at in spans for p in intersect(e820, at)) for nid, spans in both.items()
            }
        elif srat or hotplug:
            with_cpus = {int(nid) for _, nid in _SRAT_CPU.findall(self.text)}
            there = memory_at_boot({nid for nid, _ in srat}, hotplug, with_cpus)
            if there:
                self.note(HOTPLUG_TAKEN)
            if len(there) < len(hotplug):
                self.note(HOTPLUG_LEFT_OUT)
            taken = _by_nid(srat + there)
            self.note("memory is that of the SRAT, as the firmware gives it: no e820 map in the log")
        elif e820:
            taken = {0: e820}
            if _FAKING.search(self.text) is None:
                self.note("no SRAT and no node ranges in the log: one node has all memory")
        else:
            return
        for nid in {**_by_nid(srat + hotplug), **taken}:
            ranges = taken.get(nid)
            self.node(str(nid)).ranges = tuple(ranges) if ranges else None
        for match in _MOVABLE.finditer(self.text):
            node, start = self.node(match[1]), int(match[2], 16) >> PAGE_SHIFT
            if node.ranges:
                node.movable = count_pages(intersect(node.ranges, (start, node.ranges[-1][1])))

    def _found(self, pattern: re.Pattern[str]) -> list[re.Match[str]]:
        """All matches; SpecError beyond the most ranges that a log has."""
        found = list(islice(pattern.finditer(self.text), _MAX_RANGES + 1))
        if len(found) > _MAX_RANGES:
            raise SpecError(f"{self.source}: more than {_MAX_RANGES} ranges of memory in a boot log")
        return found

    def _ranges(
        self, pattern: re.Pattern[str], unit: int = 1, inclusive: bool = False
    ) -> dict[int, tuple[PfnRange, ...]]:
        """Ranges of whole pages by nid; `unit` is the bytes of an address, `inclusive` that of ends."""
        return _by_nid(
            (int(m[1]), _pages(int(m[2], 16) * unit, int(m[3], 16) * unit + inclusive))
            for m in self._found(pattern)
        )

    def _srat(self) -> tuple[list[tuple[int, PfnRange]], list[tuple[int, PfnRange]]]:
        """(nid, range) of the SRAT's memory, and of what it calls hot-pluggable."""
        found = self._found(_SRAT)
        if any("non-volatile" in match[4] for match in found):
            self.note("non-volatile memory is left out")
        ranges = [
            ("hotplug" in m[4], (int(m[1]), _pages(int(m[2], 16), int(m[3], 16) + 1)))
            for m in found
            if "non-volatile" not in m[4]
        ]
        old = [(int(m[1]), _pages(int(m[2], 16), int(m[3], 16))) for m in self._found(_OLD_SRAT)]
        return [at for hot, at in ranges if not hot] + old, [at for hot, at in ranges if hot]

    def _e820(self) -> list[PfnRange]:
        found = [_pages(int(m[1], 16), int(m[2], 16) + 1) for m in self._found(_E820)]
        return found + [_pages(int(m[1], 16), int(m[2], 16)) for m in self._found(_OLD_E820)]

    def _orders(self) -> dict[int, tuple[int, ...]]:
        """The first fallback order of each node, which is that of boot; all nodes in them are made."""
        orders: dict[int, tuple[int, ...]] = {}
        for match in _ORDER.finditer(self.text):
            order = tuple(self.node(word).nid for word in match[2].split()[: MAX_NUMNODES + 1])
            nid = self.node(match[1]).nid
            if len(set(order)) < len(order):
                raise SpecError(f"{self.source}: Fallback order for Node {nid}: a node is in it twice")
            if orders.setdefault(nid, order) != order:
                self.note("later fallback orders, of memory or CPUs that came, are left out")
        return orders

    def _cpus(self) -> None:
        apics = {int(apic, 16): int(nid) for apic, nid in _SRAT_CPU.findall(self.text)}
        if len(apics) > NR_CPUS:
            raise SpecError(f"{self.source}: {len(apics)} CPUs, at most {NR_CPUS}")
        booted = {
            int(cpu): int(nid)
            for nid, cpus in _BOOTED.findall(self.text)
            for cpu in re.findall(r"\d+", cpus)
            if int(cpu) < NR_CPUS
        }
        count = next((int(found[1]) for found in (p.search(self.text) for p in _CPUS) if found), 0)
        if booted and len(booted) + 1 >= count:
            # the boot CPU is not listed
            owner = {0: min(self.nodes)} | booted
        elif apics:
            self.note("CPUs are numbered in the order of their APIC ids")
            owner = {cpu: nid for cpu, (_, nid) in enumerate(sorted(apics.items()))}
        else:
            homes = [nid for nid, node in sorted(self.nodes.items()) if node.ranges] or sorted(self.nodes)
            if not count:
                self.note("no CPUs in the log: one on each node with memory")
            else:
                self.note(f"whose the {count} CPUs are is not in the log: equal shares to nodes with memory")
            count = min(count or len(homes), NR_CPUS)
            owner = {cpu: homes[cpu * len(homes) // count] for cpu in range(count)}
        for nid in owner.values():
            self.node(str(nid))
        for nid, node in self.nodes.items():
            node.cpus = tuple(sorted(cpu for cpu, at in owner.items() if at == nid))

    def _sizes(self) -> None:
        """Share out what the log says of all memory, if it has no ranges."""
        if any(node.ranges for node in self.nodes.values()):
            return
        memory, total = _MEMORY.search(self.text), _TOTAL.search(self.text)
        pages = int(memory[1]) * 1024 // PAGE_SIZE if memory else int(total[1]) if total else 0
        if not pages:
            return
        share = pages // len(self.nodes) * PAGE_SIZE
        self.note(f"memory is told of the whole machine only: {format_size(share)} for each node")
        for node in self.nodes.values():
            node.memory = share

    def _distances(self, orders: dict[int, tuple[int, ...]]) -> None:
        rows = distances_of(orders, self.result.profile)
        nids = sorted(orders)
        if rows is None:
            self.note("no distances give the fallback orders in the log: 20 between all was taken")
            return
        if any(value not in (10, 20) for row in rows for value in row):
            self.note("a boot log prints no distances: such were taken as give its fallback orders")
        else:
            self.note("a boot log prints no distances: 20 between all nodes gives its fallback orders")
        self.result.set_distances(nids, [[float(value) for value in row] for row in rows])


def _pages(start: int, end: int) -> PfnRange:
    """The pages that are wholly within a range of bytes."""
    return -(-start // PAGE_SIZE), end >> PAGE_SHIFT


def _by_nid(ranges: Iterable[tuple[int, PfnRange]]) -> dict[int, tuple[PfnRange, ...]]:
    found: dict[int, list[PfnRange]] = {}
    for nid, span in ranges:
        found.setdefault(nid, []).append(span)
    return {nid: merge(spans) for nid, spans in found.items()}
