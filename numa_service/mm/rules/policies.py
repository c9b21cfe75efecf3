"""Rules of memory policies (``mm/mempolicy.c``) and of the calls that move pages (``mm/migrate.c``)."""

from __future__ import annotations

import errno

from numa_service.mm.rules.axis import Axis, Change, always

#: The boots that answered the calls of tests/testdata/mempolicy.
RECORDED = "recorded calls"

_FIRST_MODES = ("DEFAULT", "PREFERRED", "BIND", "INTERLEAVE")

POLICIES = (
    Axis(
        "mempolicies",
        "modes of memory policies (MPOL_*)",
        (
            always(_FIRST_MODES, "include/linux/mempolicy.h"),
            Change(
                (3, 8),
                (*_FIRST_MODES, "LOCAL"),
                "479e2802d09f mm: mempolicy: Make MPOL_LOCAL a real policy",
                RECORDED,
            ),
            Change(
                (5, 15),
                (*_FIRST_MODES, "LOCAL", "PREFERRED_MANY"),
                "b27abaccf8e8 mm/mempolicy: add MPOL_PREFERRED_MANY for multiple preferred nodes",
                RECORDED,
                ("5.10.13", "5.15.100"),
            ),
            Change(
                (6, 9),
                (*_FIRST_MODES, "LOCAL", "PREFERRED_MANY", "WEIGHTED_INTERLEAVE"),
                "weighted_interleave_nodes: fa3bea4e1f82 "
                "mm/mempolicy: introduce MPOL_WEIGHTED_INTERLEAVE for weighted interleaving",
                RECORDED,
                ("6.8.1", "6.12.0"),
            ),
        ),
    ),
    Axis(
        "balanced_mempolicies",
        "modes that take MPOL_F_NUMA_BALANCING",
        (
            always((), "sanitize_mpol_flags"),
            Change(
                (5, 12),
                ("BIND",),
                "sanitize_mpol_flags: "
                "bda420b98505 numa balancing: migrate on fault among multiple bound nodes",
                RECORDED,
                ("5.10.13", "5.15.100"),
            ),
            Change(
                (6, 10),
                ("BIND", "PREFERRED_MANY"),
                "sanitize_mpol_flags: 133d04b1ee62 "
                "mm/numa_balancing: allow migrate on protnone reference with MPOL_PREFERRED_MANY policy",
                RECORDED,
                ("6.1.192", "6.12.117"),
            ),
        ),
    ),
    Axis(
        "mempolicy_home_node",
        "set_mempolicy_home_node(): BIND and PREFERRED_MANY may begin near a node that is named",
        (
            always(False),
            Change(
                (5, 17),
                True,
                "c6018b4b2549 mm/mempolicy: add set_mempolicy_home_node syscall",
                RECORDED,
            ),
        ),
    ),
    Axis(
        "interleave_offset_bits",
        "bits of a page's place by which it is interleaved",
        (
            always(32, "offset_il_node", RECORDED),
            Change(
                (6, 7),
                64,
                "interleave_nid: ddc1a5cbc05d mempolicy: alloc_pages_mpol() for NUMA policy without vma",
                RECORDED,
                ("6.1.192", "6.12.117"),
            ),
        ),
        note="With three nodes the rounds begin elsewhere: an address has more than 32 bits of pages.",
    ),
    Axis(
        "move_pages_absent",
        "errno of move_pages() for an anonymous page that is not there",
        (
            always(errno.EFAULT, "do_pages_stat_array: follow_page(FOLL_DUMP)", RECORDED),
            Change(
                (6, 12),
                errno.ENOENT,
                "do_pages_stat_array, add_folio_for_migration: folio_walk_start",
                RECORDED,
                ("6.1.192", "6.12.117"),
            ),
        ),
    ),
)
