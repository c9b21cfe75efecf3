"""Importer for virtme-ng's arguments (``vng``): ``--numa``, ``--numa-distance``, ``--cpus``, ``--memory``."""

from __future__ import annotations

import re

from numa_service.machine.formats.draft import Draft, DraftNode, machine_name
from numa_service.machine.formats.qemu import MAX_QEMU_NODES, MAX_TEXT, qemu_size, shell_words
from numa_service.machine.notation import NR_CPUS, format_cpulist, parse_cpulist
from numa_service.machine.spec import SpecError

#: Bytes of a guest without --memory.
_DEFAULT_MEMORY = 1 << 30
_IS = re.compile(r"(?:^|[\s/])(?:vng|virtme-ng|virtme-run)\s", re.MULTILINE)
_OPTIONS = {"-m": "--memory", "-p": "--cpus"}
_READ = ("--numa", "--numa-distance", "--cpus", "--memory")
_DISTANCE = re.compile(r"(\d{1,6}),(\d{1,6})=(\d{1,3})", re.ASCII)


def is_virtme(text: str) -> bool:
    """Whether the text looks like a command of virtme-ng."""
    return _IS.search(text[:4096]) is not None


def read_virtme(text: str, source: str, name: str) -> Draft:
    """The draft of a command, named `name`; SpecError names the argument."""
    if len(text) > MAX_TEXT:
        raise SpecError(f"{source}: {len(text)} characters, at most {MAX_TEXT}")
    given: dict[str, list[str]] = {option: [] for option in _READ}
    words = iter(shell_words(text, source))
    for word in words:
        option, equals, value = word.partition("=") if word.startswith("--") else (word, "", "")
        option = _OPTIONS.get(option, option)
        if option in given:
            given[option].append(value if equals else next(words, ""))
    draft = Draft(machine_name(name), [])
    count = 0
    for text_of in given["--cpus"]:
        if not re.fullmatch(r"\d{1,4}", text_of, re.ASCII) or not 1 <= int(text_of) <= NR_CPUS:
            raise SpecError(f"{source}: --cpus: {text_of[:30]!r} is not a number from 1 to {NR_CPUS}")
        count = int(text_of)
    if len(given["--numa"]) > MAX_QEMU_NODES:
        raise SpecError(f"{source}: --numa: {len(given['--numa'])} nodes, at most {MAX_QEMU_NODES}")
    for nid, value in enumerate(given["--numa"]):
        size, *others = value.split(",")
        node = DraftNode(nid, memory=qemu_size(size, "--numa", source, plain=1 << 20))
        try:
            node.cpus = parse_cpulist(",".join(word.removeprefix("cpus=") for word in others))
        except SpecError as error:
            raise SpecError(f"{source}: --numa: {error}") from None
        draft.nodes.append(node)
    memory = [qemu_size(size, "--memory", source, plain=1 << 20) for size in given["--memory"]]
    if not draft.nodes:
        draft.nodes = [DraftNode(0, memory=memory[-1] if memory else _DEFAULT_MEMORY)]
    _place(draft, count, source)
    _distances(draft, given["--numa-distance"], source)
    return draft


def _place(draft: Draft, count: int, source: str) -> None:
    """Put CPUs that no node lists on the first node."""
    listed = [cpu for node in draft.nodes for cpu in node.cpus]
    if len(set(listed)) < len(listed):
        raise SpecError(f"{source}: --numa: a CPU is on two nodes")
    if not count and not listed:
        draft.note("no CPU is said (virtme-ng takes those of the host): one on each node")
        for node in draft.nodes:
            node.cpus = (node.nid,)
        return
    strays = set(range(count or max(listed) + 1)) - set(listed)
    if strays:
        if len(draft.nodes) > 1:
            draft.note(f"CPUs {format_cpulist(strays)} are on no node: put on node 0")
        draft.nodes[0].cpus = tuple(sorted({*draft.nodes[0].cpus, *strays}))


def _distances(draft: Draft, values: list[str], source: str) -> None:
    given: dict[tuple[int, int], int] = {}
    nids = [node.nid for node in draft.nodes]
    for value in values:
        match = _DISTANCE.fullmatch(value)
        if match is None or int(match[1]) not in nids or int(match[2]) not in nids or int(match[3]) > 255:
            reason = f"{value[:30]!r} is not two nodes and their distance as 0,1=51"
            raise SpecError(f"{source}: --numa-distance: {reason}")
        given[int(match[1]), int(match[2])] = int(match[3])
    draft.set_slit(nids, given)
