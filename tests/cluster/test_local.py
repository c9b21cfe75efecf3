"""The local Ray: on the loopback interface only, one for each state directory, ended to the last process."""

from __future__ import annotations

import ipaddress
import os
import stat
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import ray
from processes import members, until

from numa_service.cluster import local
from numa_service.cluster.connect import attach, detach
from numa_service.cluster.errors import ClusterError


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_starts_once_on_the_loopback_interface_and_ends_whole(empty_state: Path) -> None:
    assert local.find() is None
    ray = local.start()
    try:
        assert local.start() == ray
        assert local.find() == ray
        assert mode(empty_state / "token") == 0o600
        assert mode(empty_state / "ray.json") == 0o600
        assert mode(empty_state) == 0o700
        processes = ray.processes()
        assert {p.pid for p in processes} == set(members(ray.pid))
        # another process that got its pid, and the session of that one, are not taken for it
        other = replace(ray, start_ticks=ray.start_ticks - 1)
        assert (ray.alive, other.alive, other.processes()) == (True, False, [])
        listening = {
            connection.laddr.ip
            for process in processes
            for connection in process.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        }
        assert listening
        for ip in listening:
            address = ipaddress.ip_address(ip)
            assert (getattr(address, "ipv4_mapped", None) or address).is_loopback, listening
    finally:
        assert local.stop()
    assert local.find() is None
    assert members(ray.pid) == []
    assert not Path(ray.temp_dir).exists()
    assert not local.stop()


def test_a_ray_that_died_is_cleaned_up_and_started_again(empty_state: Path) -> None:
    first = local.start()
    head = psutil.Process(first.pid)
    head.kill()
    head.wait()
    second = local.start()
    try:
        assert second.pid != first.pid
        assert members(first.pid) == []
    finally:
        local.stop()
    assert members(second.pid) == []


def test_a_long_state_directory_still_leaves_room_for_sockets(
    empty_state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = empty_state / ("d" * 80)
    monkeypatch.setenv("NUMA_SERVICE_STATE_DIR", str(deep))
    ray = local.start()
    try:
        assert len(ray.temp_dir) <= local.MAX_TEMP_DIR
        # nobody else gets to what is in it, whatever modes Ray gives it
        private = Path(ray.temp_dir).parent
        assert (private.parent, mode(private)) == (Path("/tmp"), 0o700)
    finally:
        local.stop()
    assert not private.exists()
    assert [path.name for path in deep.iterdir()] == ["lock"]


def test_a_state_directory_that_is_not_private_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def named(path: Path) -> Path:
        monkeypatch.setenv("NUMA_SERVICE_STATE_DIR", str(path))
        return path

    empty = named(tmp_path / "empty")
    empty.mkdir(mode=0o755)
    assert local.state_dir() == empty
    assert mode(empty) == 0o700
    shared = named(tmp_path / "shared")
    shared.mkdir()
    (shared / "of somebody").touch()
    for bits in (0o750, 0o777, 0o701):
        shared.chmod(bits)
        with pytest.raises(
            ClusterError, match=f"is open to other users .mode 0{bits:o}.: chmod 700 {shared}"
        ):
            local.find()
        assert mode(shared) == bits
    shared.chmod(0o700)
    assert local.find() is None
    (tmp_path / "file").touch()
    named(tmp_path / "file")
    with pytest.raises(ClusterError, match="File exists"):
        local.find()
    theirs = Path("/")
    if os.geteuid() == 0:
        theirs = tmp_path / "theirs"
        theirs.mkdir(mode=0o700)
        os.chown(theirs, 12345, -1)
    named(theirs)
    with pytest.raises(ClusterError, match=r"belongs to user \d+: name one of your own"):
        local.find()


def test_no_link_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "target"
    target.write_text("kept")
    target.chmod(0o644)
    (tmp_path / "token").symlink_to(target)
    with local.open_private(tmp_path / "token") as token:
        token.write("secret")
    assert (target.read_text(), (tmp_path / "token").read_text()) == ("kept", "secret")
    assert mode(tmp_path / "token") == 0o600
    monkeypatch.setenv("NUMA_SERVICE_STATE_DIR", str(tmp_path))
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ClusterError, match="symbolic links"):
        local.stop()
    assert not (tmp_path / "elsewhere").exists()


@ray.remote(num_cpus=0)
def write_on_stderr(lines: int) -> None:
    for _ in range(lines):
        print("x" * 99, file=sys.stderr)


def test_a_log_does_not_grow_without_end(empty_state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "LOG_BYTES", 100_000)
    attach(local.start().address)
    try:
        ray.get(write_on_stderr.remote(10_000))
        logs = empty_state / "ray" / "session_latest" / "logs"

        def written() -> dict[str, int]:
            found = {path.name: path.stat().st_size for path in logs.glob("worker-*.err*")}
            return {name.partition(".")[2]: size for name, size in found.items() if size}

        # the rest goes through a pipe
        until(lambda: sorted(written()) == ["err", "err.1", "err.2"])
        assert max(written().values()) <= 100_000
    finally:
        detach()
        local.stop()


def test_a_damaged_state_file_is_not_overwritten(empty_state: Path) -> None:
    (empty_state / "ray.json").write_text('{"pid": 1}')
    with pytest.raises(ClusterError, match=r"ray\.json is damaged"):
        local.start()
    (empty_state / "ray.json").unlink()
