"""Snapshots (``mm/snapshot.py``) of a machine: taken of a booted one, or assembled from its nodes' parts."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Flag, auto
from functools import cache

import numpy as np
from pydantic import TypeAdapter

from numa_service.machine.cmdline import parse_cmdline
from numa_service.machine.hmat import access_of, generic_initiators
from numa_service.machine.record import SlabCaches
from numa_service.machine.slab_caches import slab_caches_of
from numa_service.machine.spec import MachineSpec
from numa_service.mm.memory_hotplug import MEMORY_BLOCK_PAGES, is_offline, zone_for_pfn_range
from numa_service.mm.mmzone import PAGEBLOCK_NR_PAGES, PAGEBLOCK_ORDER
from numa_service.mm.page_alloc import NO_PAGEBLOCK
from numa_service.mm.pgdat import Pgdat
from numa_service.mm.snapshot import MachineSnapshot, MemoryBlockSnapshot, NodeSnapshot, Uptime
from numa_service.mm.zonelist import Zonelists


class Part(Flag):
    """What a node's part of a snapshot has beside counters, pools of huge pages and the time of CPUs."""

    #: Free blocks and pageblocks of zones by migratetype.
    FREE_LISTS = auto()
    PAGESETS = auto()
    MEMORY_BLOCKS = auto()
    SLAB = auto()
    VMALLOC = auto()
    SYSCTLS = auto()
    #: How long CPUs have been idle: of the machine's snapshot only.
    UPTIME = auto()
    #: What tasks have on all nodes: page tables, huge pages; and what happened to them.
    PAGE_TABLES = auto()
    #: The files of /proc/PID.
    TASKS = auto()
    #: The kernel's log.
    KMSG = auto()


EVERY_PART = ~Part(0)


@dataclass(frozen=True, slots=True)
class OfTasks:
    """What the tasks of one home have on all nodes, and what happened to them, as far as files count it."""

    #: nid → pages of page tables, and huge pages that a PMD entry maps.
    page_tables: dict[int, int] = field(default_factory=dict)
    anon_thps: dict[int, int] = field(default_factory=dict)
    #: Events of /proc/vmstat by name.
    events: dict[str, int] = field(default_factory=dict)
    #: khugepaged's counts, by the name of their file.
    khugepaged: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NodePart:
    """One node's part of a machine's snapshot, as the node's process sends it."""

    node: NodeSnapshot
    sysctls: dict[str, str]
    #: When the node booted, in seconds since 1970.
    booted: float = 0.0
    #: pid → name → text of the files of /proc/PID of the node's tasks, if they were asked for.
    tasks: dict[int, dict[str, str]] = field(default_factory=dict)
    of_tasks: OfTasks = field(default_factory=OfTasks)
    #: Other nodes whose tasks have pages on this one.
    table_homes: tuple[int, ...] = ()
    #: The kernel's log of the node: seconds since boot, level and text of each line.
    kmsg: tuple[tuple[float, int, str], ...] = ()

    def to_json(self) -> bytes:
        """The part as JSON, for another process of the same version."""
        return _part().dump_json(self)

    @staticmethod
    def from_json(text: bytes) -> NodePart:
        """Inverse of :meth:`to_json`; ValueError if `text` is not such JSON."""
        return _part().validate_json(text)


@cache
def _part() -> TypeAdapter[NodePart]:
    """The adapter, made at its first use: every node imports this module, and few are asked for a part."""
    return TypeAdapter(NodePart)


@dataclass(slots=True)
class IdleClock:
    """Counts how long the CPUs of a machine have been idle, from one reading to the next.

    Work takes virtual time, which may run ahead of the wall clock. A CPU that has worked longer since the
    last reading than wall time has passed was not idle in between. Idle time of earlier readings stays, so
    that the counter never falls.
    """

    _ns: int = 0
    _busy: dict[int, int] = field(default_factory=dict)
    _idle: dict[int, int] = field(default_factory=dict)

    def read(self, spec: MachineSpec, parts: Iterable[NodePart], now: float) -> Uptime:
        """The machine's uptime and idle times at `now`, in s since 1970, from the parts of its nodes."""
        parts = list(parts)
        booted = min(part.booted for part in parts)
        ns = max(0, round((now - booted) * 1e9))
        busy = dict.fromkeys(spec.cpus, 0)
        for part in parts:
            for cpu, worked in part.node.cpu_ns.items():
                busy[cpu] = busy.get(cpu, 0) + worked
        if ns < self._ns:  # every node was restarted
            self._ns, self._busy, self._idle = 0, {}, {}
        for cpu, worked in busy.items():
            before = self._busy.get(cpu, 0)
            # a node that was restarted counts from 0
            since = worked - before if worked >= before else worked
            self._idle[cpu] = self._idle.get(cpu, 0) + max(0, ns - self._ns - since)
        self._ns, self._busy = ns, busy
        return Uptime(int(booted), ns, dict(self._idle))


def assemble(
    spec: MachineSpec,
    parts: Iterable[NodePart],
    uptime: Uptime | None = None,
    caches: SlabCaches | None = None,
    offline: Collection[int] = (),
) -> MachineSnapshot:
    """The snapshot of a machine whose nodes are in several processes; sysctls are those of the lowest nid.

    `caches` are the slab caches that are not as boot left them. A node without a part is shown with its CPUs
    and no zones; it is on-line unless it is in `offline`.

    It has no boot log and no zonelists: no file of /proc or /sys shows them.
    """
    found = sorted(parts, key=lambda part: part.node.nid)
    seen = {part.node.nid: _with_tasks(part, found) for part in found}
    return MachineSnapshot(
        name=spec.name,
        arch=spec.arch,
        profile=spec.profile,
        nodes=tuple(
            seen.get(node.nid) or _unasked(node.nid, node.cpus, node.nid not in offline)
            for node in sorted(spec.nodes, key=lambda node: node.nid)
        ),
        distances=spec.distances,
        sysctls=found[0].sysctls if found else {},
        fallback_order={},
        zonelists={},
        packages=spec.packages,
        cores=spec.cores,
        possible_nodes=spec.possible_nodes,
        default_hugepage_kb=parse_cmdline(spec.cmdline).default_hugepage_kb,
        access=access_of(spec),
        generic_initiators=generic_initiators(spec),
        uptime=uptime or Uptime(),
        slab=spec.slab,
        slab_caches=slab_caches_of(spec, caches),
        tasks={pid: files for part in found for pid, files in sorted(part.tasks.items())},
        khugepaged=_summed(part.of_tasks.khugepaged for part in found),
        kmsg=tuple(sorted((line for part in found for line in part.kmsg), key=lambda line: line[0])),
    )


def _with_tasks(own: NodePart, parts: Sequence[NodePart]) -> NodeSnapshot:
    """A node with what tasks have on it, which their homes know, and what happened to its own ones."""
    nid, stat = own.node.nid, dict(own.node.node_stat)
    for name, counted in (
        ("nr_page_table_pages", [part.of_tasks.page_tables for part in parts]),
        ("nr_anon_transparent_hugepages", [part.of_tasks.anon_thps for part in parts]),
    ):
        if pages := sum(by_node.get(nid, 0) for by_node in counted):
            stat[name] = pages
    return replace(own.node, node_stat=stat, vm_event=own.node.vm_event | own.of_tasks.events)


def _summed(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    whole: dict[str, int] = {}
    for some in counts:
        for name, count in some.items():
            whole[name] = whole.get(name, 0) + count
    return whole


def _unasked(nid: int, cpus: Sequence[int], online: bool) -> NodeSnapshot:
    return NodeSnapshot(nid, tuple(cpus), (), {}, {}, {}, online=online)


def zonelists_shown(
    zonelists: Mapping[int, Zonelists], names: Sequence[str]
) -> dict[tuple[str, int, str], tuple[tuple[int, str], ...]]:
    """The zonelists for requests up to each zone, by (list, nid, name of the highest zone).

    The list is "general" or "thisnode"; a value is the (nid, zone name) of the zones in order.
    """
    lists: dict[tuple[str, int, str], tuple[tuple[int, str], ...]] = {}
    for nid, both in zonelists.items():
        for label, refs in (("general", both.fallback), ("thisnode", both.thisnode)):
            for highest, name in enumerate(names):
                lists[label, nid, name] = tuple(
                    (ref.nid, names[ref.zone]) for ref in refs if ref.zone <= highest
                )
    return lists


def node_snapshot(spec: MachineSpec, pgdat: Pgdat, online: bool, parts: Part = EVERY_PART) -> NodeSnapshot:
    """The snapshot of a node of this process, with these parts."""
    blocks: tuple[MemoryBlockSnapshot, ...] = ()
    if Part.MEMORY_BLOCKS in parts:
        others = {node.nid: node.ram for node in spec.nodes if node.nid != pgdat.nid}
        blocks = _memory_blocks(pgdat, others)
    return replace(
        pgdat.snapshot(free_lists=Part.FREE_LISTS in parts, pagesets=Part.PAGESETS in parts),
        online=online,
        ram=tuple(pgdat.ram),
        memory_blocks=blocks,
    )


def _memory_blocks(
    pgdat: Pgdat, others: Mapping[int, tuple[tuple[int, int], ...]]
) -> tuple[MemoryBlockSnapshot, ...]:
    if pgdat.arch != "x86_64":
        return ()
    shared = {block for ram in others.values() for block in _blocks(ram)}
    plain = _blocks_of_one_zone(pgdat)
    return tuple(
        MemoryBlockSnapshot(block, True, (plain[block],))
        if block in plain and block not in shared
        else _memory_block(pgdat, block, block in shared)
        for block in sorted(_blocks(pgdat.ram))
    )


def _blocks_of_one_zone(pgdat: Pgdat) -> dict[int, str]:
    """Zone by memory block, of the blocks that are on-line and wholly in one zone.

    Nearly all are, and a terabyte has 8192 of them: they are found by whole arrays, the others one by one.
    """
    if pgdat.base_pfn % MEMORY_BLOCK_PAGES:
        return {}
    pg, size = pgdat.pg, MEMORY_BLOCK_PAGES >> PAGEBLOCK_ORDER
    end = len(pg.pb_zone) // size * size
    zones = pg.pb_zone[:end].reshape(-1, size)
    online = (pg.pb_migratetype[:end].reshape(-1, size) != NO_PAGEBLOCK).all(axis=1)
    plain = np.flatnonzero(online & (zones[:, 0] != 0) & (zones == zones[:, :1]).all(axis=1))
    first = pgdat.base_pfn // MEMORY_BLOCK_PAGES
    labels = zones[plain, 0].tolist()
    return {first + at: pgdat.zone_names[label - 1] for at, label in zip(plain.tolist(), labels, strict=True)}


def _blocks(ram: Iterable[tuple[int, int]]) -> set[int]:
    size = MEMORY_BLOCK_PAGES
    return {block for low, high in ram for block in range(low // size, -(-high // size))}


def _memory_block(pgdat: Pgdat, number: int, shared: bool) -> MemoryBlockSnapshot:
    pg, names = pgdat.pg, pgdat.zone_names
    start = max(0, number * MEMORY_BLOCK_PAGES - pgdat.base_pfn)
    end = (number + 1) * MEMORY_BLOCK_PAGES - pgdat.base_pfn
    if is_offline(pg, start, end):
        kinds = ("online", "online_kernel", "online_movable")
        places = (names[zone_for_pfn_range(pg, names, kind, start, end)] for kind in kinds)
        return MemoryBlockSnapshot(number, False, tuple(dict.fromkeys(places)))
    blocks = slice(start >> PAGEBLOCK_ORDER, end >> PAGEBLOCK_ORDER)
    present = pg.pb_migratetype[blocks] != NO_PAGEBLOCK
    labels = pg.pb_zone[blocks]
    zones = {names[label - 1] for label in np.unique(labels[present & (labels != 0)]).tolist()}
    # a pageblock that is not wholly in one zone has no label
    for mixed in np.flatnonzero(present & (labels == 0)).tolist():
        first = pgdat.base_pfn + (blocks.start + mixed << PAGEBLOCK_ORDER)
        end_pfn = first + PAGEBLOCK_NR_PAGES
        zones |= {e.name for e in pgdat.extents if e.start_pfn < end_pfn and first < e.start_pfn + e.spanned}
    return MemoryBlockSnapshot(number, True, tuple(zones) if len(zones) == 1 and not shared else ())


__all__ = ["EVERY_PART", "IdleClock", "NodePart", "Part", "assemble", "node_snapshot", "zonelists_shown"]
