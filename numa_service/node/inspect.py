"""A node's structures as plain data: :mod:`numa_service.mm.structs` filled in from the arrays.

Looking changes nothing. A view costs what it shows: a zone's free lists are walked, a page is a few reads.
"""

from __future__ import annotations

from functools import partial

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
    PG_SWAPBACKED,
    PG_YOUNG,
    ZONE_BELOW_HIGH,
    ZONE_BOOSTED_WATERMARK,
    ZONE_RECLAIM_ACTIVE,
)
from numa_service.mm.structs import (
    PAGE_OFFSET,
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
from numa_service.node.explain import migratetype_name
from numa_service.node.node import Node

_LRU_NAMES = ("inactive_anon", "active_anon", "inactive_file", "active_file", "unevictable")

#: The arrays of PgData that are struct page.
_MEM_MAP = ("flags", "order", "pcptype", "refcount", "mapcount", "next", "prev", "owner", "pgoff")

_PAGE_FLAGS = (
    (PG_RESERVED, "reserved"),
    (PG_BUDDY, "buddy"),
    (PG_LRU, "lru"),
    (PG_ACTIVE, "active"),
    (PG_REFERENCED, "referenced"),
    (PG_DIRTY, "dirty"),
    (PG_SWAPBACKED, "swapbacked"),
    # kept in the page table and in per-CPU data by a kernel
    (PG_YOUNG, "young"),
    (PG_PCP, "pcp"),
    (PG_HELD, "held"),
)


def zone_extent(node: Node, name: str) -> ZoneExtent:
    """A zone of the node by its kernel spelling; NotFound."""
    for extent in node.pgdat.extents:
        if extent.name.lower() == name.lower():
            return extent
    known = ", ".join(extent.name for extent in node.pgdat.extents)
    raise NotFound("zone", name, f"node {node.nid} has {known}")


def pgdat_view(node: Node) -> PgListData:
    """``pg_data_t`` of the node."""
    pgdat, pg = node.pgdat, node.pgdat.pg
    populated = [extent for extent in pgdat.extents if extent.present]
    start = min((e.start_pfn for e in populated), default=0)
    end = max((e.start_pfn + e.spanned for e in populated), default=0)
    present = sum(e.present for e in populated)
    managed = sum(e.managed for e in populated)
    # a node that went off-line is on no list, and has none
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
        node_size_lock=None,
    )


def _refs(node: Node, refs: tuple[Zoneref, ...]) -> tuple[str, ...]:
    return tuple(f"{ref.nid}:{node.pgdat.zone_names[ref.zone]}" for ref in refs)


def zone_view(node: Node, name: str) -> Zone:
    """``struct zone`` of one of the node's zones; NotFound."""
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
        span_seqlock=None,
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
            )
            if pg.zone_flags[zone] & bit
        ),
        vm_stat=seen.vm_stat | seen.numa_stat,
        inactive_ratio=inactive_ratio(extent.managed),
        wait_table=None,
        wait_table_hash_nr_entries=entries,
        wait_table_bits=wait_table_bits(entries),
        zone_pgdat=node.nid,
        zone_start_pfn=extent.start_pfn,
        spanned_pages=extent.spanned,
        present_pages=extent.present,
        name=extent.name,
    )


def page_view(node: Node, pfn: int) -> Page:
    """``struct page`` of a page of the node; NotFound for a pfn in no zone, or in a hole."""
    pgdat, pg = node.pgdat, node.pgdat.pg
    extent = next((e for e in pgdat.extents if e.start_pfn <= pfn < e.start_pfn + e.spanned), None)
    idx = pfn - pgdat.base_pfn
    if extent is None or pg.pb_migratetype[idx >> PAGEBLOCK_ORDER] == NO_PAGEBLOCK or pg.flags[idx] & PG_HOLE:
        raise NotFound("page", f"{pfn:#x}", f"no page of node {node.nid}")
    flags = int(pg.flags[idx])
    names = [name for bit, name in _PAGE_FLAGS if flags & bit]
    # free blocks of a pageblock and more are kept per pageblock
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
    linked = flags & (PG_BUDDY | PG_PCP | PG_LRU | PG_HELD)
    highmem = extent.name == "HighMem"
    return Page(
        flags=(*names, f"node={node.nid}", f"zone={extent.name}"),
        _count=int(pg.refcount[idx]),
        _mapcount=int(pg.mapcount[idx]) - 1,
        inuse=None,
        objects=None,
        private=(large if large >= 0 else int(pg.order[idx])) if free_head else None,
        mapping=_owner(node, int(pg.owner[idx])) if flags & PG_HELD else None,
        slab=None,
        first_page=head,
        index=index,
        freelist=None,
        lru=(_neighbour(node, int(pg.next[idx])), _neighbour(node, int(pg.prev[idx]))) if linked else None,
        virtual=None if highmem else PAGE_OFFSET[pgdat.arch] + (pfn << PAGE_SHIFT),
        debug_flags=None,
        shadow=None,
    )


def _head_of(node: Node, idx: int) -> int | None:
    """pfn of the allocated block that a page without flags of its own lies in; None if it is free."""
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


def _neighbour(node: Node, entry: int) -> str:
    """A link as text: the pfn of a page, or the list that ends there."""
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


__all__ = ["page_view", "pgdat_view", "zone_extent", "zone_view"]


def cpu_time(node: Node) -> dict[int, int]:
    """Virtual ns of work by CPU: requests on theirs, kswapd on the node's first, or the nearest node's."""
    busy = node.load.cpu_ns
    kswapd_ns = node.kswapd.cost.latency_ns
    if kswapd_ns:
        spec = node.machine.spec
        of = min((of for of, cpus in spec.own_cpus.items() if cpus), key=partial(spec.distance, node.nid))
        cpu = spec.own_cpus[of][0]
        busy[cpu] = busy.get(cpu, 0) + kswapd_ns
    return busy
