"""Importer for ACPI tables: SRAT (proximity domains), SLIT (distances), HMAT (latencies) and MADT (CPUs).

Proximity domains become nodes in the order in which the SRAT names them, CPUs first (acpi_map_pxm_to_node).
CPUs are numbered in the order of the MADT, or without one in that of the SRAT.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from numa_service.machine.captured_tree import Tree
from numa_service.machine.formats.draft import SLIT_INVALID, Draft, DraftNode, machine_name, slit_valid
from numa_service.machine.hmat import pairs_in_mb_per_s
from numa_service.machine.notation import MAX_NUMNODES
from numa_service.machine.spec import SpecError
from numa_service.machine.zones import PfnRange, merge, without_bios_holes
from numa_service.mm.mmzone import PAGE_SHIFT, PAGE_SIZE

SIGNATURES = ("SRAT", "SLIT", "HMAT", "APIC")
_HEADER_BYTES = 36
_MAX_TABLE = 4 << 20
#: Most bytes of a table that lists CPUs and ranges of memory: 8192 CPUs take 200 KB.
_MAX_LIST = 1 << 20
_MAX_LOCALITIES = 1024

#: Page frame at 4 GiB, above the hole in which PCs have devices.
_LOW_END = 4 << 30 >> PAGE_SHIFT

HOTPLUG_TAKEN = "memory that the SRAT calls hot-pluggable is there, as far as it is node after node"
HOTPLUG_LEFT_OUT = "memory that the SRAT calls hot-pluggable is room for more: left out"

# SRAT structure types and the size of each
_APIC, _MEMORY, _X2APIC, _GICC = 0, 1, 2, 3
_SRAT_SIZES = {_APIC: 16, _MEMORY: 40, _X2APIC: 24, _GICC: 18}
_ENABLED, _HOTPLUG, _NON_VOLATILE = 1, 2, 4


@dataclass(slots=True)
class _Srat:
    """The enabled CPUs and memory of an SRAT."""

    #: (proximity domain, APIC id) in the order of the table.
    cpus: list[tuple[int, int]] = field(default_factory=list)
    #: (proximity domain, range) in the order of the table.
    memory: list[tuple[int, PfnRange]] = field(default_factory=list)
    #: The same of memory that may be plugged and unplugged.
    hotplug: list[tuple[int, PfnRange]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def is_acpi_table(content: bytes) -> bool:
    """Whether a file begins with the signature of a table that is read here."""
    return content[:4] in {signature.encode() for signature in SIGNATURES} and len(content) >= 8


def find_tables(tree: Tree, but: str = "") -> dict[str, bytes]:
    """Contents of the tables in a directory that are read here, by path; `but` names a file to leave out.

    The directory is ``/sys/firmware/acpi/tables``, or has files as acpixtract makes them (SRAT.dat).
    """
    names = [name for name in tree.names() if name[:4].upper() in SIGNATURES and name != but]
    return {tree.where(name): tree.read(name, _MAX_TABLE) for name in names if tree.is_file(name)}


def read_acpi(files: Mapping[str, bytes], name: str, place: str) -> Draft:
    """The machine of a set of tables, one of which is an SRAT; SpecError names table, file and offset.

    `files` has each table's content by its path. `place` is where they come from, for error messages.
    """
    tables: dict[str, tuple[bytes, str]] = {}
    for source, content in files.items():
        signature = _checked(content, source)
        if signature in ("SRAT", "APIC") and len(content) > _MAX_LIST:
            raise SpecError(f"{source}: {len(content)} bytes of {signature}, at most {_MAX_LIST}")
        if signature in tables:
            raise SpecError(f"{source}: a second {signature}, beside {tables[signature][1]}")
        tables[signature] = (content, source)
    if "SRAT" not in tables:
        found = ", ".join(tables) or "nothing"
        raise SpecError(f"{place}: no SRAT ({found} found): give the directory that has it")
    draft = Draft(machine_name(name), [])
    srat = _srat(*tables["SRAT"])
    for note in srat.notes:
        draft.note(note)
    nid_of = _nodes(draft, srat, _madt(*tables["APIC"]) if "APIC" in tables else None)
    if "SLIT" in tables:
        _slit(draft, nid_of, *tables["SLIT"])
    elif len(nid_of) > 1:
        draft.note("no SLIT: 20 between all nodes was taken")
    if "HMAT" in tables:
        _hmat(draft, nid_of, *tables["HMAT"])
    draft.note("memory is that of the SRAT, as the firmware gives it: holes of the e820 map are not in it")
    return draft


def _checked(content: bytes, source: str) -> str:
    """The signature of a table; SpecError if it is unknown, or if length or checksum are wrong."""
    if len(content) < _HEADER_BYTES:
        raise SpecError(f"{source}: {len(content)} bytes: an ACPI table has a header of {_HEADER_BYTES}")
    signature, length = struct.unpack_from("<4sI", content)
    name = bytes(signature).decode("ascii", "replace")
    if name not in SIGNATURES:
        raise SpecError(f"{source}: signature {name!r} is none of {', '.join(SIGNATURES)}")
    if length != len(content):
        raise SpecError(f"{source}: {name}: length is {length}, the file has {len(content)} bytes: cut off?")
    total = sum(content) & 0xFF
    if total:
        raise SpecError(
            f"{source}: {name}: checksum {content[9]:#04x} is wrong, {(content[9] - total) & 0xFF:#04x} "
            "would be right: the table is damaged"
        )
    return name


def _structures(content: bytes, start: int, source: str, wide: bool) -> Iterator[tuple[int, int, int]]:
    """(type, offset, length) of each structure behind a table's fixed part.

    `wide`: types have 16 bits and lengths 32, as in an HMAT; else both have 8.
    """
    offset, head = start, struct.Struct("<HHI") if wide else struct.Struct("<BB")
    while offset < len(content):
        if offset + head.size > len(content):
            raise SpecError(f"{source}: offset {offset}: a structure is cut off")
        kind, *_, length = head.unpack_from(content, offset)
        if length < head.size or offset + length > len(content):
            raise SpecError(f"{source}: offset {offset}: structure of type {kind} has a length of {length}")
        yield kind, offset, length
        offset += length


def _srat(content: bytes, source: str) -> _Srat:
    result = _Srat()
    revision = content[8]
    for kind, offset, length in _structures(content, 48, f"{source}: SRAT", wide=False):
        if kind not in _SRAT_SIZES:
            note = f"SRAT structures of type {kind} are not modelled"
            if note not in result.notes:
                result.notes.append(note)
            continue
        if length < _SRAT_SIZES[kind]:
            raise SpecError(
                f"{source}: SRAT: offset {offset}: type {kind} has {length} bytes, not {_SRAT_SIZES[kind]}"
            )
        if kind == _MEMORY:
            _memory(result, content, offset, revision, source)
            continue
        if kind == _APIC:
            low, apic, flags, _, high = struct.unpack_from("<BBIB3s", content, offset + 2)
            pxm = low | (int.from_bytes(high, "little") << 8 if revision > 1 else 0)
        elif kind == _X2APIC:
            pxm, apic, flags = struct.unpack_from("<III", content, offset + 4)
        else:
            pxm, apic, flags = struct.unpack_from("<III", content, offset + 2)
        if flags & _ENABLED:
            result.cpus.append((pxm, apic))
    _take_hotplug(result)
    return result


def _memory(result: _Srat, content: bytes, offset: int, revision: int, source: str) -> None:
    pxm, _, base, length, _, flags = struct.unpack_from("<IHQQII", content, offset + 2)
    if revision <= 1:
        pxm &= 0xFF
    if not flags & _ENABLED or not length:
        return
    if base + length > 1 << 64:
        raise SpecError(f"{source}: SRAT: offset {offset}: memory beyond 64 bits")
    if flags & _NON_VOLATILE:
        result.notes.append("non-volatile memory is left out")
        return
    first, end = -(-base // PAGE_SIZE), base + length >> PAGE_SHIFT
    if first < end:
        (result.hotplug if flags & _HOTPLUG else result.memory).append((pxm, (first, end)))


def memory_at_boot(
    others: Collection[int], hotplug: Sequence[tuple[int, PfnRange]], with_cpus: Collection[int]
) -> list[tuple[int, PfnRange]]:
    """The hot-pluggable ranges that are memory at boot, as (proximity domain, range).

    The flag says that memory may be plugged, not that it is absent: a kernel takes what the e820 map has
    there, which an SRAT does not tell. A domain with other memory (one of `others`) has the flag on room for
    more, as of QEMU's -m maxmem=. If all of a domain with CPUs has it, it is memory, node after node; what
    lies behind a gap, or another domain, above the last such domain is room for more.
    """
    wanted = set(with_cpus) if others else {pxm for pxm, _ in hotplug}
    ranges = sorted((span, pxm) for pxm, span in hotplug if pxm in wanted and pxm not in others)
    first = {pxm: span for span, pxm in reversed(ranges)}
    last = max(first, key=lambda pxm: first[pxm], default=0)
    taken: list[tuple[int, PfnRange]] = []
    end = 0
    for span, pxm in ranges:
        follows = pxm == last and (span[0] == end or end < _LOW_END >= span[0])
        if span <= first[last] or follows:
            taken.append((pxm, span))
            end = span[1]
    return taken


def _take_hotplug(srat: _Srat) -> None:
    """Add the hot-pluggable ranges that are memory at boot to `memory`."""
    taken = memory_at_boot({pxm for pxm, _ in srat.memory}, srat.hotplug, {pxm for pxm, _ in srat.cpus})
    srat.memory += taken
    if taken:
        srat.notes.append(HOTPLUG_TAKEN)
    if len(taken) < len(srat.hotplug):
        srat.notes.append(HOTPLUG_LEFT_OUT)


def _madt(content: bytes, source: str) -> list[int]:
    """APIC ids of the enabled CPUs of a MADT, in its order."""
    order: list[int] = []
    for kind, offset, length in _structures(content, 44, f"{source}: APIC", wide=False):
        if kind == 0 and length >= 8:
            apic, flags = struct.unpack_from("<BI", content, offset + 3)
        elif kind == 9 and length >= 16:
            apic, flags = struct.unpack_from("<II", content, offset + 4)
        else:
            continue
        if flags & 1:
            order.append(apic)
    return order


def _nodes(draft: Draft, srat: _Srat, madt: list[int] | None) -> dict[int, int]:
    """Add the nodes to the draft; returns nid by proximity domain. `madt` is as of :func:`_madt`."""
    nid_of: dict[int, int] = {}
    for pxm in (*(pxm for pxm, _ in srat.cpus), *(pxm for pxm, _ in srat.memory)):
        nid_of.setdefault(pxm, len(nid_of))
    if len(nid_of) > MAX_NUMNODES:
        raise SpecError(f"SRAT: {len(nid_of)} proximity domains, at most {MAX_NUMNODES} nodes")
    if any(pxm != nid for pxm, nid in nid_of.items()):
        pairs = ", ".join(f"{pxm} is {nid}" for pxm, nid in list(nid_of.items())[:16])
        draft.note(f"proximity domains became nodes in the order of the SRAT: {pairs}")
    number = {apic: i for i, apic in enumerate(madt)} if madt else {}
    if madt is None:
        draft.note("no MADT (APIC): CPUs are numbered in the order of the SRAT")
        number = {apic: i for i, (_, apic) in enumerate(srat.cpus)}
    cpus: dict[int, list[int]] = {}
    absent = 0
    for pxm, apic in srat.cpus:
        if apic in number:
            cpus.setdefault(nid_of[pxm], []).append(number.pop(apic))
        else:
            absent += 1
    if absent:
        draft.note(f"{absent} CPUs of the SRAT are not in the MADT, or twice: left out")
    if number and nid_of:
        draft.note(f"{len(number)} CPUs are in no proximity domain: put on node 0")
        cpus.setdefault(0, []).extend(number.values())
    spans: dict[int, list[PfnRange]] = {}
    for pxm, span in srat.memory:
        spans.setdefault(nid_of[pxm], []).append(span)
    for nid in nid_of.values():
        own = merge(spans.get(nid, []))
        draft.nodes.append(
            DraftNode(nid, tuple(sorted(cpus.get(nid, []))), ranges=without_bios_holes(own) or None)
        )
    return nid_of


def _slit(draft: Draft, nid_of: dict[int, int], content: bytes, source: str) -> None:
    if len(content) < 44:
        raise SpecError(f"{source}: SLIT: no number of localities")
    (count,) = struct.unpack_from("<Q", content, 36)
    if count > _MAX_LOCALITIES or len(content) != 44 + count * count:
        raise SpecError(f"{source}: SLIT: {count} localities do not fit {len(content)} bytes")
    pxms = [pxm for pxm in nid_of if pxm < count]
    if len(pxms) < len(nid_of):
        draft.note(f"the SLIT has {count} localities, fewer than the SRAT: 20 elsewhere was taken")
    entries = content[44:]
    rows = [[float(entries[a * count + b]) for b in pxms] for a in pxms]
    if not slit_valid([entries[a * count : (a + 1) * count] for a in range(count)]):
        draft.note(SLIT_INVALID)
        return
    draft.set_distances([nid_of[pxm] for pxm in pxms], rows)


def _hmat(draft: Draft, nid_of: dict[int, int], content: bytes, source: str) -> None:
    """Set the draft's latencies and bandwidths from an HMAT; memory-side caches are not modelled.

    The table's "MB/s" are taken for MiB/s: as such the kernel shows them and QEMU writes them.
    """
    revision = content[8]
    tables: dict[int, dict[tuple[int, int], int]] = {}
    for kind, offset, length in _structures(content, 40, f"{source}: HMAT", wide=True):
        if kind == 2:
            draft.note("memory-side caches (HMAT) are not modelled")
        if kind != 1:
            continue
        if length < 32:
            raise SpecError(f"{source}: HMAT: offset {offset}: a latency structure of {length} bytes")
        flags, data_type, _, _, initiators, targets, _, unit = struct.unpack_from(
            "<BBBBIIIQ", content, offset + 8
        )
        if flags & 0xF or data_type > 5:
            continue
        if max(initiators, targets) > _MAX_LOCALITIES or length != 32 + 4 * (initiators + targets) + (
            2 * initiators * targets
        ):
            raise SpecError(
                f"{source}: HMAT: offset {offset}: {initiators} initiators and {targets} targets do not fit "
                f"{length} bytes"
            )
        lists = struct.unpack_from(f"<{initiators + targets}I", content, offset + 32)
        entries = struct.unpack_from(
            f"<{initiators * targets}H", content, offset + 32 + 4 * (initiators + targets)
        )
        for i, from_pxm in enumerate(lists[:initiators]):
            for j, to_pxm in enumerate(lists[initiators:]):
                entry = entries[i * targets + j]
                if entry in (0, 0xFFFF) or from_pxm not in nid_of or to_pxm not in nid_of:
                    continue
                value = entry * unit
                if data_type < 3 and revision > 1:
                    value = -(-value // 1000)  # since revision 2 in ps
                tables.setdefault(data_type, {})[nid_of[from_pxm], nid_of[to_pxm]] = min(value, 10**9)
    reads = {**tables.get(0, {}), **tables.get(1, {})}
    read_bandwidth = {**tables.get(3, {}), **tables.get(4, {})}
    draft.latency = replace(
        draft.latency,
        read_ns=reads,
        write_ns={**tables.get(0, {}), **tables[2]} if 2 in tables else {},
        read_mb_per_s=pairs_in_mb_per_s(read_bandwidth),
        write_mb_per_s=pairs_in_mb_per_s({**tables.get(3, {}), **tables[5]} if 5 in tables else {}),
    )
