"""The public names: adding or removing one is a decision, which this list repeats."""

from __future__ import annotations

import subprocess
import sys

import numa_client
import numa_loadgen


def test_numa_client() -> None:
    assert sorted(numa_client.__all__) == [
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
        "TaskMix",
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
    assert all(hasattr(numa_client, name) for name in numa_client.__all__)


def test_data_and_errors_do_without_grpc() -> None:
    script = (
        "import sys, numa_client as n; n.Program.load('stream'); n.Policy.parse('bind:0'); n.NotFound('it');"
        "print({'grpc', 'google'} & set(sys.modules)); n.Machine; print('grpc' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["set()", "True"]


def test_numa_loadgen() -> None:
    assert sorted(numa_loadgen.__all__) == [
        "Latency",
        "LoadPlan",
        "LoadProgress",
        "LoadReport",
        "PlanError",
        "Step",
        "WORKLOADS",
        "Workload",
        "register",
        "run_load",
    ]
    assert all(hasattr(numa_loadgen, name) for name in numa_loadgen.__all__)


def test_the_two_clients_offer_the_same() -> None:
    def names(cls: type) -> set[str]:
        return {name for name in vars(cls) if not name.startswith("_")}

    assert names(numa_client.Machine) == names(numa_client.AsyncMachine)
    assert names(numa_client.Session) == names(numa_client.AsyncSession)
    assert names(numa_client.PageStream) == names(numa_client.AsyncPageStream)
    assert names(numa_client.Region) == names(numa_client.AsyncRegion)
