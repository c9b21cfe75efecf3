"""vmalloc and vmap for sessions of any node (``mm/vmalloc.c``).

One node keeps the kernel's addresses for all: areas are its state, and it is asked for them. Pages come from
the nodes of the requester's zonelist, as for any request, and are the session's at its home; HighMem pages
where a machine has them. A session's areas are freed when it ends.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field

import numpy as np

from numa_service.mm.gfp import GFP_KERNEL, Gfp
from numa_service.mm.vmalloc.pages import NUMA_NO_NODE
from numa_service.mm.vmalloc.rules import PAGE_SHIFT, PAGE_SIZE
from numa_service.mm.vmalloc.vm_struct import VM_ALLOC, VM_ALLOW_HUGE_VMAP, VM_MAP
from numa_service.node import ops
from numa_service.node.ask import Steps, on
from numa_service.node.cost import Cost
from numa_service.node.errors import (
    InvalidRequest,
    KernelBug,
    NodeError,
    NotFound,
    PeerUnavailable,
    Precondition,
)
from numa_service.node.mempolicy import Policy, PolicyMode
from numa_service.node.node import Node
from numa_service.node.ops.alloc import MAX_COUNT
from numa_service.node.ops.vmalloc import check_caller
from numa_service.node.owners import Owner
from numa_service.node.page_alloc import alloc_for_owner, spend
from numa_service.node.pfns import pack_pfns, unpack_pfns
from numa_service.node.prepare import check_cpu
from numa_service.node.unserved import VmallocFailed, unserved


@dataclass(slots=True)
class Vmalloced:
    """An area that was made."""

    addr: int = 0
    #: nid → pages of the area and of its page pointers.
    pages: dict[int, int] = field(default_factory=dict)
    cost: Cost = field(default_factory=Cost)


@dataclass(frozen=True, slots=True)
class _Request:
    session: int
    #: The owner of what is vmalloc'ed for the session.
    owner: Owner
    caller: str
    cpu: int
    #: The node that the pages should be of; NUMA_NO_NODE: that of the CPU.
    nid: int
    #: VM_* flags of the area.
    flags: int


def vmalloc(
    node: Node,
    session: int,
    size: int,
    caller: str,
    cpu: int,
    nid: int = NUMA_NO_NODE,
    *,
    huge: bool = False,
) -> Steps[Vmalloced]:
    """Map `size` bytes of new pages one behind the other, or with `huge` try huge pages (vmalloc_huge).

    InvalidRequest, NotFound. VmallocFailed with what the kernel prints if there are not so many addresses or
    pages; NodesAway if nodes that may have them do not answer, PeerUnavailable if the one that keeps the
    addresses does not. Nothing is left of a request that fails but addresses that wait for a purge.
    """
    addresses = node.machine.vmalloc
    node.session(session)
    check_cpu(node.pgdat, cpu)
    check_caller(caller)
    if size <= 0:
        raise InvalidRequest("size", f"vmalloc of {size} bytes")
    if nid != NUMA_NO_NODE and nid not in node.machine.zonelists:
        raise InvalidRequest("node", f"there is no node {nid}")
    if size >> PAGE_SHIFT > addresses.totalram_pages:
        report = addresses.rules.too_large.format(size=size)
        raise VmallocFailed(report, 0, size >> PAGE_SHIFT, 0)
    if size > MAX_COUNT * PAGE_SIZE:
        raise InvalidRequest("size", f"{size} bytes: at most {MAX_COUNT * PAGE_SIZE}")
    made = Vmalloced()
    flags = VM_ALLOC | (VM_ALLOW_HUGE_VMAP if huge else 0)
    request = _Request(session, _take_owner(node, session), caller, cpu, nid, flags)
    order = addresses.huge_order(size, nid) if huge else 0
    try:
        if order:
            # small pages if there are no huge ones
            with contextlib.suppress(VmallocFailed):
                made.addr = yield from _vmalloc(node, request, -(-size >> PAGE_SHIFT + order), order, made)
        if not made.addr:
            made.addr = yield from _vmalloc(node, request, -(-size >> PAGE_SHIFT), 0, made)
    finally:
        if session in node.sessions:
            spend(node, cpu, made.cost)
    return made


def _take_owner(node: Node, session: int) -> Owner:
    """The owner of what is vmalloc'ed for a session."""
    return node.owner(node.session(session).vmalloc_id or node.apply(ops.TakeVmallocOwner(session)))


def _keeper(node: Node, cost: Cost) -> int:
    """The node that keeps the kernel's addresses; a question to it costs a lookup."""
    keeper = node.machine.vmalloc_nid
    if keeper != node.nid:
        cost.add_lookup(node.machine.spec.latency)
    return keeper


def _vmalloc(node: Node, request: _Request, blocks: int, order: int, made: Vmalloced) -> Steps[int]:
    """Make an area of `blocks` pages of an order, with the area of its page pointers if they need one.

    Returns the address of the area (__vmalloc_area_node).
    """
    addresses, owner, cpu = node.machine.vmalloc, request.owner, request.cpu
    size = blocks << order + PAGE_SHIFT
    get = ops.GetVmArea(owner, size, request.flags, PAGE_SIZE << order, request.caller, cpu)
    addr, report = yield from on(node, _keeper(node, made.cost), get)
    if not addr:
        report = f"{report}\n{addresses.rules.no_area.format(size=size)}"
        raise VmallocFailed(report, order, blocks, 0)
    array = 0
    pages: list[tuple[int, bytes]] = []
    try:
        array_size = addresses.array_size(blocks << order)
        if array_size:
            array = yield from _vmalloc(node, request, -(-array_size >> PAGE_SHIFT), 0, made)
        got = yield from alloc_for_owner(
            node,
            owner,
            request.session,
            GFP_KERNEL | Gfp.HIGHMEM,
            order,
            blocks,
            cpu,
            Policy() if request.nid == NUMA_NO_NODE else Policy(PolicyMode.PREFERRED, (request.nid,)),
            cost=made.cost,
        )
        pages = got.pages
        if got.got < blocks:
            if got.unasked:
                raise unserved(order, blocks, got.got, (), got.unasked)
            report = addresses.no_pages(size + PAGE_SIZE, order, got.got << order)
            raise VmallocFailed(report, order, blocks, got.got)
        pfns = b"".join(part for _, part in pages)
        mapped = ops.MapVmArea(owner, addr, order, pfns, array)
        yield from on(node, _keeper(node, made.cost), mapped)
    except NodeError:
        if request.session in node.sessions:  # its end has freed all that it had
            if array:
                yield from vfree(node, request.session, array, cpu)
            yield from _end_area(node, owner, addr, unmaps=False)
            yield from _free_pages(node, owner, cpu, order, pages)
        raise
    for nid, part in pages:
        made.pages[nid] = made.pages.get(nid, 0) + (len(part) // 8 << order)
    return addr


def vfree(node: Node, session: int, addr: int, cpu: int, cost: Cost | None = None) -> Steps[int]:
    """Free the session's area that has this address, and its pages; return how many pages those were.

    0 is nothing to free. What it costs is spent, and added to `cost`. KernelBug with the kernel's report for
    an address that no area has, Precondition for an area of somebody else; NotFound for the session, and for
    an area that was lost in a restart.
    """
    owner = node.owner(node.session(session).vmalloc_id)
    check_cpu(node.pgdat, cpu)
    found = yield from _find(node, session, owner, addr, unmaps=False)
    if not found.addr:
        return 0
    yield from _end_area(node, owner, found.addr, unmaps=False)
    by_nid: dict[int, list[int]] = {}
    source = node.machine.vmalloc.source
    for pfn in unpack_pfns(found.pfns).tolist():
        by_nid.setdefault(source.page_to_nid(pfn), []).append(pfn)
    pages = [(nid, pack_pfns(np.array(pfns, np.uint64))) for nid, pfns in sorted(by_nid.items())]
    freed = yield from _free_pages(node, owner, cpu, found.order, pages)
    if found.pfns:
        took = Cost.of_free(node.machine.spec.latency, len(found.pfns) // 8)
        spend(node, cpu, took)
        if cost is not None:
            cost.add(took)
    if found.array:
        freed += yield from vfree(node, session, found.array, cpu, cost)
    return freed


def _find(node: Node, session: int, owner: Owner, addr: int, *, unmaps: bool) -> Steps[ops.VmAreaPages]:
    """Find an area to be ended. Nothing has changed if the keeper of the addresses does not answer."""
    keeper = node.machine.vmalloc_nid
    try:
        return (yield from on(node, keeper, ops.FindVmArea(owner, addr, unmaps)))
    except KernelBug:
        if session in node.sessions and keeper in node.sessions[session].lost:
            reason = f"lost in the restart of node {keeper}, or not this session's"
            raise NotFound("area", f"{addr:#x}", reason) from None
        raise


def _end_area(node: Node, owner: Owner, addr: int, *, unmaps: bool) -> Steps[None]:
    """End an area: at once, or when the keeper of the addresses answers again (outbox.py)."""
    with contextlib.suppress(PeerUnavailable):
        yield from on(node, node.machine.vmalloc_nid, ops.FreeVmArea(owner, addr, unmaps))


def _free_pages(node: Node, owner: Owner, cpu: int, order: int, pages: list[tuple[int, bytes]]) -> Steps[int]:
    """Free blocks of an order, by node; return how many pages those were."""
    freed = 0
    for nid, pfns in pages:
        # a node that does not answer is asked again later (outbox.py); one that has rebooted has lost them
        with contextlib.suppress(PeerUnavailable, NotFound, Precondition):
            freed += yield from on(node, nid, ops.Free(owner, cpu, order, pfns, undoes=True))
    return freed


def vmap(node: Node, session: int, count: int, caller: str, cpu: int) -> Steps[int]:
    """Take addresses for `count` pages that the session has already; return the first.

    InvalidRequest, NotFound; VmallocFailed if there are none, of which the kernel says why, or nothing for
    more pages than the machine has; PeerUnavailable.
    """
    node.session(session)
    check_cpu(node.pgdat, cpu)
    check_caller(caller)
    if not 1 <= count <= MAX_COUNT:
        raise InvalidRequest("count", f"{count} is not in 1…{MAX_COUNT}")
    if count > node.machine.vmalloc.totalram_pages:
        raise VmallocFailed(f"vmap of {count} pages exceeds total pages", 0, count, 0)
    op = ops.GetVmArea(_take_owner(node, session), count << PAGE_SHIFT, VM_MAP, PAGE_SIZE, caller, cpu)
    addr, report = yield from on(node, node.machine.vmalloc_nid, op)
    if not addr:
        raise VmallocFailed(report, 0, count, 0)
    return addr


def vunmap(node: Node, session: int, addr: int) -> Steps[None]:
    """End a mapping by :func:`vmap`; errors as of :func:`vfree`. Pages stay allocated, whose they are."""
    owner = node.owner(node.session(session).vmalloc_id)
    found = yield from _find(node, session, owner, addr, unmaps=True)
    if found.addr:
        yield from _end_area(node, owner, found.addr, unmaps=True)
