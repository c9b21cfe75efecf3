"""Malicious files: each is refused in one line, before it takes much time or memory.

They run in a process of their own, with limits on CPU time and address space several times what a refusal
needs (measured: 0.0 to 0.7 s and 50 to 110 MB, of which a small good file takes 45 MB).
"""

from __future__ import annotations

import bz2
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from forked_command import ForkedCommand
from tar_blocks import header, member, padded, tar_of

CPU_SECONDS = 3
ADDRESS_SPACE = 700 << 20

NODES = '[[node]]\ncpus = "0-1"\nmemory = "1GiB"\n[[node]]\nmemory = "2GiB"\n'
TOML = "distances = [[10, 17], [17, 10]]\n" + NODES
XML = b'<?xml version="1.0"?><topology version="2.0"><object type="Machine" os_index="0" cpuset="0x1">'
ZONE = "Node 0, zone {}\n  pages free 1\n        spanned 9\n        present 0\n        managed 0\n"
ZONE += "        protection: (0, 0, 0, 0, 0)\n"
NUMACTL = "available: 2 nodes (0-1)\nnode 0 cpus: 0\nnode 0 size: 9 MB\nnode 1 cpus: 1\nnode 1 size: 9 MB\n"


def _file(content: str | bytes | Callable[[], bytes]) -> Callable[[Path], None]:
    """A file. Large content is given as a function, so that not all contents are in memory at once."""

    def make(path: Path) -> None:
        written = content() if callable(content) else content
        path.write_bytes(written.encode() if isinstance(written, str) else written)

    return make


def _capture(name: str, content: str | None, zoneinfo: str = "") -> Callable[[Path], None]:
    """A capture with one file: a text, a link to a path that begins with a slash, or a FIFO for None."""

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


def _tree(files: Callable[[], dict[str, str]]) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        for name, text in files().items():
            target = path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)

    return make


NODE, CPU = "sys/devices/system/node", "sys/devices/system/cpu"


def _cpus(nodes: int, cpus: int) -> dict[str, str]:
    """The sysfs of a large machine: two files for each CPU, and nodes with a part of the CPUs each."""
    files = {f"{CPU}/cpu{cpu}/online": "1\n" for cpu in range(cpus)}
    files |= {f"{CPU}/cpu{cpu}/topology/core_id": "0\n" for cpu in range(cpus)}
    part = cpus // nodes
    for nid in range(nodes):
        files[f"{NODE}/node{nid}/cpulist"] = f"{nid * part}-{nid * part + part - 1}\n"
        files[f"{NODE}/node{nid}/meminfo"] = f"Node {nid} MemTotal: 1048576 kB\n"
        row = ["21"] * nodes
        row[nid] = "10"
        files[f"{NODE}/node{nid}/distance"] = " ".join(row) + "\n"
    return files


def _access(nodes: int) -> dict[str, str]:
    """HMAT attributes of each node."""
    names = ("read_latency", "write_latency", "read_bandwidth", "write_bandwidth", "node0/uevent")
    return {
        f"{NODE}/node{nid}/access{access}/initiators/{name}": "90\n"
        for nid in range(nodes)
        for access in (0, 1)
        for name in names
    }


LARGE = _cpus(64, 8192)
#: All that is read before it is right.
WRONG_AT_ITS_END = LARGE | {f"{NODE}/node63/distance": "21 " * 63 + "x\n"}
NODES_1024 = _cpus(1024, 1024)


def _matrix(nodes: int) -> str:
    """The largest machine file that is not too long; its last node repeats a CPU of another node."""
    rows = "".join(f"[{'120, ' * nid}10{', 120' * (nodes - nid - 1)}],\n" for nid in range(nodes))
    tables = (f'[[node]]\ncpus = "{nid % (nodes - 1)}"\nmemory = "1GiB"\n' for nid in range(nodes))
    return f"distances = [\n{rows}]\n{''.join(tables)}"


PAX = header(b"x", 10_000, b"x") + padded(b"10 path=a\n" * 1000)
LONG = header(b"x", 4096, b"L") + (b"sys/" + b"a/" * 14 + b"a" * 4064)


def _cpusets(nodes: int, bitmap: str, pus: int = 64) -> bytes:
    numas = "".join(f'<object type="NUMANode" os_index="{nid}" cpuset="{bitmap}"/>' for nid in range(nodes))
    elements = "".join(f'<object type="PU" os_index="{cpu}"/>' for cpu in range(pus))
    return XML + f'{elements}{numas}<object type="NUMANode" os_index="x"/></object></topology>'.encode()


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
    "matrix": ("t.toml", _file(lambda: _matrix(1024)), "node[1023].cpus: CPU 0 is already on node 0"),
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
    "boot log digits": ("d.txt", _file("Fallback order for Node 0: " + "1" * 4_000_000), "node "),
    "boot log ranges": (
        "d.txt",
        _file("BIOS-e820: [mem 0x0-0xfff] usable\n" * 100_000),
        "more than 4096 ranges",
    ),
    "boot log orders": (
        "d.txt",
        _file(
            "".join(f"Fallback order for Node {n}: {' '.join(map(str, range(700)))} 1\n" for n in range(700))
        ),
        "a node is in it twice",
    ),
    "boot log large": ("d.txt", _file("Initmem setup node 0\n" * 400_000), "characters of boot log"),
    "libvirt comments": ("l.xml", _file(b"<!-- -->" * 8000 + b"<x"), "l.xml:"),
    "libvirt cells": (
        "l.xml",
        _file("<domain><cpu><numa>" + "<cell memory='1'/>" * 100_000 + "</numa></cpu></domain>"),
        "'1024' is not a number below 1024",
    ),
    "libvirt siblings": (
        "l.xml",
        _file(
            "<capabilities><host><topology><cells><cell id='0'><cpus>"
            + "".join(f"<cpu id='{n}' socket_id='0' siblings='0-8191'/>" for n in range(8192))
            + "<cpu id='0'/></cpus></cell></cells></topology></host></capabilities>"
        ),
        "siblings: ",
    ),
    "lscpu lists": (
        "l.txt",
        _file("CPU(s): 9\n" + "".join(f"NUMA node{n} CPU(s): 0-8191\n" for n in range(1000))),
        "nodes list more than 131072 CPUs",
    ),
    "lstopo depth": (
        "l.txt",
        _file("Machine (1GB)\n" + "".join(f"{' ' * n}Group L#0\n" for n in range(1, 1400)) + "PU L#0 (P#1)"),
        "no PU",
    ),
    "lstopo long": ("l.txt", _file("Machine (L#0 " + "(" * 1_000_000), "a line of 1000013 characters"),
    "numastat": ("n.txt", _file("   node0\n" + "   node1" * 200_000 + "\n"), "a line of 1600000"),
    "buddyinfo": ("b.txt", _file("Node 0, zone DMA " + "1 " * 900_000), "b.txt: in none of the formats"),
    "zoneinfo text": (
        "z.txt",
        _file("".join(ZONE.format(f"Z{i}") for i in range(40_000))),
        "has 40000 zones of 5",
    ),
    "kubelet": ("k.json", _file('{"machineState": ' + '{"0": ' * 100_000), "k.json: "),
    "cloud-hypervisor": (
        "c.txt",
        _file("--cpus boot=1 --numa " + "guest_numa_id=0,cpus=[0-8191] " * 60_000),
        "a second one",
    ),
    "virtme": ("v.txt", _file("vng --numa 1G " + "--numa 1G,cpus=0-8191 " * 60_000), "at most 128"),
    "quoted": ("q.txt", _file("> " * 1_000_000 + "x"), "q.txt: in none of the formats"),
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
    "bomb": ("b.tar.bz2", _file(lambda: bz2.compress(bytes(300 << 20))), "more than 32 MiB, unpacked"),
    "bzip2": (
        "b.tar.bz2",
        _file(lambda: bz2.compress(random.Random(1).randbytes(10 << 20).translate(bytes(range(4)) * 64))),
        "more than 10 blocks of bzip2",
    ),
    "large tar": ("p.tar", _file(lambda: bytes(33 << 20)), "more than 32 MiB"),
    "many files": ("m.tar", _file(lambda: member("sys/bus/x") * 31_000), "more than 30000 files"),
    "ballast": ("m.tar", _file(lambda: member("sys/bus/x" * 9) * 30_000), "neither a capture"),
    "tar wrong at its end": (
        "m.tar",
        _file(lambda: tar_of(WRONG_AT_ITS_END)),
        "node63/distance:1: distance 'x'",
    ),
    "tree wrong at its end": ("m", _tree(lambda: WRONG_AT_ITS_END), "node63/distance:1: distance 'x'"),
    "packed, wrong at its end": (
        "m.tar.bz2",
        _file(lambda: bz2.compress(tar_of(WRONG_AT_ITS_END))),
        "node63/distance:1: distance 'x'",
    ),
    "tar cut at its end": ("m.tar", _file(lambda: tar_of(LARGE, b"x")), "a header is cut off"),
    "tar checksum": (
        "m.tar",
        _file(lambda: tar_of(LARGE, header(b"x", too_much=1))),
        "with a wrong checksum",
    ),
    "tar size": (
        "m.tar",
        _file(lambda: tar_of(LARGE, header(b"x", 0o77777777777))),
        "8589934591 bytes, at most",
    ),
    "tar sparse": ("m.tar", _file(lambda: tar_of(LARGE, header(b"x", kind=b"S"))), "a sparse file is in it"),
    "tar nodes": ("m.tar", _file(lambda: tar_of(_cpus(1100, 1100))), "1100 of nodeN, at most 1024"),
    "tar cpus": (
        "m.tar",
        _file(lambda: tar_of({f"{CPU}/cpu{cpu}/online": "1\n" for cpu in range(17_999)})),
        "17999 of cpuN, at most 8192",
    ),
    "tar off-line": (
        "m.tar",
        _file(
            lambda: tar_of({f"{CPU}/cpu{cpu}/online": "0\n" for cpu in range(8192)} | {f"{NODE}/node0/x": ""})
        ),
        "no node has a CPU",
    ),
    "tar distances": (
        "m.tar",
        _file(lambda: tar_of(NODES_1024 | {f"{NODE}/node1023/distance": "10 " * 1023 + "x\n"})),
        "node1023/distance:1: distance 'x'",
    ),
    "tar memory": (
        "m.tar",
        _file(
            lambda: tar_of(NODES_1024 | _access(1024) | {f"{NODE}/node7/meminfo": f"MemTotal: {9 << 40} kB"})
        ),
        "m.tar: memory beyond 64TiB",
    ),
    "tar cpulists": (
        "m.tar",
        _file(
            lambda: tar_of(
                {f"{CPU}/online": "0-8191\n"} | {f"{NODE}/node{n}/cpulist": "0-8191\n" for n in range(1024)}
            )
        ),
        "nodes list more than 131072 CPUs",
    ),
    "tar cpumap": (
        "m.tar",
        _file(
            lambda: tar_of(
                {f"{CPU}/online": "0-8191\n"}
                | {f"{NODE}/node{n}/cpumap": "80000000" + ",00000000" * 900 for n in range(1000)}
                | {f"{NODE}/node1000/cpumap": "x"}
            )
        ),
        "'x' is not a CPU mask",
    ),
    "tar command line": (
        "m.tar",
        _file(lambda: tar_of({f"{CPU}/online": "0\n", "proc/cmdline": "cma=1 " * 600_000})),
        "proc/cmdline: 3600000 characters",
    ),
    "tar names": ("m.tar", _file(lambda: (LONG + member("x")) * 5_400), "neither a capture"),
    "tar deep": ("m.tar", _file(lambda: member("sys/" + "a/" * 28 + "b") * 30_000), "neither a capture"),
    "tar pax": ("m.tar", _file(lambda: PAX * 3_000), "more than 300000 records in pax headers"),
    "many in a tree": (
        "m",
        _tree(lambda: {f"{CPU}/x{i}": "" for i in range(31_000)}),
        "more than 30000 files and directories",
    ),
    "bytes of a tree": (
        "m",
        _tree(lambda: {f"{CPU}/cpu{cpu}/online": "1" + " " * 50_000 for cpu in range(700)}),
        "more than 32 MiB, with what was read before",
    ),
    "xml cpusets": ("x.xml", _file(lambda: _cpusets(1000, "0xffffffff," * 1480 + "0x1")), "os_index: 'x'"),
    "xml shared cpusets": (
        "x.xml",
        _file(lambda: _cpusets(1000, "0xffffffff," * 15 + "0xffffffff", 512)),
        "more than 131072 CPUs",
    ),
    "xml words": ("x.xml", _file(lambda: _cpusets(1020, "1," * 2040 + "1")), "more than 1572864 words"),
    "xml bitmap": (
        "x.xml",
        _file(lambda: _cpusets(1, "0x1," * 3000)),
        "a bitmap of 3000 words, at most 2048",
    ),
    "text": ("u.txt", _file("hello\n" * 2_000_000), "it looks like text that begins 'hello'"),
    "binary": ("u.bin", _file(bytes(10 << 20)), "it looks like binary data"),
}


@pytest.fixture(scope="module")
def command() -> Iterator[ForkedCommand]:
    with ForkedCommand("exchange") as forked:
        yield forked


@pytest.mark.parametrize("case", CASES)
def test_it_is_refused_in_a_line(case: str, tmp_path: Path, command: ForkedCommand) -> None:
    name, make, reason = CASES[case]
    make(tmp_path / name)
    done = command.run(["import", name], tmp_path, CPU_SECONDS, ADDRESS_SPACE)
    assert done.returncode == 1, done.stderr[-500:]
    assert done.stdout == ""
    assert done.stderr.startswith("numa-service: ")
    assert done.stderr.count("\n") == 1
    assert len(done.stderr) < 1100
    assert done.stderr[:-1].isprintable()
    assert reason in done.stderr
    assert "root:" not in done.stderr


def test_a_thousand_nodes_are_no_harm(tmp_path: Path, command: ForkedCommand) -> None:
    text = "".join(f'[[node]]\nmemory = "64MiB"\ncpus = "{i}"\n' for i in range(1024))
    (tmp_path / "many.toml").write_text("\ufeff" + text)  # with the mark that some editors put there
    done = command.run(["import", "many.toml"], tmp_path, CPU_SECONDS, ADDRESS_SPACE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("[[node]]") == 1024


def test_the_limits_hold_in_a_fork(tmp_path: Path, command: ForkedCommand) -> None:
    (tmp_path / "large.txt").write_text("hello\n" * 2_000_000)
    starved = command.run(["import", "large.txt"], tmp_path, CPU_SECONDS, 1 << 20)
    assert starved.returncode == 1
    # where no memory is left even for the exception, Python says so instead
    no_memory = {"MemoryError", "SystemError: error return without exception set"}
    assert starved.stderr.splitlines()[-1] in no_memory
