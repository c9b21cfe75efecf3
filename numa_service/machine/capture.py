"""A captured kernel as a machine: clone a real box.

Accepted are a directory of flat files (``zoneinfo.txt``, ``node/``, ``sysctl.txt``, ``version.txt``,
``iomem.txt``, ``swaps.txt``, ``cmdline.txt``, ``dmesg.txt``), and a tree with the paths of a running system
(``proc/zoneinfo``, ``sys/devices/system/node``, ``proc/sys/vm``, …): ``/`` clones the host.
Only the zoneinfo is required.

Read: zone spans, present and managed pages, CPUs, distances, an HMAT as far as it shows, sysctls, swap, and
from the boot log which pages were freed after watermarks had been computed. Not read, because it is computed
here: watermarks, protection, pagesets, zonelists.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from itertools import pairwise
from pathlib import Path

from numa_service.machine.files import UnreadableError, read_lines, read_text
from numa_service.machine.hmat import generic_initiators_from_sysfs, latency_from_sysfs
from numa_service.machine.late_free import LateFree, late_frees
from numa_service.machine.notation import MAX_NUMNODES, MAX_PHYSMEM_BYTES, parse_cpulist, shown
from numa_service.machine.spec import MachineSpec, NodeSpec, SpecError, ZoneSpec
from numa_service.machine.sysctl import SYSCTLS, default_lowmem_reserve_ratio, parse_sysctl
from numa_service.machine.zoneinfo import CapturedZone, parse_zoneinfo
from numa_service.machine.zones import PfnRange, count_pages, intersect, merge
from numa_service.mm.mmzone import PAGE_SHIFT, PAGE_SIZE, ZONE_NAMES, zone_index
from numa_service.mm.profile import DEFAULT_PROFILE, profile_of_version
from numa_service.mm.sparse import default_memory_model

_NODE_TREE = ("node", "sys/devices/system/node")
_VERSION = re.compile(r"Linux version (\d{1,4})\.(\d{1,4})", re.ASCII)
_IOMEM = re.compile(r" *([0-9a-f]{1,16})-([0-9a-f]{1,16}) : (.*)", re.ASCII)
_SYSCTL = re.compile(r"([\w./-]+) *= ?(.*)", re.ASCII)
_RATIO = "vm.lowmem_reserve_ratio"
_SWAP = re.compile(r"\S+\s+\S+\s+(\d{1,12})\s+\d+\s+-?\d+", re.ASCII)


def load_capture(root: Path) -> MachineSpec:
    """The machine that a capture directory shows; its name is the directory's.

    SpecError names file and line, and what is missing or wrong there.
    """
    capture = _Capture(root)
    zones = parse_zoneinfo(capture.require("zoneinfo.txt", "proc/zoneinfo"), root)
    arch = _arch(zones, root)
    profile = capture.profile()
    nids, cpus, distances = capture.topology(zones)
    tree = capture.find(*_NODE_TREE)
    generic = generic_initiators_from_sysfs(tree, nids, {nid for nid in nids if cpus[nid]})
    nodes = tuple(
        NodeSpec(nid, cpus[nid], specs, ram, generic_initiator=nid in generic)
        for nid, (specs, ram) in capture.memory(zones, arch, nids).items()
    )
    if not any(node.cpus for node in nodes):
        raise SpecError(f"{root}: no node has a CPU")
    if not any(node.zones for node in nodes):
        raise SpecError(f"{root}: no node has memory")
    return MachineSpec(
        name=root.resolve().name or "host",
        source=str(root),
        arch=arch,
        profile=profile,
        nodes=nodes,
        distances=distances,
        swap_pages=capture.swap_pages(),
        sysctls=capture.sysctls(zones, arch, profile),
        cmdline=capture.cmdline(),
        memory_model=default_memory_model(arch),
        latency=latency_from_sysfs(tree, nids),
    )


def _arch(zones: list[CapturedZone], root: Path) -> str:
    names = {zone.name for zone in zones}
    for arch, known in ZONE_NAMES.items():
        if names <= set(known):
            return arch
    raise SpecError(f"{root}: zones {', '.join(sorted(names))} are those of no architecture known here")


class _Capture:
    """One directory; each method reads one kind of file."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, *names: str) -> Path | None:
        """The first of these paths that exists."""
        return next((path for name in names if (path := self.root / name).exists()), None)

    def require(self, *names: str) -> Path:
        path = self.find(*names)
        if path is None:
            raise SpecError(f"{self.root}: not a capture: no {' or '.join(names)}")
        return path

    def text(self, path: Path) -> str:
        """A file of it."""
        return read_text(path, root=self.root)

    def lines(self, path: Path | None) -> list[str]:
        """Lines of a file of it; none if it is not there."""
        return read_lines(path, self.root) if path else []

    def profile(self) -> str:
        """Profile that behaves most like the captured kernel; the default if its version was not captured."""
        path = self.find("version.txt", "proc/version")
        if path is None:
            return DEFAULT_PROFILE
        match = _VERSION.match(self.text(path))
        if match is None:
            raise SpecError(f"{path}:1: no 'Linux version X.Y'")
        return profile_of_version((int(match[1]), int(match[2]))).name

    def topology(
        self, zones: list[CapturedZone]
    ) -> tuple[list[int], dict[int, tuple[int, ...]], tuple[tuple[int, ...], ...]]:
        """Nids in order, CPUs by nid, and distances. Without a node tree there is one node with all CPUs."""
        in_zoneinfo = sorted({zone.nid for zone in zones})
        tree = self.find(*_NODE_TREE)
        if tree is None:
            if len(in_zoneinfo) > 1:
                raise SpecError(
                    f"{self.root}: {len(in_zoneinfo)} nodes in zoneinfo, and no {' or '.join(_NODE_TREE)}"
                )
            online = sorted({cpu for zone in zones for cpu in zone.cpus})
            return in_zoneinfo, {in_zoneinfo[0]: tuple(online)}, ((10,),)
        nids = self._online_nodes(tree)
        for nid in in_zoneinfo:
            if nid not in nids:
                raise SpecError(f"{tree}: node {nid} is in zoneinfo, and node{nid} is missing here")
        for nid in nids:
            if nid not in in_zoneinfo:
                raise SpecError(f"{tree}/node{nid}: zoneinfo has no zones of node {nid}: it is truncated")
        cpus = self._cpus(tree, nids)
        return nids, cpus, tuple(self._distances(tree / f"node{nid}" / "distance", nids) for nid in nids)

    def _online_nodes(self, tree: Path) -> list[int]:
        found = sorted(
            int(path.name.removeprefix("node"))
            for path in tree.iterdir()
            if re.fullmatch(r"node\d{1,9}", path.name, re.ASCII)
        )
        online = tree / "online"
        if not online.exists():
            nids = found
        else:
            nids = list(self._cpulist(online))
            for nid in nids:
                if nid not in found:
                    raise SpecError(f"{tree}: node {nid} is online, and node{nid} is missing here")
        if not nids:
            raise SpecError(f"{tree}: no node0")
        if nids[-1] >= MAX_NUMNODES:
            raise SpecError(f"{tree}: node {nids[-1]}: there are at most {MAX_NUMNODES} nodes")
        return nids

    def _cpus(self, tree: Path, nids: list[int]) -> dict[int, tuple[int, ...]]:
        """CPUs by nid. With numa=fake, the nodes made of one real node all have its CPUs."""
        return {nid: self._cpulist(tree / f"node{nid}" / "cpulist") for nid in nids}

    def _cpulist(self, path: Path) -> tuple[int, ...]:
        text = self.text(path)
        try:
            return parse_cpulist(text)
        except SpecError as error:
            raise SpecError(f"{path}:1: {error}") from None

    def _distances(self, path: Path, nids: list[int]) -> tuple[int, ...]:
        """One node's row of the SLIT: ``10 20 20``, in the order of the online nodes."""
        words = self.text(path).split()
        nid = int(path.parent.name.removeprefix("node"))
        if len(words) != len(nids):
            raise SpecError(f"{path}:1: {len(words)} distances for {len(nids)} nodes")
        for other, word in zip(nids, words, strict=True):
            if not re.fullmatch(r"\d{1,3}", word, re.ASCII) or int(word) < 10:
                raise SpecError(
                    f"{path}:1: distance {shown(word)} to node {other} is not a number of at least 10"
                )
            if other == nid and word != "10":
                raise SpecError(f"{path}:1: the distance of node {nid} to itself is {word}, not 10")
        return tuple(int(word) for word in words)

    def memory(
        self, zones: list[CapturedZone], arch: str, nids: list[int]
    ) -> dict[int, tuple[tuple[ZoneSpec, ...], tuple[PfnRange, ...]]]:
        """Zones with pages and RAM, by nid.

        A zone's RAM is what the iomem calls System RAM within its span, if that is exactly as many pages as
        are present. If it is not (a capture without root's iomem, blocks offlined), the zone is taken to be
        contiguous from its start, with its holes at its end.
        """
        system_ram = self._system_ram()
        late = self.late_frees()
        taken: list[tuple[PfnRange, CapturedZone]] = []
        specs: dict[int, list[ZoneSpec]] = {nid: [] for nid in nids}
        for zone in zones:
            if not zone.present:
                continue
            span = (zone.start_pfn, zone.start_pfn + zone.spanned)
            if span[1] > MAX_PHYSMEM_BYTES >> PAGE_SHIFT:
                raise SpecError(f"{zone.where}: the zone ends above {MAX_PHYSMEM_BYTES >> 40} TiB")
            # only those that reach into the zone: there may be many of either
            first = bisect_right(system_ram, span[0], key=lambda ram: ram[1])
            past = bisect_left(system_ram, span[1], key=lambda ram: ram[0])
            ram = intersect(system_ram[first:past], span)
            if count_pages(ram) != zone.present:
                ram = ((zone.start_pfn, zone.start_pfn + zone.present),)
            taken += [(piece, zone) for piece in ram]
            freed_late = sum(count_pages(intersect(ram, free.pfns)) for free in late)
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

    def late_frees(self) -> tuple[LateFree, ...]:
        """What the kernel freed after it had computed its watermarks; nothing without a boot log."""
        dmesg, iomem = self.find("dmesg.txt", "dmesg-end.txt"), self.find("iomem.txt", "proc/iomem")
        if dmesg is None:
            return ()
        return late_frees(self.text(dmesg), self.lines(iomem))

    def _system_ram(self) -> tuple[PfnRange, ...]:
        path = self.find("iomem.txt", "proc/iomem")
        ranges: list[PfnRange] = []
        for number, line in enumerate(self.lines(path), start=1):
            match = _IOMEM.fullmatch(line)
            if match is None:
                raise SpecError(f"{path}:{number}: not an iomem line: {line[:60]!r}")
            if match[3].startswith("System RAM"):
                start, end = int(match[1], 16), int(match[2], 16) + 1
                # PFN_UP and PFN_DOWN: a page that is only partly RAM is not RAM.
                ranges.append((start + PAGE_SIZE - 1 >> PAGE_SHIFT, end >> PAGE_SHIFT))
        return merge(ranges)

    def sysctls(self, zones: list[CapturedZone], arch: str, profile: str) -> dict[str, str]:
        """Every vm sysctl (and kernel.numa_balancing) as captured; those known here are checked."""
        path = self.find("sysctl.txt")
        values = self._sysctl_tree(profile) if path is None else self._sysctl_lines(path, profile)
        if _RATIO in values:
            # One number a zone type of *that* kernel, which may have others than this architecture's row.
            nid = zones[0].nid
            captured = dict(
                zip((z.name for z in zones if z.nid == nid), values[_RATIO].split(), strict=False)
            )
            defaults = default_lowmem_reserve_ratio(arch, profile).split()
            names = ZONE_NAMES[arch][: len(defaults)]
            values[_RATIO] = "\t".join(map(captured.get, names, defaults))
        return values

    def _sysctl_lines(self, path: Path, profile: str) -> dict[str, str]:
        values: dict[str, str] = {}
        for number, line in enumerate(self.lines(path), start=1):
            match = _SYSCTL.fullmatch(line)
            if match is None:
                raise SpecError(f"{path}:{number}: not 'key = value': {line[:60]!r}")
            if match[1].startswith("vm.") or match[1] in SYSCTLS:
                values[match[1]] = _checked(match[1], match[2], profile, f"{path}:{number}")
        return values

    def _sysctl_tree(self, profile: str) -> dict[str, str]:
        values: dict[str, str] = {}
        tree = self.root / "proc/sys"
        for path in (*sorted(tree.glob("vm/*")), tree / "kernel/numa_balancing"):
            try:
                text = self.text(path)
            except UnreadableError:
                continue  # write-only (compact_memory), root's, or not there
            name = f"{path.parent.name}.{path.name}"
            values[name] = _checked(name, text.strip(), profile, f"{path}:1")
        return values

    def cmdline(self) -> str:
        """The kernel command line, for showing: what it did to zones is read from the zoneinfo."""
        path = self.find("cmdline.txt", "proc/cmdline")
        return self.text(path).strip() if path else ""

    def swap_pages(self) -> int:
        """Pages of all swap devices."""
        path = self.find("swaps.txt", "proc/swaps")
        pages = 0
        for number, line in enumerate(self.lines(path), start=1):
            if number == 1 and line.startswith("Filename"):
                continue
            match = _SWAP.fullmatch(line.strip())
            if match is None:
                raise SpecError(f"{path}:{number}: not a line of /proc/swaps: {line[:60]!r}")
            pages += int(match[1]) >> PAGE_SHIFT - 10
        return pages


def _checked(name: str, value: str, profile: str, where: str) -> str:
    # A newer kernel than the profile may have sysctls that the profile does not: kept like unknown ones.
    if name not in SYSCTLS or not SYSCTLS[name].is_in(profile):
        return value
    if name == _RATIO and re.fullmatch(r"\d{1,9}(?:\s+\d{1,9})*", value, re.ASCII):
        return value  # as many as its kernel has: fitted to the machine's zones by the caller
    try:
        return parse_sysctl(name, value, profile)
    except SpecError as error:
        raise SpecError(f"{where}: {error}") from None
