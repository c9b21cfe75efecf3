"""What a program pays whose calls a machine answers, beside the same program on the host."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from table import Row

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "calls"))

from answered import run_command

_TOUCH = "import mmap; m = mmap.mmap(-1, 1 << 30, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\n" + (
    "for at in range(0, 1 << 30, 4096): m[at] = 1"
)
#: Opens a file, and asks for the policy, so many times.
_TIMES = 2000
_ASK = f"""
import ctypes, json, os, time
libc = ctypes.CDLL(None)
def ns(work):
    began = time.perf_counter_ns()
    for _ in range({_TIMES}):
        work()
    return (time.perf_counter_ns() - began) / {_TIMES}
def ask():
    mode = ctypes.c_int()
    libc.syscall(239, ctypes.byref(mode), None, 0, None, 0)
print(json.dumps({{"open": ns(lambda: os.close(os.open("/etc/hostname", os.O_RDONLY))), "ask": ns(ask)}}))
"""
_ROUNDS = 5


def _seconds(code: str, *, answered: bool) -> float:
    command = [sys.executable, "-c", code]
    began = time.perf_counter()
    # what is answered is started by another Python, as by `exec`
    through = [sys.executable, "-c", "import os, sys; os.execv(sys.argv[1], sys.argv[1:])", *command]
    status = run_command(command).status if answered else subprocess.run(through, check=False).returncode
    assert status == 0
    return time.perf_counter() - began


def _asked(*, answered: bool) -> dict[str, float]:
    command = [sys.executable, "-c", _ASK]
    if answered:
        (found,) = run_command(command).told
    else:
        found = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return found


def rows() -> list[Row]:
    """Every row of this part; each is the least of several rounds, in turn with and without the machine."""
    run_command(["true"])  # boots the machine
    touched = [(_seconds(_TOUCH, answered=True), _seconds(_TOUCH, answered=False)) for _ in range(_ROUNDS)]
    asked = [(_asked(answered=True), _asked(answered=False)) for _ in range(_ROUNDS)]
    with_it, without = (min(column) for column in zip(*touched, strict=True))
    found = {
        name: [min(round_[side][name] for round_ in asked) for side in (0, 1)] for name in ("open", "ask")
    }
    return [
        Row("calls_touch_1_gib", with_it, "s", "on the host", without, 1.1, True, False),
        Row("calls_open", found["open"][0] / 1000, "µs", "on the host", found["open"][1] / 1000),
        Row("calls_get_mempolicy", found["ask"][0] / 1000, "µs", "on the host", found["ask"][1] / 1000),
    ]


if __name__ == "__main__":
    from table import show

    show(rows())
