"""Transcripts: the ops of nodes as lines of text, for golden tests and bug reports.

There is one line for each op, in the order in which the ops were applied, so that one can follow the walk
over a zonelist.
"""

from __future__ import annotations

from typing import Any

from numa_service.node.node import Node
from numa_service.node.ops.op import Op


class Transcript:
    """Collects the ops of any number of nodes; each has :meth:`observe` as its observer."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def observe(self, node: Node, op: Op[Any], result: Any) -> None:
        """Add the line of an op that was applied; ops that only account for time have none."""
        line = op.text(node, result)
        if line:
            self.lines.append(f"node{node.nid} {line}")

    def comment(self, text: str) -> None:
        """Add a comment, for what happens outside the nodes."""
        self.lines.append(f"# {text}")

    @property
    def text(self) -> str:
        """The whole transcript."""
        return "".join(f"{line}\n" for line in self.lines)
