"""The progress of commands by steps."""

from __future__ import annotations

import io

from rich.console import Console

from numa_service.cli.progress import steps


def test_steps_are_lines_where_there_is_no_terminal() -> None:
    console = Console(file=io.StringIO(), width=80)
    with steps(console) as progress:
        progress("compiling", 0.0)
        progress("starting")
        for hundredth in range(101):
            progress("compiling", hundredth / 100)
        progress("done")
    lines = console.file.getvalue().splitlines()
    tenths = [f"compiling: {percent} %" for percent in range(10, 101, 10)]
    assert lines == ["compiling", "starting", *tenths, "done"]


def test_steps_are_bars_on_a_terminal() -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=True, legacy_windows=False)
    with steps(console) as progress:
        progress("compiling", 0.0)
        progress("starting")
        progress("compiling", 0.5)
        progress("compiling", 1.0)
    lines = console.file.getvalue().splitlines()
    assert {"━" in line for line in lines if "compiling" in line} == {True}
    assert {"━" in line for line in lines if "starting" in line} == {False}
