"""The high memory of a machine: which task has mapped which page, in the pool and in slots.

There is one pool for all CPUs; slots are of a CPU, or of a task that runs on one. Where each node is a
process of its own, one has the pool, and each the slots of its CPUs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from numa_service.mm.highmem.kmap_local import KmapError, KmapLocal
from numa_service.mm.highmem.pkmap import Pkmap
from numa_service.mm.highmem.rules import HighmemRules

#: Who maps a page in the pool: its node, the node's lineage, and a number there.
Task: TypeAlias = tuple[int, int, int]


class PkmapUsers:
    """The pool of kmap, and which task has mapped which page. A page is a pfn of high memory."""

    def __init__(self, rules: HighmemRules, pfn_to_page: Callable[[int], int]) -> None:
        """`pfn_to_page` gives the address of a page's ``struct page``."""
        self.pkmap = Pkmap(rules.golden_ratio, pfn_to_page)
        #: (task, pfn) → how often the task has mapped the page.
        self.users: dict[tuple[Task, int], int] = {}
        #: Other nodes, tasks of which sleep until an entry is free.
        self.waiting: set[int] = set()

    def kmap(self, task: Task, pfn: int) -> int | None:
        """The address of a page, mapped in the pool; None if the task has to sleep until an entry is free."""
        address = self.pkmap.kmap_high(pfn)
        if address is not None:
            self.users[task, pfn] = self.users.get((task, pfn), 0) + 1
        return address

    def kunmap(self, task: Task, pfn: int) -> bool:
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

    def end(self, task: Task) -> None:
        """Give up all mappings of a task that ends."""
        for owner, pfn in sorted(key for key in self.users if key[0] == task):
            while (owner, pfn) in self.users:
                self.kunmap(owner, pfn)

    def tasks(self) -> list[Task]:
        """Those who have mapped pages."""
        return sorted({task for task, _ in self.users})

    def dump(self) -> list[Any]:
        """All of it as plain data, which :meth:`load` reads."""
        users = [(*task, pfn, count) for (task, pfn), count in sorted(self.users.items())]
        return [self.pkmap.dump(), users, sorted(self.waiting)]

    def load(self, dumped: list[Any]) -> None:
        """Replace all of it by what :meth:`dump` returned."""
        pkmap, users, waiting = dumped
        self.pkmap.load(pkmap)
        self.users = {((nid, lineage, id), pfn): count for nid, lineage, id, pfn, count in users}
        self.waiting = set(waiting)


class Highmem:
    """Mappings of high pages of a node's tasks, and perhaps the machine's pool."""

    def __init__(self, rules: HighmemRules, pool: PkmapUsers | None) -> None:
        self.rules = rules
        self.pool = pool
        #: A task is a number.
        self.local = KmapLocal(rules)

    def dump(self) -> list[Any]:
        """All of it as plain data, which :meth:`load` reads."""
        return [self.pool.dump() if self.pool else None, self.local.dump()]

    def load(self, dumped: list[Any]) -> None:
        """Replace all of it by what :meth:`dump` returned."""
        pool, local = dumped
        if self.pool:
            self.pool.load(pool)
        self.local.load(local)
