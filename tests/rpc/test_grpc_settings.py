"""Settings of gRPC and Ray that make calls cheaper (docs/decisions/0006) and keep long ones alive."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from numa_client._channel import OPTIONS
from prometheus_client import CollectorRegistry
from ray._private.async_compat import get_new_event_loop

from numa_service.rpc import SETTING
from numa_service.rpc.grpc_server import GrpcServer
from numa_service.rpc.instruments import CallMetrics

IMPORTS = """
import os, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "grpc._cython.cygrpc":
            print("grpc read", os.environ.get("GRPC_EXPERIMENTS"))

sys.meta_path.insert(0, Finder())
import numa_service.cluster.numa_node
assert "grpc" not in sys.modules, "whoever has a handle of the actor would load it"
import numa_service.metrics.collector, numa_service.rpc.server
print("left", os.environ.get("GRPC_EXPERIMENTS"))
"""


def imported(**environment: str) -> tuple[str, str]:
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS],
        env={name: value for name, value in os.environ.items() if name != SETTING} | environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout, done.stderr


def test_a_node_reads_requests_without_the_event_engine() -> None:
    out, err = imported()
    assert out == "grpc read -event_engine_listener\nleft None\n"
    assert "Unknown experiment" not in err, "this gRPC has no such setting any more"
    assert "Unknown experiment" in imported(GRPC_EXPERIMENTS="-no_such_thing")[1], "it would have said so"


def test_what_a_user_sets_stays() -> None:
    assert imported(GRPC_EXPERIMENTS="-tcp_frame_size_tuning")[0] == (
        "grpc read -tcp_frame_size_tuning\nleft -tcp_frame_size_tuning\n"
    )


def test_ray_runs_actors_on_uvloop() -> None:
    loop = get_new_event_loop()
    loop.close()
    assert type(loop).__module__ == "uvloop"


async def test_a_client_that_asks_whether_the_server_lives_is_not_cut_off() -> None:
    server = GrpcServer((), CallMetrics(CollectorRegistry()), lambda _: None)
    address = await server.start("127.0.0.1", 0)
    impatient = [option for option in OPTIONS if option[0] != "grpc.keepalive_time_ms"]
    async with grpc.aio.insecure_channel(address, [*impatient, ("grpc.keepalive_time_ms", 1100)]) as channel:
        # a call that says something once, and then nothing for five pings
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        said = health_pb2.HealthCheckResponse
        assert (await watch.read()).status == said.SERVING
        await asyncio.sleep(6)
        stopping = asyncio.create_task(server.stop(1))
        assert (await watch.read()).status == said.NOT_SERVING
        watch.cancel()
        await stopping
