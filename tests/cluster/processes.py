"""Processes of a local Ray, looked at from outside, and waiting for what they do."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import psutil

T = TypeVar("T")

PATIENCE_SECONDS = 60.0


def until(probe: Callable[[], T | None]) -> T:
    """What `probe` says once it says something; every probe asks another process, so this does not spin."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (answer := probe()):
        assert time.monotonic() < deadline, "it never happened"
    return answer


def ray_session(state_dir: Path) -> int | None:
    """The process session of the Ray that a state directory speaks of."""
    with suppress(FileNotFoundError):
        return int(json.loads((state_dir / "ray.json").read_text())["pid"])
    return None


def members(session: int) -> list[int]:
    """Living processes of a session; a title of its own (ray::NumaNode) hides a process's environment."""
    found = []
    for process in psutil.process_iter():
        with suppress(ProcessLookupError, psutil.NoSuchProcess):
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found
