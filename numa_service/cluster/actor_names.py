"""Names of a machine's Ray actors: ``<machine>/node-0``, ``<machine>/kswapd-0`` and ``<machine>/machine``.

The last one is the supervisor. All are in one Ray namespace.
"""

from __future__ import annotations

import re

from numa_service.cluster.errors import ClusterError

NAMESPACE = "numa-service"

_MACHINE = re.compile(r"[a-z0-9-]{1,40}")
_SUPERVISOR = "/machine"


def check_machine_name(name: str) -> None:
    """Raise ClusterError if `name` is not a valid name of a machine."""
    if not _MACHINE.fullmatch(name):
        raise ClusterError(f"machine name {name!r}: 1 to 40 characters of a-z, 0-9 and - are allowed")


def supervisor_name(machine: str) -> str:
    """Name of the actor that is a machine's supervisor."""
    return machine + _SUPERVISOR


def node_name(machine: str, nid: int) -> str:
    """Name of the actor that is a node."""
    return f"{machine}/node-{nid}"


def kswapd_name(machine: str, nid: int) -> str:
    """Name of the actor that is a node's kswapd."""
    return f"{machine}/kswapd-{nid}"


def machines_among(actors: list[str]) -> list[str]:
    """The names of the machines that these actors belong to, sorted."""
    return sorted({actor.partition("/")[0] for actor in actors if "/" in actor})
