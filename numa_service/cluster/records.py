"""What outlives Ray: a file a machine in the state directory, from `up` until `down`.

A machine whose Ray has died cannot say so itself; its record does. Only machines of this host's own Ray have
one: on a cluster that is named, others may take them down.
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
    #: Which Ray it is on: LocalRay.pid and start_ticks.
    ray: tuple[int, int]
    #: When that Ray was last seen to do something; None while it runs.
    ended: float | None = None
    #: What of it ended first.
    cause: str = ""
    #: Where its logs are; empty when they are gone, with the next `up` or `down`.
    logs: str = ""


def write(running: RunningMachine, ray: local.LocalRay) -> None:
    """Note a machine that has come up."""
    info, of_ray = running.info, (ray.pid, ray.start_ticks)
    _write(Record(info.name, info.profile, len(info.nodes), running.address, time.time(), of_ray))


def forget(name: str) -> None:
    """Nobody expects that machine any more."""
    _file(name).unlink(missing_ok=True)


def ended() -> list[Record]:
    """The machines whose Ray has ended, in name order; when and how is noted while its files are there."""
    found = []
    last = local.last()
    for path in sorted(local.state_dir().glob("machine-*.json")):
        try:
            record = _read(path)
        except FileNotFoundError:  # taken down this moment
            continue
        of_last = last if last and (last.pid, last.start_ticks) == record.ray else None
        if record.ended is None:
            if of_last and of_last.alive:
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
