"""What a write to a file of /proc or /sys asks the machine to do. Nothing is done here."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass

from numa_service.machine.spec import MachineSpec, SpecError
from numa_service.machine.sysctl import SYSCTLS, parse_sysctl
from numa_service.mm.snapshot import MachineSnapshot
from numa_service.procfs.names import has_numa
from numa_service.procfs.sysctl import NUMA_ONLY
from numa_service.procfs.tree import error, find

#: A write is at most a page, as in sysfs.
MAX_WRITE = 4096

_STATES = ("online", "online_kernel", "online_movable", "offline")
_TRUE = ("1", "y", "Y", "on", "ON", "On")
_FALSE = ("0", "n", "N", "off", "OFF", "Off")


@dataclass(frozen=True, slots=True)
class WriteSysctl:
    """To be written for every node."""

    key: str
    value: str


@dataclass(frozen=True, slots=True)
class ChangeMemoryBlock:
    """To be asked of the node that has the block."""

    block: int
    state: str


def parse_sysctl_write(spec: MachineSpec, path: str, data: bytes) -> WriteSysctl | None:
    """What writing to a sysctl of a machine means, of which no node need be asked.

    None for a path that is not plainly that of a sysctl: :func:`parse_write` knows more. EFBIG, EINVAL.
    """
    match path.removeprefix("/").split("/"):
        case ["proc", "sys", folder, name]:
            key = f"{folder}.{name}"
            has = key in SYSCTLS and SYSCTLS[key].is_in(spec.profile)
            if has and (has_numa(spec) or key not in NUMA_ONLY):
                return WriteSysctl(key, _value(key, spec.profile, path, data))
    return None


def parse_write(snapshot: MachineSnapshot, path: str, data: bytes) -> WriteSysctl | ChangeMemoryBlock | None:
    """What writing `data` means; None when all is so already.

    Errors as of open(2) and write(2): those of a read, EACCES for what cannot be written, EFBIG for more than
    a page, EINVAL for what the kernel refuses; the reason is in the error's text.
    """
    place, pattern, numbers = find(snapshot, path)
    if not pattern.mode & stat.S_IWUSR:
        raise error(errno.EACCES, path)
    if place.startswith("proc/sys/"):
        key = ".".join(map(str, numbers))
        return WriteSysctl(key, _value(key, snapshot.profile, path, data))
    text = _text(path, data)
    block = int(numbers[0])
    if place.endswith("/state"):
        if text not in _STATES:
            raise _invalid(path, f"{text[:40]!r} is not {', '.join(_STATES)}")
        return ChangeMemoryBlock(block, text)
    if text not in (*_TRUE, *_FALSE):
        raise _invalid(path, f"{text[:40]!r} is neither 0 nor 1")
    wanted = text in _TRUE
    now = any(b.online for node in snapshot.nodes for b in node.memory_blocks if b.number == block)
    if wanted == now:
        return None
    return ChangeMemoryBlock(block, "online" if wanted else "offline")


def _value(key: str, profile: str, path: str, data: bytes) -> str:
    text = _text(path, data)
    try:
        return parse_sysctl(key, text, profile)
    except SpecError as refused:
        raise _invalid(path, str(refused)) from None


def _text(path: str, data: bytes) -> str:
    if len(data) > MAX_WRITE:
        raise error(errno.EFBIG, path)
    try:
        return data.decode("ascii").strip()
    except UnicodeDecodeError:
        raise _invalid(path, "not ASCII") from None


def _invalid(path: str, reason: str) -> OSError:
    return OSError(errno.EINVAL, f"{os.strerror(errno.EINVAL)}: {reason}", f"/{path.strip('/')}")
