"""Makes requests of arguments, and results of responses, of kernel memory: slab objects, vmalloc, kmap."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from numa_client import _types as t
from numa_client._codec import cost, number
from numa_client._errors import InvalidRequest
from numa_client._gen.numa.v1 import kmem_service_pb2, vmalloc_service_pb2


def _address(field: str, value: int) -> int:
    """Check that an unsigned 64-bit protobuf field can carry the value; the service checks its range."""
    if not 0 <= value < 1 << 64:
        raise InvalidRequest(f"{field} {value} is out of range", field=field)
    return value


def alloc_objects_request(
    session: t.SessionInfo, request_id: str, cache: str, count: int, gfp: str, cpu: int, node: int | None
) -> kmem_service_pb2.AllocObjectsRequest:
    """The AllocObjects request for `count` objects of a cache."""
    return kmem_service_pb2.AllocObjectsRequest(
        session=session.session,
        session_token=session.token,
        request_id=request_id,
        cache=cache,
        count=number("count", count),
        gfp_flags=gfp,
        cpu=number("cpu", cpu),
        node=None if node is None else number("node", node),
    )


def kmalloc_request(
    session: t.SessionInfo, request_id: str, size: int, count: int, gfp: str, cpu: int, node: int | None
) -> kmem_service_pb2.KmallocRequest:
    """The Kmalloc request for `count` times `size` bytes."""
    return kmem_service_pb2.KmallocRequest(
        session=session.session,
        session_token=session.token,
        request_id=request_id,
        size=number("size", size),
        count=number("count", count),
        gfp_flags=gfp,
        cpu=number("cpu", cpu),
        node=None if node is None else number("node", node),
    )


def free_objects_request(
    session: t.SessionInfo, request_id: str, cache: str, objects: t.Objects, cpu: int
) -> kmem_service_pb2.FreeObjectsRequest:
    """The FreeObjects request; `cache` is empty for objects of any."""
    return kmem_service_pb2.FreeObjectsRequest(
        session=session.session,
        session_token=session.token,
        request_id=request_id,
        cache=cache,
        objects=objects.astype("<u8", copy=False).tobytes(),
        cpu=number("cpu", cpu),
    )


def objects(
    response: kmem_service_pb2.AllocObjectsResponse | kmem_service_pb2.KmallocResponse,
) -> t.AllocatedObjects:
    """The addresses of a response, as a view of it."""
    addresses = np.frombuffer(response.objects, "<u8").view(t.AllocatedObjects)
    addresses.cost, addresses.report = cost(response.cost), tuple(response.report)
    return addresses


def write_object_request(
    session: t.SessionInfo, request_id: str, address: int, offset: int, data: bytes, cpu: int
) -> kmem_service_pb2.WriteObjectRequest:
    """The WriteObject request for bytes at an offset from an object."""
    return kmem_service_pb2.WriteObjectRequest(
        session=session.session,
        session_token=session.token,
        request_id=request_id,
        object=_address("object", int(address)),
        offset=offset,
        data=data,
        cpu=number("cpu", cpu),
    )


def vmalloc_request(
    session: t.SessionInfo, request_id: str, size: int, cpu: int, node: int | None, huge: bool, caller: str
) -> vmalloc_service_pb2.VmallocRequest:
    """The Vmalloc request for `size` bytes."""
    return vmalloc_service_pb2.VmallocRequest(
        session=session.session,
        session_token=session.token,
        request_id=request_id,
        size_bytes=_address("size", size),
        caller=caller,
        cpu=number("cpu", cpu),
        node=None if node is None else number("node", node),
        huge=huge,
    )


def vm_area(response: vmalloc_service_pb2.VmallocResponse) -> t.VmArea:
    """The area of a response."""
    return t.VmArea(response.address, {part.node: part.pages for part in response.pages})


def vfree_request(
    session: t.SessionInfo, request_id: str, address: int, cpu: int
) -> vmalloc_service_pb2.VfreeRequest:
    """The Vfree request for the area that has an address."""
    return vmalloc_service_pb2.VfreeRequest(
        session=session.session,
        session_token=session.token,
        request_id=request_id,
        address=_address("address", address),
        cpu=number("cpu", cpu),
    )


def vmap_request(
    session: t.SessionInfo, request_id: str, pages: int, cpu: int, caller: str
) -> vmalloc_service_pb2.VmapRequest:
    """The Vmap request for so many pages."""
    return vmalloc_service_pb2.VmapRequest(
        session=session.session,
        session_token=session.token,
        request_id=request_id,
        count_pages=number("pages", pages),
        caller=caller,
        cpu=number("cpu", cpu),
    )


def vunmap_request(
    session: t.SessionInfo, request_id: str, address: int
) -> vmalloc_service_pb2.VunmapRequest:
    """The Vunmap request for the area that has an address."""
    return vmalloc_service_pb2.VunmapRequest(
        session=session.session,
        session_token=session.token,
        request_id=request_id,
        address=_address("address", address),
    )


def kmap_request(
    session: t.SessionInfo, request_id: str, pfn: int, atomic: bool
) -> vmalloc_service_pb2.KmapRequest:
    """The Kmap request for a page."""
    return vmalloc_service_pb2.KmapRequest(
        session=session.session,
        session_token=session.token,
        request_id=request_id,
        pfn=_address("pfn", pfn),
        atomic=atomic,
    )


def kunmap_request(session: t.SessionInfo, request_id: str, pfn: int) -> vmalloc_service_pb2.KunmapRequest:
    """The Kunmap request for a page."""
    return vmalloc_service_pb2.KunmapRequest(
        session=session.session,
        session_token=session.token,
        request_id=request_id,
        pfn=_address("pfn", pfn),
    )


def kmap_atomic_request(
    session: t.SessionInfo, request_id: str, pfn: int, cpu: int
) -> vmalloc_service_pb2.KmapAtomicRequest:
    """The KmapAtomic request for a page."""
    return vmalloc_service_pb2.KmapAtomicRequest(
        session=session.session,
        session_token=session.token,
        request_id=request_id,
        pfn=_address("pfn", pfn),
        cpu=number("cpu", cpu),
    )


def kmap_slot(response: vmalloc_service_pb2.KmapAtomicResponse) -> t.KmapSlot:
    """The slot of a response."""
    return t.KmapSlot(response.slot if response.HasField("slot") else None, response.address)


def kunmap_atomic_request(
    session: t.SessionInfo, request_id: str, pfn: int, cpu: int
) -> vmalloc_service_pb2.KunmapAtomicRequest:
    """The KunmapAtomic request for a page."""
    return vmalloc_service_pb2.KunmapAtomicRequest(
        session=session.session,
        session_token=session.token,
        request_id=request_id,
        pfn=_address("pfn", pfn),
        cpu=number("cpu", cpu),
    )


def slabinfo(responses: Iterable[kmem_service_pb2.ListCachesResponse]) -> tuple[t.SlabInfo, ...]:
    """The caches of one machine; slabs and objects are those of all these nodes together."""
    return tuple(
        t.SlabInfo(
            name=caches[0].name,
            aliases=tuple(caches[0].aliases),
            object_bytes=caches[0].object_bytes,
            objects_per_slab=caches[0].objects_per_slab,
            order=caches[0].order,
            active_objects=sum(cache.active_objects for cache in caches),
            objects=sum(cache.objects for cache in caches),
            slabs=sum(cache.slabs for cache in caches),
        )
        for caches in zip(*(response.caches for response in responses), strict=True)
    )
