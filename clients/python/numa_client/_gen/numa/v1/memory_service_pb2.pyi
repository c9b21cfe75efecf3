from numa_client._gen.numa.v1 import explanation_pb2 as _explanation_pb2
from numa_client._gen.numa.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RegionKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REGION_KIND_UNSPECIFIED: _ClassVar[RegionKind]
    REGION_KIND_ANON: _ClassVar[RegionKind]
    REGION_KIND_FILE: _ClassVar[RegionKind]
REGION_KIND_UNSPECIFIED: RegionKind
REGION_KIND_ANON: RegionKind
REGION_KIND_FILE: RegionKind

class OpenSessionRequest(_message.Message):
    __slots__ = ("client_name", "lease_seconds", "request_id")
    CLIENT_NAME_FIELD_NUMBER: _ClassVar[int]
    LEASE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    client_name: str
    lease_seconds: float
    request_id: str
    def __init__(self, client_name: _Optional[str] = ..., lease_seconds: _Optional[float] = ..., request_id: _Optional[str] = ...) -> None: ...

class OpenSessionResponse(_message.Message):
    __slots__ = ("session", "lease_seconds", "node", "lineage", "session_token")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    LEASE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    LINEAGE_FIELD_NUMBER: _ClassVar[int]
    SESSION_TOKEN_FIELD_NUMBER: _ClassVar[int]
    session: int
    lease_seconds: float
    node: int
    lineage: int
    session_token: bytes
    def __init__(self, session: _Optional[int] = ..., lease_seconds: _Optional[float] = ..., node: _Optional[int] = ..., lineage: _Optional[int] = ..., session_token: _Optional[bytes] = ...) -> None: ...

class RenewSessionRequest(_message.Message):
    __slots__ = ("session", "session_token")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    SESSION_TOKEN_FIELD_NUMBER: _ClassVar[int]
    session: int
    session_token: bytes
    def __init__(self, session: _Optional[int] = ..., session_token: _Optional[bytes] = ...) -> None: ...

class RenewSessionResponse(_message.Message):
    __slots__ = ("lease_seconds",)
    LEASE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    lease_seconds: float
    def __init__(self, lease_seconds: _Optional[float] = ...) -> None: ...

class CloseSessionRequest(_message.Message):
    __slots__ = ("session", "request_id", "session_token")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_TOKEN_FIELD_NUMBER: _ClassVar[int]
    session: int
    request_id: str
    session_token: bytes
    def __init__(self, session: _Optional[int] = ..., request_id: _Optional[str] = ..., session_token: _Optional[bytes] = ...) -> None: ...

class CloseSessionResponse(_message.Message):
    __slots__ = ("freed_pages",)
    FREED_PAGES_FIELD_NUMBER: _ClassVar[int]
    freed_pages: int
    def __init__(self, freed_pages: _Optional[int] = ...) -> None: ...

class AllocPagesRequest(_message.Message):
    __slots__ = ("session", "request_id", "gfp_flags", "order", "count", "cpu", "policy", "partial", "explain", "session_token")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    GFP_FLAGS_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    CPU_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    PARTIAL_FIELD_NUMBER: _ClassVar[int]
    EXPLAIN_FIELD_NUMBER: _ClassVar[int]
    SESSION_TOKEN_FIELD_NUMBER: _ClassVar[int]
    session: int
    request_id: str
    gfp_flags: str
    order: int
    count: int
    cpu: int
    policy: _types_pb2.Policy
    partial: bool
    explain: bool
    session_token: bytes
    def __init__(self, session: _Optional[int] = ..., request_id: _Optional[str] = ..., gfp_flags: _Optional[str] = ..., order: _Optional[int] = ..., count: _Optional[int] = ..., cpu: _Optional[int] = ..., policy: _Optional[_Union[_types_pb2.Policy, _Mapping]] = ..., partial: _Optional[bool] = ..., explain: _Optional[bool] = ..., session_token: _Optional[bytes] = ...) -> None: ...

class AllocPagesResponse(_message.Message):
    __slots__ = ("pages", "cost", "remote_lookups", "direct_reclaimed_pages", "explanation")
    PAGES_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    REMOTE_LOOKUPS_FIELD_NUMBER: _ClassVar[int]
    DIRECT_RECLAIMED_PAGES_FIELD_NUMBER: _ClassVar[int]
    EXPLANATION_FIELD_NUMBER: _ClassVar[int]
    pages: _containers.RepeatedCompositeFieldContainer[_types_pb2.NodePages]
    cost: _types_pb2.Cost
    remote_lookups: int
    direct_reclaimed_pages: int
    explanation: _explanation_pb2.Explanation
    def __init__(self, pages: _Optional[_Iterable[_Union[_types_pb2.NodePages, _Mapping]]] = ..., cost: _Optional[_Union[_types_pb2.Cost, _Mapping]] = ..., remote_lookups: _Optional[int] = ..., direct_reclaimed_pages: _Optional[int] = ..., explanation: _Optional[_Union[_explanation_pb2.Explanation, _Mapping]] = ...) -> None: ...

class FreePagesRequest(_message.Message):
    __slots__ = ("session", "request_id", "order", "pages", "cpu", "session_token")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    PAGES_FIELD_NUMBER: _ClassVar[int]
    CPU_FIELD_NUMBER: _ClassVar[int]
    SESSION_TOKEN_FIELD_NUMBER: _ClassVar[int]
    session: int
    request_id: str
    order: int
    pages: _containers.RepeatedCompositeFieldContainer[_types_pb2.NodePages]
    cpu: int
    session_token: bytes
    def __init__(self, session: _Optional[int] = ..., request_id: _Optional[str] = ..., order: _Optional[int] = ..., pages: _Optional[_Iterable[_Union[_types_pb2.NodePages, _Mapping]]] = ..., cpu: _Optional[int] = ..., session_token: _Optional[bytes] = ...) -> None: ...

class FreePagesResponse(_message.Message):
    __slots__ = ("freed_pages", "cost")
    FREED_PAGES_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    freed_pages: int
    cost: _types_pb2.Cost
    def __init__(self, freed_pages: _Optional[int] = ..., cost: _Optional[_Union[_types_pb2.Cost, _Mapping]] = ...) -> None: ...

class StreamPagesRequest(_message.Message):
    __slots__ = ("alloc", "free")
    ALLOC_FIELD_NUMBER: _ClassVar[int]
    FREE_FIELD_NUMBER: _ClassVar[int]
    alloc: AllocPagesRequest
    free: FreePagesRequest
    def __init__(self, alloc: _Optional[_Union[AllocPagesRequest, _Mapping]] = ..., free: _Optional[_Union[FreePagesRequest, _Mapping]] = ...) -> None: ...

class StreamPagesResponse(_message.Message):
    __slots__ = ("alloc", "free", "error")
    ALLOC_FIELD_NUMBER: _ClassVar[int]
    FREE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    alloc: AllocPagesResponse
    free: FreePagesResponse
    error: bytes
    def __init__(self, alloc: _Optional[_Union[AllocPagesResponse, _Mapping]] = ..., free: _Optional[_Union[FreePagesResponse, _Mapping]] = ..., error: _Optional[bytes] = ...) -> None: ...

class MapRegionRequest(_message.Message):
    __slots__ = ("session", "request_id", "kind", "nr_pages", "policy", "session_token")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    NR_PAGES_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    SESSION_TOKEN_FIELD_NUMBER: _ClassVar[int]
    session: int
    request_id: str
    kind: RegionKind
    nr_pages: int
    policy: _types_pb2.Policy
    session_token: bytes
    def __init__(self, session: _Optional[int] = ..., request_id: _Optional[str] = ..., kind: _Optional[_Union[RegionKind, str]] = ..., nr_pages: _Optional[int] = ..., policy: _Optional[_Union[_types_pb2.Policy, _Mapping]] = ..., session_token: _Optional[bytes] = ...) -> None: ...

class MapRegionResponse(_message.Message):
    __slots__ = ("region",)
    REGION_FIELD_NUMBER: _ClassVar[int]
    region: int
    def __init__(self, region: _Optional[int] = ...) -> None: ...

class BindRegionRequest(_message.Message):
    __slots__ = ("session", "request_id", "session_token", "region", "first_page", "nr_pages", "policy", "move", "strict", "cpu")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_TOKEN_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    FIRST_PAGE_FIELD_NUMBER: _ClassVar[int]
    NR_PAGES_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    MOVE_FIELD_NUMBER: _ClassVar[int]
    STRICT_FIELD_NUMBER: _ClassVar[int]
    CPU_FIELD_NUMBER: _ClassVar[int]
    session: int
    request_id: str
    session_token: bytes
    region: int
    first_page: int
    nr_pages: int
    policy: _types_pb2.Policy
    move: bool
    strict: bool
    cpu: int
    def __init__(self, session: _Optional[int] = ..., request_id: _Optional[str] = ..., session_token: _Optional[bytes] = ..., region: _Optional[int] = ..., first_page: _Optional[int] = ..., nr_pages: _Optional[int] = ..., policy: _Optional[_Union[_types_pb2.Policy, _Mapping]] = ..., move: _Optional[bool] = ..., strict: _Optional[bool] = ..., cpu: _Optional[int] = ...) -> None: ...

class BindRegionResponse(_message.Message):
    __slots__ = ("moved_pages", "failed_pages")
    MOVED_PAGES_FIELD_NUMBER: _ClassVar[int]
    FAILED_PAGES_FIELD_NUMBER: _ClassVar[int]
    moved_pages: int
    failed_pages: int
    def __init__(self, moved_pages: _Optional[int] = ..., failed_pages: _Optional[int] = ...) -> None: ...

class MigratePagesRequest(_message.Message):
    __slots__ = ("session", "request_id", "session_token", "old_nodes", "new_nodes", "cpu")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_TOKEN_FIELD_NUMBER: _ClassVar[int]
    OLD_NODES_FIELD_NUMBER: _ClassVar[int]
    NEW_NODES_FIELD_NUMBER: _ClassVar[int]
    CPU_FIELD_NUMBER: _ClassVar[int]
    session: int
    request_id: str
    session_token: bytes
    old_nodes: _containers.RepeatedScalarFieldContainer[int]
    new_nodes: _containers.RepeatedScalarFieldContainer[int]
    cpu: int
    def __init__(self, session: _Optional[int] = ..., request_id: _Optional[str] = ..., session_token: _Optional[bytes] = ..., old_nodes: _Optional[_Iterable[int]] = ..., new_nodes: _Optional[_Iterable[int]] = ..., cpu: _Optional[int] = ...) -> None: ...

class MigratePagesResponse(_message.Message):
    __slots__ = ("moved_pages", "failed_pages")
    MOVED_PAGES_FIELD_NUMBER: _ClassVar[int]
    FAILED_PAGES_FIELD_NUMBER: _ClassVar[int]
    moved_pages: int
    failed_pages: int
    def __init__(self, moved_pages: _Optional[int] = ..., failed_pages: _Optional[int] = ...) -> None: ...

class MovePagesRequest(_message.Message):
    __slots__ = ("session", "request_id", "session_token", "region", "pages", "nodes", "cpu")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_TOKEN_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    PAGES_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    CPU_FIELD_NUMBER: _ClassVar[int]
    session: int
    request_id: str
    session_token: bytes
    region: int
    pages: _containers.RepeatedScalarFieldContainer[int]
    nodes: _containers.RepeatedScalarFieldContainer[int]
    cpu: int
    def __init__(self, session: _Optional[int] = ..., request_id: _Optional[str] = ..., session_token: _Optional[bytes] = ..., region: _Optional[int] = ..., pages: _Optional[_Iterable[int]] = ..., nodes: _Optional[_Iterable[int]] = ..., cpu: _Optional[int] = ...) -> None: ...

class MovePagesResponse(_message.Message):
    __slots__ = ("status", "errno")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    ERRNO_FIELD_NUMBER: _ClassVar[int]
    status: _containers.RepeatedScalarFieldContainer[int]
    errno: int
    def __init__(self, status: _Optional[_Iterable[int]] = ..., errno: _Optional[int] = ...) -> None: ...

class TouchRegionRequest(_message.Message):
    __slots__ = ("session", "request_id", "region", "first_page", "count", "write", "cpu", "session_token")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    FIRST_PAGE_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    WRITE_FIELD_NUMBER: _ClassVar[int]
    CPU_FIELD_NUMBER: _ClassVar[int]
    SESSION_TOKEN_FIELD_NUMBER: _ClassVar[int]
    session: int
    request_id: str
    region: int
    first_page: int
    count: int
    write: bool
    cpu: int
    session_token: bytes
    def __init__(self, session: _Optional[int] = ..., request_id: _Optional[str] = ..., region: _Optional[int] = ..., first_page: _Optional[int] = ..., count: _Optional[int] = ..., write: _Optional[bool] = ..., cpu: _Optional[int] = ..., session_token: _Optional[bytes] = ...) -> None: ...

class TouchRegionResponse(_message.Message):
    __slots__ = ("hit_pages", "fault_pages", "major_fault_pages", "placement", "cost", "remote_lookups", "direct_reclaimed_pages")
    HIT_PAGES_FIELD_NUMBER: _ClassVar[int]
    FAULT_PAGES_FIELD_NUMBER: _ClassVar[int]
    MAJOR_FAULT_PAGES_FIELD_NUMBER: _ClassVar[int]
    PLACEMENT_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    REMOTE_LOOKUPS_FIELD_NUMBER: _ClassVar[int]
    DIRECT_RECLAIMED_PAGES_FIELD_NUMBER: _ClassVar[int]
    hit_pages: int
    fault_pages: int
    major_fault_pages: int
    placement: _containers.RepeatedCompositeFieldContainer[NodeCount]
    cost: _types_pb2.Cost
    remote_lookups: int
    direct_reclaimed_pages: int
    def __init__(self, hit_pages: _Optional[int] = ..., fault_pages: _Optional[int] = ..., major_fault_pages: _Optional[int] = ..., placement: _Optional[_Iterable[_Union[NodeCount, _Mapping]]] = ..., cost: _Optional[_Union[_types_pb2.Cost, _Mapping]] = ..., remote_lookups: _Optional[int] = ..., direct_reclaimed_pages: _Optional[int] = ...) -> None: ...

class NodeCount(_message.Message):
    __slots__ = ("node", "pages")
    NODE_FIELD_NUMBER: _ClassVar[int]
    PAGES_FIELD_NUMBER: _ClassVar[int]
    node: int
    pages: int
    def __init__(self, node: _Optional[int] = ..., pages: _Optional[int] = ...) -> None: ...

class UnmapRegionRequest(_message.Message):
    __slots__ = ("session", "request_id", "region", "session_token")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    SESSION_TOKEN_FIELD_NUMBER: _ClassVar[int]
    session: int
    request_id: str
    region: int
    session_token: bytes
    def __init__(self, session: _Optional[int] = ..., request_id: _Optional[str] = ..., region: _Optional[int] = ..., session_token: _Optional[bytes] = ...) -> None: ...

class UnmapRegionResponse(_message.Message):
    __slots__ = ("freed_pages",)
    FREED_PAGES_FIELD_NUMBER: _ClassVar[int]
    freed_pages: int
    def __init__(self, freed_pages: _Optional[int] = ...) -> None: ...
