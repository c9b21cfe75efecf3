"""Finds the processes of a local Ray, and waits for conditions."""

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
    """Call `probe` until it returns something. Each call asks another process, so this does not spin."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (answer := probe()):
        assert time.monotonic() < deadline, "it never happened"
    return answer


def ray_session(state_dir: Path) -> int | None:
    """The Unix session of the Ray of a state directory."""
    with suppress(FileNotFoundError):
        return int(json.loads((state_dir / "ray.json").read_text())["pid"])
    return None


def members(session: int) -> list[int]:
    """Living processes of a session; by environment they cannot be found, as Ray's titles overwrite it."""
    found = []
    for process in psutil.process_iter():
        with suppress(ProcessLookupError, psutil.NoSuchProcess):
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found
