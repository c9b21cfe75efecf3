"""Captured kernels' areas, asked for again: where they lie, and how many of those places were computed."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from fidelity.vmalloc import BEHIND_HOLE, COMPUTED, OTHER_HOLE, Counts, Replay, sections, vmalloc_used_kb
from groundtruth import GROUNDTRUTH

VMALLOC = GROUNDTRUTH / "vmalloc"
#: By capture: sections; then areas at boot and later, by kind, whose address was computed, computed once
#: holes of unknown origin were filled, and not computed: it is a hole that is aligned and large enough.
COUNTS: dict[str, tuple[int, dict[tuple[str, str], tuple[int, int, int]]]] = {
    "1n8c-k61/nokaslr": (
        10,
        {
            ("boot", "ioremap"): (11, 0, 0),
            ("boot", "vmap"): (8, 0, 0),
            ("boot", "vmalloc"): (24, 2, 0),
            ("boot", "stack"): (109, 3, 0),
            ("boot", "module"): (4, 6, 0),
            ("boot", "percpu chunk"): (1, 0, 0),
            ("later", "stack"): (8, 17, 4),
            ("later", "module"): (14, 1, 0),
        },
    ),
    "2n2c-k61/default": (
        12,
        {
            ("boot", "ioremap"): (11, 0, 0),
            ("boot", "vmap"): (4, 0, 0),
            ("boot", "vmalloc"): (32, 2, 0),
            ("boot", "stack"): (81, 3, 0),
            ("boot", "module"): (8, 2, 0),
            ("boot", "percpu chunk"): (2, 0, 0),
            ("later", "vmalloc"): (0, 2, 0),
            ("later", "stack"): (9, 9, 4),
            ("later", "module"): (8, 0, 0),
        },
    ),
    "2n2c-k61/nokaslr": (
        23,
        {
            ("boot", "ioremap"): (11, 0, 0),
            ("boot", "vmap"): (4, 0, 0),
            ("boot", "vmalloc"): (32, 2, 0),
            ("boot", "stack"): (77, 4, 0),
            ("boot", "module"): (3, 7, 0),
            ("boot", "percpu chunk"): (2, 0, 0),
            ("later", "vmalloc"): (0, 1, 0),
            ("later", "stack"): (29, 22, 5),
            ("later", "module"): (20, 0, 0),
        },
    ),
    "2n2c-k612/nokaslr": (
        21,
        {
            ("boot", "ioremap"): (11, 0, 0),
            ("boot", "vmap"): (4, 0, 0),
            ("boot", "vmalloc"): (25, 1, 0),
            ("boot", "stack"): (83, 7, 0),
            ("boot", "module"): (15, 0, 0),
            ("boot", "percpu chunk"): (2, 0, 0),
            ("later", "stack"): (20, 20, 4),
            ("later", "module"): (57, 1, 0),
        },
    ),
    "4n1c-k61/nokaslr": (
        23,
        {
            ("boot", "ioremap"): (11, 0, 0),
            ("boot", "vmap"): (4, 0, 0),
            ("boot", "vmalloc"): (32, 2, 0),
            ("boot", "stack"): (84, 7, 0),
            ("boot", "module"): (6, 4, 0),
            ("boot", "percpu chunk"): (4, 0, 0),
            ("later", "stack"): (19, 19, 4),
            ("later", "module"): (20, 0, 0),
        },
    ),
    "i386-1g/default": (
        11,
        {
            ("boot", "ioremap"): (9, 1, 0),
            ("boot", "vmalloc"): (4, 2, 0),
            ("boot", "module"): (8, 2, 0),
            ("later", "vmalloc"): (2, 1, 0),
            ("later", "module"): (8, 0, 0),
            ("later", "percpu chunk"): (1, 0, 0),
        },
    ),
}
CAPTURES = sorted(path.parent for path in VMALLOC.glob("*/*/vmallocinfo.txt"))


@cache
def replayed(capture: Path) -> Counts:
    return Replay(capture).run()


def name(capture: Path) -> str:
    return f"{capture.parent.name}/{capture.name}"


@pytest.mark.parametrize("capture", CAPTURES, ids=name)
def test_every_section_of_a_captured_vmallocinfo_is_the_same_text(capture: Path) -> None:
    """Each line: address, size with its guard page, pages, words, pages by node; and the order of lines."""
    counts = replayed(capture)
    assert counts.different == []
    assert counts.sections == len(sections(capture))


@pytest.mark.parametrize("capture", [c for c in CAPTURES if name(c) in COUNTS], ids=name)
def test_so_many_addresses_are_computed(capture: Path) -> None:
    counts = replayed(capture)
    placed = {
        (moment, kind): tuple(counts.placed[moment, kind, how] for how in (COMPUTED, BEHIND_HOLE, OTHER_HOLE))
        for moment, kind, _ in counts.placed
    }
    assert (counts.sections, placed) == COUNTS[name(capture)]


@pytest.mark.parametrize(
    ("capture", "interleaved", "from_a_node", "page_arrays"),
    [("2n2c-k61/nokaslr", 16, 1, 1), ("2n2c-k612/nokaslr", 16, 1, 1), ("4n1c-k61/nokaslr", 14, 3, 2)],
)
def test_tables_of_the_boot_are_interleaved(
    capture: str, interleaved: int, from_a_node: int, page_arrays: int
) -> None:
    """In equal shares; where pages do not divide, the node that is first in turn is taken over."""
    counts = replayed(VMALLOC / capture)
    assert (counts.interleaved, counts.interleaved_from) == (interleaved, from_a_node)
    assert counts.page_arrays == page_arrays


def test_vmalloc_used_of_a_kernel_whose_stacks_are_not_vmalloced() -> None:
    """With stacks among them the two files, read one after the other, differ by those of the readers."""
    capture = VMALLOC / "i386-1g/default"
    used = [kb for _, kb in vmalloc_used_kb(capture)]
    assert used == [4 * sum(line.pages for line in section.lines) for section in sections(capture)]
