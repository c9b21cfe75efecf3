"""The demo, shortened: everything it is about has to be seen, and nothing may be left."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress

import psutil
import pytest

pytestmark = pytest.mark.ray


def test_the_demo_shows_what_it_promises_and_leaves_nothing() -> None:
    before = _rays()
    command = [
        sys.executable,
        "-c",
        "from numa_service.cli.main import main; main()",
        "demo",
        "--seconds",
        "6",
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    for key in (
        "local_pages",
        "remote_pages",
        "reclaimed_by_kswapd_pages",
        "returned_after_lost_client_pages",
    ):
        assert summary[key] > 0, key
    assert summary["remote_access_ns_per_page"] > summary["local_access_ns_per_page"]
    assert summary["held_pages_at_end"] == 0
    assert summary["violations"] == []
    assert "Traceback" not in done.stderr
    assert _rays() - before == set()


def _rays() -> set[int]:
    """Processes of any Ray of this host."""
    found = set()
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if "ray" in " ".join(process.cmdline()):
                found.add(process.pid)
    return found
