"""A local Ray in a state directory of its own, and machines on it."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from numa_client import Machine

sys.path.insert(0, str(Path(__file__).parent))

from processes import members, ray_session, until

from numa_service.cluster import lifecycle
from numa_service.cluster.running import RunningMachine
from numa_service.machine.presets import load_preset


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.ray)


@pytest.fixture
def empty_state(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A state directory for one test; its path is short because of Ray's sockets."""
    path = Path(tempfile.mkdtemp(prefix="numa-t-", dir="/tmp"))
    monkeypatch.setenv("NUMA_SERVICE_STATE_DIR", str(path))
    yield path
    assert ray_session(path) is None
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def state() -> Iterator[Path]:
    """A state directory for all tests of a module; whatever is up at the end is taken down."""
    path = Path(tempfile.mkdtemp(prefix="numa-t-", dir="/tmp"))
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("NUMA_SERVICE_STATE_DIR", str(path))
        yield path
        session = ray_session(path)
        lifecycle.down()
        assert session is None or members(session) == []
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def running(state: Path) -> RunningMachine:
    """The preset demo: nodes 0 and 1 have CPUs, node 2 has none."""
    return lifecycle.up(load_preset("demo"), "one")


@pytest.fixture
def machine(running: RunningMachine) -> Iterator[Machine]:
    with Machine.connect(running.address) as connected:
        until(lambda: all(node.address for node in connected.refresh().nodes))
        yield connected
        assert connected.check() == {}
