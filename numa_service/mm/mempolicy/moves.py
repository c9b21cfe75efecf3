"""The calls that move pages, migrate_pages and move_pages, and all that they check (``mm/migrate.c``)."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from numa_service.mm.mempolicy.calls import (
    MPOL_MF_MOVE,
    MPOL_MF_MOVE_ALL,
    Caller,
    Pointer,
    UserMask,
    get_nodes,
)
from numa_service.mm.mempolicy.nodemask import NUMA_NO_NODE, nids_of, node_remap, nodes_weight
from numa_service.mm.mempolicy.policy import CallError
from numa_service.mm.zonelist import MAX_NUMNODES


class Target(NamedTuple):
    """The task whose pages are to move."""

    #: The nodes that its cpuset allows.
    mems_allowed: int
    #: Whether the caller may look into it (ptrace_may_access).
    permitted: bool = True
    #: Whether it has an address space; kernel threads have none.
    has_mm: bool = True


class Migration(NamedTuple):
    """What migrate_pages() does: pages of the first node of a pair go to the second, pair by pair."""

    pairs: tuple[tuple[int, int], ...]
    #: Pages that others map as well move, too.
    shared: bool


def migrate_pages(
    caller: Caller, target: Target | None, maxnode: int, old: UserMask | None, new: UserMask | None
) -> Migration:
    """What migrate_pages() does to a task, None if there is no such task.

    CallError(EINVAL, EFAULT, ESRCH, EPERM). Nodes that the caller's cpuset does not allow are left out.
    """
    leave, reach = get_nodes(old, maxnode), get_nodes(new, maxnode)
    if target is None:
        raise CallError(errno.ESRCH)
    if not target.permitted or (reach & ~target.mems_allowed and not caller.cap_sys_nice):
        raise CallError(errno.EPERM)
    reach &= caller.mems_allowed & caller.nodes.memory
    if not reach or not target.has_mm:
        raise CallError(errno.EINVAL)
    return Migration(tuple(migration_pairs(leave, reach)), caller.cap_sys_nice)


def migration_pairs(old: int, new: int) -> Iterator[tuple[int, int]]:
    """Pairs (from, to) in the order in which do_migrate_pages() empties nodes.

    A node is emptied to the one that has its place in the other set. If the sets differ in size, nodes that
    are in both keep their pages. As far as possible a node is emptied before others are moved to it.
    """
    left = old
    same_size = nodes_weight(old) == nodes_weight(new)
    while left:
        source = dest = NUMA_NO_NODE
        for nid in nids_of(left):
            if not same_size and new >> nid & 1:
                continue
            to = node_remap(nid, old, new)
            if to == nid:
                continue
            source, dest = nid, to
            if not left >> dest & 1:
                break
        if source == NUMA_NO_NODE:
            return
        left &= ~(1 << source)
        yield source, dest


class PageState(NamedTuple):
    """A page that move_pages() is asked about."""

    #: Its node; NUMA_NO_NODE if there is no page.
    nid: int
    #: Whether an area is there.
    mapped: bool = True
    #: Mappings of it.
    mapcount: int = 1
    #: The area is of anonymous memory.
    anon: bool = True
    #: It is the zero page, or another that is not counted.
    zero: bool = False


class Moves(NamedTuple):
    """What move_pages() does."""

    #: (place in the list, node) of the pages that are to move, in order.
    moves: tuple[tuple[int, int], ...]
    #: What is written to `status`: a node or a negative errno. It may be shorter than the list.
    status: tuple[int, ...]
    #: The errno with which the call ends after that, 0 for success.
    errno: int


def move_pages(
    caller: Caller,
    target: Target | None,
    pages: Sequence[PageState] | None,
    nodes: Sequence[int] | Pointer | None,
    status: Pointer,
    nr_pages: int,
    flags: int,
) -> Moves:
    """What move_pages() does to a task's pages, if every page that is to move can; `target` as above.

    `pages` None is a pointer that cannot be read, as is `nodes` BAD; `nodes` None only tells where pages are.
    CallError(EINVAL, EPERM, ESRCH, EFAULT).
    """
    if flags & ~(MPOL_MF_MOVE | MPOL_MF_MOVE_ALL):
        raise CallError(errno.EINVAL)
    if flags & MPOL_MF_MOVE_ALL and not caller.cap_sys_nice:
        raise CallError(errno.EPERM)
    if target is None:
        raise CallError(errno.ESRCH)
    if not target.permitted:
        raise CallError(errno.EPERM)
    if not target.has_mm:
        raise CallError(errno.EINVAL)
    if nodes is None:
        return _stat(caller, pages, status, nr_pages)
    if not nr_pages:
        return Moves((), (), 0)
    if pages is None or not isinstance(nodes, Sequence):
        raise CallError(errno.EFAULT)
    return _move(caller, target, pages, nodes, status, bool(flags & MPOL_MF_MOVE_ALL))


def _stat(caller: Caller, pages: Sequence[PageState] | None, status: Pointer, nr_pages: int) -> Moves:
    if not nr_pages:
        return Moves((), (), 0)
    if pages is None or status is not Pointer.GOOD:
        raise CallError(errno.EFAULT)
    return Moves((), tuple(_whereabouts(caller, page) for page in pages), 0)


def _whereabouts(caller: Caller, page: PageState) -> int:
    """The node of a page, or a negative errno (do_pages_stat_array)."""
    if not page.mapped:
        return -errno.EFAULT
    if page.nid == NUMA_NO_NODE:
        return -caller.profile.move_pages_absent if page.anon else -errno.ENOENT
    return -errno.EFAULT if page.zero else page.nid


def _move(
    caller: Caller,
    target: Target,
    pages: Sequence[PageState],
    nodes: Sequence[int],
    status: Pointer,
    shared: bool,
) -> Moves:
    """do_pages_move: pages for one node are gathered, and moved when the next one is for another."""
    moves, told = list[tuple[int, int]](), list[int]()
    failed = 0
    for at, (page, nid) in enumerate(zip(pages, nodes, strict=True)):
        if not 0 <= nid < MAX_NUMNODES or not caller.nodes.memory >> nid & 1:
            failed = errno.ENODEV
        elif not target.mems_allowed >> nid & 1:
            failed = errno.EACCES
        if failed:
            break
        there = _whereabouts(caller, page)
        if there >= 0 and there != nid:
            if page.mapcount > 1 and not shared:
                there = -errno.EACCES
            else:
                moves.append((at, nid))
                there = nid
        told.append(there)
    if status is not Pointer.GOOD and told:
        # pages are moved before their status is written: those gathered until then have moved
        first = nodes[0]
        run = next((at for at, nid in enumerate(nodes[: len(told)]) if nid != first), len(told))
        stop = next((at for at in range(run) if at not in dict(moves)), run)
        return Moves(tuple(move for move in moves if move[0] < stop), (), errno.EFAULT)
    return Moves(tuple(moves), tuple(told), failed)
