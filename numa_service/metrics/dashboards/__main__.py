"""Writes the dashboards and rules below deploy/: ``python -m numa_service.metrics.dashboards [DEPLOY]``."""

from __future__ import annotations

import sys
from pathlib import Path

from numa_service.metrics.dashboards import DASHBOARDS, as_json
from numa_service.metrics.node_exporter import node_exporter_rules


def files() -> dict[str, str]:
    """Path below deploy/ → text, for every file that is written."""
    written = {f"grafana/dashboards/{dashboard.file}": as_json(dashboard) for dashboard in DASHBOARDS}
    return written | {"prometheus/rules/node_exporter.yml": node_exporter_rules()}


def main() -> None:
    """Write every file."""
    deploy = Path(sys.argv[1] if len(sys.argv) > 1 else "deploy")
    for name, text in files().items():
        (deploy / name).parent.mkdir(parents=True, exist_ok=True)
        (deploy / name).write_text(text, encoding="utf-8")
        print(deploy / name)


if __name__ == "__main__":
    main()
