"""Rules in which kernels differ and that machines here do not follow: values are texts that say what was."""

from __future__ import annotations

from numa_service.mm.rules.axis import CAPTURES, Axis, Change, always


def _told(name: str, *changes: Change, note: str = "") -> Axis:
    return Axis(name, name, changes, modelled=False, note=note)


UNMODELLED = (
    _told(
        "pages that marks are taken from",
        always("present pages less memory map", witness="reports of OOM kills before 3.8"),
        Change(
            (3, 9),
            "managed pages",
            "__setup_per_zone_wmarks: b40da04946aa "
            "mm: use zone->present_pages instead of zone->managed_pages where appropriate",
            "el7 report of an OOM kill, 3.10.0-514",
            ("3.0.101", "3.10.65"),
        ),
        note="Managed pages are taken, which are fewer by what boot allocated.",
    ),
    _told(
        "LRU lists",
        always("of each zone", "struct zone"),
        Change(
            (4, 8),
            "of each node",
            "struct pglist_data: 599d0c954f91 mm, vmscan: move LRU lists to node",
            CAPTURES,
            ("4.4.155", "4.9"),
        ),
    ),
    _told(
        "class of a reserve",
        always("zone that is preferred", "get_page_from_freelist"),
        Change(
            (5, 8),
            "highest zone allowed",
            "struct alloc_context: 97a225e69a1f mm/page_alloc: integrate classzone_idx and high_zoneidx",
            CAPTURES,
            ("5.7.14", "5.8.1"),
        ),
        note="They differ on nodes without the highest zone.",
    ),
    _told(
        "limit of the high-atomic reserve",
        always("none", "reserve_highatomic_pageblock"),
        Change((4, 4), "1 % and a block", "reserve_highatomic_pageblock", CAPTURES, ("4.3", "4.4.155")),
        Change((6, 8), "1 % in whole blocks", "reserve_highatomic_pageblock", CAPTURES, ("6.6.9", "6.8.1")),
        note="The second limit holds here since 6.10, with the block rules.",
    ),
)
