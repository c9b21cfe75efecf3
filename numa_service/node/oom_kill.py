"""The OOM killer over all nodes: who is killed for a task that finds no memory (``mm/oom_kill.c``).

Tasks live on their homes, so the home of the task that asks first has all nodes tell what they have
(:class:`OomLook`), chooses, and has the victim's home kill it (:class:`OomKill`). Nothing is locked: the
victim of two choices is killed once, as its home knows; and whoever sees that a victim's memory is not all
back yet does not choose another one, as a kernel does not. Nodes that do not answer keep their tasks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import msgpack

from numa_service.machine.formats.gfp_eras import number_of_gfp
from numa_service.machine.snapshot import NodePart, Part, assemble
from numa_service.mm.gfp import Gfp
from numa_service.mm.mmzone import PAGE_ALLOC_COSTLY_ORDER
from numa_service.mm.oom_kill import (
    Chosen,
    Constraint,
    NodeSize,
    OomControl,
    OomTask,
    constrained_alloc,
    oom_badness,
    oom_cpuset_eligible,
    select_bad_process,
    victim_of,
)
from numa_service.mm.snapshot import MachineSnapshot
from numa_service.node import ops
from numa_service.node.ask import Steps, ask
from numa_service.node.errors import NodeError, PeerUnavailable
from numa_service.node.inbox import Inbox
from numa_service.node.mempolicy import Walk
from numa_service.node.node import Node
from numa_service.node.ops.oom import MAX_LINES
from numa_service.node.request import Request
from numa_service.node.state import NodeState
from numa_service.node.task_files import of_tasks, oom_task
from numa_service.node.task_limbo import release_elsewhere
from numa_service.node.task_state import home_of
from numa_service.procfs.oom_report import ERR, Line, OomRequest, dump_header, killed
from numa_service.trace.tracepoint_formats import show_gfp_flags

#: What a report shows of a node, beside counters and pools of huge pages.
_REPORTED = Part.FREE_LISTS | Part.PAGESETS | Part.SYSCTLS | Part.PAGE_TABLES
#: How often a request waits for the memory of an earlier victim before another task is killed.
MAX_OOM_REAP_RETRIES = 10


class OomAsker(NamedTuple):
    """The task for which memory is wanted (`current`)."""

    #: 0 of one that only begins.
    pid: int
    comm: str
    cpu: int
    oom_score_adj: int = 0
    #: Nodes that its cpuset allows; empty: all.
    mems_allowed: tuple[int, ...] = ()


class OomSeen(NamedTuple):
    """What a node has, for the choice and for the report."""

    tasks: tuple[OomTask, ...]
    #: Tasks that were killed, and whose memory is not all back.
    victims: tuple[int, ...]
    #: Its part of the machine's snapshot, as JSON.
    part: bytes

    def pack(self) -> bytes:
        """For the wire."""
        packed: bytes = msgpack.packb(self)
        return packed

    @staticmethod
    def unpack(data: bytes) -> OomSeen:
        """Inverse of :meth:`pack`."""
        tasks, victims, part = msgpack.unpackb(data, use_list=False)
        return OomSeen(tuple(OomTask(*task) for task in tasks), victims, part)


@dataclass(frozen=True, slots=True)
class OomLook(Request[OomSeen]):
    """Tell what the asked node's tasks use, and how its memory stands."""

    tag = "oom_look"

    def run(self, inbox: Inbox) -> Steps[OomSeen]:
        """Look at once."""
        yield from ()
        return look(inbox.node)

    def check(self, node: NodeState) -> None:
        """Accept it: it has no fields."""


@dataclass(frozen=True, slots=True)
class OomKill(Request[int]):
    """Kill a task whose home is the asked node; the result is 1, or 0 if it has ended already."""

    tag = "oom_kill"

    pid: int

    def run(self, inbox: Inbox) -> Steps[int]:
        """Kill it, and have its memory freed everywhere."""
        return (yield from kill(inbox.node, self.pid))

    def check(self, node: NodeState) -> None:
        """Accept every number."""


def look(node: Node) -> OomSeen:
    """What this node has."""
    part = node.machine.node_part(node.nid, of_tasks=of_tasks(node), parts=_REPORTED)
    tasks = tuple(oom_task(task) for task in node.tasks.values())
    return OomSeen(tasks, tuple(node.tasks.oom_victims), part.to_json())


def kill(node: Node, pid: int) -> Steps[int]:
    """Kill a task of this node; 0 if it has ended already."""
    if not node.apply(ops.OomKillTask(pid)):
        return 0
    try:
        yield from release_elsewhere(node)
    finally:
        node.apply(ops.OomReaped(pid))
    return 1


def may_oom(walk: Walk, gfp: int, order: int, node: Node) -> bool:
    """Whether a request may have a task killed at all (__alloc_pages_may_oom, out_of_memory)."""
    if order > PAGE_ALLOC_COSTLY_ORDER or gfp & (Gfp.RETRY_MAYFAIL | Gfp.THISNODE):
        return False
    return bool(gfp & Gfp.FS) and walk.highest_zoneidx >= node.pgdat.zone_names.index("Normal")


class _Machine(NamedTuple):
    """What the nodes have told."""

    #: In the order of their pids, which is about that of their creation.
    tasks: tuple[OomTask, ...]
    victims: tuple[int, ...]
    sizes: dict[int, NodeSize]
    snapshot: MachineSnapshot


class OutOfMemory:
    """One request that found no memory; :meth:`kill` is out_of_memory()."""

    def __init__(self, node: Node, asker: OomAsker, walk: Walk, gfp: int, order: int) -> None:
        self._node = node
        self._asker = asker
        self._walk = walk
        self._gfp = gfp
        self._order = order
        self._waited = 0
        #: Questions that other nodes answered since it was last asked for.
        self.asked = 0
        #: nid → the error for which that node did not tell of its tasks.
        self.unasked: dict[int, NodeError] = {}

    def kill(self, anon: int, file: int) -> Steps[bool]:
        """Kill somebody; True if memory may be there now, so that the request is to be tried again.

        `anon` and `file` are pages that the task that asks has got and not mapped yet: a kernel maps each as
        it comes. False: nobody may be killed, or nobody is to be (vm.panic_on_oom).
        """
        node, profile = self._node, self._node.machine.profile
        seen = yield from self._look(anon, file)
        if seen.victims and self._waited < MAX_OOM_REAP_RETRIES:
            self._waited += 1
            return True
        control = constrained_alloc(
            profile,
            seen.sizes,
            node.machine.spec.swap_pages,
            self._walk.nodemask,
            self._asker.mems_allowed,
            self._walk.nodes,
            self._walk.this_node,
        )
        if panic := self._panic_on_oom(control):
            self._print(seen, control, None, [(ERR, f"Kernel panic - not syncing: Out of memory: {panic}")])
            return False
        chosen, message = self._choose(seen, control)
        if chosen is None:
            self._print(seen, control, None, [(ERR, "Out of memory and no killable processes...")])
            return False
        victim = victim_of(chosen, seen.tasks, control, profile)
        try:
            if not (yield from self._kill(victim.pid)):
                return True  # another request was first
        except PeerUnavailable as away:
            self.unasked[away.nid] = away
            return True
        self._print(seen, control, victim, killed(message, chosen, victim, control, profile))
        return True

    def _look(self, anon: int, file: int) -> Steps[_Machine]:
        """Ask every node, in order of their numbers."""
        node = self._node
        seen: list[OomSeen] = []
        for nid in node.machine.spec.nids:
            if nid == node.nid:
                seen.append(look(node))
                continue
            try:
                seen.append((yield from ask(node, nid, OomLook())))
                self.asked += 1
            except PeerUnavailable as away:
                self.unasked[nid] = away
        parts = [NodePart.from_json(one.part) for one in seen]
        snapshot = assemble(node.machine.spec, parts)
        # of a node that does not answer, no more is known than how much it manages
        sizes = dict.fromkeys(node.machine.spec.nids, NodeSize(0, 0, 0))
        for (nid, _), pages in sorted(node.machine.managed.items()):
            sizes[nid] = NodeSize(*(size + pages for size in sizes[nid]))
        for part in parts:
            zones = part.node.zones
            sizes[part.node.nid] = NodeSize(
                sum(zone.present for zone in zones),
                _spanned(part),
                sum(zone.managed for zone in zones),
            )
        tasks = [
            task._replace(rss_anon=task.rss_anon + anon, rss_file=task.rss_file + file)
            if task.pid == self._asker.pid
            else task
            for task in sorted(task for one in seen for task in one.tasks)
        ]
        return _Machine(tuple(tasks), tuple(pid for one in seen for pid in one.victims), sizes, snapshot)

    def _panic_on_oom(self, control: OomControl) -> str:
        """What the kernel says when it does not go on (check_panic_on_oom); empty: it does."""
        value = self._sysctl("vm.panic_on_oom")
        if not value or (value != 2 and control.constraint is not Constraint.NONE):
            return ""
        return f"{'compulsory' if value == 2 else 'system-wide'} panic_on_oom is enabled"

    def _choose(self, seen: _Machine, control: OomControl) -> tuple[Chosen | None, str]:
        """Who is killed, and how the report begins to say so."""
        profile = self._node.machine.profile
        if self._sysctl("vm.oom_kill_allocating_task"):
            for task in seen.tasks:
                points = oom_badness(task, control.totalpages, profile)
                mine = task.pid == self._asker.pid and oom_cpuset_eligible(task, control, profile)
                if mine and points is not None:
                    return Chosen(task, points), "Out of memory (oom_kill_allocating_task)"
        return select_bad_process(seen.tasks, control, profile), "Out of memory"

    def _kill(self, pid: int) -> Steps[int]:
        """Have a task's home kill it."""
        node = self._node
        home = home_of(pid, tuple(node.machine.spec.nids))
        if home == node.nid:
            return (yield from kill(node, pid))
        self.asked += 1
        return (yield from ask(node, home, OomKill(pid)))

    def _print(self, seen: _Machine, control: OomControl, victim: OomTask | None, last: list[Line]) -> None:
        """Print the report to the log of this node."""
        node, asker = self._node, self._asker
        gfp, series = self._gfp & ~_WITHOUT_TAGS, node.machine.profile.series
        request = OomRequest(
            asker.comm,
            asker.pid,
            asker.cpu,
            asker.oom_score_adj,
            number_of_gfp(gfp, series),
            show_gfp_flags(self._gfp),
            self._order,
        )
        tasks = seen.tasks if self._sysctl("vm.oom_dump_tasks") else None
        lines = dump_header(seen.snapshot, request, control, tasks, victim)
        node.apply(ops.Printk(node.clock(), tuple([*lines, *last][: MAX_LINES - 1])))

    def _sysctl(self, name: str) -> int:
        return int(self._node.machine.sysctls.get(name) or 0)


#: Bits that are none in a kernel without tagged memory (CONFIG_KASAN_HW_TAGS).
_WITHOUT_TAGS = Gfp.ZEROTAGS | Gfp.SKIP_ZERO | Gfp.SKIP_KASAN


def _spanned(part: NodePart) -> int:
    """node_spanned_pages: from the first page of a node to its last, holes included."""
    zones = [zone for zone in part.node.zones if zone.spanned]
    if not zones:
        return 0
    return max(zone.start_pfn + zone.spanned for zone in zones) - min(zone.start_pfn for zone in zones)
