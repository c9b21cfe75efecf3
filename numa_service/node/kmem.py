"""Requests for objects of slab caches: ``kmem_cache_alloc``, ``kmalloc`` and their frees, across nodes.

A CPU's node does by one op what it can by itself. What it needs of other nodes is asked for here, one
question at a time, and entered by another op; in between other requests of the same CPU may be served, as in
the kernel, where a CPU that waits for pages may get a slab from elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from numa_service.mm.gfp import Gfp
from numa_service.mm.highmem.rules import highmem_rules
from numa_service.mm.slab.flags import SlabFlag
from numa_service.mm.slab.kmem_cache import PAGE_SIZE
from numa_service.mm.slab.pages import NUMA_NO_NODE, virt_to_pfn
from numa_service.mm.slab.reports import not_from_kmalloc
from numa_service.mm.slab.slub_place import SlabRef
from numa_service.mm.slab.slub_reports import no_slab_page
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
    SlabBug,
    UnknownObject,
)
from numa_service.node.kmem_calls import GiveBack, KmemAnswer, large_order, pack, unpack
from numa_service.node.mempolicy import Policy, PolicyMode
from numa_service.node.node import Node
from numa_service.node.ops.kmem import MAX_REQUEST_OBJECTS, MAX_WRITE_BYTES, KmemFreeResult
from numa_service.node.page_alloc import spend
from numa_service.node.prepare import check_cpu, gfp_zone_checked
from numa_service.node.trace_ring import AllocatedObjects
from numa_service.node.unserved import unserved
from numa_service.node.zonelist_alloc import AllocContext, __alloc_pages


@dataclass(slots=True)
class _Request:
    """What one request of a CPU knows."""

    session: int
    #: The cache's own name.
    cache: str
    cpu: int
    cost: Cost = field(default_factory=Cost)
    #: What the kernel prints meanwhile.
    report: list[str] = field(default_factory=list)
    #: nid → the error for which that node was not asked for pages.
    unasked: dict[int, NodeError] = field(default_factory=dict)


def kmem_cache_alloc(
    node: Node,
    session: int,
    cache: str,
    gfp: int,
    count: int,
    cpu: int,
    nid: int = NUMA_NO_NODE,
    cost: Cost | None = None,
    size: int = 0,
    report: list[str] | None = None,
) -> Steps[list[int]]:
    """Addresses of `count` objects of a cache, which the session holds; all or none.

    `size` are the bytes that kmalloc was asked for; 0: it was not. `report` gets what the kernel prints of
    free objects that were written to.

    What it costs is spent, and is in `cost`, which has to be new. InvalidRequest, NotFound, TooMany;
    NodesAway or AllocFailed if there is no memory.
    """
    begun = begin_kmem_cache_alloc(node, session, cache, gfp, count, cpu, nid, cost, size, report)
    return begun if isinstance(begun, list) else (yield from begun)


def begin_kmem_cache_alloc(
    node: Node,
    session: int,
    cache: str,
    gfp: int,
    count: int,
    cpu: int,
    nid: int = NUMA_NO_NODE,
    cost: Cost | None = None,
    size: int = 0,
    report: list[str] | None = None,
) -> list[int] | Steps[list[int]]:
    """Run :func:`kmem_cache_alloc` up to the end of its first op.

    Returns the objects if the CPU and this node had all of them, which costs nothing; else the steps that
    continue from there.
    """
    node.session(session)
    name = node.kmem.name(cache)
    check_cpu(node.pgdat, cpu)
    if not 1 <= count <= MAX_REQUEST_OBJECTS:
        raise InvalidRequest("count", f"{count} is not in 1…{MAX_REQUEST_OBJECTS}")
    if nid != NUMA_NO_NODE and nid not in node.machine.spec.nids:
        raise InvalidRequest("node", f"there is no node {nid}")
    asked = nid
    gfp_zone_checked(gfp, node.pgdat.arch)
    if gfp & Gfp.HIGHMEM:
        gfp = kmalloc_fix_flags(node, gfp)
    nid = node.kmem.wanted_node(nid)
    first = node.apply(ops.KmemAlloc(session, name, cpu, nid, count))
    if report is not None:
        report += first.report
    got = unpack(first.objects)
    what = _traced(node, name, gfp, size, asked) if node.tracepoints.tracer else None
    if first.need or first.back:
        request = _Request(session, name, cpu, cost or Cost(), [] if report is None else report)
        return _kmem_cache_alloc_rest(node, request, gfp, count, nid, first, got, what)
    if what and node.tracepoints.tracer:
        node.tracepoints.tracer.objects_allocated(node.owner(session), cpu, gfp, got, what)
    return got


def _kmem_cache_alloc_rest(
    node: Node,
    request: _Request,
    gfp: int,
    count: int,
    nid: int,
    first: ops.KmemAllocResult,
    got: list[int],
    what: AllocatedObjects | None,
) -> Steps[list[int]]:
    """Continue a request after its first op, the objects of which are in `got`."""
    session = request.session
    try:
        yield from _slab_alloc(node, request, gfp, count, nid, first, got)
    except NodeError:
        mine = node.sessions[session].objects if session in node.sessions else {}
        left = [address for address in got if address in mine]
        if left:
            yield from _free(node, request, pack(left))
        raise
    if what and node.tracepoints.tracer:
        node.tracepoints.tracer.objects_allocated(node.owner(session), request.cpu, gfp, got, what)
    if request.cost.latency_ns:
        spend(node, request.cpu, request.cost)
    return got


def kmalloc_fix_flags(node: Node, gfp: int) -> int:
    """The flags without __GFP_HIGHMEM, which has no addresses for objects (GFP_SLAB_BUG_MASK).

    KernelBug where the kernel stops instead of warning.
    """
    if gfp & Gfp.HIGHMEM and not highmem_rules(node.machine.profile).fixes_slab_gfp:
        raise KernelBug(("kernel BUG at mm/slab.h: BUG_ON(flags & GFP_SLAB_BUG_MASK)",))
    return gfp & ~Gfp.HIGHMEM


def _traced(node: Node, name: str, gfp: int, size: int, asked: int) -> AllocatedObjects:
    """What tracepoints say of objects of a cache, or of whole pages (trace_kmalloc, …)."""
    order = large_order(name)
    if order is not None:
        return AllocatedObjects(True, size, PAGE_SIZE << order, asked, bool(gfp & Gfp.ACCOUNT))
    of = node.kmem.cache(name)
    accounted = bool(gfp & Gfp.ACCOUNT or (not size and SlabFlag.ACCOUNT in of.flags))
    return AllocatedObjects(size > 0, size or of.object_size, of.size, asked, accounted)


def _slab_alloc(
    node: Node,
    request: _Request,
    gfp: int,
    count: int,
    nid: int,
    result: ops.KmemAllocResult,
    got: list[int],
) -> Steps[None]:
    """Get objects until there are `count` (___slab_alloc).

    `result` is that of the first op, and its objects are in `got`.
    """
    session, cache, cpu = request.session, request.cache, request.cpu
    while True:
        yield from _give_back(node, request, result.back)
        if not result.need:
            return
        searched = False
        if result.need == "slab":
            yield from _cache_grow(node, request, gfp, result, count - len(got), got)
        elif (slab := result.slab) is not None:
            answer = yield from _call(node, request, slab.nid, "get_freelist", slab.lineage, (slab.pfn,))
            if answer is not None and answer.objects:
                yield from _install(node, request, slab, answer.objects, (), got, result.direct)
        else:
            answer = yield from _call(node, request, result.nid, result.need, count=result.most)
            request.report += answer.report if answer else ()
            if answer is None or not answer.objects:
                searched = True
            else:
                pfn, *others = answer.pfns or (0,)
                slab = SlabRef(pfn, result.nid, answer.lineage)
                yield from _install(node, request, slab, answer.objects, tuple(others), got, result.direct)
        if len(got) >= count:
            return
        result = node.apply(ops.KmemAlloc(session, cache, cpu, nid, count - len(got), searched))
        got += unpack(result.objects)
        request.report += result.report


def _cache_grow(
    node: Node, request: _Request, gfp: int, need: ops.KmemAllocResult, left: int, got: list[int]
) -> Steps[None]:
    """Get objects of a new slab; with SLAB of any node, if the one that is asked has no memory.

    (new_slab of SLUB, cache_grow_begin and fallback_alloc of SLAB, slob_new_pages.)
    """
    kmem, cache, nid = node.kmem, request.cache, need.nid
    kmem.check_lives(cache)  # it may have gone while slabs were given back, and may go from here on
    fallback, (least, _) = kmem.fallback_requests(cache, gfp), kmem.orders(cache)
    near = kmem.first_node(request.cpu)
    prefer = near if nid == NUMA_NO_NODE else nid
    made = yield from _allocate_slab(node, request, kmem.page_requests(cache, gfp, nid), prefer, need.most)
    if made is not None:
        yield from _install(node, request, *made, (), got, need.direct)
        return
    nodes = node.machine.zonelists[node.nid].node_order
    for other in nodes if fallback else ():
        if other == prefer:
            continue
        answer = yield from _call(node, request, other, "take", count=left)
        if answer is not None and answer.objects:
            slab = SlabRef(0, other, answer.lineage)
            yield from _install(node, request, slab, answer.objects, (), got, True)
            return
    made = yield from _allocate_slab(node, request, fallback, near, left)
    if made is None:
        raise unserved(least, 1, 0, nodes, request.unasked)
    yield from _install(node, request, *made, (), got, True)


def _install(
    node: Node,
    request: _Request,
    slab: SlabRef,
    objects: bytes,
    partial: tuple[int, ...],
    got: list[int],
    direct: bool,
) -> Steps[None]:
    """The CPU gets what a node gave, and the session its last object, or all of them if `direct`."""
    op = ops.KmemInstall(request.session, request.cache, request.cpu, slab, objects, partial, direct)
    try:
        result = node.apply(op)
    except NotFound:  # the session has ended meanwhile
        slabs = slab.pfn, *partial
        back = GiveBack("put_back", request.cache, slab.nid, slab.lineage, slabs, objects)
        yield from _give_back(node, request, (back,))
        raise
    got += unpack(result.objects)
    yield from _give_back(node, request, result.back)


def _allocate_slab(
    node: Node, request: _Request, asked: list[tuple[int, int]], prefer: int, most: int
) -> Steps[tuple[SlabRef, bytes] | None]:
    """A slab of new pages and at most so many of its objects, by the first order and flags that have any.

    The walk over the zonelist is that of all requests; the node that has the pages makes the slab.
    """
    policy = Policy() if prefer == node.nid else Policy(PolicyMode.PREFERRED, (prefer,))
    for order, flags in asked:
        prepared = node.prepared(flags, policy)
        ac = AllocContext(
            node.kernel,
            flags,
            order,
            1,
            request.cpu,
            prepared.migratetype,
            prepared.walk,
            request.cost,
            slab=request.cache,
            slab_objects=most,
        )
        yield from __alloc_pages(node, ac)
        request.unasked.update(ac.unasked)
        if ac.new_slab is not None:
            (at, lineage, objects), (_, pfns) = ac.new_slab, ac.pages[0]
            if objects:
                return SlabRef(int.from_bytes(pfns, "little"), at, lineage), objects
    return None


def _call(
    node: Node,
    request: _Request,
    nid: int,
    call: str,
    lineage: int = 0,
    pfns: tuple[int, ...] = (),
    objects: bytes = b"",
    count: int = 0,
) -> Steps[KmemAnswer | None]:
    """Ask the node of a slab; None if it does not answer, or does not know what it is asked about."""
    op = ops.KmemCall(node.kernel, call, request.cache, request.cpu, lineage, pfns, objects, count)
    if nid != node.nid:
        request.cost.add_lookup(node.machine.spec.latency)
    try:
        return (yield from on(node, nid, op))
    except PeerUnavailable:
        return None  # what must not be lost is asked for again (outbox.py)
    except Precondition:
        return None  # one of the two nodes was restarted


def _give_back(node: Node, request: _Request, back: Iterable[GiveBack]) -> Steps[None]:
    """Tell other nodes what goes back to them, and go on with what follows from it."""
    waiting = list(back)
    while waiting:
        call, cache, nid, lineage, pfns, objects = waiting.pop(0)
        of = _Request(request.session, cache, request.cpu, request.cost)
        answer = yield from _call(node, of, nid, call, lineage, pfns, objects)
        if answer is not None and answer.frozen:
            slab = SlabRef(pfns[0], nid, lineage)
            more = node.apply(ops.KmemPutPartial(cache, request.cpu, slab))
            waiting += more


def kmem_cache_free(
    node: Node, session: int, cache: str, objects: list[int], cpu: int, cost: Cost | None = None
) -> Steps[None]:
    """Free objects of a cache that the session holds; all or none (kmem_cache_free_bulk).

    `cache` is "" for kfree, which takes objects of any cache. What it costs is spent, and is in `cost`, which
    has to be new. InvalidRequest, NotFound; SlabBug with the kernel's report for what is no such object.
    """
    begun = begin_kmem_cache_free(node, session, cache, objects, cpu, cost)
    if begun is not None:
        yield from begun


def begin_kmem_cache_free(
    node: Node, session: int, cache: str, objects: list[int], cpu: int, cost: Cost | None = None
) -> Steps[None] | None:
    """Run :func:`kmem_cache_free` up to the end of its first op.

    Returns None if all objects are free by that, which costs nothing; else the steps that continue from
    there.
    """
    node.session(session)
    name = node.kmem.own_name(cache) if cache else ""
    check_cpu(node.pgdat, cpu)
    if not 1 <= len(objects) <= MAX_REQUEST_OBJECTS:
        raise InvalidRequest("objects", f"{len(objects)} is not in 1…{MAX_REQUEST_OBJECTS}")
    try:
        packed = pack(objects)
    except OverflowError:
        raise InvalidRequest("objects", "an address has 64 bits") from None
    written = node.kmem.written_among(objects)
    if written and (report := node.apply(ops.KmemCheckHeld(session, pack(written)))):
        raise SlabBug(report)
    try:
        back, left = _free_some(node, session, name, cpu, packed)
    except UnknownObject:
        back, left = (), packed  # the steps below find out why
    if back or left:
        return _kmem_cache_free_rest(node, _Request(session, name, cpu, cost or Cost()), back, left)
    return None


def _kmem_cache_free_rest(
    node: Node, request: _Request, back: Iterable[GiveBack], left: bytes
) -> Steps[None]:
    """Continue a request after its first op: tell other nodes, and free what is left."""
    yield from _give_back(node, request, back)
    try:
        yield from _free(node, request, left)
    except UnknownObject as error:
        raise (yield from _wrong_free(node, request, error.address)) from None
    if request.cost.latency_ns:
        spend(node, request.cpu, request.cost)


def _free(node: Node, request: _Request, objects: bytes) -> Steps[None]:
    """Free objects that the session holds, in the order in which the kernel does."""
    while objects and request.session in node.sessions:
        back, objects = _free_some(node, request.session, request.cache, request.cpu, objects)
        yield from _give_back(node, request, back)


def _free_some(node: Node, session: int, cache: str, cpu: int, objects: bytes) -> KmemFreeResult:
    """Free objects up to the first that goes to another node. UnknownObject, SlabBug."""
    result = node.apply(ops.KmemFree(session, cache, cpu, objects))
    if node.tracepoints.tracer:
        kept = set(unpack(result.left))
        freed = [address for address in unpack(objects) if address not in kept]
        node.tracepoints.tracer.objects_freed(node.owner(session), cpu, freed, cache)
    return result


def _wrong_free(node: Node, request: _Request, address: int) -> Steps[NodeError]:
    """The error for an address where the session holds no object: the node that has the page knows why."""
    nid = _nid_of(node, address)
    report = no_slab_page().report if request.cache else not_from_kmalloc(address).report
    cache = request.cache or next(iter(node.kmem.names), "")
    if nid is None or not cache:
        return SlabBug(report)
    if nid in node.sessions[request.session].lost:
        return NotFound("object", f"{address:#x}", f"lost in the restart of node {nid}, or never allocated")
    op = ops.KmemCall(node.kernel, "wrong_free", cache, request.cpu, 0, (), pack([address]))
    answer = yield from on(node, nid, op)
    if answer.report == no_slab_page().report:
        return SlabBug(report)
    if answer.report:
        return SlabBug(answer.report)
    if free_in := node.kmem.at_hand(address):
        return SlabBug(node.kmem.already_free(free_in, address))
    return Precondition(f"object {address:#x}: not the session's")


def _nid_of(node: Node, address: int) -> int | None:
    """The node that has the page at an address."""
    pfn = virt_to_pfn(address)
    return next((n.nid for n in node.machine.spec.nodes for low, high in n.ram if low <= pfn < high), None)


def write_object(node: Node, session: int, address: int, offset: int, data: bytes, cpu: int) -> Steps[None]:
    """A task writes to where the bytes of an object are not its own, or to a free object.

    Nothing follows until a check finds it. InvalidRequest; Precondition if the object is neither the
    session's nor free.
    """
    check_cpu(node.pgdat, cpu)
    if not 1 <= len(data) <= MAX_WRITE_BYTES:
        raise InvalidRequest("data", f"{len(data)} bytes are not 1…{MAX_WRITE_BYTES}")
    if address in node.session(session).objects:
        node.apply(ops.KmemWrite(node.kernel, session, address, offset, data))
        return
    nid = _nid_of(node, address)
    if nid is None:
        raise InvalidRequest("object", f"no memory is at {address:#x}")
    yield from on(node, nid, ops.KmemWrite(node.kernel, 0, address, offset, data))


def kmalloc(
    node: Node,
    session: int,
    size: int,
    gfp: int,
    count: int,
    cpu: int,
    nid: int = NUMA_NO_NODE,
    cost: Cost | None = None,
    report: list[str] | None = None,
) -> Steps[list[int]]:
    """Addresses of `count` times `size` bytes, of the size class or of whole pages (kmalloc_node).

    InvalidRequest for no bytes at all, and for more than the largest block of pages.
    """
    begun = begin_kmalloc(node, session, size, gfp, count, cpu, nid, cost, report)
    return begun if isinstance(begun, list) else (yield from begun)


def begin_kmalloc(
    node: Node,
    session: int,
    size: int,
    gfp: int,
    count: int,
    cpu: int,
    nid: int = NUMA_NO_NODE,
    cost: Cost | None = None,
    report: list[str] | None = None,
) -> list[int] | Steps[list[int]]:
    """Run :func:`kmalloc` up to the end of its first op, as :func:`begin_kmem_cache_alloc`."""
    name = node.kmem.kmalloc_name(size, gfp)
    return begin_kmem_cache_alloc(node, session, name, gfp, count, cpu, nid, cost, size, report)


def free_objects(node: Node, session: int) -> Steps[None]:
    """Free all objects of a session that ends."""
    cpus = node.pgdat.cpus
    while session in node.sessions and node.sessions[session].objects and cpus:
        some = list(node.sessions[session].objects)[:MAX_REQUEST_OBJECTS]
        yield from _free(node, _Request(session, "", cpus[0]), pack(some))


def cache_reap(node: Node) -> Steps[None]:
    """One round of SLAB's reapers of this node's CPUs."""
    back = node.apply(ops.KmemReap(node.clock()))
    if back:
        yield from _give_back(node, _Request(0, "", next(iter(node.pgdat.cpus))), back)


def flush_all(node: Node, cache: str) -> Steps[None]:
    """Take a cache's slabs from the CPUs of this node, and give them back to the nodes they are of."""
    if cache in node.kmem.used:
        back = node.apply(ops.KmemFlush(cache))
        yield from _give_back(node, _Request(0, cache, _any_cpu(node)), back)


def kmem_cache_shrink(node: Node, cache: str) -> Steps[None]:
    """Take a cache's slabs from the CPUs of this node, and free empty slabs of its memory.

    A whole machine is shrunk node by node (kmem_cache_shrink). NotFound.
    """
    name = node.kmem.own_name(cache)
    yield from flush_all(node, name)
    node.apply(ops.KmemCall(node.kernel, "shrink", name, _any_cpu(node), node.lineage))


def _any_cpu(node: Node) -> int:
    return next(iter(node.pgdat.cpus), next(iter(node.pgdat.cpu_index)))
