"""How often memory hotplug takes the locks of spans and sizes."""

from __future__ import annotations

from numa_service.mm.rules.axis import Axis, Change, always

#: Where the release's sources were not read.
_COMMIT = "the commit's message, or its series on the mailing list"

#: Keys of the rule's values: times that node_size_lock (pgdat_resize_lock) and span_seqlock
#: (zone_span_writelock) are taken when a memory block comes on-line, and when it goes off-line.
ONLINE_SIZE, ONLINE_SPAN = "online node_size_lock", "online span_seqlock"
OFFLINE_SIZE, OFFLINE_SPAN = "offline node_size_lock", "offline span_seqlock"


def _taken(online: tuple[int, int], offline: tuple[int, int]) -> dict[str, int]:
    """A value of the rule: times of node_size_lock and of span_seqlock."""
    return {
        ONLINE_SIZE: online[0],
        ONLINE_SPAN: online[1],
        OFFLINE_SIZE: offline[0],
        OFFLINE_SPAN: offline[1],
    }


HOTPLUG_LOCKS = (
    Axis(
        "hotplug_locks",
        "times that a memory block that changes its state takes the locks",
        (
            always(_taken((0, 0), (0, 0)), "online_pages, offline_pages"),
            Change(
                (3, 11),
                _taken((1, 0), (1, 0)),
                "memory_hotplug: use pgdat_resize_lock() in online_pages(), and in __offline_pages()",
                _COMMIT,
            ),
            Change(
                (4, 13),
                _taken((2, 1), (1, 0)),
                "move_pfn_range_to_zone: "
                "f1dd2cd13c4b mm, memory_hotplug: do not associate hotadded memory to zones until online",
                _COMMIT,
            ),
            Change(
                (5, 5),
                _taken((2, 1), (2, 1)),
                "remove_pfn_range_from_zone: "
                "feee6b298916 mm/memory_hotplug: shrink zones when offlining memory",
                _COMMIT,
            ),
            Change(
                (5, 15),
                _taken((0, 0), (0, 0)),
                "27cacaad16c5 mm,memory_hotplug: drop unneeded locking",
                _COMMIT,
            ),
        ),
        note="Before 4.13 spans grow, under both locks, when memory is added, which here boot does.",
    ),
)
