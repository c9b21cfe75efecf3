"""Client of numa-service: emulated NUMA machines over gRPC, blocking (Machine) and asyncio (AsyncMachine).

>>> with Machine.connect("localhost:7700") as machine, machine.session(cpu=0) as session:
...     allocation = session.alloc(order=0, count=512)
...     session.free(allocation)
"""

from numa_client._aio import AsyncMachine, AsyncPageStream, AsyncRegion, AsyncSession
from numa_client._codec import RegionKind
from numa_client._errors import (
    Aborted,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidRequest,
    NotFound,
    NumaError,
    OutOfMemory,
    Unavailable,
)
from numa_client._explanation import (
    DirectReclaim,
    Explained,
    Explanation,
    FreelistPass,
    KswapdWakeup,
    NodeVisit,
    PagesetDrain,
    WalkStep,
    WatermarkCheck,
    ZoneVisit,
)
from numa_client._policy import Policy, PolicyMode
from numa_client._sync import Machine, PageStream, Region, Session
from numa_client._types import (
    Allocation,
    Blocks,
    Cost,
    Freed,
    KswapdState,
    MachineInfo,
    NodeInfo,
    NodeState,
    NumaStat,
    Pfns,
    SessionInfo,
    Touch,
    ZoneState,
)

__all__ = [
    "Aborted",
    "Allocation",
    "AsyncMachine",
    "AsyncPageStream",
    "AsyncRegion",
    "AsyncSession",
    "Blocks",
    "Cost",
    "DeadlineExceeded",
    "DirectReclaim",
    "Explained",
    "Explanation",
    "FailedPrecondition",
    "Freed",
    "FreelistPass",
    "InvalidRequest",
    "KswapdState",
    "KswapdWakeup",
    "Machine",
    "MachineInfo",
    "NodeInfo",
    "NodeState",
    "NodeVisit",
    "NotFound",
    "NumaError",
    "NumaStat",
    "OutOfMemory",
    "PageStream",
    "PagesetDrain",
    "Pfns",
    "Policy",
    "PolicyMode",
    "Region",
    "RegionKind",
    "Session",
    "SessionInfo",
    "Touch",
    "Unavailable",
    "WalkStep",
    "WatermarkCheck",
    "ZoneState",
    "ZoneVisit",
]
