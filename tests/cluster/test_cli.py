"""up, status, down, sysctl and targets as a user types them."""

from __future__ import annotations

import json
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from command_line import COMMAND, ok, refused, run
from numa_client import Machine
from processes import members, ray_session, until

from numa_service.cluster import local


@pytest.fixture(scope="module")
def up(state: Path) -> Iterator[str]:
    """Output of `up`."""
    yield ok("up", "demo", "--json")
    session = ray_session(state)
    assert session
    assert json.loads(ok("down", "demo", "--json")) == {"down": ["demo"]}
    assert members(session) == []
    assert [path.name for path in state.iterdir()] == ["lock"]


def test_up_prints_what_clients_need(up: str) -> None:
    machine = json.loads(up)
    assert machine["name"] == "demo"
    assert [(node["nid"], node["lineage"]) for node in machine["nodes"]] == [(0, 1), (1, 1), (2, 1)]
    with Machine.connect(machine["address"]) as client:
        assert [node.address for node in client.info.nodes] == [node["address"] for node in machine["nodes"]]


def test_the_console_is_there_on_the_loopback_interface_and_read_only(up: str) -> None:
    url = json.loads(up)["console_url"]
    assert urlsplit(url).hostname == "127.0.0.1"
    with urllib.request.urlopen(f"{url}api/machine", timeout=30) as reply:
        machine = json.load(reply)
    assert (machine["name"], machine["writable"]) == ("demo", False)
    with urllib.request.urlopen(f"{url}api/boot", timeout=30) as reply:
        assert json.load(reply)[-1]["function"] == "kswapd_init"
    seen: set[str] = set()
    with urllib.request.urlopen(f"{url}api/feed", timeout=30) as feed:
        while seen != {"0", "1", "2"}:
            line = feed.readline()
            if line.startswith(b"data: "):
                seen |= {nid for nid, node in json.loads(line[6:])["n"].items() if node}
    assert f"console  {url}" in ok("status", "demo")


def test_status(up: str) -> None:
    [machine] = json.loads(ok("status", "--json"))["machines"]
    assert machine["address"] == json.loads(up)["address"]
    assert [zone["zone"] for zone in machine["nodes"][0]["state"]["zones"] if zone["present_pages"]]
    assert machine["nodes"][2]["state"]["kswapd"]["running"] is False
    table = ok("status", "demo")
    assert machine["address"] in table
    assert "DMA32" in table
    assert "sleeps" in table


def test_sysctl_reaches_every_node(up: str) -> None:
    assert ok("sysctl", "demo", "vm.min_free_kbytes=4096") == ""
    with Machine.connect(json.loads(up)["address"]) as machine:
        minimum = sum(zone.min_pages for nid in range(3) for zone in machine.node(nid).zones)
    assert minimum == pytest.approx(1024, abs=8)
    assert "vm.min_free_kbytes" in refused("sysctl", "demo", "vm.min_free_kbytes=lots")
    assert run("sysctl", "demo", "vm.min_free_kbytes").returncode == 2


def test_a_machine_that_is_up_explains_and_is_looked_at(up: str) -> None:
    answer = json.loads(ok("explain", "--name", "demo", "--cpu", "2", "--count", "64", "--json"))
    assert answer["placement"] == {"1": 64}
    assert "DMA32" in ok("explain", "--name", "demo")
    nodes = json.loads(ok("status", "--json"))["machines"][0]["nodes"]
    [zone] = [zone for zone in nodes[2]["state"]["zones"] if zone["present_pages"]]
    seen = json.loads(ok("inspect", "zone", "--name", "demo", "2", zone["zone"], "--json"))
    assert seen["present_pages"] == zone["present_pages"]
    assert seen["zone_pgdat"] == 2
    assert "zone_start_pfn" in ok("inspect", "zone", "--name", "demo", "0", "DMA32")
    page = json.loads(ok("inspect", "page", "--name", "demo", f"{seen['zone_start_pfn']:#x}", "--json"))
    assert "node=2" in page["flags"]
    assert refused("inspect", "pgdat", "--name", "demo", "9").startswith("no node 9 in machine 'demo'")
    assert refused("inspect", "page", "--name", "demo", "0xffffffffff").endswith("no node has it")


def test_files_of_a_machine_that_is_up(up: str, tmp_path: Path) -> None:
    """cat, exec and mirror of the machine as it is: tests/docs/test_tour.py, with docs/tools.md."""
    assert refused("cat", "/proc/kcore", "--name", "demo").startswith("file /proc/kcore: ENOENT")
    # a mirror that is kept fresh
    of_demo = ["--name", "demo", "--every", "0.1"]
    mirrored = [tmp_path / name / "proc/sys/vm/swappiness" for name in ("m", "n")]
    process, service = (
        subprocess.Popen([*COMMAND, "mirror", str(tmp_path / name), *of_demo], stderr=subprocess.PIPE)
        for name in ("m", "n")
    )

    def shows(text: str) -> bool:
        time.sleep(0.05)
        return all(path.exists() and path.read_text() == text for path in mirrored)

    assert until(lambda: shows("60\n"))
    with Machine.connect(json.loads(up)["address"]) as machine:
        machine.write_file("/proc/sys/vm/swappiness", "12")
    assert until(lambda: shows("12\n"))
    process.send_signal(signal.SIGINT)
    service.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 130
    # as a service manager ends it: no crash of Ray's on stderr
    assert (service.communicate(timeout=30)[1], service.returncode) == (b"", 0)


def test_a_machine_that_is_up_is_traced(up: str) -> None:
    """Until there are enough events, or until Ctrl-C."""
    first = ["trace", "--name", "demo", "--event", "mm_page_alloc", "--node", "1"]
    process = subprocess.Popen([*COMMAND, *first, "--count", "64"], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert until(lambda: process.stdout.readline().startswith("# tracer"))
    answer = json.loads(ok("explain", "--name", "demo", "--cpu", "2", "--count", "64", "--json"))
    assert answer["placement"] == {"1": 64}
    traced, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert sum(": mm_page_alloc: " in line for line in traced.splitlines()) == 64

    process = subprocess.Popen(
        [*COMMAND, *first, "--format", "chrome"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout
    begun = process.stdout.readline()
    process.send_signal(signal.SIGINT)
    rest, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert json.loads(begun + rest) == {"displayTimeUnit": "ns", "traceEvents": []}
    assert told.endswith("0 events\n")


def test_targets(up: str) -> None:
    groups = json.loads(ok("targets"))
    assert [group["labels"].get("node", "machine") for group in groups] == ["0", "1", "2", "machine"]


def test_refusals(up: str) -> None:
    assert refused("up", "demo") == "machine 'demo' is already up: numa-service down demo"
    assert refused("up", "demo", "--name", "Demo") == (
        "machine name 'Demo': 1 to 40 characters of a-z, 0-9 and - are allowed"
    )
    assert refused("down", "other") == "no machine 'other' is up (up: demo)"
    assert refused("status", "other") == "no machine 'other' is up (up: demo)"
    assert refused("status", "--address", "here") == (
        "address 'here': host:port of a Ray head, or auto, is expected"
    )
    assert refused("status", "--address", "127.0.0.1:1").startswith("no Ray cluster answers at 127.0.0.1:1: ")
    assert run("down").returncode == 2
    assert run("down", "demo", "--all").returncode == 2


def test_an_interrupted_up_leaves_nothing(empty_state: Path) -> None:
    process = subprocess.Popen([*COMMAND, "up", "demo"], stderr=subprocess.PIPE, text=True)
    assert process.stderr
    assert until(lambda: "starting 3 nodes" in process.stderr.readline())
    session = ray_session(empty_state)
    assert session
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert members(session) == []
    assert [path.name for path in empty_state.iterdir()] == ["lock"]


def test_a_cluster_that_is_named_is_joined_and_left_running(
    empty_state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = local.start()
    for key, value in cluster.env.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("NUMA_SERVICE_STATE_DIR", str(empty_state / "of-somebody-else"))
    try:
        machine = json.loads(ok("up", "uma", "--address", cluster.address, "--json"))
        assert [node["lineage"] for node in machine["nodes"]] == [1]
        assert ok("status") == "no machine is up\n"
        assert machine["address"] in ok("status", "--address", cluster.address)
        assert ok("down", "uma", "--address", cluster.address) == "down: uma\n"
        assert cluster.alive
    finally:
        monkeypatch.setenv("NUMA_SERVICE_STATE_DIR", str(empty_state))
        local.stop()
    assert members(cluster.pid) == []


def test_nothing_up_is_no_error(empty_state: Path) -> None:
    assert ok("status") == "no machine is up\n"
    assert json.loads(ok("status", "--json")) == {"machines": [], "ended": []}
    assert json.loads(ok("down", "--all", "--json")) == {"down": []}
