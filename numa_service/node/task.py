"""Tasks with address spaces: what clients have them do, over all nodes that give them pages.

The home of a task knows its address space and which node each of its pages was got from. What a call needs is
counted by an op (`Did.want`), got by the walk over zonelists that every request makes, and used by the same
op when it is applied again. If the home's own zones have it all, that is one op.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from numa_service.mm.gfp import GFP_HIGHUSER_MOVABLE, GFP_KERNEL, Gfp
from numa_service.mm.mempolicy.nodemask import nids_of
from numa_service.mm.mmap.entries import pfns_of
from numa_service.mm.mmap.errnos import EHWPOISON
from numa_service.mm.mmap.frames import FILE, Pfns
from numa_service.mm.mmap.rules import PAGE_MASK, PAGE_SHIFT
from numa_service.mm.mmap.vma import Vma
from numa_service.mm.mmzone import HUGE_INDEX, PAGEBLOCK_NR_PAGES, PAGEBLOCK_ORDER
from numa_service.node import ops
from numa_service.node.ask import Steps, cond_resched, on, tell
from numa_service.node.cost import Cost
from numa_service.node.errors import InvalidRequest, NodeError, PeerUnavailable
from numa_service.node.hugetlb_of_tasks import get_hugetlb, release_hugetlb
from numa_service.node.mempolicy import Policy, PolicyMode, nodes_of_places, policy_choice
from numa_service.node.node import Node
from numa_service.node.oom_kill import OomAsker
from numa_service.node.ops.alloc import MAX_COUNT
from numa_service.node.ops.task import next_populated
from numa_service.node.ops.task_work import Did, Here, Zones
from numa_service.node.page_alloc import Allocation, alloc_for_owner, spend
from numa_service.node.pfns import pack_pfns, unpack_indexes, unpack_pfns
from numa_service.node.prepare import gfp_zone_checked
from numa_service.node.task_huge import unnamed
from numa_service.node.task_image import begins, relro
from numa_service.node.task_limbo import free_blocks, release_elsewhere
from numa_service.node.task_memory_failure import LOST, lose_page
from numa_service.node.task_pages import (
    HUGE,
    HUGE_ZERO,
    LRU_KINDS,
    PROMISED_PAGE,
    TABLE,
    Want,
    effective_policy,
    nid_and_pfn,
    shares_of,
    table_block,
)
from numa_service.node.task_state import KHUGEPAGED, SIG_DFL, SIG_IGN, Task
from numa_service.node.unserved import unserved
from numa_service.procfs.oom_report import ERR

#: RLIMIT_MEMLOCK of a task, in bytes, if nobody says otherwise: the kernel's default of 8 MiB.
MEMLOCK = 8 << 20


@dataclass(slots=True)
class Ran:
    """The outcome of one call of a task, or of one access to its memory."""

    value: int = 0
    #: A number of errno.h, 0 for success, and what was wrong, for people.
    errno: int = 0
    reason: str = ""
    faults: int = 0
    major_faults: int = 0
    hits: int = 0
    #: Pages that were moved, and those that could not be.
    moved: int = 0
    failed: int = 0
    #: nid or negative errno of each page that move_pages was asked about.
    status: tuple[int, ...] = ()
    cost: Cost = field(default_factory=Cost)
    remote_lookups: int = 0
    #: There was no memory, and nobody whom the OOM killer may kill.
    hopeless: bool = False
    #: nid → the error for which that node was not, or not in full, asked.
    unasked: dict[int, NodeError] = field(default_factory=dict)

    def fail(self, number: int, reason: str) -> None:
        """Let the call end with an errno (`number`), and a reason for people."""
        self.value, self.errno, self.reason = -1, number, reason


class Asked(NamedTuple):
    """One call that a client asks for: see ``task_calls.py`` for names and numbers."""

    name: str
    numbers: tuple[int, ...] = ()
    text: str = ""


def here_of(node: Node, cpu_nid: int) -> Here:
    """Where ops of a task may take pages by themselves."""

    def zones(gfp: int) -> Zones:
        prepared = node.prepared(gfp, Policy())
        own = prepared.here if cpu_nid == node.nid else ()
        return Zones(own, prepared.migratetype, prepared.highest_zoneidx, prepared.alloc_flags, gfp)

    return Here(zones(GFP_HIGHUSER_MOVABLE), zones(GFP_KERNEL))


def nid_of_cpu(node: Node, cpu: int) -> int:
    """The node of a CPU of the machine; InvalidRequest if there is none."""
    for spec in node.machine.spec.nodes:
        if cpu in spec.cpus:
            return spec.nid
    raise InvalidRequest("cpu", f"{cpu} is not a CPU of the machine")


def spawn(
    node: Node,
    session: int,
    cpu: int,
    comm: str,
    cmdline: Sequence[str] = (),
    path: str = "",
    memlock: int = MEMLOCK,
) -> Steps[Ran]:
    """Begin a task that runs a program; the result's value is its pid. InvalidRequest, NotFound, TooMany."""
    node.session(session)
    cpu_nid = nid_of_cpu(node, cpu)
    program = path or f"/bin/{comm}"
    here = here_of(node, cpu_nid)
    tables: tuple[tuple[int, int], ...] = ()
    ran = Ran()
    while True:
        words = tuple(cmdline) or (program,)
        op = ops.TaskSpawn(session, cpu, cpu_nid, comm, words, program, memlock, here, tables)
        op.check(node)
        did = node.apply(op)
        _add(node, ran, did)
        if did.want is None:
            break
        blocks = yield from _get_tables(node, OomAsker(0, comm, cpu), cpu_nid, did.want, ran)
        if len(blocks) < did.want.pages:
            yield from _free_tables(node, [*tables, *((did.want.order, block) for block in blocks)])
            ran.fail(errno.ENOMEM, "there is no page for its page tables")
            break
        tables = (*tables, *((did.want.order, block) for block in blocks))
    ran.errno, ran.reason = ran.errno or did.errno, ran.reason or did.reason
    ran.value = -1 if ran.errno else did.value
    if not ran.errno:
        task = node.tasks[did.value]
        for start, end, write in begins(task.process.mm):
            began = Ran(cost=ran.cost)
            yield from _touch(node, task, start, end, began, write=write)
            ran.faults += began.faults
        if task.pid in node.tasks:
            here = here_of(node, cpu_nid)
            node.apply(ops.TaskCall(task.pid, "mprotect", relro(), "", here))
    yield from _release(node)
    _spend(node, cpu, cpu_nid, ran.cost)
    return ran


def call(node: Node, session: int, pid: int, asked: Asked) -> Steps[Ran]:
    """Have a task make a call of ``task_calls.py``. InvalidRequest, NotFound, Precondition.

    What the call itself is refused with is the result's errno.
    """
    task = node.tasks.task(session, pid)
    ran = Ran()

    def op() -> ops.TaskCall:
        return ops.TaskCall(pid, asked.name, asked.numbers, asked.text, here_of(node, task.cpu_nid))

    op().check(node)
    did = yield from _until_done(node, task, op, ran)
    for start, end in did.populate if not ran.errno else ():
        populated = Ran(cost=ran.cost)
        yield from _touch(node, task, start, end, populated, populate=True)
        ran.faults += populated.faults
    yield from _release(node)
    _spend(node, task.cpu, task.cpu_nid, ran.cost)
    return ran


def touch(node: Node, session: int, pid: int, start: int, length: int, *, write: bool) -> Steps[Ran]:
    """Have a task read or write something in every page of a range. NotFound, Precondition.

    EFAULT stands for SIGSEGV; what is before it has been touched. ENOMEM if no memory was found, EINVAL for
    more pages than one request may have.
    """
    task = node.tasks.task(session, pid)
    ran = Ran()
    if not 1 <= length <= MAX_COUNT << PAGE_SHIFT:
        ran.fail(errno.EINVAL, f"{length} bytes: a touch is of 1…{MAX_COUNT} pages")
        return ran
    if start + length > task.process.mm.layout.task_size:
        ran.fail(errno.EFAULT, f"{start:#x} and {length} bytes are beyond the addresses of a process")
        return ran
    yield from _touch(node, task, start, start + length, ran, write=write)
    yield from _release(node)
    _spend(node, task.cpu, task.cpu_nid, ran.cost)
    return ran


def fork(node: Node, session: int, pid: int) -> Steps[Ran]:
    """Have a task fork; the result's value is the pid of the child, whose home and CPU are the parent's."""
    task = node.tasks.task(session, pid)
    ran = Ran()
    yield from _until_done(node, task, lambda: ops.TaskFork(pid, here_of(node, task.cpu_nid)), ran)
    yield from _release(node)
    _spend(node, task.cpu, task.cpu_nid, ran.cost)
    return ran


def exit_task(node: Node, session: int, pid: int) -> Steps[Ran]:
    """End a task: everything that it has is freed."""
    node.tasks.task(session, pid)
    node.apply(ops.TaskExit(pid))
    yield from _release(node)
    return Ran()


def exit_tasks(node: Node, session: int) -> Steps[None]:
    """End all tasks of a session."""
    for pid in node.tasks.of_session(session):
        node.apply(ops.TaskExit(pid))
    yield from _release(node)


def _release(node: Node) -> Steps[None]:
    """Have other nodes free what tasks do not need any more."""
    yield from release_elsewhere(node)
    yield from release_hugetlb(node)


def _add(node: Node, ran: Ran, did: Did) -> None:
    """Add what an op did to what the call came to."""
    ran.faults += did.faults
    ran.hits += did.hits
    if did.path:
        ran.cost.add_path(node.machine.spec.latency, did.path)
    if did.taken or did.hits:
        ran.cost.add_access(node.load, node.nid, did.taken, did.wait_ns)


def _spend(node: Node, cpu: int, cpu_nid: int, cost: Cost) -> None:
    """Account for what a call costs; the clock of another node's CPU is not kept here."""
    spend(node, cpu if cpu_nid == node.nid else node.pgdat.cpus[0] if node.pgdat.cpus else cpu, cost)


def _until_done(
    node: Node, task: Task, op: Callable[[], ops.TaskCall | ops.TaskFork], ran: Ran
) -> Steps[Did]:
    """Apply an op until it has all pages that it needs; note how it ended."""
    while not _killed(node, task, ran):
        did = node.apply(op())
        _add(node, ran, did)
        if did.want is None:
            ran.value, ran.errno, ran.reason = did.value, did.errno, did.reason
            return did
        got = yield from _get(node, task, did.want, ran)
        if got < did.want.pages and did.want.kind != HUGE and task.pid in node.tasks:
            node.apply(ops.ReturnStock(task.pid))
            ran.fail(errno.ENOMEM, _no_memory(node, did.want, ran))
            return Did()
    return Did()


def _killed(node: Node, task: Task, ran: Ran) -> bool:
    """Whether a task was killed in the midst of a call, which ends with ESRCH then."""
    if task.pid in node.tasks:
        return False
    ran.fail(errno.ESRCH, f"task {task.pid} was killed by {task.killed_by}")
    return True


def _no_memory(node: Node, want: Want, ran: Ran) -> str:
    """Say why pages were not found."""
    nodes = node.machine.zonelists[node.nid].node_order
    return str(unserved(want.order, want.pages, 0, nodes, ran.unasked))


def _touch(
    node: Node, task: Task, start: int, end: int, ran: Ran, *, write: bool = False, populate: bool = False
) -> Steps[None]:
    """Touch a range, in steps for which there is memory."""
    at, stop = start, end
    while at < end and not _killed(node, task, ran):
        if populate:  # holes, of which mlockall has 128 TiB, are not gone through
            vma = next_populated(task.process.mm.tree, at, end)
            if vma is None:
                return
            at = max(at, vma.start)
        to = min(stop, at + (MAX_COUNT << PAGE_SHIFT))
        op = ops.TaskTouch(task.pid, at, to, write, populate, here_of(node, task.cpu_nid))
        did = node.apply(op)
        _add(node, ran, did)
        yield from _access_elsewhere(node, task, did, (op.start, op.end), write, ran)
        if did.errno:
            ran.fail(did.errno, did.reason)
            if did.errno == EHWPOISON and not populate:
                do_sigbus(node, task, did.at, ran)
            return
        at = max(at, did.at)
        if did.want is None:
            at, stop = max(at, to), end
            if at < end and ran.hopeless:
                ran.fail(errno.ENOMEM, "memory is out, and no task may be killed")
                return
            if at < end:
                yield from cond_resched()
            continue
        got = yield from _get(node, task, did.want, ran)
        if did.want.kind in (HUGE, HUGE_ZERO) or did.want.kind >= PROMISED_PAGE:
            continue  # faults do without those that there are not
        if not got and task.pid in node.tasks and node.apply(ops.ShrinkHuge()):
            yield from _release(node)
            continue
        if got < did.want.pages and task.pid in node.tasks:
            if not got or did.want.kind == TABLE or stop <= at + (1 << PAGE_SHIFT):
                node.apply(ops.ReturnStock(task.pid))
                ran.fail(errno.ENOMEM, _no_memory(node, did.want, ran))
                return
            stop = at + (got << PAGE_SHIFT)


def do_sigbus(node: Node, task: Task, address: int, ran: Ran) -> None:
    """A task has accessed a page that was lost: it gets SIGBUS, of which it ends unless it has a handler."""
    line = (
        f"MCE: Killing {task.comm}:{task.pid} due to hardware memory corruption fault at "
        f"{address & PAGE_MASK:x}"
    )
    node.apply(ops.Printk(node.clock(), ((ERR, line),)))
    if task.sigbus in (SIG_DFL, SIG_IGN):  # it may not be ignored (force_sig_mceerr)
        ran.reason += f"; task {task.pid} was killed by SIGBUS"
        node.apply(ops.TaskExit(task.pid))


# pages


def _get(node: Node, task: Task, want: Want, ran: Ran) -> Steps[int]:
    """Get pages for a task, which are its stock then; return how many there were."""
    if want.kind == TABLE:
        blocks = yield from _get_tables(node, _asker(task), task.cpu_nid, want, ran)
        if task.pid not in node.tasks:
            yield from _free_tables(node, [(want.order, block) for block in blocks])
            return 0
        if blocks:
            node.apply(ops.StockTables(task.pid, want.order, tuple(blocks)))
        return len(blocks)
    if want.kind >= PROMISED_PAGE:
        yield from get_hugetlb(node, task, want)
        return want.pages
    if want.kind == HUGE_ZERO:
        return (yield from _get_huge_zero(node, task, want, ran))
    if want.kind == HUGE:
        return (yield from get_huge(node, task.pid, (task.cpu, task.cpu_nid), want, ran))
    frames = node.apply(ops.ReserveFrames(want.pages))
    got: tuple[tuple[int, int], ...] = ()
    try:
        got = yield from _walk(node, task, want.kind, frames, Policy.of(want.policy), ran, want.shares)
    finally:
        node.apply(ops.StockTask(task.pid, want.kind, got, frames))
    return sum(pages for _, pages in got)


def _walk(
    node: Node,
    task: Task,
    kind: int,
    frames: bytes,
    policy: Policy,
    ran: Ran,
    shares: tuple[tuple[int, int], ...] = (),
) -> Steps[tuple[tuple[int, int], ...]]:
    """Get a page for each frame; return how many of them, in order, got one of which node."""
    owner = node.tasks.owner(kind)
    try:
        allocation = yield from alloc_for_owner(
            node,
            owner,
            0,
            GFP_HIGHUSER_MOVABLE,
            0,
            len(frames) // 4,
            task.cpu,
            policy,
            LRU_KINDS[kind],
            frames,
            cost=ran.cost,
            shares=shares or None,
            asker=_asker(task),
        )
    except InvalidRequest:
        return ()  # no node of the policy has memory
    _count(ran, allocation)
    return tuple((nid, len(pfns) // 8) for nid, pfns in allocation.pages)


def get_huge(node: Node, pid: int, at: tuple[int, int], want: Want, ran: Ran) -> Steps[int]:
    """Get huge pages for a task, or for khugepaged, on a CPU and its node; return how many there were."""
    frames = node.apply(ops.ReserveFrames(want.pages, True))
    got: list[tuple[int, int]] = []
    try:
        for gfp, policy in _tries(node, at[1], want):
            missing = frames[4 * sum(pages for _, pages in got) :]
            if missing:
                got += yield from _walk_huge(node, at[0], missing, gfp, policy, ran, want.shares)
    finally:
        refused = want.pages - len(frames) // 4
        node.apply(ops.StockTask(pid, HUGE, tuple(got), frames, refused))
    return sum(pages for _, pages in got)


def khugepaged_round(node: Node) -> Steps[int]:
    """A round of khugepaged (khugepaged_do_scan); return the ms until the next one."""
    ran = Ran()
    cpu = (*node.pgdat.cpus, *node.pgdat.all_cpus)[0]
    while (want := (did := node.apply(ops.KhugepagedScan())).want) is not None:
        yield from get_huge(node, KHUGEPAGED, (cpu, node.nid), want, ran)
    yield from _release(node)
    return did.value


def _tries(node: Node, cpu_nid: int, want: Want) -> list[tuple[int, Policy]]:
    """How a huge page is looked for, one after the other (alloc_pages_mpol, alloc_hugepage_vma)."""
    policy, gfp, thp = Policy.of(want.policy), want.gfp, node.tasks.thp
    assert thp is not None
    spread = policy.interleaves or policy.mode is PolicyMode.PREFERRED_MANY
    if not thp.rules.local or spread or gfp & Gfp.THISNODE:
        return [(gfp, policy)]
    choice = policy_choice(node.machine.zonelists, cpu_nid, policy, gfp_zone_checked(gfp, node.pgdat.arch))
    if choice.nodemask is not None and choice.nid not in nids_of(choice.nodemask):
        return [(gfp, policy)]
    near = gfp | Gfp.THISNODE | (Gfp.NORETRY if thp.rules.local_then_all else 0)
    tries = [(int(near), Policy(PolicyMode.PREFERRED, (choice.nid,)))]
    return [*tries, (gfp, policy)] if thp.rules.local_then_all and gfp & Gfp.DIRECT_RECLAIM else tries


def _walk_huge(
    node: Node,
    cpu: int,
    frames: bytes,
    gfp: int,
    policy: Policy,
    ran: Ran,
    shares: tuple[tuple[int, int], ...] = (),
) -> Steps[tuple[tuple[int, int], ...]]:
    """Get a huge page for each name, as far as one try has them; return how many of which node."""
    owner = node.tasks.owner(HUGE)
    try:
        allocation = yield from alloc_for_owner(
            node,
            owner,
            0,
            gfp,
            PAGEBLOCK_ORDER,
            len(frames) // 4,
            cpu,
            policy,
            LRU_KINDS[HUGE],
            frames,
            cost=ran.cost,
            shares=shares or None,
        )
    except InvalidRequest:
        return ()  # no node of the policy has memory
    _count(ran, allocation)
    return tuple((nid, len(pfns) // 8) for nid, pfns in allocation.pages)


def _get_huge_zero(node: Node, task: Task, want: Want, ran: Ran) -> Steps[int]:
    """Get the huge page of zeros, for all tasks of the home; return whether there was one."""
    near = Policy() if task.cpu_nid == node.nid else Policy(PolicyMode.PREFERRED, (task.cpu_nid,))
    owner = node.tasks.owner(HUGE_ZERO)
    allocation = yield from alloc_for_owner(
        node, owner, 0, want.gfp, want.order, 1, task.cpu, near, cost=ran.cost
    )
    _count(ran, allocation)
    blocks = tuple(
        block
        for nid, pfns in allocation.pages
        for block in table_block(nid, unpack_pfns(pfns).astype(np.int64)).tolist()
    )
    node.apply(ops.StockHugeZero(task.pid, blocks))
    return len(blocks)


def _count(ran: Ran, allocation: Allocation) -> None:
    ran.remote_lookups += allocation.remote_lookups
    ran.hopeless = ran.hopeless or allocation.hopeless
    ran.unasked.update(allocation.unasked)


def _asker(task: Task) -> OomAsker:
    return OomAsker(task.pid, task.comm, task.cpu, task.oom_score_adj)


def _get_tables(node: Node, asker: OomAsker, cpu_nid: int, want: Want, ran: Ran) -> Steps[list[int]]:
    """Get blocks for page tables, near the CPU (pte_alloc_one); return their numbers."""
    policy = Policy() if cpu_nid == node.nid else Policy(PolicyMode.PREFERRED, (cpu_nid,))
    owner = node.tasks.owner(TABLE)
    allocation = yield from alloc_for_owner(
        node, owner, 0, GFP_KERNEL, want.order, want.pages, asker.cpu, policy, cost=ran.cost, asker=asker
    )
    _count(ran, allocation)
    blocks: list[int] = []
    for nid, pfns in allocation.pages:
        blocks += table_block(nid, unpack_pfns(pfns).astype(np.int64)).tolist()
    return blocks


def _access_elsewhere(
    node: Node, task: Task, did: Did, span: tuple[int, int], write: bool, ran: Ran
) -> Steps[None]:
    """Access pages that other nodes have, and get those anew that were reclaimed, here or there.

    `span`: the addresses that were accessed. Of a huge page that is none any more, its parts there are
    accessed one by one.
    """
    for kind, frames in did.gone:
        yield from _refault(node, task, span, kind, node.nid, frames, ran, did.swapped_in)
    waiting = list(did.elsewhere)
    for kind, nid, frames, pages in waiting:
        owner = node.tasks.owner(kind)
        try:
            touched = yield from on(node, nid, ops.Touch(owner, frames, write, node.load.report(nid)))
        except PeerUnavailable as away:
            # as for regions: if it has crashed its pages are lost, else it frees them when it is back
            ran.unasked[nid] = away
            yield from tell(node, nid, ops.Release(owner, None, frames))
            single, heads = unnamed(unpack_indexes(frames))
            parts = _split(node, task, heads, span)
            yield from _refault(node, task, span, kind, nid, _packed(np.concatenate([single, parts])), ran)
            continue
        ran.remote_lookups += 1
        ran.cost.add_lookup(node.machine.spec.latency)
        ran.cost.add_path(node.machine.spec.latency, touched.path)
        gone = np.frombuffer(touched.gone, np.uint8)
        parts = _split(node, task, unnamed(unpack_indexes(frames)[gone == 2])[1], span)
        if len(parts):
            waiting.append((kind, nid, _packed(parts), len(parts)))
        for frame in unpack_indexes(frames)[gone == LOST].tolist():
            yield from lose_page(node, owner, nid, -1, frame)
        lost = unpack_indexes(frames)[gone == 1]
        there = pages - len(parts) - len(lost)
        ran.cost.add_access(node.load, nid, there, touched.wait_ns, write)
        if len(lost):
            yield from _refault(node, task, span, kind, nid, lost.tobytes(), ran, touched.swapped_in)


def _split(node: Node, task: Task, heads: Pfns, span: tuple[int, int]) -> Pfns:
    """Note that huge pages are none any more; return their frames that the task maps at some addresses."""
    if not len(heads):
        return heads
    node.apply(ops.SplitTaskPages(_packed(heads | HUGE_INDEX)))
    frames = pfns_of(task.process.mapped_entries(*span))
    return frames[np.isin(frames & -PAGEBLOCK_NR_PAGES, heads)]


def _packed(frames: Pfns) -> bytes:
    return frames.astype("<u4").tobytes()


def _refault(
    node: Node,
    task: Task,
    span: tuple[int, int],
    kind: int,
    nid: int,
    frames: bytes,
    ran: Ran,
    swapped: int = 0,
) -> Steps[None]:
    """Get pages anew that were reclaimed, or lost with their node; `swapped` of them were in its swap.

    They are wanted where the VMA says that maps them, as when they were new (do_swap_page).
    """
    mine = node.apply(ops.BeginRefault(nid, frames))
    pages = 0
    if not mine:
        return
    left = _by_vma(task, span, mine, kind)
    try:
        while left:
            vma, some = left[0]
            policy, ordered, shares = _again_by_policy(node, task, vma, kind, some)
            packed = ordered.astype("<u4").tobytes()
            got = yield from _walk(node, task, kind, packed, policy, ran, shares)
            node.apply(ops.EndRefault(task.pid, got, packed))
            left.pop(0)
            pages += sum(count for _, count in got)
    finally:
        for _, some in left:
            node.apply(ops.EndRefault(task.pid, (), some.astype("<u4").tobytes()))
    read = pages if kind == FILE else min(pages, swapped)
    ran.faults += pages
    ran.hits -= pages
    ran.major_faults += read
    if kind == FILE:
        ran.cost.reclaim_ns += read * node.machine.spec.latency.file_page_ns
    node.apply(ops.CountEvents(faults=pages, major_faults=read, pages_in=read))


def _by_vma(task: Task, span: tuple[int, int], packed: bytes, kind: int) -> list[tuple[Vma | None, Pfns]]:
    """Frames by the VMA that maps them; None: by no policy but the task's, as pages of files are wanted."""
    left = np.frombuffer(packed, "<u4").astype(np.int64)
    found: list[tuple[Vma | None, Pfns]] = []
    for vma in task.process.mm.tree.intersecting(*span) if kind != FILE else ():
        mapped = pfns_of(task.process.mapped_entries(max(vma.start, span[0]), min(vma.end, span[1])))
        here = np.isin(left, mapped)
        if here.any():
            found.append((vma, left[here]))
            left = left[~here]
    return [*found, (None, left)] if len(left) else found


def _again_by_policy(
    node: Node, task: Task, vma: Vma | None, kind: int, frames: Pfns
) -> tuple[Policy, Pfns, tuple[tuple[int, int], ...]]:
    """The policy by which pages are got again; if it interleaves, frames in the order of its shares."""
    policy = effective_policy(task, vma, node.nid)
    if not policy.interleaves:
        return policy, frames, ()
    if kind == FILE:
        return Policy(), frames, ()  # whose turn it was is not known any more
    machine = node.machine
    places = node.tasks.frames.index[frames].astype(np.uint32)
    weights = machine.sysctls.interleave_weights
    nodes = nodes_of_places(policy, machine.zonelists, places, weights, machine.profile)
    if not len(nodes):
        return policy, frames, ()
    order = np.argsort(nodes, kind="stable")
    return policy, frames[order], shares_of(nodes[order])


def _free_tables(node: Node, tables: Sequence[tuple[int, int]]) -> Steps[None]:
    """Free blocks of page tables that were got for a task that does not begin."""
    for order, block in tables:
        nid, pfn = nid_and_pfn(block)
        packed = pack_pfns(np.array([pfn], np.uint64))
        yield from free_blocks(node, node.tasks.owner(TABLE), nid, order, packed)
