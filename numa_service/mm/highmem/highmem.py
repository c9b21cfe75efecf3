"""The high memory of a machine: which task has mapped which page, in the pool and in slots."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numa_service.mm.highmem.kmap_local import KmapError, KmapLocal
from numa_service.mm.highmem.pkmap import Pkmap
from numa_service.mm.highmem.rules import HighmemRules


class Highmem:
    """Mappings of high pages. A task is a number; a page is a pfn of high memory."""

    def __init__(self, rules: HighmemRules, pfn_to_page: Callable[[int], int]) -> None:
        """`pfn_to_page` gives the address of a page's ``struct page``."""
        self.rules = rules
        self.pkmap = Pkmap(rules.golden_ratio, pfn_to_page)
        self.local = KmapLocal(rules)
        #: (task, pfn) → how often the task has mapped the page in the pool.
        self.users: dict[tuple[int, int], int] = {}

    def kmap(self, task: int, pfn: int) -> int | None:
        """The address of a page, mapped in the pool; None if the task has to sleep until an entry is free."""
        address = self.pkmap.kmap_high(pfn)
        if address is not None:
            self.users[task, pfn] = self.users.get((task, pfn), 0) + 1
        return address

    def kunmap(self, task: int, pfn: int) -> bool:
        """Give up one mapping; returns whether those who sleep should look again.

        KmapError, where a kernel stops, for a page that the task has not mapped.
        """
        users = self.users.get((task, pfn), 0)
        if not users:
            raise KmapError(f"kernel BUG at mm/highmem.c: kunmap of page {pfn:#x}, which is not mapped")
        if users == 1:
            del self.users[task, pfn]
        else:
            self.users[task, pfn] = users - 1
        return self.pkmap.kunmap_high(pfn)

    def end(self, task: int) -> None:
        """Give up all mappings of a task that ends."""
        for owner, pfn in sorted(key for key in self.users if key[0] == task):
            while (owner, pfn) in self.users:
                self.kunmap(owner, pfn)
        self.local.end(task)

    def dump(self) -> list[Any]:
        """All of it as plain data, which :meth:`load` reads."""
        return [self.pkmap.dump(), self.local.dump(), sorted(self.users.items())]

    def load(self, dumped: list[Any]) -> None:
        """Replace all of it by what :meth:`dump` returned."""
        pkmap, local, users = dumped
        self.pkmap.load(pkmap)
        self.local.load(local)
        self.users = {(task, pfn): count for (task, pfn), count in users}
