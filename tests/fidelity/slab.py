"""Compare the geometry of slab caches with what captured kernels printed, cache by cache.

From the capture come the kernel's version, the CPUs, the nodes, the command line, and which modules its
script loaded. All else is computed. What is an argument of kmem_cache_create in the tables of ``mm/slab`` was
once read off one of these captures: it is compared in all of them, and counted in none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from fidelity.allocations import Allocations, allocations
from fidelity.compare import Field
from groundtruth import GROUNDTRUTH

from numa_service.mm.profile import profile_of_version
from numa_service.mm.slab.boot_caches import boot_slab, boot_slub, p9_fcall_cache
from numa_service.mm.slab.flags import SlabFlag
from numa_service.mm.slab.kmem_cache import PAGE_SHIFT, get_order
from numa_service.mm.slab.profile import SLAB, SLUB
from numa_service.mm.slab.slab import SlabCaches, slab_parameters
from numa_service.mm.slab.slob import cache_block, kmalloc_block
from numa_service.mm.slab.slub import SlubCache, SlubCaches
from numa_service.mm.slab.slub_parameters import slub_parameters

_LINE = re.compile(
    r"(\S+) +\d+ +\d+ +(\d+) +(\d+) +(\d+) : tunables +(\d+) +(\d+) +(\d+) : slabdata ", re.ASCII
)
#: A range of a node's memory in the boot log.
_RANGE = re.compile(r"^\[.*\]   node +(\d+): \[mem 0x[0-9a-f]+-0x([0-9a-f]+)\]", re.ASCII | re.MULTILINE)
#: Size of 9P messages, if the command line of the guest says no other.
_MSIZE = 8192


@dataclass(frozen=True, slots=True)
class Guest:
    """The machine and the kernel of a capture."""

    name: str
    profile: str
    cmdline: str
    present_cpus: int
    possible_cpus: int
    node_ids: int
    #: Modules that its script loaded.
    modules: tuple[str, ...]
    msize: int
    memory_bytes: int
    #: By CPU: its node.
    cpus: tuple[int, ...]
    #: By node: the first page that is no more its own; nodes lie one after the other.
    ends: tuple[int, ...]
    #: By node: all nodes from the nearest to the farthest.
    fallback: dict[int, tuple[int, ...]]

    def page_to_nid(self, pfn: int) -> int:
        """The node that has a page."""
        return min(sum(pfn >= end for end in self.ends), self.node_ids - 1)

    def has_memory(self, nid: int) -> bool:
        """Whether a node has memory."""
        return self.ends[nid] > max(self.ends[:nid], default=0)


def slab_captures(allocator: str, root: Path = GROUNDTRUTH) -> list[Path]:
    """Captures of kernels with that allocator: "slub", "slab" or "slob"."""
    captures = sorted(path.parent for path in root.glob("slab/*/*/scenario.json"))
    return [path for path in captures if _allocator(path) == allocator]


def _allocator(capture: Path) -> str:
    ending = capture.parent.name[-4:]
    return ending if ending in ("slab", "slob") else "slub"


def guest_of(capture: Path) -> Guest:
    """What the files of a capture say of its guest."""
    scenario = json.loads((capture / "scenario.json").read_text())
    cmdline = scenario["kernel_cmdline"]
    nodes = scenario["nodes"]
    cpus = tuple(nid for nid, node in enumerate(nodes) for _ in range(node.get("cpus", 0)))
    distances = scenario.get("dist") or [
        [10 + 10 * (a != b) for a in range(len(nodes))] for b in range(len(nodes))
    ]
    possible = re.search(r"maxcpus=(\d+)", scenario.get("smp_spec", ""))
    script = capture / "guest.sh"
    disk = script.exists() and "diskmods" in script.read_text().split()
    msize = re.search(r"\bgt\.msize=(\d+)", cmdline)
    return Guest(
        name=f"{capture.parent.name}/{capture.name}",
        profile=profile_of_version(scenario["kernel_version"]).name,
        cmdline=cmdline,
        present_cpus=len(cpus),
        possible_cpus=int(possible[1]) if possible else len(cpus),
        node_ids=len(nodes),
        modules=("9p", "ext4") if disk else ("9p",),
        msize=int(msize[1]) if msize else _MSIZE,
        memory_bytes=sum(node["mem"] for node in nodes) << 20,
        cpus=cpus,
        ends=_ends(capture, [node["mem"] for node in nodes]),
        fallback={
            nid: tuple(sorted(range(len(nodes)), key=lambda other: (distances[nid][other], other)))
            for nid in range(len(nodes))
        },
    )


def _ends(capture: Path, mib: list[int]) -> tuple[int, ...]:
    """Where the memory of each node ends: as the boot log has it, else by their sizes."""
    ends: dict[int, int] = {}
    log = capture / "dmesg-end.txt"
    for nid, end in _RANGE.findall(log.read_text(errors="replace")) if log.exists() else ():
        ends[int(nid)] = int(end, 16) + 1 >> PAGE_SHIFT
    by_size = accumulate(mib)
    return tuple(ends.get(nid, total << 20 - PAGE_SHIFT) for nid, total in enumerate(by_size))


def slub_of(guest: Guest) -> SlubCaches:
    """The guest's caches, computed."""
    slub = SLUB[guest.profile]
    assert slub.boot
    caches = boot_slub(
        slub.rules,
        slub.kmalloc,
        slub.boot,
        slub_parameters(guest.cmdline, slub.rules.parameters),
        present_cpus=guest.present_cpus,
        possible_cpus=guest.possible_cpus,
        node_ids=guest.node_ids,
    )
    for module in guest.modules:
        for args in slub.boot.modules[module]:
            caches.kmem_cache_create(args)
    caches.kmem_cache_create(p9_fcall_cache(1, guest.msize))
    return caches


def read_attributes(path: Path) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """/sys/kernel/slab as captured: attributes by cache, and the links from names to merged caches."""
    attributes: dict[str, dict[str, str]] = {}
    links: dict[str, str] = {}
    for line in path.read_text().splitlines():
        name, colon, rest = line.partition(": ")
        if colon:
            pairs = (pair.strip().partition("=") for pair in rest.split(";") if pair.strip())
            attributes[name] = {key: value for key, _, value in pairs}
        elif " -> " in line:
            name, _, links[name] = line.partition(" -> ")
    return attributes, links


def read_slabinfo(path: Path) -> dict[str, tuple[int, ...]]:
    """Of each line of /proc/slabinfo, from the oldest cache to the newest.

    Size, objects and pages of a slab, limit, batchcount and sharedfactor.
    """
    found = _LINE.findall(path.read_text())
    return {name: tuple(map(int, numbers)) for name, *numbers in reversed(found)}


def _attributes_of(cache: SlubCache) -> Iterator[tuple[str, object, bool]]:
    """Name and value of each attribute, and whether it is computed rather than an argument of the creator."""
    args = cache.args
    ruled = SlabFlag.KMALLOC in args.flags or SlabFlag.NO_MERGE in args.flags or args.name == "kmem_cache"
    yield "object_size", cache.object_size, ruled or bool(cache.aliases)
    yield "usersize", args.usersize, ruled
    yield "slab_size", cache.size, True
    yield "align", cache.align, ruled or not args.align
    yield "order", cache.order, True
    yield "objs_per_slab", cache.objects, True
    yield "min_partial", cache.min_partial, True
    yield "cpu_partial", cache.cpu_partial, True
    yield "aliases", len(cache.aliases), True
    for attribute, flag, debug in (
        ("hwcache_align", SlabFlag.HWCACHE_ALIGN, False),
        ("destroy_by_rcu", SlabFlag.TYPESAFE_BY_RCU, False),
        ("reclaim_account", SlabFlag.RECLAIM_ACCOUNT, False),
        ("cache_dma", SlabFlag.CACHE_DMA, False),
        ("red_zone", SlabFlag.RED_ZONE, True),
        ("poison", SlabFlag.POISON, True),
        ("store_user", SlabFlag.STORE_USER, True),
        ("sanity_checks", SlabFlag.CONSISTENCY_CHECKS, True),
        ("trace", SlabFlag.TRACE, True),
    ):
        yield attribute, int(flag in cache.flags), debug or ruled


def compare_slub(capture: Path) -> Iterator[Field]:
    """Every static attribute of every cache of a kernel with SLUB, and its lines of /proc/slabinfo."""
    guest = guest_of(capture)
    caches = slub_of(guest)
    path = capture / "slab.txt"
    attributes, links = read_attributes(path if path.exists() else capture / "slab-attributes.txt")
    by_name = {cache.sysfs_name: cache for cache in caches.caches}
    yield Field(
        guest.name,
        "slab",
        "names of caches",
        "machine",
        sorted(attributes),
        sorted(by_name),
        computed_here=bool(links),  # without merging they are those of the tables
    )
    merged = {
        name: cache.sysfs_name
        for cache in caches.caches
        for name in (cache.name, *cache.aliases)
        if name != cache.sysfs_name
    }
    for name in sorted(links.keys() | merged.keys()):
        yield Field(guest.name, "slab", "merged into", name, links.get(name), merged.get(name))
    for name, captured in attributes.items():
        if not (cache := by_name.get(name)):
            continue
        for kind, computed, here in _attributes_of(cache):
            yield Field(guest.name, "slab", kind, name, int(captured[kind]), computed, computed_here=here)
    if not (capture / "slabinfo.txt").exists():
        return
    lines = read_slabinfo(capture / "slabinfo.txt")
    yield Field(
        guest.name,
        "slab",
        "order of creation",
        "machine",
        list(lines),
        [cache.name for cache in caches.caches],
        computed_here=bool(links),
    )
    for cache in caches.caches:
        line = lines.get(cache.name, (0,) * 6)
        where = cache.sysfs_name
        yield Field(guest.name, "slab", "slab_size", where, line[0], cache.size)
        yield Field(guest.name, "slab", "objs_per_slab", where, line[1], cache.objects)
        yield Field(guest.name, "slab", "order", where, (line[2] or 1).bit_length() - 1, cache.order)
        yield Field(guest.name, "slab", "tunables", where, line[3:], (0, 0, 0), computed_here=False)


def slab_of(guest: Guest) -> SlabCaches:
    """The caches of a guest with SLAB, computed."""
    slab = SLAB[guest.profile]
    caches = boot_slab(
        slab.rules,
        slab.kmem_cache_bytes,
        slab.kmalloc,
        slab.boot,
        slab_parameters(guest.cmdline),
        possible_cpus=guest.possible_cpus,
        node_ids=guest.node_ids,
        memory_bytes=guest.memory_bytes,
    )
    for args in slab.boot.modules["9p"]:
        caches.kmem_cache_create(args)
    caches.kmem_cache_create(p9_fcall_cache(1, guest.msize))
    return caches


def _slabinfo_fields(
    guest: Guest, file: str, lines: dict[str, tuple[int, ...]], caches: SlabCaches
) -> Iterator[Field]:
    for cache in caches.caches:
        if not (line := lines.get(cache.name)):
            continue
        computed = (cache.size, cache.objects, 1 << cache.order, cache.limit, cache.batchcount, cache.shared)
        kinds = ("slab_size", "objs_per_slab", "pages of a slab", "limit", "batchcount", "sharedfactor")
        ruled = SlabFlag.KMALLOC in cache.flags or cache.name == "kmem_cache"
        for kind, theirs, ours in zip(kinds, line, computed, strict=True):
            # the table has sizes from slabinfo itself, unless a trace shows the exact one
            here = ruled or kind != "slab_size" or cache.size != cache.args.size
            yield Field(guest.name, file, kind, cache.name, theirs, ours, computed_here=here)


def compare_slab(capture: Path) -> Iterator[Field]:
    """Every static number of /proc/slabinfo of a kernel with SLAB, what is written to it, and its objects."""
    guest = guest_of(capture)
    caches = slab_of(guest)
    script = (capture / "guest.sh").read_text()
    for text in re.findall(r'echo "([^"$]+)" > /proc/slabinfo', script):
        caches.slabinfo_write(text)
    if (capture / "slabinfo.txt").exists():
        lines = read_slabinfo(capture / "slabinfo.txt")
        yield Field(
            guest.name,
            "slabinfo",
            "order of creation",
            "machine",
            list(lines),
            [cache.name for cache in caches.caches],
            computed_here=not caches.parameters.nomerge,
        )
        yield from _slabinfo_fields(guest, "slabinfo", lines, caches)
    if (capture / "tunables.txt").exists():
        yield from _tunables(guest, capture / "tunables.txt", caches)
    yield from _objects(guest, allocations(capture), caches)


def _tunables(guest: Guest, path: Path, caches: SlabCaches) -> Iterator[Field]:
    """Each write, whether it succeeded, and what the line says after it."""
    text = path.read_text()
    for number, written, result in re.findall(r"^== (\d+) echo '(.*)' > /proc/slabinfo: (\w+)$", text, re.M):
        try:
            caches.slabinfo_write(written)
            computed = "0"
        except ValueError:
            computed = "fail"
        yield Field(guest.name, f"write {number}", "result of a write", f"write {number}", result, computed)
        after = text.partition(f"== {number} ")[2].partition("\n== ")[0]
        for name, *numbers in _LINE.findall(after):
            lines = {name: tuple(map(int, numbers))}
            yield from _slabinfo_fields(guest, f"write {number}", lines, caches)


def _objects(guest: Guest, rows: list[Allocations], caches: SlabCaches) -> Iterator[Field]:
    """Sizes of objects in a trace, and where in their slabs they are."""
    kmalloc = SLAB[guest.profile].kmalloc
    sizes = {(cache.object_size, cache.size) for cache in caches.caches}
    for row in rows:
        where = f"{row.workload} {row.event} {row.bytes_req}"
        if row.event == "kmalloc":
            asked = kmalloc.class_of(row.bytes_req)
            fits = {cache.args.size: cache.size for cache in caches.caches if SlabFlag.KMALLOC in cache.flags}
            given = fits[asked] if asked else 4096 << get_order(row.bytes_req)
            yield Field(guest.name, "trace", "bytes of kmalloc", where, row.bytes_alloc, given)
        else:
            known = row.bytes_alloc if (row.bytes_req, row.bytes_alloc) in sizes else None
            yield Field(
                guest.name, "trace", "size of an object", where, row.bytes_alloc, known, computed_here=False
            )
        alike = {
            (cache.order, cache.objects, *cache.colours())
            for cache in caches.caches
            if cache.size == row.bytes_alloc
        }
        if len(alike) != 1:  # nothing tells which of the caches an object is of
            continue
        ((order, objects, *places),) = alike
        # a hundred slabs have been through all colours on each node
        if order < len(row.colours) and row.count > 100 * objects:
            colours = sorted({place % row.bytes_alloc for place in places})
            yield Field(guest.name, "trace", "colours", where, sorted(row.colours[order]), colours)


def compare_slob(capture: Path) -> Iterator[Field]:
    """Sizes and alignment of objects in the traces of a kernel with SLOB, which prints nothing of them."""
    guest = guest_of(capture)
    boot = SLAB[guest.profile].boot
    caches = [*boot.args(SLAB[guest.profile].kmalloc), *boot.modules["9p"], p9_fcall_cache(1, guest.msize)]
    for row in allocations(capture):
        where = f"{row.workload} {row.event} {row.bytes_req}"
        if row.event == "kmalloc":
            block = kmalloc_block(row.bytes_req)
            blocks = [block] if block else []
        else:
            alike = [cache_block(args) for args in caches if args.size == row.bytes_req]
            # of caches of one size, the event has no name: a footer tells them apart
            blocks = [block for block in alike if block.size == row.bytes_alloc] or alike
        sizes = sorted({block.size for block in blocks})
        yield Field(
            guest.name,
            "trace",
            "bytes of an object",
            where,
            [row.bytes_alloc],
            sizes,
            computed_here=row.bytes_alloc != row.bytes_req,
        )
        align = min((block.align for block in blocks), default=0)
        # addresses may be aligned better by chance, or by what shares their pages: only what is exact counts
        yield Field(
            guest.name,
            "trace",
            "alignment",
            where,
            min(row.aligned, align),
            align,
            computed_here=row.aligned == align,
        )


#: How the static numbers of each allocator are compared.
COMPARE: dict[str, Callable[[Path], Iterator[Field]]] = {
    "slub": compare_slub,
    "slab": compare_slab,
    "slob": compare_slob,
}
