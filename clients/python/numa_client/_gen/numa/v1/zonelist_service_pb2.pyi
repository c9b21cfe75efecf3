from numa_client._gen.numa.v1 import explanation_pb2 as _explanation_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Owner(_message.Message):
    __slots__ = ("node", "lineage", "id")
    NODE_FIELD_NUMBER: _ClassVar[int]
    LINEAGE_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    node: int
    lineage: int
    id: int
    def __init__(self, node: _Optional[int] = ..., lineage: _Optional[int] = ..., id: _Optional[int] = ...) -> None: ...

class LookupRequest(_message.Message):
    __slots__ = ("request_id", "owner", "order", "count", "migratetype", "highest_zoneidx", "zones", "cpu", "alloc_flags", "numa_how", "lru_kind", "indexes", "dirty", "explain", "report", "gfp_flags", "slab", "slab_objects")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    MIGRATETYPE_FIELD_NUMBER: _ClassVar[int]
    HIGHEST_ZONEIDX_FIELD_NUMBER: _ClassVar[int]
    ZONES_FIELD_NUMBER: _ClassVar[int]
    CPU_FIELD_NUMBER: _ClassVar[int]
    ALLOC_FLAGS_FIELD_NUMBER: _ClassVar[int]
    NUMA_HOW_FIELD_NUMBER: _ClassVar[int]
    LRU_KIND_FIELD_NUMBER: _ClassVar[int]
    INDEXES_FIELD_NUMBER: _ClassVar[int]
    DIRTY_FIELD_NUMBER: _ClassVar[int]
    EXPLAIN_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    GFP_FLAGS_FIELD_NUMBER: _ClassVar[int]
    SLAB_FIELD_NUMBER: _ClassVar[int]
    SLAB_OBJECTS_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    owner: Owner
    order: int
    count: int
    migratetype: int
    highest_zoneidx: int
    zones: _containers.RepeatedScalarFieldContainer[int]
    cpu: int
    alloc_flags: int
    numa_how: int
    lru_kind: int
    indexes: bytes
    dirty: bool
    explain: bool
    report: TrafficReport
    gfp_flags: int
    slab: str
    slab_objects: int
    def __init__(self, request_id: _Optional[str] = ..., owner: _Optional[_Union[Owner, _Mapping]] = ..., order: _Optional[int] = ..., count: _Optional[int] = ..., migratetype: _Optional[int] = ..., highest_zoneidx: _Optional[int] = ..., zones: _Optional[_Iterable[int]] = ..., cpu: _Optional[int] = ..., alloc_flags: _Optional[int] = ..., numa_how: _Optional[int] = ..., lru_kind: _Optional[int] = ..., indexes: _Optional[bytes] = ..., dirty: _Optional[bool] = ..., explain: _Optional[bool] = ..., report: _Optional[_Union[TrafficReport, _Mapping]] = ..., gfp_flags: _Optional[int] = ..., slab: _Optional[str] = ..., slab_objects: _Optional[int] = ...) -> None: ...

class TrafficReport(_message.Message):
    __slots__ = ("node", "window_ns", "moved_bytes")
    NODE_FIELD_NUMBER: _ClassVar[int]
    WINDOW_NS_FIELD_NUMBER: _ClassVar[int]
    MOVED_BYTES_FIELD_NUMBER: _ClassVar[int]
    node: int
    window_ns: int
    moved_bytes: int
    def __init__(self, node: _Optional[int] = ..., window_ns: _Optional[int] = ..., moved_bytes: _Optional[int] = ...) -> None: ...

class LookupResponse(_message.Message):
    __slots__ = ("pfns", "path", "account", "full_zones", "wait_ns", "objects", "lineage")
    PFNS_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    FULL_ZONES_FIELD_NUMBER: _ClassVar[int]
    WAIT_NS_FIELD_NUMBER: _ClassVar[int]
    OBJECTS_FIELD_NUMBER: _ClassVar[int]
    LINEAGE_FIELD_NUMBER: _ClassVar[int]
    pfns: bytes
    path: _containers.RepeatedScalarFieldContainer[int]
    account: _explanation_pb2.NodeAccount
    full_zones: _containers.RepeatedScalarFieldContainer[int]
    wait_ns: int
    objects: bytes
    lineage: int
    def __init__(self, pfns: _Optional[bytes] = ..., path: _Optional[_Iterable[int]] = ..., account: _Optional[_Union[_explanation_pb2.NodeAccount, _Mapping]] = ..., full_zones: _Optional[_Iterable[int]] = ..., wait_ns: _Optional[int] = ..., objects: _Optional[bytes] = ..., lineage: _Optional[int] = ...) -> None: ...

class ReleaseRequest(_message.Message):
    __slots__ = ("request_id", "owner", "order", "pfns", "cpu", "indexes")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    PFNS_FIELD_NUMBER: _ClassVar[int]
    CPU_FIELD_NUMBER: _ClassVar[int]
    INDEXES_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    owner: Owner
    order: int
    pfns: bytes
    cpu: int
    indexes: bytes
    def __init__(self, request_id: _Optional[str] = ..., owner: _Optional[_Union[Owner, _Mapping]] = ..., order: _Optional[int] = ..., pfns: _Optional[bytes] = ..., cpu: _Optional[int] = ..., indexes: _Optional[bytes] = ...) -> None: ...

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
    __slots__ = ("request_id", "owner", "indexes", "write", "report")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    INDEXES_FIELD_NUMBER: _ClassVar[int]
    WRITE_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    owner: Owner
    indexes: bytes
    write: bool
    report: TrafficReport
    def __init__(self, request_id: _Optional[str] = ..., owner: _Optional[_Union[Owner, _Mapping]] = ..., indexes: _Optional[bytes] = ..., write: _Optional[bool] = ..., report: _Optional[_Union[TrafficReport, _Mapping]] = ...) -> None: ...

class TouchResponse(_message.Message):
    __slots__ = ("gone", "swapped_in_pages", "path", "wait_ns")
    GONE_FIELD_NUMBER: _ClassVar[int]
    SWAPPED_IN_PAGES_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    WAIT_NS_FIELD_NUMBER: _ClassVar[int]
    gone: bytes
    swapped_in_pages: int
    path: _containers.RepeatedScalarFieldContainer[int]
    wait_ns: int
    def __init__(self, gone: _Optional[bytes] = ..., swapped_in_pages: _Optional[int] = ..., path: _Optional[_Iterable[int]] = ..., wait_ns: _Optional[int] = ...) -> None: ...

class WakeKswapdRequest(_message.Message):
    __slots__ = ("request_id", "order", "highest_zoneidx", "gfp_flags")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    HIGHEST_ZONEIDX_FIELD_NUMBER: _ClassVar[int]
    GFP_FLAGS_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    order: int
    highest_zoneidx: int
    gfp_flags: int
    def __init__(self, request_id: _Optional[str] = ..., order: _Optional[int] = ..., highest_zoneidx: _Optional[int] = ..., gfp_flags: _Optional[int] = ...) -> None: ...

class WakeKswapdResponse(_message.Message):
    __slots__ = ("woken",)
    WOKEN_FIELD_NUMBER: _ClassVar[int]
    woken: bool
    def __init__(self, woken: _Optional[bool] = ...) -> None: ...

class ReclaimRequest(_message.Message):
    __slots__ = ("request_id", "highest_zoneidx", "priority", "nr_to_reclaim_pages")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    HIGHEST_ZONEIDX_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    NR_TO_RECLAIM_PAGES_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    highest_zoneidx: int
    priority: int
    nr_to_reclaim_pages: int
    def __init__(self, request_id: _Optional[str] = ..., highest_zoneidx: _Optional[int] = ..., priority: _Optional[int] = ..., nr_to_reclaim_pages: _Optional[int] = ...) -> None: ...

class ReclaimResponse(_message.Message):
    __slots__ = ("scanned_pages", "reclaimed_pages", "path")
    SCANNED_PAGES_FIELD_NUMBER: _ClassVar[int]
    RECLAIMED_PAGES_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    scanned_pages: int
    reclaimed_pages: int
    path: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, scanned_pages: _Optional[int] = ..., reclaimed_pages: _Optional[int] = ..., path: _Optional[_Iterable[int]] = ...) -> None: ...

class DrainRequest(_message.Message):
    __slots__ = ("request_id", "zones", "migratetype", "force")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ZONES_FIELD_NUMBER: _ClassVar[int]
    MIGRATETYPE_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    zones: _containers.RepeatedScalarFieldContainer[int]
    migratetype: int
    force: bool
    def __init__(self, request_id: _Optional[str] = ..., zones: _Optional[_Iterable[int]] = ..., migratetype: _Optional[int] = ..., force: _Optional[bool] = ...) -> None: ...

class DrainResponse(_message.Message):
    __slots__ = ("drained_pages",)
    DRAINED_PAGES_FIELD_NUMBER: _ClassVar[int]
    drained_pages: int
    def __init__(self, drained_pages: _Optional[int] = ...) -> None: ...

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

class RemapRequest(_message.Message):
    __slots__ = ("request_id", "owner", "indexes", "from_node", "to_node")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    INDEXES_FIELD_NUMBER: _ClassVar[int]
    FROM_NODE_FIELD_NUMBER: _ClassVar[int]
    TO_NODE_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    owner: Owner
    indexes: bytes
    from_node: int
    to_node: int
    def __init__(self, request_id: _Optional[str] = ..., owner: _Optional[_Union[Owner, _Mapping]] = ..., indexes: _Optional[bytes] = ..., from_node: _Optional[int] = ..., to_node: _Optional[int] = ...) -> None: ...

class RemapResponse(_message.Message):
    __slots__ = ("entered",)
    ENTERED_FIELD_NUMBER: _ClassVar[int]
    entered: bytes
    def __init__(self, entered: _Optional[bytes] = ...) -> None: ...

class CheckOwnersRequest(_message.Message):
    __slots__ = ("node", "owners")
    NODE_FIELD_NUMBER: _ClassVar[int]
    OWNERS_FIELD_NUMBER: _ClassVar[int]
    node: int
    owners: _containers.RepeatedCompositeFieldContainer[Owner]
    def __init__(self, node: _Optional[int] = ..., owners: _Optional[_Iterable[_Union[Owner, _Mapping]]] = ...) -> None: ...

class CheckOwnersResponse(_message.Message):
    __slots__ = ("unknown",)
    UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    unknown: _containers.RepeatedCompositeFieldContainer[Owner]
    def __init__(self, unknown: _Optional[_Iterable[_Union[Owner, _Mapping]]] = ...) -> None: ...

class KmemRequest(_message.Message):
    __slots__ = ("request_id", "owner", "call", "cache", "cpu", "lineage", "pfns", "objects", "count", "offset", "data")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    CALL_FIELD_NUMBER: _ClassVar[int]
    CACHE_FIELD_NUMBER: _ClassVar[int]
    CPU_FIELD_NUMBER: _ClassVar[int]
    LINEAGE_FIELD_NUMBER: _ClassVar[int]
    PFNS_FIELD_NUMBER: _ClassVar[int]
    OBJECTS_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    owner: Owner
    call: str
    cache: str
    cpu: int
    lineage: int
    pfns: _containers.RepeatedScalarFieldContainer[int]
    objects: bytes
    count: int
    offset: int
    data: bytes
    def __init__(self, request_id: _Optional[str] = ..., owner: _Optional[_Union[Owner, _Mapping]] = ..., call: _Optional[str] = ..., cache: _Optional[str] = ..., cpu: _Optional[int] = ..., lineage: _Optional[int] = ..., pfns: _Optional[_Iterable[int]] = ..., objects: _Optional[bytes] = ..., count: _Optional[int] = ..., offset: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class KmemResponse(_message.Message):
    __slots__ = ("lineage", "pfns", "objects", "frozen", "report")
    LINEAGE_FIELD_NUMBER: _ClassVar[int]
    PFNS_FIELD_NUMBER: _ClassVar[int]
    OBJECTS_FIELD_NUMBER: _ClassVar[int]
    FROZEN_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    lineage: int
    pfns: _containers.RepeatedScalarFieldContainer[int]
    objects: bytes
    frozen: bool
    report: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, lineage: _Optional[int] = ..., pfns: _Optional[_Iterable[int]] = ..., objects: _Optional[bytes] = ..., frozen: _Optional[bool] = ..., report: _Optional[_Iterable[str]] = ...) -> None: ...

class VmAreaRequest(_message.Message):
    __slots__ = ("request_id", "op")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    OP_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    op: bytes
    def __init__(self, request_id: _Optional[str] = ..., op: _Optional[bytes] = ...) -> None: ...

class VmAreaResponse(_message.Message):
    __slots__ = ("addr", "report", "order", "pfns", "array", "found")
    ADDR_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    PFNS_FIELD_NUMBER: _ClassVar[int]
    ARRAY_FIELD_NUMBER: _ClassVar[int]
    FOUND_FIELD_NUMBER: _ClassVar[int]
    addr: int
    report: str
    order: int
    pfns: bytes
    array: int
    found: bool
    def __init__(self, addr: _Optional[int] = ..., report: _Optional[str] = ..., order: _Optional[int] = ..., pfns: _Optional[bytes] = ..., array: _Optional[int] = ..., found: _Optional[bool] = ...) -> None: ...

class HugetlbRequest(_message.Message):
    __slots__ = ("request_id", "call", "huge_page_kb", "count", "owner", "pfn")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CALL_FIELD_NUMBER: _ClassVar[int]
    HUGE_PAGE_KB_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    PFN_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    call: str
    huge_page_kb: int
    count: int
    owner: Owner
    pfn: int
    def __init__(self, request_id: _Optional[str] = ..., call: _Optional[str] = ..., huge_page_kb: _Optional[int] = ..., count: _Optional[int] = ..., owner: _Optional[_Union[Owner, _Mapping]] = ..., pfn: _Optional[int] = ...) -> None: ...

class HugetlbResponse(_message.Message):
    __slots__ = ("nr", "free", "surplus", "changed", "pfn")
    NR_FIELD_NUMBER: _ClassVar[int]
    FREE_FIELD_NUMBER: _ClassVar[int]
    SURPLUS_FIELD_NUMBER: _ClassVar[int]
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    PFN_FIELD_NUMBER: _ClassVar[int]
    nr: int
    free: int
    surplus: int
    changed: int
    pfn: int
    def __init__(self, nr: _Optional[int] = ..., free: _Optional[int] = ..., surplus: _Optional[int] = ..., changed: _Optional[int] = ..., pfn: _Optional[int] = ...) -> None: ...

class RunRequest(_message.Message):
    __slots__ = ("request_id", "request")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    request: bytes
    def __init__(self, request_id: _Optional[str] = ..., request: _Optional[bytes] = ...) -> None: ...

class RunResponse(_message.Message):
    __slots__ = ("pages", "fates", "told")
    PAGES_FIELD_NUMBER: _ClassVar[int]
    FATES_FIELD_NUMBER: _ClassVar[int]
    TOLD_FIELD_NUMBER: _ClassVar[int]
    pages: int
    fates: bytes
    told: bytes
    def __init__(self, pages: _Optional[int] = ..., fates: _Optional[bytes] = ..., told: _Optional[bytes] = ...) -> None: ...
