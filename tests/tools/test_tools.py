"""Unmodified tools × machines: each runs, says nothing on stderr, and shows the model's own numbers."""

from __future__ import annotations

import os
import re
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from emulated import HUGE_PAGES, Emulated
from skips import needs

from numa_service.cli.mirror import Mirror
from numa_service.machine.hmat import has_hmat
from numa_service.mm.snapshot import NodeSnapshot
from numa_service.procfs import SHOW

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tools.md"

#: Lines of 6.1's meminfo that numastat 2.0.16 is too old for: it says so, of each node, on any such kernel.
NEW_TO_NUMASTAT = {"SwapCached", "SecPageTables", "FileHugePages", "FilePmdMapped"}


def managed(node: NodeSnapshot) -> int:
    return sum(zone.managed for zone in node.zones)


def free(node: NodeSnapshot) -> int:
    return sum(zone.free for zone in node.zones)


def lru(node: NodeSnapshot, name: str) -> int:
    return sum(zone.vm_stat[f"nr_zone_{name}"] for zone in node.zones)


def printed(machine: Emulated, *command: str) -> str:
    """What a command prints; it exits with 0 and has nothing to complain of."""
    done = machine.run(*command)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@needs("numactl")
def test_numactl(machine: Emulated) -> None:
    text = printed(machine, "numactl", "-H")
    assert text == SHOW["numactl"](machine.snapshot)
    for node in machine.snapshot.nodes:
        assert f"node {node.nid} free: {free(node) // 256} MB\n" in text


@needs("numastat")
def test_numastat(machine: Emulated) -> None:
    header, *rows = printed(machine, "numastat").splitlines()
    assert header.split() == [f"node{node.nid}" for node in machine.snapshot.nodes]
    shown = {name: [int(value) for value in values] for name, *values in map(str.split, rows)}
    names = machine.snapshot.nodes[0].numastat
    assert shown == {name: [node.numastat[name] for node in machine.snapshot.nodes] for name in names}
    assert sum(shown["numa_hit"]) > 23_000


@needs("numastat")
def test_numastat_m(machine: Emulated) -> None:
    text = printed(machine, "numastat", "-m")
    assert set(re.findall(r"^Token (\w+) not in hash table\.$", text, re.M)) == NEW_TO_NUMASTAT
    rows = dict(re.findall(r"^([A-Z][\w()]*) +([\d. ]+)$", text, re.M))
    nodes = machine.snapshot.nodes
    wanted = {
        "MemTotal": [managed(node) for node in nodes],
        "MemFree": [free(node) for node in nodes],
        "Inactive(anon)": [lru(node, "inactive_anon") for node in nodes],
        "Active(anon)": [lru(node, "active_anon") for node in nodes],
        "FilePages": [node.node_stat["nr_file_pages"] for node in nodes],
    }
    for name, pages in wanted.items():
        shown = [float(value) for value in rows[name].split()]
        # kB in, two digits out: cut, not rounded
        assert shown[:-1] == pytest.approx([n / 256 for n in pages], abs=0.011), name
        assert shown[-1] == pytest.approx(sum(pages) / 256, abs=0.011 * len(nodes)), name
    assert sum(wanted["Inactive(anon)"]) == 20_001
    # numastat takes counts of huge pages for kB, too, and counts them as 2 MiB each
    assert rows["HugePages_Total"].split()[-1] == f"{2 * HUGE_PAGES}.00"


@needs("lstopo-no-graphics")
def test_lstopo(machine: Emulated) -> None:
    text = printed(machine, "lstopo-no-graphics", "--of", "console", "--no-io")
    sizes = {int(nid): int(mb) for nid, mb in re.findall(r"NUMANode L#\d+ \(P#(\d+) (\d+)MB\)", text)}
    kib = {node.nid: managed(node) * 4 for node in machine.snapshot.nodes}
    assert sizes == {nid: round(size / 1024) for nid, size in kib.items()}
    assert sorted(int(cpu) for cpu in re.findall(r"PU L#\d+ \(P#(\d+)\)", text)) == sorted(machine.spec.cpus)


@needs("lstopo-no-graphics")
def test_lstopo_distances(machine: Emulated) -> None:
    text = printed(machine, "lstopo-no-graphics", "--distances", "-p")
    if len(machine.spec.nodes) == 1:
        assert "NUMALatency" not in text
        return
    head, *rows = text.split("NUMALatency", 1)[1].splitlines()[1:]
    order = [int(nid) for nid in head.split()[1:]]
    for row in rows[: len(order)]:
        of, *values = map(int, row.split())
        assert values == [machine.spec.distance(of, to) for to in order]
    assert sorted(order) == [node.nid for node in machine.spec.nodes]


@needs("lstopo-no-graphics")
def test_lstopo_memattrs(machine: Emulated) -> None:
    """Latency in ns and bandwidth in MiB/s, as the description has them; nothing without an HMAT."""
    text = printed(machine, "lstopo-no-graphics", "--memattrs", "-p")
    attributes = dict(re.findall(r"name `(\w+)' flags \d+\n((?:  .*\n)+)", text))
    latency, spec = machine.spec.latency, machine.spec
    own = spec.own_cpus
    if not has_hmat(spec):
        assert attributes.keys() <= {"Capacity", "Locality"}
        return
    for name, of_pair in (
        ("ReadLatency", latency.read_latency_ns),
        ("WriteLatency", latency.write_latency_ns),
    ):
        seen = re.findall(r"NUMANode P#(\d+) = (\d+) from cpuset (0x\w+)", attributes[name])
        assert {int(nid) for nid, _, _ in seen} == {node.nid for node in spec.nodes if node.zones}
        for nid, ns, cpuset in seen:
            to = int(nid)
            near = [of for of, cpus in own.items() if set(cpus) <= cpus_in(cpuset) and cpus]
            best = min(of_pair(of, to, spec.distance(of, to)) for of, cpus in own.items() if cpus)
            assert int(ns) == best
            assert {of_pair(of, to, spec.distance(of, to)) for of in near} == {best}
    bandwidths = dict(re.findall(r"NUMANode P#(\d+) = (\d+) from", attributes["ReadBandwidth"]))
    for node in spec.nodes:
        if own[node.nid]:
            mb = latency.memory_bandwidth(node.nid)
            assert int(bandwidths[str(node.nid)]) == mb * 10**6 // 2**20


def cpus_in(cpuset: str) -> set[int]:
    bits = int(cpuset.replace(",0x", ""), 16)
    return {cpu for cpu in range(bits.bit_length()) if bits >> cpu & 1}


@needs("free")
def test_free(machine: Emulated) -> None:
    _, mem, swap = printed(machine, "free", "-k").splitlines()
    nodes = machine.snapshot.nodes
    total, _, unused, *_ = map(int, mem.split()[1:])
    assert total == 4 * sum(map(managed, nodes))
    assert unused == 4 * sum(map(free, nodes))
    used = sum(node.swap_used for node in nodes)
    assert [int(value) for value in swap.split()[1:]] == [
        4 * machine.spec.swap_pages,
        4 * used,
        4 * (machine.spec.swap_pages - used),
    ]


@needs("lscpu")
def test_lscpu(machine: Emulated) -> None:
    """Every CPU is on-line, in the package and on the node that it was described with."""
    text = printed(machine, "lscpu", "-p=CPU,SOCKET,NODE,ONLINE")
    rows = [line.split(",") for line in text.splitlines() if not line.startswith("#")]
    nodes = [(nid, own) for nid, own in machine.spec.own_cpus.items() if own]
    assert rows == [[str(cpu), str(at), str(nid), "Y"] for at, (nid, own) in enumerate(nodes) for cpu in own]


@needs("vmstat")
def test_vmstat(machine: Emulated) -> None:
    text = printed(machine, "vmstat", "-s")
    shown = {name: int(value) for value, name in re.findall(r"^ *(\d+) (.+)$", text, re.M)}
    nodes = machine.snapshot.nodes
    assert shown["K total memory"] == 4 * sum(map(managed, nodes))
    assert shown["K free memory"] == 4 * sum(map(free, nodes))
    assert shown["K inactive memory"] == 4 * sum(
        lru(node, "inactive_anon") + lru(node, "inactive_file") for node in nodes
    )
    assert shown["K total swap"] == 4 * machine.spec.swap_pages
    assert shown["K paged in"] == sum(node.vm_event.get("pgpgin", 0) for node in nodes)


def documented(tool: str, mirror: Path) -> list[str]:
    """The command of docs/tools.md, on this mirror and on a free port."""
    found = re.search(rf"^{tool} .*(?:\n    .*)*$", PAGE.read_text(), re.M)
    assert found
    words = found[0].replace("=machine/", f"={mirror}/").replace(" machine ", f" {mirror} ").split()
    return [re.sub(r"(=127\.0\.0\.1):\d+$", r"\1:0", word) for word in words]


@needs("lstopo-no-graphics")
def test_lstopo_on_a_mirror(machine: Emulated, tmp_path: Path) -> None:
    Mirror(tmp_path).write(machine.files)
    done = subprocess.run(
        documented("lstopo-no-graphics", tmp_path), capture_output=True, text=True, check=True, timeout=60
    )
    # without its plug-in for PCI it says so wherever it is given a tree
    assert set(done.stderr.splitlines()) <= {"hwloc: Cannot find discovery component `pci'"}
    assert done.stdout == printed(machine, "lstopo-no-graphics", "--distances")


@pytest.fixture
def scraped(machine: Emulated, tmp_path: Path) -> Iterator[dict[str, float]]:
    """Samples of node_exporter, reading a mirror of the machine."""
    Mirror(tmp_path).write(machine.files)
    command = documented("prometheus-node-exporter", tmp_path)
    exporter = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    errors: list[str] = []
    with listening(exporter, errors) as url:
        yield samples(url)
    assert errors == []


@contextmanager
def listening(exporter: subprocess.Popen[str], errors: list[str]) -> Iterator[str]:
    """Where a node_exporter answers; ends it, and adds to the errors that it logged."""
    with exporter:
        lines: list[str] = []
        try:
            assert exporter.stderr
            for line in exporter.stderr:
                lines.append(line)
                if found := re.search(r"address=(127\.0\.0\.1:\d+)", line):
                    break
            assert found, lines
            yield f"http://{found[1]}/metrics"
            assert exporter.poll() is None
        finally:
            exporter.terminate()
            lines += exporter.stderr.readlines() if exporter.stderr else []
            errors += [line for line in lines if "level=error" in line]


def samples(url: str) -> dict[str, float]:
    deadline = time.monotonic() + 10
    while True:
        try:
            with urllib.request.urlopen(url) as response:
                text = response.read().decode()
        except urllib.error.URLError:  # it says where it listens before it does
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
            continue
        return {
            name: float(value)
            for name, value in (line.rsplit(" ", 1) for line in text.splitlines() if line[0] != "#")
        }


@needs("prometheus-node-exporter")
def test_node_exporter(machine: Emulated, scraped: dict[str, float]) -> None:
    for name in ("meminfo", "meminfo_numa", "buddyinfo", "zoneinfo", "vmstat"):
        assert scraped[f'node_scrape_collector_success{{collector="{name}"}}'] == 1
    nodes = machine.snapshot.nodes
    assert scraped["node_memory_MemFree_bytes"] == 4096 * sum(map(free, nodes))
    assert scraped["node_vmstat_nr_free_pages"] == sum(map(free, nodes))
    for node in nodes:
        label = f'{{node="{node.nid}"}}'
        assert scraped[f"node_memory_numa_MemFree{label}"] == 4096 * free(node)
        assert scraped[f"node_memory_numa_numa_hit_total{label}"] == node.numastat["numa_hit"]
        for zone in node.zones:
            if not zone.populated:
                continue
            label = f'{{node="{node.nid}",zone="{zone.name}"}}'
            values = {
                "nr_free_pages": zone.free,
                "min_pages": zone.wmark_min,
                "low_pages": zone.wmark_low,
                "high_pages": zone.wmark_high,
                "spanned_pages": zone.spanned,
                "present_pages": zone.present,
                "managed_pages": zone.managed,
            }
            for name, pages in values.items():
                assert scraped[f"node_zoneinfo_{name}{label}"] == pages + (
                    zone.watermark_boost if name[:3] in ("min", "low", "hig") else 0
                )
            for order, count in enumerate(zone.nr_free):
                label = f'{{node="{node.nid}",size="{order}",zone="{zone.name}"}}'
                assert scraped[f"node_buddyinfo_blocks{label}"] == count


def collectors(exporter: subprocess.Popen[str]) -> tuple[set[str], dict[str, float]]:
    """Collectors that work, at a second scrape, which may need the first; and its samples."""
    with listening(exporter, []) as url:
        samples(url)
        found = samples(url)
    name = re.compile(r'node_scrape_collector_success\{collector="(\w+)"\}')
    return {match[1] for key in found if (match := name.fullmatch(key)) and found[key]}, found


@needs("prometheus-node-exporter")
def test_node_exporter_with_its_defaults(machine: Emulated) -> None:
    """It lives, and no collector fails that works on the host; ksmd reads of what is the host's."""
    command = ["prometheus-node-exporter", "--web.listen-address=127.0.0.1:0", "--collector.ksmd"]
    here, host = collectors(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
    there, found = collectors(machine.started(*command))
    assert here <= there
    assert {"cpu", "stat", "meminfo"} <= there
    assert found["node_boot_time_seconds"] == host["node_boot_time_seconds"]
    idle = [found[f'node_cpu_seconds_total{{cpu="{cpu}",mode="idle"}}'] for cpu in machine.spec.cpus]
    assert all(idle)


@needs("ps")
def test_ps(machine: Emulated) -> None:
    """Processes are the host's, and began when they did there."""
    command = ("ps", "-o", "lstart=", "-p", "1")
    there = subprocess.run(
        command, capture_output=True, text=True, check=True, env=os.environ | {"LC_ALL": "C"}
    )
    assert printed(machine, *command) == there.stdout


@needs("mpstat")
def test_mpstat(machine: Emulated) -> None:
    """Every CPU is there, and its shares are of a whole."""
    text = printed(machine, "mpstat", "-P", "ALL", "1", "1")
    rows = re.findall(r"^Average: +(\d+) +(.*)$", text, re.M)
    assert [int(cpu) for cpu, _ in rows] == list(machine.spec.cpus)
    for cpu, shares in rows:
        assert sum(map(float, shares.split())) == pytest.approx(100, abs=0.1), cpu


@needs("slabtop")
def test_slabtop_and_vmstat_m(machine: Emulated) -> None:
    assert "Active / Total Objects" in printed(machine, "slabtop", "-o")
    printed(machine, "vmstat", "-m")


@needs("nproc")
def test_nproc(machine: Emulated, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert int(printed(machine, "nproc")) == len(machine.spec.cpus)


@needs("numactl")
def test_numactl_takes_every_node_and_cpu(machine: Emulated) -> None:
    """libnuma reads in /proc/self/status what there is; whether it can be had, the host's kernel says."""
    for option in (f"--membind={machine.spec.nodes[-1].nid}", f"--physcpubind={machine.spec.cpus[-1]}"):
        assert "out of range" not in machine.run("numactl", option, "true").stderr


@needs("irqbalance")
def test_irqbalance_ends(machine: Emulated) -> None:
    """It looks for as many columns in /proc/interrupts as there are CPUs, until it finds them."""
    assert machine.run("irqbalance", "--oneshot", "--interval=1").returncode == 0
