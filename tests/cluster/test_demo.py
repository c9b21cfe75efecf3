"""The demo, shortened: each of its effects must be seen, and no process or page may be left."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import suppress

import psutil
import pytest

pytestmark = pytest.mark.ray


def test_the_demo_shows_what_it_promises_and_leaves_nothing() -> None:
    command = [
        sys.executable,
        "-c",
        "from numa_service.cli.main import main; main()",
        "demo",
        "--seconds",
        "6",
        "--json",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as demo:
        began = _descendants_until_it_ends(demo)
        stdout, stderr = demo.communicate()
    assert demo.returncode == 0, stderr
    summary = json.loads(stdout)
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
    assert "Traceback" not in stderr
    assert any(name == "gcs_server" for name in began.values()), began
    assert [name for process, name in began.items() if process.is_running()] == []


def _descendants_until_it_ends(demo: subprocess.Popen[str]) -> dict[psutil.Process, str]:
    """Processes that the demo began, by name. Other tests may run Ray on this host at the same time."""
    began: dict[psutil.Process, str] = {}
    deadline = time.monotonic() + 240
    while demo.poll() is None:
        assert time.monotonic() < deadline, "the demo does not end"
        with suppress(psutil.NoSuchProcess):
            for process in psutil.Process(demo.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    began.setdefault(process, process.name())
        time.sleep(0.1)
    return began
