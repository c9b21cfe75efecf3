"""Importer for hwloc's XML (1.x, 2.x, 3.x): PUs, NUMA nodes, distances and memory attributes.

The CPUs of a node are the PUs below it in hwloc 1.x, where nodes contain objects; in 2.x nodes are memory
children, and have the PUs below their parent. Dies, groups, caches and devices are not part of a machine.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from numa_service.machine.formats.draft import DEFAULT_NODE_BYTES, Draft, DraftNode, machine_name, profile_of
from numa_service.machine.formats.unknown import xml_looks_like
from numa_service.machine.formats.xml import MAX_OBJECTS, Element, one_text_line, parse_xml
from numa_service.machine.hmat import Pairs, pairs_in_mb_per_s
from numa_service.machine.notation import (
    MAX_LISTED_CPUS,
    MAX_NUMNODES,
    NR_CPUS,
    format_cpulist,
    mask_bits,
    one_line,
)
from numa_service.machine.spec import SpecError
from numa_service.machine.zones import PfnRange

#: Names of ``<info>`` elements that this project adds to a NUMANode: the byte ranges of its RAM
#: (``0x1000-0x9f000,0x100000-0x80000000``); that its managed memory is given by the machine file; that it
#: has initiators which are no CPUs.
RANGES_INFO = "PhysicalRanges"
MANAGED_INFO = "ManagedMemory"
GENERIC_INFO = "GenericInitiator"
_NODE_TYPES = {"NUMANode", "NUMA", "Node", "NUMA Node", "NUMAnode"}
_MEMORY_TYPES = _NODE_TYPES | {"MemCache"}
_MAX_DEPTH = 200
_MAX_LEGACY_MATRICES = 1000
#: Most different initiators of memory attributes.
_MAX_INITIATORS = 4 * MAX_NUMNODES
#: Most words of 32 bits in a bitmap (65,536 CPUs), and in all bitmaps: a file of the largest size has fewer
#: whole words, but commas alone count as empty ones.
_MAX_BITMAP = 1 << 11
_MAX_BITMAPS = 3 << 19
_MEANS_BANDWIDTH = 8
#: Distance of HBM and CXL memory in the SLITs of servers: nearer than another socket, not local.
_NEAR_DISTANCE = 15
_RANGE = re.compile(r"0x([0-9a-f]{1,16})-0x([0-9a-f]{1,16})", re.ASCII)


@dataclass(slots=True)
class _Numa:
    """A NUMANode object: its number, its PUs, and its memory in bytes."""

    element: Element
    nid: int
    pus: tuple[Element, ...]
    memory: int


def read_hwloc_xml(content: bytes, source: str, name: str) -> Draft:
    """The draft of a topology, named `name`; SpecError names `source`, line and attribute."""
    root = parse_xml(content, source)
    if root.tag not in ("topology", "root"):
        what = xml_looks_like(root.tag.rpartition("}")[2])
        raise SpecError(
            f"{source}:{root.sourceline}: <{one_line(root.tag, 60)}> is neither a topology of hwloc nor a "
            f"domain or capabilities of libvirt: it looks like {what}"
        )
    return _Topology(root, source, name).draft()


class _Topology:
    """Reads the elements of one topology into a draft; `draft` is the only entry point."""

    def __init__(self, root: Element, source: str, name: str) -> None:
        self.root = root
        self.source = source
        self.result = Draft(machine_name(name), [])
        self.note = self.result.note
        #: PU element → CPU number.
        self.cpu_of: dict[Element, int] = {}
        #: Whether the CPU numbers in cpusets are those of `cpu_of`: not if the PUs had to be renumbered.
        self.bitmaps_hold = True
        #: All CPUs as a bitmap, and PU element by CPU number; only filled if `bitmaps_hold`.
        self.cpus = 0
        self.pu_of: dict[int, Element] = {}
        self._below: dict[Element, tuple[tuple[Element, ...], int]] = {}
        #: Objects visited again, below nodes or for matrices of hwloc 1.x; limited by `_step`.
        self.steps = 0
        #: Words in all bitmaps so far, and CPUs that nodes and initiators list in all; both are limited.
        self.words = 0
        self.listed = 0

    def draft(self) -> Draft:
        top = self.root.find("object")
        if top is None:
            raise SpecError(f"{self.source}:{self.root.sourceline}: <{self.root.tag}> has no <object>")
        self._identity(top)
        pus = list(self._objects({"PU", "Proc", "P"}))
        if not pus:
            raise SpecError(f"{self.source}: no object of type PU: no CPU")
        if len(pus) > NR_CPUS:
            raise SpecError(f"{self.source}: {len(pus)} PUs, at most {NR_CPUS} CPUs")
        self._number_cpus(pus, top)
        elements = list(self._objects(_NODE_TYPES))
        if len(elements) > MAX_NUMNODES:
            raise SpecError(f"{self.source}: {len(elements)} nodes, at most {MAX_NUMNODES}")
        numas = [self._numa(element) for element in elements]
        if not numas:
            self.note("no NUMANode object: one node with everything (UMA)")
            self.result.nodes = [self._uma()]
            self._packages()
            return self.result
        self._number_nodes(numas)
        self.result.nodes = self._nodes(numas)
        self._packages()
        self._foreign_memory(numas)
        self._distances(numas)
        self._memattrs(numas)
        if self.root.find(".//object[@type='MemCache']") is not None:
            self.note("memory-side caches (MemCache) are not modelled")
        return self.result

    def fail(self, element: Element, attribute: str, reason: str) -> SpecError:
        kind = element.get("type")
        what = f"<{element.tag}{f' type={kind[:20]!r}' if kind else ''}>"
        return SpecError(f"{self.source}:{element.sourceline}: {what} {attribute}: {one_text_line(reason)}")

    def number(self, element: Element, attribute: str, default: int | None = None) -> int:
        """The value of a decimal attribute; SpecError if it is no number, or missing without a default."""
        text = element.get(attribute)
        if text is None:
            if default is None:
                raise self.fail(element, attribute, "missing")
            return default
        if not re.fullmatch(r"\d{1,19}", text, re.ASCII):
            raise self.fail(element, attribute, f"{text[:30]!r} is not a number")
        return int(text)

    def mask(self, element: Element, attribute: str) -> int:
        """A bitmap attribute as an integer; of an infinite bitmap only the words that are written count."""
        text = element.get(attribute, "").lower().removeprefix("0xf...f").strip(",")
        if not text:
            return 0
        count = text.count(",") + 1
        self.words += count
        if self.words > _MAX_BITMAPS:
            raise self.fail(element, attribute, f"bitmaps of more than {_MAX_BITMAPS} words in all")
        if count > _MAX_BITMAP:
            raise self.fail(element, attribute, f"a bitmap of {count} words, at most {_MAX_BITMAP}")
        digits = "".join([word.removeprefix("0x").zfill(8) for word in text.split(",")])
        # every word has 8 digits at most, and no sign or underscore, which int() would take
        if len(digits) == 8 * count and digits.isalnum():
            with contextlib.suppress(ValueError):
                return int(digits, 16)
        raise self.fail(element, attribute, f"{text[:40]!r} is not a bitmap as 0x00000001,0x0000ffff")

    def members(self, bitmap: int, element: Element) -> set[int]:
        """Numbers of the CPUs in a bitmap, without those that the topology does not have."""
        bitmap &= self.cpus
        self.listed += bitmap.bit_count()
        if self.listed > MAX_LISTED_CPUS:
            raise self.fail(element, "cpuset", f"more than {MAX_LISTED_CPUS} CPUs in all of them")
        return mask_bits(bitmap)

    def below(self, element: Element) -> tuple[tuple[Element, ...], int]:
        """PUs inside an object, and their CPU numbers as a bitmap."""
        if element not in self._below:
            objects = list(element.iter("object"))
            self._step(len(objects), element, "PUs")
            inside = tuple(pu for pu in objects if pu in self.cpu_of)
            self._below[element] = inside, _bitmap(self.cpu_of[pu] for pu in inside)
        return self._below[element]

    def _step(self, count: int, element: Element, what: str) -> None:
        self.steps += count
        if self.steps > 4 * MAX_OBJECTS:
            raise self.fail(element, what, "too many nodes or <distances> over too many objects")

    def _objects(self, types: set[str]) -> Iterator[Element]:
        return (element for element in self.root.iter("object") if element.get("type") in types)

    def _infos(self, element: Element) -> dict[str, str]:
        return {info.get("name", ""): info.get("value", "") for info in element.findall("info")}

    def _identity(self, top: Element) -> None:
        infos = {**self._infos(self.root), **self._infos(top)}
        profile = profile_of(infos.get("OSRelease", "")) if infos.get("OSName") == "Linux" else None
        if profile is not None:
            self.result.profile = profile
        arch = infos.get("Architecture", "x86_64")
        if arch not in ("x86_64", "amd64"):
            self.note(
                f"architecture {arch}: zones and pages are those of x86_64 here (pages of 4 KiB, DMA below "
                "16 MiB, DMA32 below 4 GiB)"
            )
        pages = self.root.find(".//page_type[@size]")
        if pages is not None and pages.get("size") not in ("4096", "0"):
            self.note(f"pages of {pages.get('size')} bytes: they have 4096 here")
        kinds = {element.get("type", "") for element in self.root.iter("object")}
        left = kinds & {"Die", "Group", "L1Cache", "L2Cache", "L3Cache", "Cache"}
        if left:
            self.note(f"not part of a machine here: {', '.join(sorted(left))} objects")
        allowed, every = self.mask(top, "allowed_cpuset"), self.mask(top, "cpuset")
        if allowed and every & ~allowed:
            left_out = format_cpulist(mask_bits(every & ~allowed))
            self.note(f"CPUs {left_out} were not allowed to who took this: they are kept")

    def _number_cpus(self, pus: list[Element], top: Element) -> None:
        online = mask_bits(self.mask(top, "online_cpuset"))
        numbers = [self.number(pu, "os_index", i) for i, pu in enumerate(pus)]
        if max(Counter(numbers).values()) > 1:
            self.note(f"several PUs have the same number (several machines): CPUs are now 0-{len(pus) - 1}")
            numbers = list(range(len(pus)))
            online = set()
            self.bitmaps_hold = False
        offline = {cpu for cpu in numbers if online and cpu not in online}
        if offline and len(offline) < len(numbers):
            self.note(f"off-line CPUs left out: {format_cpulist(offline)}")
        else:
            offline = set()
        self.cpu_of = {pu: cpu for pu, cpu in zip(pus, numbers, strict=True) if cpu not in offline}
        if self.bitmaps_hold:
            self.pu_of = {cpu: pu for pu, cpu in self.cpu_of.items()}
            self.cpus = _bitmap(self.pu_of)

    def _numa(self, element: Element) -> _Numa:
        inside, _ = self.below(element)
        if not inside:
            cpuset = self.mask(element, "cpuset")
            inside = self._beside(element, cpuset)
            if not inside and self.bitmaps_hold:
                inside = tuple(self.pu_of[cpu] for cpu in self.members(cpuset, element))
        memory = self.number(element, "local_memory", 0) or self.number(element, "memory_kB", 0) << 10
        return _Numa(element, self.number(element, "os_index", -1), inside, memory)

    def _beside(self, element: Element, cpuset: int) -> tuple[Element, ...]:
        """PUs of a memory child: those below the object that it is attached to."""
        parent = element.getparent()
        while parent is not None and parent.get("type") in _MEMORY_TYPES:
            parent = parent.getparent()
        if parent is None or (element.get("cpuset") is not None and not cpuset):
            return ()
        inside, cpus = self.below(parent)
        # in hwloc 1.x, nodes may be siblings below a machine whose PUs they do not all share
        if cpuset and self.bitmaps_hold:
            return tuple(self.pu_of[cpu] for cpu in self.members(cpuset & cpus, element))
        self.listed += len(inside)
        if self.listed > MAX_LISTED_CPUS:
            raise self.fail(element, "cpuset", f"more than {MAX_LISTED_CPUS} CPUs in all of them")
        return inside

    def _uma(self) -> DraftNode:
        """The node of a machine without NUMANode objects."""
        total = 0
        for element in self.root.iter("object"):
            total += self.number(element, "local_memory", 0) or self.number(element, "memory_kB", 0) << 10
        cpus = tuple(sorted(self.cpu_of.values()))
        if not total:
            self.note("no object has local_memory: 1GiB was taken")
            return DraftNode(0, cpus, DEFAULT_NODE_BYTES)
        return DraftNode(0, cpus, managed=total)

    def _number_nodes(self, numas: list[_Numa]) -> None:
        nids = [numa.nid for numa in numas]
        if min(nids) < 0 or max(Counter(nids).values()) > 1:
            self.note(f"NUMANode objects without a number of their own: nodes are now 0-{len(numas) - 1}")
            for i, numa in enumerate(numas):
                numa.nid = i

    def _nodes(self, numas: list[_Numa]) -> list[DraftNode]:
        """The draft's nodes, each CPU on one of them.

        Of several nodes that list a CPU, it is on the one with the fewest CPUs, and of equal ones on that of
        plain memory (not HBM, which has a subtype).
        """
        ranked = sorted(numas, key=lambda n: (len(n.pus), bool(n.element.get("subtype")), n.nid))
        owner: dict[Element, int] = {}
        for numa in ranked:
            for pu in numa.pus:
                owner.setdefault(pu, numa.nid)
        memoryless = self._memoryless(numas)
        for nid, pus in memoryless.items():
            owner.update(dict.fromkeys(pus, nid))
        strays = [pu for pu in self.cpu_of if pu not in owner]
        if strays:
            first = min(numas, key=lambda n: n.nid)
            cpus = format_cpulist(self.cpu_of[pu] for pu in strays)
            self.note(f"CPUs {cpus} are on no node: put on node {first.nid}")
            owner.update(dict.fromkeys(strays, first.nid))
        nodes = {numa.nid: self._node(numa) for numa in numas} | {nid: DraftNode(nid) for nid in memoryless}
        cpus_of: dict[int, list[int]] = {}
        for pu, nid in owner.items():
            cpus_of.setdefault(nid, []).append(self.cpu_of[pu])
        for nid, node in nodes.items():
            node.cpus = tuple(sorted(cpus_of.get(nid, [])))
        shared = [numa.nid for numa in numas if numa.pus and not nodes[numa.nid].cpus]
        if shared:
            self.note(f"nodes {format_cpulist(shared)} share the CPUs of a node nearby: they have none here")
        if any(node.ranges for node in nodes.values()):
            self.result.exact = True
            for node in nodes.values():
                node.managed = node.managed if node.ranges else None
        return [nodes[nid] for nid in sorted(nodes)]

    def _memoryless(self, numas: list[_Numa]) -> dict[int, list[Element]]:
        """PUs by nid of nodes without memory, which hwloc 2 shows in complete_nodeset only."""
        top = self.root.find("object")
        known = {numa.nid for numa in numas}
        if top is None or any(self.number(numa.element, "os_index", -1) != numa.nid for numa in numas):
            return {}
        missing = mask_bits(self.mask(top, "complete_nodeset")) - mask_bits(self.mask(top, "nodeset")) - known
        found: dict[int, list[Element]] = {}
        for pu in self.cpu_of if missing else ():
            of = mask_bits(self.mask(pu, "complete_nodeset"))
            if len(of) == 1 and of <= missing:
                found.setdefault(of.pop(), []).append(pu)
        if max(found, default=0) >= MAX_NUMNODES:
            raise SpecError(f"{self.source}: complete_nodeset: there are at most {MAX_NUMNODES} nodes")
        if missing - found.keys():
            left = format_cpulist(missing - found.keys())
            self.note(f"nodes {left} have no memory and no CPUs, or were not allowed: left out")
        return found

    def _packages(self) -> None:
        """Set the packages and cores; those that lack CPUs, or are no more than nodes, are dropped later."""
        for kinds, groups in (
            ({"Package", "Socket"}, self.result.packages),
            ({"Core"}, self.result.cores),
        ):
            for element in self._objects(kinds):
                inside, _ = self.below(element)
                groups.append(tuple(sorted(self.cpu_of[pu] for pu in inside)))

    def _node(self, numa: _Numa) -> DraftNode:
        """A node without its CPUs.

        local_memory is its managed memory. In a file that this project wrote, boot computes that from the
        ranges, unless an info says that the machine file gave it.
        """
        infos, ranges = self._infos(numa.element), self._ranges(numa)
        told = not ranges or MANAGED_INFO in infos
        return DraftNode(
            numa.nid,
            ranges=ranges,
            managed=numa.memory if told else None,
            generic_initiator=GENERIC_INFO in infos,
        )

    def _ranges(self, numa: _Numa) -> tuple[PfnRange, ...] | None:
        text = self._infos(numa.element).get(RANGES_INFO)
        if not text:
            return None
        ranges = []
        for part in text.split(","):
            match = _RANGE.fullmatch(part)
            if match is None or int(match[1], 16) % 4096 or int(match[2], 16) % 4096:
                raise self.fail(numa.element, RANGES_INFO, f"{part[:40]!r} is not a range as 0x1000-0x9f000")
            ranges.append((int(match[1], 16) >> 12, int(match[2], 16) >> 12))
        return tuple(ranges)

    def _foreign_memory(self, numas: list[_Numa]) -> None:
        nodes = {numa.element for numa in numas}
        extra = sum(
            self.number(element, "local_memory", 0)
            for element in self.root.iter("object")
            if element not in nodes and element.get("type") != "MemCache"
        )
        if not extra:
            return
        if any(numa.memory for numa in numas):
            self.note(f"{extra} bytes of memory on objects other than NUMANode are left out")
            return
        share = extra // len(numas)
        self.note(f"memory on objects other than NUMANode is shared out: {share} bytes to each node")
        for node in self.result.nodes:
            node.managed = share

    def _distances(self, numas: list[_Numa]) -> None:
        nids = {numa.nid for numa in numas}
        by_gp = {numa.element.get("gp_index"): numa.nid for numa in numas}
        by_os = {numa.element.get("os_index"): numa.nid for numa in numas}
        found = False
        for matrix in self.root.findall("distances2"):
            if matrix.get("type") not in _NODE_TYPES:
                self.note(f"distances between {matrix.get('type')} objects are left out")
                continue
            if self.number(matrix, "kind", 5) & _MEANS_BANDWIDTH:
                self.note(f"distances {matrix.get('name', '')} that mean bandwidth are left out")
                continue
            if found:
                self.note(f"more distances between nodes, {matrix.get('name', '')}: the first were taken")
                continue
            known = by_gp if matrix.get("indexing") == "gp" else by_os
            order = [known.get(word, -1) for word in self._split(matrix, "indexes")]
            values = self._values(matrix, self._split(matrix, "u64values"))
            found = self._take(matrix, order, values, nids)
        legacy = [] if found else list(self.root.iter("distances"))
        if len(legacy) > _MAX_LEGACY_MATRICES:
            raise SpecError(f"{self.source}: {len(legacy)} <distances>, at most {_MAX_LEGACY_MATRICES}")
        for matrix in legacy:
            order, values = self._legacy(matrix, numas)
            if order:
                found |= self._take(matrix, order, values, nids)
        if self.root.find("distances2hetero") is not None:
            self.note("distances between objects of several types are left out")
        if not found and len(nids) > 1:
            self.note("no distances between nodes: 20 between all was taken")
            self._near(numas)

    def _near(self, numas: list[_Numa]) -> None:
        """Without distances in the file, put memory-only nodes (HBM, MCDRAM) near to the CPUs they list."""
        owner = {cpu: node.nid for node in self.result.nodes for cpu in node.cpus}
        with_cpus = set(owner.values())
        for numa in numas:
            by = {owner[self.cpu_of[pu]] for pu in numa.pus if pu in self.cpu_of}
            if numa.nid in with_cpus or not by or by == with_cpus:
                continue
            self.note(f"memory-only nodes: {_NEAR_DISTANCE} to the nodes whose CPUs they lie by was taken")
            for nid in by:
                self.result.distances |= dict.fromkeys(((nid, numa.nid), (numa.nid, nid)), _NEAR_DISTANCE)

    def _split(self, matrix: Element, tag: str) -> list[str]:
        return " ".join(element.text or "" for element in matrix.findall(tag)).split()

    def _values(self, matrix: Element, words: list[str]) -> list[float]:
        for word in words:
            if not re.fullmatch(r"\d{1,19}(?:\.\d{1,19})?", word, re.ASCII):
                raise self.fail(matrix, "values", f"{word[:30]!r} is not a number")
        return [float(word) for word in words]

    def _legacy(self, matrix: Element, numas: list[_Numa]) -> tuple[list[int], list[float]]:
        """(nids, values) of a matrix of hwloc 1.x; both are empty if it is not between nodes.

        The matrix is between the objects `relative_depth` levels below the one it stands in, and its values
        are relative to `latency_base`.
        """
        parent = matrix.getparent()
        assert parent is not None, "found below the root"
        depth = self.number(matrix, "relative_depth", 1)
        if depth > _MAX_DEPTH:
            raise self.fail(matrix, "relative_depth", f"{depth}, at most {_MAX_DEPTH}")
        level = [parent]
        for _ in range(depth):
            level = [child for element in level for child in element.findall("object")]
            self._step(len(level), matrix, "relative_depth")
        nid_of = {numa.element: numa.nid for numa in numas}
        order = [nid_of[element] for element in level if element in nid_of]
        count = self.number(matrix, "nbobjs")
        if len(order) != count:
            # hwloc 2 exports relative depths that count levels which are not in the file
            order = [n.nid for n in numas if n.element is parent or parent in n.element.iterancestors()]
        if len(order) != count:
            self.note("distances between other objects than nodes are left out")
            return [], []
        base_text = matrix.get("latency_base", "1")
        base = self._values(matrix, [base_text])[0]
        words = [latency.get("value", "") for latency in matrix.findall("latency")]
        values = [value * base for value in self._values(matrix, words)]
        return order, values

    def _take(self, matrix: Element, order: list[int], values: list[float], nids: set[int]) -> bool:
        size = len(order)
        if size != self.number(matrix, "nbobjs", size) or len(values) != size * size:
            raise self.fail(matrix, "nbobjs", f"{size} objects and {len(values)} values: not a square")
        if set(order) - nids:
            raise self.fail(matrix, "indexes", "they are not those of the NUMANode objects")
        if size < len(nids):
            self.note(f"distances of {size} of the {len(nids)} nodes only: 20 elsewhere was taken")
        rows = [values[i * size : (i + 1) * size] for i in range(size)]
        self.result.set_distances(order, rows)
        return True

    def _memattrs(self, numas: list[_Numa]) -> None:
        """Set latencies and bandwidths; an initiator stands for every node whose CPUs it has all."""
        by_gp = {numa.element.get("gp_index"): numa.nid for numa in numas}
        elements = {element.get("gp_index"): element for element in self.root.iter("object")}
        pus_of = {numa.element: numa.pus for numa in numas}
        owner = {cpu: node.nid for node in self.result.nodes for cpu in node.cpus}
        size = {node.nid: len(node.cpus) for node in self.result.nodes}
        found: dict[str, Pairs] = {}
        initiators: dict[tuple[str | None, str | None], list[int]] = {}
        for attr in self.root.findall("memattr"):
            name = attr.get("name", "")
            for value in attr.findall("memattr_value"):
                target = by_gp.get(value.get("target_obj_gp_index"))
                number = self.number(value, "value")
                if target is None or name not in _MEMATTRS or not number:
                    continue
                who = (value.get("initiator_cpuset"), value.get("initiator_obj_gp_index"))
                if who not in initiators:
                    if len(initiators) == _MAX_INITIATORS:
                        raise self.fail(value, "initiator", f"more than {_MAX_INITIATORS} different ones")
                    if who[0] is not None:
                        cpus = self.members(self.mask(value, "initiator_cpuset"), value)
                    else:
                        start = elements.get(who[1])
                        within = () if start is None else pus_of.get(start) or self.below(start)[0]
                        cpus = {self.cpu_of[pu] for pu in within}
                    counts = Counter(owner[cpu] for cpu in cpus)
                    initiators[who] = sorted(nid for nid in counts if counts[nid] == size[nid])
                for nid in initiators[who]:
                    found.setdefault(name, {})[nid, target] = min(number, 10**9)
            if name not in (*_MEMATTRS, "Capacity", "Locality") and len(attr):
                self.note(f"memory attribute {name} is left out")
        self._take_memattrs(found)

    def _take_memattrs(self, found: dict[str, Pairs]) -> None:
        """Set latencies and bandwidths; the attributes "Latency" and "Bandwidth" are for both directions."""
        reads = {**found.get("Latency", {}), **found.get("ReadLatency", {})}
        read_bandwidth = {**found.get("Bandwidth", {}), **found.get("ReadBandwidth", {})}
        writes, write_bandwidth = Pairs(), Pairs()
        if "WriteLatency" in found:
            writes = {**found.get("Latency", {}), **found["WriteLatency"]}
        if "WriteBandwidth" in found:
            write_bandwidth = {**found.get("Bandwidth", {}), **found["WriteBandwidth"]}
        self.result.latency = replace(
            self.result.latency,
            read_ns=reads,
            write_ns=writes,
            read_mb_per_s=pairs_in_mb_per_s(read_bandwidth),
            write_mb_per_s=pairs_in_mb_per_s(write_bandwidth),
        )


_MEMATTRS = ("Latency", "ReadLatency", "WriteLatency", "Bandwidth", "ReadBandwidth", "WriteBandwidth")


def _bitmap(cpus: Iterable[int]) -> int:
    """The CPUs as a bitmap; numbers beyond the largest bitmap of a file are left out."""
    bits = bytearray(4 * _MAX_BITMAP)
    for cpu in cpus:
        if cpu < 32 * _MAX_BITMAP:
            bits[cpu >> 3] |= 1 << (cpu & 7)
    return int.from_bytes(bits, "little")
