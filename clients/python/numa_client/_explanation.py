"""The explanation of an allocation: why its blocks came from where they did. Numbers are mostly pages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from numa_client import _explanation_text as text
from numa_client._explanation_steps import Step
from numa_client._policy import Policy
from numa_client._types import Blocks, Cost


@dataclass(slots=True)
class Explanation:
    """The path of one request through the allocator, with the numbers compared; ``str()`` is for reading."""

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
    #: nid → blocks got, in the order of the walks. A failed request has those that it got and gave back.
    placement: Mapping[int, int]
    cost: Cost
    #: Why the request failed; empty if it did not.
    failure: str

    def __str__(self) -> str:
        """The explanation as text of several lines, in the order of the kernel's path."""
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

    #: The blocks allocated, which must be freed as usual. Empty if the request failed.
    blocks: Blocks
    explanation: Explanation
