from numa_client._gen.numa.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Owner(_message.Message):
    __slots__ = ("node", "incarnation", "id")
    NODE_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    node: int
    incarnation: int
    id: int
    def __init__(self, node: _Optional[int] = ..., incarnation: _Optional[int] = ..., id: _Optional[int] = ...) -> None: ...

class LookupRequest(_message.Message):
    __slots__ = ("request_id", "owner", "order", "count", "gfp", "alloc_flags", "highest_zoneidx", "zones", "preferred_node", "cpu_node", "lru_kind", "indexes", "dirty", "interleave")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    GFP_FIELD_NUMBER: _ClassVar[int]
    ALLOC_FLAGS_FIELD_NUMBER: _ClassVar[int]
    HIGHEST_ZONEIDX_FIELD_NUMBER: _ClassVar[int]
    ZONES_FIELD_NUMBER: _ClassVar[int]
    PREFERRED_NODE_FIELD_NUMBER: _ClassVar[int]
    CPU_NODE_FIELD_NUMBER: _ClassVar[int]
    LRU_KIND_FIELD_NUMBER: _ClassVar[int]
    INDEXES_FIELD_NUMBER: _ClassVar[int]
    DIRTY_FIELD_NUMBER: _ClassVar[int]
    INTERLEAVE_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    owner: Owner
    order: int
    count: int
    gfp: int
    alloc_flags: int
    highest_zoneidx: int
    zones: _containers.RepeatedScalarFieldContainer[int]
    preferred_node: int
    cpu_node: int
    lru_kind: int
    indexes: bytes
    dirty: bool
    interleave: bool
    def __init__(self, request_id: _Optional[str] = ..., owner: _Optional[_Union[Owner, _Mapping]] = ..., order: _Optional[int] = ..., count: _Optional[int] = ..., gfp: _Optional[int] = ..., alloc_flags: _Optional[int] = ..., highest_zoneidx: _Optional[int] = ..., zones: _Optional[_Iterable[int]] = ..., preferred_node: _Optional[int] = ..., cpu_node: _Optional[int] = ..., lru_kind: _Optional[int] = ..., indexes: _Optional[bytes] = ..., dirty: _Optional[bool] = ..., interleave: _Optional[bool] = ...) -> None: ...

class LookupResponse(_message.Message):
    __slots__ = ("pfns", "zones", "path")
    PFNS_FIELD_NUMBER: _ClassVar[int]
    ZONES_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    pfns: bytes
    zones: _containers.RepeatedCompositeFieldContainer[_types_pb2.ZoneSummary]
    path: bytes
    def __init__(self, pfns: _Optional[bytes] = ..., zones: _Optional[_Iterable[_Union[_types_pb2.ZoneSummary, _Mapping]]] = ..., path: _Optional[bytes] = ...) -> None: ...

class ReleaseRequest(_message.Message):
    __slots__ = ("request_id", "owner", "order", "pfns", "indexes")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    PFNS_FIELD_NUMBER: _ClassVar[int]
    INDEXES_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    owner: Owner
    order: int
    pfns: bytes
    indexes: bytes
    def __init__(self, request_id: _Optional[str] = ..., owner: _Optional[_Union[Owner, _Mapping]] = ..., order: _Optional[int] = ..., pfns: _Optional[bytes] = ..., indexes: _Optional[bytes] = ...) -> None: ...

class ReleaseResponse(_message.Message):
    __slots__ = ("freed_pages",)
    FREED_PAGES_FIELD_NUMBER: _ClassVar[int]
    freed_pages: int
    def __init__(self, freed_pages: _Optional[int] = ...) -> None: ...

class ReleaseOwnerRequest(_message.Message):
    __slots__ = ("request_id", "owner")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    owner: Owner
    def __init__(self, request_id: _Optional[str] = ..., owner: _Optional[_Union[Owner, _Mapping]] = ...) -> None: ...

class ReleaseOwnerResponse(_message.Message):
    __slots__ = ("freed_pages",)
    FREED_PAGES_FIELD_NUMBER: _ClassVar[int]
    freed_pages: int
    def __init__(self, freed_pages: _Optional[int] = ...) -> None: ...

class TouchRequest(_message.Message):
    __slots__ = ("request_id", "owner", "pfns", "indexes", "write")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    PFNS_FIELD_NUMBER: _ClassVar[int]
    INDEXES_FIELD_NUMBER: _ClassVar[int]
    WRITE_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    owner: Owner
    pfns: bytes
    indexes: bytes
    write: bool
    def __init__(self, request_id: _Optional[str] = ..., owner: _Optional[_Union[Owner, _Mapping]] = ..., pfns: _Optional[bytes] = ..., indexes: _Optional[bytes] = ..., write: _Optional[bool] = ...) -> None: ...

class TouchResponse(_message.Message):
    __slots__ = ("states",)
    STATES_FIELD_NUMBER: _ClassVar[int]
    states: bytes
    def __init__(self, states: _Optional[bytes] = ...) -> None: ...

class WakeKswapdRequest(_message.Message):
    __slots__ = ("order", "highest_zoneidx")
    ORDER_FIELD_NUMBER: _ClassVar[int]
    HIGHEST_ZONEIDX_FIELD_NUMBER: _ClassVar[int]
    order: int
    highest_zoneidx: int
    def __init__(self, order: _Optional[int] = ..., highest_zoneidx: _Optional[int] = ...) -> None: ...

class WakeKswapdResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ReclaimRequest(_message.Message):
    __slots__ = ("request_id", "order", "highest_zoneidx", "priority")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    HIGHEST_ZONEIDX_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    order: int
    highest_zoneidx: int
    priority: int
    def __init__(self, request_id: _Optional[str] = ..., order: _Optional[int] = ..., highest_zoneidx: _Optional[int] = ..., priority: _Optional[int] = ...) -> None: ...

class ReclaimResponse(_message.Message):
    __slots__ = ("reclaimed_pages", "scanned_pages")
    RECLAIMED_PAGES_FIELD_NUMBER: _ClassVar[int]
    SCANNED_PAGES_FIELD_NUMBER: _ClassVar[int]
    reclaimed_pages: int
    scanned_pages: int
    def __init__(self, reclaimed_pages: _Optional[int] = ..., scanned_pages: _Optional[int] = ...) -> None: ...

class CountForeignRequest(_message.Message):
    __slots__ = ("request_id", "zone", "count")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ZONE_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    zone: int
    count: int
    def __init__(self, request_id: _Optional[str] = ..., zone: _Optional[int] = ..., count: _Optional[int] = ...) -> None: ...

class CountForeignResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
