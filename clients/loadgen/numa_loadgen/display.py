"""Shows a load: live on stderr while it runs, and as tables when it is over."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from numa_loadgen.report import Latency, LoadProgress, LoadReport

_PLAIN_SECONDS = 2.0


def progress_line(progress: LoadProgress) -> str:
    """The progress of a load in one line, for logs and pipes."""
    return (
        f"{progress.elapsed_seconds:6.1f} s  {progress.operations_per_second:,.0f} ops/s"
        f"  {progress.pages_per_second:,.0f} pages/s  held {progress.held_pages:,}"
        f"  local {_share(progress.local_pages, progress.remote_pages)}"
        f"  faults {progress.fault_pages:,}  reclaimed {progress.direct_reclaimed_pages:,}"
        f"  errors {_errors(progress.errors)}"
    )


class ProgressDisplay:
    """Shows the progress of a load: redrawn in place on a terminal, else a line every two seconds."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = (
            Live(console=console, transient=True, auto_refresh=False) if console.is_terminal else None
        )
        self._printed = 0.0

    def __call__(self, progress: LoadProgress) -> None:
        """Show progress."""
        if self._live is not None:
            self._live.update(_panel(progress), refresh=True)
        elif progress.elapsed_seconds - self._printed >= _PLAIN_SECONDS:
            self._printed = progress.elapsed_seconds
            self._console.print(progress_line(progress), highlight=False, soft_wrap=True)

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()


def _panel(progress: LoadProgress) -> Group:
    bar = Table.grid(padding=(0, 1))
    bar.add_row(
        ProgressBar(total=progress.duration_seconds, completed=progress.elapsed_seconds, width=40),
        f"{progress.elapsed_seconds:.0f}/{progress.duration_seconds:.0f} s",
    )
    numbers = Table.grid(padding=(0, 2))
    numbers.add_row("throughput", f"{progress.operations_per_second:,.0f} ops/s")
    numbers.add_row("", f"{progress.pages_per_second:,.0f} pages/s")
    numbers.add_row("held", f"{progress.held_pages:,} pages")
    numbers.add_row("local", _share(progress.local_pages, progress.remote_pages))
    for nid, pages in progress.pages_by_node.items():
        numbers.add_row(f"node {nid}", f"{pages:,} pages")
    numbers.add_row("faults", f"{progress.fault_pages:,} pages")
    numbers.add_row("reclaimed", f"{progress.direct_reclaimed_pages:,} pages")
    numbers.add_row("errors", Text(_errors(progress.errors), style="red" if progress.errors else ""))
    return Group(bar, numbers)


def summary(report: LoadReport) -> Group:
    """The tables printed at the end."""
    wall = Table(
        title="wall ms" + (" since each request was due" if report.open_loop else ""),
        title_justify="left",
    )
    wall.add_column("operation")
    for column in ("ops", "p50", "p90", "p99", "max"):
        wall.add_column(column, justify="right")
    for kind, latency in report.wall_by_kind.items():
        wall.add_row(kind, *_latency_cells(latency))
    wall.add_section()
    wall.add_row("all", *_latency_cells(report.wall))

    facts = Table(
        title=f"{report.workload}: {report.clients} clients, {report.elapsed_seconds:.1f} s"
        + (", interrupted" if report.interrupted else ""),
        title_justify="left",
        show_header=False,
    )
    facts.add_column()
    facts.add_column(justify="right")
    rows: list[tuple[str, str]] = [
        ("operations/s", f"{report.operations_per_second:,.0f}"),
        ("pages/s", f"{report.pages_per_second:,.0f}"),
        ("pages allocated", f"{report.allocated_pages:,}"),
        ("pages touched", f"{report.touched_pages:,}"),
        ("pages freed", f"{report.freed_pages:,}"),
        ("pages freed by ending sessions", f"{report.released_pages:,}"),
        ("local pages", f"{report.local_pages:,}"),
        ("remote pages", f"{report.remote_pages:,}"),
        *((f"  on node {nid}", f"{pages:,}") for nid, pages in report.pages_by_node.items()),
        ("virtual ns per page, mean", f"{report.virtual_ns_per_page_mean:,.0f}"),
        ("virtual ns per page, p99", f"{report.virtual_ns_per_page_p99:,}"),
        ("faults (major)", f"{report.fault_pages:,} ({report.major_fault_pages:,})"),
        ("pages reclaimed directly", f"{report.direct_reclaimed_pages:,}"),
        ("remote lookups", f"{report.remote_lookups:,}"),
        ("errors", _errors(report.errors)),
        *((f"  first {status}", message) for status, message in report.first_errors.items()),
        ("sessions opened again", f"{report.reopened_sessions:,}"),
    ]
    for row in rows:
        facts.add_row(*row)
    return Group(wall, facts)


def _latency_cells(latency: Latency) -> tuple[str, ...]:
    times = (latency.p50_ms, latency.p90_ms, latency.p99_ms, latency.max_ms)
    return (f"{latency.operations:,}", *(f"{time:,.2f}" for time in times))


def _share(local: int, remote: int) -> str:
    return f"{local / (local + remote):.1%}" if local + remote else "-"


def _errors(errors: Mapping[str, int]) -> str:
    if not errors:
        return "0"
    return ", ".join(f"{status} {number:,}" for status, number in errors.items())
