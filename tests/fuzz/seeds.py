"""A good file of every format that is imported, from which mutated ones are made."""

from __future__ import annotations

import io
import struct
import tarfile
from pathlib import Path

from numa_service.machine.boot import start_kernel
from numa_service.machine.formats.export import export
from numa_service.machine.presets import load_preset
from numa_service.machine.snapshot import assemble
from numa_service.procfs import SHOW, tree
from numa_service.sim.simulation import Simulation

REPORTS = Path(__file__).resolve().parents[1] / "testdata/mem_info"

LIBVIRT = """<domain type='kvm'><vcpu>4</vcpu><memory unit='GiB'>4</memory>
<cpu><topology sockets='2' cores='2' threads='1'/><numa>
<cell id='0' cpus='0-1' memory='2' unit='GiB'>
<distances><sibling id='0' value='10'/><sibling id='1' value='21'/></distances></cell>
<cell id='1' cpus='2-3' memory='2' unit='GiB'>
<distances><sibling id='0' value='21'/><sibling id='1' value='10'/></distances></cell>
<interconnects><latency initiator='0' target='0' type='read' value='5'/></interconnects></numa></cpu>
<devices><memory model='dimm'>
<target><size unit='MiB'>512</size><node>0</node></target></memory></devices></domain>
"""
LSCPU = """Architecture:            x86_64
CPU(s):                  8
On-line CPU(s) list:     0-7
Thread(s) per core:      2
Core(s) per socket:      2
Socket(s):               2
NUMA node(s):            2
NUMA node0 CPU(s):       0-3
NUMA node1 CPU(s):       4-7
"""
LSTOPO = """Machine (7976MB total)
  Package L#0
    NUMANode L#0 (P#0 3985MB)
    L2 L#0 (2048KB) + Core L#0
      PU L#0 (P#0)
      PU L#1 (P#1)
  Package L#1
    NUMANode L#1 (P#1 3990MB)
    Core L#1
      PU L#2 (P#2)
"""
NUMASTAT = """
Per-node system memory usage (in MBs):
                          Node 0          Node 1           Total
                 --------------- --------------- ---------------
MemTotal                 3985.00         4030.50         8015.50
MemFree                  1000.00         4000.00         5000.00
Active(anon)             2000.00           10.00         2010.00
Slab                       90.25            1.00           91.25
"""
KUBELET = """{"policyName":"Static","machineState":{"0":{"numberOfAssignments":1,"memoryMap":
{"memory":{"total":4178571264,"systemReserved":104857600,"allocatable":4073713664,"reserved":1073741824,"free":2999971840}},"nodes":[0]},
"1":{"numberOfAssignments":0,"memoryMap":{"memory":{"total":4226785280}},"nodes":[1]}},"checksum":6}
"""
CLOUD_HYPERVISOR = """cloud-hypervisor --cpus boot=4,max=8,topology=2:2:1:1 --memory size=0 \\
 --memory-zone id=mem0,size=1G id=mem1,size=2G \\
 --numa guest_numa_id=0,cpus=[0-1],distances=[1@20],memory_zones=mem0 \\
 guest_numa_id=1,cpus=[2-3],distances=[0@20],memory_zones=mem1
"""
VNG = """vng --cpus 8 --memory 4G --numa 2G,cpus=0-3 --numa 2G,cpus=4-7 --numa-distance 0,1=51 -- uname -r
"""
#: Files of a capture, and of a tree without a zoneinfo.
_CAPTURED = (
    "proc/zoneinfo",
    "proc/buddyinfo",
    "proc/pagetypeinfo",
    "proc/swaps",
    "proc/iomem",
    "proc/cpuinfo",
)


def srat() -> bytes:
    """A System Resource Affinity Table of two domains."""
    body = struct.pack("<IQ", 1, 0)
    for domain in range(2):
        body += struct.pack("<BBBBIB3sI", 0, 16, domain, domain, 1, 0, bytes(3), 0)
        body += struct.pack("<BBIHQQIIQ", 1, 40, domain, 0, domain << 30, 1 << 30, 0, 1, 0)
    table = bytearray(
        struct.pack("<4sIBB6s8sI4sI", b"SRAT", 36 + len(body), 3, 0, b"numa", b"fuzz", 1, b"x", 1) + body
    )
    table[9] = -sum(table) & 0xFF
    return bytes(table)


def packed(files: dict[str, bytes]) -> bytes:
    """A tar archive of files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


def trees() -> dict[str, dict[str, bytes]]:
    """Files of trees by format: they are mutated one by one, and read from an archive."""
    sim = Simulation(load_preset("cxl-tier"))
    snapshot = assemble(sim.spec, [node.machine.node_part(nid) for nid, node in sim.nodes.items()])
    every = {path: text.encode() for path, entry, text in tree.walk(snapshot) if not entry.target}
    nodes = {
        path: text
        for path, text in every.items()
        if path.startswith("sys/devices/system/node") and "/hugepages" not in path and "vmstat" not in path
    }
    cpus = {path: text for path, text in every.items() if "/topology/" in path or path.endswith("cpu/online")}
    return {
        "capture": nodes
        | {path: every[path] for path in _CAPTURED}
        | {"proc/version": b"Linux version 6.1.9 (x)\n"},
        "sysfs": nodes | cpus | {"proc/meminfo": every["proc/meminfo"]},
    }


def texts() -> dict[str, list[bytes]]:
    """Good files by format, each a list of them."""
    demo, cxl = load_preset("demo"), load_preset("cxl-tier")
    shown = start_kernel(cxl).snapshot()
    found = {
        "toml": [export(cxl, "toml")[0]],
        "hwloc-xml": [export(cxl, "hwloc-xml")[0]],
        "synthetic": [
            "pack:2 [numa(memory=2GiB)] core:2 pu:2",
            export(load_preset("two-socket"), "synthetic")[0],
        ],
        "numactl": [SHOW["numactl"](shown)],
        "qemu": [export(demo, "qemu")[0]],
        "mem-info": [path.read_text() for path in sorted(REPORTS.glob("*.txt"))],
        "boot-log": [SHOW["dmesg"](shown)],
        "libvirt": [LIBVIRT],
        "lscpu": [LSCPU],
        "lstopo": [LSTOPO],
        "numastat": [NUMASTAT],
        "zoneinfo": [SHOW["zoneinfo"](shown)],
        "buddyinfo": [SHOW["buddyinfo"](shown)],
        "kubelet": [KUBELET],
        "cloud-hypervisor": [CLOUD_HYPERVISOR],
        "virtme-ng": [VNG],
    }
    return {form: [text.encode() for text in own] for form, own in found.items()} | {"acpi": [srat()]}
