"""What an address space may have at most: limits of its task, and memory promised in the whole machine."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import Final

from numa_service.mm.mmap.errnos import Errno
from numa_service.mm.mmap.rules import PAGE_SHIFT

RLIM_INFINITY: Final = (1 << 64) - 1

#: vm.overcommit_memory.
OVERCOMMIT_GUESS, OVERCOMMIT_ALWAYS, OVERCOMMIT_NEVER = range(3)


@dataclass(frozen=True, slots=True)
class Limits:
    """Resource limits in bytes (RLIMIT_*, the soft ones), and capabilities."""

    address_space: int = RLIM_INFINITY
    data: int = RLIM_INFINITY
    stack: int = 8 << 20
    memlock: int = 8 << 20
    #: vm.max_map_count: VMAs.
    max_map_count: int = 65530
    cap_ipc_lock: bool = False
    cap_sys_admin: bool = False
    cap_sys_rawio: bool = False

    def can_do_mlock(self) -> bool:
        """Whether the task may lock memory at all."""
        return self.memlock != 0 or self.cap_ipc_lock


@dataclass(slots=True)
class Committed:
    """Memory promised to all processes of a machine (vm_committed_as), in pages, and how much may be."""

    total_ram: int
    total_swap: int = 0
    #: OVERCOMMIT_*.
    mode: int = OVERCOMMIT_GUESS
    #: vm.overcommit_ratio in percent; counts if overcommit_kbytes is 0.
    ratio: int = 50
    kbytes: int = 0
    admin_reserve_kbytes: int = 8192
    user_reserve_kbytes: int = 131072
    hugetlb_pages: int = 0
    pages: int = 0

    def limit(self) -> int:
        """vm_commit_limit: CommitLimit in pages."""
        if self.kbytes:
            allowed = self.kbytes >> (PAGE_SHIFT - 10)
        else:
            allowed = (self.total_ram - self.hugetlb_pages) * self.ratio // 100
        return allowed + self.total_swap

    def charge(self, pages: int, total_vm: int, limits: Limits, *, guesses_by_total: bool) -> None:
        """Promise `pages` more to a process with `total_vm` mapped, or raise ENOMEM (__vm_enough_memory)."""
        if not self._enough(pages, total_vm, limits, guesses_by_total):
            raise Errno(errno.ENOMEM, f"{pages} pages cannot be promised")
        self.pages += pages

    def uncharge(self, pages: int) -> None:
        """Give back pages that were charged to the commit limit (vm_unacct_memory)."""
        self.pages -= pages

    def _enough(self, pages: int, total_vm: int, limits: Limits, guesses_by_total: bool) -> bool:
        if self.mode == OVERCOMMIT_ALWAYS:
            return True
        if self.mode == OVERCOMMIT_GUESS:
            return not guesses_by_total or pages <= self.total_ram + self.total_swap
        allowed = self.limit()
        if not limits.cap_sys_admin:
            allowed -= self.admin_reserve_kbytes >> (PAGE_SHIFT - 10)
        allowed -= min(total_vm // 32, self.user_reserve_kbytes >> (PAGE_SHIFT - 10))
        return self.pages + pages < allowed
