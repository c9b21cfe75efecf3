"""Rules of boot, of its log, and of files and tracepoints."""

from __future__ import annotations

from numa_service.mm.rules.axis import CAPTURES, Axis, Change, always

_BOOT_LOGS = "boot logs of their time"

#: Functions of the rule `mm_init`.
_MM_INIT = ("mem_init", "kmem_cache_init")
_PAGE_CGROUP = "page_cgroup_init_flatmem"
_PAGE_EXT = "page_ext_init_flatmem"
_PAGE_EXT_LATE = "page_ext_init_flatmem_late"
_PERCPU_LATE = "percpu_init_late"
_VMALLOC = "vmalloc_init"
_LATE = "kmem_cache_init_late"

BOOT = (
    Axis(
        "bootmem",
        "the boot allocator is bootmem, else memblock",
        (
            always(True, "init_bootmem_node"),
            Change((3, 3), False, "memblock_free_all", CAPTURES, ("3.0.101", "3.10.65")),
        ),
        note="x86 could do without bootmem (CONFIG_NO_BOOTMEM) before 3.0; the structs of that time have it.",
    ),
    Axis(
        "early_node_map",
        "the boot log has the lines of early_node_map",
        (
            always(True, "add_active_range", _BOOT_LOGS),
            Change(
                (3, 3),
                False,
                "free_area_init_nodes: 0ee332c14518 memblock: Kill early_node_map[]",
                CAPTURES,
                ("3.0.101", "3.10.65"),
            ),
        ),
    ),
    Axis(
        "reserve_low_kb",
        "low memory reserved for firmware, kB",
        (
            always(64, "reserve_trampoline_memory, CONFIG_X86_RESERVE_LOW"),
            Change(
                (5, 13),
                1024,
                "reserve_real_mode: f1d4d47c5851 x86/setup: always reserve the first 1M of RAM",
                CAPTURES,
                ("5.11.14", "5.14.2"),
            ),
        ),
    ),
    Axis(
        "struct_page_bytes",
        "sizeof(struct page) by architecture",
        (
            always({"x86_64": 56, "i386": 32}, "struct page", _BOOT_LOGS),
            Change((3, 2), {"x86_64": 64, "i386": 40}, "struct page", CAPTURES, ("3.0.101", "3.10.65")),
        ),
        note="On i386 it grew to 40 bytes in steps that were not read.",
    ),
    Axis(
        "zone_device",
        "ZONE_DEVICE is a zone type",
        (
            always(False),
            Change(
                (4, 3),
                True,
                '033fbae988fc mm: ZONE_DEVICE for "device memory"',
                CAPTURES,
                ("3.18.140", "4.3"),
            ),
        ),
    ),
    Axis(
        "reads_hmat",
        "the kernel reads the HMAT",
        (always(False), Change((5, 2), True, "drivers/acpi/numa/hmat.c", CAPTURES)),
    ),
    Axis(
        "says_initializing_memoryless",
        'the boot log has "Initializing node … as memoryless"',
        (
            always(False),
            Change(
                (5, 18),
                True,
                "free_area_init: 09f49dca570a mm: handle uninitialized numa nodes gracefully",
                CAPTURES,
                ("5.17", "5.19"),
            ),
            Change((6, 7), False, "free_area_init", CAPTURES, ("6.6.9", "6.8.1")),
        ),
    ),
    Axis(
        "prints_fallback_order",
        'the boot log has "Fallback order for Node …"',
        (
            always(False),
            Change(
                (5, 16),
                True,
                "build_zonelists: 6cf253925df7 mm/page_alloc: print node fallback order",
                CAPTURES + "; boot logs of 5.16 to 6.16",
                ("5.15.135", "5.17"),
            ),
        ),
    ),
    Axis(
        "total_less_memmap",
        '"Total pages" of the boot log is less memory map and DMA reserve',
        (
            always(True, "free_area_init_core", CAPTURES + "; boot logs of 5.16 to 6.6"),
            Change((6, 10), False, "free_area_init_core", CAPTURES, ("6.8.1", "6.12.0")),
        ),
    ),
    Axis(
        "memmap_by_span",
        "a zone's memory map is reckoned from its span, holes included",
        (
            always(True, "free_area_init_core", _BOOT_LOGS),
            Change(
                (3, 8),
                False,
                "calc_memmap_size: mm: provide more accurate estimation of pages occupied by memmap",
                CAPTURES,
                ("3.0.101", "3.10.65"),
            ),
        ),
    ),
    Axis(
        "mm_init",
        "what start_kernel calls to set up memory, in order",
        (
            always((_PAGE_CGROUP, *_MM_INIT, _PERCPU_LATE, _VMALLOC, _LATE), "mm_init"),
            Change(
                (3, 19),
                (_PAGE_EXT, *_MM_INIT, _PERCPU_LATE, _VMALLOC, _LATE),
                "mm_init: eefa864b701d mm/page_ext: resurrect struct page extending code for debugging",
                read=("3.0.101", "4.12.6"),
            ),
            Change(
                (4, 14),
                (_PAGE_EXT, *_MM_INIT, _VMALLOC, _LATE),
                "mm_init: percpu: replace area map allocator with bitmap",
                read=("4.12.6", "4.19"),
            ),
            Change(
                (5, 17),
                (_PAGE_EXT, *_MM_INIT, _PAGE_EXT_LATE, _VMALLOC, _LATE),
                "mm_init: lib/stackdepot: allow optional init and stack_table allocation by kvmalloc()",
                read=("5.10", "6.1.8"),
            ),
        ),
        note="Steps without a part here are left out. percpu_init_late came in 2.6.36, mm_init in 2.6.31.",
    ),
)

FILES = (
    Axis(
        "prints_managed",
        "zoneinfo prints the managed pages of a zone",
        (
            always(False, "zoneinfo_show_print"),
            Change((3, 9), True, "zoneinfo_show_print", "zoneinfo of a 3.12 of SUSE", ("3.0.101", "3.10.65")),
        ),
    ),
    Axis(
        "has_promo",
        "zoneinfo prints the promo watermark",
        (always(False), Change((6, 12), True, "zoneinfo_show_print", CAPTURES, ("6.8.1", "6.12.0"))),
    ),
    Axis(
        "prints_boost",
        "zoneinfo prints the boost of watermarks",
        (
            always(False, "zoneinfo_show_print"),
            Change((5, 16), True, "zoneinfo_show_print", CAPTURES, ("5.15.135", "5.17")),
        ),
    ),
    Axis(
        "prints_empty_zones",
        "zoneinfo prints zones without pages",
        (
            always(False, "zoneinfo_show_print"),
            Change((4, 12), True, "zoneinfo_show_print", CAPTURES, ("4.10.17", "4.12")),
        ),
    ),
    Axis(
        "prints_cma",
        "zoneinfo prints the free CMA pages of a zone",
        (
            always(False, "zoneinfo_show_print"),
            Change((5, 12), True, "zoneinfo_show_print", CAPTURES, ("5.11.14", "5.14.2")),
        ),
    ),
    Axis(
        "slab_allocators",
        "slab allocators that the kernel can be built with, its default first",
        (
            always(("slub", "slab", "slob"), "init/Kconfig"),
            Change((6, 4), ("slub", "slab"), "mm/Kconfig", read=("6.2.12", "6.4.6")),
            Change((6, 8), ("slub",), "mm/Kconfig", CAPTURES, ("6.5", "6.8.1")),
        ),
        note="Rules of SLAB are those of 3.0 up to 4.5, then of 6.1; of SLOB up to 5.3.",
    ),
    Axis(
        "freecount_limit",
        "blocks after which pagetypeinfo stops counting a free list",
        (
            always(None, "pagetypeinfo_showfree_print"),
            Change((5, 4), 100_000, "pagetypeinfo_showfree_print", CAPTURES, ("5.0", "5.7.14")),
        ),
    ),
    Axis(
        "reclaimable_before_movable",
        "MIGRATE_RECLAIMABLE is 1 and MIGRATE_MOVABLE 2",
        (
            always(True, "include/linux/mmzone.h"),
            Change((4, 4), False, "include/linux/mmzone.h", CAPTURES, ("4.3", "4.4.155")),
        ),
    ),
    Axis(
        "traces_isolate_mode",
        "mm_vmscan_lru_isolate has a field isolate_mode",
        (
            always(True, "include/trace/events/vmscan.h", CAPTURES),
            Change((6, 7), False, "include/trace/events/vmscan.h", CAPTURES, ("6.6.9", "6.8.1")),
        ),
    ),
    Axis(
        "traces_kmem_node",
        "allocations of objects on a node have tracepoints of their own",
        (
            always(True, "include/trace/events/kmem.h"),
            Change(
                (6, 1),
                False,
                "kmem_alloc: mm/slab_common: unify NUMA and UMA version of tracepoints",
                CAPTURES,
            ),
        ),
    ),
    Axis(
        "traces_slab_name",
        "kmem_cache_free has a field name",
        (
            always(False, "include/trace/events/kmem.h"),
            Change(
                (5, 12),
                True,
                "kmem_cache_free: 3544de8ee6e4 mm, tracing: record slab name for kmem_cache_free()",
                CAPTURES,
            ),
        ),
    ),
    Axis(
        "traces_nr_split",
        "mm_migrate_pages has a field nr_split",
        (
            always(False),
            Change(
                (6, 7),
                True,
                "mm/migrate: add nr_split to trace_mm_migrate_pages stats.",
                CAPTURES,
                ("6.6.9", "6.8.1"),
            ),
        ),
    ),
)
