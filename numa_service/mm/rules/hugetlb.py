"""Rules of hugetlb pools."""

from __future__ import annotations

from numa_service.mm.rules.axis import CAPTURES, Axis, Change, always

#: Where the release's sources were not read.
_COMMIT = "the commit's message, which shows the rule before"

HUGETLB = (
    Axis(
        "hugetlb_movable",
        "huge pages of a pool may come from ZONE_MOVABLE",
        (
            always(False, "htlb_alloc_mask"),
            Change(
                (3, 12),
                True,
                "htlb_alloc_mask: c8721bbbdd36 mm: memory-hotplug: enable memory hotplug to handle hugepage",
                CAPTURES,
            ),
        ),
        note="Before, hugepages_treat_as_movable allowed it, which is not there.",
    ),
    Axis(
        "gigantic_at_runtime",
        "gigantic pages can be added after boot",
        (
            always(False, "set_max_huge_pages"),
            Change(
                (3, 16),
                True,
                "alloc_fresh_gigantic_page: "
                "944d9fec8d7a hugetlb: add support for gigantic page allocation at runtime",
                _COMMIT,
            ),
        ),
    ),
    Axis(
        "hugepages_per_node",
        "hugepages= takes numbers of single nodes, as 0:2,1:4",
        (
            always(False, "hugetlb_nrpages_setup"),
            Change(
                (5, 16),
                True,
                "hugepages_setup: b5389086ad7b "
                "hugetlbfs: extend the definition of hugepages parameter to support node allocation",
                _COMMIT,
            ),
        ),
    ),
    Axis(
        "node_write_counts_persistent",
        "nr_hugepages of a node leaves out surplus pages of all nodes",
        (
            always(False, "set_max_huge_pages"),
            Change(
                (6, 7),
                True,
                "set_max_huge_pages: mm/hugetlb: fix nodes huge page allocation when there are surplus pages",
                _COMMIT,
            ),
        ),
    ),
)
