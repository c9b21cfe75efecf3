"""Where the pages of a home's tasks come from, and where they go.

A page of a task has a number of the home's own, its frame number: to the node that has the page it is the
index in the memory of one owner, all tasks of the home (``owners.py``). Pages of page tables are known by
their node and pfn.

An op takes pages of its own node, and those that were got for the task before it (its stock). Where that is
not enough it ends with :class:`Short`, and goes on from there when there are more. Pages that nothing maps
any more are freed at once if they are here; those of other nodes wait (`limbo`) until their node is told:
until then their numbers are not given again.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from numa_service.machine.booted import BootedMachine
from numa_service.mm.mempolicy.interleave import Turn
from numa_service.mm.mempolicy.nodemask import NUMA_NO_NODE, nids_of
from numa_service.mm.mempolicy.policy import Mempolicy
from numa_service.mm.mmap.errnos import Errno
from numa_service.mm.mmap.frames import ANON, FILE, SHMEM, Frames, Nids, Pfns
from numa_service.mm.mmap.vma import Vma
from numa_service.mm.page_alloc import LRU_KIND_ANON, LRU_KIND_FILE
from numa_service.node.errors import LimitExceeded
from numa_service.node.mempolicy import Policy, PolicyMode, nodes_of_places, take_turns
from numa_service.node.owners import CACHE_ID, PGTABLE_ID, TASKS_ID
from numa_service.node.session_state import PlainPolicy

#: Most frame numbers of a home: indexes of a page table end there (ops.fields.MAX_REGION_PAGES).
MAX_FRAMES = 1 << 24
#: Kinds beside those of frames: pages of page tables, anonymous huge pages, the huge page of zeros.
TABLE, HUGE, HUGE_ZERO = 3, 4, 5
#: Of pools of huge pages: a page that a mapping was promised, one that it was not, promises, and how many
#: surplus pages there are.
PROMISED_PAGE, UNPROMISED_PAGE, PROMISES, SURPLUS = 6, 7, 8, 9
#: By kind: the owner of such pages, and their list of reclaim.
OWNER_IDS = {
    ANON: TASKS_ID,
    SHMEM: TASKS_ID,
    FILE: CACHE_ID,
    TABLE: PGTABLE_ID,
    HUGE: TASKS_ID,
    HUGE_ZERO: PGTABLE_ID,
}
LRU_KINDS = {ANON: LRU_KIND_ANON, SHMEM: LRU_KIND_ANON, FILE: LRU_KIND_FILE, HUGE: LRU_KIND_ANON}

#: What happens to a frame: nothing; its page was reclaimed and is got anew; nothing needs it any more, but
#: its page is not known to be free yet.
IDLE, BUSY, FREED = range(3)
#: Blocks of page tables are numbered by their node and their pfn.
_PFN_BITS = 40

_NONE: Pfns = np.zeros(0, np.int64)


def table_block(nid: int, pfns: Pfns) -> Pfns:
    """The numbers of blocks of page tables."""
    return pfns | (nid << _PFN_BITS)


def nid_and_pfn(block: int) -> tuple[int, int]:
    """The node of a block of a page table, and its first pfn."""
    return block >> _PFN_BITS, block & ((1 << _PFN_BITS) - 1)


class Want(NamedTuple):
    """Pages that an op did not have."""

    #: FILE, ANON, SHMEM, TABLE, HUGE or HUGE_ZERO; of pools PROMISED_PAGE to SURPLUS.
    kind: int
    #: Blocks of the order, which is 0 but for page tables and huge pages.
    pages: int
    order: int = 0
    policy: PlainPolicy = (0, (), NUMA_NO_NODE, 0)
    #: Of a policy that interleaves: pages by node, in this order. Of pools: the nodes that are tried.
    shares: tuple[tuple[int, int], ...] = ()
    #: Of huge pages: how hard they are tried for.
    gfp: int = 0


class Short(Exception):
    """There are not enough pages here; nothing has been changed for those that are wanted."""

    def __init__(self, want: Want) -> None:
        super().__init__(f"{want.pages} pages are missing")
        self.want = want


class Asker(Protocol):
    """The task for which pages are taken."""

    pid: int
    policy: Mempolicy | None
    turn: Turn
    #: The node of its CPU.
    cpu_nid: int
    #: By kind: frames that were got for it and are not used yet, of huge pages the first ones; of page tables
    #: by order, pfns.
    stock: dict[int, Pfns]
    tables: dict[int, list[int]]
    #: By kind: how many huge pages were looked for in vain, for faults that are to do without.
    refused: dict[int, int]


#: Takes blocks from this node's zones, one for each number: (kind, order, numbers) to what there was, pfns of
#: frames and numbers of blocks.
Take = Callable[[int, int, Pfns], Pfns]


class FrameSource:
    """The frames of a home's tasks (a PageSource)."""

    def __init__(self, machine: BootedMachine, nid: int) -> None:
        self._machine = machine
        self.nid = nid
        #: By frame number: the node that has the page; -1 of a number that is not given. Number 0 is none.
        self.nids: Nids = np.full(1024, -1, np.int16)
        #: IDLE, BUSY or FREED.
        self.state: npt.NDArray[np.int8] = np.zeros(1024, np.int8)
        self._next = 1
        self._free: list[Pfns] = []
        #: How often numbers of pages of other nodes were given back; not part of the state.
        self.rounds = 0
        #: What is known of the frames; it has this source.
        self.frames: Frames | None = None
        #: The task that an op works for, and how it takes pages here.
        self.asker: Asker | None = None
        self.take: Take | None = None
        #: Frames that an op has freed so far.
        self.freed: list[Pfns] = []
        #: The VMA and the page numbers that the next pages are for.
        self.placed_vma: Vma | None = None
        self.placed_numbers: Pfns = _NONE
        self._zeros: Nids = np.zeros(1024, np.int16)
        #: Whether the next pages are for a fault, of which :meth:`place` was told.
        self._placed = False

    def place(self, vma: Vma, numbers: Pfns) -> Nids:
        """Note what the next pages are for; where they come from, :meth:`alloc` decides by their kind."""
        self.placed_vma, self.placed_numbers, self._placed = vma, numbers, True
        if len(self._zeros) < len(numbers):
            self._zeros = np.zeros(len(numbers), np.int16)
        return self._zeros[: len(numbers)]

    def alloc(self, nids: Nids, kind: int) -> Pfns:
        """Frames for the pages that :meth:`place` was told of; Short if there are too few."""
        count, asker = len(nids), self.asker
        assert asker is not None
        self._placed = False
        if not count:
            return _NONE
        policy = effective_policy(asker, None if kind == FILE else self.placed_vma, self.nid)
        nodes, turn = self._nodes(asker, policy, kind, count)
        stock = asker.stock.get(kind, _NONE)
        if len(stock) < count and policy.mode is PolicyMode.DEFAULT and self.take is not None:
            numbers = self.reserve(count - len(stock))
            got = len(self.take(kind, 0, numbers))
            self.nids[numbers[:got]] = self.nid
            self.unreserve(numbers[got:])
            self.add_to_stock(asker, kind, numbers[:got])
            stock = asker.stock[kind]
        if len(stock) < count:
            missing = count - len(stock)
            shares = () if nodes is None else shares_of(np.sort(nodes, kind="stable")[len(stock) :])
            raise Short(Want(kind, missing, 0, policy.plain(), shares))
        asker.stock[kind], taken = stock[count:], stock[:count]
        asker.turn = turn
        if nodes is None:
            return taken
        placed = np.empty(count, np.int64)
        placed[np.argsort(nodes, kind="stable")] = taken
        return placed

    def add_to_stock(self, asker: Asker, kind: int, numbers: Pfns) -> None:
        """Frames with pages are a task's, to be used next."""
        assert self.frames is not None
        self.frames.expect(numbers, kind)
        asker.stock[kind] = np.concatenate([asker.stock.get(kind, _NONE), numbers])

    def _nodes(
        self, asker: Asker, policy: Policy, kind: int, count: int
    ) -> tuple[npt.NDArray[np.int64] | None, Turn]:
        """The node of each page by a policy that interleaves, and the task's turn afterwards."""
        if not policy.interleaves:
            return None, asker.turn
        machine = self._machine
        weights = machine.sysctls.interleave_weights
        places = self.placed_numbers.astype(np.uint32)
        if kind == FILE:
            nodes, turn = take_turns(policy, machine.zonelists, asker.turn, weights, count)
        else:
            nodes, turn = (
                nodes_of_places(policy, machine.zonelists, places, weights, machine.profile),
                asker.turn,
            )
        return (nodes, turn) if len(nodes) else (np.full(count, self.nid, np.int64), turn)

    def free(self, pfns: Pfns) -> None:
        """Frames are not needed any more."""
        self.freed.append(pfns)

    def nids_of(self, pfns: Pfns) -> Nids:
        """The nodes that have the pages, or had them when they were accessed last."""
        return self.nids[pfns]

    # numbers

    def reserve(self, count: int) -> Pfns:
        """Numbers that are not given yet; LimitExceeded."""
        parts: list[Pfns] = []
        missing = count
        while missing and self._free:
            last = self._free.pop()
            if len(last) > missing:
                self._free.append(last[:-missing])
                last = last[-missing:]
            parts.insert(0, last)
            missing -= len(last)
        if self._next + missing > MAX_FRAMES:
            self._free += parts
            raise LimitExceeded(f"tasks of node {self.nid} have {self._next - 1} pages already")
        if missing:
            parts.append(np.arange(self._next, self._next + missing, dtype=np.int64))
            self._next += missing
            self._reach()
        return parts[0] if len(parts) == 1 else np.concatenate([_NONE, *parts])

    def _reach(self) -> None:
        """Make columns as long as there are numbers."""
        while self._next > len(self.nids):
            self.nids = np.concatenate([self.nids, np.full_like(self.nids, -1)])
            self.state = np.concatenate([self.state, np.zeros_like(self.state)])

    def unreserve(self, numbers: Pfns) -> None:
        """Numbers may be given again."""
        if len(numbers):
            self.nids[numbers] = -1
            self.state[numbers] = IDLE
            self._free.append(numbers)

    def dump(self) -> list[Any]:
        """Return all of it as plain data, which :meth:`load` reads."""
        free = np.concatenate([_NONE, *self._free]).tobytes()
        return [self.nids[: self._next].tobytes(), self.state[: self._next].tobytes(), self._next, free]

    def load(self, dumped: list[Any]) -> None:
        """Replace the content by what :meth:`dump` returned."""
        nids, state, self._next, free = dumped
        size = 1024
        while size < self._next:
            size *= 2
        self.nids, self.state = np.full(size, -1, np.int16), np.zeros(size, np.int8)
        self.nids[: self._next] = np.frombuffer(nids, np.int16)
        self.state[: self._next] = np.frombuffer(state, np.int8)
        self._free = [np.frombuffer(free, np.int64).copy()] if free else []


def shares_of(nodes: npt.NDArray[np.int64]) -> tuple[tuple[int, int], ...]:
    """Pages by node, ascending."""
    nids, counts = np.unique(nodes, return_counts=True)
    return tuple(zip(nids.tolist(), counts.tolist(), strict=True))


def effective_policy(asker: Asker, vma: Vma | None, home: int) -> Policy:
    """The policy that a page of a VMA is got by (get_vma_policy), as requests of the home have them.

    Without a VMA it is the task's. What a policy leaves to the CPU's node is that of the task's CPU, which
    may be one of another node.
    """
    made = vma.policy if vma is not None and isinstance(vma.policy, Mempolicy) else asker.policy
    elsewhere = asker.cpu_nid != home
    if made is None or made.mode.name == "LOCAL":
        return Policy(PolicyMode.PREFERRED, (asker.cpu_nid,)) if elsewhere else Policy()
    nodes = made.user_nodemask if made.stores_user_nodemask else made.nodes
    mode, home_node = PolicyMode[made.mode.name], made.home_node
    if elsewhere and home_node == NUMA_NO_NODE and mode in (PolicyMode.BIND, PolicyMode.PREFERRED_MANY):
        home_node = asker.cpu_nid
    return Policy(mode, nids_of(nodes), home_node, made.flags & NODE_FLAGS)


#: MPOL_F_STATIC_NODES and MPOL_F_RELATIVE_NODES: what a policy of a request may have.
NODE_FLAGS = 1 << 15 | 1 << 14


class TableSource:
    """The pages of page tables of a home's tasks (a TablePages)."""

    def __init__(self) -> None:
        self.asker: Asker | None = None
        self.take: Take | None = None
        #: How many pages of tables the op that is under way is likely to need.
        self.likely = 1
        #: Blocks that an op has freed so far, as (number, order).
        self.freed: list[tuple[int, int]] = []
        #: Pages that are in use, and how many may be.
        self.out = 0
        self.most = 1 << 62

    def alloc(self, order: int) -> int:
        """A block, by its number; Short if there is none, ENOMEM if the home has too many already."""
        if self.out + (1 << order) > self.most:
            raise Errno(errno.ENOMEM, "the page tables of all tasks are too large")
        self.require(1, order, self.likely)
        assert self.asker is not None
        self.likely = max(1, self.likely - 1)
        self.out += 1 << order
        return self.asker.tables[order].pop()

    def require(self, blocks: int, order: int, likely: int = 0) -> None:
        """Have so many blocks ready; Short."""
        assert self.asker is not None
        ready = self.asker.tables.setdefault(order, [])
        if len(ready) >= blocks:
            return
        if self.take is not None:
            wanted = max(blocks - len(ready), min(likely, 512))
            ready[:0] = self.take(TABLE, order, np.zeros(wanted, np.int64)).tolist()[::-1]
        if len(ready) < blocks:
            raise Short(Want(TABLE, blocks - len(ready), order))

    def free(self, pfn: int, order: int) -> None:
        """A block is not needed any more."""
        self.out -= 1 << order
        self.freed.append((pfn, order))
