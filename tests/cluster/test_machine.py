"""A machine on Ray, and what is left of it when its processes are killed under load."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
import ray
from numa_client import DeadlineExceeded, Machine, NotFound, Policy, Session, Unavailable
from numa_client._gen.numa.v1 import (
    memory_service_pb2,
    memory_service_pb2_grpc,
    node_service_pb2,
    node_service_pb2_grpc,
)
from processes import ray_session, until
from ray.exceptions import RayError

from numa_service.cluster import lifecycle
from numa_service.cluster.errors import ClusterError
from numa_service.cluster.running import RunningMachine
from numa_service.machine.presets import load_preset

MIB = 256


def pid_of(actor: str) -> int | None:
    """The pid of an actor's process; None while it restarts."""
    with suppress(RayError):
        return int(ray.get(ray.get_actor(actor).pid.remote(), timeout=10))
    return None


def kill(actor: str) -> None:
    """End the process of an actor as a crash would, and wait for the next one."""
    before = until(lambda: pid_of(actor))
    os.kill(before, signal.SIGKILL)
    assert until(lambda: (pid := pid_of(actor)) and pid != before and pid)


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return bytes(answer.read())


def held(machine: Machine) -> dict[int, int]:
    return {node.node: machine.node(node.node).held_pages for node in machine.info.nodes}


def test_every_node_serves_pages_and_metrics(running: RunningMachine, machine: Machine) -> None:
    assert machine.info.name == "one"
    assert [node.cpus for node in machine.info.nodes] == [(0, 1), (2, 3), ()]
    assert [node.lineage for node in machine.info.nodes] == [1, 1, 1]
    assert machine.info.node(0).fallback_order == (0, 2, 1)
    groups: list[dict[str, Any]] = json.loads(get(running.targets_url))
    assert [group["labels"].get("node", "machine") for group in groups] == ["0", "1", "2", "machine"]
    for group in groups:
        url = f"http://{group['targets'][0]}{group['labels']['__metrics_path__']}"
        assert (b"numa_zone_pages" if "node" in group["labels"] else b"numa_machine_node_up") in get(url)


def test_what_ray_writes_is_private(state: Path, machine: Machine) -> None:
    """Ray gives its directories mode 0777; the directory above them keeps other users out."""
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    logs = state / "ray" / "session_latest" / "logs"
    assert list(logs.iterdir())
    if os.geteuid() == 0:
        nobody = subprocess.run(["ls", logs], user=65534, group=65534, capture_output=True, text=True)
        assert "Permission denied" in nobody.stderr


def test_actors_log_json_lines(state: Path, machine: Machine) -> None:
    files = [path for path in (state / "ray").rglob("worker-*.err") if not path.parent.is_symlink()]
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines() if line[:1] == "{"]
    serving = [line for line in lines if " serves: lineage 1 " in line["event"]]
    assert {(line["machine"], line["node"]) for line in serving} == {("one", 0), ("one", 1), ("one", 2)}
    assert {line["level"] for line in serving} == {"info"}
    followed = [line for line in lines if line["logger"] == "numa_service.cluster.supervisor"]
    assert any("node 2 is up" in line["event"] for line in followed)


def test_every_actor_is_a_process_of_its_own_in_the_session_that_down_ends(
    state: Path, machine: Machine
) -> None:
    actors = [f"one/{name}-{nid}" for name in ("node", "kswapd") for nid in range(3)]
    pids = [until(lambda actor=actor: pid_of(actor)) for actor in (*actors, "one/machine")]
    assert len(set(pids)) == 7
    assert {os.getsid(pid) for pid in pids} == {ray_session(state)}


def test_a_full_node_spills_and_gets_everything_back(machine: Machine) -> None:
    before = machine.node(0).free_pages
    with machine.session(cpu=0) as session:
        got = session.alloc(count=65536)
        assert got.count == 65536
        assert list(got.pages_by_node) == [0, 2]
        assert got.cost.access_ns > 65536 * 90
        assert machine.node(0).numa_stat.numa_foreign == got.pages_by_node[2]
        assert machine.node(2).numa_stat.numa_miss == got.pages_by_node[2]
        assert session.free(got).freed_pages == 65536
    state = machine.node(0)
    assert state.free_pages + sum(zone.pageset_pages for zone in state.zones) == before
    assert held(machine) == {0: 0, 1: 0, 2: 0}


def test_kswapd_is_restarted_and_finds_that_it_is_wanted(machine: Machine) -> None:
    with machine.session(cpu=0) as session:
        # more than node 0 has: it swaps
        region = session.map_region("anon", 240 * MIB, Policy.bind(0))
        crashed = until(lambda: pid_of("one/kswapd-0"))
        os.kill(crashed, signal.SIGSTOP)
        for first in range(0, 240 * MIB, 4096):
            region.touch(first, 4096, write=True)
        reclaimed = machine.node(0).kswapd.reclaimed_pages
        assert machine.node(0).vm_events["pgscan_direct"] > 0, "there was no kswapd to do it"
        os.kill(crashed, signal.SIGKILL)
        # nothing wakes the next one but what the node remembers
        until(lambda: machine.node(0).kswapd.reclaimed_pages > reclaimed)
        assert pid_of("one/kswapd-0") != crashed
        assert machine.check() == {}
        region.unmap()
    assert held(machine) == {0: 0, 1: 0, 2: 0}


def test_kswapd_is_killed_while_it_works_and_nobody_notices(machine: Machine) -> None:
    with machine.session(cpu=0) as session:
        region = session.map_region("anon", 240 * MIB, Policy.bind(0))
        before = machine.node(0).kswapd.reclaimed_pages
        first = 0
        while machine.node(0).kswapd.reclaimed_pages == before:
            region.touch(first := (first + 1024) % (240 * MIB), 1024, write=True)
        victim = until(lambda: pid_of("one/kswapd-0"))
        os.kill(victim, signal.SIGKILL)
        while pid_of("one/kswapd-0") in (None, victim):
            touched = region.touch(first := (first + 1024) % (240 * MIB), 1024, write=True)
            assert touched.placement == {0: 1024}
        assert machine.check() == {}
        before = machine.node(0).kswapd.reclaimed_pages
        while machine.node(0).kswapd.reclaimed_pages == before:
            region.touch(first := (first + 1024) % (240 * MIB), 1024, write=True)
        until(lambda: all(z.free_pages >= z.high_pages for z in machine.node(0).zones if z.managed_pages))
    assert held(machine) == {0: 0, 1: 0, 2: 0}


CLIENT = """
import sys
from numa_client import Machine
with Machine.connect(sys.argv[1]) as machine, machine.session(cpu=0, lease_seconds=1) as session:
    while True:
        session.alloc(count=8192)
        print("got", flush=True)
        session.map_region("file", 1024).touch(0, 1024)
"""


def test_pages_of_a_killed_client_come_back(running: RunningMachine, machine: Machine) -> None:
    client = subprocess.Popen(
        [sys.executable, "-c", CLIENT, running.address], stdout=subprocess.PIPE, text=True
    )
    assert client.stdout
    for _ in range(8):  # 8 × 32 MiB: it holds pages on node 2 too
        assert client.stdout.readline() == "got\n"
    client.kill()
    client.communicate()
    assert machine.node(2).held_pages
    assert until(lambda: not any(held(machine).values()))
    assert machine.node(0).sessions == 0


def test_a_killed_node_comes_back_empty_and_its_owners_are_forgotten(machine: Machine) -> None:
    with machine.session(cpu=0, lease_seconds=600) as session, machine.session(cpu=2) as other:
        session.alloc(count=1000, policy=Policy.bind(2))
        session.map_region("anon", 1000, Policy.bind(2)).touch(0, 1000)
        lost = other.alloc(count=500, policy=Policy.bind(0))
        kept = other.alloc(count=500, policy=Policy.bind(2))
        assert machine.node(2).held_pages == 2500
        before = machine.info.node(0)

        kill("one/node-0")
        until(lambda: machine.refresh().node(0).lineage > before.lineage)
        after = machine.info.node(0)
        assert after.lineage == before.lineage + 1
        until(lambda: machine.node(2).held_pages == 500)

        # nobody is mistaken for a session of the earlier lineage
        with machine.session(cpu=0) as successor:
            assert successor.info.session != session.info.session
            assert successor.info.lineage == after.lineage
            with grpc.insecure_channel(after.address) as channel:
                stub = memory_service_pb2_grpc.MemoryServiceStub(channel)
                renew = memory_service_pb2.RenewSessionRequest(session=session.info.session)
                with pytest.raises(grpc.RpcError) as refused:
                    stub.RenewSession(renew, timeout=10)
                assert refused.value.code() is grpc.StatusCode.NOT_FOUND
                assert "lost in the restart of node 0" in (refused.value.details() or "")
        with pytest.raises(NotFound, match="lost in the restart of node 0"):
            other.free(lost)
        other.free(kept)
        # the other nodes have its new address
        assert other.alloc(count=10, policy=Policy.bind(0)).pages_by_node == {0: 10}
        with suppress(Unavailable, NotFound):
            session.close()


def marks(machine: Machine, nid: int) -> list[int]:
    """The watermarks, which vm.watermark_scale_factor changes."""
    return [zone.high_pages - zone.low_pages for zone in machine.node(nid).zones if zone.managed_pages]


def test_sysctls_that_were_written_outlive_their_nodes(machine: Machine) -> None:
    """Sysctls written before a node is killed and while it is away hold on it before it serves again."""
    booted, neighbour = marks(machine, 1), marks(machine, 0)
    machine.write_sysctl("vm/watermark_scale_factor", "300")
    wider = marks(machine, 1)
    assert all(now > before for now, before in zip(wider, booted, strict=True))
    kill("one/node-1")
    before = machine.info.node(1).lineage
    until(lambda: machine.refresh().node(1).lineage > before)
    assert marks(machine, 1) == wider

    until(lambda: machine.refresh().node(1).address)
    crashed = until(lambda: pid_of("one/node-1"))
    os.kill(crashed, signal.SIGKILL)
    until(lambda: not machine.refresh().node(1).address)
    machine.write_file("/proc/sys/vm/watermark_scale_factor", "10")
    assert marks(machine, 0) == neighbour
    until(lambda: machine.refresh().node(1).lineage > before + 1)
    assert marks(machine, 1) == booted
    assert machine.read_file("/proc/sys/vm/watermark_scale_factor") == "10\n"


def test_a_nodes_own_door_leads_to_its_supervisor(machine: Machine) -> None:
    """The supervisor's errors arrive; while it is away, a write waits, or is refused with a time to wait."""
    booted = marks(machine, 0)
    with grpc.insecure_channel(machine.info.node(1).address) as channel:
        stub = node_service_pb2_grpc.NodeServiceStub(channel)

        def write(value: str) -> grpc.StatusCode | None:
            request = node_service_pb2.WriteSysctlRequest(key="vm/watermark_scale_factor", value=value)
            try:
                stub.WriteSysctl(request, timeout=20)
            except grpc.RpcError as refused:
                code = refused.code()
                assert isinstance(code, grpc.StatusCode)
                return code
            return None

        assert write("1000") is None
        assert marks(machine, 0) != booted
        assert write("0") is grpc.StatusCode.INVALID_ARGUMENT
        os.kill(until(lambda: pid_of("one/machine")), signal.SIGKILL)
        refusals = set()
        while (refused := write("10")) is not None:
            refusals.add(refused)
        assert refusals <= {grpc.StatusCode.UNAVAILABLE}
    until(lambda: marks(machine, 0) == booted)


def test_a_sysctl_reaches_a_node_that_was_only_cut_off(machine: Machine) -> None:
    """The node is unreachable for a while and does not restart; its supervisor restarts meanwhile."""
    booted, before = marks(machine, 1), machine.refresh().node(1)
    machine.write_sysctl("vm.watermark_scale_factor", "200")
    wider, neighbour = marks(machine, 1), marks(machine, 0)
    assert wider != booted
    machine.write_sysctl("vm.watermark_scale_factor", "10")
    assert marks(machine, 1) == booted
    stopped = until(lambda: pid_of("one/node-1"))
    os.kill(stopped, signal.SIGSTOP)
    try:
        machine.write_sysctl("vm.watermark_scale_factor", "200")
        assert marks(machine, 0) == neighbour
        kill("one/machine")
        machine.write_sysctl("vm.swappiness", "9")
    finally:
        os.kill(stopped, signal.SIGCONT)
    until(lambda: marks(machine, 1) != booted)
    assert marks(machine, 1) == wider
    assert pid_of("one/node-1") == stopped
    assert until(lambda: machine.refresh().node(1).address) == before.address
    assert until(lambda: read(machine, "/proc/sys/vm/swappiness")) == "9\n"
    machine.write_sysctl("vm.watermark_scale_factor", "10")
    machine.write_sysctl("vm.swappiness", "60")
    assert marks(machine, 1) == booted


def test_a_node_that_restarts_hears_what_memory_has_gone(machine: Machine) -> None:
    """It learns that from the record, as the node whose memory has gone is unreachable."""

    def min_pages(nid: int) -> int:
        return sum(zone.min_pages for zone in machine.node(nid).zones)

    whole = min_pages(0)
    machine.change_memory_block(5, "offline")
    less = min_pages(0)
    assert less != whole
    stopped = until(lambda: pid_of("one/node-2"))
    before = machine.refresh().node(0).lineage
    os.kill(stopped, signal.SIGSTOP)
    try:
        kill("one/node-0")
        until(lambda: machine.refresh().node(0).lineage > before)
        assert min_pages(0) == less
    finally:
        os.kill(stopped, signal.SIGCONT)
    machine.change_memory_block(5, "online")
    # at once, by the record: node 2 may not know yet where node 0 is
    assert min_pages(0) == whole


def read(machine: Machine, path: str) -> str:
    """Read a file; empty while one of the nodes does not answer."""
    with suppress(Unavailable):
        return machine.read_file(path)
    return ""


def test_a_node_that_is_away_is_no_shortage_of_memory(running: RunningMachine, machine: Machine) -> None:
    """A request bound to a killed node is UNAVAILABLE, with a time to wait. Pages on the node are lost."""
    with Machine.connect(running.address, timeout=2) as impatient, impatient.session(cpu=2) as session:
        lost = session.alloc(count=100, policy=Policy.bind(0))
        before = machine.info.node(0)
        os.kill(until(lambda: pid_of("one/node-0")), signal.SIGKILL)
        refusals = []
        while True:
            try:
                session.alloc(count=64, policy=Policy.bind(0))
                break
            except Unavailable as away:
                refusals.append((away.reason, away.metadata.get("node"), away.retry_seconds))
        assert set(refusals) == {("NODE_UNAVAILABLE", "0", 1.0)}
        until(lambda: machine.refresh().node(0).lineage > before.lineage)
        with pytest.raises(NotFound, match=r"page 0x\w+ on node 0: lost in the restart of node 0"):
            session.free(lost)


def test_a_killed_supervisor_finds_its_nodes_again(running: RunningMachine, machine: Machine) -> None:
    before = machine.refresh()
    with machine.session(cpu=0) as session:
        got = session.alloc(count=100)
        kill("one/machine")
        until(lambda: [n.nodes_up for n in lifecycle.status("one")] == [3])
        assert lifecycle.status("one") == [running_with(running, machine)]
        assert machine.refresh() == before
        assert session.free(got).freed_pages == 100


def test_clients_wait_for_a_supervisor_that_restarts(running: RunningMachine, machine: Machine) -> None:
    before = until(lambda: pid_of("one/machine"))
    os.kill(before, signal.SIGKILL)
    with Machine.connect(running.address, timeout=60) as another:  # it is away for more than a second
        assert another.info == machine.refresh()
    assert "MemTotal" in machine.read_file("/proc/meminfo")
    assert until(lambda: pid_of("one/machine")) != before


def test_everything_of_a_session_says_that_it_was_lost_with_its_node(machine: Machine) -> None:
    def stream(session: Session) -> None:
        with session.stream() as pages:
            pages.alloc().result()

    def program(session: Session) -> None:
        for _ in session.run_program("stream"):
            pass

    before = machine.refresh().node(0).lineage
    sessions = [machine.session(cpu=0, lease_seconds=600) for _ in range(3)]
    for session in sessions:
        session.open()
    kill("one/node-0")
    for session, use in zip(sessions, (stream, program, Session.alloc), strict=True):
        # what is sent only once fails where the node was, and then goes where it is
        lost = until(lambda session=session, use=use: error_of(use, session))
        assert "the session was lost in the restart of node 0" in lost.message
        assert lost.metadata == {"node": "0", "lineage": str(before + 1)}
        assert lost.code is grpc.StatusCode.NOT_FOUND


def error_of(use: Callable[[Session], object], session: Session) -> NotFound | None:
    """The error of a call, None if the node does not answer."""
    try:
        use(session)
    except NotFound as error:
        return error
    except (Unavailable, DeadlineExceeded):
        return None
    raise AssertionError("the session lives")


def running_with(running: RunningMachine, machine: Machine) -> RunningMachine:
    """The same machine at the same addresses, with the current state of its nodes."""
    [now] = lifecycle.status("one")
    assert (now.address, now.targets_url) == (running.address, running.targets_url)
    return now


def test_two_machines_side_by_side(machine: Machine) -> None:
    with pytest.raises(ClusterError, match="machine 'one' is already up"):
        lifecycle.up(load_preset("uma"), "one")
    second = lifecycle.up(load_preset("uma"), "two")
    assert [m.info.name for m in lifecycle.status()] == ["one", "two"]
    with Machine.connect(second.address) as uma, uma.session() as session:
        session.alloc(count=100)
        assert held(uma) == {0: 100}
        assert held(machine) == {0: 0, 1: 0, 2: 0}
    assert lifecycle.down("two") == ["two"]
    assert [m.info.name for m in lifecycle.status()] == ["one"]
    with pytest.raises(ClusterError, match="no machine 'two' is up"):
        lifecycle.down("two")
    # nothing is left that a machine of the same name could stumble over
    assert [n.lineage for n in lifecycle.up(load_preset("uma"), "two").info.nodes] == [1]
    lifecycle.down("two")


def test_a_machine_that_cannot_boot_is_refused_and_gone() -> None:
    spec = load_preset("uma")
    node = spec.nodes[0]
    tiny = replace(
        spec, nodes=(replace(node, ram=((0, 16),), zones=(replace(node.zones[0], spanned=16, present=16),)),)
    )
    with pytest.raises(ClusterError, match=r"machine 'tiny': node 0 did not boot: .+"):
        lifecycle.up(tiny, "tiny")
    assert "tiny" not in [m.info.name for m in lifecycle.status()]
