"""Views of a node's structures as plain data: :mod:`numa_service.mm.structs` filled in from the arrays.

Making a view changes nothing. A view of a zone walks the zone's free lists; a view of a page reads a few
array elements.
"""

from __future__ import annotations

from functools import partial

from numa_service.mm.highmem.rules import PKMAP_BASE
from numa_service.mm.memory_hotplug import is_offline
from numa_service.mm.mmzone import (
    NR_LRU_LISTS,
    NR_ORDERS,
    PAGE_SHIFT,
    PAGEBLOCK_ORDER,
    ZONE_NAMES,
)
from numa_service.mm.page_alloc import NO_PAGEBLOCK
from numa_service.mm.pgdat import MAX_RECLAIM_RETRIES, ZoneExtent
from numa_service.mm.pgdata import (
    ANON_COST,
    DRIFT_MARK,
    FILE_COST,
    HEAD_FREE,
    HEAD_LRU,
    HEAD_OWNER,
    HEAD_PCP,
    KSWAPD_FAILURES,
    KSWAPD_HIGHEST_ZONEIDX,
    KSWAPD_ORDER,
    PG_ACTIVE,
    PG_BUDDY,
    PG_DIRTY,
    PG_HELD,
    PG_HOLE,
    PG_LRU,
    PG_PCP,
    PG_REFERENCED,
    PG_RESERVED,
    PG_SLAB,
    PG_SWAPBACKED,
    PG_YOUNG,
    ZONE_BELOW_HIGH,
    ZONE_BOOSTED_WATERMARK,
    ZONE_FAIR_DEPLETED,
    ZONE_RECLAIM_ACTIVE,
)
from numa_service.mm.sparse import FLATMEM
from numa_service.mm.structs import (
    PAGE_OFFSET,
    SHOWN_PKMAPS,
    HighMemory,
    MemSection,
    Page,
    PgListData,
    Zone,
    inactive_ratio,
    wait_table_bits,
    wait_table_hash_nr_entries,
)
from numa_service.mm.vmstat import NR_ZONE_LRU_BASE
from numa_service.mm.zonelist import Zonelists, Zoneref
from numa_service.node.errors import NotFound
from numa_service.node.explanation_recorder import migratetype_name
from numa_service.node.kmem_calls import SlabView
from numa_service.node.node import Node

_LRU_NAMES = ("inactive_anon", "active_anon", "inactive_file", "active_file", "unevictable")

#: The arrays of PgData that together are ``struct page``.
_MEM_MAP = ("flags", "order", "pcptype", "refcount", "mapcount", "next", "prev", "owner", "pgoff")

_PAGE_FLAGS = (
    (PG_RESERVED, "reserved"),
    (PG_BUDDY, "buddy"),
    (PG_LRU, "lru"),
    (PG_ACTIVE, "active"),
    (PG_REFERENCED, "referenced"),
    (PG_DIRTY, "dirty"),
    (PG_SWAPBACKED, "swapbacked"),
    # a kernel keeps the following in page tables and in per-CPU data, not in page flags
    (PG_YOUNG, "young"),
    (PG_PCP, "pcp"),
    (PG_HELD, "held"),
    (PG_SLAB, "slab"),
)


def zone_extent(node: Node, name: str) -> ZoneExtent:
    """Return a zone of the node by its name, in any case; NotFound."""
    for extent in node.pgdat.extents:
        if extent.name.lower() == name.lower():
            return extent
    known = ", ".join(extent.name for extent in node.pgdat.extents)
    raise NotFound("zone", name, f"node {node.nid} has {known}")


def pgdat_view(node: Node) -> PgListData:
    """Return the view of the node's ``pg_data_t``."""
    pgdat, pg = node.pgdat, node.pgdat.pg
    populated = [extent for extent in pgdat.extents if extent.present]
    start = min((e.start_pfn for e in populated), default=0)
    end = max((e.start_pfn + e.spanned for e in populated), default=0)
    present = sum(e.present for e in populated)
    managed = sum(e.managed for e in populated)
    model = node.machine.memory_model
    # a node that went off-line has no zonelists
    lists = node.machine.zonelists.get(node.nid) or Zonelists(node.nid, (), (), ())
    return PgListData(
        node_zones={e.name: e.managed for e in pgdat.extents},
        node_zonelists={
            "fallback": _refs(node, lists.fallback),
            "thisnode": _refs(node, lists.thisnode),
        },
        nr_zones=max((e.index + 1 for e in populated), default=0),
        node_mem_map={
            "base_pfn": pgdat.base_pfn,
            "entries": len(pg.flags),
            "bytes_per_entry": sum(getattr(pg, name).itemsize for name in _MEM_MAP),
            "model": model.name,
            "address": model.pfn_to_page(pgdat.ram[0][0]) if pgdat.ram else 0,
            "sizeof_struct_page": model.struct_page_bytes,
        },
        bdata={"reserved": present - managed, "freed": managed},
        node_start_pfn=start,
        node_present_pages=present,
        node_spanned_pages=end - start,
        node_id=node.nid,
        kswapd_wait="awake" if node.kswapd_wanted else "asleep",
        kswapd={
            "runs": node.kswapd.wakeups,
            "reclaimed": node.kswapd.reclaimed,
            "failures": int(pg.kswapd[KSWAPD_FAILURES]),
        },
        kswapd_max_order=int(pg.kswapd[KSWAPD_ORDER]),
        classzone_idx=int(pg.kswapd[KSWAPD_HIGHEST_ZONEIDX]),
        node_size_lock={"taken": pgdat.size_locked},
    )


def _refs(node: Node, refs: tuple[Zoneref, ...]) -> tuple[str, ...]:
    return tuple(f"{ref.nid}:{node.pgdat.zone_names[ref.zone]}" for ref in refs)


def zone_view(node: Node, name: str) -> Zone:
    """Return the view of the ``struct zone`` of one of the node's zones; NotFound."""
    extent = zone_extent(node, name)
    pgdat, pg, zone = node.pgdat, node.pgdat.pg, extent.index
    seen = next(z for z in pgdat.snapshot().zones if z.index == zone)
    types = {mt: migratetype_name(pgdat.profile, mt) for mt in range(len(seen.nr_free_by_type))}
    sysctls = node.machine.sysctls
    entries = wait_table_hash_nr_entries(extent.spanned)
    marks = {"min": seen.wmark_min, "low": seen.wmark_low, "high": seen.wmark_high}
    if pgdat.profile.watermark_scale:
        marks |= {"promo": seen.wmark_promo}
    return Zone(
        watermark=marks | {"boost": seen.watermark_boost},
        percpu_drift_mark=int(pg.drift[zone, DRIFT_MARK]),
        lowmem_reserve=dict(zip(ZONE_NAMES[pgdat.arch], seen.protection, strict=True)),
        node=node.nid,
        min_unmapped_pages=extent.managed * int(sysctls.get("vm.min_unmapped_ratio") or 0) // 100,
        min_slab_pages=extent.managed * int(sysctls.get("vm.min_slab_ratio") or 0) // 100,
        pageset={
            pageset.cpu: {
                "count": pageset.count,
                "high": pageset.high,
                "batch": pageset.batch,
                "free_factor": int(pg.pcp_free_factor[pgdat.cpu_index[pageset.cpu], zone]),
            }
            for pageset in seen.pagesets
        },
        lock=None,
        all_unreclaimable=bool(pg.kswapd[KSWAPD_FAILURES] >= MAX_RECLAIM_RETRIES),
        span_seqlock={"sequence": pgdat.span_sequence[zone]},
        free_area={types[mt]: counts for mt, counts in enumerate(seen.nr_free_by_type)},
        pageblock_flags={types[mt]: count for mt, count in enumerate(seen.pageblocks)},
        compact_considered=0,
        compact_defer_shift=0,
        lru_lock=None,
        lru={
            name: int(pg.vm_stat[zone, NR_ZONE_LRU_BASE + lru])
            for lru, name in zip(range(NR_LRU_LISTS), _LRU_NAMES, strict=True)
        },
        reclaim_stat={
            "anon_cost": int(pg.reclaim_stat[ANON_COST]),
            "file_cost": int(pg.reclaim_stat[FILE_COST]),
        },
        pages_scanned=None,
        flags=tuple(
            name
            for bit, name in (
                (ZONE_BOOSTED_WATERMARK, "boosted_watermark"),
                (ZONE_RECLAIM_ACTIVE, "reclaim_active"),
                (ZONE_BELOW_HIGH, "below_high"),
                (ZONE_FAIR_DEPLETED, "fair_depleted"),
            )
            if pg.zone_flags[zone] & bit
        ),
        vm_stat=seen.vm_stat | seen.numa_stat,
        inactive_ratio=inactive_ratio(extent.managed),
        wait_table=node.page_wait.shown(zone),
        wait_table_hash_nr_entries=entries,
        wait_table_bits=wait_table_bits(entries),
        zone_pgdat=node.nid,
        zone_start_pfn=extent.start_pfn,
        spanned_pages=extent.spanned,
        present_pages=extent.present,
        name=extent.name,
    )


def page_view(node: Node, pfn: int) -> Page:
    """Return the view of a ``struct page``; NotFound for a pfn outside the node's zones or in a hole."""
    pgdat, pg = node.pgdat, node.pgdat.pg
    extent = next((e for e in pgdat.extents if e.start_pfn <= pfn < e.start_pfn + e.spanned), None)
    idx = pfn - pgdat.base_pfn
    if extent is None or pg.pb_migratetype[idx >> PAGEBLOCK_ORDER] == NO_PAGEBLOCK or pg.flags[idx] & PG_HOLE:
        raise NotFound("page", f"{pfn:#x}", f"no page of node {node.nid}")
    flags = int(pg.flags[idx])
    names = [name for bit, name in _PAGE_FLAGS if flags & bit]
    names += node.page_bits.names(pfn)
    if pfn in node.pgdat.memory_failure.pages:
        names.append("hwpoison")
    if node.page_wait.has_waiters(pfn):
        names.append("waiters")
    # free blocks of a pageblock or more are recorded in per-pageblock arrays, not in page flags
    block = idx >> PAGEBLOCK_ORDER
    large = int(pg.pb_order[block]) - 1 if idx & ((1 << PAGEBLOCK_ORDER) - 1) == 0 else -1
    if large >= 0:
        names.append("buddy")
    head = None if flags or large >= 0 else _head_of(node, idx)
    free_head = bool(flags & (PG_BUDDY | PG_PCP)) or large >= 0
    index: int | None = None
    if flags & PG_LRU:
        index = int(pg.pgoff[idx])
    elif flags & PG_PCP:
        index = int(pg.pcptype[idx])
    slab = node.kmem.view(pfn)
    linked = flags & (PG_BUDDY | PG_PCP | PG_LRU | PG_HELD)
    return Page(
        flags=(*names, f"node={node.nid}", f"zone={extent.name}"),
        _count=int(pg.refcount[idx]),
        _mapcount=int(pg.mapcount[idx]) - 1,
        inuse=None if slab is None else slab.inuse,
        objects=None if slab is None else slab.objects,
        private=(large if large >= 0 else int(pg.order[idx])) if free_head else None,
        mapping=_owner(node, int(pg.owner[idx])) if flags & PG_HELD and slab is None else None,
        slab=None if slab is None else slab.cache,
        first_page=head,
        index=index,
        freelist=None if slab is None else slab.freelist,
        lru=_slab_list(slab, pfn) if slab is not None else _links(node, idx) if linked else None,
        virtual=page_address(node, pfn),
        debug_flags=None,
        shadow=None,
    )


def page_address(node: Node, pfn: int) -> int | None:
    """Return the address of a page in the kernel's memory; None for a high page that kmap has not mapped."""
    if not node.is_highmem(pfn):
        return PAGE_OFFSET[node.pgdat.arch] + (pfn << PAGE_SHIFT)
    pool = node.highmem.pool if node.highmem else None
    return pool.pkmap.page_address(pfn) if pool else None


def section_view(node: Node, section_nr: int) -> MemSection:
    """Return the view of a section of SPARSEMEM whose memory map is the node's; NotFound."""
    model, version = node.machine.memory_model, node.machine.profile.series
    if model.name == FLATMEM:
        raise NotFound("section", str(section_nr), "FLATMEM has one map and no sections")
    if model.sections.get(section_nr) != node.nid:
        raise NotFound("section", str(section_nr), f"no section of node {node.nid}")
    section = model.section(section_nr)
    flags = ["present", "has_mem_map"]
    if version >= (4, 8):
        first = section.start_pfn - node.pgdat.base_pfn
        online = not is_offline(node.pgdat.pg, max(0, first), first + model.pages_per_section)
        flags += ["online", "early"] if online else ["early"]
    return MemSection(
        section_nr=section_nr,
        node=section.nid,
        start_pfn=section.start_pfn,
        pages=model.pages_per_section,
        section_mem_map=section.section_mem_map,
        flags=tuple(flags),
        mem_map=section.mem_map,
        mem_map_pages=-(-model.pages_per_section * model.struct_page_bytes >> PAGE_SHIFT),
    )


def highmem_view(node: Node) -> HighMemory:
    """Return the view of a machine's high memory; NotFound on a node that maps none."""
    highmem = node.highmem
    if highmem is None:
        raise NotFound("high memory", f"of node {node.nid}", "all memory has an address in the kernel")
    if highmem.pool is None:
        keeper = node.machine.vmalloc_nid
        raise NotFound("high memory", f"of node {node.nid}", f"node {keeper} has the pool of kmap")
    pkmap, counts = highmem.pool.pkmap, highmem.pool.pkmap.counts
    high = [zone for zone in node.pgdat.snapshot().zones if zone.name == "HighMem"]
    mapped = [(nr, pfn) for nr, pfn in enumerate(pkmap.pages) if pfn is not None][:SHOWN_PKMAPS]
    return HighMemory(
        totalhigh_pages=sum(zone.managed for zone in high),
        nr_free_highpages=sum(zone.free for zone in high),
        pkmap_base=PKMAP_BASE,
        last_pkmap=len(counts),
        last_pkmap_nr=pkmap.last_nr,
        pkmap_count={"0": counts.count(0), "1": counts.count(1), "more": sum(count > 1 for count in counts)},
        flushes=pkmap.flushes,
        page_address_htable={
            f"{PKMAP_BASE + (nr << PAGE_SHIFT):#x}": (
                f"pfn={pfn:#x} bucket={pkmap.page_slot(pfn)} users={counts[nr] - 1}"
            )
            for nr, pfn in mapped
        },
        kmap_slots={
            f"{'task' if highmem.rules.slots_of_tasks else 'cpu'} {key}": " ".join(
                f"{pfn:#x}" for _, pfn in stack
            )
            for key, stack in sorted(highmem.local.stacks.items())
        },
    )


def _head_of(node: Node, idx: int) -> int | None:
    """Return the head pfn of the allocated block of which the page is a tail; None if the page is free."""
    pg = node.pgdat.pg
    for order in range(1, NR_ORDERS):
        head = idx & ~((1 << order) - 1)
        if head != idx and pg.flags[head] & PG_HELD and pg.order[head] >= order:
            return node.pgdat.base_pfn + head
    return None


def _owner(node: Node, slot: int) -> str | None:
    for owner, number in node.slots.items():
        if number == slot:
            return f"{owner.nid}.{owner.lineage}.{owner.id}"
    return None


def _links(node: Node, idx: int) -> tuple[str, str]:
    pg = node.pgdat.pg
    return _neighbour(node, int(pg.next[idx])), _neighbour(node, int(pg.prev[idx]))


def _slab_list(slab: SlabView, pfn: int) -> tuple[str, str] | None:
    """Return the links of a slab on the list that it is on; None: it is on none."""
    if slab.listed is None:
        return None
    head, listed = slab.listed
    ring = [head, *(f"{pfn:#x}" for pfn in listed)]
    at = listed.index(pfn) + 1
    return ring[(at + 1) % len(ring)], ring[at - 1]


def _neighbour(node: Node, entry: int) -> str:
    """Return a list link as text: the pfn of the linked page, or the name of the list whose head it is."""
    pgdat, heads = node.pgdat, node.pgdat.pg.heads
    if entry < heads[HEAD_FREE]:
        return f"{pgdat.base_pfn + entry:#x}"
    if entry < heads[HEAD_PCP]:
        return "free_list"
    if entry < heads[HEAD_LRU]:
        return "pageset"
    if entry < heads[HEAD_OWNER]:
        zone, lru = divmod(entry - int(heads[HEAD_LRU]), NR_LRU_LISTS)
        return f"lru {pgdat.zone_names[zone]} {_LRU_NAMES[lru]}"
    return "owner"


def cpu_time(node: Node) -> dict[int, int]:
    """Return the virtual ns that each CPU of the node has worked.

    Requests count on the CPU that they name. kswapd counts on the node's first CPU; for a node without CPUs,
    on the first CPU of the nearest node that has some.
    """
    busy = node.load.cpu_ns
    kswapd_ns = node.kswapd.cost.latency_ns
    if kswapd_ns:
        spec = node.machine.spec
        of = min((of for of, cpus in spec.own_cpus.items() if cpus), key=partial(spec.distance, node.nid))
        cpu = spec.own_cpus[of][0]
        busy[cpu] = busy.get(cpu, 0) + kswapd_ns
    return busy
