"""Snapshots of small machines, built by hand."""

from __future__ import annotations

from numa_service.mm.mmzone import MIGRATE_TYPES, NR_ORDERS, ZONE_NAMES
from numa_service.mm.snapshot import MachineSnapshot, NodeSnapshot, PagesetSnapshot, ZoneSnapshot


def zone(nid: int, arch: str, name: str, pages: int = 0, **counters: int) -> ZoneSnapshot:
    """A zone of `pages` pages, all of them free, with one pageset; with 0 pages it is unpopulated."""
    populated = pages > 0
    return ZoneSnapshot(
        nid=nid,
        name=name,
        index=ZONE_NAMES[arch].index(name),
        start_pfn=4096 if populated else 0,
        spanned=pages,
        present=pages,
        managed=pages,
        free=pages,
        wmark_min=pages // 100,
        wmark_low=pages // 80,
        wmark_high=pages // 60,
        wmark_promo=pages // 40,
        watermark_boost=0,
        protection=(0,) * len(ZONE_NAMES[arch]),
        nr_free=tuple(range(NR_ORDERS)) if populated else (0,) * NR_ORDERS,
        nr_free_by_type=tuple(tuple(t * 100 + o for o in range(NR_ORDERS)) for t in range(MIGRATE_TYPES)),
        pageblocks=tuple(range(10, 10 + MIGRATE_TYPES)),
        vm_stat=counters,
        numa_stat={"numa_hit": 5} if populated else {},
        pagesets=(PagesetSnapshot(cpu=0, count=7, high=186, batch=31, stat_threshold=12),) * populated,
    )


def node(
    nid: int,
    arch: str,
    sizes: dict[str, int],
    *,
    cpus: tuple[int, ...] = (),
    node_stat: dict[str, int] | None = None,
    vm_event: dict[str, int] | None = None,
) -> NodeSnapshot:
    """A node with zones of these sizes, in pages; the rest of its zones are empty."""
    return NodeSnapshot(
        nid=nid,
        cpus=cpus,
        zones=tuple(zone(nid, arch, name, sizes.get(name, 0)) for name in ZONE_NAMES[arch]),
        node_stat=node_stat or {},
        vm_event=vm_event or {},
        numastat={},
    )


def machine(
    *nodes: NodeSnapshot,
    arch: str = "x86_64",
    profile: str = "linux-6.1",
    distances: tuple[tuple[int, ...], ...] | None = None,
    sysctls: dict[str, str] | None = None,
) -> MachineSnapshot:
    """A machine of these nodes; distances are 10 and 20 unless given."""
    return MachineSnapshot(
        name="test",
        arch=arch,
        profile=profile,
        nodes=nodes,
        distances=distances or tuple(tuple(10 if a is b else 20 for b in nodes) for a in nodes),
        sysctls=sysctls or {},
        fallback_order={n.nid: (n.nid,) for n in nodes},
        zonelists={
            (kind, n.nid, z.name): ((n.nid, z.name),)
            for kind in ("general", "thisnode")
            for n in nodes
            for z in n.zones
        },
    )
