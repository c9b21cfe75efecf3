from numa_client._gen.numa.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AllocObjectsRequest(_message.Message):
    __slots__ = ("session", "session_token", "request_id", "cache", "count", "gfp_flags", "cpu", "node")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    SESSION_TOKEN_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CACHE_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    GFP_FLAGS_FIELD_NUMBER: _ClassVar[int]
    CPU_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    session: int
    session_token: bytes
    request_id: str
    cache: str
    count: int
    gfp_flags: str
    cpu: int
    node: int
    def __init__(self, session: _Optional[int] = ..., session_token: _Optional[bytes] = ..., request_id: _Optional[str] = ..., cache: _Optional[str] = ..., count: _Optional[int] = ..., gfp_flags: _Optional[str] = ..., cpu: _Optional[int] = ..., node: _Optional[int] = ...) -> None: ...

class AllocObjectsResponse(_message.Message):
    __slots__ = ("objects", "cost", "report")
    OBJECTS_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    objects: bytes
    cost: _types_pb2.Cost
    report: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, objects: _Optional[bytes] = ..., cost: _Optional[_Union[_types_pb2.Cost, _Mapping]] = ..., report: _Optional[_Iterable[str]] = ...) -> None: ...

class KmallocRequest(_message.Message):
    __slots__ = ("session", "session_token", "request_id", "size", "count", "gfp_flags", "cpu", "node")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    SESSION_TOKEN_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    GFP_FLAGS_FIELD_NUMBER: _ClassVar[int]
    CPU_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    session: int
    session_token: bytes
    request_id: str
    size: int
    count: int
    gfp_flags: str
    cpu: int
    node: int
    def __init__(self, session: _Optional[int] = ..., session_token: _Optional[bytes] = ..., request_id: _Optional[str] = ..., size: _Optional[int] = ..., count: _Optional[int] = ..., gfp_flags: _Optional[str] = ..., cpu: _Optional[int] = ..., node: _Optional[int] = ...) -> None: ...

class KmallocResponse(_message.Message):
    __slots__ = ("objects", "cost", "report")
    OBJECTS_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    objects: bytes
    cost: _types_pb2.Cost
    report: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, objects: _Optional[bytes] = ..., cost: _Optional[_Union[_types_pb2.Cost, _Mapping]] = ..., report: _Optional[_Iterable[str]] = ...) -> None: ...

class FreeObjectsRequest(_message.Message):
    __slots__ = ("session", "session_token", "request_id", "cache", "objects", "cpu")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    SESSION_TOKEN_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CACHE_FIELD_NUMBER: _ClassVar[int]
    OBJECTS_FIELD_NUMBER: _ClassVar[int]
    CPU_FIELD_NUMBER: _ClassVar[int]
    session: int
    session_token: bytes
    request_id: str
    cache: str
    objects: bytes
    cpu: int
    def __init__(self, session: _Optional[int] = ..., session_token: _Optional[bytes] = ..., request_id: _Optional[str] = ..., cache: _Optional[str] = ..., objects: _Optional[bytes] = ..., cpu: _Optional[int] = ...) -> None: ...

class FreeObjectsResponse(_message.Message):
    __slots__ = ("freed_objects", "cost")
    FREED_OBJECTS_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    freed_objects: int
    cost: _types_pb2.Cost
    def __init__(self, freed_objects: _Optional[int] = ..., cost: _Optional[_Union[_types_pb2.Cost, _Mapping]] = ...) -> None: ...

class ShrinkCacheRequest(_message.Message):
    __slots__ = ("request_id", "cache")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CACHE_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    cache: str
    def __init__(self, request_id: _Optional[str] = ..., cache: _Optional[str] = ...) -> None: ...

class ShrinkCacheResponse(_message.Message):
    __slots__ = ("slabs",)
    SLABS_FIELD_NUMBER: _ClassVar[int]
    slabs: int
    def __init__(self, slabs: _Optional[int] = ...) -> None: ...

class FlushCacheRequest(_message.Message):
    __slots__ = ("request_id", "cache")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CACHE_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    cache: str
    def __init__(self, request_id: _Optional[str] = ..., cache: _Optional[str] = ...) -> None: ...

class FlushCacheResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ShutdownCacheRequest(_message.Message):
    __slots__ = ("request_id", "cache")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CACHE_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    cache: str
    def __init__(self, request_id: _Optional[str] = ..., cache: _Optional[str] = ...) -> None: ...

class ShutdownCacheResponse(_message.Message):
    __slots__ = ("slabs", "report")
    SLABS_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    slabs: int
    report: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, slabs: _Optional[int] = ..., report: _Optional[_Iterable[str]] = ...) -> None: ...

class WriteObjectRequest(_message.Message):
    __slots__ = ("session", "session_token", "request_id", "object", "offset", "data", "cpu")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    SESSION_TOKEN_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    OBJECT_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    CPU_FIELD_NUMBER: _ClassVar[int]
    session: int
    session_token: bytes
    request_id: str
    object: int
    offset: int
    data: bytes
    cpu: int
    def __init__(self, session: _Optional[int] = ..., session_token: _Optional[bytes] = ..., request_id: _Optional[str] = ..., object: _Optional[int] = ..., offset: _Optional[int] = ..., data: _Optional[bytes] = ..., cpu: _Optional[int] = ...) -> None: ...

class WriteObjectResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ValidateCacheRequest(_message.Message):
    __slots__ = ("request_id", "cache")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CACHE_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    cache: str
    def __init__(self, request_id: _Optional[str] = ..., cache: _Optional[str] = ...) -> None: ...

class ValidateCacheResponse(_message.Message):
    __slots__ = ("report",)
    REPORT_FIELD_NUMBER: _ClassVar[int]
    report: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, report: _Optional[_Iterable[str]] = ...) -> None: ...

class ListCachesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListCachesResponse(_message.Message):
    __slots__ = ("caches",)
    CACHES_FIELD_NUMBER: _ClassVar[int]
    caches: _containers.RepeatedCompositeFieldContainer[SlabCache]
    def __init__(self, caches: _Optional[_Iterable[_Union[SlabCache, _Mapping]]] = ...) -> None: ...

class SlabCache(_message.Message):
    __slots__ = ("name", "aliases", "object_bytes", "objects_per_slab", "order", "active_objects", "objects", "slabs")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ALIASES_FIELD_NUMBER: _ClassVar[int]
    OBJECT_BYTES_FIELD_NUMBER: _ClassVar[int]
    OBJECTS_PER_SLAB_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_OBJECTS_FIELD_NUMBER: _ClassVar[int]
    OBJECTS_FIELD_NUMBER: _ClassVar[int]
    SLABS_FIELD_NUMBER: _ClassVar[int]
    name: str
    aliases: _containers.RepeatedScalarFieldContainer[str]
    object_bytes: int
    objects_per_slab: int
    order: int
    active_objects: int
    objects: int
    slabs: int
    def __init__(self, name: _Optional[str] = ..., aliases: _Optional[_Iterable[str]] = ..., object_bytes: _Optional[int] = ..., objects_per_slab: _Optional[int] = ..., order: _Optional[int] = ..., active_objects: _Optional[int] = ..., objects: _Optional[int] = ..., slabs: _Optional[int] = ...) -> None: ...
