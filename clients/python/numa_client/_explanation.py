"""Why an allocation went where it went, as the service tells it. Pages unless the name says otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from numa_client import _explanation_text as text
from numa_client._explanation_steps import Step
from numa_client._policy import Policy
from numa_client._types import Blocks, Cost


@dataclass(slots=True)
class Explanation:
    """The kernel path of one request, with the numbers it compared. ``str()`` is the readable form."""

    #: Node of the requesting CPU.
    node: int
    cpu: int
    gfp: str
    order: int
    count: int
    migratetype: str
    #: Highest zone that the request may use.
    classzone: str
    policy: Policy
    profile: str
    #: What was done, in order.
    steps: tuple[Step, ...]
    #: Blocks got by node, in the order of the walks; what was got in vain is here too.
    placement: Mapping[int, int]
    cost: Cost
    #: Why it failed; empty when it did not. What had been got went back.
    failure: str

    def __str__(self) -> str:
        """Reads like the kernel path; several lines."""
        policy = f", policy {self.policy}" if self.policy.nodes else ""
        asked = f"{self.gfp}, {text.blocks(self.count, self.order)}"
        where = ", ".join(f"{n} on node {nid}" for nid, n in self.placement.items()) or "none"
        return "\n".join(
            [
                f"{asked}, CPU {self.cpu} on node {self.node}{policy}",
                f"class {self.classzone}, {self.migratetype}, {self.profile}",
                *text.lines(self.steps, self.order),
                f"{self.failure}; given back: {where}" if self.failure else f"got {where}",
                text.spent(self.cost),
            ]
        )


@dataclass(frozen=True, slots=True, eq=False)
class Explained:
    """An allocation and its explanation."""

    #: What was really taken: to be freed as ever. Empty when the request failed.
    blocks: Blocks
    explanation: Explanation
