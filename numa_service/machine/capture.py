"""Captures: files of a running kernel, from which the same machine is made.

Accepted are a directory of flat files (``zoneinfo.txt``, ``node/``, ``sysctl.txt``, ``version.txt``,
``iomem.txt``, ``swaps.txt``, ``cmdline.txt``, ``dmesg.txt``, ``buddyinfo.txt``), and a tree with the paths of
a running system (``proc/zoneinfo``, ``sys/devices/system/node``, ``proc/sys/vm``, …): ``/`` clones the host.
Only the zoneinfo is required.

What is read: zone spans, present and managed pages, CPUs, distances, what sysfs shows of an HMAT, sysctls,
swap, free blocks, and from the boot log the pages freed after watermarks had been computed; without it they
follow from the printed protection, and without sysctls min_free_kbytes from the printed min watermarks. All
else is computed: watermarks, protection, pagesets, zonelists.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

from numa_service.machine.captured_occupancy import captured_occupancy
from numa_service.machine.captured_topology import read_packages, untold
from numa_service.machine.captured_tree import Directory, Tree
from numa_service.machine.captured_zoneinfo import (
    CapturedZone,
    lists_populated_zones_only,
    parse_zoneinfo,
)
from numa_service.machine.cmdline import thp_mode
from numa_service.machine.hmat import hmat_from_sysfs
from numa_service.machine.input_files import UnreadableError
from numa_service.machine.late_free import LateFree, late_frees, managed_at_boot
from numa_service.machine.notation import (
    MAX_LISTED_CPUS,
    MAX_NUMNODES,
    MAX_PHYSMEM_BYTES,
    parse_cpulist,
    shown,
)
from numa_service.machine.occupancy import ZoneOccupancy
from numa_service.machine.spec import MachineSpec, NodeSpec, SpecError, ZoneSpec
from numa_service.machine.sysctl import SYSCTLS, default_lowmem_reserve_ratio, parse_sysctl
from numa_service.machine.zones import PfnRange, count_pages, intersect, merge
from numa_service.mm.mmzone import PAGE_SHIFT, PAGE_SIZE, ZONE_NAMES, zone_index
from numa_service.mm.profile import DEFAULT_PROFILE, profile_named, profile_of_version
from numa_service.mm.sparse import default_memory_model
from numa_service.mm.watermark import (
    DEFAULT_WATERMARK_SCALE_FACTOR,
    boot_min_free_kbytes,
    highmem_zones,
    setup_per_zone_wmarks,
)

_NODE_TREE = ("node", "sys/devices/system/node")
_IOMEM = re.compile(r" *([0-9a-f]{1,16})-([0-9a-f]{1,16}) : (.*)", re.ASCII)
_SYSCTL = re.compile(r"([\w./-]+) *= ?(.*)", re.ASCII)
#: A legal row of distances: one match checks the whole row, and only in a row that fails is the wrong word
#: looked for.
_ROW = re.compile(r"\d{1,3}(?: \d{1,3})*", re.ASCII)
_RATIO = "vm.lowmem_reserve_ratio"
_MIN_FREE = "vm.min_free_kbytes"
_SWAP = re.compile(r"\S+\s+\S+\s+(\d{1,12})\s+\d+\s+-?\d+", re.ASCII)


def load_capture(root: Path) -> MachineSpec:
    """The machine of a capture directory, named after it; SpecError as of :func:`read_capture`."""
    return read_capture(Directory(root))


def read_capture(tree: Tree) -> MachineSpec:
    """The machine of a capture; SpecError names file and line, and what is missing or wrong there."""
    capture = _Capture(tree)
    zones = parse_zoneinfo(tree, capture.require("zoneinfo.txt", "proc/zoneinfo"))
    arch = _arch(zones, tree.place)
    profile = capture.profile(zones)
    occupancy, notes = capture.occupancy(zones)
    nids, cpus, distances = capture.topology(zones)
    packages, cores = read_packages(tree, {cpu for own in cpus.values() for cpu in own})
    if untold(packages, cores, cpus.values()):
        packages, cores = [], []
    sysctls = capture.sysctls(zones, arch, profile)
    ratios = sysctls.get(_RATIO) or default_lowmem_reserve_ratio(arch, profile)
    latency, generic = hmat_from_sysfs(capture.nodes(), nids, {nid for nid in nids if cpus[nid]})
    nodes = tuple(
        NodeSpec(nid, cpus[nid], specs, ram, generic_initiator=nid in generic)
        for nid, (specs, ram) in capture.memory(zones, arch, nids, list(map(int, ratios.split()))).items()
    )
    if not any(node.cpus for node in nodes):
        raise SpecError(f"{tree.place}: no node has a CPU")
    if not any(node.zones for node in nodes):
        raise SpecError(f"{tree.place}: no node has memory")
    if _MIN_FREE not in sysctls:
        sysctls |= capture.told_min_free(zones, nodes, profile)
    return MachineSpec(
        name=tree.name or "host",
        source=tree.place,
        arch=arch,
        profile=profile,
        nodes=nodes,
        distances=distances,
        swap_pages=capture.swap_pages(),
        sysctls=sysctls,
        cmdline=capture.cmdline(),
        memory_model=default_memory_model(arch, len(nodes)),
        latency=latency,
        packages=tuple(packages),
        cores=tuple(cores),
        notes=(*notes, *capture.notes),
        occupancy=occupancy,
    )


def _arch(zones: list[CapturedZone], place: str) -> str:
    names = {zone.name for zone in zones}
    for arch, known in ZONE_NAMES.items():
        if names <= set(known):
            return arch
    raise SpecError(f"{place}: zones {', '.join(sorted(names))} are those of no architecture known here")


class _Capture:
    """A capture: each method reads one kind of file of it."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.notes: list[str] = []

    def find(self, *names: str) -> str | None:
        """The first of these names that exists in the capture; None if none does."""
        return next((name for name in names if self.tree.exists(name)), None)

    def require(self, *names: str) -> str:
        """The first of these names that exists in the capture; SpecError if none does."""
        name = self.find(*names)
        if name is None:
            raise SpecError(f"{self.tree.place}: not a capture: no {' or '.join(names)}")
        return name

    def lines(self, name: str | None) -> list[str]:
        """Lines of a file of the capture; none if `name` is None."""
        return self.tree.lines(name) if name else []

    def nodes(self) -> Tree | None:
        """The directory that has node0, node1, …; None if it was not captured."""
        name = self.find(*_NODE_TREE)
        return None if name is None else self.tree.below(name)

    def profile(self, zones: list[CapturedZone]) -> str:
        """Name of the captured kernel's profile; if its version was not captured, by the zoneinfo's form."""
        name = self.find("version.txt", "proc/version")
        if name is None:
            return self._profile_by_form(zones)
        told = self.tree.text(name)
        try:
            if told.startswith("Linux version "):
                return profile_of_version(told).name
        except ValueError:
            pass
        raise SpecError(f"{self.tree.where(name)}:1: no 'Linux version X.Y'")

    def _profile_by_form(self, zones: list[CapturedZone]) -> str:
        """The default, unless the zoneinfo has the form of an old kernel.

        ``managed`` came with 3.9, ZONE_DEVICE with 4.3, and since 4.12 empty zones are printed.
        """
        if not zones[0].counters_first:
            return DEFAULT_PROFILE
        release = "4.9" if zones[0].nr_types > 4 else "3.10" if zones[0].has_managed else "2.6.32"
        old = profile_of_version(release).name
        self.notes.append(f"no version: by the form of its zoneinfo, {old} was taken")
        return old

    def occupancy(self, zones: list[CapturedZone]) -> tuple[tuple[ZoneOccupancy, ...], tuple[str, ...]]:
        """How full the zones were, and notes on what of it was not told."""
        names = (
            self.find("pagetypeinfo.txt", "proc/pagetypeinfo"),
            self.find("buddyinfo.txt", "proc/buddyinfo"),
        )
        texts = []
        for name in filter(None, names):
            with suppress(UnreadableError):  # pagetypeinfo is readable by root only
                texts.append((self.tree.where(name), self.tree.text(name)))
        return captured_occupancy(zones, texts)

    def topology(
        self, zones: list[CapturedZone]
    ) -> tuple[list[int], dict[int, tuple[int, ...]], tuple[tuple[int, ...], ...]]:
        """Nids in order, CPUs by nid, and rows of distances; without a node tree, one node has all CPUs."""
        in_zoneinfo = sorted({zone.nid for zone in zones})
        tree = self.nodes()
        if tree is None:
            if len(in_zoneinfo) > 1:
                raise SpecError(
                    f"{self.tree.place}: {len(in_zoneinfo)} nodes in zoneinfo, "
                    f"and no {' or '.join(_NODE_TREE)}"
                )
            online = sorted({cpu for zone in zones for cpu in zone.cpus})
            return in_zoneinfo, {in_zoneinfo[0]: tuple(online)}, ((10,),)
        nids = self._online_nodes(tree)
        for nid in in_zoneinfo:
            if nid not in nids:
                raise SpecError(f"{tree.place}: node {nid} is in zoneinfo, and node{nid} is missing here")
        for nid in nids:
            if nid not in in_zoneinfo and not lists_populated_zones_only(zones):
                raise SpecError(
                    f"{tree.where(f'node{nid}')}: zoneinfo has no zones of node {nid}: it is truncated"
                )
        distances = tuple(self._distances(tree, nid, nids) for nid in nids)
        if any(tree.exists(f"node{nid}/cpulist") for nid in nids):
            return nids, self._cpus(tree, nids), distances
        return nids, self._shared_cpus(zones, nids), distances

    def _online_nodes(self, tree: Tree) -> list[int]:
        found = sorted(
            int(name.removeprefix("node"))
            for name in tree.names()
            if re.fullmatch(r"node\d{1,9}", name, re.ASCII)
        )
        if not tree.exists("online"):
            nids = found
        else:
            nids = list(_cpulist(tree, "online"))
            for nid in nids:
                if nid not in found:
                    raise SpecError(f"{tree.place}: node {nid} is online, and node{nid} is missing here")
        if not nids:
            raise SpecError(f"{tree.place}: no node0")
        if nids[-1] >= MAX_NUMNODES:
            raise SpecError(f"{tree.place}: node {nids[-1]}: there are at most {MAX_NUMNODES} nodes")
        return nids

    def _cpus(self, tree: Tree, nids: list[int]) -> dict[int, tuple[int, ...]]:
        """CPUs by nid. With numa=fake, all nodes cut from one real node list its CPUs."""
        cpus: dict[int, tuple[int, ...]] = {}
        listed = 0
        for nid in nids:
            cpus[nid] = _cpulist(tree, f"node{nid}/cpulist")
            listed += len(cpus[nid])
            if listed > MAX_LISTED_CPUS:
                raise SpecError(f"{tree.place}: nodes list more than {MAX_LISTED_CPUS} CPUs in all")
        return cpus

    def _shared_cpus(self, zones: list[CapturedZone], nids: list[int]) -> dict[int, tuple[int, ...]]:
        """CPUs by nid where no file lists them: each node with memory has packages, or as many CPUs."""
        online = sorted({cpu for zone in zones for cpu in zone.cpus})
        populated = {zone.nid for zone in zones if zone.present}
        nodes = [nid for nid in nids if nid in populated]
        packages, _ = read_packages(self.tree, online)
        units = packages if packages and len(packages) % len(nodes) == 0 else [(cpu,) for cpu in online]
        if len(nodes) > 1:
            what = "packages" if units is packages else "CPUs"
            self.notes.append(
                f"no file lists the CPUs of nodes: each has an equal share of the {what}, in order"
            )
        cpus: dict[int, tuple[int, ...]] = dict.fromkeys(nids, ())
        for at, nid in enumerate(nodes):
            own = units[at * len(units) // len(nodes) : (at + 1) * len(units) // len(nodes)]
            cpus[nid] = tuple(sorted(cpu for unit in own for cpu in unit))
        return cpus

    def _distances(self, tree: Tree, nid: int, nids: list[int]) -> tuple[int, ...]:
        """One node's row of the SLIT: ``10 20 20``, in the order of the online nodes."""
        name = f"node{nid}/distance"
        if not tree.exists(name) and not any(tree.exists(f"node{other}/distance") for other in nids):
            note = "no distances: 20 between all nodes was taken"
            if len(nids) > 1 and note not in self.notes:
                self.notes.append(note)
            return tuple(10 if other == nid else 20 for other in nids)
        words = tree.text(name).split()
        where = f"{tree.where(name)}:1"
        if len(words) != len(nids):
            raise SpecError(f"{where}: {len(words)} distances for {len(nids)} nodes")
        if not _ROW.fullmatch(" ".join(words)) or min(map(int, words)) < 10:
            for other, word in zip(nids, words, strict=True):
                if not re.fullmatch(r"\d{1,3}", word, re.ASCII) or int(word) < 10:
                    raise SpecError(
                        f"{where}: distance {shown(word)} to node {other} is not a number of at least 10"
                    )
        own = words[nids.index(nid)]
        if own != "10":
            raise SpecError(f"{where}: the distance of node {nid} to itself is {own}, not 10")
        return tuple(map(int, words))

    def memory(
        self, zones: list[CapturedZone], arch: str, nids: list[int], ratios: list[int]
    ) -> dict[int, tuple[tuple[ZoneSpec, ...], tuple[PfnRange, ...]]]:
        """Zones with pages, and ranges of RAM, by nid.

        A zone's RAM is what the iomem calls System RAM within its span, if that has exactly as many pages as
        are present. If it has not (an iomem not read as root, memory blocks off-line), the zone's RAM is
        taken to begin at the start of its span and to have no holes. `ratios` are those of lowmem_reserve.
        """
        system_ram = self._system_ram()
        late = self.late_frees()
        then = _managed_at_boot(zones, arch, ratios) if late is None else {}
        taken: list[tuple[PfnRange, CapturedZone]] = []
        specs: dict[int, list[ZoneSpec]] = {nid: [] for nid in nids}
        for zone in zones:
            if not zone.present:
                continue
            span = (zone.start_pfn, zone.start_pfn + zone.spanned)
            if span[1] > MAX_PHYSMEM_BYTES >> PAGE_SHIFT:
                raise SpecError(f"{zone.where}: the zone ends above {MAX_PHYSMEM_BYTES >> 40} TiB")
            # intersect only with the ranges that reach into the zone: there may be many ranges and many zones
            first = bisect_right(system_ram, span[0], key=lambda ram: ram[1])
            past = bisect_left(system_ram, span[1], key=lambda ram: ram[0])
            ram = intersect(system_ram[first:past], span)
            if count_pages(ram) != zone.present:
                ram = ((zone.start_pfn, zone.start_pfn + zone.present),)
            taken += [(piece, zone) for piece in ram]
            freed_late = sum(count_pages(intersect(ram, free.pfns)) for free in late or ())
            freed_late += zone.managed - then.get((zone.nid, zone.name), zone.managed)
            specs[zone.nid].append(
                ZoneSpec(
                    zone.name,
                    zone.start_pfn,
                    zone.spanned,
                    zone.present,
                    zone.managed,
                    min(freed_late, zone.managed),
                )
            )
        taken.sort(key=lambda item: item[0])
        for (low, below), (high, above) in pairwise(taken):
            if high[0] < low[1]:
                raise SpecError(f"{above.where}: overlaps node {below.nid}, zone {below.name}")
        pieces: dict[int, list[PfnRange]] = {nid: [] for nid in nids}
        for piece, zone in taken:
            pieces[zone.nid].append(piece)
        return {
            nid: (
                tuple(sorted(specs[nid], key=lambda spec: zone_index(arch, spec.name))),
                merge(pieces[nid]),
            )
            for nid in nids
        }

    def late_frees(self) -> tuple[LateFree, ...] | None:
        """The pages that the kernel freed after it had computed its watermarks; None without a boot log."""
        dmesg, iomem = self.find("dmesg.txt", "dmesg-end.txt"), self.find("iomem.txt", "proc/iomem")
        if dmesg is None:
            return None
        return late_frees(self.tree.text(dmesg), self.lines(iomem))

    def _system_ram(self) -> tuple[PfnRange, ...]:
        name = self.find("iomem.txt", "proc/iomem")
        ranges: list[PfnRange] = []
        for number, line in enumerate(self.lines(name), start=1):
            match = _IOMEM.fullmatch(line)
            if match is None:
                raise SpecError(f"{self.tree.where(name or '')}:{number}: not an iomem line: {line[:60]!r}")
            if match[3].startswith("System RAM"):
                start, end = int(match[1], 16), int(match[2], 16) + 1
                # PFN_UP and PFN_DOWN: a page that is only partly RAM is not RAM.
                ranges.append((start + PAGE_SIZE - 1 >> PAGE_SHIFT, end >> PAGE_SHIFT))
        return merge(ranges)

    def sysctls(self, zones: list[CapturedZone], arch: str, profile: str) -> dict[str, str]:
        """Values of all captured vm sysctls and of kernel.numa_balancing; those in SYSCTLS are validated."""
        name = self.find("sysctl.txt")
        values = self._sysctl_tree(profile) if name is None else self._sysctl_lines(name, profile)
        if _RATIO in values:
            # It has one number a zone type of *that* kernel, which may have other types than the model.
            nid = zones[0].nid
            captured = dict(
                zip((z.name for z in zones if z.nid == nid), values[_RATIO].split(), strict=False)
            )
            defaults = default_lowmem_reserve_ratio(arch, profile).split()
            names = ZONE_NAMES[arch][: len(defaults)]
            values[_RATIO] = "\t".join(map(captured.get, names, defaults))
        return values

    def _sysctl_lines(self, name: str, profile: str) -> dict[str, str]:
        values: dict[str, str] = {}
        where = self.tree.where(name)
        for number, line in enumerate(self.lines(name), start=1):
            match = _SYSCTL.fullmatch(line)
            if match is None:
                raise SpecError(f"{where}:{number}: not 'key = value': {line[:60]!r}")
            if match[1].startswith("vm.") or match[1] in SYSCTLS:
                values[match[1]] = _checked(match[1], match[2], profile, f"{where}:{number}")
        return values

    def _sysctl_tree(self, profile: str) -> dict[str, str]:
        values: dict[str, str] = {}
        tree = self.tree.below("proc/sys")
        for file in (*(f"vm/{name}" for name in tree.names("vm")), "kernel/numa_balancing"):
            try:
                text = tree.text(file)
            except UnreadableError:
                continue  # write-only (compact_memory), readable by root only, or missing
            name = file.replace("/", ".")
            values[name] = _checked(name, text.strip(), profile, f"{tree.where(file)}:1")
        return values

    def told_min_free(
        self, zones: list[CapturedZone], nodes: tuple[NodeSpec, ...], profile: str
    ) -> dict[str, str]:
        """min_free_kbytes behind the printed watermarks, where a boot of such a machine computes another.

        It was written, or khugepaged was not there. Marks that follow from the default, but for a hundredth
        that zones may have grown by, tell nothing.
        """
        kernel = profile_named(profile)
        then = {
            (node.nid, zone.name): (zone.managed or 0) - zone.freed_late
            for node in nodes
            for zone in node.zones
        }
        high = highmem_zones(then, kernel)
        printed = {
            (zone.nid, zone.name): zone.wmark_min
            for zone in zones
            if zone.wmark_min is not None and zone.managed and zone.name not in high
        }
        low = {key for key, pages in then.items() if pages and key[1] not in high}
        contradicts = any(zone.wmark_min and not zone.managed for zone in zones)
        if contradicts or printed.keys() != low or not any(printed.values()):
            return {}
        populated = {(zone.nid, zone.name) for zone in zones if zone.present}
        default = boot_min_free_kbytes(then, kernel, thp_mode(self.cmdline()) != "never", populated)
        marks = setup_per_zone_wmarks(then, kernel, default, DEFAULT_WATERMARK_SCALE_FACTOR)
        if all(abs(marks[key].min - mark) <= 2 + mark // 100 for key, mark in printed.items()):
            return {}
        # shares are rounded down: the most pages that make the printed marks, zone by zone
        total = sum(then[key] for key in low)
        pages = min(((mark + 1) * total - 1) // then[key] for key, mark in printed.items())
        pages = max(pages, sum(printed.values()))
        if pages > total:
            return {}
        kbytes = pages << (PAGE_SHIFT - 10)
        self.notes.append(f"{_MIN_FREE}={kbytes} makes the printed watermarks: boot would make others")
        return {_MIN_FREE: str(kbytes)}

    def cmdline(self) -> str:
        """The kernel command line. It is only shown: its effects on zones are read from the zoneinfo."""
        name = self.find("cmdline.txt", "proc/cmdline")
        return self.tree.text(name).strip() if name else ""

    def swap_pages(self) -> int:
        """Pages of all swap devices together."""
        name = self.find("swaps.txt", "proc/swaps")
        pages = 0
        for number, line in enumerate(self.lines(name), start=1):
            if number == 1 and line.startswith("Filename"):
                continue
            match = _SWAP.fullmatch(line.strip())
            if match is None:
                where = self.tree.where(name or "")
                raise SpecError(f"{where}:{number}: not a line of /proc/swaps: {line[:60]!r}")
            pages += int(match[1]) >> PAGE_SHIFT - 10
        return pages


def _managed_at_boot(zones: list[CapturedZone], arch: str, ratios: list[int]) -> dict[tuple[int, str], int]:
    """Pages that each zone managed when its kernel computed the reserves that are printed."""
    names = ZONE_NAMES[arch]
    then: dict[tuple[int, str], int] = {}
    for nid in sorted({zone.nid for zone in zones}):
        own = {zone.name: zone for zone in zones if zone.nid == nid}
        # a kernel that prints all zones may have other types than are modelled
        every = list(own.values())
        types = tuple(own) if len(own) == every[0].nr_types else names
        managed = [own[name].managed if name in own else 0 for name in names]
        reserves = {
            names.index(zone.name): [
                zone.protection[types.index(name)] if name in types[: len(zone.protection)] else 0
                for name in names
            ]
            for zone in every
        }
        found = managed_at_boot(managed, reserves, ratios)
        then |= {(nid, name): found[names.index(name)] for name in own}
    return then


def _cpulist(tree: Tree, name: str) -> tuple[int, ...]:
    text = tree.text(name)
    try:
        return parse_cpulist(text)
    except SpecError as error:
        raise SpecError(f"{tree.where(name)}:1: {error}") from None


def _checked(name: str, value: str, profile: str, where: str) -> str:
    # A captured kernel newer than the profile may have sysctls that the profile lacks: they are kept as is.
    if name not in SYSCTLS or not SYSCTLS[name].is_in(profile):
        return value
    if name == _RATIO and re.fullmatch(r"\d{1,9}(?:\s+\d{1,9})*", value, re.ASCII):
        return value  # one for each zone type of the captured kernel; the caller fits them to the machine's
    try:
        return parse_sysctl(name, value, profile)
    except SpecError as error:
        raise SpecError(f"{where}: {error}") from None
