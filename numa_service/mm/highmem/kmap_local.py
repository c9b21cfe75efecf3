"""Slots of kmap_atomic and kmap_local: short mappings in the fixmap, given up in the reverse order.

Until 5.10 each CPU has a stack of slots, on which whoever runs there maps. Since then a task has its own, and
takes its mappings along when it comes to another CPU.
"""

from __future__ import annotations

from typing import Any

from numa_service.mm.highmem.rules import HighmemRules


class KmapError(Exception):
    """A slot that is not there, or not the last: what stops or warns a kernel. Nothing has changed."""


class KmapLocal:
    """The slots of a machine's CPUs, or of its tasks."""

    def __init__(self, rules: HighmemRules) -> None:
        self._rules = rules
        #: By task or CPU: (task, pfn) of each slot in use, the oldest first.
        self.stacks: dict[int, list[tuple[int, int]]] = {}

    def push(self, task: int, cpu: int, pfn: int) -> int:
        """Map a page; returns the slot's number behind FIX_KMAP_BEGIN. KmapError if all are in use."""
        stack = self.stacks.setdefault(self._key(task, cpu), [])
        if len(stack) >= self._rules.usable_slots:
            name = "KM_MAX_IDX" if self._rules.slots_of_tasks else "KM_TYPE_NR"
            raise KmapError(f"kernel BUG at mm/highmem.c: slot {len(stack)}, {name} is {self._rules.slots}")
        stack.append((task, pfn))
        return len(stack) - 1 + self._rules.slots * cpu

    def pop(self, task: int, cpu: int, pfn: int) -> None:
        """Give up the last slot, which has to be of this page; KmapError otherwise."""
        key = self._key(task, cpu)
        stack = self.stacks.get(key, [])
        if not stack or stack[-1] != (task, pfn):
            raise KmapError(f"WARNING: at mm/highmem.c: page {pfn:#x} is not in the last slot")
        stack.pop()
        if not stack:
            del self.stacks[key]

    def end(self, task: int) -> None:
        """Give up every slot of a task that ends."""
        for key, stack in list(self.stacks.items()):
            stack[:] = [(owner, pfn) for owner, pfn in stack if owner != task]
            if not stack:
                del self.stacks[key]

    def _key(self, task: int, cpu: int) -> int:
        return task if self._rules.slots_of_tasks else cpu

    def dump(self) -> list[Any]:
        """All of it as plain data, which :meth:`load` reads."""
        return sorted(self.stacks.items())

    def load(self, dumped: list[Any]) -> None:
        """Replace all of it by what :meth:`dump` returned."""
        self.stacks = {key: [(task, pfn) for task, pfn in stack] for key, stack in dumped}
