"""The memory lines of ``/proc/PID/status``, and ``/proc/PID/statm`` (``task_mem``, ``task_statm``)."""

from __future__ import annotations

from collections.abc import Sequence

from numa_service.mm.mmap.frames import ANON, FILE, SHMEM
from numa_service.mm.mmap.hugetlb import hugetlb_usage
from numa_service.mm.mmap.mm_struct import MmStruct
from numa_service.mm.mmap.pgtables import PageTables
from numa_service.mm.mmap.rules import PAGE_MASK, PAGE_SHIFT, page_align


def text_pages(mm: MmStruct) -> int:
    """Pages of the program itself."""
    return (page_align(mm.end_code) - (mm.start_code & PAGE_MASK)) >> PAGE_SHIFT


def status_numbers(mm: MmStruct, tables: PageTables, rss: Sequence[int], hiwater_rss: int) -> dict[str, int]:
    """The lines by their label, in kB, in order. Nothing is in swap here.

    `rss`: pages by kind; `hiwater_rss`: the most that they have been together. They are exact: kernels until
    6.1 count the last 64 faults of a task later, and this does not.
    """
    counters, resident = mm.counters, sum(rss)
    text = text_pages(mm)
    pages = {
        "VmPeak": max(counters.hiwater_vm, counters.total_vm),
        "VmSize": counters.total_vm,
        "VmLck": counters.locked_vm,
        "VmPin": 0,
        "VmHWM": max(hiwater_rss, resident),
        "VmRSS": resident,
        "RssAnon": rss[ANON],
        "RssFile": rss[FILE],
        "RssShmem": rss[SHMEM],
        "VmData": counters.data_vm,
        "VmStk": counters.stack_vm,
        "VmExe": min(text, counters.exec_vm),
        "VmLib": counters.exec_vm - min(text, counters.exec_vm),
        "VmPTE": tables.pgtables_bytes() >> PAGE_SHIFT,
        "VmSwap": 0,
        "HugetlbPages": hugetlb_usage(mm.tree),
    }
    return {label: count << (PAGE_SHIFT - 10) for label, count in pages.items()}


def status_lines(mm: MmStruct, tables: PageTables, rss: Sequence[int], hiwater_rss: int) -> list[str]:
    """The lines as the file has them."""
    return [f"{label}:\t{kb:>8} kB" for label, kb in status_numbers(mm, tables, rss, hiwater_rss).items()]


def statm(mm: MmStruct, rss: Sequence[int]) -> str:
    """The whole file: pages mapped, resident, shared, of text, 0, of data and stack, 0."""
    counters = mm.counters
    data = counters.data_vm + counters.stack_vm
    return f"{counters.total_vm} {sum(rss)} {rss[FILE] + rss[SHMEM]} {text_pages(mm)} 0 {data} 0\n"
