"""The local Ray: a Ray cluster of this host on the loopback interface, for machines without an --address.

It is started with the first machine and ends with the last one. By itself ``ray start`` binds to the host's
external address, and connects to it even when told 127.0.0.1 (``resolve_ip_for_localhost``).
RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0, meant for other platforms, makes it stay on the loopback interface on
Linux too; it must be set in every process of the cluster and in every driver.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

import psutil

from numa_service.cluster.errors import ClusterError

START_TIMEOUT = 90.0
STOP_TIMEOUT = 10.0
#: Longest path of Ray's temp dir. Its sockets are <temp dir>/session_<time>_<pid>/sockets/plasma_store, and
#: the path of a socket has at most 107 bytes.
MAX_TEMP_DIR = 107 - len("/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store")
#: Size of Ray's object store: the smallest that Ray accepts, as nodes talk over gRPC and do not use it.
OBJECT_STORE_BYTES = 80 << 20

#: A log file is rotated when it exceeds LOG_BYTES, and LOG_BACKUPS older files of it are kept.
LOG_BYTES = 8 << 20
LOG_BACKUPS = 2


@dataclass(frozen=True, slots=True)
class LocalRay:
    """A Ray cluster of this host that :func:`start` has started."""

    #: Pid of ``ray start --block``, which leads a Unix session with all of the cluster's processes.
    pid: int
    #: When that process started, to tell it from a later one with the same pid: in clock ticks since the
    #: host's boot, which setting the clock does not change.
    start_ticks: int
    #: host:port of the GCS.
    address: str
    temp_dir: str
    token_path: str

    @property
    def env(self) -> dict[str, str]:
        """Environment variables for every process that belongs to the cluster or connects to it."""
        return {
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": self.token_path,
            "RAY_USAGE_STATS_ENABLED": "0",
        }

    @property
    def alive(self) -> bool:
        """Whether the cluster's leading process runs."""
        return _stat(self.pid) == (self.start_ticks, True)

    @property
    def serves(self) -> bool:
        """Whether it has a raylet, too: Ray's leading process stays when its raylet has ended by itself.

        A raylet does so when its agent has died.
        """
        if not self.alive:
            return False
        with suppress(psutil.NoSuchProcess):
            return any(child.name() == "raylet" for child in _living(psutil.Process(self.pid).children()))
        return False

    def processes(self) -> list[psutil.Process]:
        """Every living process of the cluster's Unix session."""
        head = _stat(self.pid)
        if head and head[0] != self.start_ticks:
            return []  # the pid was reused, which cannot happen while the session has a process left
        return [p for p in psutil.process_iter() if _in_session(p.pid, self.pid, self.start_ticks)]

    @property
    def logs(self) -> Path:
        """The directory with the log files of the cluster's processes."""
        return Path(self.temp_dir) / "session_latest" / "logs"

    def end(self) -> tuple[float, str]:
        """When a cluster that serves no more ended, in seconds since the epoch, and why."""
        exits = self.logs / "ray_process_exit.log"
        with suppress(OSError):
            if text := exits.read_text(errors="replace").strip():
                # a heading, then a line for each: "raylet [exit code=-9 (signal 9)]"
                first = [line.strip() for line in text.splitlines()[1:] if line.startswith(" ")]
                return exits.stat().st_mtime, f"its Ray lost {', '.join(first) or 'a process'}"
        if self.alive:
            raylet = [path.stat().st_mtime for path in self.logs.glob("raylet.*") if path.is_file()]
            return max(raylet, default=time.time()), f"the raylet of its Ray ({self.pid}) has ended by itself"
        times = [path.stat().st_mtime for path in self.logs.glob("*") if path.is_file()]
        cause = f"its Ray ({self.pid}) was killed, or the host went down"
        if left := self.processes():
            cause = f"its Ray ({self.pid}) was killed, {len(left)} processes of it are left"
        return max(times, default=time.time()), cause


def _living(processes: list[psutil.Process]) -> Iterator[psutil.Process]:
    """Those that are no zombies."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                yield process


def _stat(pid: int) -> tuple[int, bool] | None:
    """When a process was started, in clock ticks since the host's boot, and whether it runs (is no zombie).

    None if there is no such process. See proc_pid_stat(5).
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(fields[19]), fields[0] not in "ZX"


def _in_session(pid: int, sid: int, since: int) -> bool:
    try:
        found = _stat(pid) if os.getsid(pid) == sid else None
    except ProcessLookupError:
        return False
    return found is not None and found[0] >= since and found[1]


def state_dir() -> Path:
    """The state directory: NUMA_SERVICE_STATE_DIR, or numa-service in XDG_STATE_HOME.

    It is created if absent, with mode 0700: only this keeps other users out of Ray's own directories below
    it, which have mode 0777. ClusterError if it belongs to another user, or if it has files and others may
    enter it; an empty one gets mode 0700.
    """
    named = os.environ.get("NUMA_SERVICE_STATE_DIR")
    base = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    path = (Path(named) if named else base / "numa-service").absolute()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.stat()
        if found.st_uid != os.geteuid():
            raise ClusterError(
                f"state directory {path} belongs to user {found.st_uid}: name one of your own in "
                "NUMA_SERVICE_STATE_DIR"
            )
        if found.st_mode & 0o077:
            if any(path.iterdir()):
                raise ClusterError(
                    f"state directory {path} is open to other users (mode {found.st_mode & 0o7777:04o}): "
                    f"chmod 700 {path}, or name another in NUMA_SERVICE_STATE_DIR"
                )
            path.chmod(0o700)
    except OSError as error:
        raise ClusterError(f"state directory {path}: {error.strerror}") from None
    return path


def open_private(path: Path) -> TextIO:
    """Open a new file with mode 0600 in place of what is at `path`. A link is replaced, not followed."""
    path.unlink(missing_ok=True)
    return open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_WRONLY, 0o600), "w")


def find() -> LocalRay | None:
    """The local Ray of this state directory, or None if it does not run."""
    ray = last()
    return ray if ray and ray.serves else None


def start() -> LocalRay:
    """Start the local Ray unless it runs. ClusterError when it does not come up."""
    with _locked():
        ray = last()
        if ray and ray.serves:
            return ray
        if ray:
            _clean_up(ray)
        return _start()


def stop() -> bool:
    """End every process of the local Ray, and remove its files; False if there was no Ray.

    ClusterError if a process survives.
    """
    with _locked():
        ray = last()
        if ray is None:
            return False
        _clean_up(ray)
        return True


def _state_file() -> Path:
    return state_dir() / "ray.json"


def last() -> LocalRay | None:
    """The Ray that was started here last and not stopped, whether it still runs or has died.

    ClusterError if the file about it is damaged.
    """
    try:
        return LocalRay(**json.loads(_state_file().read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as e:
        raise ClusterError(
            f"{_state_file()} is damaged ({e}): end that Ray by hand and remove the file"
        ) from None


def _write(ray: LocalRay) -> None:
    new = _state_file().with_suffix(".new")
    with open_private(new) as file:
        file.write(json.dumps(asdict(ray), indent=1) + "\n")
    new.replace(_state_file())


@contextmanager
def _locked() -> Iterator[None]:
    """Hold the lock with which one command at a time starts or stops the local Ray."""
    path = state_dir() / "lock"
    try:
        lock = os.open(path, os.O_CREAT | os.O_NOFOLLOW | os.O_RDWR, 0o600)
    except OSError as error:
        raise ClusterError(f"{path}: {error.strerror}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _start() -> LocalRay:
    # the parent directory keeps other users out: Ray sets its own directory to mode 0777 again and again
    temp_dir = state_dir() / "ray"
    if len(os.fsencode(temp_dir)) > MAX_TEMP_DIR:
        temp_dir = Path(tempfile.mkdtemp(prefix="numa-ray-", dir="/tmp")) / "ray"
    temp_dir.mkdir(mode=0o700, exist_ok=True)
    token_path = state_dir() / "token"
    with open_private(token_path) as token:
        token.write(secrets.token_hex(32))
    dashboard_metrics, ray_client = _free_ports(2)
    ray = LocalRay(0, 0, "", str(temp_dir), str(token_path))
    env = {
        **_without_ray(os.environ),
        **ray.env,
        "DASHBOARD_METRIC_PORT": str(dashboard_metrics),
        # log rotation, of Ray's processes and of ours
        "RAY_ROTATION_MAX_BYTES": str(LOG_BYTES),
        "RAY_ROTATION_BACKUP_COUNT": str(LOG_BACKUPS),
        # no need to drain at shutdown: machines are taken down before
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
    }
    # fmt: off
    command = [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block",
        "--node-ip-address=127.0.0.1", "--port=0", f"--temp-dir={temp_dir}",
        "--include-dashboard=false", "--include-log-monitor=false", "--no-monitor", "--disable-usage-stats",
        "--dashboard-agent-listen-port=0", f"--ray-client-server-port={ray_client}",
        "--min-worker-port=0", "--max-worker-port=0", f"--object-store-memory={OBJECT_STORE_BYTES}",
    ]
    # fmt: on
    log = temp_dir / "start.log"
    with log.open("wb") as output:
        head = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=env, start_new_session=True
        )
        start_ticks, _ = _stat(head.pid) or (0, False)
        ray = LocalRay(head.pid, start_ticks, "", str(temp_dir), str(token_path))
        _write(ray)
    try:
        ray = LocalRay(ray.pid, ray.start_ticks, _address(head, temp_dir, log), ray.temp_dir, ray.token_path)
    except BaseException:
        _clean_up(ray)
        raise
    _write(ray)
    return ray


def _address(head: subprocess.Popen[bytes], temp_dir: Path, log: Path) -> str:
    """Wait until Ray is up; returns its address, which is the last thing that it writes to its files."""
    written = temp_dir / "ray_current_cluster"
    deadline = time.monotonic() + START_TIMEOUT
    while not (written.exists() and written.read_text()):
        if head.poll() is not None:
            raise ClusterError(f"Ray did not start: {_reason(log)}")
        if time.monotonic() > deadline:
            raise ClusterError(f"Ray did not start within {START_TIMEOUT:.0f} s: {_reason(log)}")
        time.sleep(0.05)
    return written.read_text().strip()


def _reason(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"


def _without_ray(env: Mapping[str, str]) -> dict[str, str]:
    """The environment without RAY_ADDRESS, which would point Ray to another cluster."""
    return {key: value for key, value in env.items() if key != "RAY_ADDRESS"}


def _free_ports(count: int) -> list[int]:
    """So many different free ports of the loopback interface."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [int(s.getsockname()[1]) for s in sockets]


def _clean_up(ray: LocalRay) -> None:
    """End the processes that are left of a cluster, and remove its files. ClusterError if one survives."""
    if ray.alive:
        psutil.Process(ray.pid).terminate()
    deadline = time.monotonic() + STOP_TIMEOUT
    while left := ray.processes():
        if time.monotonic() > deadline + STOP_TIMEOUT:
            raise ClusterError(f"Ray does not end: processes {', '.join(str(p.pid) for p in left)} are left")
        if time.monotonic() > deadline or not ray.alive:
            for process in left:
                _kill(process)
        psutil.wait_procs(left, timeout=0.2)
    shutil.rmtree(ray.temp_dir, ignore_errors=True)
    # The parent is the state directory, which is not empty and stays, or a directory made in /tmp because the
    # state directory's path was too long.
    with suppress(OSError):
        Path(ray.temp_dir).parent.rmdir()
    Path(ray.token_path).unlink(missing_ok=True)
    _state_file().unlink(missing_ok=True)


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return
