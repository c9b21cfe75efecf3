"""A machine as hwloc's XML, version 2.0: what lstopo reads back.

Nodes are memory children of groups with their CPUs; nodes without CPUs are children of the machine. There is
one PU and no core for each CPU: a machine here knows no cores. Where memory is not where sizes alone would
place it, an info of the node says where (``PhysicalRanges``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lxml import etree

from numa_service.machine.formats.draft import Draft, DraftNode
from numa_service.machine.formats.hwloc_xml import RANGES_INFO, Element
from numa_service.mm.mmzone import PAGE_SIZE

_RELEASES = {"linux-3.0": "3.0.0", "linux-6.1": "6.1.0", "linux-6.12": "6.12.0"}
#: hwloc writes so many values of a matrix into an element.
_VALUES_A_LINE = 10
_NUMA_LATENCY = 1 | 4
_HIGHER_IS_BETTER, _LOWER_IS_BETTER, _NEEDS_INITIATOR = 1, 2, 4


def to_hwloc_xml(draft: Draft) -> tuple[bytes, list[str]]:
    """(the document, what it cannot say) of a checked draft."""
    root = etree.Element("topology", version="2.0")
    writer = _Writer(draft)
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
    """As hwloc prints it: ``0x00000001,0x0000ffff``."""
    value = sum(1 << member for member in members)
    words = []
    while value:
        words.append(f"0x{value & 0xFFFFFFFF:08x}")
        value >>= 32
    return ",".join(reversed(words)) or "0x0"


class _Writer:
    def __init__(self, draft: Draft) -> None:
        self.draft = draft
        self._gp_index = 0
        self.gp_of: dict[int, int] = {}

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
            "OSRelease": _RELEASES.get(draft.profile, "6.1.0"),
            "Architecture": "x86_64" if draft.arch == "x86_64" else "i686",
        }
        for name, value in infos.items():
            etree.SubElement(top, "info", name=name, value=value)
        owners = [node for node in draft.nodes if node.cpus]
        for node in draft.nodes:
            if not node.cpus:
                top.append(self._numa(node, cpus))
        if len(owners) == 1:
            top.append(self._numa(owners[0], cpus))
            self._pus(top, owners[0])
        else:
            for node in sorted(owners, key=lambda node: node.cpus):
                group = self._object("Group", node.cpus, [node.nid], kind="1001", subkind="0")
                group.append(self._numa(node, node.cpus))
                self._pus(group, node)
                top.append(group)
        return top

    def _pus(self, parent: Element, node: DraftNode) -> None:
        for cpu in node.cpus:
            parent.append(self._object("PU", [cpu], [node.nid], os_index=str(cpu)))

    def _numa(self, node: DraftNode, cpus: Sequence[int]) -> Element:
        element = self._object("NUMANode", cpus, [node.nid], os_index=str(node.nid))
        self.gp_of[node.nid] = self._gp_index
        if node.bytes:
            element.set("local_memory", str(node.bytes))
            etree.SubElement(element, "page_type", size=str(PAGE_SIZE), count=str(node.bytes // PAGE_SIZE))
        if not node.cpus:
            element.set("subtype", "MemoryOnly")
        if node.ranges:
            places = (f"{start * PAGE_SIZE:#x}-{end * PAGE_SIZE:#x}" for start, end in node.ranges)
            etree.SubElement(element, "info", name=RANGES_INFO, value=",".join(places))
        return element

    def memattrs(self) -> Iterable[Element]:
        """Latencies (ns) and bandwidths (MB/s) from the CPUs of each node, where the machine has its own."""
        draft, model = self.draft, self.draft.latency
        owners = [node for node in draft.nodes if node.cpus]
        latencies = [(f"{'Read' if model.write_ns else ''}Latency", model.read_latency_ns)]
        if model.write_ns:
            latencies.append(("WriteLatency", model.write_latency_ns))
        if model.read_ns or model.write_ns:
            for name, latency in latencies:
                values = {
                    (a.nid, b.nid): latency(a.nid, b.nid, draft.distance(a.nid, b.nid))
                    for a in owners
                    for b in draft.nodes
                }
                yield self._memattr(name, _LOWER_IS_BETTER, owners, values)
        if model.memory_mb_per_s or model.link_mb_per_s:
            values = {
                (a.nid, b.nid): path_bandwidth(draft, a.nid, b.nid) for a in owners for b in draft.nodes
            }
            yield self._memattr("Bandwidth", _HIGHER_IS_BETTER, owners, values)

    def _memattr(
        self, name: str, flags: int, owners: list[DraftNode], values: dict[tuple[int, int], int]
    ) -> Element:
        attr = etree.Element("memattr", name=name, flags=str(flags | _NEEDS_INITIATOR))
        for target in self.draft.nodes:
            for owner in owners:
                if values[owner.nid, target.nid]:
                    etree.SubElement(
                        attr,
                        "memattr_value",
                        target_obj_gp_index=str(self.gp_of[target.nid]),
                        target_obj_type="NUMANode",
                        value=str(values[owner.nid, target.nid]),
                        initiator_cpuset=bitmap(owner.cpus),
                    )
        return attr


def path_bandwidth(draft: Draft, from_nid: int, to_nid: int) -> int:
    """What a node gets from a memory, MB/s: the less of link and memory; 0 is without limit."""
    limits = (draft.latency.memory_bandwidth(to_nid), draft.latency.link_bandwidth(from_nid, to_nid))
    return min((limit for limit in limits if limit), default=0)


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
    for tag, numbers in (("indexes", nids), ("u64values", values)):
        for i in range(0, len(numbers), _VALUES_A_LINE):
            text = "".join(f"{number} " for number in numbers[i : i + _VALUES_A_LINE])
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
