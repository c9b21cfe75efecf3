"""The ACPI HMAT of a machine, and what sysfs shows of it in ``access0`` and ``access1`` of each node.

An HMAT has a latency and a bandwidth for each pair of initiator and memory target. The kernel shows for each
memory its best initiators with their latencies and bandwidths (``drivers/acpi/numa/hmat.c``,
``drivers/base/node.c``): access0 counts all initiators, access1 only CPUs. The HMAT of a machine here has the
pairs that its description gives values for (``read_ns``, ``write_ns``, ``read_mb_per_s``, ``write_mb_per_s``
of LatencyModel), and no defaults.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from numa_service.machine.captured_tree import Tree
from numa_service.machine.input_files import split_lines
from numa_service.machine.latency import MAX_MB_PER_S, LatencyModel
from numa_service.machine.notation import parse_cpulist
from numa_service.machine.spec import MachineSpec, SpecError
from numa_service.mm.profile import profile_named
from numa_service.mm.snapshot import AccessSnapshot

_MB = 10**6
_MIB = 1 << 20
_CLASSES = (0, 1)
_NODE = re.compile(r"node(0|[1-9]\d{0,8})", re.ASCII)
_INITIATOR = re.compile(
    r"node(0|[1-9]\d{0,8})/access([01])/initiators/node(0|[1-9]\d{0,8})(?: ->|$)", re.ASCII
)

#: A latency (ns) or bandwidth by (initiator nid, target nid).
Pairs = dict[tuple[int, int], int]


def mb_per_s(mib_per_s: int) -> int:
    """MiB/s, as in HMAT, sysfs and hwloc, in MB/s (10^6 B/s), rounded up so that `mib_per_s` inverts it."""
    return -(-mib_per_s * _MIB // _MB)


def mib_per_s(mb_per_s: int) -> int:
    """MB/s (10^6 B/s) in MiB/s, rounded down."""
    return mb_per_s * _MB // _MIB


def pairs_in_mb_per_s(pairs: Mapping[tuple[int, int], int]) -> Pairs:
    """Bandwidths in MiB/s as MB/s, cut at MAX_MB_PER_S, the most that a machine file takes."""
    return {pair: min(mb_per_s(mib), MAX_MB_PER_S) for pair, mib in pairs.items()}


def has_hmat(spec: MachineSpec) -> bool:
    """Whether the machine has an HMAT: its kernel reads one, and its description has values for one."""
    return profile_named(spec.profile).reads_hmat and bool(hmat_pairs(spec.latency))


def hmat_pairs(model: LatencyModel) -> set[tuple[int, int]]:
    """(initiator nid, target nid) of all pairs that the HMAT has an entry for."""
    return {*model.read_ns, *model.write_ns, *model.read_mb_per_s, *model.write_mb_per_s}


def access_of(spec: MachineSpec) -> dict[tuple[int, int], AccessSnapshot]:
    """The best initiators of each memory, their latencies and bandwidths, by (nid, access class).

    Empty if the machine has no HMAT.
    """
    if not has_hmat(spec):
        return {}
    model = spec.latency
    with_cpus = {nid for nid, cpus in spec.own_cpus.items() if cpus}
    initiators = (with_cpus | set(generic_initiators(spec)), with_cpus)
    told: dict[int, set[int]] = {}
    for of, to in hmat_pairs(model):
        told.setdefault(to, set()).add(of)
    found: dict[tuple[int, int], AccessSnapshot] = {}
    for nid in (node.nid for node in spec.nodes if node.zones):
        for access in _CLASSES:
            nids = sorted(told.get(nid, set()) & initiators[access])
            if nid in with_cpus and nid in nids:
                # a node with CPUs is its memory's processor proximity domain, and wins whatever its latency
                nids = [nid]
            if nids:
                found[nid, access] = best_initiators(model, nids, nid)
    return found


def generic_initiators(spec: MachineSpec) -> tuple[int, ...]:
    """Nids of the nodes with an initiator that is no CPU."""
    return tuple(node.nid for node in spec.nodes if node.generic_initiator)


def best_initiators(model: LatencyModel, nids: Iterable[int], to: int) -> AccessSnapshot:
    """The initiators of `nids` that are best at the memory of node `to`, with latencies and bandwidths.

    Latencies are compared first, reads before writes, then bandwidths; ties are all best.
    """
    seen = {of: hmem_attrs(model, of, to) for of in nids}
    best = min(seen.values(), key=_rank)
    return AccessSnapshot(tuple(of for of, found in seen.items() if found == best), *best)


def _rank(found: tuple[int, int, int, int]) -> tuple[float, float, int, int]:
    """Sort key, smallest for the best initiator; an unknown latency (0) is the worst."""
    read_ns, write_ns, read, write = found
    return read_ns or float("inf"), write_ns or float("inf"), -read, -write


def hmem_attrs(model: LatencyModel, of: int, to: int) -> tuple[int, int, int, int]:
    """(read ns, write ns, read MiB/s, write MiB/s) from node `of` to the memory of `to`; unknown is 0.

    A bandwidth that is not given for the pair is the smaller one of link and memory. An unknown value of
    writes is that of reads.
    """
    pair = of, to
    read_ns = model.read_ns.get(pair, 0)
    limits = [mb for mb in (model.memory_mb_per_s.get(to), model.link_mb_per_s.get(pair)) if mb]
    read = model.read_mb_per_s.get(pair, 0) or min(limits, default=0)
    write = model.write_mb_per_s.get(pair, 0) or read
    return read_ns, model.write_ns.get(pair, read_ns), mib_per_s(read), mib_per_s(write)


def hmat_from_sysfs(
    tree: Tree | None, nids: Collection[int], with_cpus: Collection[int]
) -> tuple[LatencyModel, set[int]]:
    """The latency model of ``access0`` and ``access1`` in a directory of nodes, and its generic initiators.

    `tree` is ``/sys/devices/system/node`` or None, `with_cpus` the nids of the nodes with CPUs. The model
    has values for each memory's best initiators only: the kernel does not show the rest of the HMAT. Generic
    initiators are the nodes that ``has_generic_initiator`` lists, and those of ``access0`` without CPUs.
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
        read_mb_per_s=pairs_in_mb_per_s(read),
        write_mb_per_s=pairs_in_mb_per_s(write),
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
    """Initiators by (nid, access class) of ``symlinks.txt``, where a capture of flat files has its links."""
    found: dict[tuple[int, int], set[int]] = {}
    if tree.is_file("symlinks.txt"):
        for line in split_lines(tree.text("symlinks.txt"), tree.where("symlinks.txt")):
            link = _INITIATOR.match(line)
            if link:
                found.setdefault((int(link[1]), int(link[2])), set()).add(int(link[3]))
    return found
