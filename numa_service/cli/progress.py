"""What long commands on files say on stderr while they run, and how Ctrl-C ends them."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from numa_service.trace.source import Progress as Report

INTERRUPTED = 130

#: Of a file, between two lines where there is no terminal to draw a bar on.
_STEP_PERCENT = 10

WithProgress = Annotated[
    bool | None,
    typer.Option(
        "--progress/--no-progress",
        help="Say on stderr how far it is; by default on a terminal only.",
        show_default=False,
    ),
]


@dataclass
class Interrupt:
    """Ctrl-C, as a flag: work stops between two events, not within one."""

    raised: bool = False

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Take SIGINT over; the second one ends the process as usual."""

        def note(_signal: int, _frame: FrameType | None) -> None:
            self.raised = True
            signal.signal(signal.SIGINT, signal.default_int_handler)

        before = signal.signal(signal.SIGINT, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


@contextmanager
def file_progress(console: Console, what: str, file: Path, wanted: bool | None) -> Iterator[Report | None]:
    """By bytes of a file: a bar on a terminal, else a line every tenth; None if it is not to be said.

    A pipe has no length.
    """
    if not (console.is_terminal if wanted is None else wanted) or not (file.is_file() or file.is_dir()):
        yield None
        return
    if not console.is_terminal:
        yield _Lines(console, what)
        return
    columns = (TextColumn(what), BarColumn(), DownloadColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


class _Lines:
    def __init__(self, console: Console, what: str) -> None:
        self._console = console
        self._what = what
        self._said = -_STEP_PERCENT

    def __call__(self, done: int, total: int) -> None:
        percent = 100 * done // total if total else 100
        if percent >= self._said + _STEP_PERCENT:
            self._said = percent // _STEP_PERCENT * _STEP_PERCENT
            self._console.print(f"{self._what}: {percent} % of {total:,} bytes", highlight=False)
