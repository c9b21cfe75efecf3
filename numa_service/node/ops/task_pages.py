"""Ops for the pages of tasks that other nodes have, or that took a walk over zonelists to get."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from numa_service.mm.mmap.frames import ANON, SHMEM, Pfns
from numa_service.mm.mmzone import HUGE_INDEX, PAGEBLOCK_NR_PAGES
from numa_service.node.errors import InvalidRequest
from numa_service.node.ops.alloc import MAX_COUNT
from numa_service.node.ops.fields import check_below, check_indexes, check_nid
from numa_service.node.ops.op import Op
from numa_service.node.ops.task import check_pid
from numa_service.node.ops.task_work import Work, free_frames, free_huge
from numa_service.node.pfns import unpack_indexes
from numa_service.node.state import NodeState
from numa_service.node.task_huge import parts_of_heads, unnamed, zero_number
from numa_service.node.task_pages import BUSY, FREED, HUGE, HUGE_ZERO, IDLE
from numa_service.node.task_state import MAX_TABLES

#: How many of some frames, in their order, got a page of which node: (nid, frames).
ByNode = tuple[tuple[int, int], ...]


def unpack_frames(packed: bytes) -> Pfns:
    """Frame numbers from their packed form, which is that of indexes."""
    return unpack_indexes(packed).astype(np.int64)


def by_node(got: ByNode, packed: bytes) -> Iterator[tuple[int, Pfns]]:
    """The frames that got a page, by its node; at the end, with node -1, those that did not."""
    frames, at = unpack_frames(packed), 0
    for nid, count in got:
        yield nid, frames[at : at + count]
        at += count
    yield -1, frames[at:]


def _check_got(node: NodeState, got: ByNode, packed: bytes) -> None:
    _check_frames(node, packed)
    for nid, count in got:
        check_nid(node, "got.node", nid)
        check_below("got.frames", count, len(packed) // 4 + 1)
    check_below("got.frames", sum(count for _, count in got), len(packed) // 4 + 1)


def _check_frames(node: NodeState, packed: bytes) -> None:
    """Check names of frames: also the last one of a huge page has a column."""
    check_indexes(packed)
    for frames, pages in zip(unnamed(unpack_indexes(packed)), (1, PAGEBLOCK_NR_PAGES), strict=True):
        if len(frames):
            check_below("frames", int(frames.max()) + pages - 1, len(node.tasks.source.nids))


@dataclass(frozen=True, slots=True)
class ReserveFrames(Op[bytes]):
    """Gives out frame numbers for pages that are to be got; the result is packed. LimitExceeded.

    Of huge pages the result has their names, of as many as there are numbers.
    """

    tag = "reserve_frames"

    pages: int
    huge: bool = False

    def apply(self, node: NodeState) -> bytes:
        """Take numbers that nothing has."""
        source = node.tasks.source
        names = source.reserve_huge(self.pages) | HUGE_INDEX if self.huge else source.reserve(self.pages)
        return names.astype("<u4").tobytes()

    def check(self, node: NodeState) -> None:
        """Check that a request may have so many pages."""
        check_below("pages", self.pages, MAX_COUNT + 1)

    def text(self, node: NodeState, result: bytes) -> str:
        """Return the op and its result as one line."""
        return f"frames {self.pages}{' huge' if self.huge else ''} reserved"


@dataclass(frozen=True, slots=True)
class StockTask(Op[None]):
    """Pages that were got for a task are its stock, for its next op; it may have ended meanwhile."""

    tag = "stock_task"

    pid: int
    #: FILE, ANON, SHMEM or HUGE; of these some may be missing, and as many faults do without.
    kind: int
    #: Frames in the order in which they are to be used; those behind all that got a page are free again.
    got: ByNode
    frames: bytes
    #: Huge pages that are missing beside these.
    refused: int = 0

    def apply(self, node: NodeState) -> None:
        """Note the nodes of the pages."""
        tasks, source = node.tasks, node.tasks.source
        if self.kind == HUGE:
            self._stock_huge(node)
            return
        for nid, frames in by_node(self.got, self.frames):
            if nid < 0:
                source.unreserve(frames)
                continue
            source.nids[frames] = nid
            tasks.frames.expect(frames, self.kind)
            if self.pid in tasks:
                source.add_to_stock(tasks[self.pid], self.kind, frames)
            else:
                free_frames(node, frames, None)

    def _stock_huge(self, node: NodeState) -> None:
        tasks, source = node.tasks, node.tasks.source
        asker = tasks.asker(self.pid)
        if asker and self.refused:
            asker.refused[HUGE] = asker.refused.get(HUGE, 0) + self.refused
        for nid, names in by_node(self.got, self.frames):
            _, heads = unnamed(names)
            if nid < 0:
                source.unreserve_huge(heads)
                if asker and len(heads):
                    asker.refused[HUGE] = asker.refused.get(HUGE, 0) + len(heads)
                continue
            source.nids[parts_of_heads(heads)] = nid
            if asker:
                asker.stock[HUGE] = np.concatenate([asker.stock.get(HUGE, heads[:0]), heads])
                tasks.frames.expect(parts_of_heads(heads), ANON)
            else:
                free_huge(node, heads, None)

    def check(self, node: NodeState) -> None:
        """Check the kind, the nodes and the frames."""
        if self.kind != HUGE:
            check_below("kind", self.kind, SHMEM + 1)
        check_below("refused", self.refused, MAX_COUNT + 1)
        if ((unpack_indexes(self.frames) & HUGE_INDEX != 0) != (self.kind == HUGE)).any():
            raise InvalidRequest("frames", "huge pages have their names, and others have none")
        _check_got(node, self.got, self.frames)

    def text(self, node: NodeState, result: None) -> str:
        """Return the op as one line."""
        got = " ".join(f"node{nid}={count}" for nid, count in self.got)
        return f"task {self.pid} stock {got or 'nothing'}"

    @property
    def payload(self) -> int:
        """Bytes of the frames."""
        return len(self.frames)


@dataclass(frozen=True, slots=True)
class StockHugeZero(Op[None]):
    """The huge page of zeros was got for a task, or looked for in vain."""

    tag = "stock_huge_zero"

    pid: int
    #: The block (table_block); none: there is no memory for it.
    blocks: tuple[int, ...]

    def apply(self, node: NodeState) -> None:
        """Have it in the task's stock; what a task that has ended was given is freed."""
        asker = node.tasks.get(self.pid)
        if asker is None:
            work = Work(node, None, None)
            node.tasks.source.freed_zero += self.blocks
            work.settle()
        elif self.blocks:
            asker.stock[HUGE_ZERO] = np.array([zero_number(block) for block in self.blocks], np.int64)
        else:
            asker.refused[HUGE_ZERO] = 1

    def check(self, node: NodeState) -> None:
        """Check the number of blocks."""
        check_below("blocks", len(self.blocks), 2)

    def text(self, node: NodeState, result: None) -> str:
        """Return the op as one line."""
        return f"task {self.pid} huge page of zeros {'got' if self.blocks else 'refused'}"


@dataclass(frozen=True, slots=True)
class StockTables(Op[None]):
    """Blocks for page tables that were got for a task are its stock."""

    tag = "stock_tables"

    pid: int
    order: int
    blocks: tuple[int, ...]

    def apply(self, node: NodeState) -> None:
        """Add them behind those that it has."""
        self_tables = node.tasks[self.pid].tables
        self_tables.setdefault(self.order, []).extend(self.blocks)

    def check(self, node: NodeState) -> None:
        """Check the task and the number of blocks."""
        check_pid(node, self.pid)
        check_below("order", self.order, 2)
        check_below("blocks", len(self.blocks), MAX_TABLES)

    def text(self, node: NodeState, result: None) -> str:
        """Return the op as one line."""
        return f"task {self.pid} stock of tables order={self.order} blocks={len(self.blocks)}"


class Limbo(NamedTuple):
    """Pages for other nodes to free: packed frames by owner id and node, pfns of tables by node and order."""

    frames: tuple[tuple[int, int, bytes], ...]
    tables: tuple[tuple[int, int, tuple[int, ...]], ...]


@dataclass(frozen=True, slots=True)
class TakeLimbo(Op[Limbo]):
    """Takes what other nodes are to be told to free; the frames' numbers stay given until FramesFreed."""

    tag = "take_limbo"

    def apply(self, node: NodeState) -> Limbo:
        """Empty the lists."""
        tasks = node.tasks
        frames = tuple(
            (id, nid, np.concatenate(some).astype("<u4").tobytes())
            for (id, nid), some in sorted(tasks.limbo.items())
        )
        tables = tuple((nid, order, tuple(pfns)) for (nid, order), pfns in sorted(tasks.limbo_tables.items()))
        tasks.limbo, tasks.limbo_tables = {}, {}
        return Limbo(frames, tables)

    def check(self, node: NodeState) -> None:
        """Accept it: it has no fields."""

    def text(self, node: NodeState, result: Limbo) -> str:
        """Return the result as one line."""
        pages = " ".join(f"node{nid}={len(packed) // 4}" for _, nid, packed in result.frames)
        return f"tasks free elsewhere {pages or 'tables'}"


@dataclass(frozen=True, slots=True)
class FramesFreed(Op[None]):
    """Frame numbers may be given again: their node has freed the pages, or will before it gives others."""

    tag = "frames_freed"

    frames: bytes

    def apply(self, node: NodeState) -> None:
        """Give the numbers back."""
        node.tasks.source.rounds += 1
        frames, heads = unnamed(unpack_indexes(self.frames))
        node.tasks.source.unreserve(frames)
        if len(heads):
            node.tasks.source.unreserve_huge(heads)

    def check(self, node: NodeState) -> None:
        """Check the frames."""
        _check_frames(node, self.frames)

    def text(self, node: NodeState, result: None) -> str:
        """Return the op as one line."""
        return f"frames {len(self.frames) // 4} freed"

    @property
    def payload(self) -> int:
        """Bytes of the frames."""
        return len(self.frames)


@dataclass(frozen=True, slots=True)
class BeginRefault(Op[bytes]):
    """Pages that were reclaimed are got anew; the result are the frames that nobody else is getting."""

    tag = "begin_refault"

    #: The node that had the pages.
    nid: int
    frames: bytes

    def apply(self, node: NodeState) -> bytes:
        """Mark the frames that are still in use, and still recorded on that node."""
        source = node.tasks.source
        frames = unpack_frames(self.frames)
        free = (source.state[frames] == IDLE) & (source.nids[frames] == self.nid)
        free &= node.tasks.frames.mapcount[frames] > 0
        source.state[frames[free]] = BUSY
        packed: bytes = frames[free].astype("<u4").tobytes()
        return packed

    def check(self, node: NodeState) -> None:
        """Check the node and the frames."""
        check_nid(node, "node", self.nid)
        _check_frames(node, self.frames)

    def text(self, node: NodeState, result: bytes) -> str:
        """Return the op and its result as one line."""
        return f"refault from node{self.nid} frames={len(result) // 4}"

    @property
    def payload(self) -> int:
        """Bytes of the frames."""
        return len(self.frames)


@dataclass(frozen=True, slots=True)
class EndRefault(Op[None]):
    """Frames have pages again, or none was found; what nobody needs any more is freed."""

    tag = "end_refault"

    #: The task that had accessed them; it may have ended meanwhile.
    pid: int
    #: Those behind all that got a page have none.
    got: ByNode
    frames: bytes

    def apply(self, node: NodeState) -> None:
        """Note the nodes of the new pages."""
        source = node.tasks.source
        if self.pid in node.tasks:
            node.tasks[self.pid].majflt += sum(count for _, count in self.got)
        for nid, frames in by_node(self.got, self.frames):
            if nid >= 0:
                source.nids[frames] = nid
            unneeded = source.state[frames] == FREED
            source.state[frames] = IDLE
            free_frames(node, frames[unneeded], None)

    def check(self, node: NodeState) -> None:
        """Check the nodes and the frames."""
        _check_got(node, self.got, self.frames)

    def text(self, node: NodeState, result: None) -> str:
        """Return the op as one line."""
        got = " ".join(f"node{nid}={count}" for nid, count in self.got)
        return f"refaulted {got or 'nothing'} of={len(self.frames) // 4}"

    @property
    def payload(self) -> int:
        """Bytes of the frames."""
        return len(self.frames)
