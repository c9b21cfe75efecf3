"""Dashboards and rules, asked of a real Prometheus that watches a loaded machine."""

from __future__ import annotations

import json
import math
import re
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from loaded import LoadedMachine, loaded_machine
from prometheus_client.parser import text_string_to_metric_families
from real_prometheus import ask, ask_range, free_port, prometheus, requires_prometheus, settings
from skips import needs

from numa_service.machine.snapshot import assemble
from numa_service.metrics.dashboards import DASHBOARDS, Dashboard
from numa_service.metrics.dashboards.__main__ import files
from numa_service.metrics.dashboards.model import COLUMNS, Kind, Query
from numa_service.procfs import tree

ROOT = Path(__file__).resolve().parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
#: Long enough for one round of everything that the load does.
LOAD_SECONDS = 7.0
PATIENCE_SECONDS = 60.0
READ_TWICE = "count_over_time(numa_log_ops_total[1m]) > 1"

requires_promtool = needs("promtool")


def promtool(*arguments: str | Path) -> str:
    """Run promtool; returns its output. AssertionError when it finds an error."""
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# files


def test_what_is_made_from_code_is_current() -> None:
    stale = [name for name, text in files().items() if (ROOT / "deploy" / name).read_text() != text]
    assert stale == [], "make dashboards"
    kept = {path.name for path in (ROOT / "deploy" / "grafana" / "dashboards").iterdir()}
    assert kept == {dashboard.file for dashboard in DASHBOARDS}


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda dashboard: dashboard.uid)
def test_a_dashboard_is_well_formed(dashboard: Dashboard) -> None:
    written = json.loads(files()[f"grafana/dashboards/{dashboard.file}"])
    panels = written["panels"]
    assert written["schemaVersion"] == 41
    assert written["graphTooltip"] == 1
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        grid = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(grid["x"], grid["x"] + grid["w"])
            for y in range(grid["y"], grid["y"] + grid["h"])
        }
        assert not cells & taken, panel["title"]
        assert grid["x"] + grid["w"] <= COLUMNS
        taken |= cells
        if panel["type"] != "row":
            assert panel["fieldConfig"]["defaults"]["unit"]
            assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}
            assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    variables = {variable["name"] for variable in written["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z]+)", json.dumps(written))) - {"datasource"}
    assert used <= variables
    for title, query in dashboard.queries():
        rates = re.findall(r"(?:rate|increase)\([^\[]*\[(.*?)\]", query.expr)
        assert set(rates) <= {"$__rate_interval", "$__range"}, title
        assert 'machine="$machine"' in query.expr, title


def test_provisioning_finds_the_dashboards() -> None:
    grafana = ROOT / "deploy" / "grafana" / "provisioning"
    (provider,) = yaml.safe_load((grafana / "dashboards" / "numa.yaml").read_text())["providers"]
    (source,) = yaml.safe_load((grafana / "datasources" / "prometheus.yaml").read_text())["datasources"]
    compose = yaml.safe_load((ROOT / "deploy/docker/compose.yaml").read_text())["services"]
    mounts = dict(volume.split(":")[:2] for volume in compose["grafana"]["volumes"])
    assert mounts["../grafana/dashboards"] == provider["options"]["path"]
    assert (ROOT / "deploy/docker/../grafana/dashboards").is_dir()
    assert mounts["../grafana/provisioning"] == "/etc/grafana/provisioning"
    (listen,) = [word for word in compose["prometheus"]["command"] if "listen-address" in word]
    assert source["url"] == f"http://{listen.partition('=')[2]}"
    scrape = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == scrape


@requires_promtool
def test_promtool_accepts_rules_and_their_tests() -> None:
    promtool("check", "rules", *sorted((PROMETHEUS / "rules").glob("*.yml")))
    promtool("test", "rules", PROMETHEUS / "tests" / "numa.yml")


def test_every_alert_is_tested() -> None:
    groups = yaml.safe_load((PROMETHEUS / "rules" / "numa.yml").read_text())["groups"]
    alerts = {rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule}
    tests = yaml.safe_load((PROMETHEUS / "tests" / "numa.yml").read_text())["tests"]
    fired = {
        case["alertname"] for test in tests for case in test.get("alert_rule_test", ()) if case["exp_alerts"]
    }
    assert fired == alerts


# a loaded machine


@dataclass(frozen=True)
class Watched:
    """A Prometheus, and the machine that it has watched."""

    machine: LoadedMachine
    api: str
    start: float
    end: float

    def over_time(self, expr: str) -> list[dict[str, Any]]:
        """The series of a query that have a number at some time."""
        found = ask_range(self.api, expr, self.start, self.end, 1)
        return [s for s in found if any(math.isfinite(float(value)) for _, value in s["values"])]


def substituted(dashboard: Dashboard, query: Query) -> str:
    """A query with variables replaced as Grafana does: all nodes, or the first where one is to be chosen."""
    many = {variable.name: variable.many for variable in dashboard.variables}
    values = {"machine": "demo", "node": "0|1|2" if many["node"] else "0", "zone": "DMA|DMA32|Normal"}
    values |= {"__rate_interval": "4s", "__range": "30s"}
    return re.sub(r"\$(\w+)", lambda found: values[found[1]], query.expr)


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    """A Prometheus that has scraped a loaded machine, whose load is over."""
    pause = threading.Event()
    with (
        tempfile.TemporaryDirectory(prefix="numa-prometheus-") as name,
        loaded_machine() as loaded,
    ):
        config = settings(Path(name), loaded.machine.targets_url)
        with prometheus(config, Path(name) / "data") as api:
            deadline = time.monotonic() + PATIENCE_SECONDS
            # a counter's increase shows only between two scrapes
            while len(ask(api, READ_TWICE)) < 3 and time.monotonic() < deadline:
                pause.wait(0.2)
            loaded.watched()
            start = time.time()
            pause.wait(LOAD_SECONDS)
            loaded.to_rest()
            deadline = time.monotonic() + PATIENCE_SECONDS
            while _last_read(api) != _at_rest(loaded.machine) and time.monotonic() < deadline:
                pause.wait(0.2)
            pause.wait(2.5)  # for the rules to be evaluated on that
            yield Watched(loaded.machine, api, start, time.time())


def _at_rest(machine: LoadedMachine) -> dict[str, int]:
    return {str(nid): server.node.log_length for nid, server in machine.servers.items()}


def _last_read(api: str) -> dict[str, int]:
    return {s["metric"]["node"]: int(s["value"][1]) for s in ask(api, "numa_log_ops_total")}


@requires_prometheus
def test_discovery_finds_every_endpoint(watched: Watched) -> None:
    up = {s["metric"].get("node", "machine"): s["value"][1] for s in ask(watched.api, 'up{job="numa"}')}
    assert up == dict.fromkeys(("0", "1", "2", "machine"), "1")
    slowest = max(
        float(s["value"][1]) for s in ask(watched.api, "max_over_time(scrape_duration_seconds[1m])")
    )
    print(f"slowest scrape under load: {slowest * 1e3:.0f} ms")


@requires_prometheus
@requires_promtool
def test_promtool_accepts_every_endpoint(watched: Watched) -> None:
    with urllib.request.urlopen(watched.machine.targets_url, timeout=10) as reply:
        targets = json.load(reply)
    for target in targets:
        url = f"http://{target['targets'][0]}{target['labels']['__metrics_path__']}"
        with urllib.request.urlopen(url, timeout=10) as reply:
            text = reply.read().decode()
        done = subprocess.run(
            ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, timeout=60
        )
        assert (done.returncode, done.stdout + done.stderr) == (0, ""), target


@requires_prometheus
@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda dashboard: dashboard.uid)
def test_every_query_has_an_answer(watched: Watched, dashboard: Dashboard) -> None:
    silent = [
        f"{title}: {query.expr}"
        for title, query in dashboard.queries()
        if not watched.over_time(substituted(dashboard, query)) and not query.quiet
    ]
    assert silent == []


@requires_prometheus
def test_what_may_be_quiet_speaks_when_there_is_something_to_say(watched: Watched) -> None:
    """The load has failures of every kind but refused frees."""
    silent = {
        title
        for dashboard in DASHBOARDS
        for title, query in dashboard.queries()
        if query.quiet and not watched.over_time(substituted(dashboard, query))
    }
    assert silent == {"Frees refused"}


@requires_prometheus
def test_every_rule_has_an_answer(watched: Watched) -> None:
    groups = [
        group
        for path in sorted((PROMETHEUS / "rules").glob("*.yml"))
        for group in yaml.safe_load(path.read_text())["groups"]
    ]
    recorded = [rule["record"] for group in groups for rule in group["rules"] if "record" in rule]
    silent = {name for name in recorded if not watched.over_time(name)}
    zones = {extent.name.lower() for extent in watched.machine.node(0).pgdat.extents}
    # events of zones that only other machines have
    alloc = "node_vmstat_pgalloc_"
    elsewhere = {
        name for name in recorded if name.startswith(alloc) and name.removeprefix(alloc) not in zones
    }
    assert silent == elsewhere
    for group in groups:
        for rule in group["rules"]:
            if "alert" in rule:  # whether they fire is promtool's to test
                watched.over_time(rule["expr"])


@requires_prometheus
@needs("prometheus-node-exporter")
def test_the_rules_say_what_node_exporter_says(watched: Watched) -> None:
    """A node_exporter that reads the machine's own /proc and /sys has equal values of every series."""
    nodes = [server.node for server in watched.machine.servers.values()]
    snapshot = assemble(nodes[0].machine.spec, [node.machine.node_part(node.nid) for node in nodes])
    with tempfile.TemporaryDirectory(prefix="numa-exporter-") as name:
        for path, entry, text in tree.walk(snapshot):
            if not entry.target:
                (Path(name) / path).parent.mkdir(parents=True, exist_ok=True)
                (Path(name) / path).write_text(text)
        theirs = _node_exporter(Path(name))
    ours: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    for series in ask(watched.api, '{__name__=~"node_.*", job="node"}'):
        labels = {k: v for k, v in series["metric"].items() if k in ("node", "zone", "size")}
        ours[series["metric"]["__name__"], frozenset(labels.items())] = float(series["value"][1])
    both = ours.keys() & theirs.keys()
    assert {key: ours[key] for key in both} == {key: theirs[key] for key in both}
    assert {name for name, _ in ours.keys() - both} == {"node_uname_info"}
    assert len(both) > 150


def _node_exporter(tree: Path) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    address = f"127.0.0.1:{free_port()}"
    server = subprocess.Popen(
        [
            "prometheus-node-exporter",
            f"--path.procfs={tree / 'proc'}",
            f"--path.sysfs={tree / 'sys'}",
            "--collector.disable-defaults",
            *(
                f"--collector.{name}"
                for name in ("meminfo", "meminfo_numa", "buddyinfo", "zoneinfo", "vmstat")
            ),
            "--collector.vmstat.fields=.*",
            f"--web.listen-address={address}",
            "--web.disable-exporter-metrics",
            "--log.level=error",
        ],
        stderr=subprocess.DEVNULL,
    )
    try:
        pause, deadline = threading.Event(), time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as reply:
                    text = reply.read().decode()
                break
            except OSError:
                pause.wait(0.1)
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
    finally:
        server.terminate()
        server.wait(10)


def test_kinds_are_those_that_the_renderer_draws() -> None:
    assert {panel.kind for each in DASHBOARDS for row in each.rows for panel in row.panels} == set(Kind)
