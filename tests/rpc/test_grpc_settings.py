"""What gRPC and Ray are told so that a call costs less (docs/decisions/0006)."""

from __future__ import annotations

import os
import subprocess
import sys

from ray._private.async_compat import get_new_event_loop

from numa_service.rpc import SETTING

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
