"""Who is killed when memory is out: points of tasks, who may be killed, the choice (``mm/oom_kill.c``).

Nothing here knows nodes or requests: :class:`OomTask` is a row of the kernel's task table, and
:class:`OomControl` says for want of what memory one of them has to go.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum
from typing import NamedTuple

from numa_service.mm.profile import Profile
from numa_service.mm.variants import (
    BADNESS_PAGES,
    BADNESS_PER_MILLE,
    BADNESS_ROOT_SHARE,
    BADNESS_SIGNED,
)

#: A task with this oom_score_adj is never killed; the others range up to OOM_SCORE_ADJ_MAX.
OOM_SCORE_ADJ_MIN = -1000
OOM_SCORE_ADJ_MAX = 1000
#: What CAP_SYS_ADMIN is worth in kernels that spare root, in thousandths, and later in hundredths.
_ROOT_PER_MILLE = 30
_ROOT_PERCENT = 3


class OomTask(NamedTuple):
    """One process with an address space, as the OOM killer looks at it; sizes are pages."""

    pid: int
    comm: str
    total_vm: int
    #: Resident pages by kind (MM_ANONPAGES, MM_FILEPAGES, MM_SHMEMPAGES).
    rss_anon: int
    rss_file: int
    rss_shmem: int
    #: Pages of page tables by level, those of PTEs first, without the PGD.
    tables: tuple[int, ...]
    swapents: int = 0
    oom_score_adj: int = 0
    ppid: int = 0
    uid: int = 0
    cpu: int = 0
    #: Mode of its memory policy without "MPOL_", empty without one, and its nodes.
    policy: str = ""
    policy_nodes: tuple[int, ...] = ()
    #: Nodes that its cpuset allows; empty: all.
    mems_allowed: tuple[int, ...] = ()

    @property
    def rss(self) -> int:
        """get_mm_rss: resident pages of all kinds."""
        return self.rss_anon + self.rss_file + self.rss_shmem

    @property
    def pgtables_bytes(self) -> int:
        """mm_pgtables_bytes, in bytes."""
        return sum(self.tables) << 12


class Constraint(Enum):
    """Why only a part of memory could be used (enum oom_constraint); the value is what reports print."""

    NONE = "CONSTRAINT_NONE"
    CPUSET = "CONSTRAINT_CPUSET"
    MEMORY_POLICY = "CONSTRAINT_MEMORY_POLICY"
    MEMCG = "CONSTRAINT_MEMCG"


class NodeSize(NamedTuple):
    """The memory of a node, in pages."""

    present: int
    spanned: int
    managed: int


class OomControl(NamedTuple):
    """For want of what a task is killed (struct oom_control)."""

    constraint: Constraint
    #: Pages that there are in all for such a request, with swap.
    totalpages: int
    #: Nodes that the request's policy leaves; None if that is not why memory is short.
    nodemask: tuple[int, ...] | None = None
    #: Nodes that the cpuset of the task that asks allows; empty: all.
    mems_allowed: tuple[int, ...] = ()


def oom_badness(task: OomTask, totalpages: int, profile: Profile) -> int | None:
    """A task's points: the more, the sooner it is killed; None for one that must not be.

    They are thousandths of `totalpages` or pages, by the profile (oom_badness).
    """
    if task.oom_score_adj == OOM_SCORE_ADJ_MIN:
        return None
    rules = profile.oom_badness_rules
    points = task.rss + task.swapents + sum(task.tables[: profile.oom_counts_tables])
    adj, root = task.oom_score_adj, task.uid == 0
    if rules == BADNESS_PER_MILLE:
        points = points * 1000 // max(1, totalpages)
        points += adj - (_ROOT_PER_MILLE if root else 0)
        return max(1, min(points, 1000))
    if root and rules == BADNESS_PAGES:
        adj -= _ROOT_PER_MILLE
    if root and rules == BADNESS_ROOT_SHARE:
        points -= points * _ROOT_PERCENT // 100
    points += adj * (totalpages // 1000)
    return points if rules == BADNESS_SIGNED else max(1, points)


def oom_score(task: OomTask, totalpages: int, profile: Profile) -> int:
    """``/proc/PID/oom_score`` (proc_oom_score); `totalpages` are all managed pages and all of swap.

    Since 5.9 a task without memory has 666, and one that must not be killed 0.
    """
    points = oom_badness(task, totalpages, profile)
    if points is None:
        return 0
    rules, total = profile.oom_badness_rules, max(1, totalpages)
    if rules == BADNESS_PER_MILLE:
        return points
    if rules == BADNESS_SIGNED:
        return max(0, _quotient((1000 + _quotient(points * 1000, total)) * 2, 3))
    return points * 1000 // total


def oom_score_adj_to_oom_adj(adj: int) -> int:
    """What ``oom_adj``, by which kernels up to 2.6.35 were told, is for an oom_score_adj (-17…15)."""
    return 15 if adj == OOM_SCORE_ADJ_MAX else min(_quotient(adj * 17, 1000), 15)


def constrained_alloc(
    profile: Profile,
    sizes: dict[int, NodeSize],
    swap_pages: int,
    nodemask: tuple[int, ...] | None,
    mems_allowed: tuple[int, ...],
    walked: Sequence[int],
    this_node: bool = False,
) -> OomControl:
    """Why a request could use only a part of the machine's memory, and how much that part is.

    `sizes` are those of all nodes, and `walked` the nodes of the request's zonelist (constrained_alloc).
    """
    memory = {nid for nid, size in sizes.items() if size.present}
    everything = sum(size.managed for size in sizes.values()) + swap_pages

    def pages(nids: Iterable[int]) -> int:
        known = [sizes[nid] for nid in nids if nid in sizes]
        return sum(size.present if profile.oom_counts_present else size.spanned for size in known)

    if this_node:
        return OomControl(Constraint.NONE, everything, None, mems_allowed)
    if nodemask is not None and not memory <= set(nodemask):
        total = pages(nodemask) + swap_pages
        return OomControl(Constraint.MEMORY_POLICY, total, nodemask, mems_allowed)
    if mems_allowed and not set(walked) <= set(mems_allowed):
        return OomControl(Constraint.CPUSET, pages(mems_allowed) + swap_pages, None, mems_allowed)
    return OomControl(Constraint.NONE, everything, None, mems_allowed)


def oom_cpuset_eligible(task: OomTask, control: OomControl, profile: Profile) -> bool:
    """Whether a task may have memory on the nodes in question, so that killing it may help."""
    if control.nodemask is not None:
        bound = task.policy in profile.oom_policy_modes
        return not bound or bool(set(task.policy_nodes) & set(control.nodemask))
    if not control.mems_allowed or not task.mems_allowed:
        return True
    return bool(set(task.mems_allowed) & set(control.mems_allowed))


class Chosen(NamedTuple):
    """The task that is to be killed, and its points as they count in the choice."""

    task: OomTask
    points: int


def select_bad_process(tasks: Iterable[OomTask], control: OomControl, profile: Profile) -> Chosen | None:
    """The task with the most points, of those that may be killed; None if none may (select_bad_process).

    `tasks` come in the order of their creation.
    """
    chosen: Chosen | None = None
    for task in tasks:
        points = oom_badness(task, control.totalpages, profile)
        if points is None or not oom_cpuset_eligible(task, control, profile):
            continue
        if (
            chosen is None
            or points > chosen.points
            or (points == chosen.points and profile.oom_last_of_equals)
        ):
            chosen = Chosen(task, points)
    return chosen


def victim_of(chosen: Chosen, tasks: Iterable[OomTask], control: OomControl, profile: Profile) -> OomTask:
    """Who is killed: the chosen task, or where kernels do so its worst child (oom_kill_process)."""
    victim, most = chosen.task, 0
    for child in tasks if profile.oom_kills_child else ():
        points = oom_badness(child, control.totalpages, profile)
        if child.ppid != chosen.task.pid or points is None:
            continue
        if points > most and oom_cpuset_eligible(child, control, profile):
            victim, most = child, points
    return victim


def shown_points(chosen: Chosen, control: OomControl, profile: Profile) -> int:
    """The score of the chosen task as kernels that tell it print it, in thousandths."""
    if profile.oom_badness_rules == BADNESS_PER_MILLE:
        return chosen.points
    return _quotient(chosen.points * 1000, max(1, control.totalpages))


def _quotient(dividend: int, divisor: int) -> int:
    """The quotient as C has it: towards 0."""
    return dividend // divisor if dividend >= 0 else -(-dividend // divisor)
