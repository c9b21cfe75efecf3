"""A node's ops as lines of text: what golden transcripts and bug reports are made of.

One line an op, in the order in which ops were applied; a reader sees the zonelist being walked.
"""

from __future__ import annotations

from typing import Any

from numa_service.node.node import Node
from numa_service.node.ops.op import Op


class Transcript:
    """Collects the ops of any number of nodes; give :meth:`observe` to each as its observer."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def observe(self, node: Node, op: Op[Any], result: Any) -> None:
        """Note one applied op; of those that only account for time, none."""
        line = op.text(node, result)
        if line:
            self.lines.append(f"node{node.nid} {line}")

    def comment(self, text: str) -> None:
        """Note what happens outside the nodes."""
        self.lines.append(f"# {text}")

    @property
    def text(self) -> str:
        """All lines."""
        return "".join(f"{line}\n" for line in self.lines)
