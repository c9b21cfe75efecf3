"""Measures resident memory while a long synthetic trace is written, replayed and parsed: it must be bounded.

``python benchmarks/long_trace.py 100000000`` takes some three minutes and 60 MB of disk; ``--text`` also
parses as many lines of text, which are made as they are read.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from numa_service.machine.machinefile import parse_machine
from numa_service.sim.trace_replay import Replay
from numa_service.trace.columnar import write_ntrace
from numa_service.trace.events import EventCounts, TraceEvents, TraceHeader
from numa_service.trace.ftrace import TextParser
from numa_service.trace.reader import open_trace
from numa_service.trace.synthetic import SyntheticTrace, trace_text

#: 2 GiB, of which the trace allocates and frees 1 GiB. The tables of a replay grow with the machine's memory.
MACHINE = """
name = "two-nodes"
[[node]]
cpus = "0-3"
memory = "1GiB"
[[node]]
cpus = "4-7"
memory = "1GiB"
"""
#: After this part of the trace, a quarter, everything that grows with the machine's memory is there.
_SETTLED = 4


def rss_mib() -> float:
    """Current resident memory of this process in MiB."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024


class _Memory:
    """Records resident memory while chunks go through: after a quarter of the trace, and the maximum."""

    def __init__(self, events: int) -> None:
        self.settled = self.most = 0.0
        self._quarter = events // _SETTLED
        self._seen = 0

    def watch(self, chunks: Iterator[TraceEvents]) -> Iterator[TraceEvents]:
        for chunk in chunks:
            yield chunk
            self._seen += len(chunk)
            if self._seen <= self._quarter:
                self.settled = rss_mib()
            self.most = max(self.most, rss_mib())


class _Text:
    """The text of a trace as a readable stream."""

    def __init__(self, chunks: Iterator[TraceEvents]) -> None:
        self._texts = map(trace_text, chunks)
        self._rest = b""

    def readinto(self, buffer: memoryview, /) -> int:
        self._rest = self._rest or next(self._texts, b"")
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size


def measure(events: int, text: bool) -> dict[str, dict[str, float]]:
    """Step → its events per second, and MiB resident after a quarter of the trace and at most."""
    spec = parse_machine(MACHINE, "long", "long")
    zone = spec.nodes[0].zones[-1]
    made = SyntheticTrace(spec.cpus, zone.start_pfn + 512, 1 << 18)
    found = {}

    def note(name: str, memory: _Memory, began: float) -> None:
        rate = events / (time.perf_counter() - began)
        found[name] = {"events_per_s": rate, "settled_mib": memory.settled, "most_mib": memory.most}

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "long.ntrace"
        if text:
            memory, began = _Memory(events), time.perf_counter()
            parser = TextParser(_Text(made.chunks(events)), "text")
            write_ntrace(path, parser.header, memory.watch(parser.chunks()), parser.counts)
            note("render, parse and write", memory, began)
        memory, began = _Memory(events), time.perf_counter()
        write_ntrace(path, TraceHeader(), memory.watch(made.chunks(events)), EventCounts())
        note("write", memory, began)
        found["file"] = {"bytes": path.stat().st_size}
        replay = Replay(spec)
        with open_trace(path) as reader:
            memory, began = _Memory(events), time.perf_counter()
            assert replay.run(memory.watch(iter(reader)))
            note("replay", memory, began)
            report = replay.tally.report(reader.counts)
        found["replayed"] = {"matched": report.matched, "wanted": report.wanted}
        assert not report.problems
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("events", type=int)
    parser.add_argument("--text", action="store_true", help="parse as many lines of text as well")
    asked = parser.parse_args()
    print(json.dumps(measure(asked.events, asked.text), indent=1))


if __name__ == "__main__":
    main()
