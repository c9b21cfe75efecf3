"""The nodes of the reference peer: they serve the contract with a bitmap as memory.

They know owners and fallback to the other node, but no zones or watermarks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from numa_client._gen.numa.v1 import (
    explanation_pb2,
    files_service_pb2,
    files_service_pb2_grpc,
    machine_service_pb2,
    machine_service_pb2_grpc,
    memory_service_pb2,
    memory_service_pb2_grpc,
    node_service_pb2,
    node_service_pb2_grpc,
    types_pb2,
)


def _retry_info(milliseconds: int) -> error_details_pb2.RetryInfo:
    info = error_details_pb2.RetryInfo()
    info.retry_delay.FromMilliseconds(milliseconds)
    return info


class Refused(Exception):
    """A refusal, which the peer answers with google.rpc error details."""

    def __init__(
        self, code: int, message: str, field: str = "", reason: str = "", retry_ms: int | None = None
    ) -> None:
        super().__init__(message)
        details = []
        for detail in (
            error_details_pb2.ErrorInfo(reason=reason, domain="numa.v1", metadata={"node": "0"}),
            error_details_pb2.BadRequest(
                field_violations=[{"field": field, "description": message}] if field else []
            ),
            *([] if retry_ms is None else [_retry_info(retry_ms)]),
        ):
            packed = any_pb2.Any()
            packed.Pack(detail)
            details.append(packed)
        self.status = status_pb2.Status(code=code, message=message, details=details)


class ReferenceMemory:
    """The memory of both nodes: which session holds which page."""

    def __init__(self, pages_per_node: int) -> None:
        self.owner = np.zeros((2, pages_per_node), np.int64)  # session that holds each page, 0: free
        self.regions: dict[int, tuple[int, dict[int, tuple[int, int]]]] = {}
        self.sessions: set[int] = set()
        self.addresses: list[str] = []
        self.lineages = [1, 1]
        self.lease_seconds = 30.0
        self.violations: list[str] = []
        self._numbers = iter(range(1, 1 << 31))

    def end_session(self, session: int) -> int:
        held = self.owner == session
        self.owner[held] = 0
        self.sessions.discard(session)
        return int(held.sum())

    def number(self) -> int:
        return next(self._numbers)

    def check_session(self, request: Any) -> None:
        if request.session not in self.sessions or request.session_token != self.token(request.session):
            raise Refused(code_pb2.NOT_FOUND, f"no session {request.session}", reason="SESSION_EXPIRED")

    def token(self, session: int) -> bytes:
        return session.to_bytes(16, "big")

    def take(self, session: int, order: int, count: int, nodes: tuple[int, ...]) -> list[tuple[int, int]]:
        """Take the first free blocks of the nodes in order, or nothing if there are not enough."""
        found: list[tuple[int, int]] = []
        for nid in nodes:
            free = (self.owner[nid].reshape(-1, 1 << order) == 0).all(axis=1)
            found += [(nid, int(block) << order) for block in np.flatnonzero(free)[: count - len(found)]]
        if len(found) < count:
            raise Refused(code_pb2.RESOURCE_EXHAUSTED, "out of memory", reason="OUT_OF_MEMORY")
        for nid, pfn in found:
            self.owner[nid, pfn : pfn + (1 << order)] = session
        return found


class ReferenceNode(
    files_service_pb2_grpc.FilesServiceServicer,
    machine_service_pb2_grpc.MachineServiceServicer,
    memory_service_pb2_grpc.MemoryServiceServicer,
    node_service_pb2_grpc.NodeServiceServicer,
):
    """The services of one node."""

    def __init__(self, machine: ReferenceMemory, nid: int) -> None:
        self.machine = machine
        self.nid = nid

    async def GetMachine(self, request: Any, context: Any) -> machine_service_pb2.GetMachineResponse:
        nodes = [
            {"node": nid, "cpus": [[0, 1], []][nid], "managed_pages": self.machine.owner.shape[1]}
            | {
                "address": self.machine.addresses[nid],
                "lineage": self.machine.lineages[nid],
                "fallback_order": [nid, 1 - nid],
            }
            for nid in (0, 1)
        ]
        return machine_service_pb2.GetMachineResponse(
            name="reference", profile="linux-6.1", nodes=nodes, distances=[10, 20, 21, 10]
        )

    async def OpenSession(self, request: Any, context: Any) -> memory_service_pb2.OpenSessionResponse:
        if self.nid:
            raise Refused(code_pb2.FAILED_PRECONDITION, f"node {self.nid} has no CPUs", reason="NO_CPUS")
        self.machine.sessions.add(session := self.machine.number())
        return memory_service_pb2.OpenSessionResponse(
            session=session,
            session_token=self.machine.token(session),
            lease_seconds=self.machine.lease_seconds,
            node=self.nid,
            lineage=self.machine.lineages[self.nid],
        )

    async def RenewSession(self, request: Any, context: Any) -> memory_service_pb2.RenewSessionResponse:
        self.machine.check_session(request)
        return memory_service_pb2.RenewSessionResponse(lease_seconds=self.machine.lease_seconds)

    async def CloseSession(self, request: Any, context: Any) -> memory_service_pb2.CloseSessionResponse:
        self.machine.check_session(request)
        return memory_service_pb2.CloseSessionResponse(freed_pages=self.machine.end_session(request.session))

    async def AllocPages(self, request: Any, context: Any) -> memory_service_pb2.AllocPagesResponse:
        self.machine.check_session(request)
        if request.order > 10:
            raise Refused(code_pb2.INVALID_ARGUMENT, "order 11: at most 10", field="order")
        if "GFP_" not in request.gfp_flags:
            raise Refused(code_pb2.INVALID_ARGUMENT, f"unknown gfp flag {request.gfp_flags!r}", "gfp_flags")
        nodes = tuple(request.policy.nodes) or (0, 1)
        blocks = self.machine.take(request.session, request.order, request.count, nodes)
        pages = [(nid, np.array([pfn for n, pfn in blocks if n == nid], "<u8")) for nid in nodes]
        return memory_service_pb2.AllocPagesResponse(
            pages=[types_pb2.NodePages(node=nid, pfns=pfns.tobytes()) for nid, pfns in pages if len(pfns)],
            cost=types_pb2.Cost(latency_ns=100 * len(blocks), access_ns=100 * len(blocks)),
            remote_lookups=sum(nid != self.nid for nid, pfns in pages if len(pfns)),
            explanation=self.explanation(request) if request.explain else None,
        )

    def explanation(self, request: Any) -> explanation_pb2.Explanation:
        """An explanation with a step of every kind."""
        check = {
            "mark_name": "low",
            "free_pages": 500,
            "mark_pages": 100,
            "largest_free_order": 3,
            "ok": True,
        }
        low = check | {"mark_name": "min", "free_pages": 90, "high_part_pages": 50, "harder_part_pages": 12}
        low |= {
            "mark_pages": 99,
            "boost_pages": 60,
            "lowmem_reserve_pages": 7,
            "cma_pages": 5,
            "unusable_pages": 4,
            "ok": False,
        }
        zone = {"zone": "Normal", "before": check, "after": low, "served_blocks": request.count}
        zone |= {"left_because": 1, "buddy_blocks": 4, "splits": [0, 2, 0, 1], "pageset_after_pages": 3}
        zone |= {
            "claims": [{"from_type": "Movable", "to_type": "Unmovable", "pageblocks": 2}],
            "foreign_blocks": [{"migratetype": "Movable", "blocks": 1}],
        }
        old = {"mark_name": "low", "free_pages": 900, "order_cost_pages": 9, "mark_pages": 800}
        old |= {"too_small_pages": 700, "halvings": 2}
        account = {
            "zones": [zone, {"zone": "DMA", "before": old, "after": old, "left_because": 2}],
            "steals": 1,
        }
        walk = {
            "node": 0,
            "count": request.count,
            "zones": [{"node": 0, "zone": "Normal"}],
            "left_out": [
                {"zone": {"node": 0, "zone": "Movable"}, "reason": 1},
                {"zone": {"node": 1, "zone": "Normal"}, "reason": 2},
            ],
        }
        nodes = [{"node": 0, "account": account}, {"node": 1, "remote": True, "away": "no answer"}]
        fast = {"name": "fast path", "alloc_flags": ["WMARK_LOW"], "nodes": nodes}
        return explanation_pb2.Explanation(
            node=self.nid,
            cpu=request.cpu,
            gfp_flags=request.gfp_flags,
            order=request.order,
            count=request.count,
            migratetype="Unmovable",
            classzone="Normal",
            policy=request.policy,
            profile="linux-6.1",
            steps=[
                {"walk": walk},
                {"latency_ns": 70, "freelist_pass": fast},
                {"kswapd_wakeup": {"node": 0, "woken": True}},
                {"kswapd_wakeup": {"node": 1, "away": "no answer"}},
                {"direct_reclaim": {"node": 0, "priority": 12}},
                {"direct_reclaim": {"node": 1, "priority": 11}},
                {
                    "latency_ns": 9,
                    "direct_reclaim": {"node": 0, "priority": 10, "scanned_pages": 8, "reclaimed_pages": 6},
                },
                {"pageset_drain": {"node": 0, "drained_pages": 31}},
            ],
            placement=[{"node": 0, "blocks": request.count}],
            cost=types_pb2.Cost(latency_ns=1079, access_ns=1000, fallback_ns=79),
        )

    async def FreePages(self, request: Any, context: Any) -> memory_service_pb2.FreePagesResponse:
        self.machine.check_session(request)
        size = 1 << request.order
        blocks = [(p.node, int(pfn)) for p in request.pages for pfn in np.frombuffer(p.pfns, "<u8")]
        for nid, pfn in blocks:
            if (self.machine.owner[nid, pfn : pfn + size] != request.session).any():
                raise Refused(code_pb2.NOT_FOUND, f"pfn {pfn} is not yours", reason="NOT_HELD")
        for nid, pfn in blocks:
            self.machine.owner[nid, pfn : pfn + size] = 0
        return memory_service_pb2.FreePagesResponse(freed_pages=len(blocks) * size)

    async def MapRegion(self, request: Any, context: Any) -> memory_service_pb2.MapRegionResponse:
        self.machine.check_session(request)
        self.machine.regions[region := self.machine.number()] = (request.nr_pages, {})
        return memory_service_pb2.MapRegionResponse(region=region)

    async def TouchRegion(self, request: Any, context: Any) -> memory_service_pb2.TouchRegionResponse:
        self.machine.check_session(request)
        nr_pages, resident = self.machine.regions[request.region]
        wanted = range(request.first_page, request.first_page + request.count)
        if wanted.stop > nr_pages:
            raise Refused(code_pb2.INVALID_ARGUMENT, "beyond the region", field="count")
        missing = [page for page in wanted if page not in resident]
        resident |= zip(missing, self.machine.take(request.session, 0, len(missing), (0, 1)), strict=True)
        placement = [sum(resident[page][0] == nid for page in wanted) for nid in (0, 1)]
        return memory_service_pb2.TouchRegionResponse(
            hit_pages=request.count - len(missing),
            fault_pages=len(missing),
            placement=[{"node": nid, "pages": pages} for nid, pages in enumerate(placement) if pages],
            cost=types_pb2.Cost(latency_ns=90 * request.count),
        )

    async def UnmapRegion(self, request: Any, context: Any) -> memory_service_pb2.UnmapRegionResponse:
        self.machine.check_session(request)
        _, resident = self.machine.regions.pop(request.region)
        for nid, pfn in resident.values():
            self.machine.owner[nid, pfn] = 0
        return memory_service_pb2.UnmapRegionResponse(freed_pages=len(resident))

    async def GetNode(self, request: Any, context: Any) -> node_service_pb2.GetNodeResponse:
        zone = types_pb2.ZoneSummary(zone="Normal", free_pages=int((self.machine.owner[self.nid] == 0).sum()))
        return node_service_pb2.GetNodeResponse(
            node=self.nid, zones=[zone], vm_events={"pgfault": 2, "pgalloc_normal": 1}, digest="d"
        )

    async def WriteFile(self, request: Any, context: Any) -> files_service_pb2.WriteFileResponse:
        if request.path != "/proc/sys/vm/min_free_kbytes":
            raise Refused(code_pb2.NOT_FOUND, f"file {request.path}: ENOENT")
        return files_service_pb2.WriteFileResponse(note=f"{request.data.decode()} it is")

    async def ChangeMemoryBlock(
        self, request: Any, context: Any
    ) -> node_service_pb2.ChangeMemoryBlockResponse:
        if request.block // 8 != self.nid:
            raise Refused(code_pb2.NOT_FOUND, f"memory{request.block}: not of node {self.nid}")
        if request.state == "offline" and request.block == 8:
            raise Refused(code_pb2.FAILED_PRECONDITION, "EBUSY: page 0x40000 of node 1 is reserved")
        return node_service_pb2.ChangeMemoryBlockResponse()

    async def CheckInvariants(self, request: Any, context: Any) -> node_service_pb2.CheckInvariantsResponse:
        return node_service_pb2.CheckInvariantsResponse(
            violations=self.machine.violations if self.nid else []
        )
