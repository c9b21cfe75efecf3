from numa_client._gen.numa.v1 import memory_service_pb2 as _memory_service_pb2
from numa_client._gen.numa.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AccessPattern(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ACCESS_PATTERN_UNSPECIFIED: _ClassVar[AccessPattern]
    ACCESS_PATTERN_SEQUENTIAL: _ClassVar[AccessPattern]
    ACCESS_PATTERN_UNIFORM: _ClassVar[AccessPattern]
    ACCESS_PATTERN_ZIPF: _ClassVar[AccessPattern]
    ACCESS_PATTERN_HOT_SET: _ClassVar[AccessPattern]
    ACCESS_PATTERN_STRIDE: _ClassVar[AccessPattern]
    ACCESS_PATTERN_POINTER_CHASE: _ClassVar[AccessPattern]

class DistributionKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DISTRIBUTION_KIND_UNSPECIFIED: _ClassVar[DistributionKind]
    DISTRIBUTION_KIND_FIXED: _ClassVar[DistributionKind]
    DISTRIBUTION_KIND_UNIFORM: _ClassVar[DistributionKind]
    DISTRIBUTION_KIND_EXPONENTIAL: _ClassVar[DistributionKind]
    DISTRIBUTION_KIND_LOGNORMAL: _ClassVar[DistributionKind]
    DISTRIBUTION_KIND_PARETO: _ClassVar[DistributionKind]
    DISTRIBUTION_KIND_FOREVER: _ClassVar[DistributionKind]

class LifetimeUnit(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LIFETIME_UNIT_UNSPECIFIED: _ClassVar[LifetimeUnit]
    LIFETIME_UNIT_MEMORY: _ClassVar[LifetimeUnit]
ACCESS_PATTERN_UNSPECIFIED: AccessPattern
ACCESS_PATTERN_SEQUENTIAL: AccessPattern
ACCESS_PATTERN_UNIFORM: AccessPattern
ACCESS_PATTERN_ZIPF: AccessPattern
ACCESS_PATTERN_HOT_SET: AccessPattern
ACCESS_PATTERN_STRIDE: AccessPattern
ACCESS_PATTERN_POINTER_CHASE: AccessPattern
DISTRIBUTION_KIND_UNSPECIFIED: DistributionKind
DISTRIBUTION_KIND_FIXED: DistributionKind
DISTRIBUTION_KIND_UNIFORM: DistributionKind
DISTRIBUTION_KIND_EXPONENTIAL: DistributionKind
DISTRIBUTION_KIND_LOGNORMAL: DistributionKind
DISTRIBUTION_KIND_PARETO: DistributionKind
DISTRIBUTION_KIND_FOREVER: DistributionKind
LIFETIME_UNIT_UNSPECIFIED: LifetimeUnit
LIFETIME_UNIT_MEMORY: LifetimeUnit

class RunProgramRequest(_message.Message):
    __slots__ = ("session", "request_id", "cpu", "program", "session_token")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CPU_FIELD_NUMBER: _ClassVar[int]
    PROGRAM_FIELD_NUMBER: _ClassVar[int]
    SESSION_TOKEN_FIELD_NUMBER: _ClassVar[int]
    session: int
    request_id: str
    cpu: int
    program: Program
    session_token: bytes
    def __init__(self, session: _Optional[int] = ..., request_id: _Optional[str] = ..., cpu: _Optional[int] = ..., program: _Optional[_Union[Program, _Mapping]] = ..., session_token: _Optional[bytes] = ...) -> None: ...

class RunProgramResponse(_message.Message):
    __slots__ = ("progress", "result")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    progress: ProgramProgress
    result: ProgramResult
    def __init__(self, progress: _Optional[_Union[ProgramProgress, _Mapping]] = ..., result: _Optional[_Union[ProgramResult, _Mapping]] = ...) -> None: ...

class Program(_message.Message):
    __slots__ = ("name", "seed", "phases", "regions", "limits", "stop_on_failure", "keep")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    PHASES_FIELD_NUMBER: _ClassVar[int]
    REGIONS_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    STOP_ON_FAILURE_FIELD_NUMBER: _ClassVar[int]
    KEEP_FIELD_NUMBER: _ClassVar[int]
    name: str
    seed: int
    phases: _containers.RepeatedCompositeFieldContainer[Phase]
    regions: _containers.RepeatedCompositeFieldContainer[ProgramRegion]
    limits: ProgramLimits
    stop_on_failure: bool
    keep: bool
    def __init__(self, name: _Optional[str] = ..., seed: _Optional[int] = ..., phases: _Optional[_Iterable[_Union[Phase, _Mapping]]] = ..., regions: _Optional[_Iterable[_Union[ProgramRegion, _Mapping]]] = ..., limits: _Optional[_Union[ProgramLimits, _Mapping]] = ..., stop_on_failure: _Optional[bool] = ..., keep: _Optional[bool] = ...) -> None: ...

class ProgramLimits(_message.Message):
    __slots__ = ("max_live_pages", "max_events", "max_virtual_seconds", "max_real_seconds")
    MAX_LIVE_PAGES_FIELD_NUMBER: _ClassVar[int]
    MAX_EVENTS_FIELD_NUMBER: _ClassVar[int]
    MAX_VIRTUAL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    MAX_REAL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    max_live_pages: int
    max_events: int
    max_virtual_seconds: float
    max_real_seconds: float
    def __init__(self, max_live_pages: _Optional[int] = ..., max_events: _Optional[int] = ..., max_virtual_seconds: _Optional[float] = ..., max_real_seconds: _Optional[float] = ...) -> None: ...

class Phase(_message.Message):
    __slots__ = ("name", "seconds", "events", "memory", "rate", "batch", "mixes", "accesses", "each_node", "release", "objects", "vmallocs", "tasks")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    RATE_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    MIXES_FIELD_NUMBER: _ClassVar[int]
    ACCESSES_FIELD_NUMBER: _ClassVar[int]
    EACH_NODE_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    OBJECTS_FIELD_NUMBER: _ClassVar[int]
    VMALLOCS_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    name: str
    seconds: float
    events: int
    memory: float
    rate: float
    batch: int
    mixes: _containers.RepeatedCompositeFieldContainer[Mix]
    accesses: _containers.RepeatedCompositeFieldContainer[Access]
    each_node: bool
    release: bool
    objects: _containers.RepeatedCompositeFieldContainer[ObjectMix]
    vmallocs: _containers.RepeatedCompositeFieldContainer[VmallocMix]
    tasks: _containers.RepeatedCompositeFieldContainer[TaskMix]
    def __init__(self, name: _Optional[str] = ..., seconds: _Optional[float] = ..., events: _Optional[int] = ..., memory: _Optional[float] = ..., rate: _Optional[float] = ..., batch: _Optional[int] = ..., mixes: _Optional[_Iterable[_Union[Mix, _Mapping]]] = ..., accesses: _Optional[_Iterable[_Union[Access, _Mapping]]] = ..., each_node: _Optional[bool] = ..., release: _Optional[bool] = ..., objects: _Optional[_Iterable[_Union[ObjectMix, _Mapping]]] = ..., vmallocs: _Optional[_Iterable[_Union[VmallocMix, _Mapping]]] = ..., tasks: _Optional[_Iterable[_Union[TaskMix, _Mapping]]] = ...) -> None: ...

class Mix(_message.Message):
    __slots__ = ("name", "order", "gfp", "policy", "weight", "lifetime", "think")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    GFP_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    LIFETIME_FIELD_NUMBER: _ClassVar[int]
    THINK_FIELD_NUMBER: _ClassVar[int]
    name: str
    order: int
    gfp: str
    policy: _types_pb2.Policy
    weight: float
    lifetime: Distribution
    think: Distribution
    def __init__(self, name: _Optional[str] = ..., order: _Optional[int] = ..., gfp: _Optional[str] = ..., policy: _Optional[_Union[_types_pb2.Policy, _Mapping]] = ..., weight: _Optional[float] = ..., lifetime: _Optional[_Union[Distribution, _Mapping]] = ..., think: _Optional[_Union[Distribution, _Mapping]] = ...) -> None: ...

class ObjectMix(_message.Message):
    __slots__ = ("name", "cache", "size", "gfp", "node", "weight", "lifetime", "think")
    NAME_FIELD_NUMBER: _ClassVar[int]
    CACHE_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    GFP_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    LIFETIME_FIELD_NUMBER: _ClassVar[int]
    THINK_FIELD_NUMBER: _ClassVar[int]
    name: str
    cache: str
    size: int
    gfp: str
    node: int
    weight: float
    lifetime: Distribution
    think: Distribution
    def __init__(self, name: _Optional[str] = ..., cache: _Optional[str] = ..., size: _Optional[int] = ..., gfp: _Optional[str] = ..., node: _Optional[int] = ..., weight: _Optional[float] = ..., lifetime: _Optional[_Union[Distribution, _Mapping]] = ..., think: _Optional[_Union[Distribution, _Mapping]] = ...) -> None: ...

class VmallocMix(_message.Message):
    __slots__ = ("name", "size", "node", "weight", "lifetime", "think")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    LIFETIME_FIELD_NUMBER: _ClassVar[int]
    THINK_FIELD_NUMBER: _ClassVar[int]
    name: str
    size: int
    node: int
    weight: float
    lifetime: Distribution
    think: Distribution
    def __init__(self, name: _Optional[str] = ..., size: _Optional[int] = ..., node: _Optional[int] = ..., weight: _Optional[float] = ..., lifetime: _Optional[_Union[Distribution, _Mapping]] = ..., think: _Optional[_Union[Distribution, _Mapping]] = ...) -> None: ...

class TaskMix(_message.Message):
    __slots__ = ("name", "pages", "policy", "accesses", "pattern", "write", "theta", "hot_pages", "hot_accesses", "stride", "children", "child_accesses", "weight", "lifetime", "think")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PAGES_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    ACCESSES_FIELD_NUMBER: _ClassVar[int]
    PATTERN_FIELD_NUMBER: _ClassVar[int]
    WRITE_FIELD_NUMBER: _ClassVar[int]
    THETA_FIELD_NUMBER: _ClassVar[int]
    HOT_PAGES_FIELD_NUMBER: _ClassVar[int]
    HOT_ACCESSES_FIELD_NUMBER: _ClassVar[int]
    STRIDE_FIELD_NUMBER: _ClassVar[int]
    CHILDREN_FIELD_NUMBER: _ClassVar[int]
    CHILD_ACCESSES_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    LIFETIME_FIELD_NUMBER: _ClassVar[int]
    THINK_FIELD_NUMBER: _ClassVar[int]
    name: str
    pages: int
    policy: _types_pb2.Policy
    accesses: int
    pattern: AccessPattern
    write: float
    theta: float
    hot_pages: float
    hot_accesses: float
    stride: int
    children: int
    child_accesses: int
    weight: float
    lifetime: Distribution
    think: Distribution
    def __init__(self, name: _Optional[str] = ..., pages: _Optional[int] = ..., policy: _Optional[_Union[_types_pb2.Policy, _Mapping]] = ..., accesses: _Optional[int] = ..., pattern: _Optional[_Union[AccessPattern, str]] = ..., write: _Optional[float] = ..., theta: _Optional[float] = ..., hot_pages: _Optional[float] = ..., hot_accesses: _Optional[float] = ..., stride: _Optional[int] = ..., children: _Optional[int] = ..., child_accesses: _Optional[int] = ..., weight: _Optional[float] = ..., lifetime: _Optional[_Union[Distribution, _Mapping]] = ..., think: _Optional[_Union[Distribution, _Mapping]] = ...) -> None: ...

class ProgramRegion(_message.Message):
    __slots__ = ("name", "kind", "pages", "memory", "policy", "tlb_page_kb")
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    PAGES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    TLB_PAGE_KB_FIELD_NUMBER: _ClassVar[int]
    name: str
    kind: _memory_service_pb2.RegionKind
    pages: int
    memory: float
    policy: _types_pb2.Policy
    tlb_page_kb: int
    def __init__(self, name: _Optional[str] = ..., kind: _Optional[_Union[_memory_service_pb2.RegionKind, str]] = ..., pages: _Optional[int] = ..., memory: _Optional[float] = ..., policy: _Optional[_Union[_types_pb2.Policy, _Mapping]] = ..., tlb_page_kb: _Optional[int] = ...) -> None: ...

class Access(_message.Message):
    __slots__ = ("name", "region", "pattern", "weight", "write", "theta", "hot_pages", "hot_accesses", "think", "stride")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    PATTERN_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    WRITE_FIELD_NUMBER: _ClassVar[int]
    THETA_FIELD_NUMBER: _ClassVar[int]
    HOT_PAGES_FIELD_NUMBER: _ClassVar[int]
    HOT_ACCESSES_FIELD_NUMBER: _ClassVar[int]
    THINK_FIELD_NUMBER: _ClassVar[int]
    STRIDE_FIELD_NUMBER: _ClassVar[int]
    name: str
    region: str
    pattern: AccessPattern
    weight: float
    write: float
    theta: float
    hot_pages: float
    hot_accesses: float
    think: Distribution
    stride: int
    def __init__(self, name: _Optional[str] = ..., region: _Optional[str] = ..., pattern: _Optional[_Union[AccessPattern, str]] = ..., weight: _Optional[float] = ..., write: _Optional[float] = ..., theta: _Optional[float] = ..., hot_pages: _Optional[float] = ..., hot_accesses: _Optional[float] = ..., think: _Optional[_Union[Distribution, _Mapping]] = ..., stride: _Optional[int] = ...) -> None: ...

class Distribution(_message.Message):
    __slots__ = ("kind", "mean", "low", "high", "sigma", "alpha", "unit")
    KIND_FIELD_NUMBER: _ClassVar[int]
    MEAN_FIELD_NUMBER: _ClassVar[int]
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    SIGMA_FIELD_NUMBER: _ClassVar[int]
    ALPHA_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    kind: DistributionKind
    mean: float
    low: float
    high: float
    sigma: float
    alpha: float
    unit: LifetimeUnit
    def __init__(self, kind: _Optional[_Union[DistributionKind, str]] = ..., mean: _Optional[float] = ..., low: _Optional[float] = ..., high: _Optional[float] = ..., sigma: _Optional[float] = ..., alpha: _Optional[float] = ..., unit: _Optional[_Union[LifetimeUnit, str]] = ...) -> None: ...

class ProgramProgress(_message.Message):
    __slots__ = ("phase", "phases", "phase_name", "fraction", "virtual_ns", "real_ns", "events", "failures", "allocated_pages", "accessed_pages", "freed_pages", "live_pages")
    PHASE_FIELD_NUMBER: _ClassVar[int]
    PHASES_FIELD_NUMBER: _ClassVar[int]
    PHASE_NAME_FIELD_NUMBER: _ClassVar[int]
    FRACTION_FIELD_NUMBER: _ClassVar[int]
    VIRTUAL_NS_FIELD_NUMBER: _ClassVar[int]
    REAL_NS_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    ALLOCATED_PAGES_FIELD_NUMBER: _ClassVar[int]
    ACCESSED_PAGES_FIELD_NUMBER: _ClassVar[int]
    FREED_PAGES_FIELD_NUMBER: _ClassVar[int]
    LIVE_PAGES_FIELD_NUMBER: _ClassVar[int]
    phase: int
    phases: int
    phase_name: str
    fraction: float
    virtual_ns: int
    real_ns: int
    events: int
    failures: int
    allocated_pages: int
    accessed_pages: int
    freed_pages: int
    live_pages: int
    def __init__(self, phase: _Optional[int] = ..., phases: _Optional[int] = ..., phase_name: _Optional[str] = ..., fraction: _Optional[float] = ..., virtual_ns: _Optional[int] = ..., real_ns: _Optional[int] = ..., events: _Optional[int] = ..., failures: _Optional[int] = ..., allocated_pages: _Optional[int] = ..., accessed_pages: _Optional[int] = ..., freed_pages: _Optional[int] = ..., live_pages: _Optional[int] = ...) -> None: ...

class ProgramResult(_message.Message):
    __slots__ = ("phases", "virtual_ns", "real_ns", "allocated_pages", "accessed_pages", "freed_pages", "kept_pages", "unfreed_pages")
    PHASES_FIELD_NUMBER: _ClassVar[int]
    VIRTUAL_NS_FIELD_NUMBER: _ClassVar[int]
    REAL_NS_FIELD_NUMBER: _ClassVar[int]
    ALLOCATED_PAGES_FIELD_NUMBER: _ClassVar[int]
    ACCESSED_PAGES_FIELD_NUMBER: _ClassVar[int]
    FREED_PAGES_FIELD_NUMBER: _ClassVar[int]
    KEPT_PAGES_FIELD_NUMBER: _ClassVar[int]
    UNFREED_PAGES_FIELD_NUMBER: _ClassVar[int]
    phases: _containers.RepeatedCompositeFieldContainer[PhaseResult]
    virtual_ns: int
    real_ns: int
    allocated_pages: int
    accessed_pages: int
    freed_pages: int
    kept_pages: int
    unfreed_pages: int
    def __init__(self, phases: _Optional[_Iterable[_Union[PhaseResult, _Mapping]]] = ..., virtual_ns: _Optional[int] = ..., real_ns: _Optional[int] = ..., allocated_pages: _Optional[int] = ..., accessed_pages: _Optional[int] = ..., freed_pages: _Optional[int] = ..., kept_pages: _Optional[int] = ..., unfreed_pages: _Optional[int] = ...) -> None: ...

class PhaseResult(_message.Message):
    __slots__ = ("name", "virtual_ns", "real_ns", "freed_pages", "mixes", "accesses", "objects", "vmallocs", "tasks")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VIRTUAL_NS_FIELD_NUMBER: _ClassVar[int]
    REAL_NS_FIELD_NUMBER: _ClassVar[int]
    FREED_PAGES_FIELD_NUMBER: _ClassVar[int]
    MIXES_FIELD_NUMBER: _ClassVar[int]
    ACCESSES_FIELD_NUMBER: _ClassVar[int]
    OBJECTS_FIELD_NUMBER: _ClassVar[int]
    VMALLOCS_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    name: str
    virtual_ns: int
    real_ns: int
    freed_pages: int
    mixes: _containers.RepeatedCompositeFieldContainer[EventResult]
    accesses: _containers.RepeatedCompositeFieldContainer[EventResult]
    objects: _containers.RepeatedCompositeFieldContainer[EventResult]
    vmallocs: _containers.RepeatedCompositeFieldContainer[EventResult]
    tasks: _containers.RepeatedCompositeFieldContainer[EventResult]
    def __init__(self, name: _Optional[str] = ..., virtual_ns: _Optional[int] = ..., real_ns: _Optional[int] = ..., freed_pages: _Optional[int] = ..., mixes: _Optional[_Iterable[_Union[EventResult, _Mapping]]] = ..., accesses: _Optional[_Iterable[_Union[EventResult, _Mapping]]] = ..., objects: _Optional[_Iterable[_Union[EventResult, _Mapping]]] = ..., vmallocs: _Optional[_Iterable[_Union[EventResult, _Mapping]]] = ..., tasks: _Optional[_Iterable[_Union[EventResult, _Mapping]]] = ...) -> None: ...

class EventResult(_message.Message):
    __slots__ = ("name", "events", "pages", "failures", "placement", "latency", "remote_lookups", "direct_reclaimed_pages", "hit_pages", "fault_pages", "major_fault_pages")
    NAME_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    PAGES_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    PLACEMENT_FIELD_NUMBER: _ClassVar[int]
    LATENCY_FIELD_NUMBER: _ClassVar[int]
    REMOTE_LOOKUPS_FIELD_NUMBER: _ClassVar[int]
    DIRECT_RECLAIMED_PAGES_FIELD_NUMBER: _ClassVar[int]
    HIT_PAGES_FIELD_NUMBER: _ClassVar[int]
    FAULT_PAGES_FIELD_NUMBER: _ClassVar[int]
    MAJOR_FAULT_PAGES_FIELD_NUMBER: _ClassVar[int]
    name: str
    events: int
    pages: int
    failures: int
    placement: _containers.RepeatedCompositeFieldContainer[_memory_service_pb2.NodeCount]
    latency: EventLatency
    remote_lookups: int
    direct_reclaimed_pages: int
    hit_pages: int
    fault_pages: int
    major_fault_pages: int
    def __init__(self, name: _Optional[str] = ..., events: _Optional[int] = ..., pages: _Optional[int] = ..., failures: _Optional[int] = ..., placement: _Optional[_Iterable[_Union[_memory_service_pb2.NodeCount, _Mapping]]] = ..., latency: _Optional[_Union[EventLatency, _Mapping]] = ..., remote_lookups: _Optional[int] = ..., direct_reclaimed_pages: _Optional[int] = ..., hit_pages: _Optional[int] = ..., fault_pages: _Optional[int] = ..., major_fault_pages: _Optional[int] = ...) -> None: ...

class EventLatency(_message.Message):
    __slots__ = ("mean_ns", "p50_ns", "p90_ns", "p99_ns", "max_ns")
    MEAN_NS_FIELD_NUMBER: _ClassVar[int]
    P50_NS_FIELD_NUMBER: _ClassVar[int]
    P90_NS_FIELD_NUMBER: _ClassVar[int]
    P99_NS_FIELD_NUMBER: _ClassVar[int]
    MAX_NS_FIELD_NUMBER: _ClassVar[int]
    mean_ns: float
    p50_ns: int
    p90_ns: int
    p99_ns: int
    max_ns: int
    def __init__(self, mean_ns: _Optional[float] = ..., p50_ns: _Optional[int] = ..., p90_ns: _Optional[int] = ..., p99_ns: _Optional[int] = ..., max_ns: _Optional[int] = ...) -> None: ...
