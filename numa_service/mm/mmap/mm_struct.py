"""struct mm_struct: the address space of a process, with its counters; and what all calls do to VMAs."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from numa_service.mm.mmap import vm_flags as vf
from numa_service.mm.mmap.errnos import Errno
from numa_service.mm.mmap.hugetlb import HugePool
from numa_service.mm.mmap.limits import Committed, Limits
from numa_service.mm.mmap.rules import PAGE_SHIFT, MmapRules, UserLayout, mmap_base
from numa_service.mm.mmap.vma_tree import VmaTree


@dataclass(slots=True)
class Counters:
    """Pages mapped, by what they are."""

    total_vm: int = 0
    data_vm: int = 0
    exec_vm: int = 0
    stack_vm: int = 0
    locked_vm: int = 0
    #: The most that total_vm has been (VmPeak), noted when it shrinks.
    hiwater_vm: int = 0


class MmStruct:
    """An address space. Calls are functions of the modules beside this one, which take it first."""

    def __init__(
        self,
        layout: UserLayout,
        rules: MmapRules,
        committed: Committed,
        limits: Limits | None = None,
        *,
        legacy: bool = False,
    ) -> None:
        self.layout = layout
        self.rules = rules
        self.committed = committed
        self.limits = limits or Limits()
        #: Room is looked for upwards (vm.legacy_va_layout).
        self.legacy = legacy
        self.mmap_base = mmap_base(layout, self.limits.stack, legacy=legacy)
        self.tree = VmaTree()
        self.counters = Counters()
        #: Pools of huge pages of the machine by size (log2 of bytes), the default one first.
        self.huge_pools: Mapping[int, HugePool] = {}
        #: Flags that new VMAs have (mlockall(MCL_FUTURE)).
        self.def_flags = 0
        #: Bounds of the program and of the heap, in bytes.
        self.start_code = self.end_code = 0
        self.start_data = self.end_data = 0
        self.start_brk = self.brk = 0
        #: An address within the first stack.
        self.start_stack = 0
        #: Called with an address at which VMAs come to meet: what is mapped across it has to be split.
        self.on_boundary: Callable[[int], None] | None = None

    @property
    def map_count(self) -> int:
        """VMAs."""
        return len(self.tree)

    def boundary(self, address: int) -> None:
        """vma_adjust_trans_huge: VMAs come to meet at an address."""
        if self.on_boundary is not None:
            self.on_boundary(address)

    def stat_account(self, flags: int, pages: int) -> None:
        """vm_stat_account: pages of a VMA come, or go if there are less than none."""
        counters = self.counters
        counters.total_vm += pages
        if vf.is_exec_mapping(flags):
            counters.exec_vm += pages
        elif vf.is_stack_mapping(flags):
            counters.stack_vm += pages
        elif vf.is_data_mapping(flags):
            counters.data_vm += pages

    def note_peak(self) -> None:
        """update_hiwater_vm: before VMAs go."""
        self.counters.hiwater_vm = max(self.counters.hiwater_vm, self.counters.total_vm)

    def check_expansion(self, flags: int, pages: int) -> None:
        """ENOMEM if `pages` more with these flags are beyond a resource limit (may_expand_vm)."""
        if not self.may_expand(flags, pages):
            raise Errno(errno.ENOMEM, f"{pages} pages more are beyond RLIMIT_AS or RLIMIT_DATA")

    def may_expand(self, flags: int, pages: int) -> bool:
        """may_expand_vm."""
        if self.counters.total_vm + pages > self.limits.address_space >> PAGE_SHIFT:
            return False
        if not self.rules.rlimit_data_everywhere or not vf.is_data_mapping(flags):
            return True
        return self.counters.data_vm + pages <= self.limits.data >> PAGE_SHIFT

    def check_mlock(self, flags: int, length: int) -> None:
        """EAGAIN if `length` bytes more that are locked are beyond RLIMIT_MEMLOCK (mlock_future_check)."""
        if not flags & vf.VM_LOCKED or self.limits.cap_ipc_lock:
            return
        if (length >> PAGE_SHIFT) + self.counters.locked_vm > self.limits.memlock >> PAGE_SHIFT:
            raise Errno(errno.EAGAIN, "more would be locked than RLIMIT_MEMLOCK allows")

    def charge(self, pages: int) -> None:
        """ENOMEM if the machine cannot promise `pages` more."""
        self.committed.charge(
            pages, self.counters.total_vm, self.limits, guesses_by_total=self.rules.guesses_by_total
        )
