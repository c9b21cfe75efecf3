"""What the tasks of a home have of the pools of huge pages of all nodes (HugePools of their mappings).

A huge page has one frame number of the home, as a page has; only its home knows which page of which node
it is. The node has it as used by one owner, all tasks of the home, and the node that keeps the pools has the
promises to that owner. How many mappings have is counted here (`resv`), and the keeper is told at the end of
each call what has changed. A page that was promised is taken from a node without asking the keeper: free
pages and promises become one less together.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from numa_service.machine.booted import BootedMachine
from numa_service.machine.cmdline import parse_cmdline
from numa_service.mm.gfp import GFP_HIGHUSER_MOVABLE, gfp_zone
from numa_service.mm.mempolicy.nodemask import nids_of
from numa_service.mm.mmap.errnos import Errno
from numa_service.mm.mmap.rules import PAGE_SHIFT
from numa_service.node.mempolicy import PolicyMode, nodes_of_places, policy_choice
from numa_service.node.task_pages import (
    PROMISED_PAGE,
    PROMISES,
    SURPLUS,
    UNPROMISED_PAGE,
    FrameSource,
    Short,
    Want,
    effective_policy,
)

#: The pfn of a page that its node has lost in a restart.
_LOST = -1


class HugetlbLimbo(NamedTuple):
    """What other nodes are to be told of one pool, in this order."""

    kb: int
    #: Promises that pages which come back have again, or, negative, that were used up.
    restored: int
    #: Pages that go back, as (nid, pfn).
    pages: tuple[tuple[int, int], ...]
    #: Promises to be given back, negative, for which surplus pages may go.
    change: int


class HomePool:
    """The pool of one size, as the tasks of a home see it."""

    def __init__(self, kb: int, machine: BootedMachine, source: FrameSource) -> None:
        self.kb = kb
        self.shift = kb.bit_length() + 9
        self._machine = machine
        self._source = source
        #: Promises that mappings have. Less than 0 while a child has pages that are promised again when they
        #: come back, of a parent that has gone.
        self.resv = 0
        #: Promises that the keeper counts for this home, when it has been told of all.
        self.kept = 0
        #: Of these, those of pages that were got without one, and are not used yet.
        self.grants = 0
        #: Promises that were used up and of which the keeper has not been told, less those restored.
        self.spent = 0
        #: Surplus pages of all nodes, as far as that is known; whether it was asked for the call under way.
        self._surplus = 0
        self.surplus_known = False
        #: Frame → node and pfn.
        self.pages: dict[int, tuple[int, int]] = {}
        #: Frames that were got for a task and are not used yet, by pid and whether they were promised.
        self.ready: dict[tuple[int, bool], list[int]] = {}
        #: What was looked for in vain for a task, by pid and kind.
        self.refused: dict[tuple[int, int], int] = {}
        #: Pages that nothing needs any more.
        self.limbo: list[tuple[int, int]] = []

    @property
    def surplus(self) -> int:
        """Pages of all nodes beyond those that were asked for."""
        return self._surplus

    @surplus.setter
    def surplus(self, pages: int) -> None:
        self._surplus, self.surplus_known = pages, True

    def want(self, kind: int, pages: int, nids: tuple[int, ...] = ()) -> Want:
        """What an op lacks of this pool; `nids`: where a page is looked for."""
        return Want(kind, pages, self.shift - PAGE_SHIFT, shares=tuple((nid, 1) for nid in nids))

    def require(self, pid: int, promises: int) -> None:
        """Have so many promises ready for a mapping, or know that there are none; Short."""
        if self.refused.pop((pid, PROMISES), 0) or self._can_promise(promises):
            return
        raise Short(self.want(PROMISES, promises))

    def require_surplus(self) -> None:
        """Know how many surplus pages there are; Short."""
        if not self.surplus_known:
            raise Short(self.want(SURPLUS, 1))

    def _can_promise(self, promises: int) -> bool:
        return max(0, self.resv + promises) <= self.kept - self.grants

    # the HugePool

    def acct_memory(self, delta: int) -> None:
        """Promise pages, of those promises that are ready, or take promises back."""
        if delta > 0 and not self._can_promise(delta):
            raise Errno(errno.ENOMEM, f"{delta} huge pages of {self.kb} kB cannot be promised")
        self.resv += delta

    def alloc(self, nid: int, reserved: bool) -> int:
        """A page that was got for the task; 0 if there was none, Short if it has to be looked for."""
        asker = self._source.asker
        assert asker is not None
        frames = self.ready.get((asker.pid, reserved))
        kind = PROMISED_PAGE if reserved else UNPROMISED_PAGE
        if not frames:
            if not self.refused.pop((asker.pid, kind), 0):
                raise Short(self.want(kind, 1, self._nids()))
            return 0
        if reserved:
            self.resv -= 1
        else:
            self.grants -= 1
        self.spent += 1
        return frames.pop(0)

    def free(self, pfn: int, restore: bool) -> None:
        """A page goes back."""
        self._drop(pfn)
        if restore:
            self.resv += 1
            self.spent -= 1

    def nid_of(self, pfn: int) -> int:
        """The node that has a page."""
        return self.pages[pfn][0]

    def _nids(self) -> tuple[int, ...]:
        """The nodes of which a page may be, in order (huge_node, dequeue_hugetlb_folio_vma)."""
        machine, source = self._machine, self._source
        asker, vma, numbers = source.asker, source.placed_vma, source.placed_numbers
        assert asker is not None
        lists = machine.zonelists
        policy = effective_policy(asker, vma, source.nid)
        if policy.interleaves:
            places = (numbers[:1] >> (self.shift - PAGE_SHIFT)).astype(np.uint32)
            weights = machine.sysctls.interleave_weights
            nodes = nodes_of_places(policy, lists, places, weights, machine.profile)
            first, mask = int(nodes[0]) if len(nodes) else asker.cpu_nid, None
        else:
            zone = gfp_zone(GFP_HIGHUSER_MOVABLE, machine.spec.arch)
            choice = policy_choice(lists, asker.cpu_nid, policy, zone)
            first, mask = choice.nid, choice.nodemask
        order = [nid for nid in lists[first].node_order if lists[nid].thisnode]
        allowed = [nid for nid in order if mask is None or nid in nids_of(mask)]
        if policy.mode is PolicyMode.PREFERRED_MANY:
            allowed += [nid for nid in order if nid not in allowed]
        return tuple(allowed)

    # what was got for tasks

    def grant(self, promises: int) -> None:
        """The keeper has promised so many more."""
        self.kept += promises

    def add(self, pid: int, nid: int, pfn: int, promised: bool) -> None:
        """A page was got for a task."""
        frame = int(self._source.reserve(1)[0])
        self._source.nids[frame] = nid
        self.pages[frame] = nid, pfn
        self.ready.setdefault((pid, promised), []).append(frame)
        if not promised:
            self.kept += 1
            self.grants += 1

    def give_back(self, pid: int) -> None:
        """What was got for a task's call is not needed any more."""
        for promised in (True, False):
            for frame in self.ready.pop((pid, promised), ()):
                self._drop(frame)
                self.grants -= not promised
        for key in [key for key in self.refused if key[0] == pid]:
            del self.refused[key]
        self.surplus_known = False

    def _drop(self, frame: int) -> None:
        nid, pfn = self.pages.pop(frame)
        if pfn != _LOST:
            self.limbo.append((nid, pfn))
        self._source.unreserve(np.array([frame], np.int64))

    def node_restarted(self, nid: int) -> None:
        """A node has lost the pages that tasks have of it, and if it keeps the pools all promises."""
        for frame, (of, _) in self.pages.items():
            if of == nid:
                self.pages[frame] = nid, _LOST
        self.limbo = [page for page in self.limbo if page[0] != nid]
        if nid == self._machine.vmalloc_nid:
            self.kept = self.grants
            self.spent = 0

    @property
    def has_limbo(self) -> bool:
        """Whether others are to be told of something."""
        return bool(self.limbo or self.spent or self.kept != max(0, self.resv) + self.grants)

    def take_limbo(self) -> HugetlbLimbo | None:
        """What others are to be told, who are taken to know it from now on; None: nothing."""
        target = max(0, self.resv) + self.grants
        change, restored = target - self.kept, -self.spent
        if not self.has_limbo:
            return None
        limbo = HugetlbLimbo(self.kb, restored, tuple(self.limbo), change - restored)
        self.kept, self.spent, self.limbo = target, 0, []
        return limbo

    def dump(self) -> list[Any]:
        """Return all of it as plain data, which :meth:`load` reads."""
        return [
            (self.resv, self.kept, self.grants, self.spent, self._surplus, self.surplus_known),
            sorted(self.pages.items()),
            [(key, frames) for key, frames in sorted(self.ready.items()) if frames],
            sorted(self.refused.items()),
            self.limbo,
        ]

    def load(self, dumped: list[Any]) -> None:
        """Replace the content by what :meth:`dump` returned."""
        numbers, pages, ready, refused, limbo = dumped
        self.resv, self.kept, self.grants, self.spent, self._surplus, self.surplus_known = numbers
        self.pages = {frame: (nid, pfn) for frame, (nid, pfn) in pages}
        self.ready = {(pid, promised): list(frames) for (pid, promised), frames in ready}
        self.refused = {(pid, kind): count for (pid, kind), count in refused}
        self.limbo = [(nid, pfn) for nid, pfn in limbo]


def home_pools(machine: BootedMachine, nid: int, source: FrameSource) -> dict[int, HomePool]:
    """The pools by the logarithm of their size in bytes, the default one first."""
    default = parse_cmdline(machine.spec.cmdline).default_hugepage_kb
    sizes = sorted(machine.pgdats[nid].hugetlb.pools, key=lambda kb: (kb != default, kb))
    pools = (HomePool(kb, machine, source) for kb in sizes)
    return {pool.shift: pool for pool in pools}


def check_pools(pools: Iterable[HomePool], in_use: set[int]) -> list[str]:
    """Return what does not agree; `in_use`: frames of huge pages that are mapped, or of a file."""
    known, expected, problems = set[int](), set(in_use), []
    for pool in pools:
        known |= set(pool.pages)
        expected |= {frame for frames in pool.ready.values() for frame in frames}
        granted = sum(len(frames) for (_, promised), frames in pool.ready.items() if not promised)
        if pool.grants != granted:
            problems.append(f"{pool.grants} promises for {granted} huge pages of {pool.kb} kB that are ready")
    if known != expected:
        problems.append(f"huge pages {sorted(known ^ expected)[:4]} are used and of no pool, or the reverse")
    return problems
