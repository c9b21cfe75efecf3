from numa_client._gen.numa.v1 import node_service_pb2 as _node_service_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ObserveRequest(_message.Message):
    __slots__ = ("interval_ms",)
    INTERVAL_MS_FIELD_NUMBER: _ClassVar[int]
    interval_ms: int
    def __init__(self, interval_ms: _Optional[int] = ...) -> None: ...

class ObserveResponse(_message.Message):
    __slots__ = ("node", "lineage", "sequence", "time_ns", "zones", "numa_stat", "vm_event_names", "vm_events", "kswapd", "kswapd_hopeless", "sessions", "held_pages", "swap_total_pages", "swap_used_pages", "fallback")
    NODE_FIELD_NUMBER: _ClassVar[int]
    LINEAGE_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    TIME_NS_FIELD_NUMBER: _ClassVar[int]
    ZONES_FIELD_NUMBER: _ClassVar[int]
    NUMA_STAT_FIELD_NUMBER: _ClassVar[int]
    VM_EVENT_NAMES_FIELD_NUMBER: _ClassVar[int]
    VM_EVENTS_FIELD_NUMBER: _ClassVar[int]
    KSWAPD_FIELD_NUMBER: _ClassVar[int]
    KSWAPD_HOPELESS_FIELD_NUMBER: _ClassVar[int]
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    HELD_PAGES_FIELD_NUMBER: _ClassVar[int]
    SWAP_TOTAL_PAGES_FIELD_NUMBER: _ClassVar[int]
    SWAP_USED_PAGES_FIELD_NUMBER: _ClassVar[int]
    FALLBACK_FIELD_NUMBER: _ClassVar[int]
    node: int
    lineage: int
    sequence: int
    time_ns: int
    zones: _containers.RepeatedCompositeFieldContainer[ObservedZone]
    numa_stat: _containers.RepeatedScalarFieldContainer[int]
    vm_event_names: _containers.RepeatedScalarFieldContainer[str]
    vm_events: _containers.RepeatedScalarFieldContainer[int]
    kswapd: _node_service_pb2.KswapdState
    kswapd_hopeless: bool
    sessions: int
    held_pages: int
    swap_total_pages: int
    swap_used_pages: int
    fallback: _containers.RepeatedCompositeFieldContainer[FallbackPages]
    def __init__(self, node: _Optional[int] = ..., lineage: _Optional[int] = ..., sequence: _Optional[int] = ..., time_ns: _Optional[int] = ..., zones: _Optional[_Iterable[_Union[ObservedZone, _Mapping]]] = ..., numa_stat: _Optional[_Iterable[int]] = ..., vm_event_names: _Optional[_Iterable[str]] = ..., vm_events: _Optional[_Iterable[int]] = ..., kswapd: _Optional[_Union[_node_service_pb2.KswapdState, _Mapping]] = ..., kswapd_hopeless: _Optional[bool] = ..., sessions: _Optional[int] = ..., held_pages: _Optional[int] = ..., swap_total_pages: _Optional[int] = ..., swap_used_pages: _Optional[int] = ..., fallback: _Optional[_Iterable[_Union[FallbackPages, _Mapping]]] = ...) -> None: ...

class ObservedZone(_message.Message):
    __slots__ = ("zone", "free_pages", "min_pages", "low_pages", "high_pages", "boost_pages", "managed_pages", "present_pages", "spanned_pages", "pageset_pages", "free_blocks", "lru_pages")
    ZONE_FIELD_NUMBER: _ClassVar[int]
    FREE_PAGES_FIELD_NUMBER: _ClassVar[int]
    MIN_PAGES_FIELD_NUMBER: _ClassVar[int]
    LOW_PAGES_FIELD_NUMBER: _ClassVar[int]
    HIGH_PAGES_FIELD_NUMBER: _ClassVar[int]
    BOOST_PAGES_FIELD_NUMBER: _ClassVar[int]
    MANAGED_PAGES_FIELD_NUMBER: _ClassVar[int]
    PRESENT_PAGES_FIELD_NUMBER: _ClassVar[int]
    SPANNED_PAGES_FIELD_NUMBER: _ClassVar[int]
    PAGESET_PAGES_FIELD_NUMBER: _ClassVar[int]
    FREE_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    LRU_PAGES_FIELD_NUMBER: _ClassVar[int]
    zone: str
    free_pages: int
    min_pages: int
    low_pages: int
    high_pages: int
    boost_pages: int
    managed_pages: int
    present_pages: int
    spanned_pages: int
    pageset_pages: int
    free_blocks: _containers.RepeatedScalarFieldContainer[int]
    lru_pages: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, zone: _Optional[str] = ..., free_pages: _Optional[int] = ..., min_pages: _Optional[int] = ..., low_pages: _Optional[int] = ..., high_pages: _Optional[int] = ..., boost_pages: _Optional[int] = ..., managed_pages: _Optional[int] = ..., present_pages: _Optional[int] = ..., spanned_pages: _Optional[int] = ..., pageset_pages: _Optional[int] = ..., free_blocks: _Optional[_Iterable[int]] = ..., lru_pages: _Optional[_Iterable[int]] = ...) -> None: ...

class FallbackPages(_message.Message):
    __slots__ = ("node", "pages")
    NODE_FIELD_NUMBER: _ClassVar[int]
    PAGES_FIELD_NUMBER: _ClassVar[int]
    node: int
    pages: int
    def __init__(self, node: _Optional[int] = ..., pages: _Optional[int] = ...) -> None: ...
