"""Grafana dashboards as code: ``python -m numa_service.metrics.dashboards`` writes their JSON files."""

from numa_service.metrics.dashboards.load import LOAD
from numa_service.metrics.dashboards.machine import MACHINE
from numa_service.metrics.dashboards.model import Dashboard, as_json
from numa_service.metrics.dashboards.node import NODE
from numa_service.metrics.dashboards.service import SERVICE

DASHBOARDS: tuple[Dashboard, ...] = (MACHINE, NODE, SERVICE, LOAD)

__all__ = ["DASHBOARDS", "Dashboard", "as_json"]
