"""Exporter for hwloc's XML, version 2.0, which lstopo reads.

A node is a memory child of a group that has its CPUs. A node without CPUs is a child of the nearest group, as
hwloc finds it in ``/sys``: by the initiators of the HMAT, else by distance. There is one PU for each CPU and
no core, since a machine here has none. ``local_memory`` is what the machine's kernel manages (MemTotal); the
place of the RAM is in an info of the node (``PhysicalRanges``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lxml import etree

from numa_service.machine.formats.draft import Draft, DraftNode
from numa_service.machine.formats.hwloc_xml import GENERIC_INFO, MANAGED_INFO, RANGES_INFO
from numa_service.machine.formats.xml import Element
from numa_service.machine.hmat import Pairs, best_initiators, hmat_pairs, hmem_attrs
from numa_service.machine.spec import MachineSpec
from numa_service.machine.zones import count_pages
from numa_service.mm.memblock import BootMemoryError
from numa_service.mm.mmzone import PAGE_SIZE
from numa_service.mm.profile import profile_named

#: Values of a matrix in one element, as hwloc writes them.
_VALUES_A_LINE = 10
_NUMA_LATENCY = 1 | 4
_HIGHER_IS_BETTER, _LOWER_IS_BETTER, _NEEDS_INITIATOR = 1, 2, 4


def to_hwloc_xml(draft: Draft, spec: MachineSpec) -> tuple[bytes, list[str]]:
    """(document, notes on what it cannot express) of a checked draft and its machine."""
    root = etree.Element("topology", version="2.0")
    writer = _Writer(draft, spec)
    root.append(writer.machine())
    if len(draft.nodes) > 1:
        root.append(_distances(draft))
    for element in writer.memattrs():
        root.append(element)
    document = etree.tostring(
        root,
        xml_declaration=True,
        encoding="UTF-8",
        pretty_print=True,
        doctype='<!DOCTYPE topology SYSTEM "hwloc2.dtd">',
    )
    return document, _left_out(draft)


def bitmap(members: Iterable[int]) -> str:
    """A bitmap as hwloc prints it: ``0x00000001,0x0000ffff``."""
    value = sum(1 << member for member in members)
    words = []
    while value:
        words.append(f"0x{value & 0xFFFFFFFF:08x}")
        value >>= 32
    return ",".join(reversed(words)) or "0x0"


class _Writer:
    """Makes the elements of one topology; memory attributes refer to nodes, so `machine` comes first."""

    def __init__(self, draft: Draft, spec: MachineSpec) -> None:
        self.draft = draft
        self.spec = spec
        self.managed = _managed_pages(spec)
        self.told = hmat_pairs(draft.latency)
        self._gp_index = 0
        self.gp_of: dict[int, int] = {}
        self.owners = [node for node in draft.nodes if node.cpus]
        everywhere = frozenset(node.nid for node in self.owners)
        #: The nodes that lie near exactly these nodes with CPUs, by the nids of those. Any two of the sets
        #: are disjoint, or one contains the other, so that they form a tree of groups.
        self.near: dict[frozenset[int], list[DraftNode]] = {everywhere: []}
        for node in self.owners:
            self.near.setdefault(frozenset({node.nid}), []).append(node)
        for node in draft.nodes:
            if not node.cpus:
                near = self._near(node)
                if any(near & other and not (near <= other or other <= near) for other in self.near):
                    near = everywhere
                self.near.setdefault(near, []).append(node)

    def _object(self, type_: str, cpus: Sequence[int], nids: Sequence[int], **attributes: str) -> Element:
        self._gp_index += 1
        cpuset, nodeset = bitmap(cpus), bitmap(nids)
        sets = {"cpuset": cpuset, "complete_cpuset": cpuset, "nodeset": nodeset, "complete_nodeset": nodeset}
        attributes = {"type": type_, **attributes, **sets, "gp_index": str(self._gp_index)}
        return etree.Element("object", attributes)

    def machine(self) -> Element:
        draft = self.draft
        cpus = [cpu for node in draft.nodes for cpu in node.cpus]
        nids = [node.nid for node in draft.nodes]
        top = self._object("Machine", cpus, nids, os_index="0")
        top.set("allowed_cpuset", bitmap(cpus))
        top.set("allowed_nodeset", bitmap(nids))
        infos = {
            "Backend": "numa-service",
            "OSName": "Linux",
            "OSRelease": profile_named(draft.profile).release,
            "Architecture": "x86_64" if draft.arch == "x86_64" else "i686",
        }
        for name, value in infos.items():
            etree.SubElement(top, "info", name=name, value=value)
        self._fill(top, frozenset(node.nid for node in self.owners))
        return top

    def _fill(self, parent: Element, inside: frozenset[int]) -> None:
        """Add to an element the nodes near exactly the nodes `inside`, then a group for each smaller set."""
        cpus = self._cpus(inside)
        for node in self.near[inside]:
            parent.append(self._numa(node, cpus))
        smaller = sorted((other for other in self.near if other < inside), key=len, reverse=True)
        children = [s for i, s in enumerate(smaller) if not any(s < other for other in smaller[:i])]
        for child in sorted(children, key=lambda child: self._cpus(child)[0]):
            nids = [node.nid for other, nodes in self.near.items() if other <= child for node in nodes]
            group = self._object("Group", self._cpus(child), nids, kind="1001", subkind="0")
            self._fill(group, child)
            parent.append(group)
        if len(inside) == 1:
            self._pus(parent, self.near[inside][0])

    def _cpus(self, nids: frozenset[int]) -> list[int]:
        return sorted(cpu for node in self.owners if node.nid in nids for cpu in node.cpus)

    def _pus(self, parent: Element, node: DraftNode) -> None:
        for cpu in node.cpus:
            parent.append(self._object("PU", [cpu], [node.nid], os_index=str(cpu)))

    def _numa(self, node: DraftNode, cpus: Sequence[int]) -> Element:
        element = self._object("NUMANode", cpus, [node.nid], os_index=str(node.nid))
        self.gp_of[node.nid] = self._gp_index
        pages = self.managed[node.nid]
        if pages:
            element.set("local_memory", str(pages * PAGE_SIZE))
            etree.SubElement(element, "page_type", size=str(PAGE_SIZE), count=str(pages))
        if not node.cpus:
            element.set("subtype", "MemoryOnly")
        ram = self.spec.node(node.nid).ram
        if ram:
            places = (f"{start * PAGE_SIZE:#x}-{end * PAGE_SIZE:#x}" for start, end in ram)
            etree.SubElement(element, "info", name=RANGES_INFO, value=",".join(places))
        if node.managed is not None:
            etree.SubElement(element, "info", name=MANAGED_INFO, value="told")
        if node.generic_initiator:
            etree.SubElement(element, "info", name=GENERIC_INFO, value="1")
        return element

    def memattrs(self) -> Iterable[Element]:
        """The elements of latencies (ns) and bandwidths (MiB/s), for the pairs that the HMAT has."""
        latency: list[Pairs] = [{}, {}]
        bandwidth: list[Pairs] = [{}, {}]
        for pair in sorted(self.told):
            read_ns, write_ns, read, write = hmem_attrs(self.draft.latency, *pair)
            for pairs, value in zip((*latency, *bandwidth), (read_ns, write_ns, read, write), strict=True):
                pairs[pair] = value
        model = self.draft.latency
        yield from self._memattr("Latency", _LOWER_IS_BETTER, latency, bool(model.write_ns))
        yield from self._memattr("Bandwidth", _HIGHER_IS_BETTER, bandwidth, bool(model.write_mb_per_s))

    def _memattr(self, name: str, flags: int, both: list[Pairs], apart: bool) -> Iterable[Element]:
        """The element of an attribute; with `apart`, one of the mean, one of reads and one of writes."""
        reads, writes = both
        kinds = [(name, reads)]
        if apart:
            mean = {pair: (reads[pair] + writes[pair]) // 2 for pair in reads if reads[pair] and writes[pair]}
            kinds = [(name, mean), (f"Read{name}", reads), (f"Write{name}", writes)]
        for kind, pairs in kinds:
            attr = etree.Element("memattr", name=kind, flags=str(flags | _NEEDS_INITIATOR))
            for target in self.draft.nodes:
                for nids in self._together(target.nid):
                    if value := pairs.get((min(nids), target.nid)):
                        etree.SubElement(
                            attr,
                            "memattr_value",
                            target_obj_gp_index=str(self.gp_of[target.nid]),
                            target_obj_type="NUMANode",
                            value=str(value),
                            initiator_cpuset=bitmap(self._cpus(nids)),
                        )
            if len(attr):
                yield attr

    def _near(self, node: DraftNode) -> frozenset[int]:
        """Nids of the nodes with CPUs that are nearest to a node without."""
        nids = [owner.nid for owner in self.owners]
        by = [nid for nid in nids if (nid, node.nid) in self.told]
        if by:
            return frozenset(best_initiators(self.draft.latency, by, node.nid).initiators)
        away = {nid: self.draft.distance(node.nid, nid) for nid in nids}
        return frozenset(nid for nid in nids if away[nid] == min(away.values()))

    def _together(self, to: int) -> Iterable[frozenset[int]]:
        """The initiators of a memory as sets of nids: the best ones together, every other alone."""
        owners = {node.nid for node in self.owners}
        told = [of for of in sorted(owners) if (of, to) in self.told]
        best = frozenset(best_initiators(self.draft.latency, told, to).initiators) if told else frozenset()
        return [best, *(frozenset({of}) for of in told if of not in best)] if told else []


def _managed_pages(spec: MachineSpec) -> dict[int, int]:
    """Managed pages by nid; all RAM, if the machine is too small to boot."""
    from numa_service.machine.boot import (
        managed_pages,  # it imports Numba, which is slow and needed only here
    )

    try:
        return managed_pages(spec)
    except BootMemoryError:
        return {node.nid: count_pages(node.ram) for node in spec.nodes}


def _distances(draft: Draft) -> Element:
    nids = [node.nid for node in draft.nodes]
    matrix = etree.Element(
        "distances2",
        type="NUMANode",
        nbobjs=str(len(nids)),
        kind=str(_NUMA_LATENCY),
        name="NUMALatency",
        indexing="os",
    )
    values = [draft.distance(a, b) for a in nids for b in nids]
    for tag, row in (("indexes", nids), ("u64values", values)):
        for i in range(0, len(row), _VALUES_A_LINE):
            text = "".join(f"{number} " for number in row[i : i + _VALUES_A_LINE])
            etree.SubElement(matrix, tag, length=str(len(text))).text = text
    return matrix


def _left_out(draft: Draft) -> list[str]:
    left = []
    if draft.sysctls or draft.swap_pages or draft.cmdline:
        left.append("XML has no sysctls, swap or command line: left out")
    if any(node.movable for node in draft.nodes):
        left.append("XML has no ZONE_MOVABLE: left out")
    if draft.latency.curves or draft.latency.memory_curve or draft.latency.link_curve:
        left.append("XML has no latency curves: left out")
    return left
