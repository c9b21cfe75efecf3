"""A booted machine, and what its kernel recomputes when a sysctl is written or memory comes or goes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from numa_service.machine.cmdline import parse_cmdline, thp_mode
from numa_service.machine.hmat import access_of, generic_initiators
from numa_service.machine.snapshot import (
    EVERY_PART,
    NodePart,
    OfTasks,
    Part,
    node_snapshot,
    zonelists_shown,
)
from numa_service.machine.spec import MachineSpec
from numa_service.machine.sysctl import Sysctls, check_weight, sysctl_name
from numa_service.machine.thp_files import ENABLED_KEY, boot_values
from numa_service.machine.zonelists import Populated, built_lines, fallback_order_lines, topology_of
from numa_service.mm.memblock import BootAllocator, Memblock
from numa_service.mm.mmzone import MIGRATE_TYPES, PAGE_SHIFT, PAGEBLOCK_NR_PAGES, ZONE_NAMES
from numa_service.mm.online import for_each_online_pgdat
from numa_service.mm.pgdat import Pgdat
from numa_service.mm.pgdata import TUNE_BOOST_FACTOR, TUNE_MOBILITY_DISABLED, TUNE_SWAPPINESS
from numa_service.mm.profile import Profile
from numa_service.mm.slab.cache import Cache
from numa_service.mm.slab.snapshot import SlabNodeSnapshot
from numa_service.mm.snapshot import MachineSnapshot, NodeSnapshot
from numa_service.mm.sparse import MemoryModel
from numa_service.mm.variants import ORDER_NODES, PAGESET_AUTO_TUNED
from numa_service.mm.vmalloc.vmalloc import Vmalloc
from numa_service.mm.watermark import (
    PAGESET_HIGH_MAX_FRACTION,
    THP_LEAST_PAGES,
    Watermarks,
    ZoneKey,
    above_high,
    boot_min_free_kbytes,
    calculate_min_free_kbytes,
    recommended_min_free_kbytes,
    setup_per_zone_lowmem_reserve,
    setup_per_zone_wmarks,
    zone_batchsize,
    zone_highsize,
)
from numa_service.mm.zonelist import Zonelists, build_all_zonelists, turns_zone_reclaim_on

#: The first pfn that takes more than 32 bits to address.
_4GIB_PFN = 1 << 32 - PAGE_SHIFT


@dataclass(slots=True)
class BootedMachine:
    """A booted machine, as `start_kernel` returns it."""

    spec: MachineSpec
    profile: Profile
    sysctls: Sysctls
    #: Managed pages of every zone of every node, empty ones included.
    managed: dict[ZoneKey, int]
    zonelists: dict[int, Zonelists]
    #: The nodes booted in this process.
    pgdats: dict[int, Pgdat]
    #: (virtual seconds, text)
    dmesg: list[tuple[float, str]]
    #: The kernel's virtual addresses, which one node keeps for all (`vmalloc_nid`). In processes of others
    #: the areas are those of boot; the layout and the rules are the same everywhere.
    vmalloc: Vmalloc
    #: The boot allocator; its `reserved` lists the memory that never reached the buddy system, and why.
    boot_allocator: BootAllocator = field(default_factory=Memblock)
    #: SPARSEMEM's sections or FLATMEM's one map.
    memory_model: MemoryModel = field(default_factory=lambda: MemoryModel("sparsemem", "x86_64"))
    #: On-line nodes and their populated zones, from which the current zonelists were built.
    populated: Populated = field(default_factory=dict)
    #: Watermarks of every zone of the machine, as last computed.
    watermarks: dict[ZoneKey, Watermarks] = field(default_factory=dict)
    #: vm.min_free_kbytes as somebody wrote it; None = never.
    user_min_free_kbytes: int | None = None
    #: The slab caches of the kernel's boot (``slab_caches``).
    slab_caches: tuple[Cache, ...] = ()
    #: Nodes booted in the same process that belong to another BootedMachine; only snapshots show them.
    neighbours: dict[int, Pgdat] = field(default_factory=dict)
    vmalloc_nid: int = 0

    @property
    def khugepaged(self) -> bool:
        """Whether khugepaged runs, which raises min_free_kbytes when memory comes or goes."""
        return self.profile.thp_min_free and self.sysctls.get(ENABLED_KEY) != "never"

    @property
    def max_low_pfn(self) -> int:
        """Where low memory ends: on i386 what the kernel maps, on x86-64 the RAM below 4 GiB."""
        if self.spec.arch == "i386":
            zones = [zone for node in self.spec.nodes for zone in node.zones]
            return min((zone.start_pfn for zone in zones if zone.name == "HighMem"), default=self.max_pfn)
        ram = [span for node in self.spec.nodes for span in node.ram]
        return max((min(end, _4GIB_PFN) for start, end in ram if start < _4GIB_PFN), default=self.max_pfn)

    @property
    def max_pfn(self) -> int:
        """Where RAM ends."""
        return max(end for node in self.spec.nodes for _, end in node.ram)

    def of_node(self, nid: int) -> BootedMachine:
        """The machine as the process of one node has it; it shares with this one what no op changes."""
        return replace(
            self,
            sysctls=deepcopy(self.sysctls),
            pgdats={nid: self.pgdats[nid]},
            dmesg=list(self.dmesg),
            neighbours={},
        )

    def write_sysctl(self, key: str, value: str) -> None:
        """Write a sysctl, with the kernel's effects. SpecError, and nothing changes, if it is not valid."""
        order = self.sysctls.get("vm.numa_zonelist_order")
        check_weight(key, self.spec.nids)
        self.sysctls.set(key, value)
        name = sysctl_name(key)
        if name == "vm.min_free_kbytes":
            self.user_min_free_kbytes = self.sysctls.min_free_kbytes
        if name in _HANDLERS:
            _HANDLERS[name](self, self.managed, self.sysctls)
        _tune(self)
        rebuilds = self.profile.zone_order != ORDER_NODES and name == "vm.numa_zonelist_order"
        if rebuilds and self.sysctls.get("vm.numa_zonelist_order") != order:
            rebuild_zonelists(self)

    def dump(self) -> list[Any]:
        """All state of the machine in this process that ops change, as plain data for :meth:`load`."""
        return [
            self.sysctls.as_dict(),
            self.user_min_free_kbytes,
            sorted((nid, zone, pages) for (nid, zone), pages in self.managed.items()),
            [(nid, list(zones)) for nid, zones in self.populated.items()],
            [(nid, list(lists.node_order)) for nid, lists in sorted(self.zonelists.items())],
        ]

    def load(self, dumped: list[Any]) -> None:
        """Restore what :meth:`dump` returned, into a machine that was booted from the same spec."""
        sysctls, user_min, managed, populated, orders = dumped
        self.managed = {(nid, zone): pages for nid, zone, pages in managed}
        ours = self.sysctls.as_dict()
        for key, value in sysctls.items():
            if ours.get(key) != value:
                self.write_sysctl(key, value)
        online = {nid: tuple(zones) for nid, zones in populated}
        built = [(nid, list(lists.node_order)) for nid, lists in sorted(self.zonelists.items())]
        if online != self.populated or built != [(nid, list(order)) for nid, order in orders]:
            rebuild_zonelists(self, online)
        self.user_min_free_kbytes = user_min
        setup_per_cpu_pageset(self)
        apply_sysctls(self)

    def populated_zones(self) -> list[ZoneKey]:
        """Every zone with present pages, on all nodes that are on-line (for_each_populated_zone)."""
        names = ZONE_NAMES[self.spec.arch]
        return [(nid, names[zone]) for nid, zones in self.populated.items() for zone in zones]

    def _all_pgdats(self) -> list[Pgdat]:
        return [pgdat for _, pgdat in sorted((self.neighbours | self.pgdats).items())]

    def snapshot(self, nodes: Iterable[NodeSnapshot] | None = None) -> MachineSnapshot:
        """The machine as plain data; `nodes`, if given, are shown in place of the nodes of this process."""
        shown = tuple(nodes) if nodes else tuple(map(self._node_snapshot, self._all_pgdats()))
        return MachineSnapshot(
            name=self.spec.name,
            arch=self.spec.arch,
            profile=self.profile.name,
            nodes=shown,
            distances=self.spec.distances,
            sysctls=self.sysctls.as_dict(),
            fallback_order={nid: lists.node_order for nid, lists in self.zonelists.items()},
            zonelists=zonelists_shown(self.zonelists, ZONE_NAMES[self.spec.arch]),
            packages=self.spec.packages,
            cores=self.spec.cores,
            possible_nodes=self.spec.possible_nodes,
            default_hugepage_kb=parse_cmdline(self.spec.cmdline).default_hugepage_kb,
            dmesg=tuple(self.dmesg),
            access=access_of(self.spec),
            generic_initiators=generic_initiators(self.spec),
            slab=self.spec.slab,
            slab_caches=self.slab_caches,
        )

    def node_part(
        self,
        nid: int,
        cpu_ns: Mapping[int, int] | None = None,
        booted: float = 0.0,
        slab: Mapping[str, SlabNodeSnapshot] | None = None,
        tasks: dict[int, dict[str, str]] | None = None,
        of_tasks: OfTasks | None = None,
        table_homes: tuple[int, ...] = (),
        parts: Part = EVERY_PART,
    ) -> NodePart:
        """What this process knows of its node: what is passed, and what `parts` name of the rest.

        `cpu_ns` is the busy time of each CPU in virtual ns, `booted` when the node booted, in s since 1970,
        `slab` what the node has of slab caches, by name, `tasks` the files of its tasks,
        `of_tasks` what they have on all nodes, `table_homes` the other nodes whose tasks have pages here.
        """
        seen = self._node_snapshot(self.pgdats[nid], parts)
        node = replace(seen, cpu_ns=dict(cpu_ns or {}), slab=dict(slab or {}))
        sysctls = self.sysctls.as_dict() if Part.SYSCTLS in parts else {}
        return NodePart(node, sysctls, booted, tasks or {}, of_tasks or OfTasks(), table_homes)

    def _node_snapshot(self, pgdat: Pgdat, parts: Part = EVERY_PART) -> NodeSnapshot:
        shown = node_snapshot(self.spec, pgdat, pgdat.nid in self.populated, parts)
        if pgdat.nid != self.vmalloc_nid or Part.VMALLOC not in parts:
            return shown
        return replace(shown, vmalloc=self.vmalloc.snapshot())


# zonelists


def rebuild_zonelists(
    machine: BootedMachine,
    populated: Mapping[int, Sequence[int]] | None = None,
    has_cpus: Mapping[int, bool] | None = None,
) -> None:
    """Rebuild all zonelists after boot: nodes or zones came or went, or 3.0's zonelist order was written.

    `populated` are the nodes now on-line with the indexes of their populated zones, by default as before.
    `has_cpus` says which nodes have on-line CPUs, by default those that have CPUs. CPUs weigh on the order
    (find_next_best_node), and at boot no node has any yet: a rebuild may therefore change the order even if
    nothing else has changed. KeyError, and nothing changes, for a node that the machine does not have.
    """
    spec, profile = machine.spec, machine.profile
    if populated is None:
        populated = machine.populated
    if has_cpus is None:
        has_cpus = {node.nid: bool(node.cpus) for node in spec.nodes}
    topology = topology_of(spec, populated, has_cpus)
    lists = build_all_zonelists(topology, profile, machine.sysctls.numa_zonelist_order)
    machine.populated = {nid: topology.populated[nid] for nid in topology.nids}
    machine.zonelists = lists
    for pgdat in for_each_online_pgdat(machine.pgdats):
        if pgdat.nid in lists:
            pgdat.zonelists = lists[pgdat.nid]
    if turns_zone_reclaim_on(topology, profile):
        machine.sysctls.set("vm.zone_reclaim_mode", "1")
    online = machine.populated_zones()
    total = sum(max(0, machine.managed[key] - machine.watermarks[key].high) for key in online)
    disabled = total < PAGEBLOCK_NR_PAGES * MIGRATE_TYPES
    for pgdat in for_each_online_pgdat(machine.pgdats):
        pgdat.pg.tune[TUNE_MOBILITY_DISABLED] = disabled
    now = machine.dmesg[-1][0] if machine.dmesg else 0.0
    for line in (
        *fallback_order_lines(spec, profile, lists),
        *built_lines(spec, profile, topology, lists, disabled, total),
    ):
        machine.dmesg.append((now, line))


# watermarks, reserves, pagesets


def setup_per_cpu_pageset(machine: BootedMachine) -> None:
    """Set the batch of every zone's pagesets; `high` is set again with the watermarks it depends on."""
    zone_pcp_update(machine, machine.managed, machine.sysctls)


def init_per_zone_wmark_min(machine: BootedMachine) -> None:
    """Compute what the initcalls do: min_free_kbytes, watermarks, lowmem reserves and pagesets.

    They count the pages that zones manage at that time. A captured kernel freed its init memory later
    (`ZoneSpec.freed_late`); those pages count only in what a sysctl write makes it recompute. A sysctl whose
    value in the spec differs from what boot computes was written after boot, so its handler runs with all
    pages. khugepaged raises min_free_kbytes if it runs.
    """
    spec, asked = machine.spec, machine.sysctls
    machine.user_min_free_kbytes = asked.min_free_kbytes
    then = dict(machine.managed)
    for node in spec.nodes:
        for zone in node.zones:
            then[node.nid, zone.name] -= zone.freed_late
    built_in = Sysctls(spec.arch, spec.profile)
    mode = thp_mode(spec.cmdline)
    for key, value in boot_values(spec.profile, mode, small=sum(then.values()) < THP_LEAST_PAGES).items():
        built_in.set(key, value)
        if asked.get(key) is None:
            asked.set(key, value)
    thp = mode != "never"
    kbytes = boot_min_free_kbytes(then, machine.profile, thp, machine.populated_zones())
    built_in.set("vm.min_free_kbytes", str(kbytes))
    if asked.min_free_kbytes is None:
        asked.set("vm.min_free_kbytes", str(kbytes))
    _setup_per_zone_wmarks(machine, then, built_in)
    _setup_per_zone_lowmem_reserve(machine, then, built_in)
    for key, handler in _HANDLERS.items():
        if asked.get(key) != built_in.get(key):
            handler(machine, machine.managed, asked)
    _tune(machine)


def apply_sysctls(machine: BootedMachine) -> None:
    """Recompute what depends on the managed pages, after memory came or went (init_per_zone_wmark_min)."""
    _setup_per_zone_wmarks(machine, machine.managed, machine.sysctls)
    for pgdat in for_each_online_pgdat(machine.pgdats):
        pgdat.refresh_zone_stat_thresholds()
    _setup_per_zone_lowmem_reserve(machine, machine.managed, machine.sysctls)


def _setup_per_zone_wmarks(machine: BootedMachine, managed: Mapping[ZoneKey, int], sysctls: Sysctls) -> None:
    """Set the watermarks of every node in this process, and the pageset limits that depend on them."""
    machine.watermarks = setup_per_zone_wmarks(
        managed, machine.profile, sysctls.min_free_kbytes or 0, sysctls.watermark_scale_factor
    )
    for pgdat in for_each_online_pgdat(machine.pgdats):
        for extent in pgdat.extents:
            pgdat.set_watermarks(extent.index, machine.watermarks[pgdat.nid, extent.name])
    zone_pcp_update(machine, managed, sysctls)


def start_stop_khugepaged(machine: BootedMachine, managed: Mapping[ZoneKey, int], sysctls: Sysctls) -> None:
    """Recompute min_free_kbytes, which khugepaged raises while it runs (set_recommended_min_free_kbytes)."""
    profile, now = machine.profile, sysctls.min_free_kbytes or 0
    kbytes = now
    if machine.khugepaged:
        populated = machine.populated_zones()
        kbytes = max(now, recommended_min_free_kbytes(managed, profile, now, populated))
    elif profile.thp_off_recalculates:
        computed = calculate_min_free_kbytes(above_high(managed, profile, now), profile)
        user = machine.user_min_free_kbytes
        kbytes = now if user is not None and computed <= user else computed
    sysctls.set("vm.min_free_kbytes", str(kbytes))
    _setup_per_zone_wmarks(machine, managed, sysctls)


def _setup_per_zone_lowmem_reserve(
    machine: BootedMachine, managed: Mapping[ZoneKey, int], sysctls: Sysctls
) -> None:
    """Set the pages that each zone withholds from requests that could use a higher zone of its node."""
    for pgdat in for_each_online_pgdat(machine.pgdats):
        pgdat.pg.lowmem_reserve[:] = setup_per_zone_lowmem_reserve(
            [managed[pgdat.nid, extent.name] for extent in pgdat.extents],
            sysctls.lowmem_reserve_ratio,
            machine.profile,
        )


def zone_pcp_update(machine: BootedMachine, managed: Mapping[ZoneKey, int], sysctls: Sysctls) -> None:
    """Set batch and high of the pagesets of every zone with managed pages."""
    profile, online_cpus = machine.profile, len(machine.spec.cpus)
    fraction = sysctls.percpu_pagelist_high_fraction
    for pgdat in for_each_online_pgdat(machine.pgdats):
        for extent in pgdat.extents:
            if not extent.managed:
                continue
            key = pgdat.nid, extent.name
            batch = zone_batchsize(managed[key], profile)
            low = machine.watermarks[key].low if key in machine.watermarks else 0
            high = partial(zone_highsize, managed[key], low, batch, len(pgdat.cpus), online_cpus, profile)
            pgdat.pg.pcp_batch[extent.index] = batch
            # 6.12 tunes high between high_min and high_max, unless somebody has set a fraction
            tuned = profile.pageset_rules == PAGESET_AUTO_TUNED and not fraction
            ceiling = high(PAGESET_HIGH_MAX_FRACTION if tuned else fraction)
            pgdat.set_pageset_high(extent.index, high(fraction), ceiling)


def _tune(machine: BootedMachine) -> None:
    """Copy to the nodes the sysctls that kernels read when they are needed."""
    for pgdat in for_each_online_pgdat(machine.pgdats):
        pgdat.pg.tune[TUNE_SWAPPINESS] = machine.sysctls.swappiness
        pgdat.pg.tune[TUNE_BOOST_FACTOR] = machine.sysctls.watermark_boost_factor


#: The function that recomputes what depends on a sysctl when that is written; nothing else is recomputed.
_HANDLERS: dict[str, Callable[[BootedMachine, Mapping[ZoneKey, int], Sysctls], None]] = {
    "vm.min_free_kbytes": _setup_per_zone_wmarks,
    "vm.watermark_scale_factor": _setup_per_zone_wmarks,
    "vm.lowmem_reserve_ratio": _setup_per_zone_lowmem_reserve,
    "vm.percpu_pagelist_high_fraction": zone_pcp_update,
    ENABLED_KEY: start_stop_khugepaged,
}
