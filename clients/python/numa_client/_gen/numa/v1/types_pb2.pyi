from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PolicyMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    POLICY_MODE_UNSPECIFIED: _ClassVar[PolicyMode]
    POLICY_MODE_BIND: _ClassVar[PolicyMode]
    POLICY_MODE_PREFERRED: _ClassVar[PolicyMode]
    POLICY_MODE_INTERLEAVE: _ClassVar[PolicyMode]
    POLICY_MODE_PREFERRED_MANY: _ClassVar[PolicyMode]
    POLICY_MODE_LOCAL: _ClassVar[PolicyMode]
    POLICY_MODE_WEIGHTED_INTERLEAVE: _ClassVar[PolicyMode]

class PolicyFlag(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    POLICY_FLAG_UNSPECIFIED: _ClassVar[PolicyFlag]
    POLICY_FLAG_STATIC_NODES: _ClassVar[PolicyFlag]
    POLICY_FLAG_RELATIVE_NODES: _ClassVar[PolicyFlag]
POLICY_MODE_UNSPECIFIED: PolicyMode
POLICY_MODE_BIND: PolicyMode
POLICY_MODE_PREFERRED: PolicyMode
POLICY_MODE_INTERLEAVE: PolicyMode
POLICY_MODE_PREFERRED_MANY: PolicyMode
POLICY_MODE_LOCAL: PolicyMode
POLICY_MODE_WEIGHTED_INTERLEAVE: PolicyMode
POLICY_FLAG_UNSPECIFIED: PolicyFlag
POLICY_FLAG_STATIC_NODES: PolicyFlag
POLICY_FLAG_RELATIVE_NODES: PolicyFlag

class Policy(_message.Message):
    __slots__ = ("mode", "nodes", "home_node", "flag")
    MODE_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    HOME_NODE_FIELD_NUMBER: _ClassVar[int]
    FLAG_FIELD_NUMBER: _ClassVar[int]
    mode: PolicyMode
    nodes: _containers.RepeatedScalarFieldContainer[int]
    home_node: int
    flag: PolicyFlag
    def __init__(self, mode: _Optional[_Union[PolicyMode, str]] = ..., nodes: _Optional[_Iterable[int]] = ..., home_node: _Optional[int] = ..., flag: _Optional[_Union[PolicyFlag, str]] = ...) -> None: ...

class NodePages(_message.Message):
    __slots__ = ("node", "pfns")
    NODE_FIELD_NUMBER: _ClassVar[int]
    PFNS_FIELD_NUMBER: _ClassVar[int]
    node: int
    pfns: bytes
    def __init__(self, node: _Optional[int] = ..., pfns: _Optional[bytes] = ...) -> None: ...

class Cost(_message.Message):
    __slots__ = ("latency_ns", "access_ns", "pageset_ns", "buddy_ns", "fallback_ns", "reclaim_ns", "zeroing_ns", "queueing_ns")
    LATENCY_NS_FIELD_NUMBER: _ClassVar[int]
    ACCESS_NS_FIELD_NUMBER: _ClassVar[int]
    PAGESET_NS_FIELD_NUMBER: _ClassVar[int]
    BUDDY_NS_FIELD_NUMBER: _ClassVar[int]
    FALLBACK_NS_FIELD_NUMBER: _ClassVar[int]
    RECLAIM_NS_FIELD_NUMBER: _ClassVar[int]
    ZEROING_NS_FIELD_NUMBER: _ClassVar[int]
    QUEUEING_NS_FIELD_NUMBER: _ClassVar[int]
    latency_ns: int
    access_ns: int
    pageset_ns: int
    buddy_ns: int
    fallback_ns: int
    reclaim_ns: int
    zeroing_ns: int
    queueing_ns: int
    def __init__(self, latency_ns: _Optional[int] = ..., access_ns: _Optional[int] = ..., pageset_ns: _Optional[int] = ..., buddy_ns: _Optional[int] = ..., fallback_ns: _Optional[int] = ..., reclaim_ns: _Optional[int] = ..., zeroing_ns: _Optional[int] = ..., queueing_ns: _Optional[int] = ...) -> None: ...

class ZoneSummary(_message.Message):
    __slots__ = ("zone", "free_pages", "managed_pages", "present_pages", "spanned_pages", "start_pfn", "min_pages", "low_pages", "high_pages", "protection_pages", "free_blocks", "pageset_pages", "inactive_anon_pages", "active_anon_pages", "inactive_file_pages", "active_file_pages")
    ZONE_FIELD_NUMBER: _ClassVar[int]
    FREE_PAGES_FIELD_NUMBER: _ClassVar[int]
    MANAGED_PAGES_FIELD_NUMBER: _ClassVar[int]
    PRESENT_PAGES_FIELD_NUMBER: _ClassVar[int]
    SPANNED_PAGES_FIELD_NUMBER: _ClassVar[int]
    START_PFN_FIELD_NUMBER: _ClassVar[int]
    MIN_PAGES_FIELD_NUMBER: _ClassVar[int]
    LOW_PAGES_FIELD_NUMBER: _ClassVar[int]
    HIGH_PAGES_FIELD_NUMBER: _ClassVar[int]
    PROTECTION_PAGES_FIELD_NUMBER: _ClassVar[int]
    FREE_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    PAGESET_PAGES_FIELD_NUMBER: _ClassVar[int]
    INACTIVE_ANON_PAGES_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_ANON_PAGES_FIELD_NUMBER: _ClassVar[int]
    INACTIVE_FILE_PAGES_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_FILE_PAGES_FIELD_NUMBER: _ClassVar[int]
    zone: str
    free_pages: int
    managed_pages: int
    present_pages: int
    spanned_pages: int
    start_pfn: int
    min_pages: int
    low_pages: int
    high_pages: int
    protection_pages: _containers.RepeatedScalarFieldContainer[int]
    free_blocks: _containers.RepeatedScalarFieldContainer[int]
    pageset_pages: int
    inactive_anon_pages: int
    active_anon_pages: int
    inactive_file_pages: int
    active_file_pages: int
    def __init__(self, zone: _Optional[str] = ..., free_pages: _Optional[int] = ..., managed_pages: _Optional[int] = ..., present_pages: _Optional[int] = ..., spanned_pages: _Optional[int] = ..., start_pfn: _Optional[int] = ..., min_pages: _Optional[int] = ..., low_pages: _Optional[int] = ..., high_pages: _Optional[int] = ..., protection_pages: _Optional[_Iterable[int]] = ..., free_blocks: _Optional[_Iterable[int]] = ..., pageset_pages: _Optional[int] = ..., inactive_anon_pages: _Optional[int] = ..., active_anon_pages: _Optional[int] = ..., inactive_file_pages: _Optional[int] = ..., active_file_pages: _Optional[int] = ...) -> None: ...

class NumaStat(_message.Message):
    __slots__ = ("numa_hit", "numa_miss", "numa_foreign", "interleave_hit", "local_node", "other_node")
    NUMA_HIT_FIELD_NUMBER: _ClassVar[int]
    NUMA_MISS_FIELD_NUMBER: _ClassVar[int]
    NUMA_FOREIGN_FIELD_NUMBER: _ClassVar[int]
    INTERLEAVE_HIT_FIELD_NUMBER: _ClassVar[int]
    LOCAL_NODE_FIELD_NUMBER: _ClassVar[int]
    OTHER_NODE_FIELD_NUMBER: _ClassVar[int]
    numa_hit: int
    numa_miss: int
    numa_foreign: int
    interleave_hit: int
    local_node: int
    other_node: int
    def __init__(self, numa_hit: _Optional[int] = ..., numa_miss: _Optional[int] = ..., numa_foreign: _Optional[int] = ..., interleave_hit: _Optional[int] = ..., local_node: _Optional[int] = ..., other_node: _Optional[int] = ...) -> None: ...
