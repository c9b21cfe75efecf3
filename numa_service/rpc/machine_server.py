"""The machine's own server: MachineService, and FilesService beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import grpc.aio
from numa_client import MachineInfo
from numa_client._gen.numa.v1 import files_service_pb2 as files_pb2
from numa_client._gen.numa.v1 import files_service_pb2_grpc as files_pb2_grpc
from numa_client._gen.numa.v1 import machine_service_pb2 as pb2
from numa_client._gen.numa.v1 import machine_service_pb2_grpc as pb2_grpc
from prometheus_client import CollectorRegistry

from numa_service.machine.spec import MachineSpec
from numa_service.rpc.grpc_server import GrpcServer
from numa_service.rpc.instruments import CallMetrics
from numa_service.rpc.node_calls import NodeCalls

if TYPE_CHECKING:
    from numa_service.rpc.files import FilesServicer
    from numa_service.rpc.record_keeper import RecordKeeper
    from numa_service.rpc.slab_caches import SlabCacheRequests

Context = grpc.aio.ServicerContext[Any, Any]

MACHINE_SERVICES: tuple[str, ...] = (
    files_pb2.DESCRIPTOR.services_by_name["FilesService"].full_name,
    pb2.DESCRIPTOR.services_by_name["MachineService"].full_name,
)


class MachineServicer(pb2_grpc.MachineServiceServicer):
    """Serves the topology, and makes slab caches.

    `machine` is called for each request, so that the answer is current. What slab caches need is imported at
    the first request for one: the machine's server starts sooner.
    """

    def __init__(
        self, machine: Callable[[], MachineInfo], nodes: NodeCalls, spec: MachineSpec, keeper: RecordKeeper
    ) -> None:
        self._machine = machine
        self._about = nodes, spec, keeper
        self._caches: SlabCacheRequests | None = None

    async def GetMachine(self, request: pb2.GetMachineRequest, context: Context) -> pb2.GetMachineResponse:
        """The machine's topology, and the address of every node's own server."""
        machine = self._machine()
        return pb2.GetMachineResponse(
            name=machine.name,
            profile=machine.profile,
            nodes=[
                pb2.NodeInfo(
                    node=node.node,
                    cpus=node.cpus,
                    managed_pages=node.managed_pages,
                    address=node.address,
                    metrics_url=node.metrics_url,
                    lineage=node.lineage,
                    fallback_order=node.fallback_order,
                )
                for node in machine.nodes
            ],
            distances=[distance for row in machine.distances for distance in row],
        )

    async def CreateCache(self, request: pb2.CreateCacheRequest, context: Context) -> pb2.CreateCacheResponse:
        """Make a slab cache for the whole machine, or let one that fits be shared."""
        return await (await self._slab_caches()).create(request)

    async def DestroyCache(
        self, request: pb2.DestroyCacheRequest, context: Context
    ) -> pb2.DestroyCacheResponse:
        """A creator needs its cache no more: the last of them ends it."""
        return await (await self._slab_caches()).destroy(request)

    async def _slab_caches(self) -> SlabCacheRequests:
        if self._caches is None:
            kind = await asyncio.to_thread(_slab_cache_requests)
            self._caches = self._caches or kind(*self._about)  # another call may have been first
        return self._caches


def _slab_cache_requests() -> type[SlabCacheRequests]:
    from numa_service.rpc.slab_caches import SlabCacheRequests

    return SlabCacheRequests


class _Files(files_pb2_grpc.FilesServiceServicer):
    """Passes calls on to a FilesServicer, which it makes at the first call.

    Only then the renderers, and with them the memory model, are imported: the machine's server starts sooner.
    """

    def __init__(self, nodes: NodeCalls, spec: MachineSpec, keeper: RecordKeeper) -> None:
        self._about = nodes, spec, keeper
        self._made: FilesServicer | None = None

    async def _servicer(self) -> FilesServicer:
        if self._made is None:
            kind = await asyncio.to_thread(_files_servicer)
            self._made = self._made or kind(*self._about)  # another call may have been first
        return self._made

    async def ReadFile(
        self, request: files_pb2.ReadFileRequest, context: Context
    ) -> files_pb2.ReadFileResponse:
        return await (await self._servicer()).ReadFile(request, context)

    async def ListDir(self, request: files_pb2.ListDirRequest, context: Context) -> files_pb2.ListDirResponse:
        return await (await self._servicer()).ListDir(request, context)

    async def ReadTree(  # type: ignore[override]  # grpc.aio takes a coroutine that writes, too
        self, request: files_pb2.ReadTreeRequest, context: Context
    ) -> None:
        await (await self._servicer()).ReadTree(request, context)

    async def WriteFile(
        self, request: files_pb2.WriteFileRequest, context: Context
    ) -> files_pb2.WriteFileResponse:
        return await (await self._servicer()).WriteFile(request, context)


def _files_servicer() -> type[FilesServicer]:
    from numa_service.rpc.files import FilesServicer

    return FilesServicer


class MachineServer:
    """The server of a machine: MachineService (topology, slab caches) and FilesService (/proc, /sys).

    `machine` is called for each request. Sysctls are written by the keeper of the machine's record.
    """

    def __init__(self, machine: Callable[[], MachineInfo], spec: MachineSpec, keeper: RecordKeeper) -> None:
        self.registry = CollectorRegistry()
        self._nodes = NodeCalls(machine)
        self._machine = MachineServicer(machine, self._nodes, spec, keeper)
        self._files = _Files(self._nodes, spec, keeper)
        self._grpc = GrpcServer(MACHINE_SERVICES, CallMetrics(self.registry), self._add_servicers)

    def _add_servicers(self, server: grpc.aio.Server) -> None:
        pb2_grpc.add_MachineServiceServicer_to_server(self._machine, server)
        files_pb2_grpc.add_FilesServiceServicer_to_server(self._files, server)

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Start to serve; returns the address as host:port. RuntimeError when the port is taken."""
        return await self._grpc.start(host, port)

    async def stop(self, grace: float = 1.0) -> None:
        """Refuse new calls, and give calls under way `grace` seconds to end."""
        await self._grpc.stop(grace)
        await self._nodes.close()
