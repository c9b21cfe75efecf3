"""``/proc/pagetypeinfo`` (``pagetypeinfo_show`` in mm/vmstat.c)."""

from __future__ import annotations

from collections.abc import Iterator

from numa_service.mm.mmzone import (
    MIGRATE_CMA,
    MIGRATE_MOVABLE,
    MIGRATE_RECLAIMABLE,
    NR_ORDERS,
    PAGEBLOCK_NR_PAGES,
    PAGEBLOCK_ORDER,
)
from numa_service.mm.profile import profile_named
from numa_service.mm.snapshot import MachineSnapshot, NodeSnapshot
from numa_service.procfs.counters import global_zone_page_state


def pagetypeinfo(snapshot: MachineSnapshot) -> str:
    """The file: free blocks and pageblocks by migratetype, with a header for each node with memory."""
    types = _printed_types(snapshot)
    limit = profile_named(snapshot.profile).freecount_limit
    lines = [line for node in snapshot.nodes for line in _node(node, types, limit)]
    return "".join(f"{line}\n" for line in lines)


def _printed_types(snapshot: MachineSnapshot) -> list[tuple[int, str]]:
    """(index, name) of the migratetypes built into the kernel, in the order in which it prints them."""
    names = profile_named(snapshot.profile).migratetype_names
    types = [(index, name) for index, name in enumerate(names) if name is not None]
    if global_zone_page_state(snapshot, "cma"):
        types = sorted([*types, (MIGRATE_CMA, "CMA")])  # a machine that has areas has a kernel with CMA
    if profile_named(snapshot.profile).reclaimable_before_movable:
        swapped = {MIGRATE_MOVABLE: MIGRATE_RECLAIMABLE, MIGRATE_RECLAIMABLE: MIGRATE_MOVABLE}
        types.sort(key=lambda item: swapped.get(item[0], item[0]))
    return types


def _node(node: NodeSnapshot, types: list[tuple[int, str]], limit: int | None) -> Iterator[str]:
    populated = [zone for zone in node.zones if zone.populated]
    if not populated:
        return
    yield f"Page block order: {PAGEBLOCK_ORDER}"
    yield f"Pages per block:  {PAGEBLOCK_NR_PAGES}"
    yield ""
    orders = "".join(f"{order:>6} " for order in range(NR_ORDERS))
    yield f"{'Free pages count per migrate type at order':<43} {orders}"
    for zone in populated:
        for index, name in types:
            counts = "".join(_freecount(count, limit) for count in zone.nr_free_by_type[index])
            yield f"Node {node.nid:>4}, zone {zone.name:>8}, type {name:>12} {counts}"
    yield ""
    yield f"{'Number of blocks type ':<23}{''.join(f'{name:>12} ' for _, name in types)}"
    for zone in populated:
        blocks = "".join(f"{zone.pageblocks[index]:>12} " for index, _ in types)
        yield f"Node {node.nid}, zone {zone.name:>8} {blocks}"


def _freecount(count: int, limit: int | None) -> str:
    return f">{limit:>6} " if limit is not None and count >= limit else f"{count:>6} "
