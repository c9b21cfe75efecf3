from numa_client._gen.numa.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SpawnTaskRequest(_message.Message):
    __slots__ = ("session", "session_token", "request_id", "cpu", "comm", "cmdline", "path", "memlock_bytes")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    SESSION_TOKEN_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CPU_FIELD_NUMBER: _ClassVar[int]
    COMM_FIELD_NUMBER: _ClassVar[int]
    CMDLINE_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    MEMLOCK_BYTES_FIELD_NUMBER: _ClassVar[int]
    session: int
    session_token: bytes
    request_id: str
    cpu: int
    comm: str
    cmdline: _containers.RepeatedScalarFieldContainer[str]
    path: str
    memlock_bytes: int
    def __init__(self, session: _Optional[int] = ..., session_token: _Optional[bytes] = ..., request_id: _Optional[str] = ..., cpu: _Optional[int] = ..., comm: _Optional[str] = ..., cmdline: _Optional[_Iterable[str]] = ..., path: _Optional[str] = ..., memlock_bytes: _Optional[int] = ...) -> None: ...

class SpawnTaskResponse(_message.Message):
    __slots__ = ("pid", "errno", "error", "cost")
    PID_FIELD_NUMBER: _ClassVar[int]
    ERRNO_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    pid: int
    errno: int
    error: str
    cost: _types_pb2.Cost
    def __init__(self, pid: _Optional[int] = ..., errno: _Optional[int] = ..., error: _Optional[str] = ..., cost: _Optional[_Union[_types_pb2.Cost, _Mapping]] = ...) -> None: ...

class TaskCall(_message.Message):
    __slots__ = ("name", "numbers", "text", "nodes", "to_nodes", "by")
    NAME_FIELD_NUMBER: _ClassVar[int]
    NUMBERS_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    TO_NODES_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    name: str
    numbers: _containers.RepeatedScalarFieldContainer[int]
    text: str
    nodes: _containers.RepeatedScalarFieldContainer[int]
    to_nodes: _containers.RepeatedScalarFieldContainer[int]
    by: int
    def __init__(self, name: _Optional[str] = ..., numbers: _Optional[_Iterable[int]] = ..., text: _Optional[str] = ..., nodes: _Optional[_Iterable[int]] = ..., to_nodes: _Optional[_Iterable[int]] = ..., by: _Optional[int] = ...) -> None: ...

class RunTaskRequest(_message.Message):
    __slots__ = ("session", "session_token", "request_id", "pid", "calls")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    SESSION_TOKEN_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    CALLS_FIELD_NUMBER: _ClassVar[int]
    session: int
    session_token: bytes
    request_id: str
    pid: int
    calls: _containers.RepeatedCompositeFieldContainer[TaskCall]
    def __init__(self, session: _Optional[int] = ..., session_token: _Optional[bytes] = ..., request_id: _Optional[str] = ..., pid: _Optional[int] = ..., calls: _Optional[_Iterable[_Union[TaskCall, _Mapping]]] = ...) -> None: ...

class RunTaskResponse(_message.Message):
    __slots__ = ("results", "cost")
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[TaskResult]
    cost: _types_pb2.Cost
    def __init__(self, results: _Optional[_Iterable[_Union[TaskResult, _Mapping]]] = ..., cost: _Optional[_Union[_types_pb2.Cost, _Mapping]] = ...) -> None: ...

class TaskResult(_message.Message):
    __slots__ = ("value", "errno", "error", "fault_pages", "major_fault_pages", "hit_pages", "moved_pages", "failed_pages", "status", "remote_lookups")
    VALUE_FIELD_NUMBER: _ClassVar[int]
    ERRNO_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    FAULT_PAGES_FIELD_NUMBER: _ClassVar[int]
    MAJOR_FAULT_PAGES_FIELD_NUMBER: _ClassVar[int]
    HIT_PAGES_FIELD_NUMBER: _ClassVar[int]
    MOVED_PAGES_FIELD_NUMBER: _ClassVar[int]
    FAILED_PAGES_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    REMOTE_LOOKUPS_FIELD_NUMBER: _ClassVar[int]
    value: int
    errno: int
    error: str
    fault_pages: int
    major_fault_pages: int
    hit_pages: int
    moved_pages: int
    failed_pages: int
    status: _containers.RepeatedScalarFieldContainer[int]
    remote_lookups: int
    def __init__(self, value: _Optional[int] = ..., errno: _Optional[int] = ..., error: _Optional[str] = ..., fault_pages: _Optional[int] = ..., major_fault_pages: _Optional[int] = ..., hit_pages: _Optional[int] = ..., moved_pages: _Optional[int] = ..., failed_pages: _Optional[int] = ..., status: _Optional[_Iterable[int]] = ..., remote_lookups: _Optional[int] = ...) -> None: ...
