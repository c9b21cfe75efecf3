"""What a node knows of its pages, and a home of its tasks' pages, for files that are arrays by page.

Neither has all of an entry: the node that has a page knows its flags and its page frame number, the home of
the tasks that map it how often it is mapped and by which address. :mod:`numa_service.node.page_files` puts
together what both say.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from numa_service.mm.mmap.entries import DIRTY, HWPOISON, PRESENT, ZERO, has, pfns_of
from numa_service.mm.mmap.frames import ANON, FILE
from numa_service.mm.mmap.rules import PAGE_SHIFT
from numa_service.mm.mmap.vm_flags import VM_HUGETLB, VM_SOFTDIRTY
from numa_service.mm.mmzone import MAX_ORDER_NR_PAGES, PAGEBLOCK_ORDER
from numa_service.mm.page_alloc import NO_PAGEBLOCK
from numa_service.mm.pgdata import (
    PG_ACTIVE,
    PG_BUDDY,
    PG_DIRTY,
    PG_HELD,
    PG_HOLE,
    PG_LRU,
    PG_REFERENCED,
    PG_RESERVED,
    PG_SLAB,
    PG_SWAPBACKED,
)
from numa_service.node.errors import InvalidRequest
from numa_service.node.node import Node
from numa_service.node.owners import CACHE_ID, PGTABLE_ID, TASKS_ID, Owner
from numa_service.node.page_bits import LOCKED
from numa_service.node.pfns import pack_indexes, unpack_indexes
from numa_service.node.task_pages import OWNER_IDS
from numa_service.procfs import page_bits as bits
from numa_service.procfs.page_bits import page_rules

Words = npt.NDArray[np.uint64]

#: Most pages that one question is about.
MAX_PAGES = 1 << 17
#: An entry of a page that is not the node's.
NOT_MINE = (1 << 64) - 1


class Ask(IntEnum):
    """What is asked."""

    #: Flags and mappings of a range of pages, by page frame number.
    PAGES = 0
    #: How often frames of the node's tasks are mapped, and of what kind they are.
    FRAMES = 1
    #: A range of the pages of a task's addresses.
    PAGEMAP = 2
    #: The page frame numbers of frames of an owner.
    PFNS = 3


class Question(NamedTuple):
    """A question; which fields count depends on what is asked."""

    what: Ask
    #: Of PAGES and PAGEMAP: the first page, and how many.
    first: int = 0
    pages: int = 0
    #: Of PAGEMAP.
    pid: int = 0
    #: Of PFNS.
    owner: Owner = Owner(0, 0, 0)
    #: Of FRAMES and PFNS, packed.
    frames: bytes = b""


class FramesOf(NamedTuple):
    """Pages of an answer that somebody else knows more of."""

    #: The node to ask: of PAGES the home of the owner, of PAGEMAP the node that has the pages.
    nid: int
    owner: Owner
    #: Where they are in the answer, packed as indexes; and their frame numbers.
    at: bytes
    frames: bytes


class Answer(NamedTuple):
    """What a node knows; arrays are packed."""

    #: 64 bits for each page. Of PAGES: kpageflags, NOT_MINE of others' pages. Of PAGEMAP: entries without the
    #: page frame number. Of PFNS: numbers, NOT_MINE of pages that are gone.
    words: bytes = b""
    #: Of PAGES and FRAMES: how often each is mapped, 32 bits.
    counts: bytes = b""
    #: Of FRAMES: FILE, ANON or SHMEM, a byte each.
    kinds: bytes = b""
    others: tuple[FramesOf, ...] = ()


def answer(node: Node, question: Question) -> Answer:
    """Answer a question. InvalidRequest for one that is too large.

    An empty answer to PAGEMAP means that the task is not here, or has ended.
    """
    if not 0 <= question.pages <= MAX_PAGES or len(question.frames) > MAX_PAGES * 4:
        raise InvalidRequest("pages", f"at most {MAX_PAGES} pages")
    match question.what:
        case Ask.PAGES:
            return _pages(node, question.first, question.pages)
        case Ask.FRAMES:
            return _frames(node, question.frames)
        case Ask.PAGEMAP:
            return _pagemap(node, question.pid, question.first, question.pages)
    return _pfns(node, question.owner, question.frames)


def _bit(number: int) -> np.uint64:
    return np.uint64(1 << number)


# pages of this node


def _pages(node: Node, first: int, count: int) -> Answer:
    """stable_page_flags and page_mapcount of a range of page frame numbers."""
    pg, base = node.pgdat.pg, node.pgdat.base_pfn
    words = np.full(count, NOT_MINE, np.uint64)
    counts = np.zeros(count, np.int32)
    low, high = max(first - base, 0), min(first + count - base, len(pg.flags))
    if low >= high:
        return Answer(words.tobytes(), counts.tobytes())
    shown = _flags(node, low, high)
    at = low + base - first
    words[at : at + high - low] = shown
    counts[at : at + high - low] = pg.mapcount[low:high]
    counts[words == NOT_MINE] = 0
    others = tuple(_of_tasks(node, low, high, at))
    return Answer(words.tobytes(), counts.tobytes(), b"", others)


def _flags(node: Node, low: int, high: int) -> Words:
    """kpageflags of pages by their index; NOT_MINE where there is no memory of this node."""
    pg, rules = node.pgdat.pg, page_rules(node.pgdat.profile)
    flags = pg.flags[low:high]
    words = np.zeros(high - low, np.uint64)
    words[_spread(*_free_blocks(node, low, high, tails=rules.tails), low, high)] |= _bit(bits.KPF_BUDDY)
    heads, ends = _slabs(node, low, high)
    tails = _spread(heads + 1, ends, low, high)
    slab = _spread(heads, ends if rules.tails else heads + 1, low, high)
    words[slab] |= _bit(bits.KPF_SLAB)
    words[tails] |= _bit(bits.KPF_COMPOUND_TAIL)
    several = heads[ends > heads + 1]
    words[several[(several >= low) & (several < high)] - low] |= _bit(bits.KPF_COMPOUND_HEAD)
    _mark_huge(node, words, low, high)
    if rules.pgtable:
        slots = [slot for owner, slot in node.slots.items() if owner.id == PGTABLE_ID]
        tables = (flags & PG_HELD != 0) & (pg.order[low:high] == 0) & np.isin(pg.owner[low:high], slots)
        words[tables] |= _bit(bits.KPF_PGTABLE)
    words[flags & PG_RESERVED != 0] |= _bit(bits.KPF_RESERVED)
    _mark_lru(flags, pg.mapcount[low:high], words)
    base = node.pgdat.base_pfn
    for pfn in node.pgdat.memory_failure.pages:
        if low <= pfn - base < high:
            words[pfn - base - low] |= _bit(bits.KPF_HWPOISON)
    for pfn, name in node.page_bits.all():
        if low <= pfn - base < high:
            words[pfn - base - low] |= _bit(bits.KPF_LOCKED if name == LOCKED else bits.KPF_WRITEBACK)
    _mark_absent(node, words, low, high)
    return words


def _mark_lru(flags: npt.NDArray[np.uint16], mapcount: npt.NDArray[np.int32], words: Words) -> None:
    """Flags of pages of regions and of tasks; of these, their home knows whether they are mapped."""
    lru = flags & PG_LRU != 0
    anon = lru & (flags & PG_SWAPBACKED != 0)
    words[lru] |= _bit(bits.KPF_LRU) | _bit(bits.KPF_UPTODATE)
    words[anon] |= _bit(bits.KPF_SWAPBACKED) | _bit(bits.KPF_ANON)
    words[lru & (mapcount > 0)] |= _bit(bits.KPF_MMAP)
    for flag, number in ((PG_ACTIVE, bits.KPF_ACTIVE), (PG_REFERENCED, bits.KPF_REFERENCED)):
        words[lru & (flags & flag != 0)] |= _bit(number)
    # that an anonymous page was written to stands in page tables until it goes to swap
    words[lru & ~anon & (flags & PG_DIRTY != 0)] |= _bit(bits.KPF_DIRTY)


def _mark_huge(node: Node, words: Words, low: int, high: int) -> None:
    """Flags of huge pages in pools (PageHuge)."""
    for kb, pool in node.pgdat.hugetlb.pools.items():
        pages = kb >> PAGE_SHIFT - 10
        for pfn in (*pool.free, *pool.used):
            start = pfn - node.pgdat.base_pfn
            if start < high and low < start + pages:
                part = words[max(start - low, 0) : start + pages - low]
                part |= _bit(bits.KPF_HUGE) | _bit(bits.KPF_COMPOUND_TAIL)
                if start >= low:
                    part[0] ^= _bit(bits.KPF_COMPOUND_TAIL) | _bit(bits.KPF_COMPOUND_HEAD)


def _mark_absent(node: Node, words: Words, low: int, high: int) -> None:
    """Pages without memory are not this node's, and off-line blocks have no struct pages."""
    pgdat, pg = node.pgdat, node.pgdat.pg
    mine = np.zeros(high - low, np.bool_)
    for start, end in pgdat.ram:
        mine[max(start - pgdat.base_pfn - low, 0) : max(end - pgdat.base_pfn - low, 0)] = True
    words[~mine | (pg.flags[low:high] & PG_HOLE != 0)] = NOT_MINE
    blocks = np.arange(low >> PAGEBLOCK_ORDER, ((high - 1) >> PAGEBLOCK_ORDER) + 1)
    for block in blocks[pg.pb_migratetype[blocks] == NO_PAGEBLOCK].tolist():
        part = slice(max((block << PAGEBLOCK_ORDER) - low, 0), (block + 1 << PAGEBLOCK_ORDER) - low)
        words[part][mine[part]] = _bit(bits.KPF_NOPAGE)


def _free_blocks(
    node: Node, low: int, high: int, *, tails: bool
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Start and end of free blocks that reach into a range; without `tails`, of their first pages."""
    pg = node.pgdat.pg
    begin = low // MAX_ORDER_NR_PAGES * MAX_ORDER_NR_PAGES
    small = begin + np.flatnonzero(pg.flags[begin:high] & PG_BUDDY)
    blocks = np.arange(begin >> PAGEBLOCK_ORDER, ((high - 1) >> PAGEBLOCK_ORDER) + 1)
    blocks = blocks[pg.pb_order[blocks] > 0]
    starts = np.concatenate([small, blocks << PAGEBLOCK_ORDER]).astype(np.int64)
    orders = np.concatenate([pg.order[small], pg.pb_order[blocks] - 1]).astype(np.int64)
    return starts, starts + (1 << orders if tails else 1)


def _slabs(node: Node, low: int, high: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Start and end of the slabs that reach into a range."""
    pg = node.pgdat.pg
    begin = max(low - MAX_ORDER_NR_PAGES + 1, 0)
    heads = (begin + np.flatnonzero(pg.flags[begin:high] & PG_SLAB)).astype(np.int64)
    ends = heads + (1 << pg.order[heads].astype(np.int64))
    return heads[ends > low], ends[ends > low]


def _spread(
    starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64], low: int, high: int
) -> npt.NDArray[np.bool_]:
    """Which pages of a range are in one of some spans."""
    edges = np.zeros(high - low + 1, np.int32)
    np.add.at(edges, np.clip(starts - low, 0, high - low), 1)
    np.add.at(edges, np.clip(ends - low, 0, high - low), -1)
    return np.cumsum(edges)[:-1] > 0


def _of_tasks(node: Node, low: int, high: int, at: int) -> Iterator[FramesOf]:
    """The pages of tasks in a range, by their owner."""
    pg = node.pgdat.pg
    lru = pg.flags[low:high] & PG_LRU != 0
    owners = pg.owner[low:high]
    for owner, slot in node.slots.items():
        if owner.id not in (TASKS_ID, CACHE_ID):
            continue
        found = np.flatnonzero(lru & (owners == slot))
        if len(found):
            frames = pg.pgoff[low + found]
            yield FramesOf(owner.nid, owner, pack_indexes(at + found), pack_indexes(frames))


# tasks of this home


def _frames(node: Node, packed: bytes) -> Answer:
    """How often frames are mapped; 0 of numbers that nothing has."""
    frames = unpack_indexes(packed).astype(np.int64)
    known = node.tasks.frames
    safe = np.where(frames < len(known.mapcount), frames, 0)
    counts = np.where(safe > 0, known.mapcount[safe], 0).astype(np.int32)
    return Answer(b"", counts.tobytes(), known.kind[safe].astype(np.uint8).tobytes())


def _pagemap(node: Node, pid: int, first: int, count: int) -> Answer:
    """pagemap_read: entries of a range of a task's pages, with PM_FILE whether the kernel has it or not."""
    task = node.tasks.get(pid)
    if task is None:
        return Answer()
    rules = page_rules(node.pgdat.profile)
    # CONFIG_MEM_SOFT_DIRTY is for 64 bits
    soft_dirty = rules.pm_soft_dirty and node.pgdat.arch == "x86_64"
    process = task.process
    words = np.zeros(count, np.uint64)
    frames = np.zeros(count, np.int64)
    low, high = first << PAGE_SHIFT, first + count << PAGE_SHIFT
    for vma in process.mm.tree.intersecting(low, high):
        start, end = max(vma.start, low), min(vma.end, high)
        part = slice((start - low) >> PAGE_SHIFT, (end - low) >> PAGE_SHIFT)
        if soft_dirty and vma.flags & VM_SOFTDIRTY:
            words[part] |= _bit(bits.PM_SOFT_DIRTY)
        if vma.special is not None or vma.flags & VM_HUGETLB:
            continue
        entries = process.all_entries(start, end)
        present = has(entries, PRESENT)
        found = words[part]
        found[present] |= _bit(bits.PM_PRESENT)
        # as swap: of which kind, and which page it was, is not told
        found[has(entries, HWPOISON)] |= _bit(bits.PM_SWAP)
        if soft_dirty:
            found[present & has(entries, DIRTY)] |= _bit(bits.PM_SOFT_DIRTY)
        frames[part] = np.where(present & ~has(entries, ZERO), pfns_of(entries), 0)
    at = np.flatnonzero(frames)
    of_frame, known = frames[at], node.tasks.frames
    words[at[known.kind[of_frame] != ANON]] |= _bit(bits.PM_FILE)
    if rules.pm_exclusive:
        words[at[known.mapcount[of_frame] == 1]] |= _bit(bits.PM_MMAP_EXCLUSIVE)
    if not rules.pm_soft_dirty:
        words |= np.uint64(PAGE_SHIFT << bits.PM_PSHIFT)
    others = tuple(_by_node(node, at, of_frame))
    return Answer(words.tobytes(), others=others)


def _by_node(node: Node, at: npt.NDArray[np.int64], frames: npt.NDArray[np.int64]) -> Iterator[FramesOf]:
    """Frames by the node that has their pages, and by their owner."""
    tasks = node.tasks
    of_cache, nids = tasks.frames.kind[frames] == FILE, tasks.source.nids[frames]
    for kind, of_kind in ((ANON, ~of_cache), (FILE, of_cache)):
        owner = tasks.owner(kind)
        assert owner.id == OWNER_IDS[kind]
        for nid in np.unique(nids[of_kind]).tolist():
            of = of_kind & (nids == nid)
            yield FramesOf(nid, owner, pack_indexes(at[of]), pack_indexes(frames[of]))


def _pfns(node: Node, owner: Owner, packed: bytes) -> Answer:
    """The page frame numbers of an owner's frames."""
    frames = unpack_indexes(packed)
    if owner not in node.slots or not len(frames):
        return Answer(np.full(len(frames), NOT_MINE, np.uint64).tobytes())
    pfns = node.pgdat.region_pfns(node.slot_of(owner), frames)
    return Answer(pfns.astype(np.uint64).tobytes())
