"""Importer for the text of ``lscpu``: CPUs by node, sockets, cores and threads. It has no memory."""

from __future__ import annotations

import re

from numa_service.machine.formats.draft import Draft, DraftNode, machine_name
from numa_service.machine.notation import MAX_LISTED_CPUS, MAX_NUMNODES, NR_CPUS, parse_cpulist
from numa_service.machine.spec import SpecError

_IS = re.compile(r"^(?:Architecture|CPU\(s\)|Thread\(s\) per core): +\S", re.MULTILINE)
_FIELD = re.compile(r"^ *([A-Za-z][\w() .-]{0,60}?): *(\S[^\n]*)$", re.MULTILINE)
_NODE = re.compile(r"NUMA node(\d{1,6}) CPU\(s\)", re.ASCII)
_MAX_TEXT = 2 << 20


def is_lscpu(text: str) -> bool:
    """Whether the text is that of ``lscpu``."""
    return _IS.search(text) is not None


def read_lscpu(text: str, source: str, name: str) -> Draft:
    """The draft of such a text, named `name`; SpecError names the field that is wrong."""
    if len(text) > _MAX_TEXT:
        raise SpecError(f"{source}: {len(text)} characters, at most {_MAX_TEXT}")
    fields = {found[1]: found[2].strip() for found in _FIELD.finditer(text)}
    draft = Draft(machine_name(name), [])

    def number(*keys: str) -> int:
        value = next((fields[key] for key in keys if key in fields), "")
        return int(value) if re.fullmatch(r"\d{1,6}", value, re.ASCII) else 0

    def cpus(key: str) -> tuple[int, ...]:
        try:
            return parse_cpulist(fields[key])
        except SpecError as error:
            raise SpecError(f"{source}: {key}: {error}") from None

    count = number("CPU(s)")
    if count > NR_CPUS:
        raise SpecError(f"{source}: CPU(s): {count}, at most {NR_CPUS}")
    listed = 0
    for key in fields:
        if match := _NODE.fullmatch(key):
            if int(match[1]) >= MAX_NUMNODES:
                raise SpecError(f"{source}: {key}: there are at most {MAX_NUMNODES} nodes")
            draft.nodes.append(DraftNode(int(match[1]), cpus(key)))
            listed += len(draft.nodes[-1].cpus)
            if listed > MAX_LISTED_CPUS:
                raise SpecError(f"{source}: {key}: nodes list more than {MAX_LISTED_CPUS} CPUs in all")
    nr_nodes = number("NUMA node(s)")
    if nr_nodes and nr_nodes != len(draft.nodes):
        raise SpecError(f"{source}: NUMA node(s): {nr_nodes}, and {len(draft.nodes)} are listed: cut off")
    if not draft.nodes:
        online = "On-line CPU(s) list"
        if online not in fields and not count:
            raise SpecError(f"{source}: neither CPU(s) nor {online}: not the text of lscpu, or cut off")
        draft.nodes = [DraftNode(0, cpus(online) if online in fields else tuple(range(count)))]
    if fields.get("Architecture", "x86_64") not in ("x86_64", "i686"):
        draft.note(
            f"architecture {fields['Architecture'][:30]}: zones and pages are those of x86_64 here (pages of "
            "4 KiB, DMA below 16 MiB, DMA32 below 4 GiB)"
        )
    if len(draft.nodes) > 1:
        draft.note("lscpu has no distances: 20 between all nodes was taken")
    _topology(draft, number("Socket(s)"), number("Thread(s) per core"))
    return draft


def _topology(draft: Draft, sockets: int, threads: int) -> None:
    """Set packages and cores, as far as counts tell them: as many nodes a socket, or sockets a node."""
    with_cpus = [node.cpus for node in draft.nodes if node.cpus]
    cpus = [cpu for own in with_cpus for cpu in own]
    if not sockets or not cpus or len(set(cpus)) < len(cpus):
        return
    if len(with_cpus) % sockets == 0:
        share = len(with_cpus) // sockets
        groups = [with_cpus[at : at + share] for at in range(0, len(with_cpus), share)]
        draft.packages = [tuple(sorted(cpu for own in group for cpu in own)) for group in groups]
    elif sockets % len(with_cpus) == 0 and len({len(own) for own in with_cpus}) == 1:
        size = len(cpus) // sockets
        draft.packages = [own[at : at + size] for own in with_cpus for at in range(0, len(own), size) if size]
    if threads > 1 and draft.packages and all(len(own) % threads == 0 for own in draft.packages):
        draft.note("which CPUs are threads of a core is taken from their numbers: lscpu has counts only")
        for own in draft.packages:
            adjacent = own[-1] - own[0] + 1 == len(own)
            share = len(own) // threads
            draft.cores += (
                [own[at : at + threads] for at in range(0, len(own), threads)]
                if adjacent
                else [own[at::share] for at in range(share)]
            )
