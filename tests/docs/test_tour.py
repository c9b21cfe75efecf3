"""The README and its guides, played from top to bottom on one machine on Ray; a real Prometheus watches."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from doc_blocks import ROOT, Block, blocks, code, page, rows
from doc_shell import DocShell, requires_namespaces
from prometheus_client.parser import text_string_to_metric_families
from real_prometheus import ask, prometheus, requires_prometheus

pytestmark = pytest.mark.ray

PATIENCE_SECONDS = 60.0
#: Sections of docs/metrics.md with a table of families.
METRICS = (
    "## Zones",
    "## Events",
    "## kswapd",
    "## Owners",
    "## Slab caches",
    "## Load",
    "## Service",
    "## Calls and process",
)
#: Has samples only while a program runs.
FLEETING = {"numa_programs"}


def _split_readme() -> tuple[list[Block], list[Block]]:
    """What comes before the machine is taken down, and the rest."""
    found = blocks("README.md")
    if not Path("/proc/zoneinfo").exists():  # a sandbox that is no Linux: nothing to clone
        found = [block for block in found if "--parents" not in block.text]
    (end,) = [i for i, block in enumerate(found) if "numa-service down" in block.text]
    return found[:end], found[end:]


@pytest.fixture(scope="module")
def shell() -> Iterator[DocShell]:
    """A reader who has got as far in the README as a machine that runs."""
    with tempfile.TemporaryDirectory(prefix="numa-docs-") as folder:
        state = Path(folder) / "state"
        reader = DocShell(Path(folder), {"NUMA_SERVICE_STATE_DIR": str(state)})
        (trace,) = [block for block in blocks("docs/replay.md") if block.file == "kmem.trace"]
        (reader.folder / "kmem.trace.gz").write_bytes(gzip.compress(trace.text.encode()))
        try:
            reader.play(_split_readme()[0])
            yield reader
        finally:
            reader.bash(".venv/bin/numa-service down --all", "at the end")


def status(shell: DocShell) -> dict[str, Any]:
    """The machine of the README now."""
    found: list[dict[str, Any]] = json.loads(
        shell.bash(".venv/bin/numa-service status two-socket --json", "status")
    )["machines"]
    assert len(found) == 1
    return found[0]


def address(shell: DocShell, what: str) -> str:
    """Of the README's machine: what its `status` printed on that line."""
    (printed,) = [text for text in shell.printed.values() if re.search(r"^targets ", text, flags=re.M)]
    return re.findall(rf"^{what} +(\S+)$", printed, flags=re.M)[-1]


def test_readme(shell: DocShell) -> None:
    (snippet,) = [block for block in _split_readme()[0] if block.language == "python"]
    printed = re.findall(r"\{(\d): 512\} (\d+) virtual ns", shell.printed[str(snippet)])
    assert [node for node, _ in printed] == ["0", "1"]
    assert int(printed[0][1]) < int(printed[1][1])
    assert 10 <= len(snippet.text.splitlines()) <= 14  # "ten lines of Python"


def test_client_guide(shell: DocShell) -> None:
    shell.play(blocks("docs/client.md"))
    printed = "".join(shell.printed.values())
    assert "OUT_OF_MEMORY" in printed
    assert "order order" in printed
    assert {"interleave:0,1 {0: 50, 1: 50}", "preferred:1 {1: 100}"} <= set(printed.splitlines())
    nodes = status(shell)["nodes"]
    assert [node["state"]["held_pages"] for node in nodes] == [0, 0]
    assert [node["lineage"] for node in nodes] == [1, 1]


@requires_namespaces
def test_tools_guide(shell: DocShell) -> None:
    shell.play(blocks("docs/tools.md"))
    (snippet,) = [block for block in blocks("docs/tools.md") if block.language == "python"]
    online, topology, zones, refused = shell.printed[str(snippet)].splitlines()
    assert (online, zones) == ("0-1", "Normal Movable")
    assert topology.startswith("['core_cpus'")
    assert refused.endswith("EINVAL: Invalid argument: vm.swappiness: 201 is not in 0 to 200")


def test_workloads_guide(shell: DocShell) -> None:
    shell.play(blocks("docs/workloads.md"))
    result = json.loads((shell.folder / "result.json").read_text())
    assert (result["program"], result["seed"]) == ("fork-storm", 7)
    printed = "".join(shell.printed.values())
    assert re.search(r"^\{0: 150000\} \d+ virtual ns; \{1: 50000\} \d+$", printed, flags=re.M)
    assert [node["state"]["held_pages"] for node in status(shell)["nodes"]] == [0, 0]


def test_console_guide(shell: DocShell) -> None:
    shell.play(blocks("docs/console.md"))
    first = shell.printed[str(blocks("docs/console.md")[0])]
    with urllib.request.urlopen(f"{first.strip()}api/machine", timeout=10) as reply:
        assert json.load(reply)["name"] == "two-socket"


def test_every_metric_is_documented(shell: DocShell) -> None:
    documented = {
        code(row[0])[0]: (row[1], frozenset(code(row[2])))
        for heading in METRICS
        for row in rows("docs/metrics.md", heading)
    }
    live: dict[str, tuple[str, frozenset[str]]] = {}
    with urllib.request.urlopen(address(shell, "targets"), timeout=10) as reply:
        targets = json.load(reply)
    for target in targets:
        url = f"http://{target['targets'][0]}{target['labels']['__metrics_path__']}"
        with urllib.request.urlopen(url, timeout=10) as reply:
            text = reply.read().decode()
        for family in text_string_to_metric_families(text):
            name = family.name + ("_total" if family.type == "counter" else "")
            labels = {label for sample in family.samples for label in sample.labels} - {"le"}
            live[name] = (family.type, live.get(name, ("", frozenset()))[1] | labels)
    for name in FLEETING:
        assert live.pop(name)[0] == documented.pop(name)[0]
    assert documented == live


def test_metrics_guide(shell: DocShell) -> None:
    shell.play(blocks("docs/metrics.md"))
    (shown,) = [b for b in blocks("docs/metrics.md") if b.file == "deploy/prometheus/prometheus.yml"]
    assert shown.text.split("\n", 1)[1] == page("deploy/prometheus/prometheus.yml")
    written = yaml.safe_load((shell.folder / "prometheus.yml").read_text())
    (found,) = written["scrape_configs"][0]["http_sd_configs"]
    assert found["url"] == address(shell, "targets")


@requires_prometheus
def test_prometheus_finds_and_reads_the_nodes(shell: DocShell) -> None:
    config = shell.folder / "prometheus.yml"
    if not config.exists():
        shell.play(blocks("docs/metrics.md"))
    pause = threading.Event()
    with prometheus(config, shell.folder / "prometheus") as api:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(found := ask(api, "numa_node_info")) < 2 and time.monotonic() < deadline:
            pause.wait(0.2)
        assert {(s["metric"]["machine"], s["metric"]["node"]) for s in found} == {
            ("two-socket", "0"),
            ("two-socket", "1"),
        }
        free = ask(api, 'sum by (node) (numa_zone_pages{state="free"})')
        wanted = {
            str(node["nid"]): sum(zone["free_pages"] for zone in node["state"]["zones"])
            for node in status(shell)["nodes"]
        }
        assert {s["metric"]["node"]: int(s["value"][1]) for s in free} == wanted
        for _, query in rows("docs/metrics.md", "## Questions to ask"):
            ask(api, code(query)[0])


def test_the_container_script_runs_and_tidies_up(shell: DocShell) -> None:
    """What an image starts, without the image: up, prometheus.yml, then down when it is told to stop."""
    run_dir = shell.folder / "run"
    run_dir.mkdir()
    env = shell.env | {
        "PATH": f"{ROOT / '.venv/bin'}:{os.environ['PATH']}",
        "NUMA_RUN_DIR": str(run_dir),
        "NUMA_PROMETHEUS_CONFIG": str(ROOT / "deploy/prometheus/prometheus.yml"),
    }
    container = subprocess.Popen(
        [ROOT / "deploy/docker/run-machine", "uma"], env=env, stdout=subprocess.PIPE, text=True
    )
    try:
        assert container.stdout is not None
        written = run_dir / "prometheus.yml"
        deadline, pause = time.monotonic() + PATIENCE_SECONDS, threading.Event()
        while not (written.exists() and written.read_text()) and time.monotonic() < deadline:
            assert container.poll() is None
            pause.wait(0.1)
        (found,) = yaml.safe_load(written.read_text())["scrape_configs"][0]["http_sd_configs"]
        with urllib.request.urlopen(found["url"], timeout=10) as reply:
            targets = [target["labels"] for target in json.load(reply)]
        assert [(labels["machine"], labels.get("node")) for labels in targets] == [
            ("machine", "0"),
            ("machine", None),
        ]
        assert (run_dir / "rules" / "numa.yml").exists()
        container.send_signal(signal.SIGTERM)
        printed, _ = container.communicate(timeout=PATIENCE_SECONDS)
        assert container.returncode == 0
        assert printed.endswith("down: machine\n")
    finally:
        container.kill()
        container.wait()


def test_the_rest_of_the_readme(shell: DocShell) -> None:
    shell.play(_split_readme()[1])
    printed = shell.bash(".venv/bin/numa-service status", "status")
    assert printed == "no machine is up\n"
