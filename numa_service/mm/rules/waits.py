"""Rules of waiting for pages."""

from __future__ import annotations

from numa_service.mm.rules.axis import Axis, Change, always

#: Where the release's sources were not read.
_COMMIT = "the commit's message, which shows the rule before"

WAITS = (
    Axis(
        "wait_table_per_zone",
        "who waits for a page is in a table of the page's zone, else in one of 256 queues for all",
        (
            always(True, "page_waitqueue"),
            Change(
                (4, 9),
                False,
                "bit_waitqueue: 9dcb8b685fc3 mm: remove per-zone hashtable of bitlock waitqueues",
                _COMMIT,
            ),
        ),
    ),
    Axis(
        "golden_ratio_hash",
        "addresses are hashed with the golden ratio, else with a prime near it",
        (
            always(False, "hash_long"),
            Change(
                (4, 7),
                True,
                "hash_64: ef703f49a6c5 Eliminate bad hash multipliers from hash_32() and hash_64()",
                _COMMIT,
            ),
        ),
    ),
)
