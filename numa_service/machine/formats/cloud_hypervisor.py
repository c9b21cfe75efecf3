"""Importer for cloud-hypervisor's arguments: ``--cpus``, ``--memory``, ``--memory-zone``, ``--numa``."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from numa_service.machine.formats.draft import Draft, DraftNode, machine_name
from numa_service.machine.formats.qemu import MAX_TEXT, qemu_size, shell_words
from numa_service.machine.notation import MAX_NUMNODES, NR_CPUS, format_cpulist, parse_cpulist
from numa_service.machine.spec import SpecError

#: --memory without size=.
_DEFAULT_MEMORY = "512M"
_OPTIONS = ("--cpus", "--memory", "--memory-zone", "--numa")
_IS = re.compile(r"(?:^|\s)--(?:memory-zone|numa|cpus)[\s=]\s*\S*(?:guest_numa_(?:id|node)|boot=|size=|id=)")
#: The parts of an argument: commas in brackets, as of ``cpus=[0-3,8]``, do not part it.
_PART = re.compile(r"(?:[^,\[\]]|\[[^\]]*\])+")
_DISTANCE = re.compile(r"(\d{1,6})@(\d{1,3})", re.ASCII)


def is_cloud_hypervisor(text: str) -> bool:
    """Whether the text looks like arguments of cloud-hypervisor."""
    return _IS.search(text) is not None


def read_cloud_hypervisor(text: str, source: str, name: str) -> Draft:
    """The draft of a command line, named `name`; SpecError names the argument."""
    if len(text) > MAX_TEXT:
        raise SpecError(f"{source}: {len(text)} characters, at most {MAX_TEXT}")
    return _Reader(text, source, name).draft()


class _Reader:
    """Makes the draft of one command line."""

    def __init__(self, text: str, source: str, name: str) -> None:
        self.source = source
        self.result = Draft(machine_name(name), [])
        self.arguments: dict[str, list[dict[str, str]]] = {option: [] for option in _OPTIONS}
        for option, value in self._values(shell_words(text, source)):
            pairs = (part.partition("=") for part in _PART.findall(value))
            self.arguments[option].append({key: given for key, _, given in pairs})

    def _values(self, words: list[str]) -> Iterator[tuple[str, str]]:
        """(option, value): an option may have several values behind it, or one behind an equals sign."""
        option = ""
        for word in words:
            name, equals, value = word.partition("=")
            if word.startswith("--"):
                option = name
                if equals and option in _OPTIONS:
                    yield option, value
            elif option in _OPTIONS:
                yield option, word

    def fail(self, what: str, reason: str) -> SpecError:
        return SpecError(f"{self.source}: {what}: {reason}")

    def draft(self) -> Draft:
        self.result.nodes = list(self._nodes().values())
        self._cpus()
        self.result.check_nodes()
        self._distances()
        return self.result

    def _number(self, text: str, what: str, limit: int) -> int:
        if not re.fullmatch(r"\d{1,9}", text, re.ASCII) or int(text) >= limit:
            raise self.fail(what, f"{text[:30]!r} is not a number below {limit}")
        return int(text)

    def _nid(self, values: dict[str, str], what: str) -> int:
        """The node of an argument; early versions said ``id``, and ``guest_numa_node`` of a zone."""
        for key in ("guest_numa_id", "guest_numa_node", "id"):
            if key in values:
                return self._number(values[key], f"{what} {key}", MAX_NUMNODES)
        raise self.fail(what, "guest_numa_id is missing")

    def _nodes(self) -> dict[int, DraftNode]:
        nodes: dict[int, DraftNode] = {}
        zones: dict[str, int] = {}
        for values in self.arguments["--numa"]:
            nid = self._nid(values, "--numa")
            if nid in nodes:
                raise self.fail(f"--numa guest_numa_id={nid}", "a second one")
            nodes[nid] = DraftNode(nid)
            for zone in values.get("memory_zones", "").strip("[]").replace(":", ",").split(","):
                zones |= {zone.strip(): nid} if zone.strip() else {}
        memory = next(iter(self.arguments["--memory"]), {})
        size = qemu_size(memory.get("size", _DEFAULT_MEMORY), "--memory size", self.source)
        for values in self.arguments["--memory-zone"]:
            size_of = qemu_size(values.get("size", ""), "--memory-zone size", self.source)
            if "guest_numa_node" in values:
                nid = self._nid(values, "--memory-zone")
                nodes.setdefault(nid, DraftNode(nid)).memory += size_of
            elif values.get("id", "") in zones:
                nodes[zones[values["id"]]].memory += size_of
            else:
                first = nodes.setdefault(min(nodes, default=0), DraftNode(0))
                if len(nodes) > 1:
                    self.result.note(f"a memory zone is of no node: put on node {first.nid}")
                first.memory += size_of
        if not nodes:
            nodes[0] = DraftNode(0)
        if not any(node.memory for node in nodes.values()):
            nodes[min(nodes)].memory = size
            if len(nodes) > 1:
                self.result.note(f"no memory zone: all memory is on node {min(nodes)}")
        if memory.get("hotplug_size"):
            self.result.note("--memory hotplug_size: memory to be plugged later is left out")
        return dict(sorted(nodes.items()))

    def _cpus(self) -> None:
        values = next(iter(self.arguments["--cpus"]), {})
        count = self._number(values["boot"], "--cpus boot", NR_CPUS + 1) if "boot" in values else 0
        nodes = {node.nid: node for node in self.result.nodes}
        owner: dict[int, int] = {}
        for given in self.arguments["--numa"]:
            nid = self._nid(given, "--numa")
            try:
                nodes[nid].cpus = parse_cpulist(given.get("cpus", "").strip("[]").replace(":", ","))
            except SpecError as error:
                raise self.fail("--numa cpus", str(error)) from None
            for cpu in nodes[nid].cpus:
                if owner.setdefault(cpu, nid) != nid:
                    raise self.fail("--numa cpus", f"CPU {cpu} is on node {owner[cpu]} already")
        if not owner and "boot" not in values:
            count = len(nodes)
            self.result.note("no CPU is said: one on each node")
            owner = dict(enumerate(nodes))
        count = count or max(owner, default=0) + 1
        strays = [cpu for cpu in range(count) if cpu not in owner]
        if strays and len(nodes) > 1:
            self.result.note(f"CPUs {format_cpulist(strays)} are on no node: put on node {min(nodes)}")
        owner |= dict.fromkeys(strays, min(nodes))
        for nid, node in nodes.items():
            node.cpus = tuple(sorted(cpu for cpu, at in owner.items() if at == nid and cpu < count))
        if "topology" in values:
            words = values["topology"].split(":")
            sizes = [self._number(size, "--cpus topology", NR_CPUS + 1) or 1 for size in words]
            if len(sizes) != 4:
                raise self.fail("--cpus topology", "not threads:cores:dies:packages")
            self.result.set_cpu_levels(math.prod(sizes[1:3]), sizes[0])

    def _distances(self) -> None:
        given: dict[tuple[int, int], int] = {}
        nids = [node.nid for node in self.result.nodes]
        for values in self.arguments["--numa"]:
            nid = self._nid(values, "--numa")
            for word in re.split("[:,]", values.get("distances", "").strip("[]")):
                if not word:
                    continue
                match = _DISTANCE.fullmatch(word)
                if match is None or int(match[1]) not in nids or int(match[2]) > 255:
                    reason = f"{word[:30]!r} is not a node and its distance as 1@20"
                    raise self.fail("--numa distances", reason)
                given[nid, int(match[1])] = int(match[2])
        self.result.set_slit(nids, given)
