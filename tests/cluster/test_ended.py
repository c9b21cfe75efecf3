"""`status` tells of a machine that died without `down`, and of one with a node that keeps failing."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
from command_line import ok, refused, run
from numa_client import Machine
from processes import members, ray_session, until


def kill_in(state_dir: Path, program: str) -> None:
    """End a process of the local Ray as a crash would, and wait until Ray has given up."""
    session = ray_session(state_dir)
    assert session
    [victim] = [pid for pid in members(session) if Path(psutil.Process(pid).cmdline()[0]).name == program]
    os.kill(victim, signal.SIGKILL)
    until(lambda: session not in members(session))


def status() -> Any:
    """Run `status --json`, which must fail, and return what it prints."""
    result = run("status", "--json")
    assert result.returncode == 1, result.stderr
    return json.loads(result.stdout)


def test_a_machine_whose_raylet_died_says_so_until_it_is_up_again(empty_state: Path) -> None:
    before = time.time()
    ok("up", "uma", "--no-console")
    assert ok("status").startswith("uma (linux-6.1)\n")
    kill_in(empty_state, "raylet")

    result = run("status")
    assert (result.returncode, result.stderr) == (1, "")
    head, up, logs, again, forget = result.stdout.splitlines()
    assert re.fullmatch(
        r"uma \(linux-6\.1\) has ended, about .+: its Ray lost raylet \[exit code=-9 .*\]", head
    )
    assert up.endswith("nodes: 1; what they held is lost")
    assert Path(logs.removeprefix("logs     "), "raylet.out").exists()
    assert "numa-service up SOURCE --name uma" in again
    assert "numa-service down uma" in forget
    assert run("status", "uma").stdout == result.stdout

    # another one, on another Ray: the first is still known, though its files have gone
    ok("up", "uma", "--name", "two", "--no-console")
    told = status()
    assert [machine["name"] for machine in told["machines"]] == ["two"]
    [record] = told["ended"]
    assert (record["name"], record["profile"], record["logs"]) == ("uma", "linux-6.1", "")
    assert "raylet" in record["cause"]
    up_since, ended = (datetime.fromisoformat(record[key]).timestamp() for key in ("up_since", "ended"))
    assert before < up_since < ended < time.time()
    assert refused("explain", "--name", "uma").startswith("machine 'uma' has ended (its Ray lost raylet ")
    assert refused("explain", "--name", "three") == "no machine 'three' is up (up: two)"

    ok("up", "uma", "--no-console")
    machines = json.loads(ok("status", "--json"))
    assert ([machine["name"] for machine in machines["machines"]], machines["ended"]) == (["two", "uma"], [])
    assert json.loads(ok("down", "--all", "--json")) == {"down": ["two", "uma"]}
    assert [path.name for path in empty_state.iterdir()] == ["lock"]


def test_a_machine_whose_gcs_died_is_taken_down(empty_state: Path) -> None:
    ok("up", "uma", "--no-console")
    kill_in(empty_state, "gcs_server")
    [record] = status()["ended"]
    assert "gcs_server" in record["cause"]
    assert ok("down", "uma") == "down: uma\n"
    assert ok("status") == "no machine is up\n"
    assert [path.name for path in empty_state.iterdir()] == ["lock"]
    assert refused("down", "uma") == "no machine 'uma' is up (up: none)"


def test_a_machine_whose_raylet_has_ended_by_itself_says_so(empty_state: Path) -> None:
    """A raylet ends when its agent dies; Ray's leading process and the GCS are left."""
    ok("up", "uma", "--no-console")
    session = ray_session(empty_state)
    assert session
    [agent] = [pid for pid in members(session) if "DashboardAgent" in psutil.Process(pid).cmdline()[0]]
    os.kill(agent, signal.SIGKILL)
    until(lambda: not any(psutil.Process(pid).name() == "raylet" for pid in members(session)))
    [record] = status()["ended"]
    assert record["cause"] == f"the raylet of its Ray ({session}) has ended by itself"
    assert refused("explain", "--name", "uma").startswith("machine 'uma' has ended (the raylet of its Ray ")
    assert ok("down", "--all") == "down: uma\n"
    assert members(session) == []


def test_a_machine_whose_ray_was_killed_is_taken_down_with_what_is_left(empty_state: Path) -> None:
    ok("up", "uma", "--no-console")
    session = ray_session(empty_state)
    assert session
    head = psutil.Process(session)
    head.kill()
    head.wait()
    [record] = status()["ended"]
    assert re.match(rf"its Ray \({session}\) was killed", record["cause"])
    assert ok("down", "--all") == "down: uma\n"
    assert members(session) == []
    assert [path.name for path in empty_state.iterdir()] == ["lock"]


def test_a_node_that_keeps_failing(empty_state: Path) -> None:
    address = json.loads(ok("up", "uma", "--no-console", "--json"))["address"]
    session = ray_session(empty_state)
    assert session

    def process() -> int | None:
        found = [pid for pid in members(session) if "ray::NumaNode" in psutil.Process(pid).cmdline()[0]]
        return found[0] if len(found) == 1 else None

    with Machine.connect(address) as machine:
        for start in (2, 3, 4):
            if start == 4:
                assert "failing" not in ok("status")
            os.kill(until(process), signal.SIGKILL)
            until(lambda start=start: machine.refresh().node(0).lineage == start)
    result = run("status")
    assert result.returncode == 1
    assert "failing  node 0: started 4 times in the last 5 minutes" in result.stdout
    [failing] = status()["machines"]
    assert failing["failing"] == [{"nid": 0, "reason": "started 4 times in the last 5 minutes"}]
    ok("down", "uma")
