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
from numa_client._policy import Policy, PolicyMode
from numa_client._program import (
    Access,
    Distribution,
    Mix,
    Phase,
    Program,
    ProgramLimits,
    ProgramRegion,
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
    RegionKind,
    SessionInfo,
    Touch,
    ZoneState,
)

if TYPE_CHECKING:
    from numa_client._aio import AsyncMachine, AsyncRegion, AsyncSession
    from numa_client._background import AsyncPageStream, PageStream
    from numa_client._sync import Machine, Region, Session

__all__ = [
    "Aborted",
    "Access",
    "Allocation",
    "AsyncMachine",
    "AsyncPageStream",
    "AsyncRegion",
    "AsyncSession",
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
    "KswapdState",
    "KswapdWakeup",
    "Machine",
    "MachineInfo",
    "Mix",
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
    "Phase",
    "PhaseResult",
    "Policy",
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
    "Touch",
    "TreeFile",
    "Unavailable",
    "WalkStep",
    "WatermarkCheck",
    "ZoneState",
    "ZoneVisit",
    "list_programs",
    "program_text",
]

#: Imported with the first use: they need gRPC, which data and errors do without.
_CLIENTS = {
    "AsyncMachine": "_aio",
    "AsyncPageStream": "_background",
    "AsyncRegion": "_aio",
    "AsyncSession": "_aio",
    "Machine": "_sync",
    "PageStream": "_background",
    "Region": "_sync",
    "Session": "_sync",
}


def __getattr__(name: str) -> object:
    """One of the clients' classes (PEP 562)."""
    if name not in _CLIENTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"numa_client.{_CLIENTS[name]}"), name)


def __dir__() -> list[str]:
    """Those as well."""
    return sorted({*globals(), *__all__})
