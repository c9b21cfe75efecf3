"""Others' files: what their own tools print of them is what is read here, or a cause is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from judges.causes import cause
from judges.questions import (
    CORPORA,
    JUDGES,
    Row,
    hwloc_trees,
    lscpu_dumps,
    lsmem_dumps,
    lstopo_console,
    pcp_roots,
    umf_domains,
)
from judges.table import BEGIN, END, PAGE, fact, kept, table
from skips import NO_CORPORA, needs


def asked(*names: str) -> Iterator[Row]:
    if not CORPORA.is_dir():
        pytest.skip(NO_CORPORA)
    for name in names:
        yield from JUDGES[name]()


def test_the_page_has_the_table_of_the_facts() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page.partition(BEGIN)[2].partition(END)[0] == table(kept())


def test_every_difference_has_a_cause() -> None:
    assert [one for one in kept() if one["ours"] != "=" and not one["cause"]] == []
    assert sum(one["ours"] == "=" for one in kept()) >= 375


@needs("lscpu")
def test_a_sample_of_the_facts() -> None:
    """What is cheap to ask, against what is kept."""
    wanted = {(one["judge"], one["file"], one["what"]): one for one in kept()}
    rows = list(asked("PCP roots", "UMF domains", "hwloc XML"))
    assert len(rows) >= 140
    for row in rows:
        assert fact(row) == wanted[row.judge, row.file, row.what]


@pytest.mark.slow
@needs("lscpu")
def test_all_of_the_facts() -> None:
    assert [fact(row) for row in asked(*JUDGES)] == kept()


@pytest.mark.parametrize("ask", [hwloc_trees, lscpu_dumps, lsmem_dumps, pcp_roots, umf_domains])
def test_an_empty_folder_has_no_rows(ask: Callable[[Path], Iterator[Row]], tmp_path: Path) -> None:
    assert list(ask(tmp_path)) == []


def test_lstopo_is_read_by_indentation() -> None:
    shape = lstopo_console(
        "Machine (P#0 total=3GiB)\n"
        "  Package L#0 (P#0 total=3GiB)\n"
        "    MemCache(MemorySideCache) L#0 (size=1GiB)\n"
        "      NUMANode L#0 (P#0 local=1GiB total=1GiB)\n"
        "    Core L#0 (P#0)\n"
        "      PU L#0 (P#4)\n"
        "      PU L#1 (P#6)\n"
        "  Package L#1 (P#1 total=2GiB)\n"
        "    NUMANode(HBM) L#1 (P#2 local=2048MiB total=2GiB)\n"
        "    Core L#1 (P#0)\n"
        "      PU L#2 (P#1)\n"
        "Relative latency matrix (name NUMALatency kind 5) between 2 NUMANodes by logical indexes:\n"
        "  index     1     0\n"
        "      1    10    30\n"
        "      0    20    10\n"
        "Topology infos: x\n"
    )
    assert shape.memory == {0: (1, 30), 2: (2048, 20)}
    assert shape.cpus == {0: {4, 6}, 2: {1}}
    assert (shape.packages, shape.cores, shape.pus) == (2, 2, {1, 4, 6})
    assert shape.distances == [[10, 20], [30, 10]]


def test_an_unknown_difference_has_no_cause() -> None:
    assert cause(Row("hwloc trees", "new.tar.bz2", "nodes", "0", "1")) == ""
    assert fact(Row("hwloc trees", "new.tar.bz2", "nodes", "0", "1"))["ours"] == "1"
