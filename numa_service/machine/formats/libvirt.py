"""Importer for libvirt's XML: a domain (``virsh dumpxml``), or a host (``virsh capabilities``)."""

from __future__ import annotations

import math
import re
from dataclasses import replace

from numa_service.machine.formats.draft import Draft, DraftNode, machine_name
from numa_service.machine.formats.xml import Element, parse_xml
from numa_service.machine.hmat import Pairs, pairs_in_mb_per_s
from numa_service.machine.notation import (
    MAX_LISTED_CPUS,
    MAX_NUMNODES,
    NR_CPUS,
    format_cpulist,
    one_line,
    parse_cpulist,
)
from numa_service.machine.spec import SpecError

ROOTS = ("domain", "capabilities")
#: Bytes of the units of memory; libvirt's default is KiB.
_UNITS: dict[str, int] = {"b": 1, "bytes": 1} | {
    f"{letter}{ending}": (1000 if ending == "b" else 1024) ** power
    for power, letter in enumerate("kmgtpe", start=1)
    for ending in ("", "b", "ib")
}
_CACHES = "memory-side caches are not modelled"
_NUMBER = re.compile(r"\d{1,18}", re.ASCII)
#: Models of <memory> devices that come with the first boot, but after the kernel's own memory.
_DEVICES = ("dimm", "virtio-mem")


def read_libvirt(content: bytes, source: str, name: str) -> Draft:
    """The draft of a domain, named as it is, or of a host, named `name`; SpecError names source and line."""
    root = parse_xml(content, source)
    if root.tag == "domain":
        return _Domain(root, source, name).draft()
    if root.tag == "capabilities":
        return _Host(root, source, name).draft()
    raise SpecError(f"{source}:{root.sourceline}: <{one_line(root.tag, 60)}> is not a domain or capabilities")


class _Cells:
    """What both kinds of XML have: cells with CPUs, memory and distances."""

    def __init__(self, root: Element, source: str, name: str) -> None:
        self.root = root
        self.source = source
        named = root.findtext("name") if root.tag == "domain" else None
        self.result = Draft(machine_name((named or name).strip()), [])
        self.note = self.result.note
        self.nodes: dict[int, DraftNode] = {}
        #: CPUs in all lists of siblings so far.
        self.listed = 0

    def fail(self, element: Element, reason: str) -> SpecError:
        return SpecError(f"{self.source}:{element.sourceline}: <{element.tag}>: {one_line(reason, 200)}")

    def number(self, element: Element, text: str | None, what: str, limit: int = 1 << 60) -> int:
        """A decimal number below `limit`."""
        text = (text or "").strip()
        if not _NUMBER.fullmatch(text) or int(text) >= limit:
            raise self.fail(element, f"{what}: {text[:30]!r} is not a number below {limit}")
        return int(text)

    def bytes(self, element: Element, text: str | None, default_unit: str = "KiB") -> int:
        unit = element.get("unit", default_unit)
        if unit.lower() not in _UNITS:
            raise self.fail(element, f"unit: {unit[:20]!r} is not one of libvirt's, as KiB or GiB")
        return self.number(element, text, "memory") * _UNITS[unit.lower()]

    def node(self, element: Element, nid: int) -> DraftNode:
        if nid in self.nodes:
            raise self.fail(element, f"node {nid} is there already")
        if len(self.nodes) == MAX_NUMNODES:
            raise self.fail(element, f"more than {MAX_NUMNODES} nodes")
        self.nodes[nid] = DraftNode(nid)
        return self.nodes[nid]

    def distances(self, cells: dict[int, Element]) -> None:
        """Set the distances of <sibling>; where they are given one way only, both ways are that."""
        given: dict[tuple[int, int], int] = {}
        for nid, cell in cells.items():
            for sibling in cell.iterfind("distances/sibling"):
                other = self.number(sibling, sibling.get("id"), "id", MAX_NUMNODES)
                if other not in cells:
                    raise self.fail(sibling, f"id: there is no node {other}")
                given[nid, other] = self.number(sibling, sibling.get("value"), "value", 256)
        if not given:
            if len(cells) > 1:
                self.note("no distances: 20 between all nodes was taken")
            return
        self.result.set_slit(sorted(cells), given)

    def interconnects(self, path: str) -> None:
        """Set the latencies and bandwidths of <interconnects>, of the machine's HMAT."""
        found: dict[str, Pairs] = {}
        for element in self.root.iterfind(f"{path}/interconnects/*"):
            if element.tag not in ("latency", "bandwidth") or element.get("cache"):
                self.note(_CACHES)
                continue
            pair = tuple(
                self.number(element, element.get(at), at, MAX_NUMNODES) for at in ("initiator", "target")
            )
            if pair[0] not in self.nodes or pair[1] not in self.nodes:
                raise self.fail(element, "initiator or target: there is no such node")
            value = element.get("value")
            # without a unit, latencies are ns and bandwidths KiB
            number = self.number(element, value, "value")
            if element.tag == "bandwidth":
                number = self.bytes(element, value) >> 20
            if number:
                kind = f"{element.get('type', 'access')} {element.tag}"
                found.setdefault(kind, {})[pair[0], pair[1]] = min(number, 10**9)
        both, each = found.get("access latency", {}), found.get("access bandwidth", {})
        writes, write_rates = found.get("write latency"), found.get("write bandwidth")
        self.result.latency = replace(
            self.result.latency,
            read_ns={**both, **found.get("read latency", {})},
            write_ns={**both, **writes} if writes else {},
            read_mb_per_s=pairs_in_mb_per_s({**each, **found.get("read bandwidth", {})}),
            write_mb_per_s=pairs_in_mb_per_s({**each, **write_rates} if write_rates else {}),
        )


class _Domain(_Cells):
    """A guest: cells of <numa>, or one node."""

    def draft(self) -> Draft:
        count = self._cpu_count()
        total = self.root.find("currentMemory")
        total = self.root.find("memory") if total is None else total
        memory = 0 if total is None else self.bytes(total, total.text)
        cells = self._cells()
        if not cells:
            self.nodes = {0: DraftNode(0, tuple(range(count)), memory)}
        else:
            self._strays(count)
            told = sum(node.memory for node in self.nodes.values())
            if memory and told != memory:
                self.note(f"<memory> is {memory} bytes, the cells have {told}: theirs count")
        self._devices()
        self.result.nodes = [self.nodes[nid] for nid in sorted(self.nodes)]
        self.result.check_nodes()
        self.distances(cells)
        self.interconnects("cpu/numa")
        self._topology(count)
        return self.result

    def _cpu_count(self) -> int:
        vcpu = self.root.find("vcpu")
        if vcpu is None:
            return 1
        most = self.number(vcpu, vcpu.text, "vcpu", NR_CPUS + 1)
        count = self.number(vcpu, vcpu.get("current", str(most)), "current", NR_CPUS + 1)
        if count < most:
            self.note(f"{most - count} CPUs to be plugged later are left out")
        return count

    def _cells(self) -> dict[int, Element]:
        cells: dict[int, Element] = {}
        owner: dict[int, int] = {}
        for cell in self.root.iterfind("cpu/numa/cell"):
            nid = self.number(cell, cell.get("id", str(len(cells))), "id", MAX_NUMNODES)
            node = self.node(cell, nid)
            cells[nid] = cell
            node.memory = self.bytes(cell, cell.get("memory"))
            try:
                node.cpus = parse_cpulist(cell.get("cpus", ""))
            except SpecError as error:
                raise self.fail(cell, f"cpus: {error}") from None
            for cpu in node.cpus:
                if owner.setdefault(cpu, nid) != nid:
                    raise self.fail(cell, f"cpus: CPU {cpu} is on node {owner[cpu]} already")
        return cells

    def _strays(self, count: int) -> None:
        first = min(self.nodes)
        absent: list[int] = []
        placed = {cpu for node in self.nodes.values() for cpu in node.cpus}
        for node in self.nodes.values():
            absent += [cpu for cpu in node.cpus if cpu >= count]
            node.cpus = tuple(cpu for cpu in node.cpus if cpu < count)
        if absent:
            self.note(f"CPUs {format_cpulist(absent)} are not there at start: left out")
        strays = set(range(count)) - placed
        if strays:
            self.note(f"CPUs {format_cpulist(strays)} are in no cell: put on node {first}")
            self.nodes[first].cpus = tuple(sorted({*self.nodes[first].cpus, *strays}))

    def _devices(self) -> None:
        for device in self.root.iterfind("devices/memory"):
            model, size = device.get("model", ""), device.find("target/size")
            if model not in _DEVICES or size is None:
                self.note(
                    f"a memory device of model {one_line(model, 20)} is left out: it is not RAM at boot"
                )
                continue
            requested = device.find("target/requested")
            size = size if requested is None else requested
            nid = self.number(device, device.findtext("target/node", "0"), "node", MAX_NUMNODES)
            if nid not in self.nodes:
                raise self.fail(device, f"node: there is no node {nid}")
            self.nodes[nid].add_later(self.bytes(size, size.text), model, self.result)

    def _topology(self, count: int) -> None:
        element = self.root.find("cpu/topology")
        names = ("sockets", "dies", "clusters", "cores", "threads")
        if element is None:
            sizes = [count, 1, 1, 1, 1]  # QEMU's default: a socket each
        else:
            sizes = [self.number(element, element.get(name, "1"), name, NR_CPUS + 1) or 1 for name in names]
        self.result.set_cpu_levels(math.prod(sizes[1:4]), sizes[4])
        per_socket = math.prod(sizes[1:])
        split = [
            nid
            for nid, node in self.nodes.items()
            if node.cpus and len({cpu // per_socket for cpu in node.cpus}) > 1
        ]
        if element is not None and sizes[0] > 1 and len(self.nodes) > 1 and split:
            self.note(
                f"nodes {format_cpulist(split)} each have CPUs of several sockets: a socket is "
                f"{per_socket} CPUs in a row"
            )


class _Host(_Cells):
    """A host: cells of <topology>."""

    def draft(self) -> Draft:
        cells: dict[int, Element] = {}
        packages: dict[int, list[int]] = {}
        cores: dict[tuple[int, ...], None] = {}
        owner: dict[int, int] = {}
        for cell in self.root.iterfind("host/topology/cells/cell"):
            nid = self.number(cell, cell.get("id"), "id", MAX_NUMNODES)
            node = self.node(cell, nid)
            cells[nid] = cell
            memory = cell.find("memory")
            if memory is not None:
                node.managed = self.bytes(memory, memory.text)
            for cpu in cell.iterfind("cpus/cpu"):
                number = self.number(cpu, cpu.get("id"), "id", 1 << 20)
                if owner.setdefault(number, nid) != nid or len(owner) > NR_CPUS:
                    raise self.fail(cpu, f"id: CPU {number} a second time, or more than {NR_CPUS} CPUs")
                if cpu.get("socket_id") is not None:
                    socket = self.number(cpu, cpu.get("socket_id"), "socket_id", 1 << 20)
                    packages.setdefault(socket, []).append(number)
                    cores[self._siblings(cpu, number)] = None
            for pages in cell.iterfind("pages"):
                size = self.bytes(pages, pages.get("size"))
                if size == 64 << 10:
                    self.note("pages of 64 KiB (not x86-64): they have 4 KiB here")
        if not cells:
            raise SpecError(f"{self.source}: capabilities without a <cell>: no host/topology/cells")
        for nid, node in self.nodes.items():
            node.cpus = tuple(sorted(number for number, at in owner.items() if at == nid))
        self.result.nodes = [self.nodes[nid] for nid in sorted(self.nodes)]
        self.result.check_nodes()
        self.distances(cells)
        self.interconnects("host/topology")
        if self.root.find("host/topology/cells/cell/cache") is not None:
            self.note(_CACHES)
        self.result.packages = [tuple(sorted(packages[socket])) for socket in sorted(packages)]
        self.result.cores = list(cores)
        return self.result

    def _siblings(self, cpu: Element, number: int) -> tuple[int, ...]:
        try:
            siblings = parse_cpulist(cpu.get("siblings", str(number)))
        except SpecError as error:
            raise self.fail(cpu, f"siblings: {error}") from None
        self.listed += len(siblings)
        if self.listed > MAX_LISTED_CPUS:
            raise self.fail(cpu, f"siblings: more than {MAX_LISTED_CPUS} CPUs in all of them")
        return siblings
