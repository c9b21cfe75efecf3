"""NodeServer: the servers of a node, gRPC and HTTP. The machine's server is in ``rpc/machine_server.py``."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from numa_client._gen.numa.v1 import (
    kmem_service_pb2,
    kmem_service_pb2_grpc,
    memory_service_pb2,
    memory_service_pb2_grpc,
    node_service_pb2,
    node_service_pb2_grpc,
    observe_service_pb2,
    observe_service_pb2_grpc,
    task_service_pb2,
    task_service_pb2_grpc,
    trace_service_pb2,
    trace_service_pb2_grpc,
    vmalloc_service_pb2,
    vmalloc_service_pb2_grpc,
    workload_service_pb2,
    workload_service_pb2_grpc,
    zonelist_service_pb2,
    zonelist_service_pb2_grpc,
)
from prometheus_client import CollectorRegistry, ProcessCollector

from numa_service.machine.record import MachineRecord, MemoryState
from numa_service.node import ops
from numa_service.node.ask import through_outbox
from numa_service.node.machine_record import follow, own_memory
from numa_service.node.node import Node
from numa_service.node.restart import node_restarted
from numa_service.rpc.daemons import Daemons
from numa_service.rpc.exposition import HttpServer, metrics_app
from numa_service.rpc.grpc_server import GrpcServer
from numa_service.rpc.instruments import CallMetrics, Instruments
from numa_service.rpc.kmem import KmemServicer
from numa_service.rpc.memory import MemoryServicer
from numa_service.rpc.node import NodeServicer
from numa_service.rpc.observe import ObserveServicer
from numa_service.rpc.peers import Peers
from numa_service.rpc.record_keeper import MachineDoor, RecordKeeper
from numa_service.rpc.requests import Requests
from numa_service.rpc.task import TaskServicer
from numa_service.rpc.tracepoints import TraceServicer
from numa_service.rpc.tracing import Tracing
from numa_service.rpc.vmalloc import VmallocServicer
from numa_service.rpc.workload import Pace, WorkloadServicer
from numa_service.rpc.zonelist import ZonelistServicer

#: Services for clients.
NODE_SERVICES: tuple[str, ...] = (
    memory_service_pb2.DESCRIPTOR.services_by_name["MemoryService"].full_name,
    kmem_service_pb2.DESCRIPTOR.services_by_name["KmemService"].full_name,
    vmalloc_service_pb2.DESCRIPTOR.services_by_name["VmallocService"].full_name,
    task_service_pb2.DESCRIPTOR.services_by_name["TaskService"].full_name,
    node_service_pb2.DESCRIPTOR.services_by_name["NodeService"].full_name,
    trace_service_pb2.DESCRIPTOR.services_by_name["TraceService"].full_name,
    observe_service_pb2.DESCRIPTOR.services_by_name["ObserveService"].full_name,
    workload_service_pb2.DESCRIPTOR.services_by_name["WorkloadService"].full_name,
)
#: Services for other nodes, at a port of their own.
PEER_SERVICES: tuple[str, ...] = (
    zonelist_service_pb2.DESCRIPTOR.services_by_name["ZonelistService"].full_name,
)


@dataclass(frozen=True, slots=True)
class Addresses:
    """The addresses at which a node answers."""

    #: host:port of the gRPC server for clients.
    grpc: str
    #: host:port of the gRPC server for other nodes; clients are not told it.
    peers: str
    #: URL of the Prometheus metrics.
    metrics_url: str


def freeze_heap() -> None:
    """Exempt all objects that exist now from garbage collection. For a process that only serves from now on.

    The compiler of the kernels alone makes a million objects, and a collection that walked them held up every
    request for a sixth of a second. What requests leave behind, the log and first replies, has no reference
    cycles, so that rare collections are enough.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(2_000, 10, 100)


class NodeServer:
    """A node's gRPC services, daemons, peers and metrics, with one port for clients and one for other nodes.

    All of it runs on one event loop, and nothing else changes the node's state.

    `registry` has the metrics of calls and costs; whoever boots a node also registers
    ``numa_service.metrics.collector.NodeCollector(server)`` there (rpc may not import metrics).
    """

    def __init__(
        self,
        node: Node,
        clock: Callable[[], int] = time.monotonic_ns,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        pace: Pace | None = None,
        tracing: Tracing | None = None,
        machine: MachineDoor | None = None,
    ) -> None:
        """Set up the servers of `node`; nothing listens before :meth:`start`.

        `clock` gives the time of leases in ns; `sleep` injects latency, in seconds, in the latency mode
        `inject`. `pace` is the pace of workload programs. With `tracing`, calls and the questions that they
        lead to become spans. `machine` leads to the keeper of the machine's record; without it the node is
        alone and keeps the record itself.
        """
        self.node = node
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._clock = node.clock = clock
        self._sleep = sleep
        self._instruments = Instruments(self.registry, node.nid)
        self._observe = ObserveServicer(node, self._instruments.fallback_pages)
        self._peers = Peers(node, self._instruments.fallback, tracing)
        self._requests = Requests(node, self._peers)
        self._daemons = Daemons(node, self._requests.inbox, self._peers, self._instruments.lease_expired)
        calls = CallMetrics(self.registry)
        self._for_clients = GrpcServer(NODE_SERVICES, calls, self._add_servicers, tracing)
        self._for_peers = GrpcServer(PEER_SERVICES, calls, self._add_peer_servicer, tracing)
        self._http = HttpServer(metrics_app(self.registry))
        self._kswapd_wait = asyncio.Event()
        #: The keeper of the record if this node is alone: it tells only this node.
        self._alone = RecordKeeper(node.machine.spec, self._tell_itself)
        self._machine = machine or self._alone
        self._workload = WorkloadServicer(node, self._requests, self._peers, pace)

    def _add_servicers(self, server: Any) -> None:
        memory = MemoryServicer(
            self.node,
            self._requests,
            self._instruments,
            self._clock,
            self._sleep,
        )
        memory_service_pb2_grpc.add_MemoryServiceServicer_to_server(memory, server)
        kmem_service_pb2_grpc.add_KmemServiceServicer_to_server(
            KmemServicer(self.node, self._requests), server
        )
        vmalloc_service_pb2_grpc.add_VmallocServiceServicer_to_server(
            VmallocServicer(self.node, self._requests), server
        )
        task_service_pb2_grpc.add_TaskServiceServicer_to_server(
            TaskServicer(self.node, self._requests), server
        )
        node_service_pb2_grpc.add_NodeServiceServicer_to_server(
            NodeServicer(self.node, self._requests, self._peers, self._machine), server
        )
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(TraceServicer(self.node), server)
        observe_service_pb2_grpc.add_ObserveServiceServicer_to_server(self._observe, server)
        workload_service_pb2_grpc.add_WorkloadServiceServicer_to_server(self._workload, server)

    def _add_peer_servicer(self, server: Any) -> None:
        zonelist = ZonelistServicer(self.node, self._requests)
        zonelist_service_pb2_grpc.add_ZonelistServiceServicer_to_server(zonelist, server)

    async def start(self, host: str = "127.0.0.1", port: int = 0, metrics_port: int = 0) -> Addresses:
        """Start to serve on `host`, clients at `port`; port 0 is any free one.

        RuntimeError or OSError when a port is taken.
        """
        self.node.wake = self._wake
        try:
            peers = await self._for_peers.start(host, 0)
            address = await self._for_clients.start(host, port)
            metrics = await self._http.start(host, metrics_port)
        except (OSError, RuntimeError):
            await self._close_doors(0)
            raise
        self._daemons.start()
        if self._machine is self._alone:
            self._alone.came_up(self.node.nid)
        return Addresses(address, peers, f"http://{metrics}/metrics")

    async def _close_doors(self, grace: float) -> None:
        await asyncio.gather(self._for_clients.stop(grace), self._for_peers.stop(grace))

    async def _tell_itself(self, nid: int, record: MachineRecord) -> MemoryState | None:
        return self.follow(record)

    def follow(self, record: MachineRecord) -> MemoryState | None:
        """Apply what is new in the machine's record.

        Returns this node's memory as the record should have it, or None if the record is right.
        """
        follow(self.node, record)
        return own_memory(self.node)

    def connect(self, peers: dict[int, str]) -> None:
        """Set where the other nodes answer: nid → host:port. To be called again whenever one has moved."""
        self._peers.connect({nid: address for nid, address in peers.items() if nid != self.node.nid})

    async def restarted(self, nid: int, lineage: int) -> None:
        """Another node has booted again: free the pages of its former owners."""
        await self._peers.run(through_outbox(self.node, node_restarted(self.node, nid, lineage)))

    async def stop(self, grace: float = 1.0) -> None:
        """Refuse new calls, and give calls and requests under way `grace` seconds to end. Sessions stay."""
        self._observe.close()
        self._alone.close()
        await self._close_doors(grace)
        await self._requests.finish(grace)
        await self._daemons.stop()
        await self._peers.close()
        await self._http.stop()
        self.node.wake = None

    def _wake(self, daemons: str) -> None:
        if daemons == "kswapd":
            self._kswapd_wait.set()
        else:
            self._daemons.wake(daemons)

    def programs(self) -> list[tuple[str, str]]:
        """Name and phase of each program that runs now."""
        return self._workload.running()

    def owed(self) -> dict[int, int]:
        """nid → number of unanswered questions, for the nodes that are away and owe answers."""
        return self.node.outbox.owed()

    def check_leases(self) -> None:
        """Look for leases that ran out. Needed when the clock was set, or the node was replayed."""
        self._daemons.wake("leases")

    async def kswapd_wait(self, timeout: float) -> bool:
        """Wait until the node wants its kswapd; False after `timeout` seconds.

        True at once when kswapd was woken and has not gone to sleep since: the kswapd process before died.
        """
        if self.node.kswapd_wanted:
            return True
        self._kswapd_wait.clear()
        try:
            await asyncio.wait_for(self._kswapd_wait.wait(), timeout)
        except TimeoutError:
            return False
        return True

    async def kswapd_step(self) -> bool:
        """Run one bounded step of kswapd; returns whether another one should follow at once."""
        return self.node.apply(ops.KswapdStep()).runs_on
