"""The servers: health, reflection, addresses, and unforeseen errors."""

from __future__ import annotations

import logging

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from loopback import Loopback
from numa_client import AsyncMachine, MachineInfo
from numa_client._gen.numa.v1 import machine_service_pb2, machine_service_pb2_grpc, zonelist_service_pb2
from numa_client._gen.numa.v1.zonelist_service_pb2_grpc import ZonelistServiceStub

from numa_service.machine.presets import load_preset
from numa_service.machine.record import MachineRecord, MemoryState
from numa_service.node.node import Node
from numa_service.rpc.machine_server import MachineServer
from numa_service.rpc.record_keeper import RecordKeeper
from numa_service.rpc.server import NODE_SERVICES, PEER_SERVICES, NodeServer


async def test_health_of_every_service(demo: Loopback) -> None:
    async with grpc.aio.insecure_channel(demo.addresses[1].grpc) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for service in ("", *NODE_SERVICES):
            reply = await stub.Check(health_pb2.HealthCheckRequest(service=service))
            assert reply.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as unknown:
            await stub.Check(health_pb2.HealthCheckRequest(service="numa.v1.MachineService"))
        assert unknown.value.code() is grpc.StatusCode.NOT_FOUND


async def test_reflection_lists_the_services(demo: Loopback) -> None:
    async with grpc.aio.insecure_channel(demo.addresses[1].grpc) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        call = stub.ServerReflectionInfo(
            iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=10
        )
        reply = await call.read()
        names = {service.name for service in reply.list_services_response.service}
    assert names >= {*NODE_SERVICES, "grpc.health.v1.Health"}


async def test_clients_and_nodes_come_in_by_doors_of_their_own(demo: Loopback) -> None:
    """ZonelistService is not served at the port for clients, nor the other services at the port for nodes."""
    addresses = demo.addresses[1]
    for address, here, elsewhere in (
        (addresses.grpc, NODE_SERVICES, PEER_SERVICES),
        (addresses.peers, PEER_SERVICES, NODE_SERVICES),
    ):
        async with grpc.aio.insecure_channel(address) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            for service in here:
                reply = await health.Check(health_pb2.HealthCheckRequest(service=service))
                assert reply.status == health_pb2.HealthCheckResponse.SERVING
            for service in elsewhere:
                with pytest.raises(grpc.aio.AioRpcError) as unknown:
                    await health.Check(health_pb2.HealthCheckRequest(service=service))
                assert unknown.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_client_cannot_ask_what_nodes_ask_each_other(demo: Loopback) -> None:
    before = demo.digests()
    async with grpc.aio.insecure_channel(demo.addresses[1].grpc) as channel:
        stub = ZonelistServiceStub(channel)
        for method in zonelist_service_pb2.DESCRIPTOR.services_by_name["ZonelistService"].methods:
            question = getattr(zonelist_service_pb2, method.input_type.name)()
            with pytest.raises(grpc.aio.AioRpcError) as closed:
                await getattr(stub, method.name)(question)
            assert closed.value.code() is grpc.StatusCode.UNIMPLEMENTED, method.name
    assert demo.digests() == before


async def test_clients_are_not_told_where_nodes_ask_each_other(demo: Loopback) -> None:
    async with grpc.aio.insecure_channel(demo.address) as channel:
        stub = machine_service_pb2_grpc.MachineServiceStub(channel)
        told = str(await stub.GetMachine(machine_service_pb2.GetMachineRequest()))
    for addresses in demo.addresses.values():
        assert addresses.grpc in told
        assert addresses.peers not in told


async def test_the_machine_tells_its_topology(demo: Loopback, client: AsyncMachine) -> None:
    info = client.info
    assert (info.name, info.profile) == ("demo", "linux-6.1")
    assert [node.cpus for node in info.nodes] == [(0, 1), (2, 3), ()]
    assert info.distances == demo.spec.distances
    assert info.node(0).fallback_order == (0, 2, 1)
    assert [node.address for node in info.nodes] == [demo.addresses[nid].grpc for nid in (0, 1, 2)]
    await demo.kill(1)
    await demo.revive(1)
    assert (await client.refresh()).node(1).address == demo.addresses[1].grpc


async def test_state_as_the_node_has_it(demo: Loopback, client: AsyncMachine) -> None:
    async with client.session(cpu=0) as session:
        await session.alloc(order=2, count=10)
        state = await client.node(0, digest=True)
        assert state.digest == demo.node(0).digest()
        assert state.log_length == demo.node(0).log_length
    assert (await client.node(0, digest=True)).digest == demo.node(0).digest() != state.digest
    assert (await client.node(0)).digest == ""
    assert await client.check() == {}


async def nobody_listens(nid: int, record: MachineRecord) -> MemoryState | None:
    raise AssertionError("no node has come up")


async def test_a_failure_nobody_foresaw_is_internal_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> MachineInfo:
        raise RuntimeError("the secret of the house")

    demo = load_preset("demo")
    server = MachineServer(broken, demo, RecordKeeper(demo, nobody_listens))
    address = await server.start()
    with caplog.at_level(logging.ERROR):
        async with grpc.aio.insecure_channel(address) as channel:
            stub = machine_service_pb2_grpc.MachineServiceStub(channel)
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await stub.GetMachine(machine_service_pb2.GetMachineRequest())
    await server.stop(0)
    assert failure.value.code() is grpc.StatusCode.INTERNAL
    details = failure.value.details() or ""
    assert "secret" not in details
    assert details.rpartition(" ")[2] in caplog.text
    assert "the secret of the house" in caplog.text


async def test_a_port_that_is_taken_is_an_error(demo: Loopback) -> None:
    taken = int(demo.addresses[0].grpc.rpartition(":")[2])
    with pytest.raises(RuntimeError, match=str(taken)):
        await NodeServer(Node.boot(load_preset("uma"), 0)).start(port=taken)
