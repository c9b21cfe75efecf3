"""``convert-trace``: parses the text of a kernel trace into a columnar file (.ntrace)."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from numa_service.cli.progress import INTERRUPTED, Interrupt, WithProgress, file_progress
from numa_service.trace.ahead import read_ahead
from numa_service.trace.columnar import write_ntrace
from numa_service.trace.events import TraceError, TraceEvents
from numa_service.trace.reader import TraceReader, open_trace


class _Interrupted(Exception):
    """Ctrl-C was pressed; no file is left."""


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("convert-trace")(convert_trace)


def convert_trace(
    trace: Annotated[
        Path,
        typer.Argument(
            help="Text of /sys/kernel/tracing/trace or of perf script, plain or .gz; or a capture directory "
            "with t.trace.gz."
        ),
    ],
    output: Annotated[Path, typer.Argument(help="The columnar file to write (.ntrace).")],
    progress: WithProgress = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Parse a kernel trace once, into a columnar file that replay reads without parsing.

    The file appears when it is complete. Ctrl-C leaves none and exits 130.
    """
    console = Console(stderr=True)
    interrupt = Interrupt()
    began = time.perf_counter()
    try:
        with (
            interrupt.caught(),
            file_progress(console, "parsing", trace, progress) as report,
            open_trace(trace, report) as reader,
        ):
            events = write_ntrace(
                output, reader.header, _until(reader, interrupt), reader.counts, reader.kswapd
            )
    except _Interrupted:
        typer.echo(f"interrupted; {output} was not written", err=True)
        raise typer.Exit(INTERRUPTED) from None
    except OSError as error:
        raise TraceError(
            f"{output}: {error.strerror}; name a file in a directory that you can write to"
        ) from None
    seconds = time.perf_counter() - began
    size = output.stat().st_size
    if as_json:
        found = {
            "trace": str(reader.path),
            "output": str(output),
            "events": events,
            "lines": reader.counts.lines,
            "skipped_lines": reader.counts.total_skipped,
            "bytes": size,
            "seconds": seconds,
        }
        typer.echo(json.dumps(found, indent=1))
        return
    rate = events / seconds if seconds else 0
    typer.echo(
        f"{output}: {events:,} events, {size:,} bytes, {size / max(events, 1):.1f} an event; "
        f"{seconds:.2f} s, {rate:,.0f} events/s"
    )
    if skipped := reader.counts.total_skipped:
        typer.echo(f"{skipped:,} of {reader.counts.lines:,} lines had no event", err=True)


def _until(reader: TraceReader, interrupt: Interrupt) -> Iterator[TraceEvents]:
    with closing(read_ahead(reader)) as chunks:
        for chunk in chunks:
            if interrupt.raised:
                raise _Interrupted
            yield chunk
    if interrupt.raised:
        raise _Interrupted
