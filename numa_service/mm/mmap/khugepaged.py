"""khugepaged and MADV_COLLAPSE: small pages become huge ones (``mm/khugepaged.c``)."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

import numpy as np

from numa_service.mm.mmap.entries import (
    ACCESSED,
    DIRTY,
    HWPOISON,
    PRESENT,
    WRITE,
    ZERO,
    Entries,
    has,
    pfns_of,
)
from numa_service.mm.mmap.errnos import Errno
from numa_service.mm.mmap.frames import Frames, Pfns
from numa_service.mm.mmap.huge_memory import allowed, belong
from numa_service.mm.mmap.process import Process
from numa_service.mm.mmap.thp import Thp
from numa_service.mm.mmap.vma import Vma


class Scan(Enum):
    """enum scan_result: what came of looking at one PMD entry."""

    SUCCEED = auto()
    #: It is a huge page already.
    PMD_MAPPED = auto()
    #: Nothing is mapped there.
    PMD_NULL = auto()
    EXCEED_NONE_PTE = auto()
    EXCEED_SHARED_PTE = auto()
    #: The pages are of nodes too far from each other.
    ABORT = auto()
    #: No page may be written to.
    PAGE_RO = auto()
    LACK_REFERENCED_PAGE = auto()
    ALLOC_HUGE_PAGE_FAIL = auto()
    #: A page was lost to an error of its memory (__collapse_huge_page_swapin fails).
    FAIL = auto()


#: Results after which MADV_COLLAPSE goes on with the next huge page.
_GOES_ON: Final = (Scan.PMD_NULL, Scan.PAGE_RO, Scan.LACK_REFERENCED_PAGE)


@dataclass(frozen=True, slots=True)
class Nodes:
    """The facts about nodes that a collapse needs."""

    #: Distances from each node to each, or () if they do not matter: vm.zone_reclaim_mode is 0.
    distances: tuple[tuple[int, ...], ...] = ()
    #: node_reclaim_distance.
    reclaim_distance: int = 30


def khugepaged_enter(process: Process, vma: Vma) -> None:
    """khugepaged_enter_vma: a process is looked at from now on, if the VMA may have huge pages."""
    thp = process.frames.thp
    if thp is not None and allowed(thp, vma, smaps=True):
        thp.scan.enter(process)


def find_target_node(thp: Thp, load: list[int]) -> int:
    """hpage_collapse_find_target_node: the node with most of the pages; `load`: how many by node."""
    most = max(load)
    target = load.index(most)
    if thp.rules.takes_turns:
        later = [nid for nid, pages in enumerate(load) if pages == most and nid > thp.scan.last_target]
        if target <= thp.scan.last_target and later:
            target = later[0]
        thp.scan.last_target = target
    return target


def scan_pmd(
    process: Process, vma: Vma, index: int, *, by_daemon: bool, nodes: Nodes
) -> tuple[Scan, list[int]]:
    """hpage_collapse_scan_pmd: whether pages should become a huge one; and how many are of which node."""
    frames, thp = process.frames, process.frames.thp
    assert thp is not None
    address = index << process.shift
    if process.tables.is_huge(address):
        return Scan.PMD_MAPPED, []
    if not process.tables.has_table(address):
        return Scan.PMD_NULL, []
    row, settings = process.row(index), thp.settings
    mapped = has(row, PRESENT) & ~has(row, ZERO)
    pfns = pfns_of(row)
    shared = mapped & (frames.mapcount[pfns] > 1)
    most_shared = settings.khugepaged_max_ptes_shared if thp.rules.max_ptes_shared else 0
    # entries are looked at upwards, and the first reason to give up is it
    reasons: list[tuple[int, Scan]] = []
    if by_daemon:
        reasons.append((_beyond(~mapped, settings.khugepaged_max_ptes_none), Scan.EXCEED_NONE_PTE))
        reasons.append((_beyond(shared, most_shared), Scan.EXCEED_SHARED_PTE))
    nids = frames.source.nids_of(pfns[mapped])
    reasons.append((_too_far(mapped, nids.tolist(), nodes), Scan.ABORT))
    where, reason = min(reasons, key=lambda found: found[0])
    if where < len(row):
        _count_exceeded(thp, reason)
        return reason, []
    if not has(row, WRITE).any():
        return Scan.PAGE_RO, []
    if by_daemon and not (mapped & (has(row, ACCESSED) | frames.referenced[pfns])).any():
        return Scan.LACK_REFERENCED_PAGE, []
    if process.hwpoisons and has(row, HWPOISON).any():
        return Scan.FAIL, []
    return Scan.SUCCEED, np.bincount(nids).tolist()


def _beyond(where: np.ndarray, most: int) -> int:
    """The place of the entry that is one too many; behind all entries if none is."""
    found = np.flatnonzero(where)
    return int(found[most]) if len(found) > most else len(where)


def _too_far(mapped: np.ndarray, nids: list[int], nodes: Nodes) -> int:
    """hpage_collapse_scan_abort: the place of the first page of a node too far from that of one before."""
    if nodes.distances:
        seen: dict[int, None] = {}
        for place, nid in zip(np.flatnonzero(mapped).tolist(), nids, strict=True):
            if nid not in seen and any(nodes.distances[nid][at] > nodes.reclaim_distance for at in seen):
                return int(place)
            seen[nid] = None
    return len(mapped)


def _count_exceeded(thp: Thp, reason: Scan) -> None:
    if reason is Scan.EXCEED_NONE_PTE:
        thp.count("thp_scan_exceed_none_pte")
    elif reason is Scan.EXCEED_SHARED_PTE:
        thp.count("thp_scan_exceed_share_pte")


def collapse(process: Process, vma: Vma, index: int, *, by_daemon: bool, nodes: Nodes) -> Scan:
    """Look at one PMD entry, and make a huge page of what is mapped there if it is worth it."""
    result, load = scan_pmd(process, vma, index, by_daemon=by_daemon, nodes=nodes)
    if result is not Scan.SUCCEED:
        return result
    frames, thp = process.frames, process.frames.thp
    assert thp is not None
    pfns = frames.alloc_huge(find_target_node(thp, load), thp.collapse_gfp(by_daemon=by_daemon))
    if not len(pfns):
        thp.count("thp_collapse_alloc_failed")
        return Scan.ALLOC_HUGE_PAGE_FAIL
    thp.count("thp_collapse_alloc")
    collapse_huge_page(process, vma, index, pfns)
    return Scan.SUCCEED


def collapse_huge_page(process: Process, vma: Vma, index: int, pfns: Pfns) -> None:
    """Pages are copied into a huge one, and go; the page of PTEs waits behind its PMD entry."""
    row = process.row(index)
    old = pfns_of(row[_mapped(row)])
    row[:] = 0
    process.count(old, -1)
    process.frames.unmap(old)
    belong(process, vma, index, pfns)
    process.tables.deposit(index)
    process.map_pmd(index, pfns, WRITE | DIRTY | ACCESSED)


def _mapped(row: Entries) -> np.ndarray:
    return np.asarray(has(row, PRESENT) & ~has(row, ZERO))


def madvise_collapse(process: Process, vma: Vma, start: int, end: int, nodes: Nodes | None = None) -> None:
    """madvise_collapse: huge pages now, whatever the files say, wherever a range has room for one.

    EINVAL for a VMA that may have none, and if not all of it became huge; ENOMEM if there is none.
    """
    thp = process.frames.thp
    assert thp is not None
    if not allowed(thp, vma, enforce=False):
        raise Errno(errno.EINVAL, "the mapping may have no huge pages")
    failed = None
    for index in range(-(-start >> process.shift), end >> process.shift):
        result = collapse(process, vma, index, by_daemon=False, nodes=nodes or Nodes())
        if result in (Scan.SUCCEED, Scan.PMD_MAPPED):
            continue
        failed = result
        if result not in _GOES_ON:
            break
    if failed is Scan.ALLOC_HUGE_PAGE_FAIL:
        raise Errno(errno.ENOMEM, "there is no huge page")
    if failed is not None:
        raise Errno(errno.EINVAL, f"not all of it can be huge pages: {failed.name}")


class Khugepaged:
    """The daemon, without a clock: a round of work, and how long it sleeps after it."""

    def __init__(self, frames: Frames, nodes: Nodes | None = None) -> None:
        assert frames.thp is not None
        self._thp = frames.thp
        self._nodes = nodes or Nodes()
        #: Pages looked at of the process at which it is.
        self._looked = 0

    def wanted(self) -> bool:
        """khugepaged_has_work: whether there is somebody to look at."""
        return bool(self._thp.scan.slots) and not self._thp.is_off

    def do_scan(self) -> int:
        """khugepaged_do_scan: look at ``pages_to_scan`` pages, at everybody once; return the ms to sleep.

        Where there is no huge page to be had it sleeps, and goes on with what is left of the round; the next
        time in that round it gives up. A round that ends with an exception is gone on with by the next call.
        """
        scan, settings = self._thp.scan, self._thp.settings
        slept, scan.slept = scan.slept, None
        paused, scan.paused = scan.paused, None
        progress, passes, resumed, looked = paused or (*(slept or (0, 0)), slept is not None, 0)
        while True:
            passes += scan.current is None
            if not self.wanted() or passes >= 2:
                break
            try:
                done, result = self._scan_mm_slot(settings.khugepaged_pages_to_scan - progress, looked)
            except BaseException:
                scan.paused = progress, passes, resumed, self._looked
                raise
            progress, looked = progress + done, 0
            if progress >= settings.khugepaged_pages_to_scan:
                break
            if result is Scan.ALLOC_HUGE_PAGE_FAIL:
                if resumed:
                    break
                scan.slept = progress, passes
                return settings.khugepaged_alloc_sleep_millisecs
        return settings.khugepaged_scan_sleep_millisecs

    def _scan_mm_slot(self, pages: int, looked: int) -> tuple[int, Scan]:
        """khugepaged_scan_mm_slot: go on with one process; return pages looked at, and the last result.

        `looked`: how many were before the call was broken off.
        """
        scan, thp = self._thp.scan, self._thp
        if scan.current is None:
            scan.current, scan.address = next(iter(scan.slots)), 0
        process = scan.current
        assert isinstance(process, Process)
        progress, result = looked or 1, Scan.SUCCEED
        for vma in _from(process, scan.address):
            low = -(-vma.start // thp.size) * thp.size
            high = vma.end // thp.size * thp.size
            if not allowed(thp, vma) or scan.address > high:
                progress += 1
                continue
            scan.address = max(scan.address, low)
            while scan.address < high:
                index, self._looked = scan.address >> process.shift, progress
                result = collapse(process, vma, index, by_daemon=True, nodes=self._nodes)
                scan.pages_collapsed += result is Scan.SUCCEED
                scan.address += thp.size
                progress += thp.nr
                # a collapse has let go of the process's lock: it is begun anew where it was
                if progress >= pages or result in (Scan.SUCCEED, Scan.ALLOC_HUGE_PAGE_FAIL):
                    return progress, result
        scan.next_slot()
        return progress, result


def _from(process: Process, address: int) -> Iterable[Vma]:
    return [vma for vma in process.mm.tree if vma.end > address]
