"""Which sysctls a kernel has, and the defaults and limits that differ from those in ``machine/sysctl.py``."""

from __future__ import annotations

from numa_service.mm.rules.axis import CAPTURES, Axis, Change, Series, always


def _new(name: str, since: Series, read: tuple[str, str] | None, subject: str = "") -> Axis:
    change = Change(since, True, subject or "kernel/sysctl.c", CAPTURES, read)
    return Axis(name, "the kernel has the sysctl", (always(False), change))


#: Sysctls that came after the oldest kernels: the value is whether there is one.
PRESENT = (
    _new("kernel.numa_balancing", (3, 13), ("3.10.65", "3.16")),
    _new(
        "kernel.numa_balancing_promote_rate_limit_MBps",
        (6, 1),
        None,
        "c6833e10008f memory tiering: rate limit NUMA migration throughput",
    ),
    _new("vm.compact_unevictable_allowed", (4, 2), ("3.18.140", "4.3")),
    _new(
        "vm.watermark_scale_factor",
        (4, 6),
        ("4.4.155", "4.9"),
        "795ae7a0de6b mm: scale kswapd watermarks in proportion to memory",
    ),
    _new("vm.numa_stat", (4, 15), ("4.12", "4.15.18")),
    _new(
        "vm.watermark_boost_factor",
        (5, 0),
        ("4.20", "5.0"),
        "1c30844d2dfe mm: reclaim small amounts of memory when an external fragmentation event occurs",
    ),
    _new("vm.compaction_proactiveness", (5, 9), ("5.8.1", "5.9.1")),
    _new(
        "vm.percpu_pagelist_high_fraction",
        (5, 14),
        ("5.11.14", "5.14.2"),
        "74f44822097c mm/page_alloc: introduce vm.percpu_pagelist_high_fraction",
    ),
)

#: Defaults: the value is the text of the file, or None for that of machine/sysctl.py.
DEFAULTS = (
    Axis(
        "vm.numa_zonelist_order",
        "default of the sysctl",
        (
            always("default", "numa_zonelist_order[]"),
            Change(
                (4, 14),
                None,
                "c9bff3eebc09 mm, page_alloc: rip out ZONELIST_ORDER_ZONE",
                CAPTURES,
                ("4.12", "4.15.18"),
            ),
        ),
    ),
    Axis(
        "vm.oom_dump_tasks",
        "default of the sysctl",
        (
            always("0", "sysctl_oom_dump_tasks"),
            Change(
                (2, 6, 36),
                None,
                "sysctl_oom_dump_tasks: oom: enable oom tasklist dump by default",
                CAPTURES,
            ),
        ),
    ),
)

#: Largest values: None for that of machine/sysctl.py.
MAXIMA = (
    Axis(
        "vm.swappiness",
        "largest value of the sysctl",
        (
            always(100, "vm_table[]"),
            Change(
                (5, 8),
                None,
                "mm: allow swappiness that prefers reclaiming anon over the file workingset",
                CAPTURES,
                ("5.7.14", "5.8.1"),
            ),
        ),
    ),
)
