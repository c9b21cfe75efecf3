"""The local Ray: loopback only, one a state directory, ended to the last process."""

from __future__ import annotations

import ipaddress
import stat
from pathlib import Path

import psutil
import pytest
from processes import members

from numa_service.cluster import local
from numa_service.cluster.errors import ClusterError


def test_starts_once_on_the_loopback_interface_and_ends_whole(empty_state: Path) -> None:
    assert local.find() is None
    ray = local.start()
    try:
        assert local.start() == ray
        assert local.find() == ray
        assert stat.S_IMODE((empty_state / "token").stat().st_mode) == 0o600
        processes = ray.processes()
        assert {p.pid for p in processes} == set(members(ray.pid))
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
    finally:
        local.stop()
    assert not Path(ray.temp_dir).exists()


def test_a_damaged_state_file_is_not_overwritten(empty_state: Path) -> None:
    (empty_state / "ray.json").write_text('{"pid": 1}')
    with pytest.raises(ClusterError, match=r"ray\.json is damaged"):
        local.start()
    (empty_state / "ray.json").unlink()
