"""Load generator for numa-service: workloads, latency recording, and ``numa-loadgen``.

>>> report = await run_load(LoadPlan("localhost:7700", workload="page-cache", duration_seconds=5))
"""

from numa_loadgen.plan import LoadPlan, PlanError
from numa_loadgen.report import Latency, LoadProgress, LoadReport, Step
from numa_loadgen.runner import run_load
from numa_loadgen.workloads import WORKLOADS, Workload, register

__all__ = [
    "WORKLOADS",
    "Latency",
    "LoadPlan",
    "LoadProgress",
    "LoadReport",
    "PlanError",
    "Step",
    "Workload",
    "register",
    "run_load",
]
