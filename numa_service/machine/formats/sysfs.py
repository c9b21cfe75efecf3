"""Importer for trees of ``/sys`` and ``/proc``, as ``hwloc-gather-topology`` makes them, without a zoneinfo.

Any file may be missing. Without a node directory there is one node; without CPU directories the CPUs are
those of ``/proc/cpuinfo``; without a node's meminfo the nodes share the MemTotal of ``/proc/meminfo``; a tree
of memory blocks only is one node. Notes say which of these was assumed. MemTotal is what the kernel manages;
the place of the RAM is that of the memory blocks (``memory/memoryN``), if they are in the tree.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass

from numa_service.machine.captured_topology import parse_cpumap, read_packages
from numa_service.machine.captured_tree import Tree
from numa_service.machine.formats.draft import DEFAULT_NODE_BYTES, Draft, DraftNode, machine_name, profile_of
from numa_service.machine.hmat import hmat_from_sysfs
from numa_service.machine.input_files import UnreadableError
from numa_service.machine.latency import LatencyModel
from numa_service.machine.notation import (
    MAX_LISTED_CPUS,
    MAX_NUMNODES,
    MAX_PHYSMEM_BYTES,
    NR_CPUS,
    format_cpulist,
    parse_cpulist,
)
from numa_service.machine.spec import SpecError
from numa_service.machine.zones import PfnRange, count_pages, merge, without_bios_holes
from numa_service.mm.mmzone import PAGE_SHIFT

_NODES, _CPUS = "sys/devices/system/node", "sys/devices/system/cpu"
_BLOCKS = "sys/devices/system/memory"
#: Paths of which every tree has at least one.
_MARKS = (_NODES, _CPUS, _BLOCKS, "proc/cpuinfo")
#: Parameters of the command line that are kept: those on memory whose effects the tree does not show.
_PARAMETERS = ("cma=", "numa_cma=", "numa_zonelist_order=", "transparent_hugepage=")
_MAX_FILE = 4 << 20
#: COMMAND_LINE_SIZE of s390, the largest.
_MAX_CMDLINE = 4096
_TOTAL = re.compile(r"MemTotal:\s*(\d{1,15})\s*kB", re.ASCII)
_PROCESSOR = re.compile(r"^processor\s*:?\s*(\d{1,6})\b", re.ASCII | re.MULTILINE)
_NUMBER = re.compile(r"\d{1,9}", re.ASCII)
_ROW = re.compile(r"\d{1,9}(?: \d{1,9})*", re.ASCII)
_SWAP = re.compile(r"^\S+\s+\S+\s+(\d{1,12})\s+\d+\s+-?\d+\s*$", re.ASCII | re.MULTILINE)


def find_tree(tree: Tree) -> Tree | None:
    """The directory that has ``sys`` and ``proc``: `tree`, or the only directory in it; None if neither."""
    if any(tree.exists(mark) for mark in _MARKS):
        return tree
    inside = [name for name in tree.names() if tree.is_dir(name)]
    if len(inside) == 1 and any(tree.exists(f"{inside[0]}/{mark}") for mark in _MARKS):
        return tree.below(inside[0])
    return None


def read_sysfs(tree: Tree) -> Draft:
    """The draft of a tree; SpecError names the file that is wrong."""
    return _Sysfs(tree).draft()


class _Sysfs:
    """Makes the draft of one tree."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.result = Draft(machine_name(tree.name), [])
        self.note = self.result.note

    def draft(self) -> Draft:
        self._identity()
        nids = self._online_nodes()
        if not nids and not any(self.tree.exists(mark) for mark in (_CPUS, "proc/cpuinfo")):
            self.note(f"neither CPUs nor nodes are told, only {_BLOCKS}: one node with one CPU")
            self._uma({0})
            return self.result
        online = self._online_cpus()
        if not nids:
            self.note(f"no {_NODES}/node*: one node with everything (UMA)")
            self._uma(online)
        else:
            self.result.nodes = list(self._nodes(nids, online))
            self._possible(nids)
            self._single_owners()
            self._strays(online)
            self._memory(nids)
            try:
                self.result.check_nodes()
            except SpecError as error:
                raise SpecError(f"{self.tree.place}: {error}") from None
            self._distances(nids)
            self._initiators(nids)
        self.result.packages, self.result.cores = read_packages(self.tree, online)
        return self.result

    def _uma(self, cpus: set[int]) -> None:
        blocks, total = self._blocks(), self._total()
        node = DraftNode(0, tuple(sorted(cpus)), managed=total)
        self.result.nodes = [node]
        if total:
            self._place(blocks, {0: blocks.online})
        elif blocks.online:
            node.ranges = blocks.of(blocks.online)
        else:
            node.memory = DEFAULT_NODE_BYTES

    def text(self, name: str) -> str | None:
        """The text of a file of the tree; None if it is missing or cannot be read."""
        if not self.tree.is_file(name):
            return None
        try:
            # some kernels end their files with a NUL byte
            return self.tree.read(name, _MAX_FILE).decode("utf-8", "replace").rstrip("\0")
        except UnreadableError:
            return None  # readable by root only, or a sysfs file that its driver cannot answer

    def _identity(self) -> None:
        version = self.text("proc/version") or ""
        release = re.search(r"Linux version (\S+)", version)
        nofile = self._nofile()
        named = re.search(r"^OSRelease: (\S+)", nofile, re.MULTILINE)
        found = release or named
        profile = profile_of(found[1]) if found else None
        if profile is not None:
            self.result.profile = profile
        arch = re.search(r"^Architecture: (\S+)", nofile, re.MULTILINE)
        name = arch[1] if arch else _arch_of(self.text("proc/cpuinfo") or "")
        if name not in ("", "x86_64"):
            self.note(
                f"architecture {name}: zones and pages are those of x86_64 here (pages of 4 KiB, DMA below "
                "16 MiB, DMA32 below 4 GiB)"
            )
        size = re.search(r"^PageSize: (\d{1,9})$", nofile, re.MULTILINE)
        if size and size[1] != "4096":
            self.note(f"pages of {size[1]} bytes: they have 4096 here")
        cmdline = self.text("proc/cmdline") or ""
        if len(cmdline) > _MAX_CMDLINE:
            where = self.tree.where("proc/cmdline")
            raise SpecError(f"{where}: {len(cmdline)} characters, at most {_MAX_CMDLINE}")
        words = cmdline.split()
        self.result.cmdline = " ".join(word for word in words if word.startswith(_PARAMETERS))
        done = " ".join(word for word in words if word.startswith(("kernelcore=", "movablecore=", "numa=")))
        if done:
            self.note(f"cmdline: {done}: the tree shows nodes as they are with it; not repeated")
        swaps = self.text("proc/swaps") or ""
        self.result.swap_pages = sum(int(kb) >> PAGE_SHIFT - 10 for kb in _SWAP.findall(swaps))

    def _nofile(self) -> str:
        """The file into which hwloc-gather-topology writes results of uname and sysconf; "" without it."""
        return self.text("proc/hwloc-nofile-info") or ""

    def _directories(self, where: str, prefix: str) -> set[int]:
        names = (name.removeprefix(prefix) for name in self.tree.names(where) if name.startswith(prefix))
        return {int(name) for name in names if _NUMBER.fullmatch(name)}

    def _few(self, where: str, prefix: str, most: int) -> set[int]:
        """As :meth:`_directories`; SpecError if there are more than `most`."""
        found = self._directories(where, prefix)
        if len(found) > most:
            raise SpecError(f"{self.tree.where(where)}: {len(found)} of {prefix}N, at most {most}")
        return found

    def _online_cpus(self) -> set[int]:
        found = self._few(_CPUS, "cpu", NR_CPUS)
        stated = self.text(f"{_CPUS}/online")
        if stated is not None and stated.strip():
            listed = set(self._cpulist(f"{_CPUS}/online", stated))
            found = found & listed or listed
        if not found:
            listed = {int(number) for number in _PROCESSOR.findall(self.text("proc/cpuinfo") or "")}
            fallback = re.search(r"^FallbackNbProcessors: (\d{1,6})$", self._nofile(), re.MULTILINE)
            if not listed and fallback:
                if int(fallback[1]) > NR_CPUS:
                    raise SpecError(
                        f"{self.tree.place}: FallbackNbProcessors: {fallback[1]}, at most {NR_CPUS}"
                    )
                listed = set(range(int(fallback[1])))
            if not listed:
                raise SpecError(
                    f"{self.tree.place}: no CPU: no {_CPUS}/cpu*, and no processor in proc/cpuinfo"
                )
            self.note(f"no {_CPUS}/cpu*: CPUs are those of proc/cpuinfo")
            return listed
        offline = {cpu for cpu in found if (self.text(f"{_CPUS}/cpu{cpu}/online") or "1").strip() == "0"}
        known = {cpu for cpu in found if self.tree.is_dir(f"{_CPUS}/cpu{cpu}/topology")}
        if known:
            offline |= found - known
        if offline:
            self.note(f"off-line CPUs left out: {format_cpulist(offline)}")
        return found - offline

    def _online_nodes(self) -> list[int]:
        found = sorted(self._few(_NODES, "node", MAX_NUMNODES))
        stated = self.text(f"{_NODES}/online")
        if stated is None or not stated.strip():
            return found
        listed = set(self._cpulist(f"{_NODES}/online", stated))
        offline = [nid for nid in found if nid not in listed]
        if offline and len(offline) < len(found):
            self.note(f"off-line nodes left out: {format_cpulist(offline)}")
            return [nid for nid in found if nid in listed]
        return found

    def _possible(self, nids: list[int]) -> None:
        """Take over numbers that nodes may have beside those that are there."""
        stated = self.text(f"{_NODES}/possible")
        listed = set(self._cpulist(f"{_NODES}/possible", stated)) if stated else set()
        if listed > set(nids) and max(listed) < MAX_NUMNODES:
            self.result.possible = tuple(sorted(listed))

    def _cpulist(self, name: str, text: str) -> tuple[int, ...]:
        try:
            return parse_cpulist(text)
        except SpecError as error:
            raise SpecError(f"{self.tree.where(name)}:1: {error}") from None

    def _nodes(self, nids: list[int], online: set[int]) -> Iterator[DraftNode]:
        listed = 0
        for nid in nids:
            cpus = self._node_cpus(nid)
            listed += len(cpus)
            if listed > MAX_LISTED_CPUS:
                where = self.tree.where(_NODES)
                raise SpecError(f"{where}: nodes list more than {MAX_LISTED_CPUS} CPUs in all")
            gone = cpus - online
            if gone:
                self.note(f"node {nid}: CPUs {format_cpulist(gone)} are off-line")
            yield DraftNode(nid, tuple(sorted(cpus & online)))

    def _node_cpus(self, nid: int) -> set[int]:
        name = f"{_NODES}/node{nid}/cpulist"
        text = self.text(name)
        if text is not None:
            return set(self._cpulist(name, text))
        name = f"{_NODES}/node{nid}/cpumap"
        text = self.text(name)
        if text is not None:
            return parse_cpumap(text, self.tree.where(name))
        # links to the CPUs' directories
        return self._directories(f"{_NODES}/node{nid}", "cpu")

    def _single_owners(self) -> None:
        """Put each CPU on the first node that lists it: with numa=fake several nodes list the same CPU."""
        seen: set[int] = set()
        for node in self.result.nodes:
            shared = seen.intersection(node.cpus)
            if shared:
                self.note(f"node {node.nid}: CPUs {format_cpulist(shared)} are on an earlier node already")
                node.cpus = tuple(cpu for cpu in node.cpus if cpu not in seen)
            seen.update(node.cpus)

    def _strays(self, online: set[int]) -> None:
        strays = online.difference(*(node.cpus for node in self.result.nodes))
        if strays:
            first = self.result.nodes[0]
            self.note(f"CPUs {format_cpulist(strays)} are on no node: put on node {first.nid}")
            first.cpus = tuple(sorted({*first.cpus, *strays}))

    def _total(self) -> int | None:
        found = _TOTAL.search(self.text("proc/meminfo") or "")
        if found is None:
            self.note("no MemTotal in proc/meminfo")
            return None
        return int(found[1]) << 10

    def _memory(self, nids: list[int]) -> None:
        told = False
        for node in self.result.nodes:
            found = _TOTAL.search(self.text(f"{_NODES}/node{node.nid}/meminfo") or "")
            if found is None:
                self.note(f"node {node.nid}: no MemTotal in its meminfo")
                continue
            told = True
            node.managed = int(found[1]) << 10
            if self.tree.exists(f"{_NODES}/node{node.nid}/memory_side_cache"):
                self.note(f"node {node.nid}: a memory-side cache is not modelled")
        if told:
            numbers = {nid: self._directories(f"{_NODES}/node{nid}", "memory") for nid in nids}
            self._place(self._blocks(), numbers)
            return
        total = self._total()
        if total is not None:
            share = total // len(self.result.nodes)
            self.note(f"proc/meminfo's MemTotal is shared out: {share >> 20} MiB to each node")
            for node in self.result.nodes:
                node.managed = share

    def _blocks(self) -> _Blocks:
        """The memory blocks that are on-line; none if the tree does not have their size."""
        text = (self.text(f"{_BLOCKS}/block_size_bytes") or "").strip()
        size = int(text, 16) if re.fullmatch(r"[0-9a-fA-F]{4,12}", text, re.ASCII) else 0
        if size < 1 << PAGE_SHIFT or size & size - 1:
            return _Blocks(0, set())
        found = self._directories(_BLOCKS, "memory")
        states = {number: (self.text(f"{_BLOCKS}/memory{number}/state") or "").strip() for number in found}
        offline = {number for number, state in states.items() if state == "offline"}
        if offline:
            self.note(f"{len(offline)} memory blocks of {size >> 20} MiB are off-line: left out")
        return _Blocks(size >> PAGE_SHIFT, found - offline)

    def _place(self, blocks: _Blocks, numbers: Mapping[int, Set[int]]) -> None:
        """Set the ranges of the nodes' RAM from memory blocks; `numbers` are each node's blocks.

        If the blocks of a node hold less than it manages, all nodes keep their sizes.
        """
        taken: set[int] = set()
        ranges: dict[int, tuple[PfnRange, ...]] = {}
        for node in self.result.nodes:
            if not node.managed:
                continue
            own = blocks.of(numbers[node.nid] - taken)
            if count_pages(without_bios_holes(own)) << PAGE_SHIFT < node.managed:
                if own:
                    self.note(f"node {node.nid}: its memory blocks hold less than its MemTotal: not used")
                return
            if own[-1][1] > MAX_PHYSMEM_BYTES >> PAGE_SHIFT:
                self.note(f"node {node.nid}: memory blocks above {MAX_PHYSMEM_BYTES >> 40} TiB: not used")
                return
            ranges[node.nid] = own
            taken |= numbers[node.nid]
        for node in self.result.nodes:
            node.ranges = ranges.get(node.nid)

    def _distances(self, nids: list[int]) -> None:
        rows: list[list[float]] = []
        for nid in nids:
            name = f"{_NODES}/node{nid}/distance"
            text = self.text(name)
            words = (text or "").split()
            if not words or len(words) != len(nids):
                if len(nids) > 1 and text is None:
                    self.note("no distances: 20 between all nodes was taken")
                elif len(nids) > 1:
                    self.note(
                        f"{name}: {len(words)} distances for {len(nids)} nodes: 20 between all was taken"
                    )
                return
            if not _ROW.fullmatch(" ".join(words)):
                word = next(word for word in words if not _NUMBER.fullmatch(word))
                raise SpecError(f"{self.tree.where(name)}:1: distance {word[:20]!r} is not a number")
            rows.append(list(map(float, words)))
        self.result.set_distances(nids, rows)

    def _initiators(self, nids: list[int]) -> None:
        """Set latencies, bandwidths and generic initiators from ``access0`` and ``access1`` of each node."""
        with_cpus = {node.nid for node in self.result.nodes if node.cpus}
        self.result.latency, generic = hmat_from_sysfs(self.tree.below(_NODES), nids, with_cpus)
        for node in self.result.nodes:
            node.generic_initiator = node.nid in generic
        if self.result.latency != LatencyModel():
            self.note("latencies and bandwidths are told of the nearest initiators only: others are computed")


@dataclass(frozen=True, slots=True)
class _Blocks:
    """Memory blocks: the pages of each, and the numbers of those that are on-line."""

    pages: int
    online: set[int]

    def of(self, numbers: Set[int]) -> tuple[PfnRange, ...]:
        """Page frame ranges of those blocks of `numbers` that are on-line."""
        return merge((n * self.pages, (n + 1) * self.pages) for n in numbers & self.online)


def _arch_of(cpuinfo: str) -> str:
    """The architecture that a cpuinfo's words are typical of; "" if it may be x86."""
    for word, arch in (
        ("IA-64", "ia64"),
        ("CPU implementer", "arm"),
        ("IBM/S390", "s390"),
        ("POWER", "ppc64"),
        ("PPC", "ppc64"),
        ("Cell", "ppc64"),
        ("Alpha", "alpha"),
        ("sparc", "sparc"),
        ("MIPS", "mips"),
        ("Loongson", "loongarch64"),
        ("rv64", "riscv64"),
    ):
        if word in cpuinfo:
            return arch
    return ""
