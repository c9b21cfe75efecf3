"""A booted machine as plain data, in one process or put together from what its nodes tell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np
from pydantic import TypeAdapter

from numa_service.machine.hmat import access_of, generic_initiators
from numa_service.machine.spec import MachineSpec
from numa_service.mm.memory_hotplug import MEMORY_BLOCK_PAGES, is_offline, zone_for_pfn_range
from numa_service.mm.mmzone import PAGEBLOCK_NR_PAGES, PAGEBLOCK_ORDER
from numa_service.mm.page_alloc import NO_PAGEBLOCK
from numa_service.mm.pgdat import Pgdat
from numa_service.mm.snapshot import MachineSnapshot, MemoryBlockSnapshot, NodeSnapshot, Uptime
from numa_service.mm.zonelist import Zonelists


@dataclass(frozen=True, slots=True)
class NodePart:
    """What one node knows: itself, and the machine's sysctls. What a process sends of its node."""

    node: NodeSnapshot
    sysctls: dict[str, str]
    #: When it booted, in seconds since 1970: its process tells.
    booted: float = 0.0

    def to_json(self) -> bytes:
        """For another process of the same version."""
        return _part().dump_json(self)

    @staticmethod
    def from_json(text: bytes) -> NodePart:
        """ValueError when it is not what ``to_json`` made."""
        return _part().validate_json(text)


@cache
def _part() -> TypeAdapter[NodePart]:
    """Made when first wanted: every node imports this, and few are ever asked."""
    return TypeAdapter(NodePart)


@dataclass(slots=True)
class IdleClock:
    """How long the CPUs of a machine had nothing to do, from one reading to the next.

    Work is virtual time, and may run ahead of the clock on the wall. A CPU that did more since the last
    reading than there was time for was not idle meanwhile. What it was idle before stays: no counter falls.
    """

    _ns: int = 0
    _busy: dict[int, int] = field(default_factory=dict)
    _idle: dict[int, int] = field(default_factory=dict)

    def read(self, spec: MachineSpec, parts: Iterable[NodePart], now: float) -> Uptime:
        """A machine whose nodes have worked so much until `now`, in seconds since 1970."""
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


def assemble(spec: MachineSpec, parts: Iterable[NodePart], uptime: Uptime | None = None) -> MachineSnapshot:
    """The machine of nodes in several processes; sysctls as the first of them has them.

    Without boot log and zonelists, which no file shows.
    """
    found = sorted(parts, key=lambda part: part.node.nid)
    return MachineSnapshot(
        name=spec.name,
        arch=spec.arch,
        profile=spec.profile,
        nodes=tuple(part.node for part in found),
        distances=spec.distances,
        sysctls=found[0].sysctls,
        fallback_order={},
        zonelists={},
        access=access_of(spec),
        generic_initiators=generic_initiators(spec),
        uptime=uptime or Uptime(),
    )


def zonelists_shown(
    zonelists: Mapping[int, Zonelists], names: Sequence[str]
) -> dict[tuple[str, int, str], tuple[tuple[int, str], ...]]:
    """(nid, zone name) in order, of each list of each node ("general", "thisnode") up to each zone."""
    lists: dict[tuple[str, int, str], tuple[tuple[int, str], ...]] = {}
    for nid, both in zonelists.items():
        for label, refs in (("general", both.fallback), ("thisnode", both.thisnode)):
            for highest, name in enumerate(names):
                lists[label, nid, name] = tuple(
                    (ref.nid, names[ref.zone]) for ref in refs if ref.zone <= highest
                )
    return lists


def node_snapshot(spec: MachineSpec, pgdat: Pgdat, online: bool) -> NodeSnapshot:
    """A node of this process."""
    others = {node.nid: node.ram for node in spec.nodes if node.nid != pgdat.nid}
    return replace(
        pgdat.snapshot(),
        online=online,
        ram=tuple(pgdat.ram),
        memory_blocks=_memory_blocks(pgdat, others),
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
    """Zones of the blocks that are on-line and wholly of one: nearly all, and a terabyte has 8192 of them."""
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
    # a pageblock that is not wholly of one zone has no label
    for mixed in np.flatnonzero(present & (labels == 0)).tolist():
        first = pgdat.base_pfn + (blocks.start + mixed << PAGEBLOCK_ORDER)
        end_pfn = first + PAGEBLOCK_NR_PAGES
        zones |= {e.name for e in pgdat.extents if e.start_pfn < end_pfn and first < e.start_pfn + e.spanned}
    return MemoryBlockSnapshot(number, True, tuple(zones) if len(zones) == 1 and not shared else ())


__all__ = ["IdleClock", "NodePart", "assemble", "node_snapshot", "zonelists_shown"]
