"""What outlives an actor: small values in the GCS's key-value store, one writer each, or all alike.

An actor that Ray restarts runs its constructor again and remembers nothing; which incarnation of its node it
is, which sysctls have been written, and where clients expect the machine to answer, it finds here.
"""

from __future__ import annotations

import json
import time

from ray.experimental import internal_kv

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


def sysctls(machine: str) -> dict[str, str]:
    """What was written into sysctls while the machine ran, by key."""
    prefix = f"{machine}/sysctl/"
    found = internal_kv._internal_kv_list(prefix, namespace=_NAMESPACE)
    keys = sorted(key.decode().removeprefix(prefix) for key in found)
    values = {key: internal_kv._internal_kv_get(prefix + key, namespace=_NAMESPACE) for key in keys}
    return {key: value.decode() for key, value in values.items() if value is not None}


def remember_sysctl(machine: str, key: str, value: str) -> None:
    """Note what every node is to have, those too that are away; each that is written to notes it."""
    internal_kv._internal_kv_put(
        f"{machine}/sysctl/{key}", value.encode(), overwrite=True, namespace=_NAMESPACE
    )


def forget(machine: str) -> None:
    """Remove everything about a machine that is gone."""
    for key in internal_kv._internal_kv_list(f"{machine}/", namespace=_NAMESPACE):
        internal_kv._internal_kv_del(key, namespace=_NAMESPACE)


def _get(machine: str, key: str) -> int:
    return int(internal_kv._internal_kv_get(f"{machine}/{key}", namespace=_NAMESPACE) or 0)


def _put(machine: str, key: str, value: int | str) -> None:
    internal_kv._internal_kv_put(f"{machine}/{key}", str(value), overwrite=True, namespace=_NAMESPACE)
