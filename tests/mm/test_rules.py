"""The table of rules: what each kernel's profile is made of."""

from __future__ import annotations

from dataclasses import fields
from errno import EFAULT, ENOENT

import pytest

from numa_service.mm.profile import (
    LINUX_3_0,
    LINUX_6_1,
    LINUX_6_12,
    RULES,
    Profile,
    profile_named,
    profile_of_version,
)
from numa_service.mm.rules.axis import ALWAYS, SOURCE_ONLY, Axis
from numa_service.mm.rules.distributions import DISTRIBUTIONS
from numa_service.mm.rules.hotplug_locks import OFFLINE_SIZE, OFFLINE_SPAN, ONLINE_SIZE, ONLINE_SPAN
from numa_service.mm.variants import (
    BADNESS_PER_MILLE,
    BADNESS_SIGNED,
    BLOCKS_AGREE,
    BLOCKS_CLAIM,
    BLOCKS_STEAL,
    BLOCKS_TAKE,
    DIRTY_LEFT,
    DIRTY_WRITTEN,
    LOAD_ADDED,
    LOAD_ONE,
    LOAD_SET,
    ORDER_ASKED,
    ORDER_CHOSEN,
    ORDER_NODES,
    PAGESET_AUTO_TUNED,
    PAGESET_FREE_FACTOR,
    PAGESET_HOT_COLD,
    PASS_AIMS,
    PASS_WHOLE,
    RESERVE_COUNTED,
    RESERVE_FORCED,
    WMARK_FREE_RESERVE,
    WMARK_NON_BLOCK,
    WMARK_PER_ORDER,
    WMARK_RESERVED,
)

AXES = [axis for axes in RULES.values() for axis in axes]

_POLICIES = ("DEFAULT", "PREFERRED", "BIND", "INTERLEAVE")
_MM_INIT = (
    "page_ext_init_flatmem",
    "mem_init",
    "kmem_cache_init",
    "page_ext_init_flatmem_late",
    "vmalloc_init",
    "kmem_cache_init_late",
)
KINDS_OF_LOCKS = (ONLINE_SIZE, ONLINE_SPAN, OFFLINE_SIZE, OFFLINE_SPAN)
_TYPES = ("Unmovable", "Movable", "Reclaimable")
#: The three kernels that were compared closely, field by field, in the order 3.0.101, 6.1.192, 6.12.117.
CLOSE = {
    "release": ("3.0.101", "6.1.192", "6.12.117"),
    "series": ((3, 0), (6, 1), (6, 12)),
    "distribution": ("", "", ""),
    "min_free_kbytes_max": (65536, 262144, 262144),
    "wmark_highmem_zones": (("HighMem",), ("HighMem",), ("HighMem", "Movable")),
    "watermark_scale": (False, True, True),
    "lowmem_reserve_per_zone": (False, True, True),
    "lowmem_reserve_rules": (RESERVE_FORCED, RESERVE_COUNTED, RESERVE_COUNTED),
    "pcp_batch_cap": (128, 256, 256),
    "pcp_high": ("batch", "wmark", "wmark"),
    "pcp_max_order": (0, 3, 3),
    "node_load": (LOAD_SET, LOAD_ONE, LOAD_ONE),
    "memoryless_local_first": (True, True, False),
    "zone_order": (ORDER_CHOSEN, ORDER_NODES, ORDER_NODES),
    "distance_sets_zone_reclaim": (True, False, False),
    "thp_min_free": (True, True, True),
    "thp_off_recalculates": (False, True, True),
    "migratetype_names": (
        (*_TYPES, "Reserve", None, "Isolate"),
        (*_TYPES, "HighAtomic", None, "Isolate"),
        (*_TYPES, "HighAtomic", None, "Isolate"),
    ),
    "block_rules": (BLOCKS_TAKE, BLOCKS_STEAL, BLOCKS_CLAIM),
    "watermark_rules": (WMARK_PER_ORDER, WMARK_RESERVED, WMARK_FREE_RESERVE),
    "pageset_rules": (PAGESET_HOT_COLD, PAGESET_FREE_FACTOR, PAGESET_AUTO_TUNED),
    "avoids_fragmentation": (False, True, True),
    "fair_zones": (False, False, False),
    "dirty_rules": (DIRTY_WRITTEN, DIRTY_LEFT, DIRTY_LEFT),
    "pass_rules": (PASS_WHOLE, PASS_AIMS, PASS_AIMS),
    "zonelist_cache": (True, False, False),
    "dirtyable_less_reserves": (False, True, True),
    "mempolicies": (
        _POLICIES,
        (*_POLICIES, "LOCAL", "PREFERRED_MANY"),
        (*_POLICIES, "LOCAL", "PREFERRED_MANY", "WEIGHTED_INTERLEAVE"),
    ),
    "balanced_mempolicies": ((), ("BIND",), ("BIND", "PREFERRED_MANY")),
    "mempolicy_home_node": (False, True, True),
    "interleave_offset_bits": (32, 32, 64),
    "move_pages_absent": (EFAULT, EFAULT, ENOENT),
    "hugetlb_movable": (False, True, True),
    "gigantic_at_runtime": (False, True, True),
    "hugepages_per_node": (False, True, True),
    "node_write_counts_persistent": (False, False, True),
    "oom_badness_rules": (BADNESS_PER_MILLE, BADNESS_SIGNED, BADNESS_SIGNED),
    "oom_counts_tables": (1, 3, 3),
    "oom_kills_child": (True, False, False),
    "oom_last_of_equals": (False, True, True),
    "oom_counts_present": (False, True, True),
    "oom_policy_modes": (("BIND", "INTERLEAVE"), ("BIND",), ("BIND",)),
    "oom_prints_adj": (True, False, False),
    "oom_prints_gfp_names": (False, True, True),
    "oom_prints_nodemask": (False, False, False),
    "oom_prints_summary": (False, True, True),
    "oom_task_columns": (
        ("cpu", "oom_adj", "oom_score_adj"),
        ("pgtables_bytes", "swapents", "oom_score_adj"),
        ("rss_anon", "rss_file", "rss_shmem", "pgtables_bytes", "swapents", "oom_score_adj"),
    ),
    "oom_tasks_headed": (False, True, True),
    "oom_killed_fields": (0, 2, 2),
    "wait_table_per_zone": (True, False, False),
    "golden_ratio_hash": (False, True, True),
    "hotplug_locks": (
        dict.fromkeys(KINDS_OF_LOCKS, 0),
        dict.fromkeys(KINDS_OF_LOCKS, 0),
        dict.fromkeys(KINDS_OF_LOCKS, 0),
    ),
    "bootmem": (True, False, False),
    "reserve_low_kb": (64, 1024, 1024),
    "struct_page_bytes": (
        {"x86_64": 56, "i386": 32},
        {"x86_64": 64, "i386": 40},
        {"x86_64": 64, "i386": 40},
    ),
    "zone_device": (False, True, True),
    "reads_hmat": (False, True, True),
    "early_node_map": (True, False, False),
    "says_initializing_memoryless": (False, True, False),
    "prints_fallback_order": (False, True, True),
    "total_less_memmap": (True, True, False),
    "memmap_by_span": (True, False, False),
    "mm_init": (
        (
            "page_cgroup_init_flatmem",
            "mem_init",
            "kmem_cache_init",
            "percpu_init_late",
            "vmalloc_init",
            "kmem_cache_init_late",
        ),
        _MM_INIT,
        _MM_INIT,
    ),
    "slab_allocators": (("slub", "slab", "slob"), ("slub", "slab", "slob"), ("slub",)),
    "prints_managed": (False, True, True),
    "has_promo": (False, False, True),
    "prints_boost": (False, True, True),
    "prints_empty_zones": (False, True, True),
    "prints_cma": (False, True, True),
    "freecount_limit": (None, 100_000, 100_000),
    "reclaimable_before_movable": (True, False, False),
    "traces_isolate_mode": (True, True, False),
    "traces_kmem_node": (True, False, False),
    "traces_slab_name": (False, True, True),
    "traces_nr_split": (False, False, True),
    "absent_sysctls": (
        {
            "kernel.numa_balancing",
            "kernel.numa_balancing_promote_rate_limit_MBps",
            "vm.compact_unevictable_allowed",
            "vm.compaction_proactiveness",
            "vm.numa_stat",
            "vm.percpu_pagelist_high_fraction",
            "vm.watermark_boost_factor",
            "vm.watermark_scale_factor",
        },
        frozenset(),
        frozenset(),
    ),
    "sysctl_defaults": ({"vm.numa_zonelist_order": "default"}, {}, {}),
    "sysctl_maxima": ({"vm.swappiness": 100}, {}, {}),
}


@pytest.mark.parametrize(
    ("at", "profile"), list(enumerate((LINUX_3_0, LINUX_6_1, LINUX_6_12))), ids=["3.0", "6.1", "6.12"]
)
def test_the_kernels_that_were_compared_closely_come_out_of_the_table(at: int, profile: Profile) -> None:
    told = {field.name: getattr(profile, field.name) for field in fields(Profile) if field.name != "name"}
    assert told == {name: values[at] for name, values in CLOSE.items()}


def _patch(version: str) -> int:
    return int(version.split(".")[2]) if version.count(".") == 2 and "el" not in version else 0


@pytest.mark.parametrize("axis", AXES, ids=lambda axis: axis.name)
def test_a_rule_is_in_order_and_says_where_it_is_from(axis: Axis) -> None:
    since = [change.since for change in axis.changes]
    assert since[0] == ALWAYS
    assert since == sorted(set(since))
    assert all(a.value != b.value for a, b in zip(axis.changes, axis.changes[1:], strict=False))
    for change in axis.changes[1:]:
        assert change.source
        assert change.read or change.witness != SOURCE_ONLY, "neither read nor seen"
        if change.read:
            without, has = (profile_of_version(version) for version in change.read)
            assert not change.holds(without.series, 0)
            assert change.holds(has.series, _patch(change.read[1]))


def test_every_rule_of_a_profile_is_in_the_table_once() -> None:
    names = [(group, axis.name) for group, axes in RULES.items() for axis in axes]
    assert len(names) == len(set(names))
    modelled = {axis.name for axis in AXES if axis.modelled and "." not in axis.name}
    of_release = {"name", "release", "series", "distribution"}
    made = {"absent_sysctls", "sysctl_defaults", "sysctl_maxima"}
    assert modelled == {field.name for field in fields(Profile)} - of_release - made


@pytest.mark.parametrize(
    ("version", "name", "release"),
    [
        ("6.1", "linux-6.1", "6.1.192"),
        ("6.1.0-56-amd64", "linux-6.1", "6.1.192"),
        ("Linux version 6.12.117+deb12-amd64 (x@y)", "linux-6.12", "6.12.117"),
        ("6.12.19", "linux-6.12.19", "6.12.19"),
        ("6.12.0-rc3", "linux-6.12.0", "6.12.0"),
        ("4.18.0-305.el8.x86_64", "linux-4.18-el8", "4.18.0-el8"),
        ("3.10.0-514.6.1.el7.x86_64", "linux-3.10-el7", "3.10.0-el7"),
        ("2.6.32-754.el6", "linux-2.6.32-el6", "2.6.32-el6"),
        ("2.6.32-5-amd64", "linux-2.6.32", "2.6.32"),
        ("5.14.21-150500.55.19-default", "linux-5.14-sle15sp5", "5.14.0-sle15sp5"),
        ("6.4.0-150600.21-default", "linux-6.4-sle15sp6", "6.4.0-sle15sp6"),
        ("4.12.14-122.37-default", "linux-4.12-sle12sp5", "4.12.0-sle12sp5"),
        ("4.12.14-1-default", "linux-4.12", "4.12.0"),
        ("5.0.10", "linux-5.0", "5.0.0"),
        ("4.10.0-rc5-next", "linux-4.10", "4.10.0"),
        ("5.4.0-120-generic", "linux-5.4", "5.4.0"),
        ("2.4.31", "linux-2.6.30", "2.6.30"),
        ("4.99", "linux-4.20", "4.20.0"),
        ("9.1.2", "linux-6.19", "6.19.0"),
    ],
)
def test_the_profile_of_a_version(version: str, name: str, release: str) -> None:
    profile = profile_of_version(version)
    assert (profile.name, profile.release) == (name, release)
    assert profile_named(name) is profile
    assert profile_of_version(release) is profile


@pytest.mark.parametrize("text", ["", "six", "6", "-6.1", "Windows 6.1", "v6.1", "99999.1"])
def test_what_is_no_version(text: str) -> None:
    with pytest.raises(ValueError, match="does not begin with a kernel's version"):
        profile_of_version(text)


@pytest.mark.parametrize(
    "name",
    [
        "6.1",
        "linux-2.4",
        "linux-2.6.40",
        "linux-4.21",
        "linux-6.20",
        "linux-7.0",
        "linux-4.18-el7",
        "linux-6.1-x",
    ],
)
def test_what_is_no_profile(name: str) -> None:
    with pytest.raises(ValueError, match=r"unknown profile .*: linux-2\.6\.30 to linux-6\.19"):
        profile_named(name)


def test_a_stable_release_takes_a_rule_from_its_patch_on() -> None:
    rules = [profile_of_version(f"6.12.{patch}").block_rules for patch in (0, 28, 29, 200)]
    assert rules == [BLOCKS_AGREE, BLOCKS_AGREE, BLOCKS_CLAIM, BLOCKS_CLAIM]
    assert [profile_named(f"linux-6.{minor}").block_rules for minor in (11, 12, 13, 14, 15)] == [
        BLOCKS_AGREE,
        BLOCKS_CLAIM,
        BLOCKS_AGREE,
        BLOCKS_CLAIM,
        BLOCKS_CLAIM,
    ]


@pytest.mark.parametrize(
    ("field", "last", "value", "first", "then"),
    [
        ("node_load", "5.15", LOAD_SET, "5.16", LOAD_ADDED),
        ("node_load", "5.18", LOAD_ADDED, "5.19", LOAD_ONE),
        ("zone_order", "3.17", ORDER_CHOSEN, "3.18", ORDER_ASKED),
        ("zone_order", "4.13", ORDER_ASKED, "4.14", ORDER_NODES),
        ("watermark_rules", "4.3", WMARK_PER_ORDER, "4.4", WMARK_RESERVED),
        ("watermark_rules", "6.2", WMARK_RESERVED, "6.3", WMARK_NON_BLOCK),
        ("min_free_kbytes_max", "5.6", 65536, "5.7", 262144),
        ("pcp_batch_cap", "4.18", 128, "4.19", 256),
    ],
)
def test_a_rule_changes_in_its_release(field: str, last: str, value: int, first: str, then: int) -> None:
    assert getattr(profile_named(f"linux-{last}"), field) == value
    assert getattr(profile_named(f"linux-{first}"), field) == then


def test_a_distribution_has_its_version_and_what_it_took_over() -> None:
    names = {axis.name for axis in AXES}
    for name, distribution in DISTRIBUTIONS.items():
        assert distribution.rules.keys() <= names
        assert distribution.note.endswith(".")
        told = profile_named(f"linux-{'.'.join(map(str, distribution.series))}-{name}")
        assert told.distribution == name
    plain, el7 = profile_named("linux-3.10"), profile_named("linux-3.10-el7")
    assert (plain.min_free_kbytes_max, el7.min_free_kbytes_max) == (65536, 262144)
    assert plain.absent_sysctls - el7.absent_sysctls == {"kernel.numa_balancing"}
    assert not el7.watermark_scale
    assert (plain.fair_zones, el7.fair_zones) == (False, True)
