"""numa-service inspect: every field is printed, as text and as JSON."""

from __future__ import annotations

import json

import pytest
import typer
from typer.testing import CliRunner

from numa_service.cli import inspect as command
from numa_service.mm.structs import HighMemory, MemSection, Page, PgListData, Zone, stands_for

app = typer.Typer(pretty_exceptions_enable=False)
command.register(app)
run = CliRunner().invoke


@pytest.mark.parametrize(
    ("arguments", "view"),
    [
        (["pgdat", "demo", "1"], PgListData),
        (["zone", "demo", "0", "DMA32"], Zone),
        (["page", "demo", "0x9000"], Page),
        (["section", "demo", "0"], MemSection),
        (["highmem", "i386-highmem", "0"], HighMemory),
    ],
)
def test_every_field(arguments: list[str], view: type) -> None:
    text = run(app, arguments)
    assert text.exit_code == 0, text.stderr
    first_words = [line.split()[0] for line in text.stdout.splitlines() if not line.startswith(" ")]
    assert first_words == ["field", *stands_for(view)]
    values = json.loads(run(app, [*arguments, "--json"]).stdout)
    assert list(values) == list(stands_for(view))


def test_a_fill_shows() -> None:
    empty, filled = (
        json.loads(run(app, ["zone", "demo", "0", "DMA32", "--json", *more]).stdout)
        for more in ([], ["--fill", "0=20000:anon"])
    )
    assert empty["lru"]["inactive_anon"] == 0
    assert filled["lru"]["inactive_anon"] == 20_000


def test_what_is_wrong_is_said() -> None:
    for arguments, code, text in (
        (["zone", "0"], 2, "zone takes SOURCE NID ZONE"),
        (["pgdat", "none"], 2, "is not a number"),
        (["pgdat", "9"], 1, "node 9"),
        (["zone", "0", "HighMem"], 1, "node 0 has DMA, DMA32"),
        (["page", "99999999"], 1, "no node has it"),
        (["section", "99"], 1, "section 99: no node has it"),
        (["highmem", "0"], 1, "all memory has an address in the kernel"),
    ):
        result = run(app, [arguments[0], "demo", *arguments[1:]])
        assert result.exit_code == code, arguments
        assert text in " ".join(result.stderr.replace("│", "").split()), arguments
