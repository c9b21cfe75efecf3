"""Importer for QEMU's arguments: ``-numa``, ``-smp``, ``-m``, ``-object memory-backend-*``, ``-append``."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field, replace

from numa_service.machine.formats.draft import Draft, DraftNode, linux_numbers, machine_name
from numa_service.machine.hmat import pairs_in_mb_per_s
from numa_service.machine.notation import MAX_NUMNODES, NR_CPUS, format_cpulist, format_size
from numa_service.machine.spec import SpecError
from numa_service.machine.zones import merge

DEFAULT_MEMORY = 128 << 20
_READ = ("-numa", "-smp", "-m", "-object", "-append", "-name", "-device", "-M", "-machine")
_DIMMS = ("pc-dimm", "virtio-mem-pci", "virtio-mem")
_LEVELS = ("drawers", "books", "sockets", "dies", "clusters", "cores", "threads")
#: Property of ``-numa cpu`` → level of -smp. QEMU 9 also has modules, which are not read.
_IDS = {
    "socket-id": "sockets",
    "die-id": "dies",
    "cluster-id": "clusters",
    "core-id": "cores",
    "thread-id": "threads",
}
_SIZE = re.compile(r"(\d{1,19})(?:\.(\d{1,9}))?([bBkKmMgGtTpPeE]?)(?:i?[bB])?", re.ASCII)
_WORD = re.compile(
    r"""\s+|\#[^\n]*|(?P<word>(?:[^\s"'\\]++|\\.|"(?:[^"\\]++|\\.)*+"|'[^']*+')++)""", re.DOTALL
)
_QUOTED = re.compile(r"""\\(.)|"((?:[^"\\]++|\\.)*+)"|'([^']*+)'""", re.DOTALL)
_NS = re.compile(r"(\d{1,18})(ns|us|ms|s)?", re.ASCII)
_NS_SCALE = {None: 1, "ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9}
#: Most characters of a command line; the distances of 128 nodes take half of them.
MAX_TEXT = 2 << 20
#: Most nodes of QEMU (MAX_NODES).
MAX_QEMU_NODES = 128
#: Bytes that sizes of -m are multiples of.
RAM_UNIT = 8 << 10

#: (key, value) of each property of an argument; a value without a key has "".
Options = list[tuple[str, str]]


@dataclass(slots=True)
class _Arguments:
    """The arguments of a command line that are read."""

    memory: int = DEFAULT_MEMORY
    append: str = ""
    name: str = ""
    smp: dict[str, int] = field(default_factory=dict)
    backends: dict[str, int] = field(default_factory=dict)
    nodes: list[Options] = field(default_factory=list)
    cpus: list[Options] = field(default_factory=list)
    dists: list[Options] = field(default_factory=list)
    hmat: list[Options] = field(default_factory=list)
    #: -device pc-dimm and virtio-mem-pci.
    devices: list[Options] = field(default_factory=list)
    #: What of CXL there is, for a note: volatile devices, and sizes of the windows.
    cxl: list[str] = field(default_factory=list)
    windows: list[int] = field(default_factory=list)
    caches: int = 0


def is_qemu(text: str) -> bool:
    """Whether the text looks like a QEMU command line."""
    start = text[:65536]
    return "qemu-system" in start or re.search(r"(?:^|\s)-numa\s", start) is not None


def read_qemu(text: str, source: str, name: str) -> Draft:
    """The draft of a command line, named as -name says or `name`; SpecError names the argument."""
    if len(text) > MAX_TEXT:
        raise SpecError(f"{source}: {len(text)} characters, at most {MAX_TEXT}")
    return _Reader(source, _collect(shell_words(text, source), source), name).draft()


def shell_words(text: str, source: str) -> list[str]:
    """The words of a command line, split as by a POSIX shell.

    shlex is not used: its time is quadratic in the length of a word.
    """
    words, done = [], 0
    text = re.sub(r"\\\r?\n", " ", text)
    for match in _WORD.finditer(text):
        if match.start() != done:
            break
        done = match.end()
        if match["word"]:
            words.append(_QUOTED.sub(_unquoted, match["word"]))
    if done != len(text):
        raise SpecError(f"{source}: No closing quotation")
    return words


def _unquoted(match: re.Match[str]) -> str:
    escaped, double, single = match.groups()
    if escaped is not None:
        return escaped
    return single if double is None else re.sub(r'\\(["\\])', r"\1", double)


def _collect(words: list[str], source: str) -> _Arguments:
    result = _Arguments()
    taken = iter(words)
    for word in taken:
        option = word.removeprefix("-") if word.startswith("--") else word
        if option not in _READ:
            continue
        value = next(taken, None)
        if value is None:
            raise SpecError(f"{source}: {option}: a value is missing")
        match option:
            case "-append":
                result.append = value
            case "-name":
                result.name = value.split(",", 1)[0].removeprefix("guest=")
            case "-m":
                first, *others = _options(value)
                sizes = [v for k, v in (first, *others) if k in ("", "size")]
                if sizes:
                    result.memory = qemu_size(sizes[0], "-m", source, plain=1 << 20)
            case "-smp":
                for key, number in _options(value):
                    if not re.fullmatch(r"\d{1,6}", number, re.ASCII):
                        raise SpecError(f"{source}: -smp {key or 'cpus'}: {number[:30]!r} is not a number")
                    result.smp[key or "cpus"] = int(number)
            case "-device":
                _device(result, _properties(value, source))
            case "-M" | "-machine":
                sizes = [
                    v for k, v in _options(value) if re.fullmatch(r"cxl-fmw\.\d{1,3}\.size", k, re.ASCII)
                ]
                result.windows += [qemu_size(size, "cxl-fmw", source) for size in sizes]
            case "-object":
                _backend(result, _properties(value, source), source)
            case _:
                _numa(result, value, source)
    return result


def _options(text: str) -> Options:
    """The properties of an argument: ``a,b=1`` is [("", "a"), ("b", "1")]; ``,,`` is a comma in a value."""
    parts = text.replace(",,", "\0").split(",")
    split = (part.replace("\0", ",").partition("=") for part in parts if part)
    return [(key, value) if equals else ("", key) for key, equals, value in split]


def _properties(text: str, source: str) -> Options:
    """The properties of an -object or -numa, which may also be given as JSON."""
    if not text.startswith("{"):
        return _options(text)
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SpecError(f"{source}: {text[:40]!r}: JSON: {str(error)[:100]}") from None
    return [("" if key in ("qom-type", "type") else str(key), str(value)) for key, value in data.items()]


def _backend(result: _Arguments, options: Options, source: str) -> None:
    values = dict(options)
    if not values.get("", "").startswith("memory-backend-"):
        return
    if "id" not in values or "size" not in values:
        raise SpecError(f"{source}: -object {values['']}: id or size is missing")
    result.backends[values["id"]] = qemu_size(values["size"], f"-object {values['id']}", source)


def _device(result: _Arguments, options: Options) -> None:
    values = dict(options)
    kind = values.get("", values.get("driver", ""))
    if kind in _DIMMS:
        result.devices.append(options)
    elif kind == "cxl-type3":
        result.cxl.append(values.get("volatile-memdev", ""))


def _numa(result: _Arguments, value: str, source: str) -> None:
    options = _properties(value, source)
    kind, rest = (options[0][1], options[1:]) if options and not options[0][0] else ("", options)
    match kind:
        case "node":
            result.nodes.append(rest)
        case "cpu":
            result.cpus.append(rest)
        case "dist":
            result.dists.append(rest)
        case "hmat-lb":
            result.hmat.append(rest)
        case "hmat-cache":
            result.caches += 1
        case _:
            raise SpecError(f"{source}: -numa {value[:60]}: not node, cpu, dist, hmat-lb or hmat-cache")


class _Reader:
    """Makes the draft of one command line."""

    def __init__(self, source: str, arguments: _Arguments, name: str) -> None:
        self.source = source
        self.arguments = arguments
        self.result = Draft(machine_name(arguments.name or name), [], cmdline=arguments.append)

    def fail(self, what: str, reason: str) -> SpecError:
        return SpecError(f"{self.source}: {what}: {reason}")

    def draft(self) -> Draft:
        levels, count = self._smp()
        nodes = self._nodes(count)
        if not nodes:
            nodes = {0: DraftNode(0, tuple(range(count)), self.arguments.memory)}
        self.result.nodes = [nodes[nid] for nid in sorted(nodes)]
        self._cpus(nodes, levels, count)
        if self.arguments.smp.keys() & set(_LEVELS):
            cores = levels["dies"] * levels["clusters"] * levels["cores"]
            self.result.set_cpu_levels(cores, levels["threads"])
        self._later(nodes)
        self._distances(set(nodes))
        self._hmat(set(nodes))
        changed = [(nid, new) for nid, new in linux_numbers(self.result.nodes).items() if nid != new]
        if changed:
            pairs = ", ".join(f"{nid} is {new}" for nid, new in changed[:16])
            self.result.note(f"a Linux guest numbers nodes with CPUs first ({pairs}): here they are QEMU's")
        if self.arguments.caches:
            self.result.note("hmat-cache: memory-side caches are not modelled")
        return self.result

    def _later(self, nodes: dict[int, DraftNode]) -> None:
        """Memory that a guest finds after it has booted: DIMMs and virtio-mem; and CXL, of which none is."""
        backends = self.arguments.backends
        for options in self.arguments.devices:
            values = dict(options)
            kind = values.get("", values.get("driver", ""))
            what = f"-device {kind}"
            if values.get("memdev", "") not in backends:
                raise self.fail(f"{what} memdev={values.get('memdev', '')[:40]}", "there is no such -object")
            nid = self._number({"node": "0"} | values, "node", what, MAX_NUMNODES)
            if nid not in nodes:
                raise self.fail(f"{what} node={nid}", "there is no such node")
            size = backends[values["memdev"]]
            if kind != "pc-dimm":
                size = qemu_size(values.get("requested-size", "0"), f"{what} requested-size", self.source)
            nodes[nid].add_later(size, kind, self.result)
        cards = [(name, backends[name]) for name in self.arguments.cxl if name in backends]
        if cards:
            listed = ", ".join(f"{name[:40]} {format_size(size)}" for name, size in cards[:8])
            windows = ", ".join(format_size(size) for size in self.arguments.windows[:8]) or "no window"
            self.result.note(
                f"cxl-type3 ({listed}) behind cxl-fmw ({windows}) is no memory at boot: a kernel makes a "
                "node without memory of each window, and no more than the window holds comes when a region "
                "is made of it and put on-line (then: a node with added = true)"
            )

    def _number(self, options: dict[str, str], key: str, what: str, limit: int) -> int:
        text = options.get(key, "")
        if not re.fullmatch(r"\d{1,9}", text, re.ASCII) or int(text) >= limit:
            raise self.fail(f"{what} {key}", f"{text[:30]!r} is not a number from 0 to {limit - 1}")
        return int(text)

    def _smp(self) -> tuple[dict[str, int], int]:
        """(number of parts by level of -smp, number of CPUs at start)."""
        said = self.arguments.smp
        levels = {level: said.get(level) or 1 for level in _LEVELS}
        product = math.prod(levels.values())
        count = said.get("cpus") or said.get("maxcpus") or product
        most = said.get("maxcpus") or max(count, product)
        # the level that QEMU computes, if it is not given: sockets, or cores where sockets are given
        for level in ("cores", "sockets") if "sockets" in said else ("sockets",):
            if level not in said and most % product == 0:
                levels[level] = most // product
                break
        if not 1 <= count <= NR_CPUS or most > NR_CPUS:
            raise self.fail("-smp", f"{max(count, most)} CPUs, 1 to {NR_CPUS}")
        if most > count:
            self.result.note(f"{most - count} CPUs to be plugged later (maxcpus) are left out")
        return levels, count

    def _nodes(self, count: int) -> dict[int, DraftNode]:
        nodes: dict[int, DraftNode] = {}
        sized, placed = False, 0
        for options in self.arguments.nodes:
            values = dict(options)
            nid = len(nodes)
            if "nodeid" in values:
                nid = self._number(values, "nodeid", "-numa node", MAX_NUMNODES)
            if nid in nodes:
                raise self.fail(f"-numa node nodeid={nid}", "a second one")
            if nid >= MAX_NUMNODES:
                raise self.fail("-numa node", f"more than {MAX_NUMNODES} nodes")
            node = nodes[nid] = DraftNode(nid)
            if "memdev" in values:
                if values["memdev"] not in self.arguments.backends:
                    raise self.fail(f"-numa node memdev={values['memdev'][:40]}", "there is no such -object")
                node.memory, sized = self.arguments.backends[values["memdev"]], True
            elif "mem" in values:
                node.memory, sized = (
                    qemu_size(values["mem"], "-numa node mem", self.source, plain=1 << 20),
                    True,
                )
            spans = merge(self._range(value) for key, value in options if key == "cpus")
            placed += sum(end - start for start, end in spans)
            if placed > NR_CPUS:
                raise self.fail("-numa node cpus", f"{placed} CPUs on nodes, at most {NR_CPUS}")
            node.cpus = tuple(cpu for start, end in spans for cpu in range(start, end))
        if not nodes:
            return nodes
        total = sum(node.memory for node in nodes.values())
        if not sized:
            self.result.note("no node has mem= or memdev=: -m is shared out")
            for node in nodes.values():
                node.memory = self.arguments.memory // len(nodes) & ~((8 << 20) - 1)
            nodes[max(nodes)].memory += self.arguments.memory - sum(n.memory for n in nodes.values())
        elif total != self.arguments.memory:
            self.result.note(f"-m is {self.arguments.memory} bytes, the nodes have {total}: theirs count")
        return nodes

    def _range(self, text: str) -> tuple[int, int]:
        """First CPU, and the one past the last, of ``3`` or ``0-3``."""
        match = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", text, re.ASCII)
        if match is None or int(match[2] or match[1]) >= NR_CPUS:
            raise self.fail("-numa node cpus", f"{text[:30]!r} is not a CPU or a range as 0-3")
        return int(match[1]), int(match[2] or match[1]) + 1

    def _cpus(self, nodes: dict[int, DraftNode], levels: dict[str, int], count: int) -> None:
        owner: dict[int, int] = {}
        for nid, node in nodes.items():
            for cpu in node.cpus:
                if owner.setdefault(cpu, nid) != nid:
                    raise self.fail(f"-numa node nodeid={nid}", f"CPU {cpu} is on node {owner[cpu]} already")
        if len(self.arguments.cpus) > NR_CPUS:
            raise self.fail("-numa cpu", f"{len(self.arguments.cpus)} of them, at most {NR_CPUS}")
        places = self._places(levels) if self.arguments.cpus else {}
        for options in self.arguments.cpus:
            values = dict(options)
            nid = self._number(values, "node-id", "-numa cpu", MAX_NUMNODES)
            if nid not in nodes:
                raise self.fail(f"-numa cpu node-id={nid}", "there is no such node")
            for cpu in self._matching(values, levels, places):
                owner[cpu] = nid
        absent = [cpu for cpu in owner if cpu >= count]
        if absent:
            self.result.note(f"CPUs {format_cpulist(absent)} are not there at start: left out")
        strays = [cpu for cpu in range(count) if cpu not in owner]
        if strays and len(strays) == count and len(nodes) > 1:
            self.result.note("no CPU is on a node: sockets are dealt out to the nodes in turn, as in QEMU")
            per_socket = math.prod(levels[level] for level in ("dies", "clusters", "cores", "threads"))
            nids = sorted(nodes)
            owner = {cpu: nids[cpu // per_socket % len(nids)] for cpu in strays}
        elif strays:
            if len(nodes) > 1:
                self.result.note(f"CPUs {format_cpulist(strays)} are on no node: put on node {min(nodes)}")
            owner.update(dict.fromkeys(strays, min(nodes)))
        for nid, node in nodes.items():
            node.cpus = tuple(sorted(cpu for cpu, at in owner.items() if at == nid and cpu < count))

    def _matching(
        self, values: dict[str, str], levels: dict[str, int], places: dict[tuple[str, int], set[int]]
    ) -> list[int]:
        """CPUs that have all the ids given in a ``-numa cpu``."""
        wanted = [
            (level, self._number(values, key, "-numa cpu", levels[level]))
            for key, level in _IDS.items()
            if key in values
        ]
        few_first = sorted((places[place] for place in wanted), key=len)
        return sorted(set.intersection(*few_first)) if few_first else list(range(math.prod(levels.values())))

    def _places(self, levels: dict[str, int]) -> dict[tuple[str, int], set[int]]:
        """All possible CPUs by (level, id): those of ("sockets", 0), of ("cores", 3), …"""
        if math.prod(levels.values()) > NR_CPUS:
            raise self.fail("-smp", f"more than {NR_CPUS} CPUs")
        places: dict[tuple[str, int], set[int]] = {}
        for cpu in range(math.prod(levels.values())):
            rest = cpu
            for level in reversed(_LEVELS):
                rest, number = divmod(rest, levels[level])
                places.setdefault((level, number), set()).add(cpu)
        return places

    def _pair(
        self, options: dict[str, str], keys: tuple[str, str], what: str, nids: set[int]
    ) -> tuple[int, int]:
        first, second = (self._number(options, key, what, MAX_NUMNODES) for key in keys)
        for nid in (first, second):
            if nid not in nids:
                raise self.fail(what, f"there is no node {nid}")
        return first, second

    def _distances(self, nids: set[int]) -> None:
        given: dict[tuple[int, int], int] = {}
        for options in self.arguments.dists:
            values = dict(options)
            pair = self._pair(values, ("src", "dst"), "-numa dist", nids)
            given[pair] = self._number(values, "val", "-numa dist", 256)
        self.result.set_slit(sorted(nids), given)

    def _hmat(self, nids: set[int]) -> None:
        tables: dict[str, dict[tuple[int, int], int]] = {}
        for options in self.arguments.hmat:
            values = dict(options)
            pair = self._pair(values, ("initiator", "target"), "-numa hmat-lb", nids)
            kind = values.get("data-type", "")
            if values.get("hierarchy", "memory") != "memory":
                self.result.note("hmat-lb of side caches are left out")
                continue
            if kind.endswith("latency"):
                match = _NS.fullmatch(values.get("latency", ""))
                if match is None:
                    raise self.fail("-numa hmat-lb latency", f"{values.get('latency', '')[:30]!r} is not ns")
                number = int(match[1]) * _NS_SCALE[match[2]]
            elif kind.endswith("bandwidth"):
                number = qemu_size(values.get("bandwidth", ""), "-numa hmat-lb bandwidth", self.source) >> 20
            else:
                raise self.fail("-numa hmat-lb data-type", f"{kind[:30]!r} is not access-latency or the like")
            if number:
                tables.setdefault(kind, {})[pair] = min(number, 10**9)
        if not tables:
            return
        latency, bandwidth = tables.get("access-latency", {}), tables.get("access-bandwidth", {})
        writes, write_bandwidth = tables.get("write-latency"), tables.get("write-bandwidth")
        self.result.latency = replace(
            self.result.latency,
            read_ns={**latency, **tables.get("read-latency", {})},
            write_ns={**latency, **writes} if writes else {},
            read_mb_per_s=pairs_in_mb_per_s({**bandwidth, **tables.get("read-bandwidth", {})}),
            write_mb_per_s=pairs_in_mb_per_s({**bandwidth, **write_bandwidth} if write_bandwidth else {}),
        )


def qemu_size(text: str, what: str, source: str, plain: int = 1) -> int:
    """Bytes of a size; a number without a suffix is in units of `plain` bytes (of -m: MiB)."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise SpecError(f"{source}: {what}: {text[:30]!r} is not a size as 512M or 4G")
    scale: int = 1024 ** "BKMGTPE".index(match[3].upper()) if match[3] else plain
    fraction = int(match[2]) * scale // 10 ** len(match[2]) if match[2] else 0
    return int(match[1]) * scale + fraction
