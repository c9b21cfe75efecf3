"""What a thread is permitted: its users and capabilities, as the host has them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

CAP_SYS_PTRACE: Final = 19
CAP_SYS_NICE: Final = 23


def has_capability(tid: int, number: int) -> bool:
    """Whether a thread has a capability; False if it has ended."""
    return bool(int(_status(tid).get("CapEff", "0"), 16) >> number & 1)


def may_look_at(tid: int, other: int) -> bool:
    """Whether a thread may look into another process (ptrace_may_access with PTRACE_MODE_READ_REALCREDS)."""
    mine, theirs = _status(tid), _status(other)
    if not mine or not theirs:
        return False
    if int(mine["CapEff"], 16) >> CAP_SYS_PTRACE & 1:
        return True
    # the real user and group, of the other one also the effective and the saved
    same = (set(theirs[name].split()[:3]) == {mine[name].split()[0]} for name in ("Uid", "Gid"))
    return all(same)


def may_change(tid: int, other: int) -> bool:
    """Whether a thread may change where another runs (check_same_owner, or CAP_SYS_NICE)."""
    mine, theirs = _status(tid), _status(other)
    if not mine or not theirs:
        return False
    return mine["Uid"].split()[1] in theirs["Uid"].split()[:2] or has_capability(tid, CAP_SYS_NICE)


def _status(tid: int) -> dict[str, str]:
    """The lines of /proc/TID/status; none if the thread has ended."""
    try:
        text = Path(f"/proc/{tid}/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
