"""Why an answer differs from a judge's, by file and question; "*" is every question."""

from __future__ import annotations

from judges.questions import Row

RESTRICTED = "the tool shows what its process was allowed to use, the machine has more"
FIRMWARE = "hwloc drops nodes that firmware describes wrongly; a kernel has them"
LIMIT = "more than 64 TiB, by design of the tool's test"
NO_MEMORY = "hwloc shows nodes with memory only"
STRAYS = "CPUs of a node that is off-line are put on another (noted)"
LEFT_OUT = "one package is missing from the output: a test of groups of PCI devices that conflict"
OLD_LSCPU = "lscpu 2.38 cannot read this dump's CPUs"
CORE_IDS = "threads with different core ids: hwloc calls them cores, lscpu not; here as hwloc"
GROWN = "marks were set at boot: what zones had then is told by reserves, to a page in 256"

_BY_FILE = {
    "16em64t-4s2ca2c-cpusetreorder.tar.bz2": RESTRICTED,
    "32amd64-4s2n4c-cgroup2.tar.bz2": RESTRICTED,
    "4fake-4gr1nu1pu.tar.bz2": RESTRICTED,
    "irregulargroups-disallowed.xml": RESTRICTED,
    "2i386-2t-hugepagesizecount.tar.bz2": LIMIT,
    "40intel64-4n10c+pci-conflicts.tar.bz2": LEFT_OUT,
    "8em64t-2s2ca2c-buggynuma.tar.bz2": FIRMWARE,
    "fakememinitiators-1np2c+1npp+gi.tar.bz2": NO_MEMORY,
    "offline-cpu0-node0.tar.bz2": STRAYS,
    "rv64-linux.tar.gz": OLD_LSCPU,
    "rv64-milkvpioneer.tar.gz": OLD_LSCPU,
    "vmware_fpe.tar.gz": CORE_IDS,
}


def cause(row: Row) -> str:
    """Why the answers of a row differ; empty if that is not known."""
    if row.judge == "PCP roots" and row.what.startswith("low and high"):
        return GROWN
    return _BY_FILE.get(row.file, "")
