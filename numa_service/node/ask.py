"""Questions to other nodes: what a generator that spans nodes yields, and whoever drives it carries."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from numa_service.node.ops.op import Op
from numa_service.node.state import NodeState

R = TypeVar("R")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ask(Generic[R]):
    """An effect: apply an op on another node, and send back its result.

    `request_id` is unique for this question: a node asked twice gives the first answer.
    """

    nid: int
    op: Op[R]
    request_id: str


#: A step across nodes: yields questions, returns its result.
Steps = Generator[Ask[Any], Any, T]


def check_asked(node: NodeState, op: Op[Any]) -> None:
    """Check what another node asks for; InvalidRequest, or TypeError for an op that none may ask for."""
    if not op.asked:
        raise TypeError(f"not a question between nodes: {type(op).__name__}")
    op.check(node)
