"""Machine files: TOML descriptions of machines, which become a :class:`MachineSpec`.

Every error is one line, ``FILE:LINE: key.path: reason``. Keys and their defaults are those of
``machine_tables.py``; the presets are examples. Rows and columns of ``distances`` and of ``[latency]``, and
the places of nodes in physical memory, follow the order of the ``[[node]]`` tables, whatever their ids.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Collection, Iterable
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from numa_service.machine.cmdline import BootParameters, parse_cmdline
from numa_service.machine.input_files import read_text
from numa_service.machine.latency import CURVES, LatencyModel
from numa_service.machine.machine_tables import HMAT, LatencyTable, MachineTable, NodeTable, format_range
from numa_service.machine.notation import (
    MAX_NUMNODES,
    MAX_PHYSMEM_BYTES,
    format_size,
    one_line,
)
from numa_service.machine.numa_setup import with_parameters
from numa_service.machine.spec import MachineSpec, NodeSpec, SpecError
from numa_service.machine.sysctl import parse_sysctl, sysctl_name, without_effect
from numa_service.machine.toml_lines import KeyPath, TomlLimitError, TomlText, key_lines
from numa_service.machine.zones import (
    PfnRange,
    count_pages,
    layout_zones,
    merge,
    movable_start,
    movable_zone,
    q35_ram,
    without_bios_holes,
)
from numa_service.mm.mmzone import PAGE_SIZE
from numa_service.mm.profile import profile_named
from numa_service.mm.sparse import FLATMEM, default_memory_model
from numa_service.mm.variants import ORDER_NODES

LOCAL_DISTANCE = 10
REMOTE_DISTANCE = 20
#: A SLIT entry is a byte. 255 means unreachable, and a kernel takes it as any other distance.
MAX_DISTANCE = 255

#: Physical address limits: x86-64 with four-level page tables, and PAE.
_MAX_BYTES = {"x86_64": MAX_PHYSMEM_BYTES, "i386": 64 << 30}


def load_machine_file(path: Path) -> MachineSpec:
    """The machine that a TOML file describes, by default named after the file; SpecError if it is wrong."""
    return parse_machine(read_text(path), source=str(path), default_name=path.stem)


def parse_machine(text: str, source: str, default_name: str) -> MachineSpec:
    """The machine that a TOML text describes; SpecError, naming `source`, if the text is wrong."""
    try:
        toml = TomlText(text, MAX_NUMNODES)
        data = toml.loads()
    except TomlLimitError as error:
        raise SpecError(f"{source}:{error.line}: TOML: {error.reason}") from None
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        where = re.search(r" \(at (?:line (\d+), column \d+|end of document)\)$", message)
        line = int(where[1]) if where and where[1] else text.rstrip("\n").count("\n") + 1
        raise SpecError(f"{source}:{line}: TOML: {message[: where.start()] if where else message}") from None
    except RecursionError:
        raise SpecError(f"{source}: TOML: nested too deeply") from None
    document = _Document(source, toml.text)
    try:
        table = MachineTable.model_validate(data)
    except ValidationError as error:
        document.fail_validation(error)
    return _Builder(document, table).build(default_name)


class _Document:
    """A machine file for error messages: it knows the line of each key."""

    def __init__(self, source: str, text: str) -> None:
        self.source = source
        self._text = text

    @cached_property
    def lines(self) -> dict[KeyPath, int]:
        """Line of every key; only computed for an error, as a matrix of 1024 nodes has a million elements."""
        return key_lines(self._text)

    def line(self, path: KeyPath) -> int:
        """Line of a key; if it is missing, of the table or array that it is missing from."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)

    def fail(self, path: KeyPath, reason: str) -> NoReturn:
        parts = (f"[{part}]" if isinstance(part, int) else f".{one_line(part, 60)}" for part in path)
        raise SpecError(
            f"{self.source}:{self.line(path)}: {''.join(parts).lstrip('.')}: {one_line(reason, 300)}"
        ) from None

    def fail_validation(self, error: ValidationError) -> NoReturn:
        """Raise SpecError for the validation error that comes first in the file."""
        details = error.errors(include_url=False, include_context=False, include_input=False)
        first = min(details, key=lambda detail: self.line(detail["loc"]))
        self.fail(first["loc"], _reason(first))


def _reason(detail: ErrorDetails) -> str:
    match detail["type"]:
        case "extra_forbidden":
            return _unknown_key(detail["loc"])
        case "missing":
            return "missing"
        case "too_short":
            return "a machine has at least one [[node]]"
        case _:
            return detail["msg"].removeprefix("Value error, ").replace("valid dictionary", "table")


def _unknown_key(path: KeyPath) -> str:
    tables: dict[str, type[BaseModel]] = {"node": NodeTable, "latency": LatencyTable}
    known = list(tables.get(str(path[0]), MachineTable).model_fields) if len(path) > 1 else None
    known = known or list(MachineTable.model_fields)
    close = difflib.get_close_matches(str(path[-1]), known, n=1)
    return f"unknown key: did you mean {close[0]}?" if close else f"unknown key: known are {', '.join(known)}"


class _Builder:
    """Checks that the keys of a file agree with each other, and makes the spec."""

    def __init__(self, document: _Document, table: MachineTable) -> None:
        self.document = document
        self.fail = document.fail
        self.table = table
        #: Position in the file → nid.
        self.nids = [node.id if node.id is not None else i for i, node in enumerate(table.node)]

    def build(self, default_name: str) -> MachineSpec:
        table = self.table
        parameters = self._parameters()
        self._check_nodes()
        self._check_cpus()
        order = sorted(range(len(self.nids)), key=self.nids.__getitem__)
        ram = self._ram()
        distances = self._distances()
        latency = self._latency()
        sysctls = self._sysctls()
        said = (without_effect(name, value, table.profile) for name, value in sysctls.items())
        notes = tuple(note for note in said if note)
        if parameters.zonelist_order is not None:
            sysctls.setdefault("vm.numa_zonelist_order", parameters.zonelist_order)
        spec = MachineSpec(
            name=table.name if table.name is not None else default_name,
            source=self.document.source,
            arch=table.arch,
            profile=table.profile,
            nodes=self._nodes(order, ram),
            distances=tuple(tuple(distances[i][j] for j in order) for i in order),
            swap_pages=table.swap,
            sysctls=sysctls,
            latency=latency,
            cmdline=table.cmdline,
            memory_model=table.memory_model or default_memory_model(table.arch, len(order)),
            counter_drift=table.counter_drift,
            slab=self._slab(),
            packages=tuple(table.packages),
            cores=tuple(table.cores),
            possible_nodes=table.possible,
            notes=notes,
        )
        try:
            spec = with_parameters(spec, parameters)
        except SpecError as error:
            self.fail(("cmdline",), str(error))
        if spec.memory_model == FLATMEM and len(spec.nodes) > 1:
            self.fail(("memory_model",), "flatmem has one memory map: it is for machines of one node")
        return spec

    def _slab(self) -> str:
        """The allocator that the file asks for, or the kernel's default."""
        has = profile_named(self.table.profile).slab_allocators
        asked = self.table.slab or has[0]
        if asked not in has:
            self.fail(("slab",), f"{self.table.profile} has {', '.join(has)}, no {asked}")
        return asked

    def _parameters(self) -> BootParameters:
        try:
            parameters = parse_cmdline(self.table.cmdline)
        except SpecError as error:
            self.fail(("cmdline",), str(error))
        if (
            parameters.zonelist_order == "zone"
            and profile_named(self.table.profile).zone_order == ORDER_NODES
        ):
            self.fail(("cmdline",), f"numa_zonelist_order: {self.table.profile} has node order only")
        told = next((i for i, node in enumerate(self.table.node) if node.managed is not None), None)
        if told is not None and parameters.fake_nodes:
            self.fail(("node", told, "managed"), "the cmdline cuts nodes: what they manage is computed")
        moved = next((i for i, node in enumerate(self.table.node) if node.movable), None)
        if moved is not None and (parameters.moves or parameters.fake_nodes or parameters.numa_off):
            self.fail(
                ("node", moved, "movable"), "the cmdline places ZONE_MOVABLE or cuts nodes: not both ways"
            )
        return parameters

    def _check_nodes(self) -> None:
        if len(self.nids) > MAX_NUMNODES:
            self.fail(("node", MAX_NUMNODES), f"{len(self.nids)} nodes, at most {MAX_NUMNODES}")
        first: dict[int, int] = {}
        for i, nid in enumerate(self.nids):
            if nid in first:
                self.fail(("node", i, "id"), f"node {nid} is already node[{first[nid]}]")
            first[nid] = i
        if self.table.possible and self.table.possible[-1] >= MAX_NUMNODES:
            self.fail(("possible",), f"node {self.table.possible[-1]}: nodes are 0 to {MAX_NUMNODES - 1}")

    def _check_cpus(self) -> None:
        owner: dict[int, int] = {}
        for i, node in enumerate(self.table.node):
            for cpu in node.cpus:
                if cpu in owner:
                    self.fail(("node", i, "cpus"), f"CPU {cpu} is already on node {self.nids[owner[cpu]]}")
                owner[cpu] = i
        if not owner:
            self.fail(("node",), "no node has a CPU")
        home = self._check_groups("packages", self.table.packages, owner)
        if self.table.cores and not home:
            self.fail(("cores",), "cores without packages: whose are they?")
        self._check_groups("cores", self.table.cores, owner)
        for i, core in enumerate(self.table.cores):
            if len({home[cpu] for cpu in core}) > 1:
                self.fail(("cores", i), "a core is in one package")

    def _check_groups(
        self, key: str, groups: list[tuple[int, ...]], known: Collection[int]
    ) -> dict[int, int]:
        """Group by CPU, of packages or cores; every CPU of the machine is in one, or there are none."""
        home: dict[int, int] = {}
        for i, group in enumerate(groups):
            if not group:
                self.fail((key, i), "it has no CPU")
            for cpu in group:
                if cpu not in known:
                    self.fail((key, i), f"CPU {cpu} is on no node")
                if cpu in home:
                    self.fail((key, i), f"CPU {cpu} is already in {key}[{home[cpu]}]")
                home[cpu] = i
        if groups and len(home) < len(known):
            self.fail((key,), f"CPU {min(set(known) - home.keys())} is in none of them")
        return home

    def _ram(self) -> list[tuple[PfnRange, ...]]:
        """Ranges of RAM of each node, in the file's order; nodes that give sizes are placed in that order."""
        nodes = self.table.node
        by_ranges = next((i for i, node in enumerate(nodes) if node.ranges is not None), None)
        for i, node in enumerate(nodes):
            if node.memory is None and node.ranges is None:
                self.fail(("node", i), "neither memory nor ranges (memory = 0 is a memory-less node)")
            if node.memory is not None and node.ranges is not None:
                self.fail(("node", i, "memory"), "memory and ranges exclude each other")
            if node.memory and by_ranges is not None:
                self.fail(
                    ("node", i, "memory"),
                    f"node[{by_ranges}] gives ranges: then every node with memory must",
                )
        self._check_total()
        if by_ranges is not None:
            self._check_ranges()
            ram = [without_bios_holes(node.ranges or ()) for node in nodes]
        else:
            ram = q35_ram([node.memory or 0 for node in nodes])
        if not any(ram):
            self.fail(("node",), "no node has memory")
        if all(node.added for node, own in zip(nodes, ram, strict=True) if own):
            self.fail(("node",), "no node has memory at boot: all of it is added")
        return ram

    def _check_total(self) -> None:
        limit = _MAX_BYTES[self.table.arch] // PAGE_SIZE
        total = 0
        for i, node in enumerate(self.table.node):
            total += node.memory or 0
            if total > limit:
                self.fail(("node", i, "memory"), self._too_much())
            for k, (_, end) in enumerate(node.ranges or ()):
                if end > limit:
                    self.fail(("node", i, "ranges", k), self._too_much())

    def _too_much(self) -> str:
        arch = self.table.arch
        return f"memory beyond {format_size(_MAX_BYTES[arch])}, the most that {arch} can address"

    def _check_ranges(self) -> None:
        placed = sorted(
            (span, i, k) for i, node in enumerate(self.table.node) for k, span in enumerate(node.ranges or ())
        )
        for low, high in pairwise(placed):
            if high[0][0] < low[0][1]:
                # The error names the one of the two that comes later in the file.
                (other, owner, _), (span, i, k) = sorted((low, high), key=lambda place: place[1:])
                self.fail(
                    ("node", i, "ranges", k),
                    f"{format_range(span)} overlaps {format_range(other)} of node {self.nids[owner]}",
                )

    def _distances(self) -> list[list[int]]:
        size = len(self.nids)
        rows = self.table.distances
        if rows is None:
            return [[LOCAL_DISTANCE if i == j else REMOTE_DISTANCE for j in range(size)] for i in range(size)]
        self._check_square(("distances",), rows)
        for i, row in enumerate(rows):
            for j, value in enumerate(row):
                path: KeyPath = ("distances", i, j)
                if i == j and value != LOCAL_DISTANCE:
                    self.fail(path, f"the distance of a node to itself is {LOCAL_DISTANCE}, not {value}")
                if value < LOCAL_DISTANCE:
                    self.fail(path, f"{value} is less than {LOCAL_DISTANCE}, the local distance")
                if value > MAX_DISTANCE:
                    self.fail(path, f"{value} is more than {MAX_DISTANCE}, the largest SLIT distance")
        return rows

    def _check_square(self, path: KeyPath, rows: list[list[Any]]) -> None:
        size = len(self.nids)
        if len(rows) != size:
            self.fail(path, f"{len(rows)} rows for {size} nodes")
        for i, row in enumerate(rows):
            if len(row) != size:
                self.fail((*path, i), f"{len(row)} columns for {size} nodes")

    def _latency(self) -> LatencyModel:
        if self.table.latency is None:
            return LatencyModel()
        said = self.table.latency
        values: dict[str, Any] = {key: getattr(said, key) for key in said.model_fields_set}
        known = {**CURVES, **values.get("curves", {})}
        for key in (*HMAT, "link_mb_per_s", "link_curve"):
            if (rows := values.get(key)) is not None:
                self._check_square(("latency", key), rows)
                values[key] = {
                    (self.nids[i], self.nids[j]): value
                    for i, row in enumerate(rows)
                    for j, value in enumerate(row)
                    if (value if key in HMAT else value != "" and i != j)
                }
        for key in ("memory_mb_per_s", "memory_curve"):
            if (row := values.get(key)) is not None:
                if len(row) != len(self.nids):
                    self.fail(("latency", key), f"{len(row)} values for {len(self.nids)} nodes")
                values[key] = {nid: value for nid, value in zip(self.nids, row, strict=True) if value != ""}
        position = {nid: i for i, nid in enumerate(self.nids)}
        for nid, name in values.get("memory_curve", {}).items():
            if name not in known:
                self.fail(("latency", "memory_curve", position[nid]), _no_curve(name, known))
        for (nid, to), name in values.get("link_curve", {}).items():
            if name not in known:
                self.fail(("latency", "link_curve", position[nid], position[to]), _no_curve(name, known))
        if (values.get("mode") == "inject") != ("time_dilation" in values):
            self.fail(("latency",), 'mode = "inject" and time_dilation go together: how much slower is real?')
        return LatencyModel(**values)

    def _sysctls(self) -> dict[str, str]:
        values: dict[str, str] = {}
        for path, value in _leaves(("sysctl",), self.table.sysctl):
            name = sysctl_name(".".join(str(part) for part in path[1:]))
            if isinstance(value, list) and all(type(item) is int for item in value):
                value = "\t".join(str(item) for item in value)
            if type(value) not in (int, str):
                self.fail(path, "a sysctl is a number, a string or a list of numbers")
            if name in values:
                self.fail(path, f"{name} is set twice")
            try:
                values[name] = parse_sysctl(name, str(value), self.table.profile)
            except SpecError as error:
                self.fail(path, str(error).removeprefix(f"{name}: "))
        return values

    def _nodes(self, order: list[int], ram: list[tuple[PfnRange, ...]]) -> tuple[NodeSpec, ...]:
        arch = self.table.arch
        _, lowest = movable_zone(arch, merge(span for ranges in ram for span in ranges))
        nodes: list[NodeSpec] = []
        for i in order:
            node, first = self.table.node[i], None
            if node.movable:
                try:
                    first = movable_start(ram[i], node.movable, lowest)
                except SpecError as error:
                    self.fail(("node", i, "movable"), str(error))
            present = count_pages(ram[i])
            if node.managed is not None and node.managed > present:
                sizes = (format_size(pages * PAGE_SIZE) for pages in (node.managed, present))
                self.fail(("node", i, "managed"), "{}, and the node has {} of RAM".format(*sizes))
            zones = layout_zones(arch, ram[i], first, lowest)
            nodes.append(
                NodeSpec(
                    self.nids[i], node.cpus, zones, ram[i], node.managed, node.generic_initiator, node.added
                )
            )
        return tuple(nodes)


def _no_curve(name: str, known: Iterable[str]) -> str:
    return f"there is no curve {name!r}: {', '.join(known)}"


def _leaves(path: KeyPath, table: dict[str, Any]) -> list[tuple[KeyPath, object]]:
    """(path, value) of all keys in nested tables: ``vm.swappiness = 1``, unquoted, is a table ``vm``."""
    leaves: list[tuple[KeyPath, object]] = []
    for key, value in table.items():
        leaves += _leaves((*path, key), value) if isinstance(value, dict) else [((*path, key), value)]
    return leaves
