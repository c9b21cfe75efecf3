"""Client of numa-service: emulated NUMA machines over gRPC, blocking (Machine) and asyncio (AsyncMachine).

>>> with Machine.connect("localhost:7700") as machine, machine.session(cpu=0) as session:
...     allocation = session.alloc(order=0, count=512)
...     session.free(allocation)
"""

from importlib import import_module
from typing import TYPE_CHECKING

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
from numa_client._explanation import Explained, Explanation
from numa_client._explanation_steps import (
    DirectReclaim,
    FreelistPass,
    KswapdWakeup,
    NodeVisit,
    PagesetDrain,
    WalkStep,
    WatermarkCheck,
    ZoneVisit,
)
from numa_client._files import DirEntry, TreeFile
from numa_client._policy import Policy, PolicyFlag, PolicyMode
from numa_client._program import (
    Access,
    Distribution,
    Mix,
    ObjectMix,
    Phase,
    Program,
    ProgramLimits,
    ProgramRegion,
    VmallocMix,
    list_programs,
    program_text,
)
from numa_client._program_result import (
    EventLatency,
    EventResult,
    PhaseResult,
    ProgramProgress,
    ProgramResult,
)
from numa_client._task import TaskCall, TaskResult
from numa_client._types import (
    AllocatedObjects,
    Allocation,
    Blocks,
    Cost,
    Freed,
    KmapSlot,
    KswapdState,
    MachineInfo,
    MovedPages,
    NodeInfo,
    NodeState,
    NumaStat,
    Objects,
    PageStatus,
    Pfns,
    RegionKind,
    SessionInfo,
    SlabInfo,
    Touch,
    VmArea,
    ZoneState,
)

if TYPE_CHECKING:
    from numa_client._aio import AsyncMachine
    from numa_client._aio_region import AsyncRegion
    from numa_client._aio_session import AsyncSession
    from numa_client._aio_task import AsyncTask
    from numa_client._background import AsyncPageStream, PageStream
    from numa_client._sync import Machine
    from numa_client._sync_region import Region
    from numa_client._sync_session import Session
    from numa_client._sync_task import Task

__all__ = [
    "Aborted",
    "Access",
    "AllocatedObjects",
    "Allocation",
    "AsyncMachine",
    "AsyncPageStream",
    "AsyncRegion",
    "AsyncSession",
    "AsyncTask",
    "Blocks",
    "Cost",
    "DeadlineExceeded",
    "DirEntry",
    "DirectReclaim",
    "Distribution",
    "EventLatency",
    "EventResult",
    "Explained",
    "Explanation",
    "FailedPrecondition",
    "Freed",
    "FreelistPass",
    "InvalidRequest",
    "KmapSlot",
    "KswapdState",
    "KswapdWakeup",
    "Machine",
    "MachineInfo",
    "Mix",
    "MovedPages",
    "NodeInfo",
    "NodeState",
    "NodeVisit",
    "NotFound",
    "NumaError",
    "NumaStat",
    "ObjectMix",
    "Objects",
    "OutOfMemory",
    "PageStatus",
    "PageStream",
    "PagesetDrain",
    "Pfns",
    "Phase",
    "PhaseResult",
    "Policy",
    "PolicyFlag",
    "PolicyMode",
    "Program",
    "ProgramLimits",
    "ProgramProgress",
    "ProgramRegion",
    "ProgramResult",
    "Region",
    "RegionKind",
    "Session",
    "SessionInfo",
    "SlabInfo",
    "Task",
    "TaskCall",
    "TaskResult",
    "Touch",
    "TreeFile",
    "Unavailable",
    "VmArea",
    "VmallocMix",
    "WalkStep",
    "WatermarkCheck",
    "ZoneState",
    "ZoneVisit",
    "list_programs",
    "program_text",
]

#: Class → its module, imported at the first use: these need gRPC, which the data classes and errors do not.
_CLIENTS = {
    "AsyncMachine": "_aio",
    "AsyncPageStream": "_background",
    "AsyncRegion": "_aio_region",
    "AsyncSession": "_aio_session",
    "AsyncTask": "_aio_task",
    "Machine": "_sync",
    "PageStream": "_background",
    "Region": "_sync_region",
    "Session": "_sync_session",
    "Task": "_sync_task",
}


def __getattr__(name: str) -> object:
    """Import a class of the clients when it is first used (PEP 562)."""
    if name not in _CLIENTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"numa_client.{_CLIENTS[name]}"), name)


def __dir__() -> list[str]:
    """All names, including those that are not imported yet."""
    return sorted({*globals(), *__all__})
