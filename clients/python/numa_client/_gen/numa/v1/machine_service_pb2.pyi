from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CreateCacheRequest(_message.Message):
    __slots__ = ("request_id", "name", "size", "align", "flags", "ctor", "usersize")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    ALIGN_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    CTOR_FIELD_NUMBER: _ClassVar[int]
    USERSIZE_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    name: str
    size: int
    align: int
    flags: str
    ctor: str
    usersize: int
    def __init__(self, request_id: _Optional[str] = ..., name: _Optional[str] = ..., size: _Optional[int] = ..., align: _Optional[int] = ..., flags: _Optional[str] = ..., ctor: _Optional[str] = ..., usersize: _Optional[int] = ...) -> None: ...

class CreateCacheResponse(_message.Message):
    __slots__ = ("cache",)
    CACHE_FIELD_NUMBER: _ClassVar[int]
    cache: str
    def __init__(self, cache: _Optional[str] = ...) -> None: ...

class DestroyCacheRequest(_message.Message):
    __slots__ = ("request_id", "name")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    name: str
    def __init__(self, request_id: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class DestroyCacheResponse(_message.Message):
    __slots__ = ("shared",)
    SHARED_FIELD_NUMBER: _ClassVar[int]
    shared: bool
    def __init__(self, shared: _Optional[bool] = ...) -> None: ...

class GetMachineRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetMachineResponse(_message.Message):
    __slots__ = ("name", "profile", "nodes", "distances")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    DISTANCES_FIELD_NUMBER: _ClassVar[int]
    name: str
    profile: str
    nodes: _containers.RepeatedCompositeFieldContainer[NodeInfo]
    distances: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, name: _Optional[str] = ..., profile: _Optional[str] = ..., nodes: _Optional[_Iterable[_Union[NodeInfo, _Mapping]]] = ..., distances: _Optional[_Iterable[int]] = ...) -> None: ...

class NodeInfo(_message.Message):
    __slots__ = ("node", "cpus", "managed_pages", "address", "metrics_url", "lineage", "fallback_order")
    NODE_FIELD_NUMBER: _ClassVar[int]
    CPUS_FIELD_NUMBER: _ClassVar[int]
    MANAGED_PAGES_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    METRICS_URL_FIELD_NUMBER: _ClassVar[int]
    LINEAGE_FIELD_NUMBER: _ClassVar[int]
    FALLBACK_ORDER_FIELD_NUMBER: _ClassVar[int]
    node: int
    cpus: _containers.RepeatedScalarFieldContainer[int]
    managed_pages: int
    address: str
    metrics_url: str
    lineage: int
    fallback_order: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, node: _Optional[int] = ..., cpus: _Optional[_Iterable[int]] = ..., managed_pages: _Optional[int] = ..., address: _Optional[str] = ..., metrics_url: _Optional[str] = ..., lineage: _Optional[int] = ..., fallback_order: _Optional[_Iterable[int]] = ...) -> None: ...
