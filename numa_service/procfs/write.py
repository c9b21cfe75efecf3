"""Writes to files of /proc and /sys: they are parsed into what the machine is to do, which others then do."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass

from numa_service.machine.record import SlabTunables
from numa_service.machine.spec import MachineSpec, SpecError
from numa_service.machine.sysctl import SYSCTLS, parse_sysctl, weight_name
from numa_service.machine.thp_files import key_of
from numa_service.machine.zonelists import has_numa
from numa_service.mm.hugetlb.hstate import Hstate
from numa_service.mm.mmzone import PAGE_SHIFT
from numa_service.mm.oom_kill import OOM_SCORE_ADJ_MAX
from numa_service.mm.slab.flags import DEBUG_FLAGS
from numa_service.mm.slab.profile import slub_of
from numa_service.mm.slab.slab import parse_tunables, tunables_are_sane
from numa_service.mm.snapshot import MachineSnapshot
from numa_service.procfs.pid_oom import adj_of_oom_adj
from numa_service.procfs.sysctl import NUMA_ONLY
from numa_service.procfs.sysfs_slab import COMMANDS, WRITABLE, cache_of
from numa_service.procfs.tree import THP, error, find

#: Most bytes of a write: a page, as in sysfs.
MAX_WRITE = 4096

#: MAX_SLABINFO_WRITE: most bytes of a line for /proc/slabinfo.
MAX_SLABINFO_WRITE = 128
_INT_MAX = (1 << 31) - 1
#: Characters of a write to oom_score_adj that count (PROC_NUMBUF - 1).
_OOM_WRITE = 12

_STATES = ("online", "online_kernel", "online_movable", "offline")
_TRUE = ("1", "y", "Y", "on", "ON", "On")
_FALSE = ("0", "n", "N", "off", "OFF", "Off")


@dataclass(frozen=True, slots=True)
class WriteSysctl:
    """A sysctl, or a weight that is kept like one, is to be written, for every node of the machine."""

    key: str
    value: str


@dataclass(frozen=True, slots=True)
class ResizeHugepages:
    """Pools of huge pages are to be made as large as asked for, which the node that keeps them does."""

    #: kB of a huge page.
    kb: int
    count: int
    #: The node whose pool it is; None: those of all nodes.
    nid: int | None = None


@dataclass(frozen=True, slots=True)
class WriteOomScoreAdj:
    """oom_score_adj of a task is to be written, which its home does."""

    pid: int
    value: int


@dataclass(frozen=True, slots=True)
class OfflinePage:
    """A page is to be taken out of use by its node: softly, or as after an error of its memory."""

    pfn: int
    soft: bool


@dataclass(frozen=True, slots=True)
class ChangeMemoryBlock:
    """A memory block is to change its state, which the node that has the block does."""

    block: int
    state: str


@dataclass(frozen=True, slots=True)
class TuneSlab:
    """Tunables of a slab cache are to be written, for every node of the machine."""

    tunables: SlabTunables


@dataclass(frozen=True, slots=True)
class WriteSlabFile:
    """A number is to be written to a file of a slab cache, for every node of the machine."""

    cache: str
    file: str
    value: int


@dataclass(frozen=True, slots=True)
class ValidateCache:
    """The objects of a slab cache are to be checked, on every node."""

    cache: str


@dataclass(frozen=True, slots=True)
class ShrinkCache:
    """A slab cache is to give back what it can, on every node."""

    cache: str


#: What a write can mean.
Written = (
    WriteSysctl
    | ChangeMemoryBlock
    | OfflinePage
    | WriteOomScoreAdj
    | ResizeHugepages
    | TuneSlab
    | WriteSlabFile
    | ShrinkCache
    | ValidateCache
)


def parse_sysctl_write(spec: MachineSpec, path: str, data: bytes) -> WriteSysctl | None:
    """A write to a sysctl, parsed without a snapshot, and so without asking any node.

    None if the path is not plainly that of a writable sysctl: :func:`parse_write` then decides. OSError with
    EFBIG or EINVAL.
    """
    match path.removeprefix("/").split("/"):
        case ["proc", "sys", folder, name]:
            key = f"{folder}.{name}"
            has = key in SYSCTLS and SYSCTLS[key].is_in(spec.profile)
            if has and (has_numa(spec) or key not in NUMA_ONLY):
                return WriteSysctl(key, _value(key, spec.profile, path, data))
    return None


def parse_write(snapshot: MachineSnapshot, path: str, data: bytes) -> Written | None:
    """A write of `data` to a file, parsed; None if it would change nothing.

    OSErrors are those of :func:`numa_service.procfs.tree.find`, EACCES for a file that cannot be written,
    EFBIG for more than a page, and EINVAL or ERANGE for what the kernel refuses, with the reason in its text.
    """
    place, pattern, numbers = find(snapshot, path)
    if not pattern.mode & stat.S_IWUSR:
        raise error(errno.EACCES, path)
    if "_hugepages" in place or place.endswith(("/nr_hugepages", "/nr_hugepages_mempolicy")):
        return _hugepages(snapshot, place, numbers, path, data)
    if place.startswith("proc/sys/"):
        key = ".".join(map(str, numbers))
        return WriteSysctl(key, _value(key, snapshot.profile, path, data))
    if place.startswith("sys/kernel/mm/mempolicy/"):
        key = weight_name(int(numbers[0]))
        return WriteSysctl(key, _value(key, snapshot.profile, path, data))
    if place.startswith(f"{THP}/"):
        key = key_of(place.removeprefix(f"{THP}/"))
        return WriteSysctl(key, _value(key, snapshot.profile, path, data))
    text = _text(path, data)
    if place.endswith(("/oom_score_adj", "/oom_adj")):
        return _oom_score_adj(int(numbers[0]), place, path, text)
    if place == "proc/slabinfo":
        return _tunables(snapshot, path, text)
    if place.startswith("sys/kernel/slab/"):
        return _slab_file(snapshot, path, text, *map(str, numbers))
    if place.endswith("_offline_page"):
        return _offline_page(place, path, text)
    block = int(numbers[0])
    if place.endswith("/state"):
        if text not in _STATES:
            raise _invalid(path, f"{text[:40]!r} is not {', '.join(_STATES)}")
        return ChangeMemoryBlock(block, text)
    if text not in (*_TRUE, *_FALSE):
        raise _invalid(path, f"{text[:40]!r} is neither 0 nor 1")
    wanted = text in _TRUE
    now = any(b.online for node in snapshot.nodes for b in node.memory_blocks if b.number == block)
    if wanted == now:
        return None
    return ChangeMemoryBlock(block, "online" if wanted else "offline")


def _hugepages(
    snapshot: MachineSnapshot, place: str, numbers: tuple[int | str, ...], path: str, data: bytes
) -> WriteSysctl | ResizeHugepages:
    """A write to a file of a pool of huge pages (nr_hugepages_store, nr_overcommit_hugepages_store)."""
    # /proc/sys takes numbers as C writes them, sysfs decimal ones
    count = _unsigned(path, _text(path, data), 0 if place.startswith("proc/") else 10)
    kb = int(numbers[-1]) if numbers and place.startswith("sys/") else snapshot.default_hugepage_kb
    if place.endswith("/nr_overcommit_hugepages"):
        if Hstate(kb).gigantic:
            raise _invalid(path, f"huge pages of {kb} kB do not come from the buddy system")
        key = "vm.nr_overcommit_hugepages"
        return WriteSysctl(key, _value(key, snapshot.profile, path, data))
    nid = int(numbers[0]) if place.startswith("sys/devices/") else None
    return ResizeHugepages(kb, count, nid)


def _offline_page(place: str, path: str, text: str) -> OfflinePage:
    """A physical address for a file that takes a page off-line; EINVAL whatever is wrong with it."""
    try:
        address = _unsigned(path, text, 0)
    except OSError as refused:
        raise _invalid(path, f"{text[:40]!r} is no address") from refused
    return OfflinePage(address >> PAGE_SHIFT, soft=place.endswith("/soft_offline_page"))


def _oom_score_adj(pid: int, place: str, path: str, text: str) -> WriteOomScoreAdj:
    """oom_score_adj_write, oom_adj_write: a number as C writes it, of which 12 characters count."""
    text = text[:_OOM_WRITE].strip()
    if text.startswith("-+"):
        raise _invalid(path, f"{text!r} is no number")
    value = _unsigned(path, text.removeprefix("-"), 0)
    if value > _INT_MAX:
        raise OSError(errno.ERANGE, f"{os.strerror(errno.ERANGE)}: {text!r}", f"/{path.strip('/')}")
    adj: int | None = -value if text.startswith("-") else value
    if place.endswith("/oom_adj"):
        adj = adj_of_oom_adj(adj or 0)
    if adj is None or abs(adj) > OOM_SCORE_ADJ_MAX:
        raise _invalid(path, f"{text!r} is out of range")
    return WriteOomScoreAdj(pid, adj)


def _unsigned(path: str, text: str, base: int) -> int:
    """kstrtoull: a number of 64 bits; base 0: hexadecimal after 0x, octal after 0. EINVAL, ERANGE."""
    digits = text.removeprefix("+")
    if base == 0:
        base = 16 if digits[:2].lower() == "0x" else 8 if digits[:1] == "0" else 10
    digits = digits[2:] if base == 16 else digits
    allowed = "0123456789abcdef"[:base]
    if not digits or not set(digits.lower()) <= set(allowed):
        raise _invalid(path, f"{text[:40]!r} is no number")
    if len(digits) > 64 or int(digits, base) >= 1 << 64:
        raise OSError(errno.ERANGE, f"{os.strerror(errno.ERANGE)}: {text[:40]!r}", f"/{path.strip('/')}")
    return int(digits, base)


def _slab_file(
    snapshot: MachineSnapshot, path: str, text: str, directory: str, file: str
) -> ShrinkCache | ValidateCache | WriteSlabFile:
    """A write to a file of a cache of SLUB (shrink_store, min_partial_store, cpu_partial_store, …)."""
    cache = cache_of(snapshot, directory)
    if file in COMMANDS:
        if not text.startswith("1"):
            raise _invalid(path, f"{text[:40]!r} is not 1")
        if file == "shrink":
            return ShrinkCache(cache.name)
        if slub_of(snapshot.profile).work.validates_debugged and not cache.flags & DEBUG_FLAGS:
            raise _invalid(path, "only a cache with debugging is checked")
        return ValidateCache(cache.name)
    if file == "skip_kfence":  # only the first character counts
        text = text[:1]
    digits = text.removeprefix("+")
    if not (digits.isascii() and digits.isdecimal()):
        raise _invalid(path, f"{text[:40]!r} is not a number")
    value, most = int(digits), WRITABLE[file]
    if value > most and file == "skip_kfence":
        raise _invalid(path, f"{text!r} is neither 0 nor 1")
    if value > most:
        raise OSError(errno.ERANGE, f"{os.strerror(errno.ERANGE)}: more than {most}", f"/{path.strip('/')}")
    if file == "cpu_partial" and value and cache.flags & DEBUG_FLAGS:
        raise _invalid(path, "a cache with debugging has no slabs of CPUs")
    return WriteSlabFile(cache.name, file, value)


def _tunables(snapshot: MachineSnapshot, path: str, text: str) -> TuneSlab | None:
    """A line for /proc/slabinfo (slabinfo_write of SLAB); a cache is known by its own name only."""
    if len(text) >= MAX_SLABINFO_WRITE:
        raise _invalid(path, f"more than {MAX_SLABINFO_WRITE} bytes")
    try:
        written = SlabTunables(*parse_tunables(text))
    except ValueError as refused:
        raise _invalid(path, str(refused)) from None
    if written.cache not in (cache.name for cache in snapshot.slab_caches):
        raise _invalid(path, f"no cache is called {written.cache!r:.80}")
    _, limit, batchcount, shared = written
    if max(abs(limit), abs(batchcount), abs(shared)) > _INT_MAX:
        raise _invalid(path, "a number is too large")
    return TuneSlab(written) if tunables_are_sane(limit, batchcount, shared) else None


def _value(key: str, profile: str, path: str, data: bytes) -> str:
    text = _text(path, data)
    try:
        return parse_sysctl(key, text, profile)
    except SpecError as refused:
        raise _invalid(path, str(refused)) from None


def _text(path: str, data: bytes) -> str:
    if len(data) > MAX_WRITE:
        raise error(errno.EFBIG, path)
    try:
        return data.decode("ascii").strip()
    except UnicodeDecodeError:
        raise _invalid(path, "not ASCII") from None


def _invalid(path: str, reason: str) -> OSError:
    return OSError(errno.EINVAL, f"{os.strerror(errno.EINVAL)}: {reason}", f"/{path.strip('/')}")
