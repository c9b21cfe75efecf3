"""Kernels of distributions: the version that they are built on, and the rules taken over from later ones.

Only what was read in the source of such a kernel is here; for the rest the version decides. Debian's and
Ubuntu's kernels follow the stable releases of their version, and need no entry: reports of Ubuntu's 3.2, 5.4
and 5.13 are explained by the rules of these versions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from numa_service.mm.rules.axis import Series


@dataclass(frozen=True, slots=True)
class Distribution:
    """One distribution's kernel."""

    #: The release it is built on.
    series: Series
    #: The release whose rule it has, by the name of the Axis.
    rules: Mapping[str, Series]
    #: What was read, and what is not known.
    note: str
    #: What tells it in a version, beside its name, as a regular expression: "-150500.55" is SLES 15 SP5.
    build: str = ""


DISTRIBUTIONS: Mapping[str, Distribution] = {
    "el6": Distribution(
        (2, 6, 32),
        {"thp_min_free": (2, 6, 38)},
        "Read in 2.6.32-642.el6: khugepaged is there. Watermarks of higher orders are halved by other rules.",
    ),
    "el7": Distribution(
        (3, 10),
        {
            "min_free_kbytes_max": (5, 7),
            "zone_order": (3, 18),
            "distance_sets_zone_reclaim": (3, 16),
            "pass_rules": (3, 11),
            "zone_device": (4, 3),
            "kernel.numa_balancing": (3, 13),
            "fair_zones": (3, 12),
        },
        "Read in 3.10.0-1160.el7 (7.9); when each rule came is not known, and 7.3 had no ZONE_DEVICE yet.",
    ),
    "el8": Distribution(
        (4, 18),
        {},
        "Read in 4.18.0-147.el8 (8.1): the rules of 4.18. What later minor releases took over is not known.",
    ),
    "el9": Distribution(
        (5, 14),
        {},
        "No source of it was read: it is taken for 5.14, though it took over most of mm from later kernels.",
    ),
    "el10": Distribution(
        (6, 12),
        {},
        "No source of it was read: it is taken for 6.12.",
    ),
    "sle12sp5": Distribution(
        (4, 12),
        {},
        "No source of it was read: it is taken for 4.12.",
        r"-122\.\d",
    ),
    "sle15sp3": Distribution(
        (5, 3),
        {},
        "No source of it was read: it is taken for 5.3.",
        r"-(?:150300|59)\.\d",
    ),
    "sle15sp5": Distribution(
        (5, 14),
        {
            "node_load": (5, 16),
            "prints_fallback_order": (5, 16),
            "prints_boost": (5, 16),
            "says_initializing_memoryless": (5, 18),
        },
        "Read in mm/page_alloc.c of a 5.14.21 (SUSE/kernel, 35da10b8ec57); SP4 is taken for it too.",
        r"-150[45]00\.\d",
    ),
    "sle15sp6": Distribution(
        (6, 4),
        {},
        "No source of it was read: it is taken for 6.4; SP7 too.",
        r"-150[67]00\.\d",
    ),
}
