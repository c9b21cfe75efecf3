"""What outlives an actor: small values in the GCS's key-value store, each with one writer.

An actor that Ray restarts runs its constructor again and remembers nothing; which incarnation of its node it
is, what all nodes have in common, and where clients expect the machine to answer, it finds here.
"""

from __future__ import annotations

import json
import time

from ray.experimental import internal_kv

from numa_service.machine.record import MachineRecord

_NAMESPACE = b"numa-service"
#: Of a node, the newest.
_STARTS_KEPT = 16


def next_incarnation(machine: str, nid: int) -> int:
    """Number of this start of a node: 1 at first, then one more each time. When it was is noted."""
    incarnation = _get(machine, f"incarnation/{nid}") + 1
    _put(machine, f"incarnation/{nid}", incarnation)
    _put(machine, f"starts/{nid}", json.dumps([*starts(machine, nid), time.time()][-_STARTS_KEPT:]))
    return incarnation


def starts(machine: str, nid: int) -> list[float]:
    """When a node was started, the newest last, in seconds since the epoch of its host."""
    known = internal_kv._internal_kv_get(f"{machine}/starts/{nid}", namespace=_NAMESPACE)
    return [float(when) for when in json.loads(known)] if known else []


def port(machine: str, service: str) -> int:
    """The port that a service of the machine had before; 0 if it is new."""
    return _get(machine, f"port/{service}")


def remember_port(machine: str, service: str, port: int) -> None:
    """Note where a service of the machine answers, so that it comes back there."""
    _put(machine, f"port/{service}", port)


def record(machine: str) -> MachineRecord:
    """What the nodes of the machine have in common, as it was kept last."""
    packed = internal_kv._internal_kv_get(f"{machine}/record", namespace=_NAMESPACE)
    return MachineRecord.unpack(packed) if packed else MachineRecord()


def keep_record(machine: str, record: MachineRecord) -> None:
    """Keep what the nodes have in common; the supervisor does, and nobody else."""
    internal_kv._internal_kv_put(f"{machine}/record", record.pack(), overwrite=True, namespace=_NAMESPACE)


def forget(machine: str) -> None:
    """Remove everything about a machine that is gone."""
    for key in internal_kv._internal_kv_list(f"{machine}/", namespace=_NAMESPACE):
        internal_kv._internal_kv_del(key, namespace=_NAMESPACE)


def _get(machine: str, key: str) -> int:
    return int(internal_kv._internal_kv_get(f"{machine}/{key}", namespace=_NAMESPACE) or 0)


def _put(machine: str, key: str, value: int | str) -> None:
    internal_kv._internal_kv_put(f"{machine}/{key}", str(value), overwrite=True, namespace=_NAMESPACE)
