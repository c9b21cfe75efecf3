"""Packages and cores of a captured machine: of ``/sys/devices/system/cpu``, or of ``/proc/cpuinfo``."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from numa_service.machine.captured_tree import Tree
from numa_service.machine.input_files import UnreadableError
from numa_service.machine.notation import mask_bits
from numa_service.machine.spec import SpecError

_CPUS = "sys/devices/system/cpu"
_CPUINFO = "proc/cpuinfo"
#: Files of a CPU's topology with the CPUs of its package and of its core: names of all kernels, then those
#: that kernels since 5.3 have beside them.
_PACKAGE = ("core_siblings", "package_cpus")
_CORE = ("thread_siblings", "core_cpus")
_CORE_ID = "core_id"
#: Those that are read of archives.
TOPOLOGY_FILES = (_PACKAGE[0], _CORE[0], _CORE_ID)
_MAX_FILE = 1 << 20
#: Most characters of a CPU mask; 32 CPUs take nine.
_MAX_MASK = 1 << 13
_MAP = re.compile(r"[0-9a-f]{1,16}(?:,[0-9a-f]{1,8})*", re.ASCII | re.IGNORECASE)
_LINE = re.compile(r"(processor|physical id|core id)\s*: (\d{1,7})", re.ASCII)

#: CPUs of each group.
Groups = list[tuple[int, ...]]


def parse_cpumap(text: str, source: str) -> set[int]:
    """CPUs of a mask as the kernel prints it (``%*pb``): ``00000000,0000000f``; SpecError."""
    compact = text.strip()
    if len(compact) > _MAX_MASK or not _MAP.fullmatch(compact):
        raise SpecError(f"{source}:1: {compact[:40]!r} is not a CPU mask as 00000000,0000000f")
    first, *groups = compact.split(",")
    value = int(first + "".join(group.zfill(8) for group in groups), 16)
    return mask_bits(value)


def read_packages(tree: Tree, online: Collection[int]) -> tuple[Groups, Groups]:
    """(packages, cores) of the CPUs `online`; no packages, and no cores, if they are not told of every CPU.

    Masks of siblings are taken as they stand: firmware may tell nonsense, and then neither is used.
    """
    packages, cores = (_siblings(tree, online, names) for names in (_PACKAGE, _CORE))
    cores = _by_core_id(tree, cores)
    if not packages:
        packages, cores = _from_cpuinfo(tree, online)
    packages = _partition(packages, online)
    cores = _partition(cores, online) if packages else []
    home = {cpu: at for at, group in enumerate(packages) for cpu in group}
    if any(len({home[cpu] for cpu in core}) > 1 for core in cores):
        cores = []
    return packages, cores


def untold(packages: Groups, cores: Groups, nodes: Iterable[tuple[int, ...]]) -> bool:
    """Whether they are no more than what is taken without them: a package a node, and a core a CPU."""
    return packages == [cpus for cpus in nodes if cpus] and all(len(core) == 1 for core in cores)


def _siblings(tree: Tree, online: Iterable[int], names: tuple[str, ...]) -> Groups:
    """The different masks that CPUs have in one of the files `names`; none if one of them has none."""
    groups: dict[str, tuple[int, ...]] = {}
    for cpu in online:
        text = _first(tree, [f"{_CPUS}/cpu{cpu}/topology/{name}" for name in names])
        if text not in groups:
            try:
                groups[text] = tuple(sorted(parse_cpumap(text, "")))
            except SpecError:
                return []
    return list(groups.values())


def _by_core_id(tree: Tree, cores: Groups) -> Groups:
    """Cores; threads of one with different ids are apart, as in AMD's modules of two cores."""
    apart: dict[tuple[int, str], list[int]] = {}
    for at, core in enumerate(cores):
        for cpu in core:
            which = _first(tree, [f"{_CPUS}/cpu{cpu}/topology/{_CORE_ID}"]).strip() if len(core) > 1 else ""
            apart.setdefault((at, which), []).append(cpu)
    return [tuple(core) for core in apart.values()]


def _first(tree: Tree, names: list[str]) -> str:
    for name in names:
        if tree.is_file(name):
            try:
                return tree.read(name, _MAX_FILE).decode("ascii", "replace").rstrip("\0")
            except UnreadableError:
                continue
    return ""


def _from_cpuinfo(tree: Tree, online: Collection[int]) -> tuple[Groups, Groups]:
    """Packages and cores by the ids in cpuinfo, whose paragraphs begin with the CPU's number."""
    if not tree.is_file(_CPUINFO):
        return [], []
    ids: dict[int, dict[str, int]] = {}
    current: dict[str, int] = {}
    for key, number in _LINE.findall(_first(tree, [_CPUINFO])):
        if key == "processor":
            current = ids.setdefault(int(number), {})
        else:
            current[key] = int(number)
    packages: dict[int, list[int]] = {}
    cores: dict[tuple[int, int], list[int]] = {}
    for cpu in sorted(online):
        of = ids.get(cpu, {})
        if "physical id" not in of:
            return [], []
        packages.setdefault(of["physical id"], []).append(cpu)
        # without a core id every CPU is a core of its own
        cores.setdefault((of["physical id"], of.get("core id", -1 - cpu)), []).append(cpu)
    return [tuple(packages[at]) for at in sorted(packages)], [tuple(cores[at]) for at in sorted(cores)]


def _partition(groups: Groups, cpus: Collection[int]) -> Groups:
    """The groups without CPUs that are not there; none unless every CPU is in exactly one."""
    known = set(cpus)
    kept = [group for group in (tuple(sorted(known.intersection(group))) for group in groups) if group]
    kept = list(dict.fromkeys(kept))
    return kept if sorted(cpu for group in kept for cpu in group) == sorted(known) else []
