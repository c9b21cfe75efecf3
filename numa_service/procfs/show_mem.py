"""Mem-Info, as kernels print it when memory is out (``__show_mem``, ``show_free_areas``; mm/show_mem.c).

What is not modelled is 0 (isolated, dirty by zone, bounce). Lines have no prefix of a log.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from numa_service.mm.mmzone import MIGRATE_HIGHATOMIC, PAGEBLOCK_NR_PAGES
from numa_service.mm.profile import profile_named
from numa_service.mm.snapshot import MachineSnapshot, NodeSnapshot, ZoneSnapshot
from numa_service.procfs.counters import (
    global_node_page_state,
    global_zone_page_state,
    high_wmark_pages,
    is_highmem,
    low_wmark_pages,
    min_wmark_pages,
    node_page_state,
    per_zone_lru_state,
    zone_page_state,
    zones,
)
from numa_service.procfs.meminfo import kb
from numa_service.procfs.names import KernelNames, printed_by

#: Letters of migratetypes behind numbers of free blocks, by migratetype.
_TYPES = "UMEHCI"


def show_mem(snapshot: MachineSnapshot, cpu: int, nodes: Sequence[int]) -> list[str]:
    """The lines; of nodes and zones, those of `nodes`. `cpu` is the one whose pagesets are told apart."""
    names = printed_by(snapshot.profile)
    shown = [node for node in snapshot.nodes if node.nid in nodes]
    of_nodes = [zone for node in shown for zone in node.zones if zone.populated]
    lines = ["Mem-Info:"]
    if names.counts_per_zone:
        lines += _per_cpu(of_nodes)
    lines += _counters(snapshot, names)
    if not names.counts_per_zone:
        lines += [_node(node, names) for node in shown]
    for node in shown:
        for zone in node.zones:
            if zone.populated:
                lines += _zone(snapshot, names, node, zone, cpu)
    lines += [_free_list(zone, names) for zone in of_nodes]
    if not names.counts_per_zone:
        lines += _hugepages(shown)
    return lines + list(_totals(snapshot, names))


def _per_cpu(of_nodes: Sequence[ZoneSnapshot]) -> Iterator[str]:
    """The pagesets, which early kernels print one by one."""
    for zone in of_nodes:
        yield f"Node {zone.nid} {zone.name} per-cpu:"
        for pageset in zone.pagesets:
            yield (
                f"CPU {pageset.cpu:>4}: hi:{pageset.high:>5}, btch:{pageset.batch:>4} usd:{pageset.count:>4}"
            )


def _counters(snapshot: MachineSnapshot, names: KernelNames) -> list[str]:
    """Sums over the machine, in pages."""

    def node(name: str) -> int:
        return global_node_page_state(snapshot, name)

    free = global_zone_page_state(snapshot, "nr_free_pages")
    bounce = global_zone_page_state(snapshot, "nr_bounce")
    tables = node("nr_page_table_pages")
    slab = (
        f"slab_reclaimable:{node('nr_slab_reclaimable')} slab_unreclaimable:{node('nr_slab_unreclaimable')}"
    )
    mapped = f" mapped:{node('nr_mapped')} shmem:{node('nr_shmem')} pagetables:{tables}"
    unevictable = f" unevictable:{node('nr_unevictable')} dirty:{node('nr_dirty')}"
    lines = [
        f"active_anon:{node('nr_active_anon')} inactive_anon:{node('nr_inactive_anon')} isolated_anon:0",
        f" active_file:{node('nr_active_file')} inactive_file:{node('nr_inactive_file')} isolated_file:0",
    ]
    if names.counts_per_zone:
        return [
            *lines,
            f"{unevictable} writeback:{node('nr_writeback')} unstable:0",
            f" free:{free} {slab}",
            f"{mapped} bounce:{bounce}",
        ]
    in_pagesets = sum(pageset.count for zone in zones(snapshot) for pageset in zone.pagesets)
    return [
        *lines,
        f"{unevictable} writeback:{node('nr_writeback')}",
        f" {slab}",
        mapped,
        f" sec_pagetables:{node('nr_sec_page_table_pages')} bounce:{bounce}",
        f" kernel_misc_reclaimable:{node('nr_kernel_misc_reclaimable')}",
        f" free:{free} free_pcp:{in_pagesets} free_cma:{global_zone_page_state(snapshot, 'nr_free_cma')}",
    ]


def _node(node: NodeSnapshot, names: KernelNames) -> str:
    """The line of a node, in kB."""

    def of(name: str, pages: int = 1) -> int:
        return kb(node_page_state(node, name) * pages)

    thp, huge = names.thp_field_space, 512
    return (
        f"Node {node.nid} active_anon:{of('nr_active_anon')}kB inactive_anon:{of('nr_inactive_anon')}kB "
        f"active_file:{of('nr_active_file')}kB inactive_file:{of('nr_inactive_file')}kB "
        f"unevictable:{of('nr_unevictable')}kB isolated(anon):{of('nr_isolated_anon')}kB "
        f"isolated(file):{of('nr_isolated_file')}kB mapped:{of('nr_mapped')}kB dirty:{of('nr_dirty')}kB "
        f"writeback:{of('nr_writeback')}kB shmem:{of('nr_shmem')}kB "
        f"shmem_thp:{thp}{of('nr_shmem_hugepages', huge)}kB "
        f"shmem_pmdmapped:{thp}{of('nr_shmem_pmdmapped', huge)}kB "
        f"anon_thp:{thp}{of('nr_anon_transparent_hugepages', huge)}kB "
        f"writeback_tmp:{of('nr_writeback_temp')}kB "
        f"kernel_stack:{node_page_state(node, 'nr_kernel_stack')}kB "
        f"pagetables:{of('nr_page_table_pages')}kB sec_pagetables:{of('nr_sec_page_table_pages')}kB "
        f"all_unreclaimable? {_yes(node.unreclaimable)}"
    )


def _zone(
    snapshot: MachineSnapshot, names: KernelNames, node: NodeSnapshot, zone: ZoneSnapshot, cpu: int
) -> list[str]:
    """The line of a zone, in kB, and its reserves, in pages."""
    kernel = profile_named(snapshot.profile)
    marks = (
        f"min:{kb(min_wmark_pages(zone))}kB low:{kb(low_wmark_pages(zone))}kB "
        f"high:{kb(high_wmark_pages(zone))}kB"
    )
    reserve = f"lowmem_reserve[]: {' '.join(map(str, zone.protection))}"
    head = f"Node {zone.nid} {zone.name} free:{kb(zone.free)}kB"
    if names.counts_per_zone:
        return [f"{head} {marks} {_zone_counters(node, zone, kernel.prints_managed)}", reserve]

    def of(name: str) -> int:
        return kb(zone_page_state(zone, name))

    boost = f" boost:{kb(zone.watermark_boost)}kB" if kernel.prints_boost else ""
    atomic = zone.pageblocks[MIGRATE_HIGHATOMIC] * PAGEBLOCK_NR_PAGES
    pcp = sum(pageset.count for pageset in zone.pagesets)
    local = sum(pageset.count for pageset in zone.pagesets if pageset.cpu == cpu)
    return [
        f"{head}{boost} {marks} reserved_highatomic:{kb(atomic)}KB "
        f"active_anon:{of('nr_zone_active_anon')}kB inactive_anon:{of('nr_zone_inactive_anon')}kB "
        f"active_file:{of('nr_zone_active_file')}kB inactive_file:{of('nr_zone_inactive_file')}kB "
        f"unevictable:{of('nr_zone_unevictable')}kB writepending:{of('nr_zone_write_pending')}kB "
        f"present:{kb(zone.present)}kB managed:{kb(zone.managed)}kB mlocked:{of('nr_mlock')}kB "
        f"bounce:{of('nr_bounce')}kB free_pcp:{kb(pcp)}kB local_pcp:{kb(local)}kB "
        f"free_cma:{of('nr_free_cma')}kB",
        reserve,
    ]


def _zone_counters(node: NodeSnapshot, zone: ZoneSnapshot, managed: bool) -> str:
    """What a zone's line has before 4.8, when LRU lists were the zone's."""

    def of(name: str) -> int:
        return kb(per_zone_lru_state(node, zone, name))

    lists = " ".join(
        f"{name}:{of(f'nr_{name}')}kB"
        for name in ("active_anon", "inactive_anon", "active_file", "inactive_file", "unevictable")
    )
    size = f"present:{kb(zone.present)}kB" + (f" managed:{kb(zone.managed)}kB" if managed else "")
    return (
        f"{lists} isolated(anon):0kB isolated(file):0kB {size} mlocked:{of('nr_mlock')}kB "
        f"dirty:{of('nr_dirty')}kB writeback:{of('nr_writeback')}kB mapped:{of('nr_mapped')}kB "
        f"shmem:{of('nr_shmem')}kB slab_reclaimable:{of('nr_slab_reclaimable')}kB "
        f"slab_unreclaimable:{of('nr_slab_unreclaimable')}kB "
        f"kernel_stack:{per_zone_lru_state(node, zone, 'nr_kernel_stack')}kB "
        f"pagetables:{of('nr_page_table_pages')}kB unstable:0kB bounce:{of('nr_bounce')}kB "
        f"writeback_tmp:0kB pages_scanned:0 all_unreclaimable? {_yes(node.unreclaimable)}"
    )


def _free_list(zone: ZoneSnapshot, names: KernelNames) -> str:
    """Free blocks by size, with the letters of the migratetypes that have some."""
    parts = []
    for order, blocks in enumerate(zone.nr_free):
        types = "".join(
            letter for letter, by_order in zip(_TYPES, zone.nr_free_by_type, strict=False) if by_order[order]
        )
        letters = f" ({types})" if types and not names.counts_per_zone else ""
        parts.append(f"{blocks}*{kb(1 << order)}kB{letters}")
    total = sum(blocks << order for order, blocks in enumerate(zone.nr_free))
    return f"Node {zone.nid} {zone.name}: {' '.join(parts)} = {kb(total)}kB"


def _hugepages(shown: Sequence[NodeSnapshot]) -> list[str]:
    """hugetlb_show_meminfo_node: the pools of the nodes."""
    return [
        f"Node {node.nid} hugepages_total={pool.nr} hugepages_free={pool.free} "
        f"hugepages_surp={pool.surplus} hugepages_size={size}kB"
        for node in shown
        for size, pool in sorted(node.hugetlb.items())
    ]


def _totals(snapshot: MachineSnapshot, names: KernelNames) -> Iterator[str]:
    """Page cache, swap and all memory of the machine."""
    swap = sum(node.swap_total for node in snapshot.nodes)
    used = sum(node.swap_used for node in snapshot.nodes)
    present = sum(zone.present for zone in zones(snapshot))
    managed = sum(zone.managed for zone in zones(snapshot))
    yield f"{global_node_page_state(snapshot, 'nr_file_pages')} total pagecache pages"
    yield f"{global_node_page_state(snapshot, 'nr_swapcached')} pages in swap cache"
    if names.counts_per_zone:
        yield "Swap cache stats: add 0, delete 0, find 0/0"
    yield f"Free swap  = {kb(swap - used)}kB"
    yield f"Total swap = {kb(swap)}kB"
    yield f"{present} pages RAM"
    if names.counts_per_zone:
        yield f"{present - managed} pages reserved"
        return
    high = sum(zone.present for zone in zones(snapshot) if is_highmem(snapshot, zone))
    yield f"{high} pages HighMem/MovableOnly"
    yield f"{present - managed} pages reserved"
    yield f"{sum(node.memory_failure.get('poisoned', 0) for node in snapshot.nodes)} pages hwpoisoned"


def _yes(value: bool) -> str:
    return "yes" if value else "no"
