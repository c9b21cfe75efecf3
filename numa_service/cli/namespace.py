"""Runs a command in a mount namespace where files of the emulated machine cover those of /proc and /sys.

This is a program of its own that uses the standard library only: ``python -m numa_service.cli.namespace FD
SOCKET CMD...``. The open file FD has the files as a JSON list of [path, mode, target, text, content], where
`content` is the descriptor of a file that is read by offset, or -1. Where SOCKET is not ``-``, the command's
calls are handed to whoever is at the other end of it (``calls/seccomp.py``). In the end the process executes
the command. The files are in a tmpfs that ends with the namespace. A few files, such as /proc/stat, are
rendered from the host's file with the machine's CPUs and nodes; as their counters go on, a process beside the
command keeps them up to date, and ends with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, NoReturn

# constants of linux/sched.h and sys/mount.h
CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MNT_DETACH = 2

#: Directories that are covered as a whole; one that the machine does not have is covered by an empty one.
DIRECTORIES = (
    "sys/devices/system/node",
    "sys/devices/system/cpu",
    "sys/devices/system/memory",
    "sys/kernel/slab",
    "proc/sys/vm",
)
#: Directories of the host that are made read-only, as a write there would change the host.
READ_ONLY = ("/sys/kernel/mm", "/proc/irq")
#: Text of /proc/pressure/memory when no task ever had to wait (``psi_show``).
NO_PRESSURE = "".join(f"{who} avg10=0.00 avg60=0.00 avg300=0.00 total=0\n" for who in ("some", "full"))
#: Files that are not covered: the start times of the host's processes in /proc refer to the host's uptime.
HOSTS = ("proc/uptime",)
#: Files of the machine's tasks; where the host's own /proc is while it has those, and where theirs is made.
TASKS = re.compile("proc/[0-9]+/")
HOST, PROC = ".host", ".proc"

#: Directory with all of the machine's files, including those for which the host has no name to cover.
COMPLETE = "/sys/devices/system/cpu/numa-service"
#: Environment that has hwloc read these files only; else it also asks for CPUID, its affinity and its cgroup.
HWLOC = {"HWLOC_FSROOT": COMPLETE, "HWLOC_COMPONENTS": "linux,stop", "HWLOC_THISSYSTEM": "0"}

#: Exit statuses that shells have for a command that cannot be executed, and for one that does not exist.
CANNOT_RUN, NOT_FOUND = 126, 127

REMEDY = """\
Run it as root (in a container: with CAP_SYS_ADMIN, and no seccomp or AppArmor profile against mount), or
allow user namespaces (sysctl user.max_user_namespaces and user.max_mnt_namespaces; where there is one,
kernel.unprivileged_userns_clone=1 or kernel.apparmor_restrict_unprivileged_userns=0), or do without:
numa-service mirror DIR, and a tool that can be told where to look."""

#: Columns of a CPU in /proc/stat.
IDLE, IOWAIT = 3, 4
#: Interval in seconds at which files with counters are rendered again.
TICK = 0.1

_libc = ctypes.CDLL(None, use_errno=True)


#: [path, mode, target, text, content] of a file.
Row = list[Any]


class Forbidden(Exception):
    """The namespace, or a mount in it, is not permitted."""


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
    """Bind-mount a file or directory, with the mounts below it, read-only on another one."""
    _mount(source, target, None, MS_BIND | MS_REC)
    # in a user namespace the restrictions of the host's mount must be kept; ST_ and MS_ flags have equal
    # values
    kept = os.statvfs(target).f_flag & (MS_NOSUID | MS_NODEV | MS_NOEXEC)
    _mount("none", target, None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | kept)


def enter() -> None:
    """Enter a new mount namespace, and a new user namespace if that needs one. Forbidden if neither works."""
    try:
        _unshare(CLONE_NEWNS)
    except OSError as error:
        if error.errno != errno.EPERM:
            raise Forbidden(f"no mount namespace: {error.strerror}") from None
        uid, gid = os.getuid(), os.getgid()
        try:
            _unshare(CLONE_NEWUSER | CLONE_NEWNS)
            # uid and gid stay the same; the right to mount is lost when the command is executed
            _write("/proc/self/setgroups", "deny")
            _write("/proc/self/uid_map", f"{uid} {uid} 1")
            _write("/proc/self/gid_map", f"{gid} {gid} 1")
        except OSError as error:
            raise Forbidden(f"no mount namespace, and no user namespace: {error.strerror}") from None


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


class Live(NamedTuple):
    """A file that is rendered again and again from the host's file of the same path."""

    path: str
    #: File descriptors of the host's file, opened before it was covered, and of the file that covers it.
    source: int
    cover: int
    render: Callable[[str], str]

    def refresh(self) -> str:
        """Render the file again; returns the host's text. ProcessLookupError if its process has ended."""
        text = b"".join(iter(_reader(self.source), b"")).decode()
        made = self.render(text).encode()
        os.pwrite(self.cover, made, 0)
        os.ftruncate(self.cover, len(made))
        return text


def _reader(source: int) -> Callable[[], bytes]:
    os.lseek(source, 0, os.SEEK_SET)
    return lambda: os.read(source, 1 << 16)


def cover(files: list[Row]) -> list[Live]:
    """Mount the files read-only over the host's; returns those that must be kept up to date. Forbidden.

    A file that the host does not have is missing, as /proc and /sys take no new names; COMPLETE has it.
    """
    stage = os.path.realpath(tempfile.gettempdir())
    try:
        lives = [(path, _open(f"/{path}"), render) for path, render in _live(files)]
        _mount("none", "/", None, MS_REC | MS_PRIVATE)
        for path in filter(os.path.exists, READ_ONLY):
            _bind(path, path)
        _mount("numa-service", stage, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755")
        paths = _fill(stage, files)
        covers = [Live(path, source, _create(f"{stage}/{path}"), render) for path, source, render in lives]
        for live in covers:
            live.refresh()
        if any(TASKS.match(path) for path, *_ in files):
            _replace_proc(stage)
        for path in dict.fromkeys([*paths, *(live.path for live in covers)]):
            if os.path.lexists(f"/{path}"):
                _bind(f"{stage}/{path}", f"/{path}")
        if os.path.isdir(COMPLETE):
            _bind(stage, COMPLETE)
        if _libc.umount2(os.fsencode(stage), MNT_DETACH):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), stage)
    except OSError as error:
        raise Forbidden(f"cannot mount on {error.filename}: {error.strerror}") from None
    return covers


def _replace_proc(stage: str) -> None:
    """Let /proc have the machine's tasks in place of the host's processes.

    It takes no new names: so what it has is seen through links into a place below. Of processes there is this
    one, as tools look themselves up by their number; children of it are only in the place below.
    """
    names = [name for name in os.listdir("/proc") if not name.isdigit()]
    os.makedirs(f"{stage}/proc/{HOST}")
    _mount("/proc", f"{stage}/proc/{HOST}", None, MS_BIND | MS_REC)
    os.makedirs(f"{stage}/{PROC}/{HOST}")
    for name in [*names, str(os.getpid())]:
        os.symlink(f"{HOST}/{name}", f"{stage}/{PROC}/{name}")
    for name in filter(str.isdigit, os.listdir(f"{stage}/proc")):
        if not os.path.lexists(f"{stage}/{PROC}/{name}"):
            os.rename(f"{stage}/proc/{name}", f"{stage}/{PROC}/{name}")
    _mount(f"{stage}/proc/{HOST}", f"{stage}/{PROC}/{HOST}", None, MS_BIND | MS_REC)
    _bind(f"{stage}/{PROC}", "/proc")


def _open(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def _create(path: str) -> int:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o444)


def _fill(stage: str, files: list[Row]) -> list[str]:
    """Write all files below `stage`; returns the paths to mount: DIRECTORIES, and all files outside them."""
    for path in (*DIRECTORIES, COMPLETE.lstrip("/")):
        os.makedirs(f"{stage}/{path}", exist_ok=True)
    singles: list[str] = []
    os.makedirs(f"{stage}/proc", exist_ok=True)
    for path, _, target, text, content in [["proc/pressure/memory", "", "", NO_PRESSURE, -1], *files]:
        place = f"{stage}/{path}"
        os.makedirs(os.path.dirname(place), exist_ok=True)
        if target:
            os.symlink(target, place)
            continue
        if content >= 0:
            copy_sparse(content, place)
        else:
            with open(place, "w", encoding="utf-8") as out:
                out.write(text)
        alone = path in HOSTS or TASKS.match(path)
        if not alone and not path.startswith(tuple(f"{folder}/" for folder in DIRECTORIES)):
            singles.append(path)
    return [*DIRECTORIES, *singles]


def copy_sparse(content: int, place: str) -> None:
    """Copy a file to a new place, without what is 0 in it; its descriptor is closed."""
    with os.fdopen(content, "rb") as source, open(place, "wb") as copy:
        end, at = os.fstat(content).st_size, 0
        os.ftruncate(copy.fileno(), end)
        while at < end:
            try:
                at = os.lseek(content, at, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                return  # there is none behind
            stop = os.lseek(content, at, os.SEEK_HOLE)
            while at < stop:
                data = os.pread(source.fileno(), min(stop - at, 1 << 20), at)
                os.pwrite(copy.fileno(), data, at)
                at += len(data)


# files whose counters go on while the command runs


def _live(files: list[Row]) -> list[tuple[str, Callable[[str], str]]]:
    """(path, render) of the host's files that are shown with the machine's CPUs and nodes.

    Empty if `files` are not those of a whole machine.
    """
    texts = {path: text for path, _, _, text, _ in files}
    cpus, nodes = _cpulist(files), texts.get("sys/devices/system/node/has_memory", "0").strip()
    if not cpus or "proc/stat" not in texts:
        return []
    times, numbers = _times(texts["proc/stat"]), _numbers(cpus)
    found: list[tuple[str, Callable[[str], str]]] = [
        (f"proc/{os.getpid()}/status", lambda text: _status(text, cpus, nodes)),
        ("proc/stat", lambda text: _stat(text, times)),
        ("proc/interrupts", lambda text: _counts(text, numbers)),
        ("proc/softirqs", lambda text: _counts(text, numbers)),
    ]
    return [(path, render) for path, render in found if os.access(f"/{path}", os.R_OK)]


def _cpulist(files: list[Row]) -> str:
    return next(
        (text.strip() for path, _, _, text, _ in files if path == "sys/devices/system/cpu/online"), ""
    )


def _numbers(text: str) -> list[int]:
    """Parse a list of numbers as the kernel prints it: 0-3,8."""
    ends = [part.partition("-") for part in text.split(",")]
    return [number for first, _, last in ends for number in range(int(first), int(last or first) + 1)]


def _mask(numbers: list[int], digits: int) -> str:
    """Format a bitmap as the kernel prints it: hexadecimal, with a comma between words of 32 bits."""
    text = f"{sum(1 << number for number in numbers):0{digits}x}"
    first = len(text) % 8 or 8
    return ",".join([text[:first], *(text[at : at + 8] for at in range(first, len(text), 8))])


def _status(text: str, cpus: str, nodes: str) -> str:
    """Render /proc/PID/status: the process may use every CPU and every node of the machine."""
    lines = dict(line.partition(":\t")[::2] for line in text.splitlines())
    # as wide as the host's, as libnuma takes the size of nodemasks in system calls from this line
    mems_digits = sum(digit != "," for digit in lines.get("Mems_allowed", ""))
    shown = {
        "Cpus_allowed": _mask(_numbers(cpus), -(-(_numbers(cpus)[-1] + 1) // 4)),
        "Cpus_allowed_list": cpus,
        "Mems_allowed": _mask(_numbers(nodes), mems_digits),
        "Mems_allowed_list": nodes,
    }
    return "".join(f"{name}:\t{shown.get(name, value)}\n" for name, value in lines.items())


def _times(text: str) -> dict[int, list[int]]:
    """CPU → columns of its ``cpuN`` line in /proc/stat, in the file's order."""
    rows = (line.split() for line in text.splitlines())
    return {int(row[0][3:]): [int(word) for word in row[1:]] for row in rows if row and row[0][3:].isdigit()}


def _stat(text: str, machine: dict[int, list[int]]) -> str:
    """Render /proc/stat with the machine's CPUs: their own work so far, and the times of the host's CPUs.

    The host's times are included because the processes in /proc are the host's. Each CPU of the machine has
    the times of the host's CPU of that number; if the host has more CPUs, the mean of several; if it has
    fewer, the remaining CPUs are idle.
    """
    host = list(_times(text).values())
    rows: dict[int, list[int]] = {}
    for at, (cpu, own) in enumerate(machine.items()):
        same = host[at :: len(machine)]
        if same:
            times = [sum(column) // len(same) for column in zip(*same, strict=True)]
        else:
            times = [0] * len(host[0])
            times[IDLE] = max(map(sum, host))
        work = [0 if column in (IDLE, IOWAIT) else ticks for column, ticks in enumerate(own)]
        times = [ticks + more for ticks, more in zip(times, work, strict=False)]
        times[IDLE] = max(0, times[IDLE] - sum(work))
        rows[cpu] = times
    lines = [f"cpu  {_words(map(sum, zip(*rows.values(), strict=True)))}"]
    lines += [f"cpu{cpu} {_words(times)}" for cpu, times in rows.items()]
    lines += [line for line in text.splitlines() if not line.startswith("cpu")]
    return "".join(f"{line}\n" for line in lines)


def _words(numbers: Iterable[int]) -> str:
    return " ".join(map(str, numbers))


def _counts(text: str, cpus: list[int]) -> str:
    """Render /proc/interrupts or /proc/softirqs: a column for each of the machine's CPUs, as in _stat()."""
    head, *rows = text.splitlines()
    width = len(head.split())
    lines = [head[: head.find("CPU")] + "".join(f"CPU{cpu:<8}" for cpu in cpus)]
    for row in rows:
        label, _, rest = row.partition(":")
        words = rest.split(maxsplit=width)
        counts = [int(word) for word in words[:width] if word.isdigit()]
        if len(counts) < width:  # ERR and MIS have one count for all CPUs
            lines.append(row)
            continue
        sums = (sum(counts[at :: len(cpus)]) for at in range(len(cpus)))
        lines.append(
            f"{label}:{''.join(f' {count:>10}' for count in sums)} {''.join(words[width:])}".rstrip()
        )
    return "".join(f"{line}\n" for line in lines)


def accompany(lives: list[Live]) -> None:
    """Start a process beside this one that keeps the files up to date until this one ends."""
    try:
        child = os.fork()
    except OSError:
        return  # without that process the counters stand still
    if child:
        os.waitpid(child, 0)
        return
    try:
        os.setsid()
        if os.fork():
            return
        null = os.open(os.devnull, os.O_RDWR)
        kept = {fd for live in lives for fd in (live.source, live.cover)}
        for fd in [int(name) for name in os.listdir("/proc/self/fd")]:
            if fd not in kept and fd != null:
                with contextlib.suppress(OSError):  # listdir()'s own descriptor is closed already
                    os.close(fd)
        for fd in range(3):
            os.dup2(null, fd)
        os.chdir("/")
        while True:
            began = time.monotonic()
            status, *_ = [live.refresh() for live in lives]
            if "\nState:\tZ" in status:
                return
            # rendering takes at most a twentieth of a CPU: it is slow on a host with many CPUs
            time.sleep(max(TICK, 20 * (time.monotonic() - began)))
    finally:
        os._exit(0)


def main() -> NoReturn:
    """Run the command. Exit status 1 without a namespace, 126 or 127 if the command cannot be executed."""
    handed, answers, command = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
    with os.fdopen(handed, encoding="utf-8") as given:
        files = json.load(given)
    try:
        enter()
        lives = cover(files)
    except Forbidden as error:
        print(f"numa-service: {error}\n{REMEDY}", file=sys.stderr)
        sys.exit(1)
    if os.path.isdir(f"{COMPLETE}/sys"):
        for key, value in HWLOC.items():
            os.environ.setdefault(key, value)
    if _cpulist(files):
        # nproc prints this variable if it is set, and else asks the host's kernel
        os.environ.setdefault("OMP_NUM_THREADS", str(len(_numbers(_cpulist(files)))))
    if lives:
        accompany(lives)
    # Python ignores these signals; commands expect their default actions
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    if answers != "-":
        # only here, so that this program runs alone without it
        from numa_service.calls import seccomp

        try:
            seccomp.hand_over(seccomp.install(), int(answers))
        except seccomp.Unsupported as error:
            print(f"numa-service: {error}; without --calls, the host answers", file=sys.stderr)
            sys.exit(1)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        print(f"numa-service: {command[0]}: {error.strerror}", file=sys.stderr)
        sys.exit(NOT_FOUND if error.errno == errno.ENOENT else CANNOT_RUN)


if __name__ == "__main__":
    main()
