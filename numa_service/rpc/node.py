"""NodeService: the state of one node, its sysctls, its memory blocks, and its self-check."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Awaitable
from typing import Any

import grpc.aio
from numa_client._gen.numa.v1 import node_service_pb2 as pb2
from numa_client._gen.numa.v1 import node_service_pb2_grpc as pb2_grpc

from numa_service.machine.snapshot import EVERY_PART, OfTasks, Part
from numa_service.node.ask import Steps, through_outbox
from numa_service.node.errors import Busy, InvalidRequest, NotFound
from numa_service.node.hugetlb import set_max_huge_pages
from numa_service.node.kmap import inspect_page
from numa_service.node.machine_record import own_memory
from numa_service.node.memory_failure import memory_failure, recovery_line, soft_offline_page
from numa_service.node.memory_hotplug import change_memory_block
from numa_service.node.node import Node
from numa_service.node.ops import SetOomScoreAdj
from numa_service.node.owners import PGTABLE_ID, TASKS_ID
from numa_service.node.page_state import answer
from numa_service.node.struct_views import (
    cpu_time,
    highmem_view,
    pgdat_view,
    section_view,
    zone_view,
)
from numa_service.node.task_files import of_tasks, task_files
from numa_service.rpc import convert, page_messages
from numa_service.rpc.owner_checks import check_homes
from numa_service.rpc.peers import Peers
from numa_service.rpc.record_keeper import MachineDoor
from numa_service.rpc.requests import Requests

Context = grpc.aio.ServicerContext[Any, Any]


class NodeServicer(pb2_grpc.NodeServiceServicer):
    """Serves the state of one node, and changes sysctls and memory blocks."""

    def __init__(
        self,
        node: Node,
        requests: Requests,
        peers: Peers,
        machine: MachineDoor,
    ) -> None:
        """`machine` writes sysctls for the whole machine and is told when this node's memory changed."""
        self._node = node
        self._requests = requests
        self._peers = peers
        self._booted = time.time()
        self._machine = machine

    async def GetNode(self, request: pb2.GetNodeRequest, context: Context) -> pb2.GetNodeResponse:
        """Zones, counters, kswapd and sessions; the digest of the state if the request asks for it."""
        return convert.node_state(self._node, self._node.digest() if request.with_digest else "")

    async def WriteSysctl(self, request: pb2.WriteSysctlRequest, context: Context) -> pb2.WriteSysctlResponse:
        """Write a sysctl of the machine. On return this node and every other node that is up follow it."""
        return pb2.WriteSysctlResponse(note=await self._machine.write_sysctl(request.key, request.value))

    async def GetSnapshot(self, request: pb2.GetSnapshotRequest, context: Context) -> pb2.GetSnapshotResponse:
        """The node's part of the snapshot that the files of /proc and /sys are rendered from."""
        node = self._node
        if request.parts & ~EVERY_PART.value:
            raise InvalidRequest("parts", f"{request.parts:#x} has bits that no part has")
        parts = Part(request.parts) if request.HasField("parts") else EVERY_PART
        tables: tuple[OfTasks, tuple[int, ...]] = OfTasks(), ()
        if Part.PAGE_TABLES in parts:
            homes = {*node.slots.homes(PGTABLE_ID), *node.slots.homes(TASKS_ID)}
            tables = of_tasks(node), tuple(sorted(homes))
        part = node.machine.node_part(
            node.nid,
            cpu_time(node),
            self._booted,
            node.kmem.counts() if Part.SLAB in parts else {},
            task_files(node, request.pid) if Part.TASKS in parts else {},
            *tables,
            parts=parts,
        )
        if Part.KMSG in parts:
            part = dataclasses.replace(part, kmsg=self._kmsg())
        return pb2.GetSnapshotResponse(json=part.to_json())

    async def ReadPages(self, request: pb2.ReadPagesRequest, context: Context) -> pb2.ReadPagesResponse:
        """What the node knows of pages, for files that are arrays by page."""
        return page_messages.answer_message(answer(self._node, page_messages.question_of(request)))

    async def WriteOomScoreAdj(
        self, request: pb2.WriteOomScoreAdjRequest, context: Context
    ) -> pb2.WriteOomScoreAdjResponse:
        """Write oom_score_adj of a task."""
        reply = self._requests.once(0, request, self._write_oom_score_adj, context.time_remaining())
        return await reply if isinstance(reply, Awaitable) else reply

    def _write_oom_score_adj(self, request: pb2.WriteOomScoreAdjRequest) -> pb2.WriteOomScoreAdjResponse:
        if request.pid not in self._node.tasks:
            raise NotFound("task", str(request.pid), "it has ended, or never was")
        op = SetOomScoreAdj(request.pid, request.value)
        op.check(self._node)
        self._node.apply(op)
        return pb2.WriteOomScoreAdjResponse()

    def _kmsg(self) -> tuple[tuple[float, int, str], ...]:
        """The kernel's log with times since boot."""
        up, now = time.time() - self._booted, self._node.clock()
        return tuple(
            (max(0.0, up - (now - ns) / 1e9), level, text) for ns, level, text in self._node.kernel_log
        )

    async def Inspect(self, request: pb2.InspectRequest, context: Context) -> pb2.InspectResponse:
        """The fields of one kernel structure: pg_data_t, a zone, page or section, or high memory."""
        match request.WhichOneof("what"):
            case "zone":
                view: Any = zone_view(self._node, request.zone)
            case "pfn":
                steps = inspect_page(self._requests.inbox, request.pfn)
                view = await self._peers.run(through_outbox(self._node, steps), context.time_remaining())
            case "section":
                view = section_view(self._node, request.section)
            case "highmem":
                view = highmem_view(self._node)
            case _:
                view = pgdat_view(self._node)
        return pb2.InspectResponse(json=json.dumps(dataclasses.asdict(view)))

    async def ChangeMemoryBlock(
        self, request: pb2.ChangeMemoryBlockRequest, context: Context
    ) -> pb2.ChangeMemoryBlockResponse:
        """Take a memory block of this node off-line or on-line."""

        reply = self._requests.once(0, request, self._change_memory_block, context.time_remaining())
        changed = await reply if isinstance(reply, Awaitable) else reply
        if (memory := own_memory(self._node)) is not None:
            await self._machine.remember_memory(memory)
        return changed

    def _change_memory_block(
        self, request: pb2.ChangeMemoryBlockRequest
    ) -> Steps[pb2.ChangeMemoryBlockResponse]:
        yield from change_memory_block(self._node, request.block, request.state)
        return pb2.ChangeMemoryBlockResponse(zones=convert.zone_summaries(self._node))

    async def ResizeHugepages(
        self, request: pb2.ResizeHugepagesRequest, context: Context
    ) -> pb2.ResizeHugepagesResponse:
        """Make the pools of huge pages of all nodes, or of one, as large as asked for, as far as possible."""
        reply = self._requests.once(0, request, self._resize_hugepages, context.time_remaining())
        return await reply if isinstance(reply, Awaitable) else reply

    def _resize_hugepages(self, request: pb2.ResizeHugepagesRequest) -> Steps[pb2.ResizeHugepagesResponse]:
        nid = request.node if request.HasField("node") else None
        count = yield from set_max_huge_pages(self._requests.inbox, request.huge_page_kb, request.count, nid)
        return pb2.ResizeHugepagesResponse(count=count)

    async def OfflinePage(self, request: pb2.OfflinePageRequest, context: Context) -> pb2.OfflinePageResponse:
        """Take a page with bad memory out of use."""
        reply = self._requests.once(0, request, self._offline_page, context.time_remaining())
        return await reply if isinstance(reply, Awaitable) else reply

    def _offline_page(self, request: pb2.OfflinePageRequest) -> Steps[pb2.OfflinePageResponse]:
        if request.soft:
            yield from soft_offline_page(self._node, request.pfn)
            return pb2.OfflinePageResponse()
        done = yield from memory_failure(self._node, request.pfn)
        line = recovery_line(request.pfn, done)
        if not done.taken:
            raise Busy(f"EBUSY: {line}")
        return pb2.OfflinePageResponse(message=line)

    async def CheckInvariants(
        self, request: pb2.CheckInvariantsRequest, context: Context
    ) -> pb2.CheckInvariantsResponse:
        """Check every invariant of the node, and ask other nodes whether their owners of pages here live."""
        violations = self._node.check() + await check_homes(self._node, self._peers)
        return pb2.CheckInvariantsResponse(violations=violations)
