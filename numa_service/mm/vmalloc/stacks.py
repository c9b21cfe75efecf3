"""Kernel stacks of threads (kernel/fork.c with CONFIG_VMAP_STACK): aligned areas; each CPU keeps two.

A stack that is left goes to the CPU that leaves it, if that has room, and the next thread that is made there
gets it again: on whatever node its pages are, also if the thread is meant for another.
"""

from __future__ import annotations

from numa_service.mm.vmalloc.pages import NUMA_NO_NODE, Interleave
from numa_service.mm.vmalloc.vm_struct import VmStruct
from numa_service.mm.vmalloc.vmalloc import Vmalloc

#: THREAD_SIZE of x86-64 without KASAN, in bytes; stacks are aligned to it (THREAD_ALIGN).
THREAD_SIZE = 16 << 10
#: NR_CACHED_STACKS, for each CPU.
NR_CACHED_STACKS = 2


class ThreadStacks:
    """Stacks of a machine's threads: those kept by CPUs, and those that wait for a grace period."""

    def __init__(self, vmalloc: Vmalloc, cpus: int) -> None:
        """ValueError where stacks are not vmalloc'ed: on i386 they are pages of the buddy allocator."""
        if not vmalloc.layout.vmap_stack:
            raise ValueError("stacks are not vmalloc'ed on this architecture")
        self._vmalloc = vmalloc
        self._cached: list[list[VmStruct | None]] = [[None] * NR_CACHED_STACKS for _ in range(cpus)]
        self._delayed: list[VmStruct] = []

    def cached(self, cpu: int) -> list[VmStruct]:
        """What a CPU keeps."""
        return [stack for stack in self._cached[cpu] if stack is not None]

    def alloc(
        self, cpu: int, caller: str, *, node: int = NUMA_NO_NODE, policy: Interleave | None = None
    ) -> VmStruct:
        """A stack for a thread made on `cpu`: one kept there, or a new one (alloc_thread_stack_node)."""
        slots = self._cached[cpu]
        for slot, stack in enumerate(slots):
            if stack is not None:
                slots[slot] = None
                return stack
        return self._vmalloc.vmalloc(
            THREAD_SIZE, caller, node=node, align=THREAD_SIZE, cpu=cpu, policy=policy
        )

    def free(self, cpu: int, stack: VmStruct) -> None:
        """A thread has left its stack on `cpu`: it is kept there, or is freed after a grace period."""
        if not self._keep(cpu, stack):
            self._delayed.append(stack)

    def _keep(self, cpu: int, stack: VmStruct) -> bool:
        """Put a stack in the first empty place of a CPU (try_release_thread_stack_to_cache)."""
        slots = self._cached[cpu]
        for slot, other in enumerate(slots):
            if other is None:
                slots[slot] = stack
                return True
        return False

    def grace_period(self, cpu: int) -> None:
        """RCU callbacks of `cpu`: what waited is kept after all if there is room, else freed (since 5.18)."""
        delayed, self._delayed = self._delayed, []
        for stack in delayed:
            if not self._keep(cpu, stack):
                self._vmalloc.vfree(stack.addr)

    def offline_cpu(self, cpu: int) -> None:
        """A CPU goes off-line: what it keeps is freed (free_vm_stack_cache)."""
        for stack in self.cached(cpu):
            self._vmalloc.vfree(stack.addr)
        self._cached[cpu] = [None] * NR_CACHED_STACKS
