"""Bad memory: pages that are taken off-line, softly or after an error (``mm/memory-failure.c``)."""

from __future__ import annotations

from numa_service.node import ops
from numa_service.node.ask import Steps
from numa_service.node.errors import Busy, Precondition
from numa_service.node.migrate import empty_range
from numa_service.node.node import Node
from numa_service.node.ops.memory_failure import Poisoned
from numa_service.node.task_memory_failure import tell_home
from numa_service.procfs.oom_report import ERR, INFO
from numa_service.trace.tracepoint_formats import MR_MEMORY_FAILURE


def soft_offline_page(node: Node, pfn: int) -> Steps[None]:
    """Take a page out of use without loss: one of a region is moved first (soft_offline_page).

    Nothing is done to one that is bad already. NotFound; Busy (EBUSY) for a page that is in use and cannot be
    moved, Precondition (EIO) for one of a kind that never can, of which nothing is noted.
    """
    if pfn in node.pgdat.memory_failure.pages:
        return
    result = node.apply(ops.PoisonPage(pfn, True))
    if not result.taken and result.kind.endswith("LRU page"):
        nids = tuple(nid for nid, zones in node.machine.populated.items() if zones)
        yield from empty_range(node, pfn, pfn + 1, nids, MR_MEMORY_FAILURE)
        result = node.apply(ops.PoisonPage(pfn, True))
    if not result.taken and not result.kind.endswith("LRU page"):
        raise Precondition(f"EIO: page {pfn:#x} of node {node.nid} is a {result.kind}")
    if not result.taken:
        raise Busy(f"EBUSY: page {pfn:#x} of node {node.nid} is in use: {result.kind}")


def memory_failure(node: Node, pfn: int) -> Steps[Poisoned]:
    """Handle an error of a page's memory; return what became of the page, and who has lost it.

    A clean page of a file is read anew at its next access. Tasks that have lost another page get SIGBUS:
    their home is told. Errors as of ops.PoisonPage.
    """
    done = node.apply(ops.PoisonPage(pfn, False))
    if done.owner is not None and done.untold:
        yield from tell_home(node, done.owner, pfn, done.page_index)
    lines = [(ERR, recovery_line(pfn, done))]
    if done.kind == "clean LRU page":
        line = f"Memory failure: {pfn:#x}: corrupted page was clean: dropped without side effects"
        lines.insert(0, (INFO, line))
    node.apply(ops.Printk(node.clock(), tuple(lines)))
    return done


def recovery_line(pfn: int, result: Poisoned) -> str:
    """Return what the kernel prints of an error (action_result)."""
    end = "Recovered" if result.taken else "Ignored"
    return f"Memory failure: {pfn:#x}: recovery action for {result.kind}: {end}"
