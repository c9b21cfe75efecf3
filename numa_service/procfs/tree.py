"""The tree of the emulated machine's /proc and /sys: a table of all files, and lookups of paths in it.

There are no files of what is not modelled at all: pressure/memory, compact_memory, drop_caches.
Paths may have a leading slash or none. Errors are OSErrors with the errno of open(2), as the docstrings name
them.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from numa_service.machine.snapshot import Part
from numa_service.machine.zonelists import has_numa
from numa_service.mm.snapshot import MachineSnapshot
from numa_service.procfs import (
    access,
    cpu,
    hugetlb,
    memory,
    memory_tiers,
    mm,
    node,
    sched,
    sysctl,
    sysfs_slab,
    transparent_hugepage,
)
from numa_service.procfs.buddyinfo import buddyinfo
from numa_service.procfs.dmesg import kmsg
from numa_service.procfs.meminfo import meminfo
from numa_service.procfs.names import printed_by
from numa_service.procfs.needs import (
    EVERYTHING,
    NOTHING,
    SYSCTLS,
    Needs,
    Of,
    of_every_node,
    of_the_node,
)
from numa_service.procfs.page_bits import kpage_size, pagemap_size
from numa_service.procfs.pagetypeinfo import pagetypeinfo
from numa_service.procfs.slabinfo import slabinfo
from numa_service.procfs.version import version
from numa_service.procfs.vmallocinfo import vmallocinfo
from numa_service.procfs.vmstat import vmstat
from numa_service.procfs.zoneinfo import zoneinfo

#: PATH_MAX and NAME_MAX; most links that are followed in a path (MAXSYMLINKS).
MAX_PATH = 4096
MAX_NAME = 255
_MAX_LINKS = 40

#: More than any pid, and what fits into a message: a path may name any number.
_NO_PID = 10**9
#: Values for the stars of a path pattern, as (0, "nr_hugepages"); empty for a pattern without stars.
Numbers = tuple[int | str, ...]
#: A function that returns the values of all files of a pattern.
Each = Callable[[MachineSnapshot], Iterable[Numbers]]
#: A function that returns the values of one star; its arguments are the snapshot, and the values of the stars
#: before.
Star = Callable[..., Iterable[int | str]]

_READ = stat.S_IFREG | 0o444
_ROOT = stat.S_IFREG | 0o400
_WRITE = stat.S_IFREG | 0o644
_ROOT_WRITE = stat.S_IFREG | 0o600
_ROOT_WRITE_ONLY = stat.S_IFREG | 0o200
_LINK = stat.S_IFLNK | 0o777
_DIR = stat.S_IFDIR | 0o555


def _once(snapshot: MachineSnapshot) -> Iterable[Numbers]:
    return ((),)


class Stars:
    """The values for the stars of a pattern, star by star: a directory is listed without what is below it."""

    def __init__(self, *stars: Star) -> None:
        self._stars = stars

    def next(self, snapshot: MachineSnapshot, first: Numbers) -> Iterable[int | str]:
        """Values for the star after the first ones, which have these values."""
        return self._stars[len(first)](snapshot, *first)

    def below(self, snapshot: MachineSnapshot, first: Numbers) -> Iterator[Numbers]:
        """Values for all stars, of which the first have these values."""
        if len(first) == len(self._stars):
            yield first
            return
        for value in self.next(snapshot, first):
            yield from self.below(snapshot, (*first, value))


@dataclass(frozen=True, slots=True)
class Pattern:
    """One row of the table: a path pattern, and the renderer of its files, or of the targets of its links.

    In the path a star stands for any name or the rest of one, # for a number as the kernel prints it, without
    zeros in front.
    """

    path: str
    render: Callable[..., str]
    #: What has to be known of the nodes for its files, and for which of them there are.
    needs: Needs
    each: Each | Stars = _once
    mode: int = _READ
    #: The parts of the path as regular expressions, with a group for each star and #.
    parts: tuple[re.Pattern[str], ...] = field(init=False, repr=False)
    #: For each group whether it is a number.
    numeric: tuple[bool, ...] = field(init=False, repr=False)
    #: The path as a format string.
    template: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        parts = [
            re.escape(part).replace(r"\*", "(.+)").replace(r"\#", "(0|[1-9][0-9]*)")
            for part in self.path.split("/")
        ]
        object.__setattr__(self, "parts", tuple(re.compile(part) for part in parts))
        object.__setattr__(self, "numeric", tuple(mark == "#" for mark in re.findall("[*#]", self.path)))
        object.__setattr__(self, "template", re.sub("[*#]", "{}", self.path))

    def values(self, parts: tuple[str, ...]) -> Numbers | None:
        """Values for the stars in the parts of a path, as far as both go; None if they do not agree."""
        matches = [ours.fullmatch(text) for ours, text in zip(self.parts, parts, strict=False)]
        if not all(matches):
            return None
        texts = [text for matched in matches if matched for text in matched.groups()]
        return tuple(int(text) if of else text for text, of in zip(texts, self.numeric, strict=False))

    def reach(self, snapshot: MachineSnapshot, parts: tuple[str, ...]) -> Numbers | None:
        """Values for the stars in a path, given by its parts; None if no file of this pattern can be there.

        Such a file can be at the path or below it.
        """
        if len(parts) > len(self.parts):
            return None
        values = self.values(parts)
        if values is None or self.path in printed_by(snapshot.profile).absent_files:
            return None
        for at, value in enumerate(values):
            if value not in self._next(snapshot, values[:at]):
                return None
        return values

    def entries(self, snapshot: MachineSnapshot, first: Numbers, depth: int) -> Iterator[tuple[str, Numbers]]:
        """(name, values for the stars so far) of what this pattern has in a directory `depth` parts down.

        `first` are the values for the stars in the path of the directory.
        """
        name = self.template.split("/")[depth]
        if "{}" not in name:
            yield name, first
            return
        for value in self._next(snapshot, first):
            yield name.format(value), (*first, value)

    def _next(self, snapshot: MachineSnapshot, first: Numbers) -> Iterable[int | str]:
        if isinstance(self.each, Stars):
            return self.each.next(snapshot, first)
        return dict.fromkeys(numbers[len(first)] for numbers in self.below(snapshot, first))

    def below(self, snapshot: MachineSnapshot, first: Numbers) -> Iterator[Numbers]:
        """Values for all stars of each file of this pattern, of which the first have these values."""
        if isinstance(self.each, Stars):
            return self.each.below(snapshot, first)
        return (numbers for numbers in self.each(snapshot) if numbers[: len(first)] == first)

    def has(self, snapshot: MachineSnapshot, first: Numbers) -> bool:
        """Whether there is a file of this pattern whose first stars have these values."""
        return next(iter(self.below(snapshot, first)), None) is not None


def _nids(snapshot: MachineSnapshot) -> Iterable[int]:
    return (n.nid for n in node.online_nodes(snapshot))


def _sizes_of_node(snapshot: MachineSnapshot, nid: int) -> Iterable[int]:
    return (kb for (kb,) in hugetlb.sizes(snapshot))


#: Files of a task that can be written.
TASK_WRITABLE = ("oom_adj", "oom_score_adj")


def _task_files(snapshot: MachineSnapshot, pid: int) -> Iterable[str]:
    return (name for name in snapshot.tasks[pid] if name not in TASK_WRITABLE)


def _task_writable(snapshot: MachineSnapshot, pid: int) -> Iterable[str]:
    return (name for name in snapshot.tasks[pid] if name in TASK_WRITABLE)


_pids = Stars(lambda snapshot: snapshot.tasks)
_tasks = Stars(lambda snapshot: snapshot.tasks, _task_files)
_written_tasks = Stars(lambda snapshot: snapshot.tasks, _task_writable)
_nodes = Stars(_nids)
_node_pools = Stars(_nids, _sizes_of_node)
_node_memory_failure = Stars(_nids, lambda snapshot, nid: mm.MEMORY_FAILURE)
_node_cpus = Stars(_nids, cpu.cpus_of_node)
_node_blocks = Stars(_nids, memory.blocks_of_node)
_cpus = Stars(cpu.cpus)
_cpu_topology = Stars(cpu.cpus, lambda snapshot, number: cpu.topology_names(snapshot))
_cpu_nodes = Stars(cpu.cpus, cpu.nodes_of_cpu)
_attributes = Stars(_nids, access.classes, lambda snapshot, nid, of: access.ATTRIBUTES)
_initiators = Stars(_nids, access.classes, access.initiators)
_targets = Stars(_nids, access.classes_from, access.targets)
_blocks = Stars(memory.memory_blocks)
_block_nodes = Stars(memory.memory_blocks, memory.nodes_of_block)
_slab_files = Stars(sysfs_slab.directories, sysfs_slab.files)
_slab_writable = Stars(sysfs_slab.directories, sysfs_slab.writable_files)


def _tiers(snapshot: MachineSnapshot) -> Iterable[Numbers]:
    return memory_tiers.tiers(snapshot) if has_numa(snapshot) else ()


def _page_files(snapshot: MachineSnapshot, name: str) -> Iterable[Numbers]:
    return ((),) if kpage_size(snapshot, name) else ()


def _by_offset(snapshot: MachineSnapshot, *numbers: int | str) -> str:
    """The text of a file that is an array of numbers, and is never read as a whole: none."""
    return ""


def size_by_offset(snapshot: MachineSnapshot, pattern: Pattern) -> int:
    """Bytes of a file that is read by offset; 0 of all others."""
    if pattern.render is not _by_offset:
        return 0
    name = pattern.path.rsplit("/", 1)[-1]
    return pagemap_size(snapshot) if name == "pagemap" else kpage_size(snapshot, name)


def _task_file(snapshot: MachineSnapshot, pid: int, name: str) -> str:
    return snapshot.tasks[pid][name]


def _if(condition: Callable[[MachineSnapshot], bool]) -> Each:
    return lambda snapshot: _once(snapshot) if condition(snapshot) else ()


def _has_blocks(snapshot: MachineSnapshot) -> bool:
    return any(n.memory_blocks for n in snapshot.nodes)


def _of_node(render: Callable[[MachineSnapshot, Any], str]) -> Callable[[MachineSnapshot, int], str]:
    return lambda snapshot, nid: render(snapshot, next(n for n in snapshot.nodes if n.nid == nid))


def _to(template: str) -> Callable[..., str]:
    return lambda snapshot, *numbers: template.format(*numbers)


_NODE, _CPU, _MEMORY = (f"sys/devices/system/{name}" for name in ("node", "cpu", "memory"))
_HUGE = "hugepages/hugepages-#kB"
#: Where the files of transparent huge pages are.
THP = "sys/kernel/mm/transparent_hugepage"
_MM = "sys/kernel/mm"

#: Files that sum up the counters of all nodes, with their page tables.
_COUNTERS = of_every_node(Part.PAGE_TABLES, Part.SYSCTLS, Part.VMALLOC)
_UPTIME = of_every_node(Part.UPTIME)
_OF_ALL, _OF_NODE = of_every_node(), of_the_node()
_BLOCKS, _NODE_BLOCKS = of_every_node(Part.MEMORY_BLOCKS), of_the_node(Part.MEMORY_BLOCKS)
_NODE_COUNTERS = of_the_node(Part.PAGE_TABLES)
_SLAB = of_every_node(Part.SLAB)

TABLE: tuple[Pattern, ...] = (
    Pattern("proc/version", version, NOTHING),
    Pattern("proc/zoneinfo", zoneinfo, of_every_node(Part.PAGESETS, Part.PAGE_TABLES)),
    Pattern("proc/buddyinfo", buddyinfo, _OF_ALL),
    Pattern("proc/pagetypeinfo", pagetypeinfo, of_every_node(Part.FREE_LISTS), mode=_ROOT),
    Pattern("proc/vmstat", vmstat, _COUNTERS),
    Pattern("proc/meminfo", meminfo, _COUNTERS),
    Pattern("proc/cpuinfo", cpu.cpuinfo, NOTHING),
    Pattern("proc/stat", cpu.stat, _UPTIME),
    Pattern("proc/uptime", cpu.uptime, _UPTIME),
    Pattern("proc/slabinfo", slabinfo, _SLAB, _if(lambda snapshot: snapshot.slab == "slub"), _ROOT),
    Pattern("proc/slabinfo", slabinfo, _SLAB, _if(lambda snapshot: snapshot.slab == "slab"), _ROOT_WRITE),
    Pattern("proc/vmallocinfo", vmallocinfo, of_every_node(Part.VMALLOC), mode=_ROOT),
    Pattern("proc/swaps", memory.swaps, _OF_ALL),
    Pattern("proc/kmsg", kmsg, of_every_node(Part.KMSG), mode=_ROOT),
    Pattern("proc/iomem", memory.iomem, _OF_ALL, mode=_ROOT),
    Pattern("proc/sys/vm/nr_hugepages", hugetlb.nr_hugepages, _OF_ALL, mode=_WRITE),
    Pattern("proc/sys/vm/nr_hugepages_mempolicy", hugetlb.nr_hugepages, _OF_ALL, _if(has_numa), _WRITE),
    Pattern("proc/sys/*/*", sysctl.show, SYSCTLS, sysctl.writable, mode=_WRITE),
    Pattern("proc/sys/*/*", sysctl.show, SYSCTLS, sysctl.shown_only),
    Pattern("proc/#/*", _task_file, of_every_node(Part.TASKS), _tasks),
    Pattern("proc/#/*", _task_file, of_every_node(Part.TASKS), _written_tasks, _WRITE),
    Pattern("proc/#/pagemap", _by_offset, of_every_node(Part.TASKS), _pids, _ROOT),
    *(
        Pattern(f"proc/{name}", _by_offset, _OF_ALL, partial(_page_files, name=name), _ROOT)
        for name in ("kpageflags", "kpagecount", "kpagecgroup")
    ),
    # nodes
    *(
        Pattern(f"{_NODE}/{name}", render, needs, _if(has_numa))
        for name, render, needs in (
            ("online", node.online, NOTHING),
            ("possible", node.possible, NOTHING),
            ("has_cpu", node.has_cpu, NOTHING),
            ("has_memory", node.has_memory, _OF_ALL),
            ("has_normal_memory", node.has_normal_memory, _OF_ALL),
            ("has_generic_initiator", node.has_generic_initiator, NOTHING),
        )
    ),
    *(
        Pattern(f"{_NODE}/node#/{name}", _of_node(render), needs, _nodes)
        for name, render, needs in (
            ("cpulist", node.cpulist, NOTHING),
            ("cpumap", node.cpumap, NOTHING),
            ("distance", node.distance, NOTHING),
            ("meminfo", node.meminfo, _NODE_COUNTERS),
            ("numastat", node.numastat, _OF_NODE),
            ("vmstat", node.vmstat, _NODE_COUNTERS),
        )
    ),
    Pattern(f"{_NODE}/node#/{_HUGE}/nr_hugepages", hugetlb.node_nr_hugepages, _OF_NODE, _node_pools, _WRITE),
    *(
        Pattern(f"{_NODE}/node#/{_HUGE}/{name}", partial(hugetlb.of_node, name=name), _OF_NODE, _node_pools)
        for name in ("free_hugepages", "surplus_hugepages")
    ),
    Pattern(f"{_NODE}/node#/memory_failure/*", mm.memory_failure, _OF_NODE, _node_memory_failure),
    Pattern(f"{_NODE}/node#/access#/initiators/*", access.attribute, NOTHING, _attributes),
    Pattern(f"{_NODE}/node#/access#/initiators/node#", _to("../../../node{2}"), NOTHING, _initiators, _LINK),
    Pattern(f"{_NODE}/node#/access#/targets/node#", _to("../../../node{2}"), NOTHING, _targets, _LINK),
    Pattern(f"{_NODE}/node#/cpu#", _to("../../cpu/cpu{1}"), NOTHING, _node_cpus, _LINK),
    Pattern(f"{_NODE}/node#/memory#", _to("../../memory/memory{1}"), _NODE_BLOCKS, _node_blocks, _LINK),
    # CPUs
    *(Pattern(f"{_CPU}/{name}", cpu.cpu_list, NOTHING) for name in ("online", "present")),
    Pattern(f"{_CPU}/possible", cpu.possible, NOTHING),
    Pattern(f"{_CPU}/offline", cpu.offline, NOTHING),
    Pattern(f"{_CPU}/kernel_max", cpu.kernel_max, NOTHING),
    Pattern(f"{_CPU}/cpu#/topology/*", cpu.topology, NOTHING, _cpu_topology),
    Pattern(f"{_CPU}/cpu#/node#", _to("../../node/node{1}"), NOTHING, _cpu_nodes, _LINK),
    # memory blocks
    Pattern(f"{_MEMORY}/block_size_bytes", memory.block_size_bytes, _BLOCKS, _if(_has_blocks)),
    Pattern(f"{_MEMORY}/auto_online_blocks", memory.auto_online_blocks, _BLOCKS, _if(_has_blocks)),
    *(
        Pattern(
            f"{_MEMORY}/{name}_offline_page", memory.write_only, _BLOCKS, _if(_has_blocks), _ROOT_WRITE_ONLY
        )
        for name in ("soft", "hard")
    ),
    Pattern(f"{_MEMORY}/memory#/state", memory.state, _BLOCKS, _blocks, _WRITE),
    Pattern(f"{_MEMORY}/memory#/phys_index", memory.phys_index, _BLOCKS, _blocks),
    Pattern(f"{_MEMORY}/memory#/phys_device", memory.phys_device, _BLOCKS, _blocks),
    Pattern(f"{_MEMORY}/memory#/online", memory.online, _BLOCKS, _blocks, _WRITE),
    Pattern(f"{_MEMORY}/memory#/removable", memory.removable, _BLOCKS, _blocks),
    Pattern(f"{_MEMORY}/memory#/valid_zones", memory.valid_zones, _BLOCKS, _blocks),
    Pattern(f"{_MEMORY}/memory#/node#", _to("../../node/node{1}"), _BLOCKS, _block_nodes, _LINK),
    # mm
    Pattern(f"{_MM}/{_HUGE}/nr_hugepages", hugetlb.nr_hugepages, _OF_ALL, hugetlb.sizes, _WRITE),
    Pattern(
        f"{_MM}/{_HUGE}/nr_hugepages_mempolicy", hugetlb.nr_hugepages, _OF_ALL, hugetlb.numa_sizes, _WRITE
    ),
    Pattern(
        f"{_MM}/{_HUGE}/nr_overcommit_hugepages",
        hugetlb.overcommit,
        of_every_node(Part.SYSCTLS),
        hugetlb.sizes,
        _WRITE,
    ),
    *(
        Pattern(f"{_MM}/{_HUGE}/{name}", partial(hugetlb.of_machine, name=name), _OF_ALL, hugetlb.sizes)
        for name in ("free_hugepages", "resv_hugepages", "surplus_hugepages")
    ),
    Pattern(f"{THP}/hpage_pmd_size", mm.hpage_pmd_size, NOTHING),
    Pattern(f"{THP}/*", transparent_hugepage.show, SYSCTLS, transparent_hugepage.written, _WRITE),
    Pattern(f"{THP}/*/*", transparent_hugepage.show, SYSCTLS, transparent_hugepage.written_below, _WRITE),
    Pattern(
        f"{THP}/*/*", transparent_hugepage.count, of_every_node(Part.PAGE_TABLES), transparent_hugepage.counts
    ),
    Pattern(
        f"{THP}/*/*/*",
        transparent_hugepage.count,
        of_every_node(Part.PAGE_TABLES),
        transparent_hugepage.counts_of_sizes,
    ),
    Pattern(f"{_MM}/numa/demotion_enabled", mm.demotion_enabled, NOTHING, _if(has_numa)),
    Pattern(
        f"{_MM}/mempolicy/weighted_interleave/node#",
        mm.interleave_weight,
        SYSCTLS,
        mm.interleave_weights,
        _WRITE,
    ),
    Pattern(
        "sys/devices/virtual/memory_tiering/memory_tier#/nodelist", memory_tiers.nodelist, _OF_ALL, _tiers
    ),
    Pattern(
        "sys/kernel/debug/sched/numa_balancing/*",
        sched.numa_balancing,
        NOTHING,
        sched.numa_balancing_files,
        _ROOT,
    ),
    # slab caches
    Pattern("sys/kernel/slab/*/*", sysfs_slab.attribute, _SLAB, _slab_writable, _ROOT_WRITE),
    Pattern("sys/kernel/slab/*/*", sysfs_slab.attribute, _SLAB, _slab_files, _ROOT),
    Pattern("sys/kernel/slab/*", sysfs_slab.target, _SLAB, sysfs_slab.aliases, _LINK),
)

_LINKS = tuple(pattern for pattern in TABLE if pattern.mode == _LINK)


def needs(path: str) -> Needs:
    """What has to be known of the nodes to read, write or list a path, whether it exists or not.

    A snapshot with less than everything answers for this path alone.
    """
    parts = _parts(path)
    if ".." in parts:
        return EVERYTHING
    wanted = NOTHING
    for pattern in TABLE:
        values = pattern.values(parts)
        if values is None:
            continue
        if pattern.mode == _LINK and len(pattern.parts) <= len(parts) and pattern.needs != _SLAB:
            return EVERYTHING  # behind it there may be anything; links of slab caches lead to slab caches
        if pattern.needs.of is not Of.NODE:
            wanted |= pattern.needs
        elif values:
            wanted |= replace(pattern.needs, nid=int(values[0]))
        else:
            wanted |= replace(pattern.needs, of=Of.EVERY)
    if Part.TASKS in wanted.parts and len(parts) > 1:
        wanted = replace(wanted, pid=min(int(parts[1]), _NO_PID))
    return wanted


def _parts(path: str) -> tuple[str, ...]:
    return tuple(part for part in path.split("/") if part not in ("", "."))


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in a directory."""

    name: str
    #: st_mode of struct stat: type and permissions.
    mode: int
    #: Target of a link; empty for other entries.
    target: str = ""
    #: Bytes of a file that is read by offset (``node/page_files.py``), and has no text; 0 of all others.
    size: int = 0

    @property
    def is_dir(self) -> bool:
        """Whether it is a directory."""
        return stat.S_ISDIR(self.mode)


def error(number: int, path: str) -> OSError:
    """The OSError (FileNotFoundError, …) of an errno and a path."""
    return OSError(number, os.strerror(number), f"/{path.strip('/')}")


def _instance(pattern: Pattern, snapshot: MachineSnapshot, parts: tuple[str, ...]) -> Numbers | None:
    if len(parts) != len(pattern.parts):
        return None
    numbers = pattern.reach(snapshot, parts)
    return numbers if numbers is not None and pattern.has(snapshot, numbers) else None


def _find(snapshot: MachineSnapshot, parts: tuple[str, ...]) -> tuple[Pattern, Numbers] | None:
    for pattern in TABLE:
        numbers = _instance(pattern, snapshot, parts)
        if numbers is not None:
            return pattern, numbers
    return None


def resolve(snapshot: MachineSnapshot, path: str) -> tuple[str, ...]:
    """The parts of a path with all links followed, whether there is a file or not. ENAMETOOLONG, ELOOP."""
    if len(path) >= MAX_PATH or any(len(part) > MAX_NAME for part in path.split("/")):
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), f"{path[:60]}…")
    ahead, links = path.split("/")[::-1], 0
    done: list[str] = []
    while ahead:
        part = ahead.pop()
        if part in ("", "."):
            continue
        if part == "..":
            del done[-1:]
            continue
        done.append(part)
        for pattern in _LINKS:
            numbers = _instance(pattern, snapshot, tuple(done))
            if numbers is not None:
                links += 1
                if links > _MAX_LINKS:
                    raise error(errno.ELOOP, path)
                done.pop()
                ahead += pattern.render(snapshot, *numbers).split("/")[::-1]
                break
    return tuple(done)


def find(snapshot: MachineSnapshot, path: str) -> tuple[str, Pattern, Numbers]:
    """(path without links, pattern, values for its stars) of the file at a path.

    ENOENT, ENOTDIR, EISDIR, and the errors of :func:`resolve`.
    """
    parts = resolve(snapshot, path)
    found = _find(snapshot, parts)
    if found is not None:
        if path.endswith("/"):
            raise error(errno.ENOTDIR, path)
        return "/".join(parts), *found
    if _has_below(snapshot, parts):
        raise error(errno.EISDIR, path)
    raise _nothing_there(snapshot, parts, path)


def _nothing_there(snapshot: MachineSnapshot, parts: tuple[str, ...], path: str) -> OSError:
    """The error for a path without file or directory: ENOTDIR if it is below a file, else ENOENT."""
    below_a_file = any(_find(snapshot, parts[:end]) for end in range(1, len(parts)))
    return error(errno.ENOTDIR if below_a_file else errno.ENOENT, path)


def _reaching(snapshot: MachineSnapshot, parts: tuple[str, ...]) -> Iterator[tuple[Pattern, Numbers]]:
    """(pattern, values for its stars so far) of the patterns that may have files below a directory."""
    for pattern in TABLE:
        if len(pattern.parts) > len(parts):
            numbers = pattern.reach(snapshot, parts)
            if numbers is not None:
                yield pattern, numbers


def _has_below(snapshot: MachineSnapshot, parts: tuple[str, ...]) -> bool:
    return any(pattern.has(snapshot, first) for pattern, first in _reaching(snapshot, parts))


def _below(snapshot: MachineSnapshot, parts: tuple[str, ...]) -> Iterator[tuple[str, Pattern, Numbers]]:
    for pattern, first in _reaching(snapshot, parts):
        for numbers in pattern.below(snapshot, first):
            yield pattern.template.format(*numbers), pattern, numbers


def read(snapshot: MachineSnapshot, path: str) -> str:
    """The text of a file. ENOENT, ENOTDIR, EISDIR, ELOOP, ENAMETOOLONG; EACCES if it can only be written.

    EFBIG for a file that is read by offset only.
    """
    _, pattern, numbers = find(snapshot, path)
    if size_by_offset(snapshot, pattern):
        raise error(errno.EFBIG, path)
    if not pattern.mode & stat.S_IRUSR:
        raise error(errno.EACCES, path)
    return pattern.render(snapshot, *numbers)


def listdir(snapshot: MachineSnapshot, path: str = "") -> list[Entry]:
    """The entries of a directory, sorted by name. ENOENT, ENOTDIR, ELOOP, ENAMETOOLONG."""
    parts = resolve(snapshot, path)
    found: dict[str, Entry] = {}
    for pattern, first in _reaching(snapshot, parts):
        is_file = len(pattern.parts) == len(parts) + 1
        for name, numbers in pattern.entries(snapshot, first, len(parts)):
            if (is_file or name not in found) and pattern.has(snapshot, numbers):
                found[name] = _entry(name, snapshot, pattern, numbers) if is_file else Entry(name, _DIR)
    if not found:
        raise error(errno.ENOTDIR, path) if _find(snapshot, parts) else _nothing_there(snapshot, parts, path)
    return [found[name] for name in sorted(found)]


def walk(snapshot: MachineSnapshot, path: str = "") -> Iterator[tuple[str, Entry, str]]:
    """(path, entry, text) of every file and link at or below a path; links are not followed below it.

    The text of a link is empty. ENOENT, ENOTDIR, ELOOP, ENAMETOOLONG.
    """
    parts = resolve(snapshot, path)
    alone = _find(snapshot, parts)
    found = ("/".join(parts), *alone) if alone else None
    nothing = True
    for below, pattern, numbers in (found,) if found else _below(snapshot, parts):
        nothing = False
        entry = _entry(below.rsplit("/", 1)[-1], snapshot, pattern, numbers)
        yield below, entry, "" if entry.target else pattern.render(snapshot, *numbers)
    if nothing:
        raise _nothing_there(snapshot, parts, path)


def _entry(name: str, snapshot: MachineSnapshot, pattern: Pattern, numbers: Numbers) -> Entry:
    target = pattern.render(snapshot, *numbers) if pattern.mode == _LINK else ""
    return Entry(name, pattern.mode, target, size_by_offset(snapshot, pattern))
