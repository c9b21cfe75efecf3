"""How the home of tasks hears that another node has lost a page of them to an error of its memory.

The node that had the page asks the home to look (:class:`PageLost`), and repeats that until it has an answer.
The home asks back whether the page is lost still (Touch says so until the frame has been released there): a
question that comes late, or twice, is not about another page that has got the number since.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from numa_service.node import ops
from numa_service.node.ask import Steps, ask, tell
from numa_service.node.errors import PeerUnavailable
from numa_service.node.inbox import Inbox
from numa_service.node.node import Node
from numa_service.node.ops.fields import MAX_NODE_PAGES, MAX_REGION_PAGES, check_below, check_nid, check_owner
from numa_service.node.owners import Owner
from numa_service.node.request import Request
from numa_service.node.state import NodeState
from numa_service.node.task_limbo import release_elsewhere
from numa_service.procfs.oom_report import ERR

#: What Touch answers of a page that was lost (ops.TouchResult.gone).
LOST = 3


@dataclass(frozen=True, slots=True)
class PageLost(Request[int]):
    """Have the asked node look: a page of its tasks may be lost. The result is 1 if it was, else 0."""

    tag = "page_lost"

    owner: Owner
    #: The node that had the page, its page frame number, and the number of the frame at home.
    nid: int
    pfn: int
    frame: int

    def run(self, inbox: Inbox) -> Steps[int]:
        """Ask back, and take the page from all tasks that have it."""
        node = inbox.node
        if self.owner not in node.tasks.owners or self.frame >= len(node.tasks.source.nids):
            return 0
        packed = np.array([self.frame], "<u4").tobytes()
        while True:
            rounds = node.tasks.source.rounds
            try:
                touched = yield from ask(node, self.nid, ops.Touch(self.owner, packed, False))
            except PeerUnavailable:
                return 0  # the next access to the page finds out
            if touched.gone[0] != LOST:
                return 0
            if rounds == node.tasks.source.rounds:
                break
        return (yield from lose_page(node, self.owner, self.nid, self.pfn, self.frame))

    def owed(self, heard: bool) -> bool:
        """Return True: the question is repeated until the home has answered."""
        return True

    def check(self, node: NodeState) -> None:
        """Check the owner, the node and the numbers."""
        check_owner(node, self.owner)
        check_nid(node, "node", self.nid)
        check_below("pfn", self.pfn, MAX_NODE_PAGES)
        check_below("frame", self.frame, MAX_REGION_PAGES)


def tell_home(node: Node, owner: Owner, pfn: int, frame: int) -> Steps[None]:
    """Tell the home of tasks that a page of them is lost; one that does not answer is told later."""
    if owner.nid == node.nid:
        yield from lose_page(node, owner, node.nid, pfn, frame)
        return
    try:
        yield from ask(node, owner.nid, PageLost(owner, node.nid, pfn, frame))
    except PeerUnavailable:
        return


def lose_page(node: Node, owner: Owner, nid: int, pfn: int, frame: int) -> Steps[int]:
    """Take a lost page from this node's tasks, and say who was told (kill_procs); 0 if nobody has it.

    `pfn`: -1 if it is not known, and then nothing is printed.
    """
    told = node.apply(ops.TaskMemoryFailure(nid, frame))
    if told.again:
        yield from tell(node, nid, ops.Release(owner, None, np.array([frame], "<u4").tobytes()))
        return 0
    lines = tuple(
        (ERR, f"Memory failure: {pfn:#x}: Sending SIGBUS to {comm}:{pid} due to hardware memory corruption")
        for pid, comm in told.signalled
    )
    if lines and pfn >= 0:
        node.apply(ops.Printk(node.clock(), lines))
    yield from release_elsewhere(node)
    return 1
