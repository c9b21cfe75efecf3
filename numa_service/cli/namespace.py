"""Become a command in a mount namespace where files of /proc and /sys are other ones.

A program of its own, with the standard library alone: ``python -m numa_service.cli.namespace FD CMD...``; the
files are a JSON list of [path, mode, target, text] in the open file FD. No process is left behind by it: it
*is* the command in the end. The files live in a tmpfs that ends with the namespace.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import sys
import tempfile
from typing import NoReturn

# linux/sched.h, sys/mount.h
CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MNT_DETACH = 2

#: Directories that become the emulated machine's as a whole: an empty one where it has none.
DIRECTORIES = (
    "sys/devices/system/node",
    "sys/devices/system/cpu",
    "sys/devices/system/memory",
    "sys/kernel/mm",
    "proc/sys/vm",
)
#: Files that the model cannot fill: the host's are hidden behind empty ones.
HIDDEN = ("proc/slabinfo", "proc/vmallocinfo", "proc/pressure/memory")

#: Where all of the machine's files are, those too that the host has no name for.
COMPLETE = "/sys/kernel/mm/numa-service"
#: hwloc asks the CPUs it runs on, its affinity and its cgroup beside the files, unless it is told not to.
HWLOC = {"HWLOC_FSROOT": COMPLETE, "HWLOC_COMPONENTS": "linux,stop", "HWLOC_THISSYSTEM": "0"}

#: Exit statuses of shells for a command that cannot be run, and that is not there.
CANNOT_RUN, NOT_FOUND = 126, 127

REMEDY = """\
Run it as root (in a container: with CAP_SYS_ADMIN, and no seccomp or AppArmor profile against mount), or
allow user namespaces (sysctl user.max_user_namespaces and user.max_mnt_namespaces; where there is one,
kernel.unprivileged_userns_clone=1 or kernel.apparmor_restrict_unprivileged_userns=0), or do without:
numa-service mirror DIR, and a tool that can be told where to look."""

_libc = ctypes.CDLL(None, use_errno=True)


class Forbidden(Exception):
    """No namespace, or no mount in it."""


def _unshare(flags: int) -> None:
    if _libc.unshare(flags):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _mount(source: str, target: str, kind: str | None, flags: int, data: str = "") -> None:
    kind_bytes = kind.encode() if kind else None
    if _libc.mount(os.fsencode(source), os.fsencode(target), kind_bytes, flags, data.encode() or None):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), target)


def _bind(source: str, target: str) -> None:
    """Mount a file or directory, read-only, on another one."""
    _mount(source, target, None, MS_BIND)
    _mount("none", target, None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)


def enter() -> None:
    """A mount namespace of our own; in a user namespace if that is what it takes. Forbidden."""
    try:
        _unshare(CLONE_NEWNS)
    except OSError as error:
        if error.errno != errno.EPERM:
            raise Forbidden(f"no mount namespace: {error.strerror}") from None
        uid, gid = os.getuid(), os.getgid()
        try:
            _unshare(CLONE_NEWUSER | CLONE_NEWNS)
            # Still ourselves: with the right to mount until the command is executed, and none after.
            _write("/proc/self/setgroups", "deny")
            _write("/proc/self/uid_map", f"{uid} {uid} 1")
            _write("/proc/self/gid_map", f"{gid} {gid} 1")
        except OSError as error:
            raise Forbidden(f"no mount namespace, and no user namespace: {error.strerror}") from None


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


def cover(files: list[list[str]]) -> None:
    """Mount the files over the host's, read-only. Forbidden.

    What the host has no file for cannot be there: a kernel's /proc and /sys take no new names.
    """
    stage = os.path.realpath(tempfile.gettempdir())
    try:
        _mount("none", "/", None, MS_REC | MS_PRIVATE)
        _mount("numa-service", stage, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755")
        for path in _fill(stage, files):
            if os.path.lexists(f"/{path}"):
                _bind(f"{stage}/{path}", f"/{path}")
        if os.path.isdir(COMPLETE):
            _bind(stage, COMPLETE)
        if _libc.umount2(os.fsencode(stage), MNT_DETACH):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), stage)
    except OSError as error:
        raise Forbidden(f"cannot mount on {error.filename}: {error.strerror}") from None


def _fill(stage: str, files: list[list[str]]) -> list[str]:
    """Write everything below the stage; what of it to mount: directories as a whole, other files singly."""
    for path in (*DIRECTORIES, COMPLETE.lstrip("/")):
        os.makedirs(f"{stage}/{path}", exist_ok=True)
    singles = list(HIDDEN)
    for path, _, target, text in [*([path, "", "", ""] for path in HIDDEN), *files]:
        place = f"{stage}/{path}"
        os.makedirs(os.path.dirname(place), exist_ok=True)
        if target:
            os.symlink(target, place)
        else:
            with open(place, "w", encoding="utf-8") as out:
                out.write(text)
            if path not in singles and not path.startswith(tuple(f"{folder}/" for folder in DIRECTORIES)):
                singles.append(path)
    return [*DIRECTORIES, *singles]


def main() -> NoReturn:
    """Exit status 1 without a namespace, 126 or 127 without a command; else the command's."""
    handed, command = int(sys.argv[1]), sys.argv[2:]
    with os.fdopen(handed, encoding="utf-8") as given:
        files = json.load(given)
    try:
        enter()
        cover(files)
    except Forbidden as error:
        print(f"numa-service: {error}\n{REMEDY}", file=sys.stderr)
        sys.exit(1)
    if os.path.isdir(f"{COMPLETE}/sys"):
        for key, value in HWLOC.items():
            os.environ.setdefault(key, value)
    # what Python ignores, commands expect
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        print(f"numa-service: {command[0]}: {error.strerror}", file=sys.stderr)
        sys.exit(NOT_FOUND if error.errno == errno.ENOENT else CANNOT_RUN)


if __name__ == "__main__":
    main()
