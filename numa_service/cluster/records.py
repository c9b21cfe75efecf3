"""Records that outlive Ray: a file for each machine in the state directory, from `up` until `down`.

From its record `status` learns of a machine whose Ray has died. Only machines on the local Ray have a record:
a machine on another cluster can be taken down from another host.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from numa_service.cluster import local
from numa_service.cluster.errors import ClusterError
from numa_service.cluster.running import RunningMachine


@dataclass(frozen=True, slots=True)
class Record:
    """A machine that was brought up and not taken down. Times are in seconds since the epoch."""

    name: str
    profile: str
    nodes: int
    #: host:port of MachineService.
    address: str
    up_since: float
    #: The Ray that it is on: LocalRay.pid and LocalRay.start_ticks.
    ray: tuple[int, int]
    #: When that Ray ended, as far as its files show; None while it runs.
    ended: float | None = None
    #: Why that Ray ended.
    cause: str = ""
    #: Directory of that Ray's logs; empty once the next `up` or `down` has removed them.
    logs: str = ""


def write(running: RunningMachine, ray: local.LocalRay) -> None:
    """Write the record of a machine that has come up."""
    info, of_ray = running.info, (ray.pid, ray.start_ticks)
    _write(Record(info.name, info.profile, len(info.nodes), running.address, time.time(), of_ray))


def forget(name: str) -> None:
    """Remove the record of a machine."""
    _file(name).unlink(missing_ok=True)


def ended() -> list[Record]:
    """The records of machines whose Ray has ended, in name order.

    When and why it ended is derived from Ray's files and saved in the record, as those files may go.
    """
    found = []
    last = local.last()
    for path in sorted(local.state_dir().glob("machine-*.json")):
        try:
            record = _read(path)
        except FileNotFoundError:  # another process took it down meanwhile
            continue
        of_last = last if last and (last.pid, last.start_ticks) == record.ray else None
        if record.ended is None:
            if of_last and of_last.serves:
                continue
            when, cause = of_last.end() if of_last else (time.time(), "its Ray is gone, and its files")
            record = replace(record, ended=when, cause=cause)
            _write(record)
        found.append(replace(record, logs=str(of_last.logs) if of_last else ""))
    return found


def _file(name: str) -> Path:
    return local.state_dir() / f"machine-{name}.json"


def _read(path: Path) -> Record:
    try:
        plain = json.loads(path.read_text())
        return Record(**{**plain, "ray": tuple(plain["ray"])})
    except (ValueError, TypeError, KeyError) as error:
        raise ClusterError(f"{path} is damaged ({error}): remove it") from None


def _write(record: Record) -> None:
    new = _file(record.name).with_suffix(".new")
    with local.open_private(new) as file:
        file.write(json.dumps(asdict(record), indent=1) + "\n")
    new.replace(_file(record.name))
