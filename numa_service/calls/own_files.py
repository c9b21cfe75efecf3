"""Files of /proc and /sys that depend on who reads them, or that change while a program runs."""

from __future__ import annotations

import ctypes
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from numa_service.calls.areas import address_space
from numa_service.calls.counting import Counting
from numa_service.calls.machine import MachineOfCalls
from numa_service.calls.placement import PAGE_SHIFT, Vma, vmas
from numa_service.calls.processes import Gone, Process, Processes, Thread
from numa_service.mm.mempolicy.calls import Area
from numa_service.mm.mempolicy.nodemask import nids_of, nodelist
from numa_service.mm.mempolicy.text import mpol_to_str
from numa_service.procfs.node import bitmap

_OF_PROCESS = re.compile(
    r"/proc/(?:(?P<own>self|thread-self)|(?P<pid>\d{1,10}))(?:/task/(?P<tid>\d{1,10}))?/(?P<name>status|stat|numa_maps)"
)
#: Files of the machine whose text changes as memory is taken.
_OF_MACHINE = re.compile(
    r"/proc/(?:meminfo|vmstat|zoneinfo|buddyinfo|pagetypeinfo)"
    r"|/sys/devices/system/node/node\d{1,4}/(?:meminfo|numastat|vmstat)"
)
#: struct sysinfo of x86-64: six words of memory in its middle (those of _MEMINFO), high memory and mem_unit.
_SYSINFO_BYTES: Final = 112
_MEMORY: Final = struct.Struct("6Q")
_MEMORY_AT: Final = 32
_HIGH: Final = struct.Struct("2QI")
_HIGH_AT: Final = 88
_MEMINFO: Final = ("MemTotal", "MemFree", "Shmem", "Buffers", "SwapTotal", "SwapFree")

#: The field "processor" of /proc/PID/stat, among those behind the name, which begin with a blank.
_PROCESSOR: Final = 37

_libc = ctypes.CDLL(None, use_errno=True)


class OwnFiles:
    """Renders them for the thread that opens one."""

    def __init__(self, machine: MachineOfCalls, processes: Processes, counting: Counting) -> None:
        """Files of this machine, and of these processes."""
        self._machine = machine
        self._processes = processes
        self._counting = counting

    def text(self, thread: Thread, path: str) -> bytes | None:
        """Return the text of a file as a thread reads it; None for a file of the host and for no file."""
        if not path.startswith(("/proc/", "/sys/")):
            return None
        if _OF_MACHINE.fullmatch(path):
            for process in list(self._processes):
                self._processes.look_for_exec(process)
                self._counting.count(process)
            text = self._machine.text(path)
            return None if text is None else text.encode()
        found = _OF_PROCESS.fullmatch(path)
        if found is None:
            return None
        try:
            whose = self._whose(thread, found)
        except Gone:
            return None
        if whose is None:
            return None
        renderers = {"status": self._status, "stat": self._stat, "numa_maps": self._numa_maps}
        return renderers[found["name"]](whose).encode(errors="surrogateescape")

    def maps(self, process: Process) -> list[Vma]:
        """The address space of a process, as the host has it."""
        return vmas(process.pid)

    def sysinfo(self) -> bytes:
        """struct sysinfo with the memory of the machine; the rest is the host's."""
        out = ctypes.create_string_buffer(_SYSINFO_BYTES)
        _libc.sysinfo(out)
        lines = (line.split() for line in (self._machine.text("/proc/meminfo") or "").splitlines())
        found = {words[0].rstrip(":"): int(words[1]) << 10 for words in lines if len(words) > 1}
        _MEMORY.pack_into(out, _MEMORY_AT, *(found.get(name, 0) for name in _MEMINFO))
        _HIGH.pack_into(out, _HIGH_AT, 0, 0, 1)
        return out.raw

    def _whose(self, thread: Thread, found: re.Match[str]) -> Thread | None:
        """The thread that a path is about; None if it is none of the program."""
        process: Process | None = thread.process
        if found["pid"]:
            process = self._processes.process(int(found["pid"]))
        if process is None:
            return None
        if found["tid"]:
            return self._processes.thread(int(found["tid"]))
        if found["own"] == "thread-self":
            return thread
        # /proc/TID is the thread's, though no listing has it
        by_tid = int(found["pid"]) if found["pid"] else process.pid
        return process.threads.get(by_tid, process.threads[process.pid])

    @staticmethod
    def _stat(thread: Thread) -> str:
        """/proc/PID/stat: the CPU of the machine that the thread is taken to run on."""
        before, _, behind = _of_host(thread.tid, "stat").rpartition(")")
        words = behind.split(" ")
        words[_PROCESSOR] = str(thread.cpu)
        return f"{before}){' '.join(words)}"

    def _status(self, thread: Thread) -> str:
        """/proc/PID/status: the CPUs and nodes of the machine that the thread may use."""
        lines = dict(line.partition(":\t")[::2] for line in _of_host(thread.tid, "status").splitlines())
        cpus, mems = thread.cpus, self._machine.nodes.memory
        # as wide as the host's, since libnuma takes the size of nodemasks in calls from this line
        width = 32 * -(-len(lines.get("Mems_allowed", "").replace(",", "")) // 8)
        shown = {
            "Cpus_allowed": bitmap(nids_of(cpus), max(self._machine.cpus) + 1),
            "Cpus_allowed_list": nodelist(cpus),
            "Mems_allowed": bitmap(nids_of(mems), max(width, self._machine.nodes.nr_node_ids)),
            "Mems_allowed_list": nodelist(mems),
        }
        return "".join(f"{name}:\t{shown.get(name, value)}\n" for name, value in lines.items())

    def _numa_maps(self, thread: Thread) -> str:
        """/proc/PID/numa_maps: the host's lines with the machine's policies and nodes (show_numa_map)."""
        process = thread.process
        self._processes.look_for_exec(process)
        maps = self._counting.count(process)
        try:
            text = _of_host(process.pid, "numa_maps")
        except Gone:  # or the host's kernel has no NUMA
            text = ""
        host = {int(line.split(" ", 1)[0], 16): line.split()[2:] for line in text.splitlines()}
        starts = {vma.start for vma in maps}
        lines = list[str]()
        for area in address_space(process, self._counting.shared, maps):
            words = host.get(area.start, []) if area.start in starts else []
            whole = next((vma for vma in maps if vma.start == area.start and vma.end == area.end), None)
            lines.append(self._line(thread, area, words, cut=whole is None))
        return "".join(f"{line}\n" for line in lines)

    def _line(self, thread: Thread, area: Area, words: Sequence[str], *, cut: bool) -> str:
        policy = area.policy if area.policy is not None else thread.process.threads[thread.process.pid].policy
        by_node = thread.process.placement.by_node(area.start >> PAGE_SHIFT, area.end >> PAGE_SHIFT)
        pages = sum(by_node.values())
        said = [word for word in words if not re.fullmatch(r"N\d+=\d+|kernelpagesize_kB=\d+", word)]
        if cut:
            said = [word for word in said if "=" not in word or word.startswith("file=")]
            said += [f"anon={pages}", f"dirty={pages}"] if pages else []
        nodes = [f"N{nid}={count}" for nid, count in by_node.items()]
        size = ["kernelpagesize_kB=4"] if pages else []
        return " ".join([f"{area.start:08x}", mpol_to_str(policy), *said, *nodes, *size])


def _of_host(pid: int, name: str) -> str:
    """A file of a process, as the host has it; Gone."""
    try:
        return Path(f"/proc/{pid}/{name}").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        raise Gone from None
