from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TracepointKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TRACEPOINT_KIND_UNSPECIFIED: _ClassVar[TracepointKind]
    TRACEPOINT_KIND_MM_PAGE_ALLOC: _ClassVar[TracepointKind]
    TRACEPOINT_KIND_MM_PAGE_FREE: _ClassVar[TracepointKind]
    TRACEPOINT_KIND_MM_PAGE_FREE_BATCHED: _ClassVar[TracepointKind]
    TRACEPOINT_KIND_MM_PAGE_ALLOC_ZONE_LOCKED: _ClassVar[TracepointKind]
    TRACEPOINT_KIND_MM_PAGE_PCPU_DRAIN: _ClassVar[TracepointKind]
    TRACEPOINT_KIND_MM_PAGE_ALLOC_EXTFRAG: _ClassVar[TracepointKind]
    TRACEPOINT_KIND_MM_VMSCAN_KSWAPD_WAKE: _ClassVar[TracepointKind]
    TRACEPOINT_KIND_MM_VMSCAN_KSWAPD_SLEEP: _ClassVar[TracepointKind]
    TRACEPOINT_KIND_MM_VMSCAN_WAKEUP_KSWAPD: _ClassVar[TracepointKind]
    TRACEPOINT_KIND_MM_VMSCAN_DIRECT_RECLAIM_BEGIN: _ClassVar[TracepointKind]
    TRACEPOINT_KIND_MM_VMSCAN_DIRECT_RECLAIM_END: _ClassVar[TracepointKind]
    TRACEPOINT_KIND_MM_VMSCAN_LRU_ISOLATE: _ClassVar[TracepointKind]
    TRACEPOINT_KIND_MM_VMSCAN_LRU_SHRINK_INACTIVE: _ClassVar[TracepointKind]
    TRACEPOINT_KIND_MM_VMSCAN_LRU_SHRINK_ACTIVE: _ClassVar[TracepointKind]
    TRACEPOINT_KIND_MM_VMSCAN_WRITE_FOLIO: _ClassVar[TracepointKind]
    TRACEPOINT_KIND_MM_MIGRATE_PAGES: _ClassVar[TracepointKind]
    TRACEPOINT_KIND_KMALLOC: _ClassVar[TracepointKind]
    TRACEPOINT_KIND_KMALLOC_NODE: _ClassVar[TracepointKind]
    TRACEPOINT_KIND_KFREE: _ClassVar[TracepointKind]
    TRACEPOINT_KIND_KMEM_CACHE_ALLOC: _ClassVar[TracepointKind]
    TRACEPOINT_KIND_KMEM_CACHE_ALLOC_NODE: _ClassVar[TracepointKind]
    TRACEPOINT_KIND_KMEM_CACHE_FREE: _ClassVar[TracepointKind]
TRACEPOINT_KIND_UNSPECIFIED: TracepointKind
TRACEPOINT_KIND_MM_PAGE_ALLOC: TracepointKind
TRACEPOINT_KIND_MM_PAGE_FREE: TracepointKind
TRACEPOINT_KIND_MM_PAGE_FREE_BATCHED: TracepointKind
TRACEPOINT_KIND_MM_PAGE_ALLOC_ZONE_LOCKED: TracepointKind
TRACEPOINT_KIND_MM_PAGE_PCPU_DRAIN: TracepointKind
TRACEPOINT_KIND_MM_PAGE_ALLOC_EXTFRAG: TracepointKind
TRACEPOINT_KIND_MM_VMSCAN_KSWAPD_WAKE: TracepointKind
TRACEPOINT_KIND_MM_VMSCAN_KSWAPD_SLEEP: TracepointKind
TRACEPOINT_KIND_MM_VMSCAN_WAKEUP_KSWAPD: TracepointKind
TRACEPOINT_KIND_MM_VMSCAN_DIRECT_RECLAIM_BEGIN: TracepointKind
TRACEPOINT_KIND_MM_VMSCAN_DIRECT_RECLAIM_END: TracepointKind
TRACEPOINT_KIND_MM_VMSCAN_LRU_ISOLATE: TracepointKind
TRACEPOINT_KIND_MM_VMSCAN_LRU_SHRINK_INACTIVE: TracepointKind
TRACEPOINT_KIND_MM_VMSCAN_LRU_SHRINK_ACTIVE: TracepointKind
TRACEPOINT_KIND_MM_VMSCAN_WRITE_FOLIO: TracepointKind
TRACEPOINT_KIND_MM_MIGRATE_PAGES: TracepointKind
TRACEPOINT_KIND_KMALLOC: TracepointKind
TRACEPOINT_KIND_KMALLOC_NODE: TracepointKind
TRACEPOINT_KIND_KFREE: TracepointKind
TRACEPOINT_KIND_KMEM_CACHE_ALLOC: TracepointKind
TRACEPOINT_KIND_KMEM_CACHE_ALLOC_NODE: TracepointKind
TRACEPOINT_KIND_KMEM_CACHE_FREE: TracepointKind

class StreamEventsRequest(_message.Message):
    __slots__ = ("events", "zones", "orders", "max_events")
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    ZONES_FIELD_NUMBER: _ClassVar[int]
    ORDERS_FIELD_NUMBER: _ClassVar[int]
    MAX_EVENTS_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedScalarFieldContainer[str]
    zones: _containers.RepeatedScalarFieldContainer[str]
    orders: _containers.RepeatedScalarFieldContainer[int]
    max_events: int
    def __init__(self, events: _Optional[_Iterable[str]] = ..., zones: _Optional[_Iterable[str]] = ..., orders: _Optional[_Iterable[int]] = ..., max_events: _Optional[int] = ...) -> None: ...

class StreamEventsResponse(_message.Message):
    __slots__ = ("kinds", "times_ns", "cpus", "pids", "comms", "comm_names", "zones", "values", "dropped_events")
    KINDS_FIELD_NUMBER: _ClassVar[int]
    TIMES_NS_FIELD_NUMBER: _ClassVar[int]
    CPUS_FIELD_NUMBER: _ClassVar[int]
    PIDS_FIELD_NUMBER: _ClassVar[int]
    COMMS_FIELD_NUMBER: _ClassVar[int]
    COMM_NAMES_FIELD_NUMBER: _ClassVar[int]
    ZONES_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    DROPPED_EVENTS_FIELD_NUMBER: _ClassVar[int]
    kinds: _containers.RepeatedScalarFieldContainer[TracepointKind]
    times_ns: _containers.RepeatedScalarFieldContainer[int]
    cpus: _containers.RepeatedScalarFieldContainer[int]
    pids: _containers.RepeatedScalarFieldContainer[int]
    comms: _containers.RepeatedScalarFieldContainer[int]
    comm_names: _containers.RepeatedScalarFieldContainer[str]
    zones: _containers.RepeatedScalarFieldContainer[int]
    values: _containers.RepeatedScalarFieldContainer[int]
    dropped_events: int
    def __init__(self, kinds: _Optional[_Iterable[_Union[TracepointKind, str]]] = ..., times_ns: _Optional[_Iterable[int]] = ..., cpus: _Optional[_Iterable[int]] = ..., pids: _Optional[_Iterable[int]] = ..., comms: _Optional[_Iterable[int]] = ..., comm_names: _Optional[_Iterable[str]] = ..., zones: _Optional[_Iterable[int]] = ..., values: _Optional[_Iterable[int]] = ..., dropped_events: _Optional[int] = ...) -> None: ...
