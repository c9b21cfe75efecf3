"""FilesService: /proc and /sys of the whole machine, rendered from snapshots of its nodes.

The machine's server asks the nodes that a file shows and renders, so that clients of any language need one
call and no renderer. The snapshot of one node is consistent; snapshots of two nodes are taken a call apart,
just as a kernel sums per-CPU counters one CPU after the other.
"""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar
from uuid import uuid4

import grpc.aio
from numa_client import NodeInfo
from numa_client._gen.numa.v1 import files_service_pb2 as pb2
from numa_client._gen.numa.v1 import files_service_pb2_grpc as pb2_grpc
from numa_client._gen.numa.v1 import (
    kmem_service_pb2,
    kmem_service_pb2_grpc,
    node_service_pb2,
)

from numa_service.machine.record import MachineRecord
from numa_service.machine.snapshot import IdleClock, NodePart, Part, assemble
from numa_service.machine.spec import MachineSpec
from numa_service.machine.vmalloc_init import vmalloc_nid
from numa_service.mm.memory_hotplug import MEMORY_BLOCK_PAGES
from numa_service.mm.mmzone import PAGE_SHIFT
from numa_service.mm.snapshot import MachineSnapshot
from numa_service.node.errors import InvalidRequest, NodeError, NotFound, Precondition
from numa_service.node.slab_caches import with_written
from numa_service.procfs import tree
from numa_service.procfs.needs import Of
from numa_service.procfs.sysfs_slab import ONLY_SHOWN
from numa_service.procfs.write import (
    OfflinePage,
    ResizeHugepages,
    ShrinkCache,
    TuneSlab,
    ValidateCache,
    WriteSlabFile,
    WriteSysctl,
    parse_sysctl_write,
    parse_write,
)
from numa_service.rpc.node_calls import NodeCalls
from numa_service.rpc.record_keeper import RecordKeeper

Context = grpc.aio.ServicerContext[Any, Any]
T = TypeVar("T")

#: Files in one message of ReadTree.
CHUNK = 500
#: Deadline of ChangeMemoryBlock: all pages of a memory block are migrated away before it goes off-line.
BLOCK_SECONDS = 60.0

_KMEM = kmem_service_pb2_grpc.KmemServiceStub
_BAD_DATA = (errno.EINVAL, errno.EFBIG, errno.ERANGE)
_BAD_REQUEST = (*_BAD_DATA, errno.ENAMETOOLONG, errno.ELOOP)


def refusal(error: OSError) -> NodeError:
    """Convert the error that open(2), read(2) or write(2) would have returned into a NodeError."""
    name = errno.errorcode.get(error.errno or 0, "EIO")
    path, reason = str(error.filename)[: tree.MAX_NAME], f"{name}: {error.strerror}"
    if error.errno == errno.ENOENT:
        return NotFound("file", path, reason)
    if error.errno in _BAD_REQUEST:
        return InvalidRequest("data" if error.errno in _BAD_DATA else "path", reason)
    return Precondition(f"{path}: {reason}")


class FilesServicer(pb2_grpc.FilesServiceServicer):
    """Reads ask the nodes for what they show (``procfs/needs.py``).

    The keeper of the machine's record writes sysctls. A write to a memory block's `state` goes to the
    nodes that have pages of the block.
    """

    def __init__(self, nodes: NodeCalls, spec: MachineSpec, keeper: RecordKeeper) -> None:
        self._nodes = nodes
        self._spec = spec
        self._keeper = keeper
        self._idle = IdleClock()

    async def ReadFile(self, request: pb2.ReadFileRequest, context: Context) -> pb2.ReadFileResponse:
        """The text of one file."""
        snapshot = await self._snapshot(request.path)
        text = _refusing(lambda: tree.read(snapshot, request.path))
        return pb2.ReadFileResponse(data=text.encode())

    async def ListDir(self, request: pb2.ListDirRequest, context: Context) -> pb2.ListDirResponse:
        """The entries of a directory."""
        snapshot = await self._snapshot(request.path)
        entries = _refusing(lambda: tree.listdir(snapshot, request.path))
        return pb2.ListDirResponse(
            entries=[pb2.DirEntry(name=e.name, mode=e.mode, target=e.target) for e in entries]
        )

    async def ReadTree(  # type: ignore[override]  # grpc.aio takes a coroutine that writes, too
        self, request: pb2.ReadTreeRequest, context: Context
    ) -> None:
        """Every file at or below a path, in messages of CHUNK files."""
        snapshot = await self._snapshot(request.path)
        files = _refusing(lambda: [_tree_file(*found) for found in tree.walk(snapshot, request.path)])
        for start in range(0, len(files), CHUNK):
            await context.write(pb2.ReadTreeResponse(files=files[start : start + CHUNK]))

    async def WriteFile(self, request: pb2.WriteFileRequest, context: Context) -> pb2.WriteFileResponse:
        """Write a sysctl, what a slab cache has, the size of a pool of huge pages, a block's state.

        The first two are written for every node; one that is away gets them when it is back. A memory block
        is changed on each node that has pages of it.
        """
        sysctl = _refusing(lambda: parse_sysctl_write(self._spec, request.path, request.data))
        if sysctl is not None:
            return pb2.WriteFileResponse(note=await self._keeper.write_sysctl(sysctl.key, sysctl.value))
        snapshot = await self._snapshot(request.path)
        wanted = _refusing(lambda: parse_write(snapshot, request.path, request.data))
        if isinstance(wanted, WriteSysctl):
            return pb2.WriteFileResponse(note=await self._keeper.write_sysctl(wanted.key, wanted.value))
        if isinstance(wanted, ResizeHugepages):
            await self._resize_hugepages(wanted)
        elif isinstance(wanted, OfflinePage):
            return pb2.WriteFileResponse(note=await self._offline_page(snapshot, wanted))
        elif isinstance(wanted, TuneSlab):
            await self._keeper.write_tunables(wanted.tunables)
        elif isinstance(wanted, ShrinkCache):
            await self._shrink(wanted.cache)
        elif isinstance(wanted, ValidateCache):
            return pb2.WriteFileResponse(note=await self._validate(wanted.cache))
        elif isinstance(wanted, WriteSlabFile):
            return pb2.WriteFileResponse(note=await self._write_slab_file(wanted))
        elif wanted is not None:
            # a block can span the border of two nodes: each of them changes its part
            owners = [
                node.nid
                for node in snapshot.nodes
                if any(block.number == wanted.block for block in node.memory_blocks)
            ]
            change = node_service_pb2.ChangeMemoryBlockRequest(
                request_id=uuid4().hex, block=wanted.block, state=wanted.state
            )
            for node in self._nodes.nodes:
                if node.node in owners:
                    await self._nodes.ask(node, "ChangeMemoryBlock", change, BLOCK_SECONDS)
        return pb2.WriteFileResponse()

    async def _resize_hugepages(self, wanted: ResizeHugepages) -> None:
        """Have the node that keeps the pools of huge pages do it."""
        request = node_service_pb2.ResizeHugepagesRequest(
            request_id=uuid4().hex, huge_page_kb=wanted.kb, count=wanted.count, node=wanted.nid
        )
        keeper = vmalloc_nid(self._spec)
        for node in self._nodes.nodes:
            if node.node == keeper:
                await self._nodes.ask(node, "ResizeHugepages", request, BLOCK_SECONDS)

    async def _offline_page(self, snapshot: MachineSnapshot, wanted: OfflinePage) -> str:
        """Have the node that has a page take it out of use; what its kernel prints."""
        block = wanted.pfn // MEMORY_BLOCK_PAGES
        owners = [node.nid for node in snapshot.nodes if any(b.number == block for b in node.memory_blocks)]
        if not owners:
            raise Precondition(f"ENXIO: no memory is at {wanted.pfn << PAGE_SHIFT:#x}")
        request = node_service_pb2.OfflinePageRequest(
            request_id=uuid4().hex, pfn=wanted.pfn, soft=wanted.soft
        )
        for node in self._nodes.nodes:
            if node.node in owners:
                try:
                    answer = await self._nodes.ask(node, "OfflinePage", request, BLOCK_SECONDS)
                except NotFound:
                    continue  # the block spans the border of two nodes
                return str(answer.message)
        reason = "EIO" if wanted.soft else "EBUSY"
        raise Precondition(f"{reason}: there is a hole at {wanted.pfn << PAGE_SHIFT:#x}")

    async def _shrink(self, cache: str) -> None:
        """Shrink a slab cache of the machine (kmem_cache_shrink).

        CPUs of all nodes give their slabs back first: what they gave to a node that had been asked before
        them goes in the second round.
        """
        for _ in range(2):
            for node in self._nodes.nodes:
                request = kmem_service_pb2.ShrinkCacheRequest(request_id=uuid4().hex, cache=cache)
                await self._nodes.ask(node, "ShrinkCache", request, stub=_KMEM)

    async def _validate(self, cache: str) -> str:
        """Check the objects of a slab cache on every node; what the kernel reports (validate_slab_cache)."""
        report: list[str] = []
        for method, kind in (
            ("FlushCache", kmem_service_pb2.FlushCacheRequest),
            ("ValidateCache", kmem_service_pb2.ValidateCacheRequest),
        ):
            for node in self._nodes.nodes:
                request = kind(request_id=uuid4().hex, cache=cache)
                answer = await self._nodes.ask(node, method, request, stub=_KMEM)
                report += getattr(answer, "report", ())
        return "\n".join(report)

    async def _write_slab_file(self, wanted: WriteSlabFile) -> str:
        """Write a number to a file of a slab cache, for every node; a note if nothing follows from it."""

        def written(record: MachineRecord) -> MachineRecord:
            caches = with_written(record.caches[1], wanted.cache, wanted.file, wanted.value)
            return record.with_caches(caches)

        await self._keeper.change(written)
        if wanted.file == "cpu_partial":  # cpu_partial_store
            for node in self._nodes.nodes:
                request = kmem_service_pb2.FlushCacheRequest(request_id=uuid4().hex, cache=wanted.cache)
                await self._nodes.ask(node, "FlushCache", request, stub=_KMEM)
        return (
            "" if wanted.file not in ONLY_SHOWN else f"{wanted.file} is kept and shown, and changes nothing"
        )

    async def _snapshot(self, path: str) -> MachineSnapshot:
        """Ask the nodes that a path depends on for what it shows; the snapshot is for this path only."""
        needs = tree.needs(path)
        everyone = self._nodes.nodes
        asked: Sequence[NodeInfo] = ()
        if needs.of is Of.EVERY:
            asked = everyone
        elif needs.of is Of.NODE:
            asked = [node for node in everyone if node.node == needs.nid]
        elif needs.of is Of.ANY:
            asked = [node for node in everyone if node.address][:1] or everyone[:1]
        parts = await self._ask(asked, needs.parts, needs.pid)
        if Part.PAGE_TABLES in needs.parts and needs.of is Of.NODE:
            homes = {nid for part in parts for nid in part.table_homes}
            others = [node for node in everyone if node.node in homes]
            parts += await self._ask(others, Part.PAGE_TABLES)
        uptime = None
        if Part.UPTIME in needs.parts:
            uptime = self._idle.read(self._spec, parts, time.time())
        record = self._keeper.record
        offline = [nid for nid, (_, memory) in record.memory.items() if not memory.online]
        return assemble(self._spec, parts, uptime, record.caches[1], offline)

    async def _ask(self, nodes: Iterable[NodeInfo], parts: Part, pid: int = 0) -> list[NodePart]:
        request = node_service_pb2.GetSnapshotRequest(pid=pid, parts=parts.value)
        answers = await asyncio.gather(*(self._nodes.ask(node, "GetSnapshot", request) for node in nodes))
        return [NodePart.from_json(answer.json) for answer in answers]


def _refusing(work: Callable[[], T]) -> T:
    try:
        return work()
    except OSError as error:
        raise refusal(error) from None


def _tree_file(path: str, entry: tree.Entry, text: str) -> pb2.TreeFile:
    if entry.target:
        return pb2.TreeFile(path=path, mode=entry.mode, target=entry.target)
    return pb2.TreeFile(path=path, mode=entry.mode, data=text.encode())
