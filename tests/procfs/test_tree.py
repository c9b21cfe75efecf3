"""The tree of a booted machine compared with the captured kernel's: the same files, lines and values."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from groundtruth import topologies
from procfs.machines import machine, node

from numa_service.machine.boot import start_kernel
from numa_service.machine.capture import load_capture
from numa_service.machine.presets import list_presets
from numa_service.mm.snapshot import MachineSnapshot, MemoryBlockSnapshot, NodeSnapshot
from numa_service.procfs import tree

_NODE = "/sys/devices/system/node"
#: Files of a node's directory that have counters.
COUNTERS = ("meminfo", "numastat", "vmstat")

#: Files of /proc/sys/vm in captures that are not shown: they act when written.
ACTIONS = {"vm.stat_refresh"}
#: Captured files that the model does not have: this one is for kexec.
NOT_MODELLED = {"crash_hotplug"}


@cache
def booted(capture: Path) -> MachineSnapshot:
    return start_kernel(load_capture(capture)).snapshot()


@pytest.fixture(params=topologies(), ids=lambda path: path.name)
def capture(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def shape(text: str) -> list[str]:
    """Lines with every number replaced by one sign, so that widths of columns do not matter."""
    return [re.sub(r"\s*(?<![a-z_\d])-?>?\s*\d+\b", " #", line).rstrip() for line in text.splitlines()]


def in_node(capture: Path) -> tuple[dict[str, str], dict[str, str]]:
    """The captured files and links below /sys/devices/system/node."""
    root = capture / "node"
    files = {
        str(path.relative_to(root)): path.read_text()
        for path in root.rglob("*")
        if path.is_file() and path.name != "symlinks.txt"
    }
    links = (line.split(" -> ") for line in (root / "symlinks.txt").read_text().splitlines())
    return files, dict(links)


def test_node_tree(capture: Path) -> None:
    """Files and links are the same, and texts too; of files with counters, the names on each line."""
    given = booted(capture)
    if not (capture / "node").is_dir():
        with pytest.raises(FileNotFoundError):
            tree.listdir(given, "/sys/devices/system/node")
        return
    files, links = in_node(capture)
    root = "sys/devices/system/node"
    ours = {path.removeprefix(f"{root}/"): (e, text) for path, e, text in tree.walk(given, root)}
    assert {path: entry.target for path, (entry, _) in ours.items() if entry.target} == links
    assert {path for path, (entry, _) in ours.items() if not entry.target} == files.keys()
    for path, text in files.items():
        if path.rsplit("/", 1)[-1] in COUNTERS:
            assert shape(ours[path][1]) == shape(text), path
        else:
            assert ours[path][1] == text, path


def test_memory_blocks(capture: Path) -> None:
    given, listed = booted(capture), capture / "memory_blocks.txt"
    if not listed.exists():
        with pytest.raises(FileNotFoundError):
            tree.listdir(given, "/sys/devices/system/memory")
        return
    captured = dict(line.split(": ", 1) for line in listed.read_text().splitlines())
    ours = {
        path.removeprefix("sys/devices/system/memory/"): text.rstrip("\n")
        for path, entry, text in tree.walk(given, "/sys/devices/system/memory")
        if not entry.target and entry.mode & 0o444  # what can be read
    }
    assert ours == {name: value for name, value in captured.items() if name not in NOT_MODELLED}


def test_lines_of_proc(capture: Path) -> None:
    """The lines are the same, in the same order; tests/fidelity compares values, test_captures.py bytes."""
    given = booted(capture)
    for name in ("zoneinfo", "buddyinfo", "pagetypeinfo", "vmstat", "meminfo", "swaps"):
        text = (capture / f"{name}.txt").read_text()
        assert shape(tree.read(given, f"/proc/{name}")) == shape(text), name


def test_sysctls(capture: Path) -> None:
    given = booted(capture)
    lines = (line.split(" = ", 1) for line in (capture / "sysctl.txt").read_text().splitlines())
    captured = {name: value for name, value in lines if name not in ACTIONS}
    ours = {
        path.removeprefix("proc/sys/").replace("/", "."): text.rstrip("\n")
        for path, _, text in tree.walk(given, "/proc/sys")
    }
    # the guest read vm and this one only
    ours.pop("kernel.numa_balancing_promote_rate_limit_MBps", None)
    assert ours == captured


@pytest.mark.parametrize("path", [p for p in topologies() if (p / "mm.txt").exists()], ids=lambda p: p.name)
def test_kernel_mm(path: Path) -> None:
    """Each file that is there has the kernel's value. Captures have no files of hugetlb pools here."""
    given = booted(path)
    lines = (line.split(": ", 1) for line in (path / "mm.txt").read_text().splitlines())
    # what khugepaged has done is a matter of time: a captured kernel has run for a second or two
    done = ("/full_scans", "/pages_collapsed")
    captured = {name: value for name, value in lines if not name.endswith(done)}
    ours = {
        name.removeprefix("sys/kernel/"): text.rstrip("\n")
        for name, _, text in tree.walk(given, "/sys/kernel/mm")
        if "/hugepages/" not in name and not name.endswith(done)
    }
    assert ours
    assert {name: captured[name] for name in ours} == ours
    huge = {name for name in captured if "transparent_hugepage/" in name}
    assert huge <= set(ours)


def test_iomem(capture: Path) -> None:
    """Every line is one of the captured kernel's, to the page; others of its lines are not on RAM."""
    captured = set()
    for start, end in re.findall(r"^(\w+)-(\w+) : System RAM$", (capture / "iomem.txt").read_text(), re.M):
        first, last = -(-int(start, 16) // 4096), (int(end, 16) + 1) // 4096
        captured.add(f"{first << 12:08x}-{(last << 12) - 1:08x} : System RAM")
    assert set(tree.read(booted(capture), "/proc/iomem").splitlines()) == captured


def test_cpuinfo(capture: Path) -> None:
    """The lines that number CPUs are the captured kernel's, if its packages are its nodes."""
    ours = tree.read(booted(capture), "/proc/cpuinfo")
    names = {line.split("\t")[0] for line in ours.splitlines() if line}
    text = (capture / "cpuinfo.txt").read_text()
    if capture.name.startswith("random"):  # these have one package with several nodes
        names = {"processor"}
        ours = "".join(line for line in ours.splitlines(keepends=True) if line.startswith("processor"))
    captured = [line for line in text.splitlines() if line.split("\t")[0] in names]
    assert [_no_kind(line) for line in ours.splitlines() if line] == list(map(_no_kind, captured))


def _no_kind(line: str) -> str:
    """A line of cpuinfo, without its value if that depends on the kind of CPU."""
    name, value = line.split(":", 1)
    return name if name.strip() in ("model name", "flags") else f"{name}:{value}"


#: Of the zoo those that are small: each path is looked for among all.
_SMALL = ("zoo/memory-only", "zoo/no-node-directory")


@pytest.mark.parametrize(
    "preset",
    [preset for preset in list_presets() if not preset.broke or preset.name in _SMALL],
    ids=lambda preset: preset.name,
)
@pytest.mark.parametrize("profile", ["linux-6.1", "linux-6.12", "linux-3.0"])
def test_every_path_can_be_read_and_found(preset: object, profile: str) -> None:
    given = start_kernel(preset.load().with_profile(profile)).snapshot()  # type: ignore[attr-defined]
    seen = list(tree.walk(given))
    assert len({path for path, _, _ in seen}) == len(seen)
    names = cache(lambda folder: {e.name for e in tree.listdir(given, folder)})
    for path, entry, text in seen:
        # of memory blocks and slab caches, which are all alike, one each, and a link
        if "/memory/memory" in path and "/memory0/" not in path:
            continue
        if "/slab/" in path and not re.search("/slab/(dentry|kmalloc-64|pid)(/|$)", path):
            continue
        folder, _, name = path.rpartition("/")
        assert name in names(folder)
        if entry.target:
            assert tree.listdir(given, path) == tree.listdir(given, f"{folder}/{entry.target}")
        elif not entry.mode & 0o444:
            with pytest.raises(PermissionError):
                tree.read(given, f"/{path}")
            assert not text
        else:
            assert tree.read(given, f"/{path}") == text
            # there is no capture of every kernel's areas at boot
            assert (
                text.endswith("\n")
                or path in ("proc/vmallocinfo", "proc/kmsg")
                or path.endswith(("/shrink", "/validate", "/ctor"))
            )


def two_nodes() -> MachineSnapshot:
    nodes = (
        node(0, "x86_64", {"Normal": 1000}, cpus=(0, 1)),
        node(1, "x86_64", {"Normal": 1000}, cpus=(2,)),
    )
    return machine(*nodes, sysctls={"vm.swappiness": "60", "vm.odd": "7", "kernel.numa_balancing": "1"})


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/proc/pressure/memory", "ENOENT"),
        ("/proc/sys/vm/compact_memory", "ENOENT"),
        ("/sys/devices/system/node/node2/meminfo", "ENOENT"),
        ("/sys/devices/system/node/node00/meminfo", "ENOENT"),
        ("/sys/devices/system/node/node٠/meminfo", "ENOENT"),
        ("/proc/zoneinfo\0", "ENOENT"),
        ("/proc", "EISDIR"),
        ("", "EISDIR"),
        ("/sys/devices/system/node/node0/cpu0", "EISDIR"),
        ("/proc/zoneinfo/x", "ENOTDIR"),
        ("/proc/zoneinfo/", "ENOTDIR"),
        ("/" * 5000, "ENAMETOOLONG"),
        ("/proc/" + "x" * 256, "ENAMETOOLONG"),
    ],
)
def test_paths_that_are_no_file(path: str, error: str) -> None:
    with pytest.raises(OSError, match=rf"^\[Errno {getattr(errno, error)}\]"):
        tree.read(two_nodes(), path)


@pytest.mark.parametrize("path", ["", "/sys/devices/system", "/sys/devices/system/node", "/sys/kernel"])
def test_a_directory_is_listed_without_what_is_below_it(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes with a thousand times as many memory blocks need no more work."""
    asked: list[object] = []
    values = tree.Stars.next

    def noting(self: tree.Stars, snapshot: MachineSnapshot, first: tree.Numbers) -> Iterator[int | str]:
        for value in values(self, snapshot, first):
            asked.append(value)
            yield value

    monkeypatch.setattr(tree.Stars, "next", noting)
    costs = []
    for blocks in (1, 1000):
        small = two_nodes()
        given = replace(small, nodes=tuple(with_blocks(node, blocks) for node in small.nodes))
        assert len(tree.listdir(given, f"{_NODE}/node1")) > blocks
        asked.clear()
        assert tree.listdir(given, path)
        costs.append(len(asked))
    assert costs[0] == costs[1]


def with_blocks(of: NodeSnapshot, count: int) -> NodeSnapshot:
    blocks = tuple(MemoryBlockSnapshot(of.nid * count + i, True, ("Normal",)) for i in range(count))
    return replace(of, memory_blocks=blocks)


def test_links_and_dots_are_followed() -> None:
    given = two_nodes()
    base = "/sys/devices/system/node/node1"
    assert tree.read(given, f"{base}/cpu2/topology/physical_package_id") == "1\n"
    assert tree.read(given, f"{base}/cpu2/../cpu0/./topology/physical_package_id") == "0\n"
    assert tree.read(given, f"{base}/cpu2/node1/cpu2/node1/cpulist") == "2\n"
    assert tree.read(given, "/../../proc/sys/vm/swappiness") == "60\n"
    assert [entry.name for entry in tree.listdir(given, "/")] == ["proc", "sys"]
    with pytest.raises(NotADirectoryError):
        tree.listdir(given, "/proc/zoneinfo")


def test_cpu_numbers_with_gaps_are_possible_and_offline() -> None:
    given = two_nodes()
    cpus = {name: tree.read(given, f"/sys/devices/system/cpu/{name}") for name in ("present", "offline")}
    sparse = replace(given, nodes=(given.nodes[0], replace(given.nodes[1], cpus=(40, 41))))
    for name, numbers in (("online", "0-1,40-41"), ("present", "0-1,40-41"), ("possible", "0-41")):
        assert tree.read(sparse, f"/sys/devices/system/cpu/{name}") == f"{numbers}\n"
    assert tree.read(sparse, "/sys/devices/system/cpu/offline") == "2-39\n"
    assert tree.read(sparse, "/sys/devices/system/node/node1/cpumap") == "300,00000000\n"
    assert cpus == {"present": "0-2\n", "offline": "\n"}


def test_a_node_that_went_away_has_no_directory() -> None:
    given = two_nodes()
    gone = replace(given, nodes=(given.nodes[0], replace(given.nodes[1], cpus=(), online=False)))
    assert tree.read(gone, "/sys/devices/system/node/online") == "0\n"
    assert tree.read(gone, "/sys/devices/system/node/possible") == "0-1\n"
    assert tree.read(gone, "/sys/devices/system/node/node0/distance") == "10\n"
    with pytest.raises(FileNotFoundError):
        tree.listdir(gone, "/sys/devices/system/node/node1")
