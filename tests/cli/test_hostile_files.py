"""Files that somebody made to do harm: each is refused in one line, before it takes time or memory.

They run in a process of their own, with limits on CPU time and address space several times what a refusal
needs (measured: 0.4 to 1.2 s and 50 to 180 MB, of which a small good file takes 0.3 s and 40 MB).
"""

from __future__ import annotations

import bz2
import io
import os
import resource
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

CPU_SECONDS = 6
ADDRESS_SPACE = 700 << 20

NODES = '[[node]]\ncpus = "0-1"\nmemory = "1GiB"\n[[node]]\nmemory = "2GiB"\n'
TOML = "distances = [[10, 17], [17, 10]]\n" + NODES
XML = b'<?xml version="1.0"?><topology version="2.0"><object type="Machine" os_index="0" cpuset="0x1">'
ZONE = "Node 0, zone {}\n  pages free 1\n        spanned 9\n        present 0\n        managed 0\n"
ZONE += "        protection: (0, 0, 0, 0, 0)\n"
NUMACTL = "available: 2 nodes (0-1)\nnode 0 cpus: 0\nnode 0 size: 9 MB\nnode 1 cpus: 1\nnode 1 size: 9 MB\n"


def _file(content: str | bytes) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    return make


def _capture(name: str, content: str | None, zoneinfo: str = "") -> Callable[[Path], None]:
    """A directory with a file, or a link for a path with a slash at its start, or a FIFO for None."""

    def make(path: Path) -> None:
        target = path / name
        target.parent.mkdir(parents=True)
        if zoneinfo:
            (path / "zoneinfo.txt").write_text(zoneinfo)
        if content is None:
            os.mkfifo(target)
        elif content.startswith("/"):
            target.symlink_to(content)
        else:
            target.write_text(content)

    return make


def _tar(mode: str, *members: tuple[str, int]) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        # its overloads take only literal modes
        with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
            for name, size in members:
                info = tarfile.TarInfo(name)
                info.size = size
                archive.addfile(info, io.BytesIO(bytes(size)))

    return make


def _pax(path: Path) -> None:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("sys/a")
        info.pax_headers = {"comment": "x" * (40 << 20)}
        archive.addfile(info)


GOOD = (
    "Node 0, zone DMA32\n  pages free 1\n        spanned 9000\n        present 9000\n        managed 8000\n"
)
GOOD += "        protection: (0)\n    cpu: 0\n  start_pfn: 4096\n"
ALL_ZONES = "".join(ZONE.format(name) for name in ("DMA", "DMA32", "Normal", "Movable", "Device"))

CASES: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "digits": ("t.toml", _file(TOML.replace("17", "9" * 100_000)), "t.toml:1: TOML: a word of 100000"),
    "dotted key": ("t.toml", _file("a" + ".a" * 50_000 + " = 1\n"), "t.toml:1: TOML: a key of more than 16"),
    "dotted table": ("t.toml", _file(TOML + "[a" + ".a" * 50_000 + "]\n"), "t.toml:7: TOML: a key of more"),
    "dotted inline": ("t.toml", _file("b = { 'a'" + ". a" * 50_000 + " = 1 }\n"), "TOML: a key of more"),
    "much": ("t.toml", _file(TOML + "#" * (3 << 20)), "characters, at most"),
    "more": ("t.toml", _file(TOML + "a = 1\n" * (4 << 20)), "more than 16 MiB"),
    "nested": ("t.toml", _file("a = " + "[" * 100_000), "nested too deeply"),
    "not numbers": (
        "t.toml",
        _file("distances = [[" + '"a",' * 100_000 + "]]\n" + NODES),
        "distances[0][0]: ",
    ),
    "unknown keys": (
        "t.toml",
        _file("".join(f"k{i} = 1\n" for i in range(40_000)) + NODES),
        "k0: unknown key",
    ),
    "cpus": ("t.toml", _file(TOML.replace("0-1", "0-8191," * 60_000 + "1")), "CPU 0 is listed twice"),
    "cpu range": ("t.toml", _file(TOML.replace("0-1", "0-99999999")), "CPU 99999999 does not exist"),
    "size": ("t.toml", _file(TOML.replace("1GiB", "1" * 400_000)), "is not a size"),
    "command line": ("t.toml", _file('cmdline = "' + "kernelcor=1 " * 40_000 + '"\n' + TOML), "takes 2048"),
    "swap": ("t.toml", _file('swap = "9999999TiB"\n' + TOML), "t.toml:1: swap: "),
    "latency": ("t.toml", _file(TOML + "[latency]\nlocal_read_ns = 1" + "0" * 200), "local_read_ns: "),
    "xml elements": ("x.xml", _file(XML + b"<a/>" * 3_900_000), "more than 200000 elements"),
    "xml attributes": ("x.xml", _file(XML + b"<o " + b'a=""' * 3_000_000), "between two '<'"),
    "xml depth": ("x.xml", _file(XML + b"<object>" * 1_000_000), "x.xml:1: XML: "),
    "xml large": ("x.xml", _file(XML + b'<info name="x" value="y"/>' * 1_000_000), "more than 16 MiB"),
    "device": ("c", _capture("proc/zoneinfo", "/dev/zero"), "c/proc/zoneinfo: a link that leaves "),
    "foreign file": ("c", _capture("proc/zoneinfo", "/etc/passwd"), "c/proc/zoneinfo: a link that leaves "),
    "fifo": ("c", _capture("proc/zoneinfo", None), "c/proc/zoneinfo: not a regular file"),
    "sysctl fifo": ("c", _capture("proc/sys/vm/swappiness", None, GOOD), "swappiness: not a regular file"),
    "swap device": ("c", _capture("swaps.txt", "/dev/zero", GOOD), "swaps.txt: a link that leaves "),
    "swap digits": (
        "c",
        _capture("swaps.txt", "a b " + "9" * 9000 + " 0 0\n", GOOD),
        "not a line of /proc/swaps",
    ),
    "version digits": (
        "c",
        _capture("version.txt", f"Linux version {'6' * 9000}.1\n", GOOD),
        "version.txt:1: ",
    ),
    "foreign directory": ("c", _capture("proc", "/proc"), "c/proc/zoneinfo: a link that leaves "),
    "foreign tree": (
        "c",
        _capture("sys/devices/system/cpu/online", "/etc/passwd"),
        "cpu/online: a link that",
    ),
    "lines": ("c", _capture("zoneinfo.txt", ALL_ZONES + "\n" * 5_000_000), "more than 300000 lines"),
    "zones": (
        "c",
        _capture("zoneinfo.txt", "".join(ZONE.format(f"Z{i}") for i in range(40_000))),
        "has 40000 zones of 5",
    ),
    "numactl row": ("n.txt", _file(f"{NUMACTL}node   0   1\n  0: {'1' * 60}x\n"), "it is cut off"),
    "numactl line": (
        "n.txt",
        _file(NUMACTL + "node 0 cpus:" + " 1" * 2_000_000),
        "n.txt:6: a line of 4000012",
    ),
    "qemu nodes": ("q.txt", _file("qemu-system " + "-numa node,cpus=0-8191 " * 80_000), "at most 8192"),
    "qemu word": (
        "q.txt",
        _file("qemu-system -numa node" + ",x=0-81" * 250_000 + " -m 1x"),
        "q.txt: -m: '1x'",
    ),
    "synthetic": ("s.txt", _file("pack:2 " + "[numa:9999] " * 1300 + "pu:2"), "9999 nodes, at most 1024"),
    "bomb": ("b.tar.bz2", _file(bz2.compress(bytes(300 << 20))), "more than 32 MiB, unpacked"),
    "pax": ("p.tar", _pax, "more than 32 MiB"),
    "many files": (
        "m.tar",
        _tar("w", *((f"sys/devices/system/node/x{i}", 0) for i in range(20_000))),
        "more than 30000 files, or 18000",
    ),
    "text": ("u.txt", _file("hello\n" * 2_000_000), "it looks like text that begins 'hello'"),
    "binary": ("u.bin", _file(bytes(10 << 20)), "it looks like binary data"),
}


def _limits() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))


@pytest.mark.parametrize("case", CASES)
def test_it_is_refused_in_a_line(case: str, tmp_path: Path) -> None:
    name, make, reason = CASES[case]
    make(tmp_path / name)
    done = subprocess.run(
        [sys.executable, "-c", "from numa_service.cli.main import main; main()", "import", name],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        preexec_fn=_limits,
    )
    assert done.returncode == 1, done.stderr[-500:]
    assert done.stdout == ""
    assert done.stderr.startswith("numa-service: ")
    assert done.stderr.count("\n") == 1
    assert len(done.stderr) < 1100
    assert done.stderr[:-1].isprintable()
    assert reason in done.stderr
    assert "root:" not in done.stderr


def test_a_thousand_nodes_are_no_harm(tmp_path: Path) -> None:
    text = "".join(f'[[node]]\nmemory = "64MiB"\ncpus = "{i}"\n' for i in range(1024))
    (tmp_path / "many.toml").write_text("\ufeff" + text)  # with the mark that some editors put there
    done = subprocess.run(
        [sys.executable, "-c", "from numa_service.cli.main import main; main()", "import", "many.toml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        preexec_fn=_limits,
    )
    assert done.stdout.count("[[node]]") == 1024
