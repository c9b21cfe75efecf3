"""Rules of the OOM killer (``mm/oom_kill.c``), and what its report looks like."""

from __future__ import annotations

from numa_service.mm.rules.axis import Axis, Change, always
from numa_service.mm.variants import (
    BADNESS_PAGES,
    BADNESS_PER_MILLE,
    BADNESS_ROOT_EQUAL,
    BADNESS_ROOT_SHARE,
    BADNESS_SIGNED,
)

#: Where the release's sources were not read.
_COMMIT = "the commit's message, which shows the rule before"
#: Reports of kernels 6.1.192 and 6.12.117 that the tests compare with.
_REPORTS = "captured reports of OOM kills"

OOM = (
    Axis(
        "oom_badness_rules",
        "what a task's points are, of which the OOM killer kills the one with the most",
        (
            always(BADNESS_PER_MILLE, "oom_badness: a63d83f427fb oom: badness heuristic rewrite"),
            Change(
                (3, 5),
                BADNESS_PAGES,
                "oom_badness: a7f638f999ff "
                "mm, oom: normalize oom scores to oom_score_adj scale only for userspace",
                read=("3.0.101", "3.10.65"),
            ),
            Change(
                (3, 14),
                BADNESS_ROOT_SHARE,
                "oom_badness: 778c14affaf9 mm, oom: base root bonus on current usage",
                _COMMIT,
            ),
            Change(
                (4, 17),
                BADNESS_ROOT_EQUAL,
                "oom_badness: d46078b28889 mm, oom: remove 3% bonus for CAP_SYS_ADMIN processes",
                _COMMIT,
            ),
            Change(
                (5, 9),
                BADNESS_SIGNED,
                "oom_badness: 9066e5cfb73c mm, oom: make the calculation of oom badness more accurate",
                _REPORTS,
                ("4.19", "5.10"),
            ),
        ),
        note="It is that of 2.6.36: kernels before rated address space and running time (badness()).",
        words=(
            "thousandths, root 30 less",
            "pages, root 30 thousandths less",
            "pages, root 3 % less",
            "pages, at least 1",
            "pages, also less than none",
        ),
    ),
    Axis(
        "oom_counts_tables",
        "levels of page tables that count as a task's memory, from the lowest",
        (
            always(0, "oom_badness"),
            Change((2, 6, 39), 1, "oom_badness: f755a042d82b oom: use pte pages in OOM score", _COMMIT),
            Change(
                (4, 0),
                2,
                "oom_badness: dc6c9a35b66b mm: account pmd page tables to the process",
                _COMMIT,
            ),
            Change(
                (4, 15),
                3,
                "mm_pgtables_bytes: b4e98d9ac775 mm: account pud page tables",
                _REPORTS,
            ),
        ),
    ),
    Axis(
        "oom_kills_child",
        "a child of the task with the most points is killed in its place",
        (
            always(True, "oom_kill_process"),
            Change(
                (5, 1),
                False,
                "oom_kill_process: bbbe48029720 mm, oom: remove 'prefer children over parent' heuristic",
                _COMMIT,
                ("4.19", "5.4"),
            ),
        ),
    ),
    Axis(
        "oom_last_of_equals",
        "of tasks with as many points the youngest is killed, else the oldest",
        (
            always(False, "select_bad_process"),
            Change(
                (5, 3),
                True,
                "oom_evaluate_task: f168a9a54ec3 "
                "mm: memcontrol: use CSS_TASK_ITER_PROCS at mem_cgroup_scan_tasks()",
                read=("4.19", "5.4"),
            ),
        ),
    ),
    Axis(
        "oom_counts_present",
        "of nodes that a policy or a cpuset leaves, present pages count; else spanned ones",
        (
            always(False, "constrained_alloc"),
            Change(
                (5, 4),
                True,
                "constrained_alloc: 1eb41bb07e59 mm, oom: consider present pages for the node size",
                _REPORTS,
                ("4.19", "5.4"),
            ),
        ),
    ),
    Axis(
        "oom_policy_modes",
        "modes of memory policies that keep a task away from nodes, so that it is not killed for them",
        (
            always(("BIND", "INTERLEAVE"), "mempolicy_nodemask_intersects"),
            Change(
                (5, 14),
                ("BIND",),
                "mempolicy_in_oom_domain: "
                "b26e517a058b mm/mempolicy: cleanup nodemask intersection check for oom",
                _COMMIT,
            ),
        ),
    ),
)

OOM_REPORT = (
    Axis(
        "oom_prints_adj",
        "the report of an OOM kill has oom_adj",
        (
            always(True, "dump_header"),
            Change((3, 7), False, "dump_header: 01dc52ebdf47 oom: remove deprecated oom_adj", _COMMIT),
        ),
    ),
    Axis(
        "oom_prints_gfp_names",
        "the report has gfp flags by their names",
        (
            always(False, "dump_header"),
            Change(
                (4, 6),
                True,
                "dump_header: a0795cd416d1 mm, oom: print symbolic gfp_flags in oom warning",
                _REPORTS,
            ),
        ),
    ),
    Axis(
        "oom_prints_nodemask",
        "the first line has the nodes that the policy allows",
        (
            always(False, "dump_header"),
            Change(
                (4, 10),
                True,
                "dump_header: 82e7d3abec86 oom: print nodemask in the oom report",
                "report of a 4.18 kernel",
            ),
            Change(
                (5, 0),
                False,
                "dump_oom_summary: ef8444ea01d7 mm, oom: reorganize the oom report in dump_header",
                _REPORTS,
                ("4.19", "5.4"),
            ),
        ),
    ),
    Axis(
        "oom_prints_summary",
        "the report has a line oom-kill:constraint=",
        (
            always(False, "dump_header"),
            Change(
                (5, 0),
                True,
                "dump_oom_summary: ef8444ea01d7 mm, oom: reorganize the oom report in dump_header",
                _REPORTS,
                ("4.19", "5.4"),
            ),
        ),
    ),
    Axis(
        "oom_task_columns",
        "columns of the task table between uid, tgid, total_vm, rss and the name",
        (
            always(("cpu", "oom_adj", "oom_score_adj"), "dump_tasks", "report of a 3.2 kernel"),
            Change(
                (3, 6),
                ("nr_ptes", "swapents", "oom_score_adj"),
                "dump_tasks: de34d965a80c mm, oom: replace some information in tasklist dump",
                "el7 report of an OOM kill, 3.10.0-514",
                ("3.0.101", "3.10.65"),
            ),
            Change(
                (4, 0),
                ("nr_ptes", "nr_pmds", "swapents", "oom_score_adj"),
                "dump_tasks: dc6c9a35b66b mm: account pmd page tables to the process",
                _COMMIT,
            ),
            Change(
                (4, 15),
                ("pgtables_bytes", "swapents", "oom_score_adj"),
                "dump_tasks: af5b0f6a09e4 mm: consolidate page table accounting",
                _REPORTS,
            ),
            Change(
                (6, 8),
                ("rss_anon", "rss_file", "rss_shmem", "pgtables_bytes", "swapents", "oom_score_adj"),
                "dump_task: mm, oom: dump_tasks add rss detailed information printing",
                _REPORTS,
            ),
        ),
        note="In which release the resident pages by kind came is known to lie between 6.2 and 6.12 only.",
    ),
    Axis(
        "oom_tasks_headed",
        "the task table has a line above it, and room for longer pids",
        (
            always(False, "dump_tasks"),
            Change(
                (4, 19),
                True,
                "dump_tasks: c3b78b11efbb mm, oom: describe task memory unit, larger PID pad",
                _REPORTS,
                ("3.10.65", "4.19"),
            ),
        ),
    ),
    Axis(
        "oom_killed_fields",
        "what is told of the task that was killed: 0 up to file-rss, 1 shmem-rss, 2 UID and page tables too",
        (
            always(0, "oom_kill_process"),
            Change(
                (4, 5),
                1,
                "oom_kill_process: eca56ff906bd mm, shmem: add internal shmem resident memory accounting",
                _COMMIT,
            ),
            Change(
                (5, 4),
                2,
                "__oom_kill_process: 70cb6d267790 "
                "mm/oom: add oom_score_adj and pgtables to Killed process message",
                _REPORTS,
            ),
        ),
    ),
)
