"""However long a trace is, parsing, converting and replaying it takes the same memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

LONG_TRACE = Path(__file__).parents[2] / "benchmarks" / "long_trace.py"
EVENTS = 6_000_000
#: All columns of these events are 174 MB, their text is 750 MB; a chunk is 4 MB, a block of text 8 MiB.
GROWTH_MIB = 24.0


@pytest.mark.slow
def test_memory_does_not_grow_with_the_trace() -> None:
    command = [sys.executable, str(LONG_TRACE), str(EVENTS), "--text"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=True)
    found = json.loads(done.stdout)
    for step in ("render, parse and write", "write", "replay"):
        assert found[step]["most_mib"] - found[step]["settled_mib"] < GROWTH_MIB, (step, found)
    assert found["replayed"] == {"matched": EVENTS, "wanted": EVENTS}
