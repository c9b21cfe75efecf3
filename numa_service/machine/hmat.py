"""The latency model as an ACPI HMAT has it, and as ``access0`` and ``access1`` of a node show it.

An HMAT has latencies and bandwidths of pairs of nodes; the kernel shows, of each memory, the nodes that are
best at it, and their numbers (``drivers/acpi/numa/hmat.c``, ``drivers/base/node.c``). access0 is about every
initiator, access1 about CPUs only. The HMAT of a machine here is what its description says of pairs:
``read_ns``, ``write_ns``, ``read_mb_per_s``, ``write_mb_per_s``. Nothing is made up for it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from numa_service.machine.files import split_lines
from numa_service.machine.latency import MAX_MB_PER_S, LatencyModel
from numa_service.machine.notation import parse_cpulist
from numa_service.machine.spec import MachineSpec, SpecError
from numa_service.machine.tree import Tree
from numa_service.mm.profile import PROFILES
from numa_service.mm.snapshot import AccessSnapshot

_MB = 10**6
_MIB = 1 << 20
_CLASSES = (0, 1)
_NODE = re.compile(r"node(0|[1-9]\d{0,8})", re.ASCII)
_INITIATOR = re.compile(
    r"node(0|[1-9]\d{0,8})/access([01])/initiators/node(0|[1-9]\d{0,8})(?: ->|$)", re.ASCII
)

Pairs = dict[tuple[int, int], int]


def mb_per_s(mib_per_s: int) -> int:
    """MB/s (10^6 B/s) of the MiB/s of an HMAT, sysfs and hwloc, rounded up: `mib_per_s` gives them back."""
    return -(-mib_per_s * _MIB // _MB)


def mib_per_s(mb_per_s: int) -> int:
    """The other way, rounded down."""
    return mb_per_s * _MB // _MIB


def with_mib_per_s(pairs: Mapping[tuple[int, int], int]) -> Pairs:
    """The same pairs in MB/s, as far as a machine file can say them."""
    return {pair: min(mb_per_s(mib), MAX_MB_PER_S) for pair, mib in pairs.items()}


def has_hmat(spec: MachineSpec) -> bool:
    """Whether the machine has one: its description says something that an HMAT says."""
    return PROFILES[spec.profile].reads_hmat and bool(told_pairs(spec.latency))


def told_pairs(model: LatencyModel) -> set[tuple[int, int]]:
    """(from nid, to nid) of which an HMAT would say something."""
    return {*model.read_ns, *model.write_ns, *model.read_mb_per_s, *model.write_mb_per_s}


def access_of(spec: MachineSpec) -> dict[tuple[int, int], AccessSnapshot]:
    """Each memory's best initiators and their numbers, by (nid, access class); empty without an HMAT."""
    if not has_hmat(spec):
        return {}
    model = spec.latency
    with_cpus = {nid for nid, cpus in spec.own_cpus.items() if cpus}
    initiators = (with_cpus | set(generic_initiators(spec)), with_cpus)
    told: dict[int, set[int]] = {}
    for of, to in told_pairs(model):
        told.setdefault(to, set()).add(of)
    found: dict[tuple[int, int], AccessSnapshot] = {}
    for nid in (node.nid for node in spec.nodes if node.zones):
        for access in _CLASSES:
            nids = sorted(told.get(nid, set()) & initiators[access])
            if nid in with_cpus and nid in nids:
                # nearest to its own memory, whatever the numbers say (processor proximity domain)
                nids = [nid]
            if nids:
                found[nid, access] = best_initiators(model, nids, nid)
    return found


def generic_initiators(spec: MachineSpec) -> tuple[int, ...]:
    """Nodes with an initiator that is no CPU."""
    return tuple(node.nid for node in spec.nodes if node.generic_initiator)


def best_initiators(model: LatencyModel, nids: Iterable[int], to: int) -> AccessSnapshot:
    """Those of `nids` that are best at a memory: by latency, then by bandwidth; and their numbers."""
    seen = {of: numbers(model, of, to) for of in nids}
    best = min(seen.values(), key=_goodness)
    return AccessSnapshot(tuple(of for of, found in seen.items() if found == best), *best)


def _goodness(found: tuple[int, int, int, int]) -> tuple[float, float, int, int]:
    read_ns, write_ns, read, write = found
    return read_ns or float("inf"), write_ns or float("inf"), -read, -write


def numbers(model: LatencyModel, of: int, to: int) -> tuple[int, int, int, int]:
    """Read and write latency in ns, read and write bandwidth in MiB/s, as far as somebody said; else 0."""
    pair = of, to
    read_ns = model.read_ns.get(pair, 0)
    limits = [mb for mb in (model.memory_mb_per_s.get(to), model.link_mb_per_s.get(pair)) if mb]
    read = model.read_mb_per_s.get(pair, 0) or min(limits, default=0)
    write = model.write_mb_per_s.get(pair, 0) or read
    return read_ns, model.write_ns.get(pair, read_ns), mib_per_s(read), mib_per_s(write)


def hmat_from_sysfs(
    tree: Tree | None, nids: Collection[int], with_cpus: Collection[int]
) -> tuple[LatencyModel, set[int]]:
    """What a directory of nodes says in ``access0`` and ``access1``, and nodes with initiators but CPUs.

    The latencies are those of each memory's best initiators: the kernel does not show the rest of the HMAT.
    Generic initiators are those that ``has_generic_initiator`` names, and those of ``access0`` without CPUs.
    """
    model = LatencyModel()
    if tree is None:
        return model, set()
    known = set(nids)
    listed = _listed_initiators(tree)
    read_ns: Pairs = {}
    write_ns: Pairs = {}
    read: Pairs = {}
    write: Pairs = {}
    names = {
        "read_latency": read_ns,
        "write_latency": write_ns,
        "read_bandwidth": read,
        "write_bandwidth": write,
    }
    linked: set[int] = set()
    for nid in nids:
        for access in _CLASSES:
            folder = f"node{nid}/access{access}/initiators"
            links = (_NODE.fullmatch(name) for name in tree.names(folder))
            initiators = {int(link[1]) for link in links if link} | listed.get((nid, access), set())
            initiators &= known
            if access == 0:
                linked |= initiators
            for name, pairs in names.items():
                value = _number(tree, f"{folder}/{name}") if initiators else 0
                if value:
                    for of in sorted(initiators):
                        pairs.setdefault((of, nid), value)
    model = replace(
        model,
        read_ns=read_ns,
        write_ns=write_ns,
        read_mb_per_s=with_mib_per_s(read),
        write_mb_per_s=with_mib_per_s(write),
    )
    return model, (_named_generic(tree) & known) | (linked - set(with_cpus))


def _named_generic(tree: Tree) -> set[int]:
    if not tree.is_file("has_generic_initiator"):
        return set()
    try:
        return set(parse_cpulist(tree.text("has_generic_initiator")))
    except SpecError:
        return set()


def _number(tree: Tree, name: str) -> int:
    text = tree.text(name).strip() if tree.is_file(name) else ""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


def _listed_initiators(tree: Tree) -> dict[tuple[int, int], set[int]]:
    """Nodes linked in ``initiators`` by (nid, access class): a capture of files only lists its links."""
    found: dict[tuple[int, int], set[int]] = {}
    if tree.is_file("symlinks.txt"):
        for line in split_lines(tree.text("symlinks.txt"), tree.where("symlinks.txt")):
            link = _INITIATOR.match(line)
            if link:
                found.setdefault((int(link[1]), int(link[2])), set()).add(int(link[3]))
    return found
