"""Tasks of the asyncio client. Those of the blocking one, ``_sync_task.py``, are generated from it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Protocol, Self

from numa_client._errors import NumaError
from numa_client._policy import Policy
from numa_client._task import TaskCall, TaskResult, mode_of, prot_of

_SHARED, _PRIVATE, _FIXED, _ANONYMOUS, _POPULATE = 0x01, 0x02, 0x10, 0x20, 0x8000
_MF_STRICT, _MF_MOVE = 1, 2
_MREMAP_MAYMOVE = 1


class AsyncTaskHome(Protocol):
    """What a task needs of its session."""

    async def _run_task(self, pid: int, calls: Sequence[TaskCall]) -> tuple[TaskResult, ...]:
        """Has a task make calls."""


class AsyncTask:
    """A task with an address space, an async context manager that ends it. Made by ``session.spawn()``.

    A call that Linux refuses raises OSError with its errno.
    """

    def __init__(self, session: AsyncTaskHome, pid: int) -> None:
        self._session = session
        #: Its number, unique in the machine.
        self.pid = pid

    async def run(self, *calls: TaskCall) -> tuple[TaskResult, ...]:
        """Makes calls one after the other, in one request; the last result may be of a call that failed."""
        return await self._session._run_task(self.pid, calls)

    async def mmap(
        self,
        length: int,
        prot: str = "rw",
        *,
        shared: bool = False,
        file: str = "",
        offset: int = 0,
        address: int = 0,
        fixed: bool = False,
        populate: bool = False,
        flags: int = 0,
    ) -> int:
        """Maps `length` bytes of a file by its path, or without one of no file; returns the address.

        `flags` are further MAP_* flags. Tasks of one home that map one path share its pages.
        """
        flags |= (_SHARED if shared else _PRIVATE) | (0 if file else _ANONYMOUS)
        flags |= (_FIXED if fixed else 0) | (_POPULATE if populate else 0)
        numbers = address, length, prot_of(prot), flags, offset
        return (await self._call(TaskCall("mmap", numbers, file))).value

    async def munmap(self, address: int, length: int) -> None:
        """Unmaps a range."""
        await self._call(TaskCall("munmap", (address, length)))

    async def mprotect(self, address: int, length: int, prot: str) -> None:
        """Changes what may be done with a range: "r", "rw", "rx", or "" for nothing."""
        await self._call(TaskCall("mprotect", (address, length, prot_of(prot))))

    async def mremap(self, address: int, old_length: int, new_length: int, *, may_move: bool = True) -> int:
        """Makes a mapping longer or shorter; returns its address."""
        numbers = address, old_length, new_length, _MREMAP_MAYMOVE if may_move else 0, 0
        return (await self._call(TaskCall("mremap", numbers))).value

    async def madvise(self, address: int, length: int, advice: int) -> None:
        """Follows an advice (MADV_*) for a range."""
        await self._call(TaskCall("madvise", (address, length, advice)))

    async def brk(self, address: int = 0) -> int:
        """Asks for the heap to end at an address; returns where it ends."""
        return (await self._call(TaskCall("brk", (address,)))).value

    async def mlock(self, address: int, length: int) -> None:
        """Locks a range, which is faulted in."""
        await self._call(TaskCall("mlock", (address, length, 0)))

    async def munlock(self, address: int, length: int) -> None:
        """Unlocks a range."""
        await self._call(TaskCall("munlock", (address, length)))

    async def touch(self, address: int, length: int, *, write: bool = False) -> TaskResult:
        """Reads or writes something in every page of a range, at most 65,536 pages. EFAULT is SIGSEGV."""
        return await self._call(TaskCall("touch", (address, length, int(write))))

    async def fork(self) -> AsyncTask:
        """Returns a child, which has the same pages until one of the two writes to them."""
        return AsyncTask(self._session, (await self._call(TaskCall("fork"))).value)

    async def set_mempolicy(self, policy: Policy | None) -> None:
        """Gives the task a memory policy; None is the default policy."""
        nodes = tuple(policy.nodes) if policy else ()
        await self._call(TaskCall("set_mempolicy", (mode_of(policy),), nodes=nodes))

    async def mbind(
        self, address: int, length: int, policy: Policy | None, *, move: bool = False, strict: bool = False
    ) -> TaskResult:
        """Gives a range a memory policy; with `move` its pages move there. EIO: `strict`, and some do not."""
        nodes = tuple(policy.nodes) if policy else ()
        flags = (_MF_MOVE if move else 0) | (_MF_STRICT if strict else 0)
        calls = [TaskCall("mbind", (address, length, mode_of(policy), flags), nodes=nodes)]
        if policy is not None and policy.home_node is not None:
            calls.append(TaskCall("set_mempolicy_home_node", (address, length, policy.home_node, 0)))
        results = await self.run(*calls)
        return _succeeded(results[-1] if results[-1].errno else results[0])

    async def get_mempolicy(self, address: int | None = None) -> tuple[int, tuple[int, ...]]:
        """Returns mode (MPOL_*) and nodes of the task's policy, or of that of an address."""
        numbers = (0, 0) if address is None else (2, address)
        result = await self._call(TaskCall("get_mempolicy", numbers))
        return result.value, result.status

    async def migrate_pages(self, old: Sequence[int], new: Sequence[int]) -> TaskResult:
        """Moves the task's own pages from some nodes to others."""
        return await self._call(TaskCall("migrate_pages", nodes=tuple(old), to_nodes=tuple(new)))

    async def move_pages(self, addresses: Sequence[int], nodes: Sequence[int] = ()) -> tuple[int, ...]:
        """Moves pages each to its node, or without nodes tells them; returns a node or -errno of each."""
        return (await self._call(TaskCall("move_pages", tuple(addresses), nodes=tuple(nodes)))).status

    async def exit(self) -> None:
        """Ends the task: all that it has is freed."""
        await self._call(TaskCall("exit"))

    async def _call(self, call: TaskCall) -> TaskResult:
        (result,) = await self.run(call)
        return _succeeded(result)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError, NumaError):  # it may have ended, or its session
            await self.exit()


def _succeeded(result: TaskResult) -> TaskResult:
    """A result; OSError of one that failed."""
    if result.errno:
        raise OSError(result.errno, result.error)
    return result
