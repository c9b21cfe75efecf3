"""What is told of a machine and its nodes: plain data, since every process of a machine imports it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """One node, as clients are told of it."""

    nid: int
    cpus: tuple[int, ...]
    managed_pages: int
    #: host:port of its gRPC server; empty while it restarts.
    address: str
    metrics_url: str
    incarnation: int
    #: Nodes in the order in which this one falls back, itself included.
    fallback_order: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class MachineInfo:
    """The machine now."""

    name: str
    profile: str
    nodes: tuple[NodeInfo, ...]
    #: distances[i][j]: SLIT distance from the i-th to the j-th node listed.
    distances: tuple[tuple[int, ...], ...]
