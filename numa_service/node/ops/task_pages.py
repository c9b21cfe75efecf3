"""Ops for the pages of tasks that other nodes have, or that took a walk over zonelists to get."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from numa_service.mm.mmap.frames import SHMEM, Pfns
from numa_service.node.ops.alloc import MAX_COUNT
from numa_service.node.ops.fields import check_below, check_indexes, check_nid
from numa_service.node.ops.op import Op
from numa_service.node.ops.task import check_pid
from numa_service.node.ops.task_work import free_frames
from numa_service.node.pfns import unpack_indexes
from numa_service.node.state import NodeState
from numa_service.node.task_pages import BUSY, FREED, IDLE
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
    check_indexes(packed)
    if packed:
        check_below("frames", int(unpack_indexes(packed).max()), len(node.tasks.source.nids))


@dataclass(frozen=True, slots=True)
class ReserveFrames(Op[bytes]):
    """Gives out frame numbers for pages that are to be got; the result is packed. LimitExceeded."""

    tag = "reserve_frames"

    pages: int

    def apply(self, node: NodeState) -> bytes:
        """Take numbers that nothing has."""
        return node.tasks.source.reserve(self.pages).astype("<u4").tobytes()

    def check(self, node: NodeState) -> None:
        """Check that a request may have so many pages."""
        check_below("pages", self.pages, MAX_COUNT + 1)

    def text(self, node: NodeState, result: bytes) -> str:
        """Return the op and its result as one line."""
        return f"frames {self.pages} reserved"


@dataclass(frozen=True, slots=True)
class StockTask(Op[None]):
    """Pages that were got for a task are its stock, for its next op; it may have ended meanwhile."""

    tag = "stock_task"

    pid: int
    #: FILE, ANON or SHMEM.
    kind: int
    #: Frames in the order in which they are to be used; those behind all that got a page are free again.
    got: ByNode
    frames: bytes

    def apply(self, node: NodeState) -> None:
        """Note the nodes of the pages."""
        tasks, source = node.tasks, node.tasks.source
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

    def check(self, node: NodeState) -> None:
        """Check the kind, the nodes and the frames."""
        check_below("kind", self.kind, SHMEM + 1)
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
        node.tasks.source.unreserve(unpack_frames(self.frames))

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
