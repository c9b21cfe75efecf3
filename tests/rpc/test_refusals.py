"""Wrong requests: the right status, the field named, and not one bit of state changed."""

from __future__ import annotations

import base64
import urllib.parse
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from loopback import Loopback, of, pack
from numa_client import AsyncMachine, Policy, PolicyMode, SessionInfo
from numa_client._gen.numa.v1 import (
    memory_service_pb2 as pb2,
)
from numa_client._gen.numa.v1 import (
    memory_service_pb2_grpc,
    node_service_pb2,
    node_service_pb2_grpc,
    types_pb2,
    zonelist_service_pb2,
    zonelist_service_pb2_grpc,
)

from numa_service.node.errors import (
    InvalidRequest,
    KernelBug,
    NodeError,
    NotFound,
    PeerUnavailable,
    SlabBug,
)
from numa_service.node.unserved import AllocFailed, NodesAway
from numa_service.rpc.status import to_status

INVALID = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND
PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION


@dataclass
class Scene:
    """A session on node 0 with ten pages, two of them on node 2, and a page of another session."""

    demo: Loopback
    stub: Any
    session: SessionInfo
    here: list[int]
    there: list[int]
    others: int
    numbers: int = 0

    def id(self) -> str:
        self.numbers += 1
        return f"test-{self.numbers}"

    async def alloc(self, **fields: Any) -> pb2.AllocPagesResponse:
        request = of(self.session) | {"request_id": self.id(), "count": 1} | fields
        return await self.stub.AllocPages(pb2.AllocPagesRequest(**request), timeout=10)

    async def free(self, pages: dict[int, list[int]], order: int = 0, **fields: Any) -> pb2.FreePagesResponse:
        request = of(self.session) | {"request_id": self.id(), "order": order} | fields
        packed = [types_pb2.NodePages(node=nid, pfns=pack(pfns)) for nid, pfns in pages.items()]
        return await self.stub.FreePages(pb2.FreePagesRequest(pages=packed, **request), timeout=10)

    async def refused(self, call: Any, code: grpc.StatusCode, field: str = "", text: str = "") -> None:
        """Check that a call fails with this status in one line, and changes nothing."""
        before = self.demo.digests()
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await call
        error = refusal.value
        assert error.code() is code, error.details()
        assert "\n" not in (error.details() or "\n")
        assert text in (error.details() or "")
        details = {d.TypeName(): d for d in rpc_status.from_call(error).details}
        assert "google.rpc.ErrorInfo" in details
        if field:
            bad = error_details_pb2.BadRequest()
            details["google.rpc.BadRequest"].Unpack(bad)
            assert bad.field_violations[0].field == field
        assert self.demo.digests() == before


@pytest.fixture
async def scene(demo: Loopback, client: AsyncMachine) -> AsyncIterator[Scene]:
    async with (
        grpc.aio.insecure_channel(demo.addresses[0].grpc) as channel,
        client.session(cpu=0) as mine,
        client.session(cpu=1) as other,
    ):
        here = await mine.alloc(count=8)
        there = await mine.alloc(count=2, policy=Policy(PolicyMode.BIND, (2,)))
        others = await other.alloc()
        yield Scene(
            demo,
            memory_service_pb2_grpc.MemoryServiceStub(channel),
            mine.info,
            here.pages[0].tolist(),
            there.pages[2].tolist(),
            int(others.pages[0][0]),
        )


async def test_wrong_allocs(scene: Scene) -> None:
    await scene.refused(scene.alloc(order=11), INVALID, "order", "11")
    await scene.refused(scene.alloc(count=0), INVALID, "count", "0")
    await scene.refused(scene.alloc(count=65537), INVALID, "count")
    await scene.refused(scene.alloc(count=65536, order=10), INVALID, "count")
    await scene.refused(scene.alloc(cpu=2), INVALID, "cpu", "[0, 1]")
    await scene.refused(scene.alloc(gfp_flags="GFP_WRONG"), INVALID, "gfp_flags", "GFP_WRONG")
    await scene.refused(scene.alloc(gfp_flags="__GFP_DMA|__GFP_DMA32"), INVALID, "gfp_flags")
    await scene.refused(
        scene.alloc(policy=types_pb2.Policy(mode=types_pb2.POLICY_MODE_BIND, nodes=[7])),
        INVALID,
        "policy.nodes",
    )
    await scene.refused(scene.alloc(policy=types_pb2.Policy(mode=99)), INVALID, "policy.mode")  # type: ignore[arg-type]
    await scene.refused(scene.alloc(session=999), NOT_FOUND, text="session 999")
    await scene.refused(scene.alloc(session=0), INVALID, "session")
    await scene.refused(scene.alloc(request_id=""), INVALID, "request_id")


async def test_wrong_frees(scene: Scene) -> None:
    free = await scene.alloc(count=1)
    never = int.from_bytes(free.pages[0].pfns, "little")
    await scene.free({0: [never]})
    await scene.refused(scene.free({0: [never]}), NOT_FOUND, text="is free")
    await scene.refused(scene.free({0: [1 << 40]}), NOT_FOUND)
    await scene.refused(scene.free({0: [2**64 - 1]}), NOT_FOUND)
    await scene.refused(scene.free({0: [scene.others]}), PRECONDITION, text="somebody else")
    await scene.refused(scene.free({0: scene.here}, order=1), PRECONDITION, text="order")
    await scene.refused(scene.free({0: scene.here}, order=11), INVALID, "order")
    await scene.refused(scene.free({0: [scene.here[0], scene.here[0]]}), PRECONDITION, text="twice")
    await scene.refused(scene.free({}), INVALID, "pages")
    await scene.refused(scene.free({9: scene.here}), INVALID, "pages.node")
    await scene.refused(scene.free({2: [scene.there[0] + 4000]}), NOT_FOUND, text="on node 2")
    freed = await scene.free({0: scene.here, 2: scene.there})
    assert freed.freed_pages == 10
    await scene.refused(scene.free({0: scene.here, 2: scene.there}), NOT_FOUND)


async def test_one_bad_block_and_none_is_freed(scene: Scene) -> None:
    """Whether the bad block is on the client's node or on another one."""
    await scene.refused(scene.free({0: [*scene.here, scene.others], 2: scene.there}), PRECONDITION)
    await scene.refused(scene.free({0: scene.here, 2: [*scene.there, 1]}), NOT_FOUND)
    request = pb2.FreePagesRequest(
        **of(scene.session),
        request_id=scene.id(),
        pages=[types_pb2.NodePages(node=0, pfns=pack(scene.here[:1]))] * 2,
    )
    await scene.refused(scene.stub.FreePages(request), PRECONDITION, text="twice")


async def test_wrong_regions(scene: Scene) -> None:
    def map_region(**fields: Any) -> Any:
        request = of(scene.session) | {"request_id": scene.id(), "nr_pages": 10} | fields
        return scene.stub.MapRegion(pb2.MapRegionRequest(**request))

    def touch(**fields: Any) -> Any:
        request = of(scene.session) | {"request_id": scene.id(), "count": 1} | fields
        return scene.stub.TouchRegion(pb2.TouchRegionRequest(**request))

    await scene.refused(map_region(), INVALID, "kind")
    await scene.refused(map_region(kind=pb2.REGION_KIND_ANON, nr_pages=0), INVALID, "nr_pages")
    await scene.refused(map_region(kind=pb2.REGION_KIND_ANON, nr_pages=1 << 25), INVALID, "nr_pages")
    region = (await map_region(kind=pb2.REGION_KIND_ANON)).region
    await scene.refused(touch(region=region + 1), NOT_FOUND, text="region")
    await scene.refused(touch(region=region, first_page=10), INVALID, "first_page")
    await scene.refused(touch(region=region, count=0), INVALID, "count")
    await scene.refused(touch(region=region, cpu=3), INVALID, "cpu")


async def test_sessions_need_a_cpu_a_lease_and_an_id(scene: Scene) -> None:
    def open_session(stub: Any = None, **fields: Any) -> Any:
        request = {"request_id": scene.id()} | fields
        return (stub or scene.stub).OpenSession(pb2.OpenSessionRequest(**request))

    async with grpc.aio.insecure_channel(scene.demo.addresses[2].grpc) as channel:
        cxl = memory_service_pb2_grpc.MemoryServiceStub(channel)
        await scene.refused(open_session(cxl), PRECONDITION, text="node 2 has no CPUs")
    for wrong in (0.5, 3601, -1, float("nan"), float("inf")):
        await scene.refused(open_session(lease_seconds=wrong), INVALID, "lease_seconds")
    await scene.refused(open_session(request_id=""), INVALID, "request_id")
    await scene.refused(open_session(client_name="x" * 300), INVALID, "client_name")
    assert (await open_session()).lease_seconds == 30
    await scene.refused(scene.stub.RenewSession(pb2.RenewSessionRequest(session=77)), NOT_FOUND)
    await scene.refused(
        scene.stub.CloseSession(pb2.CloseSessionRequest(session=77, request_id="c")), NOT_FOUND
    )


async def test_sysctls(scene: Scene) -> None:
    async with grpc.aio.insecure_channel(scene.demo.addresses[0].grpc) as channel:
        stub = node_service_pb2_grpc.NodeServiceStub(channel)

        def write(key: str, value: str) -> Any:
            return stub.WriteSysctl(node_service_pb2.WriteSysctlRequest(key=key, value=value))

        await scene.refused(write("vm.no_such", "1"), INVALID)
        await scene.refused(write("vm.min_free_kbytes", "much"), INVALID)
        before = (await stub.GetNode(node_service_pb2.GetNodeRequest())).zones[1]
        await write("vm.min_free_kbytes", "65536")
        after = (await stub.GetNode(node_service_pb2.GetNodeRequest())).zones[1]
        assert after.min_pages > before.min_pages
        assert after.low_pages > before.low_pages


@pytest.mark.parametrize("name", ["x" * 100_000, "\u00e9" * 100_000, "\U0001f600" * 50_000, "a\nb"])
async def test_errors_quote_no_more_than_a_status_can_carry(scene: Scene, name: str) -> None:
    """A longer one reaches a client as RESOURCE_EXHAUSTED, as if the machine were out of memory."""
    async with grpc.aio.insecure_channel(scene.demo.addresses[0].grpc) as channel:
        node = node_service_pb2_grpc.NodeServiceStub(channel)
        await scene.refused(node.Inspect(node_service_pb2.InspectRequest(zone=name)), NOT_FOUND)
        await scene.refused(
            node.WriteSysctl(node_service_pb2.WriteSysctlRequest(key=name, value=name)), INVALID
        )
    await scene.refused(scene.alloc(gfp_flags=name), INVALID, "gfp_flags")


@pytest.mark.parametrize(
    "error",
    [
        SlabBug(tuple(f"Object 0x{at:016x} @offset={at}" for at in range(0, 4096, 8))),
        KernelBug(("\u00e9" * 5000,)),
        NotFound("cache", "\U0001f600" * 5000),
        InvalidRequest("x" * 5000, "\u00e9" * 5000),
        AllocFailed(0, 1, 0, tuple(range(1024))),
        NodesAway(0, 1, 0, {nid: PeerUnavailable(nid, "it restarts") for nid in range(1023)}),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_status_fits_into_headers(error: NodeError) -> None:
    status = to_status(error)
    said = urllib.parse.quote(status.message)
    assert len(said) + len(base64.b64encode(status.SerializeToString())) < 8192 - 256
    assert status.message


async def test_questions_between_nodes_are_checked_before_any_array_is(scene: Scene) -> None:
    owner = zonelist_service_pb2.Owner(node=1, lineage=1, id=1)
    async with grpc.aio.insecure_channel(scene.demo.addresses[2].peers) as channel:
        stub = zonelist_service_pb2_grpc.ZonelistServiceStub(channel)

        def lookup(**fields: Any) -> Any:
            request = {"request_id": f"1.{scene.id()}", "owner": owner, "count": 1, "zones": [1]} | fields
            return stub.Lookup(zonelist_service_pb2.LookupRequest(**request))

        await scene.refused(lookup(order=11), INVALID, "order")
        await scene.refused(lookup(count=0), INVALID, "count")
        await scene.refused(lookup(zones=[5]), INVALID, "zones")
        await scene.refused(lookup(cpu=64), INVALID, "cpu")
        await scene.refused(lookup(highest_zoneidx=5), INVALID, "highest_zoneidx")
        await scene.refused(lookup(migratetype=5), INVALID, "migratetype")
        await scene.refused(lookup(lru_kind=1), INVALID, "indexes")
        await scene.refused(lookup(owner=zonelist_service_pb2.Owner(node=9)), INVALID, "owner.node")
        for nameless in ("", "test-1", "9.1.1"):
            await scene.refused(lookup(request_id=nameless), INVALID, "request_id")
        touch = zonelist_service_pb2.TouchRequest(request_id=f"1.{scene.id()}", owner=owner, indexes=b"12345")
        await scene.refused(stub.Touch(touch), INVALID, "indexes")
        release = zonelist_service_pb2.ReleaseRequest(request_id=f"1.{scene.id()}", owner=owner, pfns=b"123")
        await scene.refused(stub.Release(release), INVALID, "pfns")
        release = zonelist_service_pb2.ReleaseRequest(
            request_id=f"1.{scene.id()}", owner=owner, pfns=pack([1, 2]), indexes=bytes(4)
        )
        await scene.refused(stub.Release(release), INVALID, "pfns")
        twice = {"lru_kind": 1, "count": 2, "indexes": bytes(8)}
        await scene.refused(lookup(**twice), INVALID, "indexes")
        await scene.refused(lookup(lru_kind=1, indexes=b"\0\0\0\1"), INVALID, "indexes")
        reclaim = zonelist_service_pb2.ReclaimRequest(request_id=f"1.{scene.id()}", priority=13)
        await scene.refused(stub.Reclaim(reclaim), INVALID, "priority")
        foreign = zonelist_service_pb2.CountForeignRequest(request_id=f"1.{scene.id()}", zone=9, count=1)
        await scene.refused(stub.CountForeign(foreign), INVALID, "zone")
