from numa_client._gen.numa.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetNodeRequest(_message.Message):
    __slots__ = ("with_digest",)
    WITH_DIGEST_FIELD_NUMBER: _ClassVar[int]
    with_digest: bool
    def __init__(self, with_digest: _Optional[bool] = ...) -> None: ...

class GetNodeResponse(_message.Message):
    __slots__ = ("node", "lineage", "zones", "numa_stat", "vm_events", "kswapd", "sessions", "held_pages", "swap_total_pages", "swap_used_pages", "digest", "log_length")
    class VmEventsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    NODE_FIELD_NUMBER: _ClassVar[int]
    LINEAGE_FIELD_NUMBER: _ClassVar[int]
    ZONES_FIELD_NUMBER: _ClassVar[int]
    NUMA_STAT_FIELD_NUMBER: _ClassVar[int]
    VM_EVENTS_FIELD_NUMBER: _ClassVar[int]
    KSWAPD_FIELD_NUMBER: _ClassVar[int]
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    HELD_PAGES_FIELD_NUMBER: _ClassVar[int]
    SWAP_TOTAL_PAGES_FIELD_NUMBER: _ClassVar[int]
    SWAP_USED_PAGES_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    LOG_LENGTH_FIELD_NUMBER: _ClassVar[int]
    node: int
    lineage: int
    zones: _containers.RepeatedCompositeFieldContainer[_types_pb2.ZoneSummary]
    numa_stat: _types_pb2.NumaStat
    vm_events: _containers.ScalarMap[str, int]
    kswapd: KswapdState
    sessions: int
    held_pages: int
    swap_total_pages: int
    swap_used_pages: int
    digest: str
    log_length: int
    def __init__(self, node: _Optional[int] = ..., lineage: _Optional[int] = ..., zones: _Optional[_Iterable[_Union[_types_pb2.ZoneSummary, _Mapping]]] = ..., numa_stat: _Optional[_Union[_types_pb2.NumaStat, _Mapping]] = ..., vm_events: _Optional[_Mapping[str, int]] = ..., kswapd: _Optional[_Union[KswapdState, _Mapping]] = ..., sessions: _Optional[int] = ..., held_pages: _Optional[int] = ..., swap_total_pages: _Optional[int] = ..., swap_used_pages: _Optional[int] = ..., digest: _Optional[str] = ..., log_length: _Optional[int] = ...) -> None: ...

class KswapdState(_message.Message):
    __slots__ = ("running", "wakeups", "reclaimed_pages", "order", "failures")
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    WAKEUPS_FIELD_NUMBER: _ClassVar[int]
    RECLAIMED_PAGES_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    running: bool
    wakeups: int
    reclaimed_pages: int
    order: int
    failures: int
    def __init__(self, running: _Optional[bool] = ..., wakeups: _Optional[int] = ..., reclaimed_pages: _Optional[int] = ..., order: _Optional[int] = ..., failures: _Optional[int] = ...) -> None: ...

class WriteSysctlRequest(_message.Message):
    __slots__ = ("key", "value")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    key: str
    value: str
    def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...

class WriteSysctlResponse(_message.Message):
    __slots__ = ("note",)
    NOTE_FIELD_NUMBER: _ClassVar[int]
    note: str
    def __init__(self, note: _Optional[str] = ...) -> None: ...

class GetSnapshotRequest(_message.Message):
    __slots__ = ("pid", "parts")
    PID_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    pid: int
    parts: int
    def __init__(self, pid: _Optional[int] = ..., parts: _Optional[int] = ...) -> None: ...

class GetSnapshotResponse(_message.Message):
    __slots__ = ("json",)
    JSON_FIELD_NUMBER: _ClassVar[int]
    json: bytes
    def __init__(self, json: _Optional[bytes] = ...) -> None: ...

class InspectRequest(_message.Message):
    __slots__ = ("zone", "pfn", "section", "highmem")
    ZONE_FIELD_NUMBER: _ClassVar[int]
    PFN_FIELD_NUMBER: _ClassVar[int]
    SECTION_FIELD_NUMBER: _ClassVar[int]
    HIGHMEM_FIELD_NUMBER: _ClassVar[int]
    zone: str
    pfn: int
    section: int
    highmem: bool
    def __init__(self, zone: _Optional[str] = ..., pfn: _Optional[int] = ..., section: _Optional[int] = ..., highmem: _Optional[bool] = ...) -> None: ...

class InspectResponse(_message.Message):
    __slots__ = ("json",)
    JSON_FIELD_NUMBER: _ClassVar[int]
    json: str
    def __init__(self, json: _Optional[str] = ...) -> None: ...

class ChangeMemoryBlockRequest(_message.Message):
    __slots__ = ("request_id", "block", "state")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    BLOCK_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    block: int
    state: str
    def __init__(self, request_id: _Optional[str] = ..., block: _Optional[int] = ..., state: _Optional[str] = ...) -> None: ...

class ChangeMemoryBlockResponse(_message.Message):
    __slots__ = ("zones",)
    ZONES_FIELD_NUMBER: _ClassVar[int]
    zones: _containers.RepeatedCompositeFieldContainer[_types_pb2.ZoneSummary]
    def __init__(self, zones: _Optional[_Iterable[_Union[_types_pb2.ZoneSummary, _Mapping]]] = ...) -> None: ...

class ResizeHugepagesRequest(_message.Message):
    __slots__ = ("request_id", "huge_page_kb", "count", "node")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    HUGE_PAGE_KB_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    huge_page_kb: int
    count: int
    node: int
    def __init__(self, request_id: _Optional[str] = ..., huge_page_kb: _Optional[int] = ..., count: _Optional[int] = ..., node: _Optional[int] = ...) -> None: ...

class ResizeHugepagesResponse(_message.Message):
    __slots__ = ("count",)
    COUNT_FIELD_NUMBER: _ClassVar[int]
    count: int
    def __init__(self, count: _Optional[int] = ...) -> None: ...

class OfflinePageRequest(_message.Message):
    __slots__ = ("request_id", "pfn", "soft")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    PFN_FIELD_NUMBER: _ClassVar[int]
    SOFT_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    pfn: int
    soft: bool
    def __init__(self, request_id: _Optional[str] = ..., pfn: _Optional[int] = ..., soft: _Optional[bool] = ...) -> None: ...

class OfflinePageResponse(_message.Message):
    __slots__ = ("message",)
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    message: str
    def __init__(self, message: _Optional[str] = ...) -> None: ...

class CheckInvariantsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CheckInvariantsResponse(_message.Message):
    __slots__ = ("violations",)
    VIOLATIONS_FIELD_NUMBER: _ClassVar[int]
    violations: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, violations: _Optional[_Iterable[str]] = ...) -> None: ...
