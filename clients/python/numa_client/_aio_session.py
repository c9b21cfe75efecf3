"""Sessions of the asyncio client. Those of the blocking one, ``_sync_session.py``, are generated from it."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, TypeVar

import grpc
import grpc.aio

from numa_client import _codec as codec
from numa_client import _kernel_codec as kernel_codec
from numa_client import _program_codec as program_codec
from numa_client import _task_codec as task_codec
from numa_client import _types as t
from numa_client._aio_region import AsyncRegion
from numa_client._aio_task import AsyncTask
from numa_client._background import AsyncHeartbeat, AsyncPageStream
from numa_client._channel import BEATS_PER_LEASE
from numa_client._errors import (
    FailedPrecondition,
    NotFound,
    NumaError,
)
from numa_client._explanation import Explained
from numa_client._gen.numa.v1 import (
    kmem_service_pb2_grpc,
    memory_service_pb2,
    memory_service_pb2_grpc,
    task_service_pb2_grpc,
    vmalloc_service_pb2_grpc,
    workload_service_pb2,
    workload_service_pb2_grpc,
)
from numa_client._policy import Policy
from numa_client._program import Program
from numa_client._program_result import ProgramProgress, ProgramResult
from numa_client._search import wait_for_room
from numa_client._status import from_rpc_error
from numa_client._task import TaskCall, TaskResult

if TYPE_CHECKING:
    Method = grpc.aio.UnaryUnaryMultiCallable

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


async def call(method: Method[_Request, _Response], request: _Request, timeout: float) -> _Response:
    try:
        return await method(request, timeout=timeout)
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from error


class AsyncHomes(Protocol):
    """What a session needs of its machine: nodes, wherever they are."""

    _timeout: float
    _doubted: set[int]

    async def _reach(
        self,
        nid: int,
        call: Callable[[grpc.aio.Channel, float], Awaitable[_Response]],
        timeout: float | None = None,
        session_of: int = 0,
    ) -> _Response:
        """Calls a node; if it cannot be reached and has another address by then, calls it there again."""


class AsyncSession:
    """Holds pages on behalf of the caller. A background task renews the lease until :meth:`close`.

    Made by :meth:`AsyncMachine.session`. Once the lease has run out (loop blocked, network gone), the pages
    are free again and every call raises NotFound.
    """

    def __init__(self, machine: AsyncHomes, nid: int, cpu: int, lease_seconds: float, name: str) -> None:
        self._machine = machine
        self._nid = nid
        #: Lineage of the node when it opened the session; 0 before.
        self._lineage = 0
        self._channel: grpc.aio.Channel | None = None
        self._ids = codec.RequestIds()
        self._request = memory_service_pb2.OpenSessionRequest(
            client_name=name, lease_seconds=lease_seconds, request_id=next(self._ids)
        )
        self._info: t.SessionInfo | None = None
        self._heartbeat: AsyncHeartbeat | None = None
        #: CPU on which this session's requests run, unless a call names another one.
        self.cpu = cpu

    @property
    def info(self) -> t.SessionInfo:
        """The session's number, lease and node, as the service has them. RuntimeError before `open`."""
        if self._info is None:
            raise RuntimeError("the session is not open: use it as an async context manager, or call open()")
        return self._info

    async def open(self) -> t.SessionInfo:
        """Opens the session and starts the heartbeat. FailedPrecondition on a node without CPUs."""
        if self._info is not None:
            raise RuntimeError("a session is opened once: ask the machine for another one")
        response = await self._ask(lambda memory: memory.OpenSession, self._request)
        self._info = codec.session_info(response)
        self._lineage = response.lineage
        self._heartbeat = AsyncHeartbeat(self._beat, self._info.lease_seconds / BEATS_PER_LEASE)
        return self._info

    async def alloc(
        self,
        order: int = 0,
        count: int = 1,
        gfp: str = "GFP_KERNEL",
        *,
        cpu: int | None = None,
        policy: Policy | None = None,
        partial: bool = False,
    ) -> t.Allocation:
        """Allocates `count` blocks of 2^order pages; fewer only if `partial`, otherwise OutOfMemory."""
        request = self._alloc_request(order, count, gfp, cpu, policy, partial)
        return codec.allocation(await self._ask(lambda memory: memory.AllocPages, request), order)

    async def explain(
        self,
        order: int = 0,
        count: int = 1,
        gfp: str = "GFP_KERNEL",
        *,
        cpu: int | None = None,
        policy: Policy | None = None,
    ) -> Explained:
        """Allocates like :meth:`alloc`, and explains where the blocks come from. They must be freed as usual.

        A request that fails raises no OutOfMemory: it returns no blocks, and the explanation has the failure.
        """
        request = codec.alloc_request(
            self.info,
            next(self._ids),
            order=order,
            count=count,
            gfp=gfp,
            cpu=self.cpu if cpu is None else cpu,
            policy=policy,
            explain=True,
        )
        return codec.explained(await self._ask(lambda memory: memory.AllocPages, request), order)

    async def free(self, blocks: t.Blocks, *, cpu: int | None = None) -> t.Freed:
        """Frees an allocation, or a part of one (:meth:`Blocks.split`, :meth:`Blocks.on`).

        If one block is not this session's, none is freed: NotFound or FailedPrecondition.
        """
        return codec.freed(await self._ask(lambda memory: memory.FreePages, self._free_request(blocks, cpu)))

    async def kmem_cache_alloc(
        self,
        cache: str,
        count: int = 1,
        gfp: str = "GFP_KERNEL",
        *,
        cpu: int | None = None,
        node: int | None = None,
    ) -> t.AllocatedObjects:
        """Allocates `count` objects of a slab cache, from `node` if it is given; all or OutOfMemory.

        NotFound: the machine has no such cache. The session holds the objects until it frees them. The array
        has a `cost`.
        """
        where = self.cpu if cpu is None else cpu
        request = kernel_codec.alloc_objects_request(
            self.info, next(self._ids), cache, count, gfp, where, node
        )
        response = await self._ask_kmem(lambda kmem: kmem.AllocObjects, request)
        return kernel_codec.objects(response)

    async def kmalloc(
        self,
        size: int,
        count: int = 1,
        gfp: str = "GFP_KERNEL",
        *,
        cpu: int | None = None,
        node: int | None = None,
    ) -> t.AllocatedObjects:
        """Allocates `count` times `size` bytes from the cache of the size's class; all or OutOfMemory."""
        where = self.cpu if cpu is None else cpu
        request = kernel_codec.kmalloc_request(self.info, next(self._ids), size, count, gfp, where, node)
        response = await self._ask_kmem(lambda kmem: kmem.Kmalloc, request)
        return kernel_codec.objects(response)

    async def kmem_cache_free(self, cache: str, objects: t.Objects, *, cpu: int | None = None) -> t.Cost:
        """Frees objects of a cache, all or none; returns what it took.

        FailedPrecondition with the reason SLAB_BUG for what the kernel reports as a bug; its lines are in
        ``metadata["report"]``. NotFound for an object that was lost in the restart of its node.
        """
        where = self.cpu if cpu is None else cpu
        request = kernel_codec.free_objects_request(self.info, next(self._ids), cache, objects, where)
        return codec.cost((await self._ask_kmem(lambda kmem: kmem.FreeObjects, request)).cost)

    async def kfree(self, objects: t.Objects, *, cpu: int | None = None) -> t.Cost:
        """Frees objects of any caches; all or none. The rest is as for :meth:`kmem_cache_free`."""
        return await self.kmem_cache_free("", objects, cpu=cpu)

    async def write_object(self, address: int, offset: int, data: bytes, *, cpu: int | None = None) -> None:
        """Notes a write where the bytes of an object are not its own, as a task with a bug makes it.

        `offset` is from the address of the object: its size is past its end, a negative one before its start;
        of a free object (used after its free) all bytes are meant. In a cache with debugging the kernel's
        checks find it: :meth:`kmem_cache_free`, an allocation's `report`, or a write to ``validate``.
        """
        where = self.cpu if cpu is None else cpu
        request = kernel_codec.write_object_request(self.info, next(self._ids), address, offset, data, where)
        await self._ask_kmem(lambda kmem: kmem.WriteObject, request)

    async def vmalloc(
        self,
        size: int,
        *,
        cpu: int | None = None,
        node: int | None = None,
        huge: bool = False,
        caller: str = "numa_client",
    ) -> t.VmArea:
        """Maps `size` bytes of new pages one behind the other, of `node` if it is given (vmalloc_node).

        With `huge`, of huge pages where the kernel can map them. `caller` is who asks, as /proc/vmallocinfo
        prints it. OutOfMemory; the kernel's lines are in ``metadata["report"]``. Only :meth:`vfree` and the
        session's end free the pages.
        """
        where = self.cpu if cpu is None else cpu
        request = kernel_codec.vmalloc_request(self.info, next(self._ids), size, where, node, huge, caller)
        return kernel_codec.vm_area(await self._ask_vmalloc(lambda vmalloc: vmalloc.Vmalloc, request))

    async def vfree(self, address: int, *, cpu: int | None = None) -> int:
        """Frees the area that has an address; returns how many pages it had.

        FailedPrecondition for an address that the session has not: with the reason KERNEL_BUG it has what the
        kernel prints in ``metadata["report"]``. NotFound for an area that was lost in a restart.
        """
        where = self.cpu if cpu is None else cpu
        request = kernel_codec.vfree_request(self.info, next(self._ids), address, where)
        return (await self._ask_vmalloc(lambda vmalloc: vmalloc.Vfree, request)).freed_pages

    async def vmap(self, pages: int, *, cpu: int | None = None, caller: str = "numa_client") -> int:
        """Maps so many of the session's pages one behind the other; returns their first address."""
        where = self.cpu if cpu is None else cpu
        request = kernel_codec.vmap_request(self.info, next(self._ids), pages, where, caller)
        return (await self._ask_vmalloc(lambda vmalloc: vmalloc.Vmap, request)).address

    async def vunmap(self, address: int) -> None:
        """Ends a mapping by :meth:`vmap`. Errors are as for :meth:`vfree`."""
        request = kernel_codec.vunmap_request(self.info, next(self._ids), address)
        await self._ask_vmalloc(lambda vmalloc: vmalloc.Vunmap, request)

    async def kmap(self, pfn: int, *, atomic: bool = False) -> int:
        """Maps a page of the session, of its own node; returns its address.

        It waits until an entry of the pool is free. Who may not sleep (`atomic`) gets FailedPrecondition with
        the reason KERNEL_BUG instead.
        """
        request = kernel_codec.kmap_request(self.info, next(self._ids), pfn, atomic)
        return (await self._ask_vmalloc(lambda vmalloc: vmalloc.Kmap, request)).address

    async def kunmap(self, pfn: int) -> None:
        """Gives up a mapping by :meth:`kmap`. FailedPrecondition (KERNEL_BUG) for a page without one."""
        request = kernel_codec.kunmap_request(self.info, next(self._ids), pfn)
        await self._ask_vmalloc(lambda vmalloc: vmalloc.Kunmap, request)

    async def kmap_atomic(self, pfn: int, *, cpu: int | None = None) -> t.KmapSlot:
        """Maps a page of the session for a short time. FailedPrecondition (KERNEL_BUG): no slot is free."""
        where = self.cpu if cpu is None else cpu
        request = kernel_codec.kmap_atomic_request(self.info, next(self._ids), pfn, where)
        return kernel_codec.kmap_slot(await self._ask_vmalloc(lambda vmalloc: vmalloc.KmapAtomic, request))

    async def kunmap_atomic(self, pfn: int, *, cpu: int | None = None) -> None:
        """Gives up the last slot. FailedPrecondition (KERNEL_BUG) if it is not of this page."""
        where = self.cpu if cpu is None else cpu
        request = kernel_codec.kunmap_atomic_request(self.info, next(self._ids), pfn, where)
        await self._ask_vmalloc(lambda vmalloc: vmalloc.KunmapAtomic, request)

    def stream(self, window: int = 16) -> AsyncPageStream:
        """A pipeline for many small calls, of which at most `window` are unanswered at a time."""
        return AsyncPageStream(self, window)

    async def map_region(
        self, kind: t.RegionKind = "anon", nr_pages: int = 1, policy: Policy | None = None
    ) -> AsyncRegion:
        """Maps a region of `nr_pages` pageable pages, anonymous or of a file. It takes no page yet."""
        request = codec.map_request(self.info, next(self._ids), kind=kind, nr_pages=nr_pages, policy=policy)
        response = await self._ask(lambda memory: memory.MapRegion, request)
        return AsyncRegion(self, response.region, nr_pages)

    async def spawn(
        self,
        comm: str,
        cmdline: Sequence[str] = (),
        *,
        cpu: int | None = None,
        path: str = "",
        memlock_bytes: int | None = None,
    ) -> AsyncTask:
        """Begins a task that runs a small static program; it ends with the session at the latest.

        Its home is this session's node, its CPU may be any of the machine. OSError if there is no memory for
        it.
        """
        where = self.cpu if cpu is None else cpu
        request = task_codec.spawn_request(
            self.info, next(self._ids), where, comm, cmdline, path, memlock_bytes
        )
        return AsyncTask(self, task_codec.spawned(await self._ask_task(lambda task: task.SpawnTask, request)))

    def run_program(
        self, program: Program | str | Path, *, cpu: int | None = None, timeout: float | None = None
    ) -> AsyncGenerator[ProgramProgress | ProgramResult, None]:
        """Runs a workload program next to the node: yields progress a few times a second, then its result.

        `program` is the name of one in the library, the path of a TOML file, or a Program. It starts with the
        first iteration. It is stopped, and what it held is freed, by its limits, after `timeout` seconds, and
        when this iterator is closed or no longer read. A node that runs too many programs already is asked
        again for a while. OutOfMemory: it still does, or the program reached a limit or stopped at a failure.
        """
        request = program_codec.run_request(
            self.info, next(self._ids), program, self.cpu if cpu is None else cpu
        )
        return self._run(request, timeout)

    async def _run(
        self, request: workload_service_pb2.RunProgramRequest, timeout: float | None
    ) -> AsyncGenerator[ProgramProgress | ProgramResult, None]:
        """Yields what a program streams; retries if the service refused it and said how long to wait."""
        patience = self._machine._timeout if timeout is None else min(timeout, self._machine._timeout)
        deadline = time.monotonic() + patience
        while True:
            await self._go_home()
            call, begun = self._workload.RunProgram(request, timeout=timeout), False
            try:
                async for message in call:
                    begun = True
                    yield program_codec.report(message)
            except grpc.aio.AioRpcError as error:
                self._doubt_home()
                wait = wait_for_room(from_rpc_error(error), -math.inf if begun else deadline)
            else:
                return
            finally:
                call.cancel()
            await asyncio.sleep(wait)

    async def close(self) -> int:
        """Ends the session; returns how many pages this freed on all nodes, 0 if it had ended already."""
        if self._info is None or self._heartbeat is None:
            return 0
        heartbeat, self._heartbeat = self._heartbeat, None
        await heartbeat.stop()
        request = memory_service_pb2.CloseSessionRequest(
            session=self._info.session, session_token=self._info.token, request_id=next(self._ids)
        )
        try:
            response = await self._ask(lambda memory: memory.CloseSession, request)
        except NotFound:  # the lease has run out, which ended the session
            return 0
        return response.freed_pages

    async def _ask(
        self,
        method: Callable[[memory_service_pb2_grpc.MemoryServiceAsyncStub], Method[_Request, _Response]],
        request: _Request,
        at_most: float = math.inf,
    ) -> _Response:
        """Calls a method of the home node, at its current address, for `at_most` seconds."""
        return await self._machine._reach(
            self._nid,
            lambda channel, left: call(method(self._at(channel)), request, left),
            min(self._machine._timeout, at_most),
            self._lineage,
        )

    async def _ask_kmem(
        self,
        method: Callable[[kmem_service_pb2_grpc.KmemServiceAsyncStub], Method[_Request, _Response]],
        request: _Request,
    ) -> _Response:
        """Calls a method of the home node's KmemService."""
        return await self._machine._reach(
            self._nid,
            lambda channel, left: call(method(kmem_service_pb2_grpc.KmemServiceStub(channel)), request, left),
            session_of=self._lineage,
        )

    async def _ask_task(
        self,
        method: Callable[[task_service_pb2_grpc.TaskServiceAsyncStub], Method[_Request, _Response]],
        request: _Request,
    ) -> _Response:
        """Calls a method of the home node's TaskService."""
        return await self._machine._reach(
            self._nid,
            lambda channel, left: call(method(task_service_pb2_grpc.TaskServiceStub(channel)), request, left),
            session_of=self._lineage,
        )

    async def _run_task(self, pid: int, calls: Sequence[TaskCall]) -> tuple[TaskResult, ...]:
        """Has a task make calls; returns the results of those that were made."""
        request = task_codec.run_request(self.info, next(self._ids), pid, calls)
        return task_codec.results(await self._ask_task(lambda task: task.RunTask, request))

    async def _ask_vmalloc(
        self,
        method: Callable[[vmalloc_service_pb2_grpc.VmallocServiceAsyncStub], Method[_Request, _Response]],
        request: _Request,
    ) -> _Response:
        """Calls a method of the home node's VmallocService."""
        return await self._machine._reach(
            self._nid,
            lambda channel, left: call(
                method(vmalloc_service_pb2_grpc.VmallocServiceStub(channel)), request, left
            ),
            session_of=self._lineage,
        )

    async def _go_home(self) -> memory_service_pb2_grpc.MemoryServiceAsyncStub:
        """The stubs of the home node at its current address, for calls that are not repeated: streams."""

        async def arrive(
            channel: grpc.aio.Channel, _: float
        ) -> memory_service_pb2_grpc.MemoryServiceAsyncStub:
            return self._at(channel)

        return await self._machine._reach(self._nid, arrive, session_of=self._lineage)

    def _doubt_home(self) -> None:
        """Notes that a call of the home node broke off: its address is looked up before the next one."""
        self._machine._doubted.add(self._nid)

    def _at(self, channel: grpc.aio.Channel) -> memory_service_pb2_grpc.MemoryServiceAsyncStub:
        """The stubs of the home node's services over a channel."""
        if self._channel is not channel:
            self._memory = memory_service_pb2_grpc.MemoryServiceStub(channel)
            self._workload = workload_service_pb2_grpc.WorkloadServiceStub(channel)
            self._channel = channel
        return self._memory

    def _alloc_request(
        self, order: int, count: int, gfp: str, cpu: int | None, policy: Policy | None, partial: bool
    ) -> memory_service_pb2.AllocPagesRequest:
        return codec.alloc_request(
            self.info,
            next(self._ids),
            order=order,
            count=count,
            gfp=gfp,
            cpu=self.cpu if cpu is None else cpu,
            policy=policy,
            partial=partial,
        )

    def _free_request(self, blocks: t.Blocks, cpu: int | None) -> memory_service_pb2.FreePagesRequest:
        cpu = self.cpu if cpu is None else cpu
        return codec.free_request(self.info, next(self._ids), blocks, cpu)

    async def migrate_pages(
        self, old: Sequence[int], new: Sequence[int], *, cpu: int | None = None
    ) -> t.MovedPages:
        """Moves the pages of all regions from some nodes to others, as migrate_pages(2)."""
        request = codec.migrate_request(
            self.info, next(self._ids), old, new, self.cpu if cpu is None else cpu
        )
        response = await self._ask(lambda memory: memory.MigratePages, request)
        return t.MovedPages(response.moved_pages, response.failed_pages)

    async def _beat(self, seconds: float) -> float:
        """Renews the lease within `seconds`; returns the seconds until the next renewal, 0 for never."""
        request = memory_service_pb2.RenewSessionRequest(
            session=self.info.session, session_token=self.info.token
        )
        try:
            response = await self._ask(lambda memory: memory.RenewSession, request, seconds)
        except (NotFound, FailedPrecondition):
            return 0  # the session is gone, or this client was closed
        except NumaError:
            return seconds  # the lease lasts for several beats: the next one may succeed
        return response.lease_seconds / BEATS_PER_LEASE

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            await self.close()
        else:
            with suppress(NumaError):  # an error here must not replace the one that ends the block
                await self.close()
