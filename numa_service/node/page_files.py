"""``/proc/kpageflags``, ``kpagecount``, ``kpagecgroup`` and ``/proc/PID/pagemap``: arrays of 64 bits by page.

They are as long as a machine's memory, or a task's addresses, and are read by offset. Each is put together
from what nodes answer (:mod:`numa_service.node.page_state`): a reading is a generator that yields questions
with the nodes they are for, and is sent the answers in their order. Who drives it, asks them.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Generator
from typing import NamedTuple

import numpy as np

from numa_service.machine.spec import MachineSpec
from numa_service.mm.memory_hotplug import MEMORY_BLOCK_PAGES
from numa_service.mm.mmap.frames import ANON
from numa_service.mm.profile import profile_named
from numa_service.node.page_state import MAX_PAGES, NOT_MINE, Answer, Ask, FramesOf, Question, Words
from numa_service.node.task_state import home_of
from numa_service.procfs import page_bits as bits
from numa_service.procfs.page_bits import ENTRY, max_dump_pfn, page_rules, pagemap_entries

#: Questions with the nid of who is asked.
Asked = list[tuple[int, Question]]
#: A reading: the bytes are its result.
Reading = Generator[Asked, list[Answer], bytes]

#: Most bytes that are read at once.
MAX_READ = MAX_PAGES * ENTRY
#: The inode of the memory group at the top, whose pages all are (cgroup_ino of the root).
_ROOT_CGROUP = 1

_KPAGE = ("kpageflags", "kpagecount", "kpagecgroup")


class PageFile(NamedTuple):
    """One of the files."""

    #: kpageflags, kpagecount, kpagecgroup or pagemap.
    name: str
    #: Of pagemap.
    pid: int = 0


#: Paths of all such files, /proc/PID/pagemap with its pid.
PATH = re.compile(r"/?proc/(?:(kpage\w+)|([1-9][0-9]{0,8})/pagemap)")


def page_file(spec: MachineSpec, path: str) -> PageFile | None:
    """The file that a path is plainly that of; None if it is another one, or no file at all."""
    found = PATH.fullmatch(path)
    if found is None:
        return None
    if found[2]:
        return PageFile("pagemap", int(found[2]))
    has = found[1] in _KPAGE and (
        found[1] != "kpagecgroup" or page_rules(profile_named(spec.profile)).kpagecgroup
    )
    return PageFile(found[1]) if has else None


def size_of(spec: MachineSpec, file: PageFile) -> int:
    """Bytes of a file: where reading it ends (get_max_dump_pfn, task_size)."""
    if file.name == "pagemap":
        return pagemap_entries(spec.arch) * ENTRY
    return max_dump_pfn(spec.arch, (node.ram for node in spec.nodes)) * ENTRY


def read_at(spec: MachineSpec, file: PageFile, offset: int, length: int) -> Reading:
    """pread of a file: at most MAX_READ bytes, fewer at its end. OSError: EINVAL unless both are of entries.

    ENOENT for a task that there is not.
    """
    if offset % ENTRY or length % ENTRY:
        reason = f"{os.strerror(errno.EINVAL)}: offset and length are of whole entries of {ENTRY} bytes"
        raise OSError(errno.EINVAL, reason, file.name)
    length = max(0, min(length, size_of(spec, file) - offset, MAX_READ))
    first, count = offset // ENTRY, length // ENTRY
    if file.name == "pagemap":
        words = yield from _pagemap(spec, file.pid, first, count)
    elif count:
        words = yield from _kpage(spec, file.name, first, count)
    else:
        return b""
    return words.astype("<u8", copy=False).tobytes()


def drive(reading: Reading, ask: Callable[[int, Question], Answer]) -> bytes:
    """Read with nodes that answer at once."""
    try:
        asked = next(reading)
        while True:
            asked = reading.send([ask(nid, question) for nid, question in asked])
    except StopIteration as done:
        return bytes(done.value)


def _kpage(spec: MachineSpec, name: str, first: int, count: int) -> Generator[Asked, list[Answer], Words]:
    nids = [
        node.nid
        for node in spec.nodes
        if any(start < first + count and first < end for start, end in node.ram)
    ]
    answers = yield [(nid, Question(Ask.PAGES, first, count)) for nid in nids]
    words, counts = _absent(spec, first, count), np.zeros(count, np.int32)
    of_tasks: list[FramesOf] = []
    for of_node in answers:
        found = np.frombuffer(of_node.words, "<u8")
        mine = found != NOT_MINE
        words[mine] = found[mine]
        counts[mine] = np.frombuffer(of_node.counts, "<i4")[mine]
        of_tasks += of_node.others
    if name == "kpagecgroup":
        return (words >> np.uint64(bits.KPF_LRU) & np.uint64(1)) * np.uint64(_ROOT_CGROUP)
    homes = yield [(of.nid, Question(Ask.FRAMES, frames=of.frames)) for of in of_tasks]
    for of, home in zip(of_tasks, homes, strict=True):
        at = np.frombuffer(of.at, "<u4")
        mapped = np.frombuffer(home.counts, "<i4")
        counts[at] = mapped
        words[at] &= ~np.uint64(1 << bits.KPF_MMAP)
        words[at[mapped > 0]] |= np.uint64(1 << bits.KPF_MMAP)
        kinds = np.frombuffer(home.kinds, np.uint8)
        words[at[kinds != ANON]] &= ~np.uint64(1 << bits.KPF_ANON)
    return counts.astype(np.uint64) if name == "kpagecount" else words


def _absent(spec: MachineSpec, first: int, count: int) -> Words:
    """Entries of pages that no node has: in a section with RAM they are reserved, else there are none."""
    words = np.full(count, 1 << bits.KPF_NOPAGE, np.uint64)
    if spec.arch != "x86_64":
        words[:] = 1 << bits.KPF_RESERVED
        return words
    size = MEMORY_BLOCK_PAGES
    for node in spec.nodes:
        for start, end in node.ram:
            low, high = start // size * size - first, -(-end // size) * size - first
            if low < count and high > 0:
                words[max(low, 0) : high] = 1 << bits.KPF_RESERVED
    return words


def _pagemap(spec: MachineSpec, pid: int, first: int, count: int) -> Generator[Asked, list[Answer], Words]:
    home = home_of(pid, list(spec.nids))
    [answer] = yield [(home, Question(Ask.PAGEMAP, first, count, pid))]
    if count and not answer.words:
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), f"/proc/{pid}/pagemap")
    words = np.frombuffer(answer.words, "<u8").copy()
    others = answer.others
    answers = yield [(of.nid, Question(Ask.PFNS, owner=of.owner, frames=of.frames)) for of in others]
    present, of_file = np.uint64(1 << bits.PM_PRESENT), np.uint64(1 << bits.PM_FILE)
    rules = page_rules(profile_named(spec.profile))
    exclusive = np.uint64(1 << bits.PM_MMAP_EXCLUSIVE if rules.pm_exclusive else 0)
    for of, there in zip(others, answers, strict=True):
        at, pfns = np.frombuffer(of.at, "<u4"), np.frombuffer(there.words, "<u8")
        gone = at[pfns == NOT_MINE]
        words[at[pfns != NOT_MINE]] |= pfns[pfns != NOT_MINE]
        # the entry of a page of a file is none then; that of an anonymous one says where it is in swap, which
        # is not known here
        swapped = gone[words[gone] & of_file == 0]
        words[gone] &= ~(present | of_file | exclusive)
        words[swapped] |= np.uint64(1 << bits.PM_SWAP)
    if not rules.pm_file:
        words &= ~of_file
    return words
