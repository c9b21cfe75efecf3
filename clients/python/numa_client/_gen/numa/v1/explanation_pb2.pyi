from numa_client._gen.numa.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LeftOutReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LEFT_OUT_REASON_UNSPECIFIED: _ClassVar[LeftOutReason]
    LEFT_OUT_REASON_CLASS: _ClassVar[LeftOutReason]
    LEFT_OUT_REASON_NODEMASK: _ClassVar[LeftOutReason]

class LeftBecause(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LEFT_BECAUSE_UNSPECIFIED: _ClassVar[LeftBecause]
    LEFT_BECAUSE_BELOW_MARK: _ClassVar[LeftBecause]
    LEFT_BECAUSE_NO_BLOCK: _ClassVar[LeftBecause]
    LEFT_BECAUSE_WOULD_MIX: _ClassVar[LeftBecause]
    LEFT_BECAUSE_RESERVED: _ClassVar[LeftBecause]
    LEFT_BECAUSE_FAIR_SHARE: _ClassVar[LeftBecause]
LEFT_OUT_REASON_UNSPECIFIED: LeftOutReason
LEFT_OUT_REASON_CLASS: LeftOutReason
LEFT_OUT_REASON_NODEMASK: LeftOutReason
LEFT_BECAUSE_UNSPECIFIED: LeftBecause
LEFT_BECAUSE_BELOW_MARK: LeftBecause
LEFT_BECAUSE_NO_BLOCK: LeftBecause
LEFT_BECAUSE_WOULD_MIX: LeftBecause
LEFT_BECAUSE_RESERVED: LeftBecause
LEFT_BECAUSE_FAIR_SHARE: LeftBecause

class Explanation(_message.Message):
    __slots__ = ("node", "cpu", "gfp_flags", "order", "count", "migratetype", "classzone", "policy", "profile", "steps", "placement", "cost", "failure")
    NODE_FIELD_NUMBER: _ClassVar[int]
    CPU_FIELD_NUMBER: _ClassVar[int]
    GFP_FLAGS_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    MIGRATETYPE_FIELD_NUMBER: _ClassVar[int]
    CLASSZONE_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    PLACEMENT_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    node: int
    cpu: int
    gfp_flags: str
    order: int
    count: int
    migratetype: str
    classzone: str
    policy: _types_pb2.Policy
    profile: str
    steps: _containers.RepeatedCompositeFieldContainer[Step]
    placement: _containers.RepeatedCompositeFieldContainer[NodeBlocks]
    cost: _types_pb2.Cost
    failure: str
    def __init__(self, node: _Optional[int] = ..., cpu: _Optional[int] = ..., gfp_flags: _Optional[str] = ..., order: _Optional[int] = ..., count: _Optional[int] = ..., migratetype: _Optional[str] = ..., classzone: _Optional[str] = ..., policy: _Optional[_Union[_types_pb2.Policy, _Mapping]] = ..., profile: _Optional[str] = ..., steps: _Optional[_Iterable[_Union[Step, _Mapping]]] = ..., placement: _Optional[_Iterable[_Union[NodeBlocks, _Mapping]]] = ..., cost: _Optional[_Union[_types_pb2.Cost, _Mapping]] = ..., failure: _Optional[str] = ...) -> None: ...

class NodeBlocks(_message.Message):
    __slots__ = ("node", "blocks")
    NODE_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    node: int
    blocks: int
    def __init__(self, node: _Optional[int] = ..., blocks: _Optional[int] = ...) -> None: ...

class Step(_message.Message):
    __slots__ = ("latency_ns", "walk", "freelist_pass", "kswapd_wakeup", "direct_reclaim", "pageset_drain")
    LATENCY_NS_FIELD_NUMBER: _ClassVar[int]
    WALK_FIELD_NUMBER: _ClassVar[int]
    FREELIST_PASS_FIELD_NUMBER: _ClassVar[int]
    KSWAPD_WAKEUP_FIELD_NUMBER: _ClassVar[int]
    DIRECT_RECLAIM_FIELD_NUMBER: _ClassVar[int]
    PAGESET_DRAIN_FIELD_NUMBER: _ClassVar[int]
    latency_ns: int
    walk: Walk
    freelist_pass: FreelistPass
    kswapd_wakeup: KswapdWakeup
    direct_reclaim: DirectReclaim
    pageset_drain: PagesetDrain
    def __init__(self, latency_ns: _Optional[int] = ..., walk: _Optional[_Union[Walk, _Mapping]] = ..., freelist_pass: _Optional[_Union[FreelistPass, _Mapping]] = ..., kswapd_wakeup: _Optional[_Union[KswapdWakeup, _Mapping]] = ..., direct_reclaim: _Optional[_Union[DirectReclaim, _Mapping]] = ..., pageset_drain: _Optional[_Union[PagesetDrain, _Mapping]] = ...) -> None: ...

class Walk(_message.Message):
    __slots__ = ("node", "this_node_only", "count", "zones", "left_out", "chosen")
    NODE_FIELD_NUMBER: _ClassVar[int]
    THIS_NODE_ONLY_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    ZONES_FIELD_NUMBER: _ClassVar[int]
    LEFT_OUT_FIELD_NUMBER: _ClassVar[int]
    CHOSEN_FIELD_NUMBER: _ClassVar[int]
    node: int
    this_node_only: bool
    count: int
    zones: _containers.RepeatedCompositeFieldContainer[ZoneOfNode]
    left_out: _containers.RepeatedCompositeFieldContainer[LeftOutZone]
    chosen: str
    def __init__(self, node: _Optional[int] = ..., this_node_only: _Optional[bool] = ..., count: _Optional[int] = ..., zones: _Optional[_Iterable[_Union[ZoneOfNode, _Mapping]]] = ..., left_out: _Optional[_Iterable[_Union[LeftOutZone, _Mapping]]] = ..., chosen: _Optional[str] = ...) -> None: ...

class ZoneOfNode(_message.Message):
    __slots__ = ("node", "zone")
    NODE_FIELD_NUMBER: _ClassVar[int]
    ZONE_FIELD_NUMBER: _ClassVar[int]
    node: int
    zone: str
    def __init__(self, node: _Optional[int] = ..., zone: _Optional[str] = ...) -> None: ...

class LeftOutZone(_message.Message):
    __slots__ = ("zone", "reason")
    ZONE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    zone: ZoneOfNode
    reason: LeftOutReason
    def __init__(self, zone: _Optional[_Union[ZoneOfNode, _Mapping]] = ..., reason: _Optional[_Union[LeftOutReason, str]] = ...) -> None: ...

class FreelistPass(_message.Message):
    __slots__ = ("name", "alloc_flags", "nodes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ALLOC_FLAGS_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    name: str
    alloc_flags: _containers.RepeatedScalarFieldContainer[str]
    nodes: _containers.RepeatedCompositeFieldContainer[NodeVisit]
    def __init__(self, name: _Optional[str] = ..., alloc_flags: _Optional[_Iterable[str]] = ..., nodes: _Optional[_Iterable[_Union[NodeVisit, _Mapping]]] = ...) -> None: ...

class NodeVisit(_message.Message):
    __slots__ = ("node", "remote", "away", "account", "cached_full")
    NODE_FIELD_NUMBER: _ClassVar[int]
    REMOTE_FIELD_NUMBER: _ClassVar[int]
    AWAY_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    CACHED_FULL_FIELD_NUMBER: _ClassVar[int]
    node: int
    remote: bool
    away: str
    account: NodeAccount
    cached_full: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, node: _Optional[int] = ..., remote: _Optional[bool] = ..., away: _Optional[str] = ..., account: _Optional[_Union[NodeAccount, _Mapping]] = ..., cached_full: _Optional[_Iterable[str]] = ...) -> None: ...

class NodeAccount(_message.Message):
    __slots__ = ("zones", "steals")
    ZONES_FIELD_NUMBER: _ClassVar[int]
    STEALS_FIELD_NUMBER: _ClassVar[int]
    zones: _containers.RepeatedCompositeFieldContainer[ZoneVisit]
    steals: int
    def __init__(self, zones: _Optional[_Iterable[_Union[ZoneVisit, _Mapping]]] = ..., steals: _Optional[int] = ...) -> None: ...

class ZoneVisit(_message.Message):
    __slots__ = ("zone", "before", "after", "served_blocks", "left_because", "pageset_before_pages", "pageset_after_pages", "buddy_blocks", "splits", "claims", "foreign_blocks")
    ZONE_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    SERVED_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    LEFT_BECAUSE_FIELD_NUMBER: _ClassVar[int]
    PAGESET_BEFORE_PAGES_FIELD_NUMBER: _ClassVar[int]
    PAGESET_AFTER_PAGES_FIELD_NUMBER: _ClassVar[int]
    BUDDY_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    SPLITS_FIELD_NUMBER: _ClassVar[int]
    CLAIMS_FIELD_NUMBER: _ClassVar[int]
    FOREIGN_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    zone: str
    before: WatermarkCheck
    after: WatermarkCheck
    served_blocks: int
    left_because: LeftBecause
    pageset_before_pages: int
    pageset_after_pages: int
    buddy_blocks: int
    splits: _containers.RepeatedScalarFieldContainer[int]
    claims: _containers.RepeatedCompositeFieldContainer[Claim]
    foreign_blocks: _containers.RepeatedCompositeFieldContainer[TypeBlocks]
    def __init__(self, zone: _Optional[str] = ..., before: _Optional[_Union[WatermarkCheck, _Mapping]] = ..., after: _Optional[_Union[WatermarkCheck, _Mapping]] = ..., served_blocks: _Optional[int] = ..., left_because: _Optional[_Union[LeftBecause, str]] = ..., pageset_before_pages: _Optional[int] = ..., pageset_after_pages: _Optional[int] = ..., buddy_blocks: _Optional[int] = ..., splits: _Optional[_Iterable[int]] = ..., claims: _Optional[_Iterable[_Union[Claim, _Mapping]]] = ..., foreign_blocks: _Optional[_Iterable[_Union[TypeBlocks, _Mapping]]] = ...) -> None: ...

class Claim(_message.Message):
    __slots__ = ("from_type", "to_type", "pageblocks")
    FROM_TYPE_FIELD_NUMBER: _ClassVar[int]
    TO_TYPE_FIELD_NUMBER: _ClassVar[int]
    PAGEBLOCKS_FIELD_NUMBER: _ClassVar[int]
    from_type: str
    to_type: str
    pageblocks: int
    def __init__(self, from_type: _Optional[str] = ..., to_type: _Optional[str] = ..., pageblocks: _Optional[int] = ...) -> None: ...

class TypeBlocks(_message.Message):
    __slots__ = ("migratetype", "blocks")
    MIGRATETYPE_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    migratetype: str
    blocks: int
    def __init__(self, migratetype: _Optional[str] = ..., blocks: _Optional[int] = ...) -> None: ...

class WatermarkCheck(_message.Message):
    __slots__ = ("mark_name", "free_pages", "unusable_pages", "order_cost_pages", "mark_pages", "boost_pages", "high_part_pages", "harder_part_pages", "lowmem_reserve_pages", "largest_free_order", "ok", "cma_pages", "too_small_pages", "halvings")
    MARK_NAME_FIELD_NUMBER: _ClassVar[int]
    FREE_PAGES_FIELD_NUMBER: _ClassVar[int]
    UNUSABLE_PAGES_FIELD_NUMBER: _ClassVar[int]
    ORDER_COST_PAGES_FIELD_NUMBER: _ClassVar[int]
    MARK_PAGES_FIELD_NUMBER: _ClassVar[int]
    BOOST_PAGES_FIELD_NUMBER: _ClassVar[int]
    HIGH_PART_PAGES_FIELD_NUMBER: _ClassVar[int]
    HARDER_PART_PAGES_FIELD_NUMBER: _ClassVar[int]
    LOWMEM_RESERVE_PAGES_FIELD_NUMBER: _ClassVar[int]
    LARGEST_FREE_ORDER_FIELD_NUMBER: _ClassVar[int]
    OK_FIELD_NUMBER: _ClassVar[int]
    CMA_PAGES_FIELD_NUMBER: _ClassVar[int]
    TOO_SMALL_PAGES_FIELD_NUMBER: _ClassVar[int]
    HALVINGS_FIELD_NUMBER: _ClassVar[int]
    mark_name: str
    free_pages: int
    unusable_pages: int
    order_cost_pages: int
    mark_pages: int
    boost_pages: int
    high_part_pages: int
    harder_part_pages: int
    lowmem_reserve_pages: int
    largest_free_order: int
    ok: bool
    cma_pages: int
    too_small_pages: int
    halvings: int
    def __init__(self, mark_name: _Optional[str] = ..., free_pages: _Optional[int] = ..., unusable_pages: _Optional[int] = ..., order_cost_pages: _Optional[int] = ..., mark_pages: _Optional[int] = ..., boost_pages: _Optional[int] = ..., high_part_pages: _Optional[int] = ..., harder_part_pages: _Optional[int] = ..., lowmem_reserve_pages: _Optional[int] = ..., largest_free_order: _Optional[int] = ..., ok: _Optional[bool] = ..., cma_pages: _Optional[int] = ..., too_small_pages: _Optional[int] = ..., halvings: _Optional[int] = ...) -> None: ...

class KswapdWakeup(_message.Message):
    __slots__ = ("node", "woken", "away")
    NODE_FIELD_NUMBER: _ClassVar[int]
    WOKEN_FIELD_NUMBER: _ClassVar[int]
    AWAY_FIELD_NUMBER: _ClassVar[int]
    node: int
    woken: bool
    away: str
    def __init__(self, node: _Optional[int] = ..., woken: _Optional[bool] = ..., away: _Optional[str] = ...) -> None: ...

class DirectReclaim(_message.Message):
    __slots__ = ("node", "priority", "scanned_pages", "reclaimed_pages", "away")
    NODE_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    SCANNED_PAGES_FIELD_NUMBER: _ClassVar[int]
    RECLAIMED_PAGES_FIELD_NUMBER: _ClassVar[int]
    AWAY_FIELD_NUMBER: _ClassVar[int]
    node: int
    priority: int
    scanned_pages: int
    reclaimed_pages: int
    away: str
    def __init__(self, node: _Optional[int] = ..., priority: _Optional[int] = ..., scanned_pages: _Optional[int] = ..., reclaimed_pages: _Optional[int] = ..., away: _Optional[str] = ...) -> None: ...

class PagesetDrain(_message.Message):
    __slots__ = ("node", "drained_pages", "away")
    NODE_FIELD_NUMBER: _ClassVar[int]
    DRAINED_PAGES_FIELD_NUMBER: _ClassVar[int]
    AWAY_FIELD_NUMBER: _ClassVar[int]
    node: int
    drained_pages: int
    away: str
    def __init__(self, node: _Optional[int] = ..., drained_pages: _Optional[int] = ..., away: _Optional[str] = ...) -> None: ...
