"""TaskService: tasks with address spaces, whose home this node is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import grpc.aio
from numa_client._gen.numa.v1 import task_service_pb2 as pb2
from numa_client._gen.numa.v1 import task_service_pb2_grpc as pb2_grpc

from numa_service.mm.mmap.errnos import errno_name
from numa_service.mm.zonelist import MAX_NUMNODES
from numa_service.node.ask import Steps
from numa_service.node.cost import Cost
from numa_service.node.errors import InvalidRequest
from numa_service.node.node import Node
from numa_service.node.task import MEMLOCK, Asked, Ran, spawn
from numa_service.node.task_calls import CALLS
from numa_service.node.task_program import MAX_CALLS, Step, run_program
from numa_service.rpc import convert
from numa_service.rpc.requests import M, Requests
from numa_service.rpc.tokens import session_of

Context = grpc.aio.ServicerContext[Any, Any]


class TaskServicer(pb2_grpc.TaskServiceServicer):
    """Tasks of sessions of this node. Every request is carried out once per request id."""

    def __init__(self, node: Node, requests: Requests) -> None:
        self._node = node
        self._requests = requests

    def SpawnTask(
        self, request: pb2.SpawnTaskRequest, context: Context
    ) -> pb2.SpawnTaskResponse | Awaitable[pb2.SpawnTaskResponse]:
        """Begin a task."""
        return self._once(request, self._spawn, context)

    def _spawn(self, request: pb2.SpawnTaskRequest) -> Steps[pb2.SpawnTaskResponse]:
        memlock = request.memlock_bytes if request.HasField("memlock_bytes") else MEMLOCK
        ran = yield from spawn(
            self._node, request.session, request.cpu, request.comm, request.cmdline, request.path, memlock
        )
        pid = 0 if ran.errno else ran.value
        return pb2.SpawnTaskResponse(pid=pid, errno=ran.errno, error=_error(ran), cost=convert.cost(ran.cost))

    def RunTask(
        self, request: pb2.RunTaskRequest, context: Context
    ) -> pb2.RunTaskResponse | Awaitable[pb2.RunTaskResponse]:
        """Have a task make calls."""
        return self._once(request, self._run, context)

    def _run(self, request: pb2.RunTaskRequest) -> Steps[pb2.RunTaskResponse]:
        if len(request.calls) > MAX_CALLS:
            raise InvalidRequest("calls", f"{len(request.calls)}: a program has 1…{MAX_CALLS}")
        program = [Step(_asked(call), call.by if call.HasField("by") else -1) for call in request.calls]
        done = yield from run_program(self._requests.inbox, request.session, request.pid, program)
        whole = Cost()
        for ran in done:
            whole.add(ran.cost)
        return pb2.RunTaskResponse(results=[_result(ran) for ran in done], cost=convert.cost(whole))

    def _once(self, request: Any, begin: Callable[[Any], M | Steps[M]], context: Context) -> M | Awaitable[M]:
        session = session_of(self._node, request)
        return self._requests.once(session, request, begin, context.time_remaining())


def _asked(call: pb2.TaskCall) -> Asked:
    """The call of a message: masks of nodes are put where the call has them."""
    numbers = list(call.numbers)
    if call.name == "move_pages":
        if call.nodes and len(call.nodes) != len(numbers):
            raise InvalidRequest("calls.nodes", f"{len(call.nodes)} for {len(numbers)} addresses")
        return Asked(call.name, (int(bool(call.nodes)), *numbers, *call.nodes), call.text)
    if call.name == "migrate_pages":
        masks = _mask("calls.nodes", call.nodes), _mask("calls.to_nodes", call.to_nodes)
        return Asked(call.name, (*numbers, *masks), call.text)
    arguments = CALLS[call.name].arguments if call.name in CALLS else ()
    if "nodemask" in arguments:
        numbers.insert(arguments.index("nodemask"), _mask("calls.nodes", call.nodes))
    elif call.nodes:
        raise InvalidRequest("calls.nodes", f"{call.name} takes none")
    if call.to_nodes:
        raise InvalidRequest("calls.to_nodes", f"{call.name} takes none")
    return Asked(call.name, tuple(numbers), call.text)


def _mask(field: str, nodes: Iterable[int]) -> int:
    mask = 0
    for nid in nodes:
        if nid >= MAX_NUMNODES:
            raise InvalidRequest(field, f"{nid} is not in 0…{MAX_NUMNODES - 1}")
        mask |= 1 << nid
    return mask


def _error(ran: Ran) -> str:
    return f"{errno_name(ran.errno)}: {ran.reason}" if ran.errno else ""


def _result(ran: Ran) -> pb2.TaskResult:
    return pb2.TaskResult(
        value=ran.value,
        errno=ran.errno,
        error=_error(ran),
        fault_pages=ran.faults,
        major_fault_pages=ran.major_faults,
        hit_pages=ran.hits,
        moved_pages=ran.moved,
        failed_pages=ran.failed,
        status=ran.status,
        remote_lookups=ran.remote_lookups,
    )
