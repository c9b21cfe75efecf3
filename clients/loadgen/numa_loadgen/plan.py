"""The description of a load."""

from __future__ import annotations

import math
from dataclasses import dataclass

from numa_client import Policy

#: Most clients of a load; each is a session and a task.
MAX_CLIENTS = 65536


class PlanError(ValueError):
    """A plan has a wrong value. One line says which field, and why."""


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """The description of a load on one machine. PlanError when a number is out of range."""

    #: host:port of the machine.
    target: str
    #: A name in :data:`numa_loadgen.WORKLOADS`.
    workload: str = "mixed"
    #: Concurrent sessions, each with one request under way at a time.
    clients: int = 4
    duration_seconds: float = 10.0
    #: Stop after so many operations, if that comes before the end of the duration.
    operations: int | None = None
    #: Blocks of 2^order pages.
    order: int = 0
    #: Blocks of an allocation, and pages of an access to a region.
    count: int = 64
    #: CPU of every client. By default clients are spread over the CPUs of `node`, or of the machine.
    cpu: int | None = None
    node: int | None = None
    gfp: str = "GFP_KERNEL"
    policy: Policy | None = None
    #: Operations per second of all clients together (open loop); None sends the next one after each reply.
    rate: float | None = None
    #: Seed of the random choices of all clients.
    seed: int = 0
    #: Pages of each client's regions; by default a share of the home node's memory.
    region_pages: int | None = None
    #: Deadline of every request, in seconds.
    timeout_seconds: float = 10.0

    def __post_init__(self) -> None:
        for field in ("clients", "count", "duration_seconds", "timeout_seconds"):
            _check_positive(field, getattr(self, field))
        for field in ("operations", "rate", "region_pages"):
            if getattr(self, field) is not None:
                _check_positive(field, getattr(self, field))
        if not 0 <= self.order <= 10:
            raise PlanError(f"order must be 0 to 10, not {self.order}")
        if self.clients > MAX_CLIENTS:
            raise PlanError(f"clients must be at most {MAX_CLIENTS}, not {self.clients}")
        if self.count > 65536:
            raise PlanError(f"count must be at most 65536, not {self.count}")


def _check_positive(field: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise PlanError(f"{field} must be a number above 0, not {value}")
