"""Kernel traces: parsing text, beside `gzip | wc`, which only unpack it and count lines; and replay."""

from __future__ import annotations

import gzip
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from table import Row

from numa_service.machine.machinefile import parse_machine
from numa_service.sim.trace_replay import Replay
from numa_service.trace.ahead import read_ahead
from numa_service.trace.columnar import write_ntrace
from numa_service.trace.reader import open_trace
from numa_service.trace.synthetic import SyntheticTrace, trace_text

_EVENTS = 2_000_000
#: CPUs that are needed at once: a thread reads ahead, and `gzip | wc` are two programs.
CPUS = 2
_ROUNDS = 3
_MACHINE = """
name = "traced"
[[node]]
cpus = "0-3"
memory = "1GiB"
[[node]]
cpus = "4-7"
memory = "1GiB"
"""


def _write_text(path: Path) -> None:
    zone = parse_machine(_MACHINE, "traced", "traced").nodes[0].zones[-1]
    made = SyntheticTrace(range(8), zone.start_pfn + 512, 1 << 18)
    with gzip.open(path, "wb", compresslevel=6) as out:
        for chunk in made.chunks(_EVENTS):
            out.write(trace_text(chunk))


def _seconds(what: Callable[[], None]) -> float:
    began = time.perf_counter()
    what()
    return time.perf_counter() - began


def _parse(path: Path) -> None:
    with open_trace(path) as reader:
        assert sum(map(len, reader)) == _EVENTS


def _count_lines(path: Path) -> None:
    command = f"gzip -dc {path} | wc -l"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert int(done.stdout) == _EVENTS


def _convert(path: Path, output: Path) -> None:
    with open_trace(path) as reader:
        write_ntrace(output, reader.header, read_ahead(reader), reader.counts, reader.kswapd)


def _replay(path: Path) -> float:
    """Replay a columnar file; returns the seconds, with reading the file and without booting."""
    replay = Replay(parse_machine(_MACHINE, "traced", "traced"))
    with open_trace(path) as reader:
        seconds = _seconds(lambda: replay.run(read_ahead(reader)) or None)
        report = replay.tally.report(reader.counts)
    assert report.matched == _EVENTS
    assert not report.problems
    return seconds


def rows() -> list[Row]:
    """Every row of this part."""
    with tempfile.TemporaryDirectory() as folder:
        text, columnar = Path(folder) / "t.trace.gz", Path(folder) / "t.ntrace"
        _write_text(text)
        _parse(text)  # compiles
        parsed, counted = [], []
        for _ in range(_ROUNDS):
            parsed.append(_EVENTS / _seconds(lambda: _parse(text)))
            if shutil.which("gzip"):
                counted.append(_EVENTS / _seconds(lambda: _count_lines(text)))
        converted = _EVENTS / _seconds(lambda: _convert(text, columnar))
        sizes = columnar.stat().st_size / _EVENTS, text.stat().st_size / _EVENTS
        replayed = [_EVENTS / _replay(columnar) for _ in range(_ROUNDS)]
    zcat = "gzip -dc | wc -l of the same file"
    against = median(counted) if counted else None
    return [
        Row("trace_parse_text", median(parsed), "events/s", zcat, against, 0.3),
        Row("trace_convert", converted, "events/s", zcat, against),
        Row("trace_columnar_size", sizes[0], "B/event", "gzipped text", sizes[1]),
        Row("replay_columnar", median(replayed), "events/s", goal=3_000_000, goal_of_ratio=False),
    ]


if __name__ == "__main__":
    from table import show

    show(rows())
