"""Progress of long commands on stderr, and how Ctrl-C ends them."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress_bar import ProgressBar
from rich.text import Text

if TYPE_CHECKING:  # what reads traces imports Numba, which most commands do not need
    from numa_service.cluster.progress import Progress as Steps
    from numa_service.trace.reader import Progress as Report

INTERRUPTED = 130

#: Progress between two lines, where stderr is no terminal and a bar cannot be drawn.
_STEP_PERCENT = 10

WithProgress = Annotated[
    bool | None,
    typer.Option(
        "--progress/--no-progress",
        help="Show progress on stderr. The default is yes on a terminal and no elsewhere.",
        show_default=False,
    ),
]


@dataclass
class Interrupt:
    """Ctrl-C as a flag, so that work stops between two events and not within one."""

    raised: bool = False

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Set `raised` at the first SIGINT in the body; a second one raises KeyboardInterrupt as usual."""

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
    """Progress by the bytes of a file that were read: a bar on a terminal, else a line for each tenth.

    Gives None if progress is not wanted (by default: if stderr is no terminal), or the file is a pipe, whose
    length is not known.
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


@contextmanager
def steps(console: Console) -> Iterator[Steps]:
    """Progress by steps: live on a terminal, else a line for each step and for each tenth of a share."""
    if not console.is_terminal:
        yield _StepLines(console)
        return
    columns = SpinnerColumn(), TextColumn("{task.description}"), _BarOfShare(), TimeElapsedColumn()
    with Progress(*columns, console=console) as bars:
        shown = _StepBars(bars)
        yield shown
        shown.end_step()


class _StepLines:
    def __init__(self, console: Console) -> None:
        self._console = console
        self._said: dict[str, int] = {}

    def __call__(self, text: str, share: float | None = None) -> None:
        percent = int(100 * (share or 0.0)) // _STEP_PERCENT * _STEP_PERCENT
        if share is None or percent > self._said.get(text, -1):
            self._said[text] = percent
            self._console.print(f"{text}: {percent} %" if percent else text, highlight=False)


class _StepBars:
    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._step: TaskID | None = None
        self._with_share: dict[str, TaskID] = {}

    def __call__(self, text: str, share: float | None = None) -> None:
        if share is None:
            self.end_step()
            self._step = self._bars.add_task(text, total=None)
            return
        if text not in self._with_share:
            self._with_share[text] = self._bars.add_task(text, total=1.0, share=True)
        self._bars.update(self._with_share[text], completed=share)

    def end_step(self) -> None:
        """Mark the current step without a share, if there is one, as done."""
        if self._step is not None:
            self._bars.update(self._step, total=1, completed=1)


class _BarOfShare(BarColumn):
    """A bar for steps with a share, and nothing for the others."""

    # rich prints whatever a column renders; the declared type is only what BarColumn itself returns
    def render(self, task: Task) -> ProgressBar | Text:  # type: ignore[override]
        return super().render(task) if task.fields.get("share") else Text()
