"""Pages of tasks that move because somebody asks: mbind, migrate_pages and move_pages.

What moves and where to is decided at the task's home; the node that has a page moves it (``move_pages.py``).
"""

from __future__ import annotations

import errno
from collections.abc import Sequence

import numpy as np

from numa_service.mm.gfp import GFP_HIGHUSER_MOVABLE, Gfp
from numa_service.mm.mempolicy.calls import (
    MPOL_MF_MOVE,
    MPOL_MF_MOVE_ALL,
    MPOL_MF_STRICT,
    Caller,
    Pointer,
    get_mempolicy,
)
from numa_service.mm.mempolicy.moves import PageState, Target, migrate_pages, move_pages
from numa_service.mm.mempolicy.nodemask import NUMA_NO_NODE, nids_of
from numa_service.mm.mempolicy.policy import CallError, Mode
from numa_service.mm.mmap.entries import PRESENT, ZERO, pfns_of
from numa_service.mm.mmap.frames import Pfns
from numa_service.mm.mmap.rules import PAGE_MASK, PAGE_SIZE
from numa_service.mm.mmzone import HUGE_INDEX
from numa_service.mm.zonelist import MAX_NUMNODES
from numa_service.node import ops
from numa_service.node.ask import Steps
from numa_service.node.errors import PeerUnavailable
from numa_service.node.mempolicy import PolicyMode, nodes_of_places, policy_choice
from numa_service.node.move_pages import ABSENT, MOVED, SPLIT, AskToMove, Destination
from numa_service.node.node import Node
from numa_service.node.ops.task import call_context
from numa_service.node.ops.task_work import by_owner
from numa_service.node.pfns import nr_pages
from numa_service.node.prepare import gfp_zone_checked
from numa_service.node.task import Ran
from numa_service.node.task_calls import PagesOf, frames_outside, user_mask
from numa_service.node.task_huge import names_of, parts_of_heads, unnamed
from numa_service.node.task_pages import LRU_KINDS, effective_policy
from numa_service.node.task_state import Task

_GFP_MBIND = int(GFP_HIGHUSER_MOVABLE | Gfp.RETRY_MAYFAIL)
_GFP_THISNODE = int(GFP_HIGHUSER_MOVABLE | Gfp.THISNODE)


def move_after_mbind(
    node: Node, task: Task, numbers: tuple[int, ...], ask: AskToMove, ran: Ran
) -> Steps[None]:
    """Move what an mbind with MPOL_MF_MOVE or MPOL_MF_MOVE_ALL leaves on other nodes than it named.

    With MPOL_MF_STRICT the call ends with EIO if a page could not be moved.
    """
    start, length, mode, nodemask, flags = numbers
    if not flags & (MPOL_MF_MOVE | MPOL_MF_MOVE_ALL):
        return
    end = start + length
    shared = bool(flags & MPOL_MF_MOVE_ALL)
    for vma in task.process.mm.tree.intersecting(start, end):
        low, high = max(vma.start, start), min(vma.end, end)
        frames = frames_outside(task.process, low, high, nodemask, shared=shared)
        policy = effective_policy(task, vma, node.nid)
        lists, every = node.machine.zonelists, tuple(sorted(node.machine.zonelists))
        if policy.interleaves:
            weights = node.machine.sysctls.interleave_weights
            places = node.tasks.frames.index[frames]
            nodes = nodes_of_places(policy, lists, places.astype(np.uint32), weights, node.machine.profile)
            counted = policy.mode is PolicyMode.INTERLEAVE
            for nid in np.unique(nodes).tolist():
                to = Destination(nid, every, _GFP_MBIND, task.cpu, task.cpu_nid, counted)
                yield from _move(node, frames[nodes == nid], to, ask, ran)
            continue
        choice = policy_choice(lists, task.cpu_nid, policy, gfp_zone_checked(_GFP_MBIND, node.pgdat.arch))
        mask = every if choice.nodemask is None else nids_of(choice.nodemask)
        yield from _move(
            node, frames, Destination(choice.nid, mask, _GFP_MBIND, task.cpu, task.cpu_nid), ask, ran
        )
    if flags & MPOL_MF_STRICT and Mode(mode & 0xFF) is not Mode.DEFAULT and ran.failed:
        ran.fail(errno.EIO, f"{ran.failed} pages could not be moved")


def migrate_task(node: Node, task: Task, numbers: tuple[int, ...], ask: AskToMove, ran: Ran) -> Steps[None]:
    """migrate_pages: move a task's own pages from some nodes to others."""
    caller = _caller(node, task)
    old, new = (user_mask(mask) for mask in numbers)
    plan = migrate_pages(caller, Target(caller.mems_allowed), MAX_NUMNODES + 1, old, new)
    for source, dest in plan.pairs:
        own = frames_outside(task.process, 0, task.process.mm.layout.task_size, 0, shared=plan.shared)
        frames = own[node.tasks.source.nids_of(own) == source]
        to = Destination(dest, (dest,), _GFP_THISNODE, task.cpu, task.cpu_nid)
        yield from _move(node, frames, to, ask, ran)
    ran.value = ran.failed


def move_task_pages(
    node: Node, task: Task, addresses: Sequence[int], nodes: Sequence[int] | None, ask: AskToMove, ran: Ran
) -> Steps[None]:
    """move_pages: move pages each to a node of its own, or without `nodes` say where they are."""
    caller = _caller(node, task)
    found = [_page(node, task, address & PAGE_MASK) for address in addresses]
    states = [state for state, _ in found]
    done = move_pages(
        caller, Target(caller.mems_allowed), states, nodes, Pointer.GOOD, len(states), MPOL_MF_MOVE
    )
    for dest in dict.fromkeys(nid for _, nid in done.moves):
        frames = np.array(sorted({found[at][1] for at, nid in done.moves if nid == dest}), np.int64)
        to = Destination(dest, (dest,), _GFP_THISNODE, task.cpu, task.cpu_nid)
        yield from _move(node, frames, to, ask, ran)
    ran.status = done.status
    if done.errno:
        ran.fail(done.errno, "a node is unknown, or not allowed")


def tell_policy(node: Node, task: Task, numbers: tuple[int, ...], ran: Ran) -> None:
    """get_mempolicy: the mode, or a node, is the result's value; its status are the policy's nodes."""
    flags, addr = numbers
    on = call_context(node, task)
    told = get_mempolicy(
        on.caller(), on.areas(), PagesOf(task), Pointer.GOOD, Pointer.GOOD, MAX_NUMNODES + 1, addr, flags
    )
    ran.value, ran.status = int(told.mode), nids_of(told.nodes)
    if told.errno:
        raise CallError(told.errno)


def _caller(node: Node, task: Task) -> Caller:
    return call_context(node, task).caller()


def _page(node: Node, task: Task, address: int) -> tuple[PageState, int]:
    """Return the page-table entry at an address of a task, and its frame number."""
    vma = task.process.mm.tree.lookup(address)
    if vma is None or vma.special is not None:
        return PageState(NUMA_NO_NODE, mapped=False), 0
    entry = int(task.process.all_entries(address, address + PAGE_SIZE)[0])
    if not entry & PRESENT:
        return PageState(NUMA_NO_NODE, anon=vma.is_anonymous), 0
    if entry & ZERO:
        return PageState(0, zero=True), 0
    frame = int(pfns_of(np.array([entry]))[0])
    count = int(node.tasks.frames.mapcount[frame])
    return PageState(int(node.tasks.source.nids[frame]), mapcount=count, anon=vma.is_anonymous), frame


def _move(node: Node, frames: Pfns, to: Destination, ask: AskToMove, ran: Ran) -> Steps[None]:
    """Have the nodes that have pages move them. A huge page that finds no room is split: its parts move."""
    waiting = [(kind, nid, names_of(node.tasks.thp, some)) for kind, nid, some in by_owner(node, frames)]
    for kind, nid, asked in waiting:
        names = _without_queued(node, asked, ran)
        if not len(names):
            continue
        try:
            packed = names.astype("<u4").tobytes()
            answer = yield from ask(nid, node.tasks.owner(kind), LRU_KINDS[kind], packed, to)
        except PeerUnavailable as away:
            ran.unasked[nid] = away
            ran.failed += nr_pages(names)
            continue
        fates = np.frombuffer(answer, np.uint8)
        ran.moved += nr_pages(names[fates == MOVED])
        ran.failed += nr_pages(names[(fates != MOVED) & (fates != ABSENT) & (fates != SPLIT)])
        if (fates == SPLIT).any():
            waiting.append((kind, nid, _split(node, names[fates == SPLIT])))


def _without_queued(node: Node, names: Pfns, ran: Ran) -> Pfns:
    """Split huge pages that wait for it, whose parts move then, where the kernel does so; else they stay."""
    thp = node.tasks.thp
    if thp is None or not thp.deferred:
        return names
    single, heads = unnamed(names)
    queued = np.isin(heads, list(thp.deferred))
    others = np.concatenate([single, heads[~queued] | HUGE_INDEX])
    if not queued.any():
        return names
    if thp.rules.migration_splits_queued:
        return np.concatenate([others, _split(node, heads[queued] | HUGE_INDEX)])
    ran.failed += int((node.tasks.frames.mapcount[parts_of_heads(heads[queued])] > 0).sum())
    return others


def _split(node: Node, names: Pfns) -> Pfns:
    """Note that huge pages are split; return those of their parts that are mapped."""
    node.apply(ops.SplitTaskPages(names.astype("<u4").tobytes()))
    parts = parts_of_heads(unnamed(names)[1])
    return parts[node.tasks.frames.mapcount[parts] > 0]
