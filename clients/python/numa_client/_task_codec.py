"""Messages of TaskService."""

from __future__ import annotations

from collections.abc import Sequence

from numa_client import _types as t
from numa_client._codec import number
from numa_client._gen.numa.v1 import task_service_pb2 as pb2
from numa_client._task import TaskCall, TaskResult


def spawn_request(
    session: t.SessionInfo,
    request_id: str,
    cpu: int,
    comm: str,
    cmdline: Sequence[str],
    path: str,
    memlock_bytes: int | None,
) -> pb2.SpawnTaskRequest:
    """The SpawnTask request."""
    return pb2.SpawnTaskRequest(
        session=session.session,
        session_token=session.token,
        request_id=request_id,
        cpu=number("cpu", cpu),
        comm=comm,
        cmdline=cmdline,
        path=path,
        memlock_bytes=memlock_bytes,
    )


def spawned(response: pb2.SpawnTaskResponse) -> int:
    """The pid of a task that has begun; OSError if none has."""
    if response.errno:
        raise OSError(response.errno, response.error)
    return response.pid


def run_request(
    session: t.SessionInfo, request_id: str, pid: int, calls: Sequence[TaskCall]
) -> pb2.RunTaskRequest:
    """The RunTask request."""
    return pb2.RunTaskRequest(
        session=session.session,
        session_token=session.token,
        request_id=request_id,
        pid=pid,
        calls=[
            pb2.TaskCall(
                name=call.name,
                numbers=call.numbers,
                text=call.text,
                nodes=call.nodes,
                to_nodes=call.to_nodes,
                by=call.by,
            )
            for call in calls
        ],
    )


def results(response: pb2.RunTaskResponse) -> tuple[TaskResult, ...]:
    """What became of each call that was made."""
    return tuple(
        TaskResult(
            one.value,
            one.errno,
            one.error,
            one.fault_pages,
            one.major_fault_pages,
            one.hit_pages,
            one.moved_pages,
            one.failed_pages,
            tuple(one.status),
            one.remote_lookups,
        )
        for one in response.results
    )
