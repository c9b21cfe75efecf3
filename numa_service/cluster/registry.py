"""Values that outlive an actor: small ones, in the key-value store of Ray's GCS, each with one writer.

An actor that Ray restarts runs its constructor again and has lost its state. Here it finds the lineage of its
node, the machine's record, and the ports at which clients expect the machine.
"""

from __future__ import annotations

import json
import time

from ray.experimental import internal_kv

from numa_service.machine.record import MachineRecord

_NAMESPACE = b"numa-service"
#: How many of a node's newest start times are kept.
_STARTS_KEPT = 16


def next_lineage(machine: str, nid: int) -> int:
    """The lineage of a node that boots now: 1 the first time, then one more each time. Notes the time."""
    lineage = _get(machine, f"lineage/{nid}") + 1
    _put(machine, f"lineage/{nid}", lineage)
    _put(machine, f"starts/{nid}", json.dumps([*starts(machine, nid), time.time()][-_STARTS_KEPT:]))
    return lineage


def starts(machine: str, nid: int) -> list[float]:
    """When a node was started, in seconds since the epoch by its host's clock, the newest last."""
    known = internal_kv._internal_kv_get(f"{machine}/starts/{nid}", namespace=_NAMESPACE)
    return [float(when) for when in json.loads(known)] if known else []


def port(machine: str, service: str) -> int:
    """The port that a service of the machine last had; 0 if it had none."""
    return _get(machine, f"port/{service}")


def remember_port(machine: str, service: str, port: int) -> None:
    """Store the port of a service of the machine, so that the service gets it again after a restart."""
    _put(machine, f"port/{service}", port)


def record(machine: str) -> MachineRecord:
    """The machine's record as it was stored last; an empty one if it never was."""
    packed = internal_kv._internal_kv_get(f"{machine}/record", namespace=_NAMESPACE)
    return MachineRecord.unpack(packed) if packed else MachineRecord()


def keep_record(machine: str, record: MachineRecord) -> None:
    """Store the machine's record. Only the supervisor does."""
    internal_kv._internal_kv_put(f"{machine}/record", record.pack(), overwrite=True, namespace=_NAMESPACE)


def forget(machine: str) -> None:
    """Remove everything about a machine that was taken down."""
    for key in internal_kv._internal_kv_list(f"{machine}/", namespace=_NAMESPACE):
        internal_kv._internal_kv_del(key, namespace=_NAMESPACE)


def _get(machine: str, key: str) -> int:
    return int(internal_kv._internal_kv_get(f"{machine}/{key}", namespace=_NAMESPACE) or 0)


def _put(machine: str, key: str, value: int | str) -> None:
    internal_kv._internal_kv_put(f"{machine}/{key}", str(value), overwrite=True, namespace=_NAMESPACE)
