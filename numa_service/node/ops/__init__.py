"""Ops: the synchronous steps of a node, a file a family. Every change of a node's state is one of these."""

from numa_service.node.ops.account import CountEvents, Rest, Spend, VmstatTick
from numa_service.node.ops.alloc import Alloc, AllocResult, CountForeign, ZlcClear, ZlcMarkFull
from numa_service.node.ops.cma import CmaIsolate, CmaTake
from numa_service.node.ops.free import Free, FreeDeadOwners, FreeOwner
from numa_service.node.ops.machine import MemoryNotify, WriteSysctl
from numa_service.node.ops.memory import IsolateMemory, OfflineNode, OfflinePages, OnlinePages, UndoIsolation
from numa_service.node.ops.migrate import MigratePages, ReleaseMigrated, Remap
from numa_service.node.ops.op import OPS, Op, decode, encode
from numa_service.node.ops.protocol import (
    ForgetReplies,
    NumberQuestion,
    Owe,
    PeerBack,
    Postpone,
    Remember,
    Settle,
)
from numa_service.node.ops.reclaim import (
    DrainPagesets,
    KswapdDid,
    KswapdStep,
    KswapdStepResult,
    Reclaim,
    ReclaimResult,
    WakeKswapd,
)
from numa_service.node.ops.region import EndRegion, FillRegion, MapRegion, Release, Touch, TouchResult
from numa_service.node.ops.session import (
    FOREVER_NS,
    EndSession,
    Interleave,
    NoteHolding,
    OpenSession,
    RenewSession,
)

__all__ = [
    "FOREVER_NS",
    "OPS",
    "Alloc",
    "AllocResult",
    "CmaIsolate",
    "CmaTake",
    "CountEvents",
    "CountForeign",
    "DrainPagesets",
    "EndRegion",
    "EndSession",
    "FillRegion",
    "ForgetReplies",
    "Free",
    "FreeDeadOwners",
    "FreeOwner",
    "Interleave",
    "IsolateMemory",
    "KswapdDid",
    "KswapdStep",
    "KswapdStepResult",
    "MapRegion",
    "MemoryNotify",
    "MigratePages",
    "NoteHolding",
    "NumberQuestion",
    "OfflineNode",
    "OfflinePages",
    "OnlinePages",
    "Op",
    "OpenSession",
    "Owe",
    "PeerBack",
    "Postpone",
    "Reclaim",
    "ReclaimResult",
    "Release",
    "ReleaseMigrated",
    "Remap",
    "Remember",
    "RenewSession",
    "Rest",
    "Settle",
    "Spend",
    "Touch",
    "TouchResult",
    "UndoIsolation",
    "VmstatTick",
    "WakeKswapd",
    "WriteSysctl",
    "ZlcClear",
    "ZlcMarkFull",
    "decode",
    "encode",
]
